//! What one log says.

use std::collections::HashSet;

use alloy_primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};

use crate::ids::{ChainId, EventKey, Incarnation, KioskKey, TicketKey};

/// Where in its chain a log stands. Facts are ordered by position; when they arrived means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The block's height.
    pub block_number: u64,
    /// The log's index within the block.
    pub log_index: u64,
    /// Which block of that height. Two live facts with one height and index are disputed.
    pub block_hash: B256,
}

/// What one log says about an event or a ticket. Immutable; named by (chain, emitter, position).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The chain of the log.
    pub chain: ChainId,
    /// The contract that emitted the log.
    pub emitter: Address,
    /// The transaction that emitted it.
    pub transaction: B256,
    /// Where the log stands.
    pub position: Position,
    /// The chain took the log back (`removed: true`). May arrive before the log itself.
    pub retracted: bool,
    /// When its block was made, in seconds since 1970, if whoever sent the log said so. It is measured by and decides
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_time_s: Option<u64>,
    /// What the log says.
    pub what: What,
}

/// The content of a fact.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// A factory minted an event (haus: `EventCreated`).
    EventMinted(EventMint),
    /// A ticket moved (ERC-721 `Transfer`); the zero address stands for issue and burn.
    TicketTransferred {
        /// Which ticket of the emitting kiosk.
        token_id: U256,
        /// Who held it.
        from: Address,
        /// Who holds it.
        to: Address,
    },
    /// A ticket was sold (haus: `TicketMinted`). Stands in only while no transfer of the ticket is known.
    TicketMinted {
        /// Which ticket of the emitting kiosk.
        token_id: U256,
        /// Who bought it.
        buyer: Address,
    },
    /// A ticket was refunded without moving (`TicketRefunded`). Holds until a later transfer.
    TicketRefunded {
        /// Which ticket of the emitting kiosk.
        token_id: U256,
        /// Who was paid back.
        holder: Address,
    },
}

/// The minting of an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EventMint {
    /// The event's token id at the factory.
    pub event_id: U256,
    /// Whom the factory names as creator.
    pub creator: Address,
    /// The event's ticket contract.
    pub kiosk: Address,
    /// Where the event's metadata is said to be.
    pub metadata_uri: String,
    /// The kind of art, used as the room's first name.
    pub art_category: String,
    /// When the event starts, in seconds since 1970.
    pub start_s: u64,
}

impl Fact {
    /// The minted event's key and incarnation, if this fact is about an event.
    pub fn incarnation(&self) -> Option<Incarnation> {
        let What::EventMinted(mint) = &self.what else { return None };
        let event = EventKey { chain: self.chain, factory: self.emitter, event_id: mint.event_id };
        Some(Incarnation { event, creator: mint.creator, kiosk: mint.kiosk, transaction: self.transaction })
    }

    /// The ticket, if this fact is about one.
    pub fn ticket(&self) -> Option<TicketKey> {
        let token_id = match self.what {
            What::EventMinted(_) => return None,
            What::TicketTransferred { token_id, .. }
            | What::TicketMinted { token_id, .. }
            | What::TicketRefunded { token_id, .. } => token_id,
        };
        Some(TicketKey { kiosk: KioskKey { chain: self.chain, address: self.emitter }, token_id })
    }

    /// Whether this fact, if it stands, takes a ticket from somebody: those travel on the refund queue.
    pub fn is_loss(&self) -> bool {
        match self.what {
            What::TicketTransferred { from, .. } => self.retracted || from != Address::ZERO,
            What::TicketRefunded { .. } => true,
            What::TicketMinted { .. } | What::EventMinted(_) => self.retracted,
        }
    }
}

/// The facts that stand: those that no tombstone among `facts` names. (A tombstone names itself, too.) It names the log
/// that says the same, so that taking back what somebody made up never takes back what is true.
pub(crate) fn live(facts: &[Fact]) -> impl Iterator<Item = &Fact> {
    type Log<'a> = (ChainId, Address, B256, Position, &'a What);
    fn name(fact: &Fact) -> Log<'_> {
        (fact.chain, fact.emitter, fact.transaction, fact.position, &fact.what)
    }
    let tombstones = facts.iter().filter(|fact| fact.retracted).map(name).collect::<HashSet<_>>();
    facts.iter().filter(move |fact| !tombstones.contains(&name(fact)))
}
