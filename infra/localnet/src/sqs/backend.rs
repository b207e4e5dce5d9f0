//! winterbaume's storage port over [`Queues`]. What usher never calls (tags, permissions, move tasks) is refused.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use md5::{Digest as _, Md5};
use serde_json::{Map, Value, json};
use winterbaume_core::StateViewError;
use winterbaume_sqs::{
    SendMessageOutput, SqsBackend, SqsStateView,
    state::SqsError,
    types::{Message, MessageAttribute, MessageMoveTask, Queue},
};

use super::queues::{Queues, Received, Refused};
use crate::aws::{ACCOUNT, REGION};

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, SqsError>> + Send>>;
type StateAnswer<T> = Pin<Box<dyn Future<Output = Result<T, StateViewError>> + Send>>;

/// The queues behind the protocol. Account and region are fixed: what the protocol passes is not looked at.
#[derive(Debug)]
pub(super) struct Backend {
    queues: Mutex<Queues>,
    url: String,
}

impl Backend {
    /// `url` is where the queues are reached, e.g. `http://127.0.0.1:9324`.
    pub(super) fn new(queues: Queues, url: String) -> Self {
        Self { queues: Mutex::new(queues), url }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        // Every change is one SQLite statement or transaction: a panic elsewhere leaves nothing half done.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url_of(&self, name: &str) -> String {
        format!("{}/{ACCOUNT}/{name}", self.url)
    }

    fn queue(&self, name: &str) -> Queue {
        Queue {
            name: name.to_owned(),
            url: self.url_of(name),
            arn: arn(name),
            region: REGION.to_owned(),
            account_id: ACCOUNT.to_owned(),
            // The protocol reads the URL only; attributes are answered by `all_attributes`.
            created_timestamp: Default::default(),
            last_modified_timestamp: Default::default(),
            visibility_timeout: 0,
            delay_seconds: 0,
            maximum_message_size: 0,
            message_retention_period: 0,
            receive_wait_time_seconds: 0,
            fifo_queue: false,
            content_based_deduplication: false,
        }
    }

    fn create(&self, name: &str, attributes: HashMap<String, String>) -> Result<Queue, SqsError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 80 || !name.chars().all(allowed) {
            return Err(SqsError::InvalidQueueName);
        }
        self.queues().create(name, attributes).map_err(refusal)?;
        Ok(self.queue(name))
    }

    fn all_attributes(&self, name: &str) -> Result<HashMap<String, String>, SqsError> {
        let mut queues = self.queues();
        let depth = queues.depth(name).map_err(refusal)?;
        let (attributes, created_ms, changed_ms) = queues.attributes(name).map_err(refusal)?;
        let computed = [
            ("QueueArn", arn(name)),
            ("ApproximateNumberOfMessages", depth.visible.to_string()),
            ("ApproximateNumberOfMessagesNotVisible", depth.in_flight.to_string()),
            ("ApproximateNumberOfMessagesDelayed", depth.delayed.to_string()),
            ("VisibilityTimeout", attributes.visibility().as_secs().to_string()),
            ("DelaySeconds", attributes.delay().as_secs().to_string()),
            ("MessageRetentionPeriod", attributes.retention().as_secs().to_string()),
            ("CreatedTimestamp", (created_ms / 1000).to_string()),
            ("LastModifiedTimestamp", (changed_ms / 1000).to_string()),
        ];
        let mut all = attributes.0;
        all.extend(computed.map(|(key, value)| (key.to_owned(), value)));
        Ok(all)
    }

    fn send(
        &self,
        name: &str,
        body: &str,
        delay_s: Option<u32>,
        attributes: &HashMap<String, MessageAttribute>,
    ) -> Result<SendMessageOutput, SqsError> {
        let attributes: Map<String, Value> = attributes
            .iter()
            .map(|(name, value)| (name.clone(), json!({ "type": value.data_type, "text": value.string_value })))
            .collect();
        let delay = delay_s.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let id = self.queues().send(name, body, delay, &Value::from(attributes).to_string()).map_err(refusal)?;
        Ok(SendMessageOutput { message_id: id, body_md5: md5(body) })
    }
}

fn arn(name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
}

fn md5(body: &str) -> String {
    hex::encode(Md5::digest(body.as_bytes()))
}

fn message(received: Received) -> Message {
    let attributes: Map<String, Value> = serde_json::from_str(&received.attributes).unwrap_or_default();
    let attribute = |value: &Value| MessageAttribute {
        data_type: value["type"].as_str().unwrap_or_default().to_owned(),
        string_value: value["text"].as_str().map(str::to_owned),
        binary_value: None,
    };
    Message {
        message_id: received.id,
        body_md5: md5(&received.body),
        body: received.body,
        receipt_handle: Some(received.receipt),
        all_receipt_handles: Vec::new(),
        sender_id: ACCOUNT.to_owned(),
        sent_timestamp: received.sent_ms,
        approximate_first_receive_timestamp: Some(received.first_ms),
        approximate_receive_count: received.receive_count,
        visible_at: 0,
        message_attributes: attributes.iter().map(|(name, value)| (name.clone(), attribute(value))).collect(),
    }
}

fn refusal(refused: Refused) -> SqsError {
    match refused {
        Refused::NoSuchQueue => SqsError::NonExistentQueue,
        Refused::NoSuchDeadLetterQueue(name) => SqsError::SourceArnNotFound { source_arn: arn(&name) },
        Refused::OtherAttributes => SqsError::QueueAlreadyExists,
        Refused::NoSuchReceipt => SqsError::InvalidReceiptHandle { receipt_handle: "(not in flight)".to_owned() },
        Refused::Database(error) => SqsError::InternalError(error.to_string()),
    }
}

fn answer<T: Send + 'static>(result: Result<T, SqsError>) -> Answer<T> {
    Box::pin(std::future::ready(result))
}

fn refuse<T: Send + 'static>(what: &str) -> Answer<T> {
    answer(Err(SqsError::InternalError(format!("{what} is not offered here"))))
}

impl SqsBackend for Backend {
    fn create_queue(
        &self,
        _account: String,
        _region: String,
        name: String,
        attributes: HashMap<String, String>,
        _tags: Option<HashMap<String, String>>,
    ) -> Answer<Queue> {
        answer(self.create(&name, attributes))
    }

    fn delete_queue(&self, _account: String, _region: String, name: String) -> Answer<()> {
        answer(self.queues().delete_queue(&name).map_err(refusal))
    }

    fn get_queue_url(&self, _account: String, _region: String, name: String) -> Answer<String> {
        answer(self.queues().attributes(&name).map(|_| self.url_of(&name)).map_err(refusal))
    }

    fn get_queue_attributes(&self, _account: String, _region: String, name: String) -> Answer<HashMap<String, String>> {
        answer(self.all_attributes(&name))
    }

    fn set_queue_attributes(
        &self,
        _account: String,
        _region: String,
        name: String,
        attributes: HashMap<String, String>,
    ) -> Answer<()> {
        answer(self.queues().set_attributes(&name, attributes).map_err(refusal))
    }

    fn list_queues(&self, _account: String, _region: String, prefix: Option<String>) -> Answer<Vec<Queue>> {
        let names = self.queues().list(&prefix.unwrap_or_default()).map_err(refusal);
        answer(names.map(|names| names.iter().map(|name| self.queue(name)).collect()))
    }

    fn send_message(
        &self,
        _account: String,
        _region: String,
        name: String,
        body: String,
        delay_seconds: Option<u32>,
        attributes: HashMap<String, MessageAttribute>,
        _group: Option<String>,
        _deduplication: Option<String>,
    ) -> Answer<SendMessageOutput> {
        answer(self.send(&name, &body, delay_seconds, &attributes))
    }

    fn receive_messages(
        &self,
        _account: String,
        _region: String,
        name: String,
        max: usize,
        visibility_timeout: Option<u32>,
    ) -> Answer<Vec<Message>> {
        let visibility = visibility_timeout.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let received = self.queues().receive(&name, max, visibility).map_err(refusal);
        answer(received.map(|received| received.into_iter().map(message).collect()))
    }

    fn delete_message(&self, _account: String, _region: String, name: String, receipt: String) -> Answer<()> {
        answer(self.queues().delete(&name, &receipt).map_err(refusal))
    }

    fn purge_queue(&self, _account: String, _region: String, name: String) -> Answer<()> {
        answer(self.queues().purge(&name).map_err(refusal))
    }

    fn change_message_visibility(
        &self,
        _account: String,
        _region: String,
        name: String,
        receipt: String,
        visibility_timeout: u32,
    ) -> Answer<()> {
        let visibility = Duration::from_secs(u64::from(visibility_timeout));
        answer(self.queues().change_visibility(&name, &receipt, visibility).map_err(refusal))
    }

    fn change_message_visibility_batch(
        &self,
        _account: String,
        _region: String,
        name: String,
        entries: Vec<(String, String, u32)>,
    ) -> Answer<Vec<String>> {
        let mut queues = self.queues();
        let change = |(id, receipt, seconds): (String, String, u32)| {
            let visibility = Duration::from_secs(u64::from(seconds));
            queues.change_visibility(&name, &receipt, visibility).map(|()| id)
        };
        answer(entries.into_iter().map(change).collect::<Result<_, _>>().map_err(refusal))
    }

    fn list_queue_tags(&self, _account: String, _region: String, _name: String) -> Answer<HashMap<String, String>> {
        refuse("ListQueueTags")
    }

    fn tag_queue(
        &self,
        _account: String,
        _region: String,
        _name: String,
        _tags: HashMap<String, String>,
    ) -> Answer<()> {
        refuse("TagQueue")
    }

    fn untag_queue(&self, _account: String, _region: String, _name: String, _keys: Vec<String>) -> Answer<()> {
        refuse("UntagQueue")
    }

    fn add_permission(
        &self,
        _account: String,
        _region: String,
        _name: String,
        _label: String,
        _accounts: Vec<String>,
        _actions: Vec<String>,
    ) -> Answer<()> {
        refuse("AddPermission")
    }

    fn remove_permission(&self, _account: String, _region: String, _name: String, _label: String) -> Answer<()> {
        refuse("RemovePermission")
    }

    fn list_dead_letter_source_queues(&self, _account: String, _region: String, _name: String) -> Answer<Vec<String>> {
        refuse("ListDeadLetterSourceQueues")
    }

    fn start_message_move_task(
        &self,
        _account: String,
        _region: String,
        _source: String,
        _destination: Option<String>,
        _rate: Option<i32>,
    ) -> Answer<String> {
        refuse("StartMessageMoveTask")
    }

    fn cancel_message_move_task(&self, _account: String, _region: String, _task: String) -> Answer<i64> {
        refuse("CancelMessageMoveTask")
    }

    fn list_message_move_tasks(
        &self,
        _account: String,
        _region: String,
        _source: String,
    ) -> Answer<Vec<MessageMoveTask>> {
        refuse("ListMessageMoveTasks")
    }

    fn scopes_with_state(&self) -> Vec<(String, String)> {
        vec![(ACCOUNT.to_owned(), REGION.to_owned())]
    }

    // The queues keep their own state: winterbaume's snapshots are for its other services.

    fn snapshot(&self, _account: String, _region: String) -> Pin<Box<dyn Future<Output = SqsStateView> + Send>> {
        Box::pin(std::future::ready(SqsStateView::default()))
    }

    fn restore(&self, _account: String, _region: String, _view: SqsStateView) -> StateAnswer<()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn merge(&self, _account: String, _region: String, _view: SqsStateView) -> StateAnswer<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
