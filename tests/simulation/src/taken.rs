//! The messages that were taken from a queue: each of their logs is in the ledger, waits, or is parked.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::keccak256;
use serde_json::Value;
use usher_domain::Fact;
use usher_store::{
    memory::MemoryTable,
    table::{Attributes as _, Item},
};
use usher_tests::haus;

use crate::{
    junk::{Fate, Junk},
    shared::Shared,
};

/// Transaction, block and index of a log.
type Place = (String, String, u64);

/// What came out of the queues.
#[derive(Default)]
pub(crate) struct Taken {
    /// Bodies that an invocation has dealt with.
    bodies: BTreeSet<String>,
    /// Logs that any invocation was given, not taken back.
    delivered: BTreeSet<Place>,
    junk: Vec<Junk>,
}

/// What the table has of a log.
struct Known {
    retracted: bool,
    waits: bool,
}

impl Taken {
    pub(crate) fn expect_junk(&mut self, junk: Junk) {
        self.junk.push(junk);
    }

    /// An invocation is given a message.
    pub(crate) fn delivered(&mut self, body: &str) {
        let logs = logs(body).into_iter().filter(|log| log["removed"] != true);
        self.delivered.extend(logs.filter_map(|log| place(&log)));
    }

    /// An invocation has dealt with a message.
    pub(crate) fn dealt_with(&mut self, shared: &Shared, body: &str) {
        let early = |log: &Value| {
            let place = concerns_us(log).then(|| place(log)).flatten();
            log["removed"] == true && place.is_some_and(|place| !self.delivered.contains(&place))
        };
        let early = logs(body).iter().any(early);
        if self.bodies.insert(body.to_owned()) && early {
            shared.count("retractions before their facts");
        }
    }

    /// Looks for every message that was taken.
    pub(crate) fn check(&self, shared: &Shared, items: &MemoryTable) {
        let (mut known, mut parked, mut kiosks) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for (key, item) in items.dump() {
            if key.pk == "parked" {
                parked.push(item.text("excerpt").unwrap_or_default().to_owned());
            } else if key.sk == "kiosk" {
                kiosks.insert(key.pk.rsplit(':').next().unwrap_or_default().to_owned());
            } else if let Some((place, log)) = read(&item, key.pk.starts_with("waiting#")) {
                // A log and its retraction wait apart.
                let retracted = known.get(&place).is_some_and(|it: &Known| it.retracted);
                known.insert(place, Known { retracted: log.retracted || retracted, waits: log.waits });
            }
        }
        self.check_logs(shared, &known, &kiosks);
        self.check_junk(shared, &parked);
    }

    fn check_logs(&self, shared: &Shared, known: &BTreeMap<Place, Known>, kiosks: &BTreeSet<String>) {
        let fate = |log: &Value| self.junk.iter().find(|junk| log["transactionHash"] == *junk.mark).map(|it| it.fate);
        for log in self.bodies.iter().flat_map(|body| logs(body)).filter(concerns_us) {
            let Some(place) = place(&log).filter(|_| fate(&log) != Some(Fate::Parked)) else { continue };
            match known.get(&place) {
                None => shared.broken(format!("a message was taken, and nothing is left of its log {log}")),
                Some(it) if log["removed"] == true && !it.retracted => {
                    shared.broken(format!("a message was taken that takes back a log, and this stands: {log}"));
                }
                // The kiosk of a mint that was taken back before it came is not known either.
                Some(it) if it.waits && log["address"].as_str().is_some_and(|kiosk| kiosks.contains(kiosk)) => {
                    shared.broken(format!("a log waits for a kiosk that is known: {log}"));
                }
                Some(it) if !it.waits && fate(&log) == Some(Fate::Waits) => {
                    shared.broken(format!("a log does not wait for its kiosk, which nobody announced: {log}"));
                }
                Some(it) => shared.count(if it.waits { "logs that wait" } else { "logs in the ledger" }),
            }
        }
    }

    fn check_junk(&self, shared: &Shared, parked: &[String]) {
        for junk in &self.junk {
            let expected = usize::from(junk.fate == Fate::Parked);
            let found = parked.iter().filter(|excerpt| excerpt.contains(&junk.mark)).count();
            if found != expected {
                shared.broken(format!("{} is parked {found} times, not {expected}: {}", junk.what, junk.body));
            }
            shared.count(junk.what);
        }
        let expected = self.junk.iter().filter(|junk| junk.fate == Fate::Parked).count();
        if parked.len() != expected {
            shared.broken(format!("{} things are parked, and {expected} could not be used", parked.len()));
        }
    }
}

fn read(item: &Item, waits: bool) -> Option<(Place, Known)> {
    let fact: Fact = serde_json::from_str(item.text("fact")?).ok()?;
    let place = (fact.transaction.to_string(), fact.position.block_hash.to_string(), fact.position.log_index);
    Some((place, Known { retracted: item.number("retracted").is_some(), waits }))
}

fn logs(body: &str) -> Vec<Value> {
    let mut body: Value = serde_json::from_str(body).unwrap_or_default();
    match (body["log"].take(), body["logs"].take()) {
        (log @ Value::Object(_), _) => vec![log],
        (_, Value::Array(logs)) => logs,
        _ => Vec::new(),
    }
}

fn place(log: &Value) -> Option<Place> {
    let text = |name: &str| Some(log[name].as_str()?.to_owned());
    let index = u64::from_str_radix(text("logIndex")?.strip_prefix("0x")?, 16).ok()?;
    Some((text("transactionHash")?, text("blockHash")?, index))
}

/// Whether a log is about an event of the factory, or about tickets of anybody but the factory.
fn concerns_us(log: &Value) -> bool {
    let is = |signature: &str| log["topics"][0] == keccak256(signature).to_string();
    let by_factory = log["address"] == serde_json::json!(haus::FACTORY);
    if by_factory {
        return is("EventCreated(uint256,address,uint256,uint256,string,string,address)");
    }
    is("Transfer(address,address,uint256)")
        || is("TicketMinted(uint256,address,string,string,uint256)")
        || is("TicketRefunded(uint256,address,uint256)")
}
