//! Which minting of an event counts, and which event a kiosk belongs to.
//!
//! - An event's current incarnation is its newest mint without a tombstone; with every mint retracted it has none.
//! - Two live mints at that height in different blocks, or two in one place, are a dispute: while they differ there is
//!   no current incarnation, so nobody is put in charge of a room on a disputed fact. If they say the same (the
//!   transaction was mined again in a sister block), that is the incarnation.
//! - A kiosk announced by several events belongs to the one that announced it first (by position): a later event
//!   cannot take over the tickets of an earlier one. Announced by several mints of one event, it belongs to that event's
//!   current incarnation. If the first announcement is retracted, the next one counts.

use std::collections::BTreeSet;

use crate::{
    fact::{EventMint, Fact, Position, What, live},
    ids::{Incarnation, KioskKey},
};

/// A mint that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minted {
    /// What the room belongs to.
    pub incarnation: Incarnation,
    /// What the factory said of the event.
    pub mint: EventMint,
    /// Where it said so.
    pub position: Position,
}

/// What the facts of one event add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Minting {
    /// The current incarnation; none if the event was never minted, every mint is retracted, or they are in dispute.
    pub current: Option<Minted>,
    /// Live mints contradict each other at the newest height.
    pub disputed: bool,
}

/// Folds all known facts of *one* event, in any order and with any duplicates. Facts about tickets are passed over.
pub fn fold(facts: &[Fact]) -> Minting {
    let mints = live(facts).filter_map(minted).collect::<Vec<_>>();
    let Some(height) = mints.iter().map(|mint| mint.position.block_number).max() else { return Minting::default() };
    let newest = || mints.iter().filter(|mint| mint.position.block_number == height);
    let newest_in_each_block =
        newest().map(|mint| mint.position.block_hash).collect::<BTreeSet<_>>().into_iter().filter_map(|block| {
            newest().filter(|mint| mint.position.block_hash == block).map(|mint| mint.position).max()
        });
    let deciding = newest_in_each_block
        .flat_map(|position| newest().filter(move |mint| mint.position == position))
        .collect::<Vec<_>>();

    let newest_of_all = deciding.iter().max_by_key(|mint| mint.position);
    let agreed = deciding.iter().all(|a| deciding.iter().all(|b| says_the_same(a, b)));
    Minting {
        current: newest_of_all.filter(|_| agreed).map(|mint| (*mint).clone()),
        disputed: deciding.iter().any(|a| deciding.iter().any(|b| a != b)),
    }
}

/// Which of `events` (their current mints) `kiosk` belongs to: the first to announce it.
pub fn owner_of<'a>(kiosk: KioskKey, events: impl IntoIterator<Item = &'a Minted>) -> Option<&'a Minted> {
    events
        .into_iter()
        .filter(|minted| minted.incarnation.kiosk() == kiosk)
        .min_by_key(|minted| (minted.position, minted.incarnation.event))
}

fn minted(fact: &Fact) -> Option<Minted> {
    let What::EventMinted(mint) = &fact.what else { return None };
    Some(Minted { incarnation: fact.incarnation()?, mint: mint.clone(), position: fact.position })
}

fn says_the_same(a: &Minted, b: &Minted) -> bool {
    a.incarnation == b.incarnation && a.mint == b.mint
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, U256};
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{ChainId, EventKey};

    const A: u8 = 0xaa;
    const B: u8 = 0xbb;

    fn mint(block_number: u64, log_index: u64, block: u8, creator: u8) -> Fact {
        Fact {
            chain: ChainId(31337),
            emitter: Address::repeat_byte(0xfa),
            transaction: B256::repeat_byte(creator),
            position: Position { block_number, log_index, block_hash: B256::repeat_byte(block) },
            retracted: false,
            block_time_s: None,
            what: What::EventMinted(EventMint {
                event_id: U256::ZERO,
                creator: Address::repeat_byte(creator),
                kiosk: Address::repeat_byte(0x11),
                metadata_uri: "ipfs://metadata".to_owned(),
                art_category: "jazz".to_owned(),
                start_s: 1_900_000_000,
            }),
        }
    }

    fn retracted(fact: &Fact) -> Fact {
        Fact { retracted: true, ..fact.clone() }
    }

    fn creator(minting: &Minting) -> Option<Address> {
        minting.current.as_ref().map(|minted| minted.incarnation.creator)
    }

    #[test]
    fn the_newest_live_mint_is_the_current_incarnation() {
        let (first, second) = (mint(5, 0, A, 1), mint(6, 0, A, 2));
        assert_eq!(fold(&[]), Minting::default());
        let minting = fold(&[second.clone(), first.clone()]);
        assert_eq!(creator(&minting), Some(Address::repeat_byte(2)));
        assert_eq!(minting.current.map(|minted| minted.position), Some(second.position));
        assert_eq!(creator(&fold(&[retracted(&second), first.clone(), second.clone()])), Some(Address::repeat_byte(1)));
        assert_eq!(fold(&[retracted(&second), retracted(&first), first, second]), Minting::default());
    }

    #[test]
    fn mints_of_sister_blocks_are_disputed_unless_they_say_the_same() {
        let (one, other) = (mint(5, 0, A, 1), mint(5, 0, B, 2));
        assert_eq!(fold(&[one.clone(), other.clone()]), Minting { current: None, disputed: true });
        assert_eq!(creator(&fold(&[one.clone(), other, mint(6, 0, A, 3)])), Some(Address::repeat_byte(3)));
        let again = fold(&[one.clone(), mint(5, 4, B, 1)]);
        assert!(again.disputed);
        assert_eq!(creator(&again), Some(Address::repeat_byte(1)));
        assert_eq!(fold(&[one, mint(5, 0, A, 2)]), Minting { current: None, disputed: true });
    }

    #[test]
    fn a_kiosk_belongs_to_the_event_that_announced_it_first() {
        let first = minted(&mint(5, 0, A, 1)).unwrap();
        let mut late = minted(&mint(9, 0, A, 2)).unwrap();
        late.incarnation.event = EventKey { event_id: U256::from(7), ..first.incarnation.event };
        let kiosk = first.incarnation.kiosk();
        assert_eq!(owner_of(kiosk, [&late, &first]), Some(&first));
        assert_eq!(owner_of(kiosk, [&late]), Some(&late));
        let stranger = KioskKey { chain: ChainId(1), ..kiosk };
        assert_eq!(owner_of(stranger, [&late, &first]), None);
    }

    proptest! {
        #[test]
        fn order_duplicates_and_early_tombstones_mean_nothing(
            (once, shuffled) in prop::collection::vec((1..4_u64, 0..3_u64, any::<bool>(), 1..4_u8, any::<bool>()), 0..10)
                .prop_map(|mints| mints.into_iter().map(|(number, index, block, who, dead)| {
                    let fact = mint(number, index, if block { A } else { B }, who);
                    if dead { retracted(&fact) } else { fact }
                }).collect::<Vec<_>>())
                .prop_flat_map(|once| {
                    let twice = once.iter().chain(&once).cloned().collect::<Vec<_>>();
                    (Just(once), Just(twice).prop_shuffle())
                })
        ) {
            let minting = fold(&once);
            prop_assert_eq!(&minting, &fold(&shuffled));
            let dead = |fact: &Fact| once.iter().any(|f| *f == retracted(fact));
            let alive = once.iter().filter(|f| !f.retracted && !dead(f)).cloned().collect::<Vec<_>>();
            prop_assert_eq!(&minting, &fold(&alive));
            let newest = alive.iter().map(|f| f.position.block_number).max();
            if let Some(current) = &minting.current {
                prop_assert_eq!(Some(current.position.block_number), newest);
            } else {
                prop_assert!(minting.disputed || newest.is_none());
            }
        }
    }
}
