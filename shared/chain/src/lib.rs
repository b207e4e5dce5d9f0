//! Chain logs to facts.
//!
//! [`read`] takes one SQS body or one file and says of each log in it what it is to us: a [`Fact`], nothing
//! ([`Ignored`]), or something that should be ours and cannot be used ([`Parked`], for an operator to look at).
//!
//! # The envelope
//!
//! ```json
//! {"chainId": 31337, "log": {"address": "0x…", "topics": ["0x…"], "data": "0x…", "blockNumber": "0x12",
//!  "blockHash": "0x…", "transactionHash": "0x…", "logIndex": "0x0", "removed": false}}
//! ```
//!
//! or `{"chainId": 31337, "logs": [{…}, {…}]}`. A log is an object as `eth_getLogs` and `eth_subscribe` give it; other
//! members, of the log and of the envelope, are passed over. `removed: true` makes the fact a retraction;
//! `blockTimestamp`, where a node says it, is what delays are measured from. The chain id and the log's
//! quantities may be JSON numbers, `0x` hex or decimal text. Each log is read by itself: what is wrong with one does not
//! touch its neighbours.
//!
//! # What is believed
//!
//! A body is a claim. Whether it is believed is the chain's [`Trust`]: with `queue` whoever may send to the queues is;
//! with `rpc` the chain is asked ([`verify`]). Events are announced by configured factories alone. Kiosks become known
//! through such an announcement, which is not this crate's to know: a ticket log of any other contract is a fact about
//! that contract as a kiosk.

mod config;
mod envelope;
mod haus;
mod log;
mod reading;
mod verify;

pub use config::{ChainConfig, Chains, ConfigError, Rpc, Trust};
pub use haus::{LATEST_START_S, MAX_ART_CATEGORY_BYTES, MAX_METADATA_URI_BYTES};
pub use reading::{Ignored, ParkName, Parked, Reading, Reason};
#[doc(no_inline)]
pub use usher_domain::Fact;
pub use verify::{Doubt, Receipt, acts_at_once, verify};

/// Reads one SQS body or one file: one [`Reading`] per log, in the order of the logs.
///
/// A text that is not an envelope (see the [crate's page](crate)) is one parked reading.
pub fn read(body: &str, chains: &Chains) -> Vec<Reading> {
    match envelope::split(body) {
        Ok(claims) => claims.iter().map(|claim| log::read(claim, chains)).collect(),
        Err(reason) => vec![Reading::Parked(Parked::unnamed(body.to_owned(), reason))],
    }
}

/// What is to be parked of a body (see [`read`]) because the chain does not say so: the logs whose facts are doubted.
pub fn park_doubted(body: &str, chains: &Chains, doubt: impl Fn(&Fact) -> Option<Doubt>) -> Vec<Parked> {
    let Ok(claims) = envelope::split(body) else { return Vec::new() };
    claims.iter().filter_map(|claim| log::park_doubted(claim, chains, &doubt)).collect()
}
