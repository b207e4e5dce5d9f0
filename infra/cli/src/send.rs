//! `usher send`: puts chain logs on the queues, one message each.

use std::{collections::BTreeMap, fs, path::PathBuf};

use alloy_primitives::Address;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use usher_chain::{ChainConfig, Chains, Ignored, Reading, Trust};
use usher_domain::{ChainId, What};

use crate::{
    Failure, print, say,
    stack::{Queue, Stack},
};

/// SQS takes ten messages at once, and 1 MiB of them.
const BATCH_MESSAGES: usize = 10;
const BATCH_BYTES: usize = 1024 * 1024;
const BATCHES_AT_ONCE: usize = 8;
const ATTEMPTS: usize = 5;
/// Beyond so many messages somebody waits and wants to see how far it is.
const PROGRESS_EVERY: usize = 1000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The chain of logs that do not say which
    #[arg(long, value_name = "N", default_value_t = ChainId(31337))]
    chain_id: ChainId,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stack: Stack,
    /// Files with one log, an array of logs, an envelope {"chainId": …, "log"|"logs": …}, or an SQS event for Lambda
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// One message to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) queue: Queue,
    pub(crate) body: String,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut by_queue = BTreeMap::<Queue, Vec<String>>::new();
    for file in &args.files {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let messages = messages(&text, args.chain_id).map_err(|error| format!("{}: {error}", file.display()))?;
        for Message { queue, body } in messages {
            by_queue.entry(queue).or_default().push(body);
        }
    }
    let counts: BTreeMap<_, _> = by_queue.iter().map(|(queue, bodies)| (*queue, bodies.len())).collect();
    let total: usize = counts.values().sum();

    let deployment = args.stack.reach().await?;
    let queues = deployment.queues().await?;
    let mut batches = Vec::new();
    for (queue, bodies) in by_queue {
        batches.extend(split(bodies).into_iter().map(|batch| (queues[&queue].live.clone(), batch)));
    }
    let client = deployment.sqs();
    let mut sent = stream::iter(batches).map(|(url, batch)| send(client, url, batch)).buffer_unordered(BATCHES_AT_ONCE);
    let mut done = 0;
    while let Some(count) = sent.try_next().await.map_err(|error| format!("after {done} of {total}: {error}"))? {
        if (done + count) / PROGRESS_EVERY > done / PROGRESS_EVERY {
            say(&format!("{} of {total}", done + count));
        }
        done += count;
    }

    if args.json {
        let counts: BTreeMap<_, _> = counts.iter().map(|(queue, count)| (queue.short_name(), count)).collect();
        print(&json!({ "sent": total, "queues": counts }).to_string());
    } else {
        let counts: Vec<_> = counts.iter().map(|(queue, count)| format!("{count} to {}", queue.short_name())).collect();
        print(&format!("sent {total}: {}", if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") }));
    }
    Ok(())
}

/// Sends one batch, what SQS could not take again, and returns how many messages it had.
async fn send(client: &aws_sdk_sqs::Client, url: String, bodies: Vec<String>) -> Result<usize, Failure> {
    let entry = |(index, body): (usize, &String)| {
        SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(body).build()
    };
    let mut entries = bodies.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
    let mut reason = String::new();
    for _ in 0..ATTEMPTS {
        let request = client.send_message_batch().queue_url(&url).set_entries(Some(entries.clone()));
        let answer = request.send().await.map_err(aws_sdk_sqs::Error::from)?;
        if answer.failed().is_empty() {
            return Ok(bodies.len());
        }
        entries.retain(|entry| answer.failed().iter().any(|failed| failed.id() == entry.id()));
        reason = answer.failed().iter().filter_map(|failed| failed.message()).collect::<Vec<_>>().join("; ");
    }
    Err(format!("SQS does not take {} messages: {reason}", entries.len()).into())
}

fn split(bodies: Vec<String>) -> Vec<Vec<String>> {
    let mut batches: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for body in bodies {
        let full = batches.last().is_none_or(|batch| batch.len() == BATCH_MESSAGES || bytes + body.len() > BATCH_BYTES);
        if full {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += body.len();
        batches.last_mut().expect("one was just made if there was none").push(body);
    }
    batches
}

/// What one file says, as messages.
pub(crate) fn messages(text: &str, chain: ChainId) -> Result<Vec<Message>, Failure> {
    let value: Value = serde_json::from_str(text)?;
    match &value {
        Value::Array(logs) => Ok(logs.iter().flat_map(|log| of_log_or_envelope(log, chain)).collect()),
        Value::Object(object) if object.contains_key("Records") => of_event(&value),
        Value::Object(object) if object.contains_key("chainId") || object.contains_key("topics") => {
            Ok(of_log_or_envelope(&value, chain))
        }
        _ => Err("neither a log, an array of logs, an envelope nor an SQS event".into()),
    }
}

/// The messages of an SQS event as Lambda gets it, each to the queue it says it came from.
fn of_event(event: &Value) -> Result<Vec<Message>, Failure> {
    let records = event["Records"].as_array().ok_or("Records is no array")?;
    let message = |record: &Value| {
        let body = record["body"].as_str().ok_or("a record has no body")?.to_owned();
        let source = record["eventSourceARN"].as_str().unwrap_or_default();
        let queue = Queue::ALL.into_iter().find(|queue| source.ends_with(&format!(":{queue}")));
        let queue = queue.ok_or_else(|| format!("a record comes from {source:?}, which is no queue of usher's"))?;
        Ok(Message { queue, body })
    };
    records.iter().map(message).collect()
}

fn of_log_or_envelope(value: &Value, chain: ChainId) -> Vec<Message> {
    let chain = value.get("chainId").cloned().unwrap_or_else(|| json!(chain));
    match (value.get("log"), value.get("logs").and_then(Value::as_array)) {
        (Some(log), None) => vec![message(&chain, log)],
        (None, Some(logs)) => logs.iter().map(|log| message(&chain, log)).collect(),
        _ => vec![message(&chain, value)],
    }
}

fn message(chain: &Value, log: &Value) -> Message {
    let body = json!({ "chainId": chain, "log": log }).to_string();
    Message { queue: queue(chain, &body), body }
}

/// Mints to mint, what takes a ticket from somebody to refund, the rest to purchase. Every function accepts
/// everything: the queue is priority and permission, never meaning.
fn queue(chain: &Value, body: &str) -> Queue {
    match usher_chain::read(body, &any_factory(chain)).pop() {
        Some(Reading::Ignored(Ignored::UnconfiguredFactory)) => Queue::Mint,
        Some(Reading::Fact(fact)) => match fact.what {
            What::EventMinted(_) => Queue::Mint,
            _ if fact.is_loss() || fact.retracted => Queue::Refund,
            _ => Queue::Purchase,
        },
        _ => Queue::Purchase,
    }
}

/// Which factories count is the stack's to know. To tell kinds of logs apart the chain must only be configured; the
/// log of any factory then reads as that of an unconfigured one.
fn any_factory(chain: &Value) -> Chains {
    let number = match chain {
        Value::String(text) => match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        },
        other => other.as_u64(),
    };
    let nobody = ChainConfig { trust: Trust::Queue, factories: [Address::repeat_byte(0xff)].into(), start_block: 0 };
    let chains: BTreeMap<_, _> = number.map(|number| (ChainId(number), nobody)).into_iter().collect();
    Chains::try_from(chains).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(name: &str) -> Vec<Message> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events").join(name);
        messages(&fs::read_to_string(path).unwrap(), ChainId(1)).unwrap()
    }

    fn queues(messages: &[Message]) -> Vec<Queue> {
        let mut queues: Vec<_> = messages.iter().map(|message| message.queue).collect();
        queues.sort();
        queues.dedup();
        queues
    }

    #[test]
    fn each_sample_goes_where_it_belongs() {
        let mint = of("logs/01-mint.json");
        assert_eq!(mint.len(), 7);
        assert_eq!(mint.iter().filter(|message| message.queue == Queue::Mint).count(), 1);
        assert!(mint.iter().all(|message| message.queue != Queue::Refund));
        for (file, expected) in [
            ("logs/02-purchase-alice.json", vec![Queue::Purchase]),
            ("logs/06-resale-bob-to-erin.json", vec![Queue::Refund]),
            ("logs/07-refund-alice.json", vec![Queue::Refund]),
            ("logs/08-burn-carol.json", vec![Queue::Refund]),
            ("mint.event.json", vec![Queue::Mint]),
            ("purchase.issue.json", vec![Queue::Purchase]),
            ("refund.retraction.json", vec![Queue::Refund]),
            ("sweep.nudge.json", vec![Queue::Nudge]),
        ] {
            assert_eq!(queues(&of(file)), expected, "{file}");
        }
        let retraction = of("logs/09-retraction-dave.json");
        assert_eq!(retraction.iter().filter(|message| message.queue == Queue::Refund).count(), 2);
        assert!(messages(r#"{"version":"0"}"#, ChainId(1)).is_err());
    }

    #[test]
    fn a_raw_log_is_wrapped_for_the_chosen_chain() {
        let envelope = of("logs/08-burn-carol.json").remove(0).body;
        let log = serde_json::from_str::<Value>(&envelope).unwrap()["log"].clone();
        for text in [log.to_string(), json!([log]).to_string()] {
            let messages = messages(&text, ChainId(1328)).unwrap();
            assert_eq!(messages[0].queue, Queue::Refund);
            let body: Value = serde_json::from_str(&messages[0].body).unwrap();
            assert_eq!(body, json!({ "chainId": 1328, "log": log }));
        }
        assert_eq!(queue(&json!("0x7a69"), &json!({ "chainId": "0x7a69", "log": log }).to_string()), Queue::Refund);
    }

    #[test]
    fn batches_are_of_ten_and_of_a_mebibyte() {
        let sizes = |bodies: Vec<String>| split(bodies).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec!["a".to_owned(); 21]), [10, 10, 1]);
        assert_eq!(sizes(vec!["a".repeat(BATCH_BYTES / 2); 3]), [2, 1]);
        assert_eq!(sizes(vec![]), Vec::<usize>::new());
    }
}
