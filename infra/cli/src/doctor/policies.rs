//! Who may send to a queue: the queue's own policy, whatever IAM says.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Check, queues::DEPLOY};
use crate::{outputs::Senders, stack::Queue};

const SEND: &str = "sqs:SendMessage";
/// Conditions that a statement of "everybody but these" is written with.
const NONE_OF: [&str; 2] = ["ArnNotEquals", "StringNotEquals"];

/// Looks whether a queue and its dead letters take messages only by TLS, and the queue only from whom it should.
pub(super) fn check(queue: Queue, live: &str, dead: &str, senders: &Senders) -> Check {
    let name = format!("policy of {}", queue.short_name());
    let admitted: BTreeSet<_> = match queue {
        Queue::Nudge => senders.functions.iter().chain([&senders.operator]).cloned().collect(),
        _ => senders.producers.iter().chain([&senders.operator]).cloned().collect(),
    };
    let wrong = wrong(live, &admitted).or_else(|| {
        (!denies_plain_text(&statements(dead))).then(|| "its dead letters may be had without TLS".to_owned())
    });
    match wrong {
        Some(wrong) => Check::fail(name, wrong, DEPLOY),
        None if queue != Queue::Nudge && senders.producers.is_empty() => {
            let fix = "name them in the stack's parameter ProducerArns";
            Check::warn(name, "the operator may send, and no producer", fix)
        }
        None => Check::ok(name, format!("{} may send, by TLS", admitted.into_iter().collect::<Vec<_>>().join(", "))),
    }
}

/// What lets somebody send who should not, or keeps somebody away who should, if anything.
fn wrong(policy: &str, admitted: &BTreeSet<String>) -> Option<String> {
    let statements = statements(policy);
    if !denies_plain_text(&statements) {
        return Some("messages are taken without TLS".to_owned());
    }
    let Some(exempt) = exempt(&statements) else {
        return Some("whomever IAM lets may send".to_owned());
    };
    let allowed = statements.iter().filter(|statement| statement["Effect"] == "Allow");
    for statement in allowed {
        if list(&statement["Action"]) != [SEND] {
            return Some(format!("its policy allows {}", list(&statement["Action"]).join(", ")));
        }
    }
    let named = |arns: Vec<&String>| arns.into_iter().cloned().collect::<Vec<_>>().join(", ");
    let strangers: Vec<_> = exempt.difference(admitted).collect();
    if !strangers.is_empty() {
        return Some(format!("{} may send, too", named(strangers)));
    }
    let kept_out: Vec<_> = admitted.difference(&exempt).collect();
    (!kept_out.is_empty()).then(|| format!("{} may not send", named(kept_out)))
}

fn statements(policy: &str) -> Vec<Value> {
    let policy: Value = serde_json::from_str(policy).unwrap_or_default();
    match &policy["Statement"] {
        Value::Array(statements) => statements.clone(),
        Value::Object(_) => vec![policy["Statement"].clone()],
        _ => Vec::new(),
    }
}

/// One text, or several.
fn list(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect(),
    }
}

/// Whether a statement denies this to everybody, as far as its condition does.
fn denies(statement: &Value, action: &str) -> bool {
    let everybody = statement["Principal"] == "*" || statement["Principal"]["AWS"] == "*";
    let covers = |pattern: &str| matches!(pattern, "*" | "sqs:*" | "SQS:*") || pattern.eq_ignore_ascii_case(action);
    statement["Effect"] == "Deny" && everybody && list(&statement["Action"]).into_iter().any(covers)
}

fn denies_plain_text(statements: &[Value]) -> bool {
    let plain_text = |condition: &Value| {
        let conditions = condition.as_object().is_some_and(|conditions| conditions.len() == 1);
        conditions && list(&condition["Bool"]["aws:SecureTransport"]) == ["false"]
    };
    statements.iter().any(|statement| denies(statement, "sqs:*") && plain_text(&statement["Condition"]))
}

/// Whom the policy does not forbid to send: those named by a statement that forbids it to all others.
fn exempt(statements: &[Value]) -> Option<BTreeSet<String>> {
    let named = |statement: &Value| {
        let conditions = statement["Condition"].as_object().filter(|_| denies(statement, SEND))?;
        let mut names = BTreeSet::new();
        for (operator, keys) in conditions {
            let keys = keys.as_object().filter(|_| NONE_OF.contains(&operator.as_str()))?;
            for (key, arns) in keys {
                if key != "aws:PrincipalArn" {
                    return None;
                }
                names.extend(list(arns).into_iter().map(str::to_owned));
            }
        }
        Some(names)
    };
    let all: Vec<BTreeSet<String>> = statements.iter().filter_map(named).collect();
    all.into_iter().reduce(|some, others| &some & &others)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Status;

    fn senders(producers: &[&str]) -> Senders {
        let functions = ["arn:mint", "arn:purchase", "arn:refund", "arn:sweep"].map(str::to_owned).into();
        let producers = producers.iter().map(|arn| (*arn).to_owned()).collect();
        Senders { producers, operator: "arn:operator".to_owned(), functions }
    }

    fn tls() -> Value {
        json!({
            "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": "*",
            "Condition": { "Bool": { "aws:SecureTransport": "false" } },
        })
    }

    /// As template.yaml has it.
    fn only(producers: Value) -> Value {
        json!({
            "Effect": "Deny", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*",
            "Condition": {
                "ArnNotEquals": { "aws:PrincipalArn": producers },
                "StringNotEquals": { "aws:PrincipalArn": "arn:operator" },
            },
        })
    }

    fn allow(action: &str) -> Value {
        json!({ "Effect": "Allow", "Principal": { "AWS": ["arn:indexer"] }, "Action": action, "Resource": "*" })
    }

    fn policy(statements: &[Value]) -> String {
        json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
    }

    #[test]
    fn the_templates_policies_are_as_they_should_be() {
        let (senders, dead) = (senders(&["arn:indexer"]), policy(&[tls()]));
        let live = policy(&[tls(), only(json!(["arn:indexer"])), allow("sqs:SendMessage")]);
        let good = check(Queue::Refund, &live, &dead, &senders);
        assert_eq!((good.status, &*good.seen), (Status::Ok, "arn:indexer, arn:operator may send, by TLS"));
        let functions = json!({
            "Effect": "Deny", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*",
            "Condition": { "ArnNotEquals": { "aws:PrincipalArn": [
                "arn:mint", "arn:purchase", "arn:refund", "arn:sweep", "arn:operator",
            ] } },
        });
        assert_eq!(check(Queue::Nudge, &policy(&[tls(), functions]), &dead, &senders).status, Status::Ok);
    }

    #[test]
    fn a_stack_without_producers_is_told_what_is_missing() {
        let live = policy(&[tls(), only(json!("arn:operator"))]);
        let found = check(Queue::Mint, &live, &policy(&[tls()]), &senders(&[]));
        assert!(found.status == Status::Warn && found.fix.unwrap().contains("ProducerArns"));
    }

    #[test]
    fn what_somebody_changed_by_hand_is_noticed() {
        let (senders, dead) = (senders(&["arn:indexer"]), policy(&[tls()]));
        let (ours, send) = (only(json!(["arn:indexer"])), allow("sqs:SendMessage"));
        let mut for_some = ours.clone();
        for_some["Principal"] = json!({ "AWS": "arn:aws:iam::123456789012:root" });
        let mut sometimes = tls();
        sometimes["Condition"]["IpAddress"] = json!({ "aws:SourceIp": "10.0.0.0/8" });
        let mut by_key = ours.clone();
        by_key["Condition"]["ArnNotEquals"] = json!({ "aws:SourceArn": "arn:indexer" });
        for (live, dead, said) in [
            (String::new(), &dead, "without TLS"),
            ("no JSON".to_owned(), &dead, "without TLS"),
            (policy(&[sometimes.clone(), ours.clone()]), &dead, "without TLS"),
            (policy(&[tls(), send.clone()]), &dead, "whomever IAM lets"),
            (policy(&[tls(), for_some, send.clone()]), &dead, "whomever IAM lets"),
            (policy(&[tls(), by_key, send.clone()]), &dead, "whomever IAM lets"),
            (policy(&[tls(), only(json!(["arn:indexer", "arn:*"])), send.clone()]), &dead, "arn:* may send, too"),
            (policy(&[tls(), only(json!("arn:other")), send.clone()]), &dead, "arn:other may send, too"),
            (policy(&[tls(), only(json!([])), send.clone()]), &dead, "arn:indexer may not send"),
            (policy(&[tls(), ours.clone(), allow("sqs:*")]), &dead, "allows sqs:*"),
            (policy(&[tls(), ours, send]), &String::new(), "its dead letters"),
        ] {
            let found = check(Queue::Purchase, &live, dead, &senders);
            assert!(found.status == Status::Fail && found.seen.contains(said), "{said}: {found:?}");
        }
    }
}
