//! What `template.yaml` describes, on this machine: its functions with its environment, its queues and its triggers.
//! Names are the template's logical names, so that what is recorded can be compared with its policies.

use std::{collections::BTreeMap, process::Output, sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;
use tempfile::{NamedTempFile, TempDir};
use tokio::time::{Instant, interval};
use usher_lambda::{AwsClients, Config, Machine, Usher, local_wallet};
use usher_localnet::{
    aws::{REGION, dynamodb_client, sqs_client},
    dynamodb::DynamoDb,
    lambda::{EventSourceConfig, Function, FunctionConfig, Logs, RuntimeApi, Schedule, SqsEventSource},
    sqs::Sqs,
    xmtp_node::{Node, NodeOptions, RunningNode},
};
use usher_store::{Store, dynamo::DynamoTable};
use usher_tests::{
    dev_stack::binaries,
    haus::{CHAIN, FACTORY},
    world::AnyError,
};

use crate::{document::Template, recorder::Recorder, template};

/// The table's logical name, which is its name here.
pub(crate) const TABLE: &str = "Table";
/// A chain that is asked, of a node that does not answer.
pub(crate) const ASKED_CHAIN: u64 = 8453;
/// The secret with the node's URL.
pub(crate) const RPC_SECRET: &str = "arn:aws:secretsmanager:us-east-1:123456789012:secret:usher/rpc-AbCdEf";
/// Who sets up.
pub(crate) const OPERATOR: &str = "OperatorRole";
/// What functions and commands say, if nobody asks for more.
const VERBOSITY: &str = "info";
const SWEEP_EVERY: Duration = Duration::from_secs(20);
/// The longest a condition may take to come true, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running deployment. What it holds ends when it is dropped.
pub(crate) struct Deployment {
    pub(crate) recorder: Recorder,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) store: Store,
    pub(crate) xmtp_url: String,
    verbosity: &'static str,
    queues: BTreeMap<String, String>,
    producer: aws_sdk_sqs::Client,
    operator: Usher,
    _triggers: (Vec<SqsEventSource>, Vec<Schedule>),
    _stand_ins: (RunningNode, DynamoDb, Sqs),
}

/// How `who` reaches AWS.
fn sdk(recorder: &Recorder, who: &str) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(REGION))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(who, "local", None, None, "test")))
        .endpoint_url(&recorder.url)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build()
}

impl Deployment {
    /// Everything is configured and nothing initialised.
    pub(crate) async fn start() -> Result<Self, AnyError> {
        Self::start_logged(VERBOSITY, &Logs::Stderr).await
    }

    /// The same, with everybody saying so much, the functions to there.
    pub(crate) async fn start_logged(verbosity: &'static str, logs: &Logs) -> Result<Self, AnyError> {
        let xmtp = Node::start(NodeOptions::on_free_ports()).await?;
        let (dynamodb, sqs) = (DynamoDb::start(0, None).await?, Sqs::start(0, None).await?);
        let recorder = Recorder::start(dynamodb.url(), sqs.url()).await;
        let template = template(&[("XmtpUrl", &xmtp.url()), ("RpcSecretArns", RPC_SECRET)]);

        let client = dynamodb_client(&dynamodb.url());
        let table = DynamoTable::new(client.clone(), TABLE);
        table.create_table().await?;
        let producer = sqs_client(&sqs.url());
        let mut queues = BTreeMap::new();
        for (name, _) in template.all("AWS::SQS::Queue") {
            let url = producer.create_queue().queue_name(name).send().await?.queue_url.ok_or("a queue has a URL")?;
            queues.insert(name.to_owned(), url);
        }
        let operator = operator(&environment(&template, "MintFunction", &queues), &recorder)?;
        operator.store().put_configuration(&document(), None).await?;
        let told = template.outputs().map(|(name, value)| (name, queues.get(value).map_or(value, String::as_str)));
        recorder.put_out(told);
        let _triggers = triggers(&template, &queues, &recorder, verbosity, logs).await?;
        Ok(Self {
            recorder,
            dynamodb: client,
            store: Store::new(Arc::new(table), Arc::new(Machine), Arc::new(Machine)),
            xmtp_url: xmtp.url(),
            verbosity,
            queues,
            producer,
            _triggers,
            operator,
            _stand_ins: (xmtp, dynamodb, sqs),
        })
    }

    /// `usher init`.
    pub(crate) async fn init(&self) -> Result<(), AnyError> {
        let folder = TempDir::new()?;
        self.operator.init(&local_wallet(&folder.path().join("wallet.key"), &Machine)?).await?;
        Ok(())
    }

    /// A command of the operator's, with the stack's name.
    pub(crate) async fn usher(&self, arguments: &[&str]) -> Result<Output, AnyError> {
        let mut usher = tokio::process::Command::new(binaries()?.join("usher"));
        usher.env_clear().args(arguments).args(["--stack", "prod"]).kill_on_drop(true);
        usher.env("AWS_ENDPOINT_URL", &self.recorder.url).env("AWS_REGION", REGION).env("RUST_LOG", self.verbosity);
        usher.env("AWS_ACCESS_KEY_ID", OPERATOR).env("AWS_SECRET_ACCESS_KEY", "local");
        Ok(usher.output().await?)
    }

    /// The same, which must succeed.
    pub(crate) async fn operate(&self, arguments: &[&str]) -> Result<Output, AnyError> {
        let output = self.usher(arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(output) } else { Err(format!("usher {arguments:?}: {said}").into()) }
    }

    /// Puts a message into a queue, which nobody has to take.
    pub(crate) async fn leave(&self, queue: &str, body: &str) -> Result<(), AnyError> {
        self.producer.send_message().queue_url(&self.queues[queue]).message_body(body).send().await?;
        Ok(())
    }

    /// Sends to a queue and awaits that it is empty again.
    pub(crate) async fn send(&self, queue: &str, body: String) -> Result<(), AnyError> {
        let url = &self.queues[queue];
        self.producer.send_message().queue_url(url).message_body(body).send().await?;
        self.until(&format!("{queue} is empty"), async || {
            let counts = [
                QueueAttributeName::ApproximateNumberOfMessages,
                QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            ];
            let request =
                self.producer.get_queue_attributes().queue_url(url).set_attribute_names(Some(counts.to_vec()));
            let answer = request.send().await?.attributes.unwrap_or_default();
            Ok(counts.iter().all(|count| answer.get(count).is_some_and(|count| count == "0")))
        })
        .await
    }

    /// Awaits that something holds.
    pub(crate) async fn until(
        &self,
        what: &str,
        mut holds: impl AsyncFnMut() -> Result<bool, AnyError>,
    ) -> Result<(), AnyError> {
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = interval(Duration::from_millis(250));
        while Instant::now() < deadline {
            ticks.tick().await;
            if holds().await? {
                return Ok(());
            }
        }
        Err(format!("not within {PATIENCE:?}: {what}").into())
    }
}

/// The configuration: a chain whose queues are believed, and one that is asked.
fn document() -> String {
    let chains = json!({
        CHAIN.to_string(): { "trust": "queue", "factories": [FACTORY] },
        ASKED_CHAIN.to_string(): { "trust": "rpc", "rpc_secret": RPC_SECRET, "factories": [FACTORY] },
    });
    json!({ "version": 1, "chains": chains, "rate_limits": null }).to_string()
}

/// A file with it.
pub(crate) fn configuration() -> Result<NamedTempFile, AnyError> {
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), document())?;
    Ok(file)
}

/// A function's environment variables, as CloudFormation would have set them.
fn environment(template: &Template, function: &str, queues: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let functions = template.functions();
    let variables = functions[function]["Environment"]["Variables"].as_object().into_iter().flatten();
    let variables = variables.map(|(name, value)| {
        let value = value.as_str().unwrap_or_else(|| panic!("{name} is no text"));
        // What refers to a queue is its URL.
        (name.clone(), queues.get(value).map_or(value, String::as_str).to_owned())
    });
    variables.collect()
}

/// What an operator works with.
fn operator(env: &BTreeMap<String, String>, recorder: &Recorder) -> Result<Usher, AnyError> {
    let config = Config::read(|name| env.get(name).cloned())?;
    Ok(Usher::connect(&config, &AwsClients::new(&sdk(recorder, OPERATOR)))?)
}

/// Starts all functions with what invokes them.
async fn triggers(
    template: &Template,
    queues: &BTreeMap<String, String>,
    recorder: &Recorder,
    verbosity: &str,
    logs: &Logs,
) -> Result<(Vec<SqsEventSource>, Vec<Schedule>), AnyError> {
    let lambda = Arc::new(RuntimeApi::start(0).await?);
    let (mut sources, mut schedules) = (Vec::new(), Vec::new());
    for (name, properties) in template.functions() {
        let mut env = environment(template, name, queues);
        env.extend([
            ("AWS_ENDPOINT_URL".to_owned(), recorder.url.clone()),
            ("AWS_ACCESS_KEY_ID".to_owned(), name.to_owned()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), "local".to_owned()),
            ("RUST_LOG".to_owned(), verbosity.to_owned()),
        ]);
        let binary = &template.resources()[name]["Metadata"]["BuildProperties"]["Binary"];
        let config = FunctionConfig {
            name: name.to_owned(),
            binary: binaries()?.join(binary.as_str().ok_or("a function has a binary")?),
            env: env.into_iter().collect(),
            timeout: Duration::from_secs(properties["Timeout"].as_u64().ok_or("a function has a timeout")?),
            concurrency: 2,
            logs: logs.clone(),
        };
        let function = Arc::new(Function::new(lambda.clone(), config));
        for event in properties["Events"].as_object().into_iter().flatten().map(|(_, event)| event) {
            if event["Type"] == "Schedule" {
                schedules.push(Schedule::start(SWEEP_EVERY, function.clone()));
                continue;
            }
            let queue = event["Properties"]["Queue"].as_str().unwrap_or_default().trim_end_matches(".Arn");
            let config = EventSourceConfig { queue_url: queues[queue].clone(), batch_size: 10, maximum_concurrency: 2 };
            // Lambda polls as the function's role.
            let poller = aws_sdk_sqs::Client::new(&sdk(recorder, name));
            sources.push(SqsEventSource::start(poller, config, function.clone()).await?);
        }
    }
    Ok((sources, schedules))
}
