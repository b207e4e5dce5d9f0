//! What a log turned out to be.

use std::fmt;

use alloy_primitives::{B256, keccak256};
use usher_domain::{ChainId, Fact};

use crate::verify::Doubt;

/// What one log is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Something happened to an event or a ticket.
    Fact(Fact),
    /// Nothing that concerns us; counted, not kept.
    Ignored(Ignored),
    /// It should be ours and cannot be used: kept for an operator to see, retry or drop.
    Parked(Parked),
}

/// Why a log does not concern us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// A log of the haus contracts that says nothing about who belongs: approvals, metadata, revenue, ownership of a
    /// contract, tips, delegates, finalisation.
    Unrelated,
    /// A log that the haus profile does not know (or an anonymous one).
    UnknownTopic,
    /// `EventCreated` of a contract that is not a configured factory; anybody can emit one.
    UnconfiguredFactory,
    /// A factory's own `Transfer`: the event NFT moved. Nobody's role follows it yet.
    EventNftMoved,
    /// A ticket log of a factory, which sells no tickets.
    FactoryIsNoKiosk,
    /// It was logged before the chain's configured start.
    BeforeStart,
}

impl Ignored {
    /// A word for usher's own log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unrelated => "unrelated",
            Self::UnknownTopic => "unknown_topic",
            Self::UnconfiguredFactory => "unconfigured_factory",
            Self::EventNftMoved => "event_nft_moved",
            Self::FactoryIsNoKiosk => "factory_is_no_kiosk",
            Self::BeforeStart => "before_start",
        }
    }
}

/// A log, or a whole body, that should be ours and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// What it is parked under: the same log sent again is the same parked thing.
    pub name: ParkName,
    /// What is wrong with it.
    pub reason: Reason,
    /// What to hand to [`read`](crate::read) again: an envelope of this log alone, or the body that is no envelope.
    /// As large as what was sent.
    pub body: String,
}

impl Parked {
    pub(crate) fn unnamed(body: String, reason: Reason) -> Self {
        Self { name: ParkName::Digest(keccak256(&body)), reason, body }
    }
}

/// What a parked thing is named by. Its text form is `chain:transaction:log index[:block hash][:removed]`, or
/// `keccak256:…`.
///
/// The block hash and the retraction belong to the name where they can be read: a log and its retraction, or the same
/// log mined again in a sister block, are two things, and dropping one for the other would change what a retry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParkName {
    /// The log says where it stands.
    Log {
        /// The chain of the envelope.
        chain: ChainId,
        /// The transaction that emitted the log.
        transaction: B256,
        /// The log's index within its block.
        log_index: u64,
        /// The log's block, if that can be read.
        block_hash: Option<B256>,
        /// The log is a retraction.
        retracted: bool,
    },
    /// It does not: the Keccak-256 digest of [`Parked::body`].
    Digest(B256),
}

impl fmt::Display for ParkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => write!(f, "keccak256:{digest}"),
            Self::Log { chain, transaction, log_index, block_hash, retracted } => {
                write!(f, "{chain}:{transaction}:{log_index}")?;
                if let Some(block_hash) = block_hash {
                    write!(f, ":{block_hash}")?;
                }
                f.write_str(if *retracted { ":removed" } else { "" })
            }
        }
    }
}

/// Why something is parked. Its text is meant for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// The body is JSON, yet no envelope.
    #[error("the body is not an envelope {{\"chainId\": …, \"log\": {{…}}}} or {{\"chainId\": …, \"logs\": […]}}: {0}")]
    NotAnEnvelope(String),
    /// The log is not a JSON object, or one too deep to read.
    #[error("the log cannot be read as a JSON object: {0}")]
    NotALog(String),
    /// A member of the log is missing or malformed.
    #[error("the log's {name} {problem}")]
    Field {
        /// The JSON member.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The log has no block yet (`eth_getLogs` with the `pending` tag).
    #[error("the log is pending: it stands in no block yet")]
    Pending,
    /// The log is for a chain nobody configured: the indexer, the sender or the configuration is wrong.
    #[error(
        "chain {chain} is not configured (configured: {configured}); \
         add it to the configuration and retry, or stop sending its logs here"
    )]
    UnconfiguredChain {
        /// The chain of the envelope.
        chain: ChainId,
        /// The configured chains.
        configured: String,
    },
    /// The event's indexed arguments are not what its signature says.
    #[error("{event} has {found} topics, not {expected}")]
    TopicCount {
        /// The Solidity event.
        event: &'static str,
        /// Topics of the log, the signature hash included.
        found: usize,
        /// Topics of the event.
        expected: usize,
    },
    /// The log does not decode as its event: truncated data, a dirty address word.
    #[error("{event} does not decode: {problem}")]
    Undecodable {
        /// The Solidity event.
        event: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// It decodes, and says what cannot be.
    #[error("EventCreated makes no sense: {0}")]
    Senseless(&'static str),
    /// The chain was asked, and does not say so.
    #[error("{0}; if it is true nevertheless, retry it")]
    Untrue(Doubt),
    /// A text is longer than is kept.
    #[error("EventCreated.{name} is {bytes} bytes long; at most {most} are taken")]
    TooLong {
        /// The argument.
        name: &'static str,
        /// Its length.
        bytes: usize,
        /// The bound.
        most: usize,
    },
}
