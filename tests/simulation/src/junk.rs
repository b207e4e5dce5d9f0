//! Bodies that say nothing usable, by mistake or by intent. What becomes of each is known when it is made.

use alloy_primitives::{Address, B256, keccak256};
use serde_json::{Value, json};
use usher_tests::haus::{self, Event};

use crate::dice::Dice;

/// What becomes of a body's bad log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// An operator is to look at it.
    Parked,
    /// It does not concern usher.
    Ignored,
    /// It is left to wait for a kiosk that nobody announces.
    Waits,
}

/// A bad body.
#[derive(Debug, Clone)]
pub(crate) struct Junk {
    pub(crate) what: &'static str,
    pub(crate) body: String,
    /// A text that nothing else has.
    pub(crate) mark: String,
    pub(crate) fate: Fate,
}

/// A body of this number; maybe one that is healthy but for one log.
pub(crate) fn draw(number: usize, event: &Event, healthy: Option<&str>, dice: &mut Dice) -> Junk {
    let mark = keccak256(format!("junk {number}"));
    let junk = |what, body: String, fate| Junk { what, body, mark: mark.to_string(), fate };
    let envelope = |log: Value| json!({"chainId": haus::CHAIN.0, "log": log}).to_string();
    let buyer = Address::from_word(mark);
    let sale = || log(haus::Chain::default().purchase(event, 1, buyer).logs.swap_remove(0), mark);
    let minting = || log(haus::Chain::default().mint(event).logs.swap_remove(5), mark);
    match dice.below(9) {
        0 => junk("no JSON", format!(r#"{{"chainId":{},"log":{{"note":"{mark}""#, haus::CHAIN.0), Fate::Parked),
        1 => junk("no envelope", json!({ "note": mark }).to_string(), Fate::Parked),
        2 => junk("a wrong number of topics", envelope(with_a_topic_less(sale())), Fate::Parked),
        3 => {
            let mut log = minting();
            log["data"] = "0x00".into();
            junk("data that do not decode", envelope(log), Fate::Parked)
        }
        4 => {
            let mut log = sale();
            log["logIndex"] = "first".into();
            junk("a malformed field", envelope(log), Fate::Parked)
        }
        5 => junk("another chain", json!({"chainId": 1, "log": sale()}).to_string(), Fate::Parked),
        6 => {
            let mut log = minting();
            log["address"] = json!(Address::from_word(mark));
            junk("an unknown factory", envelope(log), Fate::Ignored)
        }
        7 => {
            let mut log = sale();
            log["address"] = json!(Address::from_word(mark));
            junk("an unknown kiosk", envelope(log), Fate::Waits)
        }
        _ => {
            let mut body: Value = healthy.and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
            let bad = with_a_topic_less(sale());
            match body["logs"].as_array_mut() {
                Some(logs) => {
                    logs.push(bad);
                    junk("one bad log among others", body.to_string(), Fate::Parked)
                }
                None => junk("a wrong number of topics", envelope(bad), Fate::Parked),
            }
        }
    }
}

/// The log as of a transaction that nobody else speaks of.
fn log(mut log: Value, transaction: B256) -> Value {
    log["transactionHash"] = json!(transaction);
    log["blockHash"] = json!(keccak256(transaction));
    log
}

fn with_a_topic_less(mut log: Value) -> Value {
    log["topics"].as_array_mut().expect("a log has topics").pop();
    log
}
