//! Queues: nothing is lost in them, and nobody but whom the template names puts anything in.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    document::{Template, each, texts},
    template,
};

const DAY_S: u64 = 24 * 3600;
const FACTS: [&str; 3] = ["MintQueue", "PurchaseQueue", "RefundQueue"];

/// What a function is fed from, by the queue's logical name: the function and the event source.
fn sources(template: &Template) -> BTreeMap<String, (String, Value)> {
    let mut sources = BTreeMap::new();
    for (function, properties) in template.functions() {
        for source in properties["Events"].as_object().into_iter().flatten().map(|(_, source)| source) {
            if source["Type"] == "SQS" {
                let queue = source["Properties"]["Queue"].as_str().and_then(|queue| queue.strip_suffix(".Arn"));
                let queue = queue.expect("the queue's ARN").to_owned();
                let before = sources.insert(queue, (function.to_owned(), source["Properties"].clone()));
                assert_eq!(before, None, "each queue has one reader");
            }
        }
    }
    sources
}

/// Queues that others fail into.
fn dead_letters(template: &Template) -> BTreeMap<&str, &str> {
    let queues = template.all("AWS::SQS::Queue");
    let targets = queues.filter_map(|(queue, it)| {
        let target = it["Properties"]["RedrivePolicy"]["deadLetterTargetArn"].as_str()?.strip_suffix(".Arn")?;
        Some((target, queue))
    });
    let targets: Vec<_> = targets.collect();
    let by_target = targets.iter().copied().collect::<BTreeMap<_, _>>();
    assert_eq!(by_target.len(), targets.len(), "each queue has dead letters of its own: {targets:?}");
    by_target
}

#[test]
fn a_message_is_invisible_for_six_timeouts() {
    let template = template(&[]);
    let sources = sources(&template);
    assert_eq!(sources.len(), 4);
    for (queue, (function, _)) in sources {
        let timeout = template.functions()[&*function]["Timeout"].as_u64().unwrap();
        let visibility = template.properties(&queue)["VisibilityTimeout"].as_u64().unwrap();
        assert!(visibility >= 6 * timeout, "{queue}: {visibility} s for {timeout} s of {function}");
    }
}

#[test]
fn a_message_fails_by_itself_and_batches_neither_wait_nor_swarm() {
    for (queue, (_, source)) in sources(&template(&[])) {
        assert_eq!(source["FunctionResponseTypes"], json!(["ReportBatchItemFailures"]), "{queue}");
        assert_eq!(source["BatchSize"], 10, "{queue}");
        assert_eq!(source["MaximumBatchingWindowInSeconds"], Value::Null, "{queue}");
        assert_eq!(source["ScalingConfig"], json!({ "MaximumConcurrency": 5 }), "{queue}");
    }
}

#[test]
fn each_queue_has_dead_letters_that_outlast_it() {
    let template = template(&[]);
    let (sources, dead_letters) = (sources(&template), dead_letters(&template));
    assert!(!sources.is_empty());
    for (name, queue) in template.all("AWS::SQS::Queue") {
        let properties = &queue["Properties"];
        let kept = properties["MessageRetentionPeriod"].as_u64().unwrap();
        match dead_letters.get(name) {
            None => {
                assert_eq!(properties["RedrivePolicy"]["maxReceiveCount"], 5, "{name}");
                assert_eq!(kept, 4 * DAY_S, "{name}");
                assert!(sources.contains_key(name), "nobody reads {name}");
            }
            Some(source) => {
                assert_eq!(properties["RedrivePolicy"], Value::Null, "{name}: dead letters die no further");
                assert_eq!(kept, 14 * DAY_S, "{name}");
                assert!(!sources.contains_key(name), "{name} is read by an operator alone");
                assert!(template.resources().contains_key(*source));
            }
        }
        assert_eq!(properties["SqsManagedSseEnabled"], true, "{name}");
    }
}

/// What the policies say of a queue.
fn statements<'a>(template: &'a Template, queue: &str) -> Vec<&'a Value> {
    let policies = template.all("AWS::SQS::QueuePolicy").map(|(_, policy)| &policy["Properties"]);
    let policies: Vec<_> = policies.filter(|policy| texts(&policy["Queues"]).contains(&queue)).collect();
    let [policy] = policies[..] else { panic!("a queue takes one policy: {queue} {policies:?}") };
    each(&policy["PolicyDocument"]["Statement"]).iter().collect()
}

fn allowed<'a>(statements: &[&'a Value]) -> Vec<&'a Value> {
    statements.iter().copied().filter(|statement| statement["Effect"] == "Allow").collect()
}

/// Whom a queue's policy keeps from sending: nobody but these, by both of the condition's operators.
fn only_senders(statements: &[&Value]) -> Vec<String> {
    let keeps_out =
        |statement: &&&Value| statement["Effect"] == "Deny" && texts(&statement["Action"]) == ["sqs:SendMessage"];
    let denials: Vec<_> = statements.iter().filter(keeps_out).collect();
    let [denial] = denials[..] else { panic!("one denial: {denials:?}") };
    assert_eq!((&denial["Principal"], &denial["Resource"]), (&json!("*"), &json!("*")));
    let mut senders = Vec::new();
    for (operator, keys) in denial["Condition"].as_object().unwrap() {
        assert!(["ArnNotEquals", "StringNotEquals"].contains(&&**operator), "{operator}");
        for (key, value) in keys.as_object().unwrap() {
            assert_eq!(key, "aws:PrincipalArn");
            senders.extend(texts(value).into_iter().map(str::to_owned));
        }
    }
    senders.sort();
    senders.dedup();
    senders
}

#[test]
fn nothing_travels_in_the_clear() {
    let template = template(&[]);
    let in_the_clear = json!({ "Bool": { "aws:SecureTransport": "false" } });
    for (queue, _) in template.all("AWS::SQS::Queue") {
        let denies = |statement: &&Value| {
            statement["Effect"] == "Deny"
                && statement["Principal"] == "*"
                && statement["Action"] == "sqs:*"
                && statement["Condition"] == in_the_clear
        };
        assert!(statements(&template, queue).into_iter().any(|statement| denies(&statement)), "{queue}");
    }
}

#[test]
fn facts_come_from_producers_alone() {
    let none = template(&[]);
    let (indexer, gateway) = ("arn:aws:iam::111122223333:role/indexer", "arn:aws:iam::444455556666:user/gateway");
    let two = template(&[("ProducerArns", &format!("{indexer},{gateway}"))]);
    for queue in FACTS {
        let statements_of_none = statements(&none, queue);
        assert!(allowed(&statements_of_none).is_empty(), "{queue}");
        assert_eq!(only_senders(&statements_of_none), ["OperatorRole.Arn"]);
        let statements_of_two = statements(&two, queue);
        let [allowed] = allowed(&statements_of_two)[..] else { panic!("{queue}: {statements_of_two:?}") };
        assert_eq!(texts(&allowed["Principal"]["AWS"]), [indexer, gateway]);
        assert_eq!(texts(&allowed["Action"]), ["sqs:SendMessage"]);
        assert_eq!(only_senders(&statements_of_two), ["OperatorRole.Arn", indexer, gateway]);
    }
}

#[test]
fn nudges_come_from_usher_alone() {
    let template = template(&[("ProducerArns", "arn:aws:iam::111122223333:role/indexer")]);
    let statements = statements(&template, "NudgeQueue");
    assert!(allowed(&statements).is_empty());
    let mut roles: Vec<_> =
        template.functions().values().map(|function| texts(&function["Role"])[0].to_owned()).collect();
    roles.push("OperatorRole.Arn".to_owned());
    roles.sort();
    assert_eq!(only_senders(&statements), roles);
}
