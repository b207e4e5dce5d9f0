//! `usher dev`: everything on this machine, on loopback ports.

mod queues;
mod set_up;
mod state;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use usher_chain::{Chains, Trust};
use usher_domain::{ChainId, KioskKey};
use usher_lambda::Config;
use usher_localnet::{
    aws::{ACCESS_KEY, dynamodb_client, sqs_client},
    dynamodb::DynamoDb,
    lambda::{EventSourceConfig, Function, FunctionConfig, Logs, RuntimeApi, Schedule, SqsEventSource},
    secrets::Secrets,
    sqs::Sqs,
    xmtp_node::{self, Node, NodeOptions, RunningNode},
};
use usher_store::{
    budget::{Bucket, RateLimits},
    dynamo::DynamoTable,
};

use self::{
    set_up::Account,
    state::{DATA_KEY, State, WALLET_KEY},
};
use crate::{
    Failure, functions, print, say,
    stack::{DYNAMODB_PORT, Queue, SECRETS_PORT, SQS_PORT, TABLE, XMTP_PORT},
};

// As template.yaml deploys them.
const TIMEOUT: Duration = Duration::from_secs(30);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const BATCH_SIZE: i32 = 10;
/// Environments of a function: enough to meet each other, few enough for a laptop.
const CONCURRENCY: usize = 3;
/// A stop waits so long for running invocations; after it their messages stay in the queue, as after a crash.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Say nothing but the line of JSON (the functions' logs go to standard error all the same)
    #[arg(long)]
    json: bool,
    /// Listen to this factory, too. Repeatable
    #[arg(long, value_name = "CHAIN:ADDRESS")]
    factory: Vec<KioskKey>,
    /// Ask this node whether what the queues say of the chain is true. Repeatable
    #[arg(long, value_name = "CHAIN=URL", value_parser = node)]
    rpc: Vec<(ChainId, String)>,
    /// Keep everything in this folder and go on from it next time
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Limit rates as XMTP's hosted nodes do, or with these buckets; each whole minute of silence puts so many back
    #[arg(
        long,
        value_name = "PUBLISH/PER_MINUTE,DEFAULT/PER_MINUTE",
        num_args = 0..=1,
        default_missing_value = "3000/600,20000/4000",
        value_parser = rate_limits,
    )]
    rate_limits: Option<RateLimits>,
    /// The folder of the functions' binaries
    #[arg(long, value_name = "DIR")]
    functions: Option<PathBuf>,
    /// The XMTP node's gRPC port; like all ports here, 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = XMTP_PORT)]
    xmtp_port: u16,
    /// The XMTP node's gRPC-Web port
    #[arg(long, value_name = "PORT", default_value_t = 5557)]
    xmtp_web_port: u16,
    /// DynamoDB's port
    #[arg(long, value_name = "PORT", default_value_t = DYNAMODB_PORT)]
    dynamodb_port: u16,
    /// SQS's port
    #[arg(long, value_name = "PORT", default_value_t = SQS_PORT)]
    sqs_port: u16,
    /// Secrets Manager's port: the URLs of `--rpc` are its secrets
    #[arg(long, value_name = "PORT", default_value_t = SECRETS_PORT)]
    secrets_port: u16,
    /// Lambda's port: the functions fetch their work there, and can be invoked
    #[arg(long, value_name = "PORT", default_value_t = 9001)]
    lambda_port: u16,
    /// Leave the minute's sweep to whoever invokes `sweep`
    #[arg(long)]
    no_schedule: bool,
}

fn node(text: &str) -> Result<(ChainId, String), &'static str> {
    let node = text.split_once('=').and_then(|(chain, url)| Some((chain.parse().ok()?, url.to_owned())));
    node.ok_or("expected a chain id and a URL, like 31337=http://127.0.0.1:8545")
}

fn rate_limits(text: &str) -> Result<RateLimits, &'static str> {
    let bucket = |text: &str| {
        let (max_tokens, per_minute) = text.split_once('/')?;
        Some(Bucket { max_tokens: max_tokens.parse().ok()?, per_minute: per_minute.parse().ok()? })
    };
    let limits = text.split_once(',').and_then(|(publish, default)| {
        let (publish, default) = (bucket(publish)?, bucket(default)?);
        Some(RateLimits { publish, default })
    });
    limits.ok_or("expected two buckets like 3000/600,20000/4000")
}

/// What is printed when the stack is ready.
#[derive(Debug, Serialize)]
struct Ready {
    xmtp_url: String,
    xmtp_web_url: String,
    dynamodb_url: String,
    sqs_url: String,
    secrets_url: String,
    /// Where the functions can be invoked, by their names or what comes after `usher-`.
    lambda_url: String,
    /// The URLs, by what the queues are for; a dead-letter queue's name ends in `-dlq`.
    queues: BTreeMap<String, String>,
    table: &'static str,
    /// For commands that touch keys: `--wallet-key-file` and `--data-key-file`.
    wallet_key_file: PathBuf,
    data_key_file: PathBuf,
    chains: Chains,
    #[serde(flatten)]
    account: Account,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    };
    tokio::pin!(stop);
    let started = tokio::select! {
        started = start(&args) => started?,
        () = &mut stop => return Ok(()),
    };
    print(&serde_json::to_string(&started.ready)?);
    if !args.json {
        introduce(&started.ready, args.state.as_deref());
    }
    stop.await;
    if !args.json {
        say("stopping");
    }
    started.stop().await
}

fn introduce(ready: &Ready, state: Option<&Path>) {
    for (chain, config) in ready.chains.iter() {
        let factories: Vec<_> = config.factories.iter().map(|factory| format!("{factory:#x}")).collect();
        say(&format!("chain {chain}, factories {}", factories.join(", ")));
        say(&format!("  {}", in_words(&config.trust)));
    }
    match state {
        Some(state) => say(&format!("state is kept in {}", state.display())),
        None => say("state is in memory and gone when this stops; --state DIR keeps it"),
    }
    say(&format!("functions are invoked at {}/2015-03-31/functions/NAME/invocations", ready.lambda_url));
    say("ready: try `usher send events/logs/01-mint.json` and `usher rooms`; Ctrl-C stops");
}

/// How far a chain is believed.
pub(crate) fn in_words(trust: &Trust) -> &'static str {
    match trust {
        Trust::Queue => {
            "trust: queue. Whoever may send to the queues is believed; nothing is checked against the chain"
        }
        Trust::Rpc(_) => "trust: rpc. A gain is believed once its log is found in the transaction's receipt",
    }
}

/// A running stack.
struct Running {
    ready: Ready,
    xmtp: RunningNode,
    dynamodb: DynamoDb,
    sqs: Sqs,
    secrets: Secrets,
    lambda: Arc<RuntimeApi>,
    functions: Vec<Arc<Function>>,
    sources: Vec<SqsEventSource>,
    schedule: Option<Schedule>,
    /// Keeps the folder until the end.
    _state: State,
}

async fn start(args: &Args) -> Result<Running, Failure> {
    let chains = set_up::chains(&args.factory, &args.rpc)?;
    let binaries = functions::folder(args.functions.as_deref()).await?;
    let state = State::open(args.state.clone())?;

    let options = NodeOptions {
        port: args.xmtp_port,
        web_port: args.xmtp_web_port,
        database: state.file("xmtp.sqlite"),
        ..NodeOptions::default()
    };
    let xmtp = Node::start(options).await?;
    let dynamodb = DynamoDb::start(args.dynamodb_port, state.file("dynamodb.sqlite").as_deref()).await?;
    let sqs = Sqs::start(args.sqs_port, state.file("sqs.sqlite").as_deref()).await?;
    let urls = args.rpc.iter().map(|(chain, url)| (set_up::secret(*chain), url.clone()));
    let secrets = Secrets::start(args.secrets_port, urls.collect()).await?;
    let lambda = Arc::new(RuntimeApi::start(args.lambda_port).await?);

    let table = DynamoTable::new(dynamodb_client(&dynamodb.url()), TABLE);
    table.create_table().await?;
    let chains = set_up::configure(table, chains, args.rate_limits).await?;
    let queues = queues::create(&sqs_client(&sqs.url())).await?;
    let env = environment(&state, &xmtp, &dynamodb, &sqs, &secrets, &queues);
    let config = Config::read(|name| env.get(name).cloned())?;
    let account = set_up::init(&config, &state, dynamodb_client(&dynamodb.url()), sqs_client(&sqs.url())).await?;
    // From here on it counts, and so do the functions.
    xmtp.faults().limit_rates(args.rate_limits.as_ref().map(node_limits));

    let function = |name: &str| {
        let config = FunctionConfig {
            name: name.to_owned(),
            binary: binaries.join(name),
            env: env.clone().into_iter().collect(),
            timeout: TIMEOUT,
            concurrency: CONCURRENCY,
            logs: Logs::Stderr,
        };
        Arc::new(Function::new(Arc::clone(&lambda), config))
    };
    let functions: Vec<_> = functions::FUNCTIONS.into_iter().map(function).collect();
    for function in &functions {
        let name = function.name();
        for name in [name, name.trim_start_matches("usher-")] {
            lambda.publish(name, function);
        }
    }
    let mut sources = Vec::new();
    // Queues and functions stand in the same order; the nudges are the sweep's.
    for (queue, function) in Queue::ALL.into_iter().zip(&functions) {
        let config = EventSourceConfig {
            queue_url: queues[queue.short_name()].clone(),
            batch_size: BATCH_SIZE,
            maximum_concurrency: CONCURRENCY,
        };
        sources.push(SqsEventSource::start(sqs_client(&sqs.url()), config, Arc::clone(function)).await?);
    }
    let sweep = functions.last().ok_or("there is no sweep")?;
    let schedule = (!args.no_schedule).then(|| Schedule::start(SWEEP_EVERY, Arc::clone(sweep)));

    let ready = Ready {
        xmtp_url: xmtp.url(),
        xmtp_web_url: xmtp.web_url(),
        dynamodb_url: dynamodb.url(),
        sqs_url: sqs.url(),
        secrets_url: secrets.url(),
        lambda_url: lambda.url(),
        queues,
        table: TABLE,
        wallet_key_file: state.folder().join(WALLET_KEY),
        data_key_file: state.folder().join(DATA_KEY),
        chains,
        account,
    };
    Ok(Running { ready, xmtp, dynamodb, sqs, secrets, lambda, functions, sources, schedule, _state: state })
}

/// The functions' limits in the node's words.
fn node_limits(limits: &RateLimits) -> xmtp_node::RateLimits {
    let tokens = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
    let bucket = |bucket: Bucket| xmtp_node::Bucket {
        max_tokens: tokens(bucket.max_tokens),
        per_minute: tokens(bucket.per_minute),
    };
    xmtp_node::RateLimits { publish: bucket(limits.publish), default: bucket(limits.default) }
}

impl Running {
    /// Stops what asks before what answers.
    async fn stop(self) -> Result<(), Failure> {
        if let Some(schedule) = self.schedule {
            schedule.stop().await;
        }
        futures::future::join_all(self.sources.into_iter().map(|source| source.stop(STOP_PATIENCE))).await;
        drop(self.functions);
        self.lambda.stop().await;
        self.secrets.stop().await;
        self.sqs.stop().await;
        self.dynamodb.stop().await;
        self.xmtp.shutdown().await?;
        Ok(())
    }
}

/// The functions' environment variables.
fn environment(
    state: &State,
    xmtp: &RunningNode,
    dynamodb: &DynamoDb,
    sqs: &Sqs,
    secrets: &Secrets,
    queues: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let key_file = |name: &str| state.folder().join(name).display().to_string();
    let mut env = BTreeMap::from(
        [
            ("USHER_TABLE", TABLE.to_owned()),
            ("USHER_XMTP_URL", xmtp.url()),
            ("USHER_NUDGE_QUEUE_URL", queues[Queue::Nudge.short_name()].clone()),
            ("USHER_DATA_KEY_FILE", key_file(DATA_KEY)),
            ("USHER_WALLET_KEY_FILE", key_file(WALLET_KEY)),
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("AWS_ENDPOINT_URL_SQS", sqs.url()),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", secrets.url()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    // Functions of no stage tell no metrics: they would be noise here.
    let passed_on = ["USHER_STAGE", "RUST_LOG", "AWS_LAMBDA_LOG_LEVEL", "AWS_LAMBDA_LOG_FORMAT", "RUST_BACKTRACE"];
    env.extend(passed_on.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read() {
        assert_eq!(node("1=http://a/?b=c"), Ok((ChainId(1), "http://a/?b=c".to_owned())));
        for text in ["", "http://a", "sei=http://a"] {
            assert!(node(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rate_limits_are_read() {
        assert_eq!(rate_limits("3000/600,20000/4000"), Ok(RateLimits::default()));
        for text in ["", "3000/600", "3000,20000", "3000/600,20000/x", "3000/600,20000/4000,1/1"] {
            assert!(rate_limits(text).is_err(), "{text}");
        }
    }
}
