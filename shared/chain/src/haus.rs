//! The contracts of haus, and `TicketRefunded`, which is ours to define: haus has no refunds.

use std::{
    collections::{BTreeSet, HashSet},
    sync::LazyLock,
};

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{
    SolEvent, SolType,
    abi::{AbiDecoderConfig, decode_sequence},
    sol, sol_data,
};
use usher_domain::{EventMint, What};

use crate::reading::{Ignored, Reason};

/// The longest `metadataURI` taken, in bytes: room for a small `data:` URI.
pub const MAX_METADATA_URI_BYTES: usize = 8_192;
/// The longest `artCategory` taken, in bytes.
pub const MAX_ART_CATEGORY_BYTES: usize = 256;
/// The latest start taken, in seconds since 1970: the end of the year 9999. Later ones are nonsense that would
/// overflow somebody's calendar.
pub const LATEST_START_S: u64 = 253_402_300_799;

sol! {
    // EventFactory. The creator is whoever the caller named.
    event EventCreated(
        uint256 indexed eventId,
        address indexed creator,
        uint256 startDate,
        uint256 reservePrice,
        string metadataURI,
        string artCategory,
        address ticketKioskAddress
    );

    // TicketKiosk.
    event TicketMinted(
        uint256 indexed ticketId,
        address indexed buyer,
        string ticketName,
        string artCategory,
        uint256 price
    );
    event TicketRefunded(uint256 indexed ticketId, address indexed holder, uint256 amount);

    // ERC-721.
    event Transfer(address indexed from, address indexed to, uint256 indexed tokenId);
}

/// Logs of the haus contracts that say nothing about who belongs.
const UNRELATED: [&str; 20] = [
    // EventFactory and TicketKiosk: ERC-721, ERC-4906, Ownable.
    "Approval(address,address,uint256)",
    "ApprovalForAll(address,address,bool)",
    "MetadataUpdate(uint256)",
    "BatchMetadataUpdate(uint256,uint256)",
    "OwnershipTransferred(address,address)",
    // EventFactory.
    "MetadataUpdated(uint256,string)",
    "ReservePriceUpdated(uint256,uint256)",
    "EventFinalizedAndTransferred(uint256,address)",
    "EventFinalized(uint256)",
    "CurationDeployed(uint256,address,address,uint256)",
    // TicketKiosk.
    "RevenueDistributed(address,address,uint256,uint256)",
    // LiveTipping.
    "EventRegistered(uint256,address,uint256,uint256,uint256)",
    "EventFinalized(uint256,address,uint256,bool)",
    "TipReceived(uint256,address,uint256,string,uint256)",
    "NewHighestTipper(uint256,address,address,uint256)",
    "TipsDistributed(uint256,address,uint256)",
    // Distributor.
    "EventRegistered(uint256,address,uint256,uint256)",
    // EventManager.
    "DelegationProxyCreated(uint256,address,address)",
    "DelegateUpdated(uint256,address)",
    "GlobalWhitelistUpdated(address,bool)",
];

static UNRELATED_TOPICS: LazyLock<HashSet<B256>> = LazyLock::new(|| UNRELATED.iter().map(keccak256).collect());

/// A kind of log that could concern us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    EventCreated,
    Transfer,
    TicketMinted,
    TicketRefunded,
}

impl Kind {
    /// By the hash of the event's signature, the first topic.
    pub(crate) fn of(topics: &[B256]) -> Result<Self, Ignored> {
        match topics.first() {
            Some(&EventCreated::SIGNATURE_HASH) => Ok(Self::EventCreated),
            Some(&Transfer::SIGNATURE_HASH) => Ok(Self::Transfer),
            Some(&TicketMinted::SIGNATURE_HASH) => Ok(Self::TicketMinted),
            Some(&TicketRefunded::SIGNATURE_HASH) => Ok(Self::TicketRefunded),
            Some(topic) if UNRELATED_TOPICS.contains(topic) => Err(Ignored::Unrelated),
            _ => Err(Ignored::UnknownTopic),
        }
    }

    /// Why such a log of `emitter` does not concern us, if so.
    pub(crate) fn ignored_from(self, emitter: Address, factories: &BTreeSet<Address>) -> Option<Ignored> {
        match (self, factories.contains(&emitter)) {
            (Self::EventCreated, false) => Some(Ignored::UnconfiguredFactory),
            (Self::Transfer, true) => Some(Ignored::EventNftMoved),
            (Self::TicketMinted | Self::TicketRefunded, true) => Some(Ignored::FactoryIsNoKiosk),
            (Self::EventCreated, true) | (_, false) => None,
        }
    }

    /// What the log says. `topics` begin with this kind's signature.
    pub(crate) fn decode(self, topics: &[B256], data: &[u8], factories: &BTreeSet<Address>) -> Result<What, Reason> {
        match self {
            Self::EventCreated => event_minted(topics, data, factories),
            Self::Transfer => {
                let log = decode::<Transfer>(topics, data)?;
                Ok(What::TicketTransferred { token_id: log.tokenId, from: log.from, to: log.to })
            }
            Self::TicketMinted => {
                let log = decode::<TicketMinted>(topics, data)?;
                Ok(What::TicketMinted { token_id: log.ticketId, buyer: log.buyer })
            }
            Self::TicketRefunded => {
                let log = decode::<TicketRefunded>(topics, data)?;
                Ok(What::TicketRefunded { token_id: log.ticketId, holder: log.holder })
            }
        }
    }
}

fn event_minted(topics: &[B256], data: &[u8], factories: &BTreeSet<Address>) -> Result<What, Reason> {
    let (_, event_id, creator) = indexed::<EventCreated>(topics)?;
    // Tokens borrow from `data`: lengths are checked before any text is copied.
    let tokens =
        decode_sequence::<<EventCreated as SolEvent>::DataToken<'_>>(data).map_err(undecodable::<EventCreated>)?;
    let (start, _reserve_price, metadata_uri, art_category, kiosk) = tokens;
    <sol_data::Address as SolType>::type_check(&kiosk).map_err(undecodable::<EventCreated>)?;
    let kiosk = sol_data::Address::detokenize(kiosk);

    if creator == Address::ZERO {
        return Err(Reason::Senseless("its creator is the zero address"));
    }
    if kiosk == Address::ZERO {
        return Err(Reason::Senseless("its kiosk is the zero address"));
    }
    if factories.contains(&kiosk) {
        return Err(Reason::Senseless("its kiosk is a factory"));
    }
    let start_s = u64::try_from(U256::from_be_bytes(start.0.0))
        .ok()
        .filter(|start| *start <= LATEST_START_S)
        .ok_or(Reason::Senseless("it starts after the year 9999"))?;
    Ok(What::EventMinted(EventMint {
        event_id,
        creator,
        kiosk,
        metadata_uri: text("metadataURI", metadata_uri.as_slice(), MAX_METADATA_URI_BYTES)?,
        art_category: text("artCategory", art_category.as_slice(), MAX_ART_CATEGORY_BYTES)?,
        start_s,
    }))
}

/// Solidity takes any bytes for a string. Those that are not UTF-8 become U+FFFD: bad spelling costs nobody his room.
fn text(name: &'static str, bytes: &[u8], most: usize) -> Result<String, Reason> {
    if bytes.len() > most {
        return Err(Reason::TooLong { name, bytes: bytes.len(), most });
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

fn decode<E: SolEvent>(topics: &[B256], data: &[u8]) -> Result<E, Reason> {
    let indexed = indexed::<E>(topics)?;
    if !data.is_empty() && <E::DataTuple<'_> as SolType>::ENCODED_SIZE == Some(0) {
        let problem = format!("{} bytes of data where none belong", data.len());
        return Err(Reason::Undecodable { event: E::SIGNATURE, problem });
    }
    let data = E::abi_decode_data(data).map_err(undecodable::<E>)?;
    Ok(E::new(indexed, data))
}

/// The indexed arguments, with their padding checked: a dirty address word is no address.
fn indexed<E: SolEvent>(topics: &[B256]) -> Result<<E::TopicList as SolType>::RustType, Reason> {
    let expected = <E::TopicList as alloy_sol_types::TopicList>::COUNT;
    if topics.len() != expected {
        return Err(Reason::TopicCount { event: E::SIGNATURE, found: topics.len(), expected });
    }
    E::decode_topics_with_config(topics.iter().copied(), AbiDecoderConfig::new().validate(true))
        .map_err(undecodable::<E>)
}

fn undecodable<E: SolEvent>(error: alloy_sol_types::Error) -> Reason {
    Reason::Undecodable { event: E::SIGNATURE, problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{LogData, b256};

    use super::*;

    const CREATOR: Address = Address::repeat_byte(0xc0);
    const KIOSK: Address = Address::repeat_byte(0x11);
    const FACTORY: Address = Address::repeat_byte(0xfa);

    fn created() -> EventCreated {
        EventCreated {
            eventId: U256::ZERO,
            creator: CREATOR,
            startDate: U256::from(1_900_000_000_u64),
            reservePrice: U256::MAX,
            metadataURI: "ipfs://metadata".to_owned(),
            artCategory: "jazz".to_owned(),
            ticketKioskAddress: KIOSK,
        }
    }

    fn read(log: &LogData) -> Result<What, Reason> {
        Kind::of(log.topics()).unwrap().decode(log.topics(), &log.data, &BTreeSet::from([FACTORY]))
    }

    fn read_created(change: impl FnOnce(&mut EventCreated)) -> Result<What, Reason> {
        let mut event = created();
        change(&mut event);
        read(&event.encode_log_data())
    }

    #[test]
    fn topics_are_those_of_the_deployed_contracts() {
        assert_eq!(
            EventCreated::SIGNATURE_HASH,
            b256!("a2c7b19a9392cd365e3be790fed231b0aea97f02c823fa310f9316ab4e2fa649")
        );
        assert_eq!(
            TicketMinted::SIGNATURE_HASH,
            b256!("28b82938d4440e73de6999c62715a66c806f695010c3c365a78c5ff27c02ba2e")
        );
        assert_eq!(
            TicketRefunded::SIGNATURE_HASH,
            b256!("8c8fd3da31954f4657d981e2a89ea3421ef5d7bfa0998012eaff5f24a61a867a")
        );
        assert_eq!(Transfer::SIGNATURE_HASH, b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"));
        for signature in
            [EventCreated::SIGNATURE, TicketMinted::SIGNATURE, TicketRefunded::SIGNATURE, Transfer::SIGNATURE]
        {
            assert_eq!(Kind::of(&[keccak256(signature)]).map(|_| ()), Ok(()), "{signature}");
        }
        let unrelated = HashSet::from([
            b256!("8c5be1e5ebec7d5bd14f71427d1e84f3dd0314c0f7b2291e5b200ac8c7c3b925"),
            b256!("17307eab39ab6107e8899845ad3d59bd9653f200f220920489ca2b5937696c31"),
            b256!("f8e1a15aba9398e019f0b49df1a4fde98ee17ae345cb5f6b5e2c27f5033e8ce7"),
            b256!("6bd5c950a8d8df17f772f5af37cb3655737899cbf903264b9795592da439661c"),
            b256!("8be0079c531659141344cd1fd0a4f28419497f9722a3daafe3b4186f6b6457e0"),
            b256!("459157ba24c7ab9878b165ef465fa6ae2ab42bcd8445f576be378768b0c47309"),
            b256!("87c77544fe96aeb9a3a6398d27ed891f9532d66ef82444a0a56aab18a58bbece"),
            b256!("922986c6ef6067ebfb4bd9cc132cd572b3feb20ba33b99393533de2615299b85"),
            b256!("eca8d529f01fee5d6c644cc9d0d6c27142e62ac44bf51203483ec59cb499f233"),
            b256!("4f4bafdd0d4aaee8ff29c6e80dd60fabde8133b0cc1fecdd53c25650666dfa25"),
            b256!("bf51b4987ea2011a1d8ec7becfb572cd41971188ba756f230a2cd4bd6b83f140"),
            b256!("e83e258d6d9fdd8bfb2d674013143af76db01f8f6abfcf40924fb38cdf58b464"),
            b256!("00f9e7d701575f890251ddc91abd33ea9bf9757480fbdbd7ec757279cd9eef3b"),
            b256!("60c1c3d6b71b1fb257a4b0f7270bdea1993ec357dc58ffc543b70b39ea2e3853"),
            b256!("f7c286db075e6b12fb79c0afe1e61d106db5cf8543a12260518e17fea8146439"),
            b256!("0a5516f8f8705b9e71039be96d8138e308ae886bc026ed611ff933f8fa1ba54e"),
            b256!("416c6ad43398f554e55cb8a2751e01ab869c698856cda5c8bd133a160872f70f"),
            b256!("4ecfd9bcb7fb0e2b5d9524f2deef7d113a46819a16ef408b876fba664ddeac51"),
            b256!("8682660f5651eae4e317da0c532f4b8612a4aab7fbdda5dcade609634c78419f"),
            b256!("ac90355684e2710fa34c2c7d500018678b146ea2d56ddc331c63d242ee8bf385"),
        ]);
        assert_eq!(*UNRELATED_TOPICS, unrelated);
        assert!(unrelated.iter().all(|topic| Kind::of(&[*topic]) == Err(Ignored::Unrelated)));
        assert_eq!(Kind::of(&[]), Err(Ignored::UnknownTopic));
        assert_eq!(Kind::of(&[B256::ZERO]), Err(Ignored::UnknownTopic));
    }

    #[test]
    fn an_event_says_what_it_was_minted_with() {
        let What::EventMinted(mint) = read_created(|e| e.eventId = U256::MAX).unwrap() else { panic!("no mint") };
        let expected = EventMint {
            event_id: U256::MAX,
            creator: CREATOR,
            kiosk: KIOSK,
            metadata_uri: "ipfs://metadata".to_owned(),
            art_category: "jazz".to_owned(),
            start_s: 1_900_000_000,
        };
        assert_eq!(mint, expected);
        assert!(read_created(|e| e.startDate = U256::from(LATEST_START_S)).is_ok());
        assert!(read_created(|e| e.metadataURI = "m".repeat(MAX_METADATA_URI_BYTES)).is_ok());
        assert!(read_created(|e| e.artCategory = "a".repeat(MAX_ART_CATEGORY_BYTES)).is_ok());
    }

    #[test]
    fn an_event_that_makes_no_sense_is_refused() {
        type Change = fn(&mut EventCreated);
        let cases: [(Change, &str); 7] = [
            (|e| e.creator = Address::ZERO, "creator is the zero address"),
            (|e| e.ticketKioskAddress = Address::ZERO, "kiosk is the zero address"),
            (|e| e.ticketKioskAddress = FACTORY, "kiosk is a factory"),
            (|e| e.startDate = U256::from(LATEST_START_S + 1), "year 9999"),
            (|e| e.startDate = U256::MAX, "year 9999"),
            (
                |e| e.metadataURI = "m".repeat(MAX_METADATA_URI_BYTES + 1),
                "metadataURI is 8193 bytes long; at most 8192",
            ),
            (|e| e.artCategory = "a".repeat(MAX_ART_CATEGORY_BYTES + 1), "artCategory is 257 bytes long; at most 256"),
        ];
        for (change, why) in cases {
            let err = read_created(change).unwrap_err().to_string();
            assert!(err.contains(why), "{err}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_cost_nobody_his_room() {
        let log = created().encode_log_data();
        let at = log.data.windows(4).position(|four| four == b"jazz").unwrap();
        let mut data = log.data.to_vec();
        data[at] = 0xff;
        let What::EventMinted(mint) = read(&LogData::new_unchecked(log.topics().to_vec(), data.into())).unwrap() else {
            panic!("no mint")
        };
        assert_eq!(mint.art_category, "\u{fffd}azz");
    }

    #[test]
    fn tickets_are_read_whatever_their_ids_and_wallets() {
        for (token_id, wallet) in [(U256::ZERO, Address::ZERO), (U256::MAX, CREATOR)] {
            let moved = Transfer { from: KIOSK, to: wallet, tokenId: token_id }.encode_log_data();
            assert_eq!(read(&moved), Ok(What::TicketTransferred { token_id, from: KIOSK, to: wallet }));
            let refunded = TicketRefunded { ticketId: token_id, holder: wallet, amount: U256::MAX }.encode_log_data();
            assert_eq!(read(&refunded), Ok(What::TicketRefunded { token_id, holder: wallet }));
            let minted = TicketMinted {
                ticketId: token_id,
                buyer: wallet,
                ticketName: "x".repeat(100_000),
                artCategory: String::new(),
                price: U256::ZERO,
            };
            assert_eq!(read(&minted.encode_log_data()), Ok(What::TicketMinted { token_id, buyer: wallet }));
        }
    }

    /// Every way to cut, stretch or soil a good log.
    #[test]
    fn logs_of_another_shape_are_refused() {
        let logs = [
            created().encode_log_data(),
            Transfer { from: KIOSK, to: CREATOR, tokenId: U256::ONE }.encode_log_data(),
            TicketRefunded { ticketId: U256::ONE, holder: CREATOR, amount: U256::ONE }.encode_log_data(),
            TicketMinted {
                ticketId: U256::ONE,
                buyer: CREATOR,
                ticketName: "a name".to_owned(),
                artCategory: "jazz".to_owned(),
                price: U256::ONE,
            }
            .encode_log_data(),
        ];
        for log in logs {
            let (topics, data) = (log.topics().to_vec(), log.data.to_vec());
            assert!(read(&log).is_ok());
            let refused = |topics: &[B256], data: &[u8]| {
                read(&LogData::new_unchecked(topics.to_vec(), data.to_vec().into())).unwrap_err()
            };
            for count in 1..topics.len() {
                assert!(matches!(refused(&topics[..count], &data), Reason::TopicCount { .. }));
            }
            let more = [&topics[..], &[B256::ZERO]].concat();
            assert!(matches!(refused(&more, &data), Reason::TopicCount { .. }));
            for length in (0..data.len()).step_by(32) {
                assert!(matches!(refused(&topics, &data[..length]), Reason::Undecodable { .. }), "{length} bytes");
            }
            let nth = topics.iter().position(|topic| Address::from_word(*topic) == CREATOR).unwrap();
            let mut dirty = topics.clone();
            dirty[nth].0[11] = 1;
            assert!(matches!(refused(&dirty, &data), Reason::Undecodable { .. }));
        }
        let transfer = Transfer { from: KIOSK, to: CREATOR, tokenId: U256::ONE }.encode_log_data();
        let with_data = LogData::new_unchecked(transfer.topics().to_vec(), vec![0; 32].into());
        assert!(read(&with_data).unwrap_err().to_string().contains("32 bytes of data where none belong"));
        let log = created().encode_log_data();
        let mut dirty_kiosk = log.data.to_vec();
        dirty_kiosk[4 * 32] = 1;
        let dirty_kiosk = LogData::new_unchecked(log.topics().to_vec(), dirty_kiosk.into());
        assert!(matches!(read(&dirty_kiosk), Err(Reason::Undecodable { .. })));
    }
}
