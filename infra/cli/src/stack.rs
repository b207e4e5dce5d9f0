//! How to reach a deployment: a CloudFormation stack by its name, or a dev stack at its fixed ports.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use usher_lambda::{
    Adapters, AwsClients, Config, DataKeyConfig, DataKeySource, Machine, Place, SqsNudges, Usher, network_name,
    telemetry::Chain,
};
use usher_localnet::aws::{dynamodb_client, secrets_client, sqs_client};
use usher_store::{Store, dynamo::DynamoTable};
use usher_xmtp::V3;

use crate::{
    Failure,
    outputs::{self, Outputs, QueueUrls},
};

/// DynamoDB's port, as DynamoDB Local has it.
pub(crate) const DYNAMODB_PORT: u16 = 8000;
/// SQS's port, as ElasticMQ has it.
pub(crate) const SQS_PORT: u16 = 9324;
/// Secrets Manager's port.
pub(crate) const SECRETS_PORT: u16 = 4585;
/// The XMTP node's port, as its own local setup has it.
pub(crate) const XMTP_PORT: u16 = 5556;
/// The table's name.
pub(crate) const TABLE: &str = "usher";
/// One call to an XMTP node on this machine.
pub(crate) const XMTP_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a message that was received is not received again: six times a function's timeout, as Lambda asks for.
/// This and what follows as template.yaml sets it.
pub(crate) const VISIBILITY_S: u32 = 180;
/// How often a message is received before it is a dead letter.
pub(crate) const MAX_RECEIVES: u32 = 5;
/// How long a message is kept.
pub(crate) const MESSAGES_KEPT_S: u32 = 4 * 24 * 3600;
/// How long a dead letter is kept.
pub(crate) const DEAD_LETTERS_KEPT_S: u32 = 14 * 24 * 3600;

/// A queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Queue {
    Mint,
    Purchase,
    Refund,
    Nudge,
}

impl Queue {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Mint, Self::Purchase, Self::Refund, Self::Nudge];

    /// What it is called among usher's queues.
    pub(crate) fn short_name(self) -> &'static str {
        match self {
            Self::Mint => "mint",
            Self::Purchase => "purchase",
            Self::Refund => "refund",
            Self::Nudge => "nudge",
        }
    }
}

/// The queue's name in a dev stack's SQS.
impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "usher-{}", self.short_name())
    }
}

/// Which deployment is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Stack {
    /// The CloudFormation stack, with AWS's own region and credentials; without it, the dev stack
    #[arg(long, value_name = "NAME", env = "USHER_STACK")]
    stack: Option<String>,
    /// Where the dev stack's DynamoDB is
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_DYNAMODB", default_value_t = local(DYNAMODB_PORT))]
    dynamodb_url: String,
    /// Where the dev stack's SQS is
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_SQS", default_value_t = local(SQS_PORT))]
    sqs_url: String,
    /// Where the dev stack's Secrets Manager is
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_SECRETS_MANAGER", default_value_t = local(SECRETS_PORT))]
    secrets_url: String,
    /// The name of the dev stack's table
    #[arg(long, value_name = "NAME", env = "USHER_TABLE", default_value = TABLE)]
    table: String,
}

/// What only those need who touch rooms or keys.
#[derive(Debug, clap::Args)]
pub(crate) struct Machinery {
    /// Where the dev stack's XMTP node is
    #[arg(long, value_name = "URL", env = "USHER_XMTP_URL", default_value_t = local(XMTP_PORT))]
    xmtp_url: String,
    /// The file of the dev stack's data key, which `usher dev` names when it is ready
    #[arg(long, value_name = "FILE", env = "USHER_DATA_KEY_FILE")]
    data_key_file: Option<PathBuf>,
}

/// A time in milliseconds since 1970, for people.
pub(crate) fn in_utc(ms: u64) -> String {
    let time = i64::try_from(ms / 1000).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{ms} ms after 1970"))
}

fn local(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A deployment that can be talked to.
pub(crate) struct Deployment {
    name: Name,
    table: DynamoTable,
    sqs: aws_sdk_sqs::Client,
    secrets: aws_sdk_secretsmanager::Client,
    aws: Option<AwsClients>,
    outputs: Option<Outputs>,
}

/// What a deployment is called when it does not answer.
struct Name {
    table: String,
    queues: String,
    is_dev: bool,
}

impl Stack {
    /// Finds out where everything is.
    pub(crate) async fn reach(&self) -> Result<Deployment, Failure> {
        let Some(stack) = &self.stack else {
            return Ok(Deployment {
                name: Name {
                    table: format!("table {} at {}", self.table, self.dynamodb_url),
                    queues: self.sqs_url.clone(),
                    is_dev: true,
                },
                table: DynamoTable::new(dynamodb_client(&self.dynamodb_url), &self.table),
                sqs: sqs_client(&self.sqs_url),
                secrets: secrets_client(&self.secrets_url),
                aws: None,
                outputs: None,
            });
        };
        let config = AwsClients::config_from_env().await;
        let outputs = outputs::describe(&aws_sdk_cloudformation::Client::new(&config), stack).await?;
        let aws = AwsClients::new(&config);
        Ok(Deployment {
            name: Name {
                table: format!("table {} of stack {stack}", outputs.table),
                queues: format!("stack {stack}"),
                is_dev: false,
            },
            table: DynamoTable::new(aws.dynamodb.clone(), &outputs.table),
            sqs: aws.sqs.clone(),
            secrets: aws.secrets.clone(),
            aws: Some(aws),
            outputs: Some(outputs),
        })
    }
}

impl Deployment {
    pub(crate) fn store(&self) -> Store {
        Store::new(Arc::new(self.table.clone()), Arc::new(Machine), Arc::new(Machine))
    }

    pub(crate) fn table_name(&self) -> &str {
        self.table.name()
    }

    pub(crate) fn sqs(&self) -> &aws_sdk_sqs::Client {
        &self.sqs
    }

    pub(crate) fn secrets(&self) -> aws_sdk_secretsmanager::Client {
        self.secrets.clone()
    }

    /// AWS's KMS and the outputs that name the keys; a dev stack has none.
    pub(crate) fn keys(&self) -> Option<(&aws_sdk_kms::Client, &Outputs)> {
        Some((&self.aws.as_ref()?.kms, self.outputs.as_ref()?))
    }

    /// What a stack of CloudFormation's says of itself; a dev stack says nothing.
    pub(crate) fn outputs(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// All queues' URLs.
    pub(crate) async fn queues(&self) -> Result<BTreeMap<Queue, QueueUrls>, Failure> {
        if let Some(outputs) = &self.outputs {
            return Ok(outputs.queues.clone());
        }
        let mut queues = BTreeMap::new();
        for queue in Queue::ALL {
            let (live, dead) = (queue.to_string(), format!("{queue}-dlq"));
            queues.insert(queue, QueueUrls { live: self.queue_url(live).await?, dead: self.queue_url(dead).await? });
        }
        Ok(queues)
    }

    async fn queue_url(&self, name: String) -> Result<String, Failure> {
        let found = self.sqs.get_queue_url().queue_name(&name).send().await;
        let found = found.map_err(|error| {
            let error = aws_sdk_sqs::Error::from(error);
            format!("queue {name} not found at {}: {}; is `usher dev` running?", self.name.queues, Chain(&error))
        })?;
        found.queue_url.ok_or_else(|| format!("queue {name} has no URL").into())
    }

    /// Where the XMTP node is.
    pub(crate) fn xmtp_url<'a>(&'a self, machinery: &'a Machinery) -> &'a str {
        self.outputs.as_ref().map_or(&machinery.xmtp_url, |outputs| &outputs.xmtp_url)
    }

    /// A usher that works for this deployment; `None` if it is a dev stack whose data key is not named.
    pub(crate) async fn usher(&self, machinery: &Machinery) -> Result<Option<Usher>, Failure> {
        let nudge_queue_url = self.queues().await?[&Queue::Nudge].live.clone();
        if let (Some(aws), Some(outputs)) = (&self.aws, &self.outputs) {
            let config = Config {
                table: outputs.table.clone(),
                xmtp_url: outputs.xmtp_url.clone(),
                nudge_queue_url,
                data_key: DataKeyConfig::Kms(outputs.data_key.clone()),
            };
            return Ok(Some(Usher::connect(&config, aws)?));
        }
        let Some(data_key_file) = &machinery.data_key_file else { return Ok(None) };
        let adapters = Adapters {
            table: Arc::new(self.table.clone()),
            network: Arc::new(V3::new(&machinery.xmtp_url, XMTP_TIMEOUT)?),
            nudges: Arc::new(SqsNudges::new(self.sqs.clone(), nudge_queue_url)),
            data_key: DataKeySource::File(data_key_file.clone()),
            clock: Arc::new(Machine),
            randomness: Arc::new(Machine),
        };
        let place = Place { network: network_name(&machinery.xmtp_url), table: self.table.name().to_owned() };
        Ok(Some(Usher::from_table(adapters).at(place)))
    }

    /// Says which deployment was not reached.
    pub(crate) fn unreachable(&self, error: impl Into<Failure>) -> Failure {
        let error = error.into();
        let hint = if self.name.is_dev { "is `usher dev` running?" } else { "may you read it?" };
        format!("{}: {}; {hint}", self.name.table, Chain(&*error)).into()
    }
}
