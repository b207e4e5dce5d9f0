//! The queues of a dev stack, set up as template.yaml sets them up.

use std::collections::BTreeMap;

use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;

use crate::stack::{DEAD_LETTERS_KEPT_S, MAX_RECEIVES, MESSAGES_KEPT_S, Queue, VISIBILITY_S};

/// Creates the queues that are not there yet, each with its dead-letter queue, and returns all URLs.
pub(super) async fn create(client: &aws_sdk_sqs::Client) -> Result<BTreeMap<String, String>, aws_sdk_sqs::Error> {
    let mut urls = BTreeMap::new();
    for queue in Queue::ALL {
        let kept = (QueueAttributeName::MessageRetentionPeriod, DEAD_LETTERS_KEPT_S.to_string());
        let dead = create_queue(client, format!("{queue}-dlq"), [kept]).await?;
        let attributes = client.get_queue_attributes().queue_url(&dead).attribute_names(QueueAttributeName::QueueArn);
        let attributes = attributes.send().await?.attributes.unwrap_or_default();
        let redrive = json!({
            "deadLetterTargetArn": attributes.get(&QueueAttributeName::QueueArn),
            "maxReceiveCount": MAX_RECEIVES,
        });
        let visibility = (QueueAttributeName::VisibilityTimeout, VISIBILITY_S.to_string());
        let redrive = (QueueAttributeName::RedrivePolicy, redrive.to_string());
        let kept = (QueueAttributeName::MessageRetentionPeriod, MESSAGES_KEPT_S.to_string());
        let live = create_queue(client, queue.to_string(), [visibility, redrive, kept]).await?;
        urls.insert(format!("{}-dlq", queue.short_name()), dead);
        urls.insert(queue.short_name().to_owned(), live);
    }
    Ok(urls)
}

/// Attributes are set afterwards: creating a kept queue with others than it has is refused.
async fn create_queue(
    client: &aws_sdk_sqs::Client,
    name: String,
    attributes: impl IntoIterator<Item = (QueueAttributeName, String)>,
) -> Result<String, aws_sdk_sqs::Error> {
    let url = client.create_queue().queue_name(name).send().await?.queue_url.unwrap_or_default();
    let attributes = attributes.into_iter().collect();
    client.set_queue_attributes().queue_url(&url).set_attributes(Some(attributes)).send().await?;
    Ok(url)
}
