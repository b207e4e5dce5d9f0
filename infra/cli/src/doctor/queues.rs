//! Queues, where their messages go that fail, and how many lie there.

use std::collections::HashMap;

use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use serde_json::Value;
use usher_lambda::telemetry::Chain;

use super::Check;
use crate::{
    Failure,
    outputs::QueueUrls,
    stack::{Deployment, Queue},
};

/// Six times a function's timeout, as Lambda asks for.
const VISIBILITY_S_MIN: u32 = 180;
const DEPLOY: &str = "deploy template.yaml again: somebody changed the queue by hand";

pub(super) async fn look(deployment: &Deployment) -> Vec<Check> {
    let queues = match deployment.queues().await {
        Ok(queues) => queues,
        Err(error) => {
            return vec![Check::fail("queues", error.to_string(), "start `usher dev`, or deploy the stack")];
        }
    };
    let mut checks = Vec::new();
    for (queue, urls) in queues {
        match one(deployment.sqs(), queue, &urls).await {
            Ok(looked) => checks.extend(looked),
            Err(error) => {
                let fix = "see whether the queue is there and may be read";
                checks.push(Check::fail(name(queue), Chain(&*error).to_string(), fix));
            }
        }
    }
    checks
}

fn name(queue: Queue) -> String {
    format!("queue {}", queue.short_name())
}

async fn one(client: &aws_sdk_sqs::Client, queue: Queue, urls: &QueueUrls) -> Result<[Check; 2], Failure> {
    let live = attributes(client, &urls.live).await?;
    let dead = attributes(client, &urls.dead).await?;
    let arn = dead.get(&Attribute::QueueArn).cloned().unwrap_or_default();
    let dead_letters = format!("dead letters of {}", queue.short_name());
    let letters = waiting(&dead);
    let letters = match letters {
        0 => Check::ok(dead_letters, "none"),
        _ => Check::warn(
            dead_letters,
            format!("{letters}, each failed several times"),
            format!("see the log of usher-{} why; then `usher redrive {0}`", queue.short_name()),
        ),
    };
    Ok([settings(queue, &live, &arn), letters])
}

/// How a queue is set up, and how much is in it.
fn settings(queue: Queue, live: &HashMap<Attribute, String>, dead_arn: &str) -> Check {
    let visibility_s: u32 = live.get(&Attribute::VisibilityTimeout).and_then(|text| text.parse().ok()).unwrap_or(0);
    let redrive: Value =
        live.get(&Attribute::RedrivePolicy).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if redrive["deadLetterTargetArn"] != dead_arn {
        return Check::fail(name(queue), "messages that fail do not go to its dead-letter queue", DEPLOY);
    }
    if visibility_s < VISIBILITY_S_MIN {
        let seen = format!("messages come again after {visibility_s} s, when their function may still be at work");
        return Check::fail(name(queue), seen, DEPLOY);
    }
    Check::ok(name(queue), format!("{} waiting or at work", waiting(live)))
}

/// How many messages are there, those at work included.
fn waiting(attributes: &HashMap<Attribute, String>) -> u64 {
    let states = [
        Attribute::ApproximateNumberOfMessages,
        Attribute::ApproximateNumberOfMessagesNotVisible,
        Attribute::ApproximateNumberOfMessagesDelayed,
    ];
    states.iter().filter_map(|state| attributes.get(state)?.parse::<u64>().ok()).sum()
}

async fn attributes(client: &aws_sdk_sqs::Client, url: &str) -> Result<HashMap<Attribute, String>, Failure> {
    let found = client.get_queue_attributes().queue_url(url).attribute_names(Attribute::All).send().await;
    Ok(found.map_err(aws_sdk_sqs::Error::from)?.attributes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn queue(visibility: &str, dead_arn: &str) -> HashMap<Attribute, String> {
        let redrive = serde_json::json!({ "deadLetterTargetArn": dead_arn, "maxReceiveCount": 5 });
        HashMap::from([
            (Attribute::VisibilityTimeout, visibility.to_owned()),
            (Attribute::RedrivePolicy, redrive.to_string()),
            (Attribute::ApproximateNumberOfMessages, "2".to_owned()),
            (Attribute::ApproximateNumberOfMessagesNotVisible, "3".to_owned()),
        ])
    }

    #[test]
    fn what_somebody_changed_by_hand_is_noticed() {
        let good = settings(Queue::Mint, &queue("180", "arn:dlq"), "arn:dlq");
        assert_eq!((good.status, good.seen.as_str()), (Status::Ok, "5 waiting or at work"));
        assert_eq!(settings(Queue::Mint, &queue("30", "arn:dlq"), "arn:dlq").status, Status::Fail);
        assert_eq!(settings(Queue::Mint, &queue("180", "arn:other"), "arn:dlq").status, Status::Fail);
        assert_eq!(settings(Queue::Mint, &HashMap::new(), "arn:dlq").status, Status::Fail);
    }
}
