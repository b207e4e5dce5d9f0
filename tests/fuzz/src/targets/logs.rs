//! Logs of contracts: real ones with changed topics, data and places, in envelopes that are well-formed.

use serde_json::{Map, Value, json};

use super::queue_bodies::{SAMPLES, deliver};
use crate::{
    Target,
    mutate::{Choices, mutate},
};

/// An envelope of up to four changed logs; what is beside it in the batch is stored.
pub const TARGET: Target = Target { name: "logs", run, seeds, smoke: 1_500 };

/// Places in a chain, and what is none.
const QUANTITIES: [&str; 8] = [
    "\"0x0\"",
    "\"0x10\"",
    "\"0xffffffffffffffff\"",
    "\"0x10000000000000000\"",
    "18446744073709551615",
    "-1",
    "null",
    "[]",
];

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let known: Vec<Map<String, Value>> = SAMPLES.iter().flat_map(|sample| logs(sample)).collect();
    let logs: Vec<_> = (0..=choices.below(4)).map(|_| changed(&known, &mut choices)).collect();
    deliver(&json!({ "chainId": 31337, "logs": logs }).to_string());
}

fn logs(sample: &str) -> Vec<Map<String, Value>> {
    let Ok(mut envelope) = serde_json::from_str::<Map<String, Value>>(sample) else { return Vec::new() };
    let one = envelope.remove("log").into_iter();
    let many = envelope.remove("logs").and_then(|logs| logs.as_array().cloned()).unwrap_or_default();
    one.chain(many).filter_map(|log| log.as_object().cloned()).collect()
}

fn changed(known: &[Map<String, Value>], choices: &mut Choices<'_>) -> Map<String, Value> {
    let mut log = choices.pick(known).cloned().unwrap_or_default();
    for _ in 0..choices.below(4) {
        let other = choices.pick(known).cloned().unwrap_or_default();
        match choices.below(6) {
            0 => change_hex(log.get_mut("data"), choices),
            1 => {
                let topics = log.get_mut("topics").and_then(Value::as_array_mut);
                let topic = topics.and_then(|topics| {
                    let at = choices.below(topics.len());
                    topics.get_mut(at)
                });
                change_hex(topic, choices);
            }
            2 => {
                if let Some(topics) = log.get_mut("topics").and_then(Value::as_array_mut) {
                    topics.truncate(choices.below(topics.len() + 1));
                    let more = other.get("topics").and_then(Value::as_array).cloned().unwrap_or_default();
                    topics.extend(more.into_iter().skip(choices.below(4)));
                }
            }
            3 => {
                let name = *choices.pick(&["blockNumber", "logIndex", "removed"]).expect("there are some");
                let value = *choices.pick(&QUANTITIES).expect("there are some");
                log.insert(name.to_owned(), serde_json::from_str(value).expect("they are JSON"));
            }
            4 => {
                let names: Vec<&String> = other.keys().collect();
                if let Some(name) = choices.pick(&names) {
                    log.insert((*name).clone(), other[*name].clone());
                }
            }
            _ => {
                let names: Vec<String> = log.keys().cloned().collect();
                if let Some(name) = choices.pick(&names) {
                    log.remove(name);
                }
            }
        }
    }
    log
}

/// Changes bytes that are written as hex.
fn change_hex(value: Option<&mut Value>, choices: &mut Choices<'_>) {
    let Some(value) = value else { return };
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).unwrap_or_default();
    let bytes = hex::decode(digits).unwrap_or_default();
    *value = format!("0x{}", hex::encode(mutate(&bytes, &[], choices))).into();
}

fn seeds() -> Vec<Vec<u8>> {
    let logs = SAMPLES.iter().map(|sample| logs(sample).len()).sum::<usize>();
    (0..logs).map(|log| vec![0, u8::try_from(log).expect("there are few")]).collect()
}
