//! The haus contracts' logs, as their transactions emit them: what an indexer would hand to usher.

use alloy_primitives::{Address, B256, LogData, U256, address, keccak256};
use alloy_sol_types::{SolEvent, sol};
use serde_json::{Value, json};
use usher_domain::{ChainId, EventKey};

/// The chain of all events here: anvil's.
pub const CHAIN: ChainId = ChainId(31337);
/// The factory that `usher dev` listens to.
pub const FACTORY: Address = address!("5fbdb2315678afecb367f032d93f642f64180aa3");
const DISTRIBUTOR: Address = address!("e7f1725e7734ce288f8367e1bb143e90bb3f0512");
const LIVE_TIPPING: Address = address!("9fe46736679d2d9a65f0992f2272de9f3c7fa6e0");
const EVENT_MANAGER: Address = address!("cf7ed3acca5a467e9e704c703e8d87f634fb0fc9");
const TREASURY: Address = address!("976ea74026e726554db657fa54763abd0c3a0aa9");
/// 15 January 2035: far from now, in seconds.
const START_S: u64 = 2_052_432_000;

sol! {
    interface Factory {
        event EventCreated(
            uint256 indexed eventId,
            address indexed creator,
            uint256 startDate,
            uint256 reservePrice,
            string metadataURI,
            string artCategory,
            address ticketKioskAddress
        );
    }
    interface Kiosk {
        event TicketMinted(
            uint256 indexed ticketId,
            address indexed buyer,
            string ticketName,
            string artCategory,
            uint256 price
        );
        event RevenueDistributed(address indexed creator, address indexed treasury, uint256 creators, uint256 treasurys);
        event TicketRefunded(uint256 indexed ticketId, address indexed holder, uint256 amount);
    }
    interface Erc721 {
        event Transfer(address indexed from, address indexed to, uint256 indexed tokenId);
        event MetadataUpdate(uint256 tokenId);
        event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);
    }
    interface Distributor {
        event EventRegistered(uint256 indexed eventId, address indexed creator, uint256 first, uint256 second);
    }
    interface LiveTipping {
        event EventRegistered(
            uint256 indexed eventId,
            address indexed creator,
            uint256 startDate,
            uint256 endDate,
            uint256 reservePrice
        );
    }
    interface EventManager {
        event DelegationProxyCreated(uint256 indexed eventId, address proxy, address indexed delegatee);
    }
}

/// What an event is minted with.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number; they start at 0.
    pub id: U256,
    /// Who minted it.
    pub creator: Address,
    /// Its ticket contract.
    pub kiosk: Address,
    /// The kind of art.
    pub art_category: String,
    /// Where its metadata is.
    pub metadata_uri: String,
}

impl Event {
    /// Jazz by `creator`, with a kiosk of its own.
    pub fn new(id: u64, creator: Address) -> Self {
        let kiosk = Address::from_word(keccak256(format!("kiosk {id} of {creator}")));
        let id = U256::from(id);
        Self { id, creator, kiosk, art_category: "Jazz".to_owned(), metadata_uri: "ipfs://metadata".to_owned() }
    }

    /// What usher calls it.
    pub fn key(&self) -> EventKey {
        EventKey { chain: CHAIN, factory: FACTORY, event_id: self.id }
    }
}

/// A chain on which each transaction has a block of its own.
#[derive(Debug, Default)]
pub struct Chain {
    blocks: u64,
}

impl Chain {
    /// `createEventAndDelegate`, which the haus UI calls.
    pub fn mint(&mut self, event: &Event) -> Transaction {
        let (id, creator) = (event.id, event.creator);
        let (start, end) = (U256::from(START_S), U256::from(START_S + 7200));
        let created = Factory::EventCreated {
            eventId: id,
            creator,
            startDate: start,
            reservePrice: U256::from(10).pow(U256::from(18)),
            metadataURI: event.metadata_uri.clone(),
            artCategory: event.art_category.clone(),
            ticketKioskAddress: event.kiosk,
        };
        let proxy = Address::from_word(keccak256(event.kiosk));
        self.transaction(vec![
            (FACTORY, log(&Erc721::Transfer { from: Address::ZERO, to: creator, tokenId: id })),
            (FACTORY, log(&Erc721::MetadataUpdate { tokenId: id })),
            (event.kiosk, log(&Erc721::OwnershipTransferred { previousOwner: Address::ZERO, newOwner: creator })),
            (
                DISTRIBUTOR,
                log(&Distributor::EventRegistered {
                    eventId: id,
                    creator,
                    first: U256::from(80),
                    second: U256::from(20),
                }),
            ),
            (
                LIVE_TIPPING,
                log(&LiveTipping::EventRegistered {
                    eventId: id,
                    creator,
                    startDate: start,
                    endDate: end,
                    reservePrice: created.reservePrice,
                }),
            ),
            (FACTORY, log(&created)),
            (EVENT_MANAGER, log(&EventManager::DelegationProxyCreated { eventId: id, proxy, delegatee: creator })),
        ])
    }

    /// `purchaseTicket`.
    pub fn purchase(&mut self, event: &Event, ticket: u64, buyer: Address) -> Transaction {
        let id = U256::from(ticket);
        let minted = Kiosk::TicketMinted {
            ticketId: id,
            buyer,
            ticketName: format!("Ticket #{ticket}"),
            artCategory: event.art_category.clone(),
            price: U256::from(1000),
        };
        let revenue = Kiosk::RevenueDistributed {
            creator: event.creator,
            treasury: TREASURY,
            creators: U256::from(800),
            treasurys: U256::from(200),
        };
        self.transaction(vec![
            (event.kiosk, log(&Erc721::Transfer { from: Address::ZERO, to: buyer, tokenId: id })),
            (event.kiosk, log(&Erc721::MetadataUpdate { tokenId: id })),
            (event.kiosk, log(&minted)),
            (event.kiosk, log(&revenue)),
        ])
    }

    /// `transferFrom`: a resale or a gift; to the zero address, a burn.
    pub fn transfer(&mut self, event: &Event, ticket: u64, from: Address, to: Address) -> Transaction {
        self.transaction(vec![(event.kiosk, log(&Erc721::Transfer { from, to, tokenId: U256::from(ticket) }))])
    }

    /// A burn.
    pub fn burn(&mut self, event: &Event, ticket: u64, holder: Address) -> Transaction {
        self.transfer(event, ticket, holder, Address::ZERO)
    }

    /// The money goes back, the token stays.
    pub fn refund(&mut self, event: &Event, ticket: u64, holder: Address) -> Transaction {
        let refunded = Kiosk::TicketRefunded { ticketId: U256::from(ticket), holder, amount: U256::from(1000) };
        self.transaction(vec![(event.kiosk, log(&refunded))])
    }

    fn transaction(&mut self, logs: Vec<(Address, LogData)>) -> Transaction {
        self.blocks += 1;
        let (block, transaction) = (hash("block", self.blocks), hash("transaction", self.blocks));
        let log = |(index, (emitter, log)): (usize, (Address, LogData))| {
            json!({
                "address": emitter,
                "topics": log.topics(),
                "data": log.data,
                "blockNumber": format!("{:#x}", self.blocks),
                "blockHash": block,
                "transactionHash": transaction,
                "transactionIndex": "0x0",
                "logIndex": format!("{index:#x}"),
                "removed": false,
            })
        };
        Transaction { logs: logs.into_iter().enumerate().map(log).collect() }
    }
}

fn log(event: &impl SolEvent) -> LogData {
    event.encode_log_data()
}

fn hash(kind: &str, number: u64) -> B256 {
    keccak256(format!("{kind} {number}"))
}

/// The logs of one transaction, as JSON-RPC writes them.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// In the order in which the contracts emitted them.
    pub logs: Vec<Value>,
}

impl Transaction {
    /// The same, taken back by a reorganisation.
    pub fn removed(mut self) -> Self {
        for log in &mut self.logs {
            log["removed"] = true.into();
        }
        self
    }
}
