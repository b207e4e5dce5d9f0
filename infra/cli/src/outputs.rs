//! Where a CloudFormation stack has put things: the outputs of template.yaml.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_cloudformation::{
    Client,
    types::{Parameter, Stack},
};
use usher_lambda::telemetry::Chain;

use crate::{Failure, stack::Queue};

/// What a stack tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outputs {
    pub(crate) table: String,
    /// The KMS key that wraps data keys.
    pub(crate) data_key: String,
    /// The KMS key that is usher's wallet.
    pub(crate) wallet_key: String,
    pub(crate) xmtp_url: String,
    pub(crate) queues: BTreeMap<Queue, QueueUrls>,
    /// Who may send to the queues.
    pub(crate) senders: Senders,
}

/// Whom template.yaml lets send, by ARN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Senders {
    /// Whom the stack's parameter `ProducerArns` names.
    pub(crate) producers: BTreeSet<String>,
    /// The role that operates the stack.
    pub(crate) operator: String,
    /// The functions' roles.
    pub(crate) functions: BTreeSet<String>,
}

impl Senders {
    fn of(stage: &str, operator: String, producers: &str) -> Self {
        let role = |function: &str| {
            operator.replacen(&format!("usher-{stage}-operator-"), &format!("usher-{stage}-{function}-"), 1)
        };
        Self {
            producers: producers.split(',').filter(|arn| !arn.is_empty()).map(str::to_owned).collect(),
            functions: ["mint", "purchase", "refund", "sweep"].map(role).into(),
            operator,
        }
    }
}

/// A queue and what holds its dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueUrls {
    pub(crate) live: String,
    pub(crate) dead: String,
}

/// Reads a stack's outputs.
pub(crate) async fn describe(client: &Client, name: &str) -> Result<Outputs, Failure> {
    let found = client.describe_stacks().stack_name(name).send().await.map_err(|error| {
        let error = aws_sdk_cloudformation::Error::from(error);
        format!("stack {name} was not found: {}; are region and credentials those of its operator?", Chain(&error))
    })?;
    let stack = found.stacks().first().ok_or_else(|| format!("stack {name} was not found"))?;
    let producers = stack.parameters().iter().find(|parameter| parameter.parameter_key() == Some("ProducerArns"));
    of(name, &named(stack), producers.and_then(Parameter::parameter_value).unwrap_or_default())
}

fn named(stack: &Stack) -> BTreeMap<&str, &str> {
    stack.outputs().iter().filter_map(|output| Some((output.output_key()?, output.output_value()?))).collect()
}

fn of(stack: &str, outputs: &BTreeMap<&str, &str>, producers: &str) -> Result<Outputs, Failure> {
    let output = |name: &str| {
        let value = outputs.get(name).map(|value| (*value).to_owned());
        value.ok_or_else(|| format!("stack {stack} has no output {name}: is it made from usher's template.yaml?"))
    };
    let mut queues = BTreeMap::new();
    for (queue, name) in
        [(Queue::Mint, "Mint"), (Queue::Purchase, "Purchase"), (Queue::Refund, "Refund"), (Queue::Nudge, "Nudge")]
    {
        let urls =
            QueueUrls { live: output(&format!("{name}QueueUrl"))?, dead: output(&format!("{name}DeadLettersUrl"))? };
        queues.insert(queue, urls);
    }
    Ok(Outputs {
        table: output("TableName")?,
        data_key: output("DataKeyArn")?,
        wallet_key: output("WalletKeyArn")?,
        xmtp_url: output("XmtpUrl")?,
        queues,
        senders: Senders::of(&output("Stage")?, output("OperatorRoleArn")?, producers),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use aws_sdk_cloudformation::config::{BehaviorVersion, Credentials, Region};
    use axum::{Router, http::StatusCode, routing::post};

    use super::*;

    const NAMES: [&str; 14] = [
        "Stage",
        "OperatorRoleArn",
        "TableName",
        "DataKeyArn",
        "WalletKeyArn",
        "XmtpUrl",
        "MintQueueUrl",
        "MintDeadLettersUrl",
        "PurchaseQueueUrl",
        "PurchaseDeadLettersUrl",
        "RefundQueueUrl",
        "RefundDeadLettersUrl",
        "NudgeQueueUrl",
        "NudgeDeadLettersUrl",
    ];

    fn all() -> BTreeMap<&'static str, &'static str> {
        NAMES.into_iter().map(|name| (name, name)).collect()
    }

    #[test]
    fn every_output_is_wanted_and_named_if_it_is_missing() {
        let outputs = of("prod", &all(), "").unwrap();
        assert_eq!((outputs.table.as_str(), outputs.wallet_key.as_str()), ("TableName", "WalletKeyArn"));
        assert_eq!(outputs.queues.len(), 4);
        assert_eq!(outputs.queues[&Queue::Refund].live, "RefundQueueUrl");
        assert_eq!(outputs.queues[&Queue::Nudge].dead, "NudgeDeadLettersUrl");
        for name in NAMES {
            let mut without = all();
            without.remove(name);
            let error = of("prod", &without, "").unwrap_err().to_string();
            assert!(error.contains(&format!("stack prod has no output {name}:")), "{error}");
        }
    }

    #[test]
    fn roles_are_named_as_the_template_names_them() {
        let role = |name: &str| format!("arn:aws:iam::123456789012:role/usher-operator-{name}-eu-central-1");
        let senders = Senders::of("operator", role("operator"), "arn:one,arn:two");
        assert_eq!(senders.producers, ["arn:one", "arn:two"].map(str::to_owned).into());
        assert_eq!(senders.functions, ["mint", "purchase", "refund", "sweep"].map(role).into());
        assert_eq!(Senders::of("prod", role("operator"), "").producers, BTreeSet::new());
    }

    #[test]
    fn the_template_has_these_outputs() {
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../template.yaml");
        let template = fs::read_to_string(template).unwrap();
        let (_, outputs) = template.split_once("\nOutputs:\n").unwrap();
        for name in NAMES {
            assert!(
                outputs.contains(&format!("\n  {name}:\n")) || outputs.starts_with(&format!("  {name}:\n")),
                "{name}"
            );
        }
    }

    /// A CloudFormation that gives this answer to whatever it is asked.
    async fn answering(status: StatusCode, body: String) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = post(move |request: String| async move {
            assert!(request.contains("Action=DescribeStacks") && request.contains("StackName=prod"), "{request}");
            (status, [("content-type", "text/xml")], body)
        });
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", answer)).await });
        let config = aws_sdk_cloudformation::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("eu-central-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(url)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        Client::from_conf(config)
    }

    #[tokio::test]
    async fn a_stack_is_described() {
        let member = |name| format!("<member><OutputKey>{name}</OutputKey><OutputValue>{name}</OutputValue></member>");
        let members: String = NAMES.into_iter().map(member).collect();
        let body = format!(
            r#"<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult>
            <Stacks><member><StackName>prod</StackName><CreationTime>2026-11-24T00:00:00Z</CreationTime>
            <StackStatus>CREATE_COMPLETE</StackStatus><Outputs>{members}</Outputs><Parameters><member>
            <ParameterKey>ProducerArns</ParameterKey><ParameterValue>arn:one</ParameterValue></member></Parameters>
            </member></Stacks></DescribeStacksResult></DescribeStacksResponse>"#
        );
        let client = answering(StatusCode::OK, body).await;
        assert_eq!(describe(&client, "prod").await.unwrap(), of("prod", &all(), "arn:one").unwrap());
    }

    #[tokio::test]
    async fn a_stack_that_is_not_there_is_named() {
        let body = r#"<ErrorResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><Error><Type>Sender</Type>
            <Code>ValidationError</Code><Message>Stack with id prod does not exist</Message></Error></ErrorResponse>"#;
        let client = answering(StatusCode::BAD_REQUEST, body.to_owned()).await;
        let error = describe(&client, "prod").await.unwrap_err().to_string();
        assert!(error.contains("stack prod was not found") && error.contains("does not exist"), "{error}");
    }
}
