//! What SQS answers to each action, by the SQS API reference. Actions that usher never calls (tags, permissions, move
//! tasks) and FIFO queues are refused.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use md5::{Digest as _, Md5};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    MAX_PAYLOAD,
    queues::{Queues, Received, Refused},
    refusal::Refusal,
};
use crate::{
    aws::{ACCOUNT, REGION},
    clock::now_ms,
};

/// SQS waits no longer for a message, however long it is asked to.
const LONGEST_POLL: Duration = Duration::from_secs(20);

/// The account's queues behind their protocol.
#[derive(Debug)]
pub(super) struct Protocol {
    queues: Mutex<Queues>,
    url: String,
    /// Told when a message may have become visible, for those who long-poll.
    changed: Notify,
}

type Answer = Result<Value, Refusal>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NamedQueue {
    queue_name: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListQueues {
    #[serde(default)]
    queue_name_prefix: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneQueue {
    queue_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetAttributes {
    queue_url: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetAttributes {
    queue_url: String,
    attributes: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Send {
    queue_url: String,
    #[serde(flatten)]
    message: Outgoing,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Outgoing {
    message_body: String,
    delay_seconds: Option<i64>,
    /// Handed back as they came.
    #[serde(default)]
    message_attributes: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receive {
    queue_url: String,
    max_number_of_messages: Option<i64>,
    visibility_timeout: Option<u32>,
    wait_time_seconds: Option<u32>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    /// The older name of the system attributes' names.
    #[serde(default)]
    attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delete {
    queue_url: String,
    receipt_handle: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeVisibility {
    queue_url: String,
    receipt_handle: String,
    visibility_timeout: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<T> {
    queue_url: String,
    entries: Vec<Entry<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<T> {
    id: String,
    #[serde(flatten)]
    value: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receipt {
    receipt_handle: String,
}

impl Protocol {
    /// `url` is where the queues are reached, e.g. `http://127.0.0.1:9324`.
    pub(super) fn new(queues: Queues, url: String) -> Self {
        Self { queues: Mutex::new(queues), url, changed: Notify::new() }
    }

    pub(super) async fn answer(&self, action: &str, body: &[u8]) -> Answer {
        match action {
            "CreateQueue" => self.create(parse(body)?),
            "GetQueueUrl" => self.get_url(parse(body)?),
            "ListQueues" => self.list(parse(body)?),
            "DeleteQueue" => self.delete_queue(parse(body)?),
            "PurgeQueue" => self.purge(parse(body)?),
            "GetQueueAttributes" => self.get_attributes(parse(body)?),
            "SetQueueAttributes" => self.set_attributes(parse(body)?),
            "SendMessage" => self.send(parse(body)?),
            "SendMessageBatch" => self.send_batch(parse(body)?),
            "ReceiveMessage" => self.receive(parse(body)?).await,
            "DeleteMessage" => self.delete(parse(body)?),
            "DeleteMessageBatch" => self.delete_batch(parse(body)?),
            "ChangeMessageVisibility" => self.change_visibility(parse(body)?),
            other => Err(Refusal::new(
                "UnsupportedOperation",
                "AWS.SimpleQueueService.UnsupportedOperation",
                format!("the action {other:?} is not offered here"),
            )),
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        // Every change is one SQLite statement or transaction: a panic elsewhere leaves nothing half done.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url_of(&self, name: &str) -> String {
        format!("{}/{ACCOUNT}/{name}", self.url)
    }

    fn create(&self, request: NamedQueue) -> Answer {
        let name = request.queue_name;
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 80 || !name.chars().all(allowed) {
            return Err(Refusal::invalid(
                "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length.",
            ));
        }
        self.queues().create(&name, request.attributes)?;
        Ok(json!({ "QueueUrl": self.url_of(&name) }))
    }

    fn get_url(&self, request: NamedQueue) -> Answer {
        self.queues().attributes(&request.queue_name)?;
        Ok(json!({ "QueueUrl": self.url_of(&request.queue_name) }))
    }

    fn list(&self, request: ListQueues) -> Answer {
        let names = self.queues().list(&request.queue_name_prefix)?;
        Ok(json!({ "QueueUrls": names.iter().map(|name| self.url_of(name)).collect::<Vec<_>>() }))
    }

    fn delete_queue(&self, request: OneQueue) -> Answer {
        self.queues().delete_queue(name_in(&request.queue_url))?;
        Ok(json!({}))
    }

    fn purge(&self, request: OneQueue) -> Answer {
        self.queues().purge(name_in(&request.queue_url))?;
        Ok(json!({}))
    }

    fn get_attributes(&self, request: GetAttributes) -> Answer {
        let mut all = self.all_attributes(name_in(&request.queue_url))?;
        all.retain(|name, _| is_asked_for(name, &request.attribute_names));
        Ok(json!({ "Attributes": all }))
    }

    fn all_attributes(&self, name: &str) -> Result<HashMap<String, String>, Refused> {
        let mut queues = self.queues();
        let depth = queues.depth(name)?;
        let (attributes, created_ms, changed_ms) = queues.attributes(name)?;
        let computed = [
            ("QueueArn", arn(name)),
            ("ApproximateNumberOfMessages", depth.visible.to_string()),
            ("ApproximateNumberOfMessagesNotVisible", depth.in_flight.to_string()),
            ("ApproximateNumberOfMessagesDelayed", depth.delayed.to_string()),
            ("VisibilityTimeout", attributes.visibility().as_secs().to_string()),
            ("DelaySeconds", attributes.delay().as_secs().to_string()),
            ("MessageRetentionPeriod", attributes.retention().as_secs().to_string()),
            ("ReceiveMessageWaitTimeSeconds", attributes.wait().as_secs().to_string()),
            ("CreatedTimestamp", (created_ms / 1000).to_string()),
            ("LastModifiedTimestamp", (changed_ms / 1000).to_string()),
        ];
        let mut all = attributes.0;
        all.extend(computed.map(|(key, value)| (key.to_owned(), value)));
        Ok(all)
    }

    fn set_attributes(&self, request: SetAttributes) -> Answer {
        self.queues().set_attributes(name_in(&request.queue_url), request.attributes)?;
        Ok(json!({}))
    }

    fn send(&self, request: Send) -> Answer {
        self.take(name_in(&request.queue_url), &request.message)
    }

    fn send_batch(&self, batch: Batch<Outgoing>) -> Answer {
        check_entries(&batch)?;
        if batch.entries.iter().map(|entry| entry.value.message_body.len()).sum::<usize>() > MAX_PAYLOAD {
            return Err(Refusal::new(
                "BatchRequestTooLong",
                "AWS.SimpleQueueService.BatchRequestTooLong",
                "Batch requests cannot be longer than 1048576 bytes.",
            ));
        }
        let name = name_in(&batch.queue_url);
        self.queues().attributes(name)?;
        Ok(each(&batch.entries, |message| self.take(name, message)))
    }

    /// Puts one message into the queue `name`.
    fn take(&self, name: &str, message: &Outgoing) -> Answer {
        let delay = check_message(message)?;
        let attributes = Value::from(message.message_attributes.clone()).to_string();
        let id = self.queues().send(name, &message.message_body, delay, &attributes)?;
        self.changed.notify_waiters();
        Ok(json!({ "MessageId": id, "MD5OfMessageBody": md5(&message.message_body) }))
    }

    async fn receive(&self, request: Receive) -> Answer {
        let name = name_in(&request.queue_url);
        let max = match request.max_number_of_messages.map(usize::try_from) {
            None => 1,
            Some(Ok(max @ 1..=10)) => max,
            Some(_) => return Err(Refusal::invalid("Reason: Must be between 1 and 10, if provided.")),
        };
        let visibility = request.visibility_timeout.map(|seconds| Duration::from_secs(seconds.into()));
        let wait = match request.wait_time_seconds {
            Some(seconds) => Duration::from_secs(seconds.into()),
            None => self.queues().attributes(name)?.0.wait(),
        };
        let deadline = Instant::now() + wait.min(LONGEST_POLL);
        let received = loop {
            // Made before the look, so that nothing that comes after it is missed.
            let changed = self.changed.notified();
            let (received, next) = self.look(name, max, visibility)?;
            if !received.is_empty() || Instant::now() >= deadline {
                break received;
            }
            tokio::select! {
                () = changed => {}
                // One that is hidden now appears, or the poll ends.
                () = sleep_until(next.map_or(deadline, |next| deadline.min(next))) => {}
            }
        };
        let asked = [&request.message_system_attribute_names[..], &request.attribute_names].concat();
        let messages: Vec<_> =
            received.into_iter().map(|received| message(received, &asked, &request.message_attribute_names)).collect();
        Ok(if messages.is_empty() { json!({}) } else { json!({ "Messages": messages }) })
    }

    /// What is visible now, and when a hidden message becomes visible.
    fn look(
        &self,
        name: &str,
        max: usize,
        visibility: Option<Duration>,
    ) -> Result<(Vec<Received>, Option<Instant>), Refused> {
        let (mut queues, now) = (self.queues(), now_ms());
        if queues.bury(name, now)? {
            self.changed.notify_waiters();
        }
        let received = queues.receive(name, now, max, visibility)?;
        let next = queues.next_visible_ms(name, now)?.and_then(|next| u64::try_from(next - now).ok());
        Ok((received, next.map(|ms| Instant::now() + Duration::from_millis(ms))))
    }

    fn delete(&self, request: Delete) -> Answer {
        self.queues().delete(name_in(&request.queue_url), &request.receipt_handle)?;
        Ok(json!({}))
    }

    fn delete_batch(&self, batch: Batch<Receipt>) -> Answer {
        check_entries(&batch)?;
        let name = name_in(&batch.queue_url);
        self.queues().attributes(name)?;
        Ok(each(&batch.entries, |receipt| {
            self.queues().delete(name, &receipt.receipt_handle)?;
            Ok(json!({}))
        }))
    }

    fn change_visibility(&self, request: ChangeVisibility) -> Answer {
        let visibility = Duration::from_secs(request.visibility_timeout.into());
        self.queues().change_visibility(name_in(&request.queue_url), &request.receipt_handle, visibility)?;
        self.changed.notify_waiters();
        Ok(json!({}))
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new("SerializationException", "SerializationException", error.to_string()))
}

/// A queue's name is the last part of its URL, whichever port that names.
fn name_in(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

fn is_asked_for(name: &str, asked: &[String]) -> bool {
    asked.iter().any(|asked| asked == "All" || asked == ".*" || asked == name)
}

/// Checks a message's limits and returns its own delay.
fn check_message(message: &Outgoing) -> Result<Option<Duration>, Refusal> {
    let body = &message.message_body;
    if body.is_empty() {
        return Err(Refusal::new(
            "MissingParameter",
            "MissingParameter",
            "The request must contain the parameter MessageBody.",
        ));
    }
    if body.len() > MAX_PAYLOAD {
        return Err(Refusal::invalid(
            "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes.",
        ));
    }
    // What XML 1.0 has characters for.
    if body.chars().any(|c| (c < ' ' && !"\t\n\r".contains(c)) || matches!(c, '\u{fffe}' | '\u{ffff}')) {
        return Err(Refusal::new("InvalidMessageContents", "InvalidMessageContents", "Invalid characters found."));
    }
    match message.delay_seconds.map(u64::try_from) {
        None => Ok(None),
        Some(Ok(seconds @ 0..=900)) => Ok(Some(Duration::from_secs(seconds))),
        Some(_) => Err(Refusal::invalid("Reason: DelaySeconds must be >= 0 and <= 900.")),
    }
}

fn check_entries<T>(batch: &Batch<T>) -> Result<(), Refusal> {
    let refuse = |shape, code, message: &str| Err(Refusal::new(shape, code, message));
    let mut ids: Vec<_> = batch.entries.iter().map(|entry| &entry.id).collect();
    ids.sort_unstable();
    ids.dedup();
    match batch.entries.len() {
        0 => refuse(
            "EmptyBatchRequest",
            "AWS.SimpleQueueService.EmptyBatchRequest",
            "There should be at least one entry in the request.",
        ),
        11.. => refuse(
            "TooManyEntriesInBatchRequest",
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            "Maximum number of entries per request are 10.",
        ),
        count if ids.len() < count => refuse(
            "BatchEntryIdsNotDistinct",
            "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            "Two or more batch entries have the same Id.",
        ),
        _ => Ok(()),
    }
}

/// Does `act` for each entry and tells which succeeded.
fn each<T>(entries: &[Entry<T>], act: impl Fn(&T) -> Answer) -> Value {
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for entry in entries {
        match act(&entry.value) {
            Ok(mut answer) => {
                answer["Id"] = json!(entry.id);
                successful.push(answer);
            }
            Err(refusal) => failed.push(json!({
                "Id": entry.id,
                "Code": refusal.code(),
                "Message": refusal.message(),
                "SenderFault": refusal.is_senders_fault(),
            })),
        }
    }
    json!({ "Successful": successful, "Failed": failed })
}

/// A received message with the attributes its receiver asks for.
fn message(received: Received, system: &[String], own: &[String]) -> Value {
    let mut attributes: Map<String, Value> = serde_json::from_str(&received.attributes).unwrap_or_default();
    attributes.retain(|name, _| is_asked_for(name, own));
    let mut system_attributes = Map::from_iter(
        [
            ("SenderId", ACCOUNT.to_owned()),
            ("SentTimestamp", received.sent_ms.to_string()),
            ("ApproximateReceiveCount", received.receive_count.to_string()),
            ("ApproximateFirstReceiveTimestamp", received.first_ms.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), Value::from(value))),
    );
    system_attributes.retain(|name, _| is_asked_for(name, system));
    let mut message = json!({
        "MessageId": received.id,
        "ReceiptHandle": received.receipt,
        "MD5OfBody": md5(&received.body),
        "Body": received.body,
    });
    for (name, attributes) in [("Attributes", system_attributes), ("MessageAttributes", attributes)] {
        if !attributes.is_empty() {
            message[name] = attributes.into();
        }
    }
    message
}

fn arn(name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
}

fn md5(body: &str) -> String {
    hex::encode(Md5::digest(body.as_bytes()))
}
