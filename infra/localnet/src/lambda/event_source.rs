//! SQS to Lambda: polls a queue, invokes the function with batches, deletes what succeeded.
//!
//! As the event source mapping does it with `ReportBatchItemFailures`: what failed stays, and is seen again when the
//! queue's visibility timeout has run out.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::{
    Client,
    types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName, QueueAttributeName},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinHandle, JoinSet},
};

use super::function::Function;
use crate::aws::REGION;

/// After a failed poll.
const PAUSE: Duration = Duration::from_millis(500);

/// What connects a queue with a function.
#[derive(Debug, Clone)]
pub struct EventSourceConfig {
    /// The queue's URL.
    pub queue_url: String,
    /// The most records in one invocation: 1 to 10.
    pub batch_size: i32,
    /// The most invocations at once.
    pub maximum_concurrency: usize,
}

/// A running event source mapping.
#[derive(Debug)]
pub struct SqsEventSource {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl SqsEventSource {
    /// Starts to poll.
    ///
    /// # Errors
    /// The queue cannot be asked for its ARN.
    pub async fn start(
        client: Client,
        config: EventSourceConfig,
        function: Arc<Function>,
    ) -> Result<Self, aws_sdk_sqs::Error> {
        let attributes = client
            .get_queue_attributes()
            .queue_url(&config.queue_url)
            .attribute_names(QueueAttributeName::QueueArn)
            .send()
            .await?;
        let arn = attributes.attributes().and_then(|all| all.get(&QueueAttributeName::QueueArn)).cloned();
        let mapping = Mapping { client, arn: arn.unwrap_or_default(), config, function };
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(poll(Arc::new(mapping), stopped));
        Ok(Self { stop, task })
    }

    /// Stops polling and lets running invocations end, for at most `patience`; after that they are dropped, their
    /// processes killed and their messages left in the queue.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(patience, &mut self.task).await.is_err() {
            self.task.abort();
            // Returns when the invocations it held are dropped.
            let _ = self.task.await;
        }
    }
}

#[derive(Debug)]
struct Mapping {
    client: Client,
    arn: String,
    config: EventSourceConfig,
    function: Arc<Function>,
}

async fn poll(mapping: Arc<Mapping>, mut stopped: watch::Receiver<bool>) {
    let free = Arc::new(Semaphore::new(mapping.config.maximum_concurrency));
    // Dropping the set ends its tasks.
    let mut running = JoinSet::new();
    loop {
        let batch = tokio::select! {
            batch = mapping.batch(&free) => batch,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        while running.try_join_next().is_some() {}
        let Some((messages, permit)) = batch else { continue };
        let mapping = Arc::clone(&mapping);
        running.spawn(async move {
            mapping.work(messages).await;
            drop(permit);
        });
    }
    while running.join_next().await.is_some() {}
}

impl Mapping {
    /// Waits until an invocation may be begun and there is something for it.
    async fn batch(&self, free: &Arc<Semaphore>) -> Option<(Vec<Message>, OwnedSemaphorePermit)> {
        let permit = Arc::clone(free).acquire_owned().await.expect("this semaphore is never closed");
        let received = self
            .client
            .receive_message()
            .queue_url(&self.config.queue_url)
            .max_number_of_messages(self.config.batch_size)
            .wait_time_seconds(20)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await;
        match received {
            Ok(received) => {
                let messages = received.messages.unwrap_or_default();
                (!messages.is_empty()).then_some((messages, permit))
            }
            Err(error) => {
                let error = aws_sdk_sqs::Error::from(error);
                tracing::warn!(queue = self.config.queue_url, %error, "cannot be polled");
                pause().await;
                None
            }
        }
    }

    async fn work(&self, messages: Vec<Message>) {
        let event = json!({ "Records": messages.iter().map(|message| self.record(message)).collect::<Vec<_>>() });
        let response = self.function.invoke(Bytes::from(event.to_string())).await;
        let failures = response.map_or(Failures::All, |response| failures(&response, &messages));
        let done = messages.iter().filter(|message| !failures.has(message.message_id().unwrap_or_default()));
        let entries: Vec<_> = done.enumerate().filter_map(|(index, message)| deletion(index, message)).collect();
        if entries.is_empty() {
            return;
        }
        let deleted =
            self.client.delete_message_batch().queue_url(&self.config.queue_url).set_entries(Some(entries)).send();
        // A message that stays is delivered again, which SQS allows at any time.
        match deleted.await {
            Ok(deleted) if deleted.failed().is_empty() => {}
            Ok(deleted) => tracing::warn!(failed = deleted.failed().len(), "messages not deleted"),
            Err(error) => {
                let error = aws_sdk_sqs::Error::from(error);
                tracing::warn!(%error, "messages not deleted");
            }
        }
    }

    /// A message as Lambda hands it to the function.
    fn record(&self, message: &Message) -> Value {
        let system = message.attributes().into_iter().flatten();
        let system: Map<_, _> = system.map(|(name, value)| (name.as_str().to_owned(), json!(value))).collect();
        let attributes = message.message_attributes().into_iter().flatten();
        let attributes: Map<_, _> = attributes
            .map(|(name, value)| {
                let value = json!({
                    "stringValue": value.string_value(),
                    "stringListValues": [],
                    "binaryListValues": [],
                    "dataType": value.data_type(),
                });
                (name.clone(), value)
            })
            .collect();
        json!({
            "messageId": message.message_id(),
            "receiptHandle": message.receipt_handle(),
            "body": message.body(),
            "attributes": system,
            "messageAttributes": attributes,
            "md5OfBody": message.md5_of_body(),
            "eventSource": "aws:sqs",
            "eventSourceARN": self.arn,
            "awsRegion": REGION,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "a poller that cannot reach its queue has no condition to await")]
async fn pause() {
    tokio::time::sleep(PAUSE).await;
}

fn deletion(index: usize, message: &Message) -> Option<DeleteMessageBatchRequestEntry> {
    let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
    entry.receipt_handle(message.receipt_handle()?).build().ok()
}

/// Which messages of a batch failed.
#[derive(Debug, PartialEq, Eq)]
enum Failures {
    All,
    These(Vec<String>),
}

impl Failures {
    fn has(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(ids) => ids.iter().any(|failed| failed == id),
        }
    }
}

/// Reads a response as Lambda does (developer guide, "Handling errors for an SQS event source"): nothing reported is
/// success; what cannot be understood, or names no message of the batch, fails the batch.
fn failures(response: &[u8], messages: &[Message]) -> Failures {
    let Ok(response) = serde_json::from_slice::<Value>(response) else { return Failures::All };
    let items = match response.get("batchItemFailures") {
        None | Some(Value::Null) => return Failures::These(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Failures::All,
    };
    let known = |id: &&str| messages.iter().any(|message| message.message_id() == Some(*id));
    let ids: Option<Vec<_>> =
        items.iter().map(|item| item["itemIdentifier"].as_str().filter(known).map(str::to_owned)).collect();
    ids.map_or(Failures::All, Failures::These)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<Message> {
        ["a", "b"].map(|id| Message::builder().message_id(id).build()).to_vec()
    }

    #[test]
    fn a_response_without_failures_is_success() {
        for response in ["null", "{}", r#"{"batchItemFailures":null}"#, r#"{"batchItemFailures":[]}"#, r#""text""#] {
            assert_eq!(failures(response.as_bytes(), &batch()), Failures::These(vec![]), "{response}");
        }
    }

    #[test]
    fn a_response_names_the_failures() {
        let response = br#"{"batchItemFailures":[{"itemIdentifier":"b"}]}"#;
        assert_eq!(failures(response, &batch()), Failures::These(vec!["b".to_owned()]));
    }

    #[test]
    fn a_response_that_cannot_be_understood_fails_the_batch() {
        for response in [
            "",
            "{",
            r#"{"batchItemFailures":{}}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#,
            r#"{"batchItemFailures":[{"identifier":"a"}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"unknown"}]}"#,
        ] {
            assert_eq!(failures(response.as_bytes(), &batch()), Failures::All, "{response}");
        }
    }
}
