//! Queues, where their messages go that fail, and how many lie there.

use std::collections::HashMap;

use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use serde_json::Value;
use usher_lambda::telemetry::Chain;

use super::{Check, policies};
use crate::{
    Failure,
    outputs::QueueUrls,
    stack::{DEAD_LETTERS_KEPT_S, Deployment, MAX_RECEIVES, MESSAGES_KEPT_S, Queue, VISIBILITY_S},
};

pub(super) const DEPLOY: &str = "deploy template.yaml again: somebody changed the queue by hand";

pub(super) async fn look(deployment: &Deployment) -> Vec<Check> {
    let queues = match deployment.queues().await {
        Ok(queues) => queues,
        Err(error) => {
            return vec![Check::fail("queues", error.to_string(), "start `usher dev`, or deploy the stack")];
        }
    };
    let mut checks = Vec::new();
    for (queue, urls) in queues {
        match one(deployment, queue, &urls).await {
            Ok(looked) => checks.extend(looked),
            Err(error) => {
                let fix = "see whether the queue is there and may be read";
                checks.push(Check::fail(name(queue), Chain(&*error).to_string(), fix));
            }
        }
    }
    if deployment.outputs().is_none() {
        let fix = "nothing, on this machine; a deployed stack's queues have policies";
        checks.push(Check::warn("queue policies", "there are none: whoever reaches SQS's port may send", fix));
    }
    checks
}

fn name(queue: Queue) -> String {
    format!("queue {}", queue.short_name())
}

async fn one(deployment: &Deployment, queue: Queue, urls: &QueueUrls) -> Result<Vec<Check>, Failure> {
    let live = attributes(deployment.sqs(), &urls.live).await?;
    let dead = attributes(deployment.sqs(), &urls.dead).await?;
    let dead_letters = format!("dead letters of {}", queue.short_name());
    let letters = waiting(&dead);
    let letters = match (letters, wrong_with_dead_letters(&dead)) {
        (_, Some(wrong)) => Check::fail(dead_letters, wrong, DEPLOY),
        (0, None) => Check::ok(dead_letters, "none"),
        (_, None) => Check::warn(
            dead_letters,
            format!("{letters}, each failed several times"),
            format!("see the log of usher-{} why; then `usher redrive {0}`", queue.short_name()),
        ),
    };
    let settings = match wrong(&live, &dead) {
        Some(wrong) => Check::fail(name(queue), wrong, DEPLOY),
        None => Check::ok(name(queue), format!("{} waiting or at work", waiting(&live))),
    };
    let mut checks = vec![settings, letters];
    if let Some(outputs) = deployment.outputs() {
        checks.push(policies::check(queue, policy(&live), policy(&dead), &outputs.senders));
    }
    Ok(checks)
}

fn policy(attributes: &HashMap<Attribute, String>) -> &str {
    attributes.get(&Attribute::Policy).map(String::as_str).unwrap_or_default()
}

fn number(attributes: &HashMap<Attribute, String>, name: &Attribute) -> Option<u32> {
    attributes.get(name)?.parse().ok()
}

/// What about a queue is not as template.yaml sets it, if anything.
fn wrong(live: &HashMap<Attribute, String>, dead: &HashMap<Attribute, String>) -> Option<String> {
    let redrive: Value =
        live.get(&Attribute::RedrivePolicy).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let target = redrive["deadLetterTargetArn"].as_str();
    if target.is_none() || target != dead.get(&Attribute::QueueArn).map(String::as_str) {
        return Some("messages that fail do not go to its dead-letter queue".to_owned());
    }
    // SQS gives back what it was given: a number or a text.
    let receives = &redrive["maxReceiveCount"];
    let receives = receives.as_u64().or_else(|| receives.as_str()?.parse().ok());
    if receives != Some(u64::from(MAX_RECEIVES)) {
        let receives = receives.map_or_else(|| "?".to_owned(), |receives| receives.to_string());
        return Some(format!("messages are dead letters after {receives} tries, not after {MAX_RECEIVES}"));
    }
    let visibility_s = number(live, &Attribute::VisibilityTimeout).unwrap_or(0);
    if visibility_s < VISIBILITY_S {
        return Some(format!("messages come again after {visibility_s} s, when their function may still be at work"));
    }
    too_short(live, MESSAGES_KEPT_S)
}

fn wrong_with_dead_letters(dead: &HashMap<Attribute, String>) -> Option<String> {
    too_short(dead, DEAD_LETTERS_KEPT_S)
}

fn too_short(queue: &HashMap<Attribute, String>, kept_s: u32) -> Option<String> {
    let kept = number(queue, &Attribute::MessageRetentionPeriod).unwrap_or(0);
    let told = || format!("messages are kept for {kept} s and then lost, not for {kept_s} s");
    (kept < kept_s).then(told)
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
    use std::{fs, path::Path};

    use super::*;

    type Attributes = HashMap<Attribute, String>;

    fn live() -> Attributes {
        let redrive = serde_json::json!({ "deadLetterTargetArn": "arn:dlq", "maxReceiveCount": 5 });
        HashMap::from([
            (Attribute::VisibilityTimeout, "180".to_owned()),
            (Attribute::MessageRetentionPeriod, "345600".to_owned()),
            (Attribute::RedrivePolicy, redrive.to_string()),
            (Attribute::ApproximateNumberOfMessages, "2".to_owned()),
            (Attribute::ApproximateNumberOfMessagesNotVisible, "3".to_owned()),
        ])
    }

    fn dead() -> Attributes {
        HashMap::from([
            (Attribute::QueueArn, "arn:dlq".to_owned()),
            (Attribute::MessageRetentionPeriod, "1209600".to_owned()),
        ])
    }

    #[test]
    fn what_somebody_changed_by_hand_is_noticed() {
        assert_eq!((wrong(&live(), &dead()), wrong_with_dead_letters(&dead()), waiting(&live())), (None, None, 5));
        let changed = |mut attributes: Attributes, name: Attribute, value: &str| {
            attributes.insert(name, value.to_owned());
            attributes
        };
        let redrive = |count: &str| format!(r#"{{"deadLetterTargetArn":"arn:dlq","maxReceiveCount":{count}}}"#);
        assert_eq!(wrong(&changed(live(), Attribute::RedrivePolicy, &redrive("\"5\"")), &dead()), None);
        for (live, dead, said) in [
            (changed(live(), Attribute::VisibilityTimeout, "30"), dead(), "again after 30 s"),
            (changed(live(), Attribute::MessageRetentionPeriod, "60"), dead(), "kept for 60 s"),
            (changed(live(), Attribute::RedrivePolicy, &redrive("50")), dead(), "after 50 tries, not after 5"),
            (changed(live(), Attribute::RedrivePolicy, &redrive("null")), dead(), "after ? tries"),
            (live(), changed(dead(), Attribute::QueueArn, "arn:other"), "dead-letter queue"),
            (HashMap::new(), dead(), "dead-letter queue"),
            (HashMap::new(), HashMap::new(), "dead-letter queue"),
        ] {
            let wrong = wrong(&live, &dead).unwrap();
            assert!(wrong.contains(said), "{said}: {wrong}");
        }
        let forgetful = changed(dead(), Attribute::MessageRetentionPeriod, "345600");
        assert!(wrong_with_dead_letters(&forgetful).unwrap().contains("kept for 345600 s"));
    }

    #[test]
    fn the_template_sets_the_same() {
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../template.yaml");
        let template = fs::read_to_string(template).unwrap();
        for (line, queues) in [
            (format!("\n      VisibilityTimeout: {VISIBILITY_S}\n"), 4),
            (format!("\n      MessageRetentionPeriod: {MESSAGES_KEPT_S}\n"), 4),
            (format!("\n      MessageRetentionPeriod: {DEAD_LETTERS_KEPT_S}\n"), 4),
            (format!("\n        maxReceiveCount: {MAX_RECEIVES}\n"), 4),
        ] {
            assert_eq!(template.matches(&line).count(), queues, "{line}");
        }
    }
}
