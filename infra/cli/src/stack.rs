//! How to reach a stack: a dev stack at its fixed ports, unless told otherwise.

use std::{fmt, sync::Arc};

use usher_lambda::{Machine, telemetry::Chain};
use usher_localnet::aws::{dynamodb_client, sqs_client};
use usher_store::{Store, dynamo::DynamoTable};

use crate::Failure;

/// DynamoDB's port, as DynamoDB Local has it.
pub(crate) const DYNAMODB_PORT: u16 = 8000;
/// SQS's port, as ElasticMQ has it.
pub(crate) const SQS_PORT: u16 = 9324;
/// The table's name.
pub(crate) const TABLE: &str = "usher";

/// A queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// The queue's name in SQS.
impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "usher-{}", self.short_name())
    }
}

/// Where a stack's services are.
#[derive(Debug, clap::Args)]
pub(crate) struct Stack {
    /// Where DynamoDB is
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_DYNAMODB", default_value_t = local(DYNAMODB_PORT))]
    dynamodb_url: String,
    /// Where SQS is
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_SQS", default_value_t = local(SQS_PORT))]
    sqs_url: String,
    /// The name of the table
    #[arg(long, value_name = "NAME", env = "USHER_TABLE", default_value = TABLE)]
    table: String,
}

fn local(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Stack {
    pub(crate) fn store(&self) -> Store<DynamoTable> {
        let table = DynamoTable::new(dynamodb_client(&self.dynamodb_url), &self.table);
        Store::new(table, Arc::new(Machine), Arc::new(Machine))
    }

    pub(crate) fn sqs(&self) -> aws_sdk_sqs::Client {
        sqs_client(&self.sqs_url)
    }

    /// The queue's URL.
    pub(crate) async fn queue_url(&self, queue: Queue) -> Result<String, Failure> {
        let found = self.sqs().get_queue_url().queue_name(queue.to_string()).send().await;
        let found = found.map_err(|error| {
            let error = aws_sdk_sqs::Error::from(error);
            format!("queue {queue} not found at {}: {}; is `usher dev` running?", self.sqs_url, Chain(&error))
        })?;
        found.queue_url.ok_or_else(|| format!("queue {queue} has no URL").into())
    }

    /// Says which stack was not reached.
    pub(crate) fn unreachable(&self, error: impl Into<Failure>) -> Failure {
        let error = error.into();
        format!("table {} at {}: {}; is `usher dev` running?", self.table, self.dynamodb_url, Chain(&*error)).into()
    }
}
