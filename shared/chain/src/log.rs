//! One raw log into a reading.

use alloy_primitives::{Address, B256, Bytes};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use usher_domain::{Fact, Position};

use crate::{
    config::Chains,
    envelope::{Claim, Quantity},
    haus,
    reading::{Ignored, ParkName, Parked, Reading, Reason},
    verify::Doubt,
};

/// Reads one log. Never fails: what is wrong with it is the reading.
pub(crate) fn read(claim: &Claim<'_>, chains: &Chains) -> Reading {
    let log = match serde_json::from_str::<Map<String, Value>>(claim.log) {
        Ok(log) => log,
        Err(e) => return Reading::Parked(Parked::unnamed(claim.body(), Reason::NotALog(e.to_string()))),
    };
    match interpret(claim, &log, chains) {
        Ok(Ok(fact)) => Reading::Fact(fact),
        Ok(Err(ignored)) => Reading::Ignored(ignored),
        Err(reason) => Reading::Parked(park(claim, &log, reason)),
    }
}

/// Whether the log could concern us is asked first, so that an indexer's noise is never parked, however malformed.
fn interpret(claim: &Claim<'_>, log: &Map<String, Value>, chains: &Chains) -> Result<Result<Fact, Ignored>, Reason> {
    let topics = field::<Vec<B256>>(log, "topics")?;
    let kind = match haus::Kind::of(&topics) {
        Ok(kind) => kind,
        Err(ignored) => return Ok(Err(ignored)),
    };
    let chain = chains.get(claim.chain).ok_or_else(|| Reason::UnconfiguredChain {
        chain: claim.chain,
        configured: chains.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(", "),
    })?;
    let emitter = field::<Address>(log, "address")?;
    if let Some(ignored) = kind.ignored_from(emitter, &chain.factories) {
        return Ok(Err(ignored));
    }
    let what = kind.decode(&topics, &field::<Bytes>(log, "data")?, &chain.factories)?;
    if is_absent(log, "blockNumber") && is_absent(log, "blockHash") {
        return Err(Reason::Pending);
    }
    let block_number = field::<Quantity>(log, "blockNumber")?.0;
    if block_number < chain.start_block {
        return Ok(Err(Ignored::BeforeStart));
    }
    Ok(Ok(Fact {
        chain: claim.chain,
        emitter,
        transaction: field(log, "transactionHash")?,
        position: Position {
            block_number,
            log_index: field::<Quantity>(log, "logIndex")?.0,
            block_hash: field(log, "blockHash")?,
        },
        retracted: is_retracted(log)?,
        // Not every node says it, some say 0, and nothing depends on it.
        block_time_s: field::<Quantity>(log, "blockTimestamp").ok().map(|time| time.0).filter(|time| *time > 0),
        what,
    }))
}

/// The log as parked, if its fact is doubted.
pub(crate) fn park_doubted(
    claim: &Claim<'_>,
    chains: &Chains,
    doubt: impl Fn(&Fact) -> Option<Doubt>,
) -> Option<Parked> {
    let log = serde_json::from_str(claim.log).ok()?;
    let fact = interpret(claim, &log, chains).ok()?.ok()?;
    Some(park(claim, &log, Reason::Untrue(doubt(&fact)?)))
}

fn park(claim: &Claim<'_>, log: &Map<String, Value>, reason: Reason) -> Parked {
    let body = claim.body();
    let (Ok(transaction), Ok(Quantity(log_index))) = (field(log, "transactionHash"), field(log, "logIndex")) else {
        return Parked::unnamed(body, reason);
    };
    let name = ParkName::Log {
        chain: claim.chain,
        transaction,
        log_index,
        block_hash: field(log, "blockHash").ok(),
        retracted: is_retracted(log).unwrap_or(false),
    };
    Parked { name, reason, body }
}

fn field<T: DeserializeOwned>(log: &Map<String, Value>, name: &'static str) -> Result<T, Reason> {
    let value = log.get(name).ok_or_else(|| Reason::Field { name, problem: "is missing".to_owned() })?;
    T::deserialize(value).map_err(|e| Reason::Field { name, problem: format!("is malformed: {e}") })
}

fn is_absent(log: &Map<String, Value>, name: &str) -> bool {
    log.get(name).is_none_or(Value::is_null)
}

fn is_retracted(log: &Map<String, Value>) -> Result<bool, Reason> {
    if is_absent(log, "removed") { Ok(false) } else { field(log, "removed") }
}
