//! Everything that one deployment works with, wired.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_config::{BehaviorVersion, SdkConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::tls;
use futures::future::BoxFuture;
use usher_chain::Chains;
use usher_domain::ports::{Clock, Randomness};
use usher_doorkeeper::{Nudges, Policy};
use usher_store::{DataKeys, Place, Store, StoreError, Table, budget::RateLimits, dynamo::DynamoTable};
use usher_xmtp::{AddressError, V3, network::Network};

use crate::{
    adapters::{Machine, SqsNudges},
    config::{Config, ConfigError, DataKeyConfig},
    current::{Current, Source},
    init::network_name,
    meter::Meter,
    metrics::Metrics,
    nodes::{Nobody, Nodes, RpcNodes},
    settings::{Settings, SettingsError},
    telemetry::Chain,
};

/// How long one call to XMTP may take.
const XMTP_TIMEOUT: Duration = Duration::from_secs(4);
/// How long connecting to an AWS service may take.
const AWS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one attempt of a call to an AWS service may take; the SDK tries up to three times.
const AWS_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a call to an AWS service may take, all attempts together.
const AWS_TIMEOUT: Duration = Duration::from_secs(10);

/// What a deployment works with. Cheap to make: nothing is asked of any service before it is needed.
pub struct Usher {
    pub(crate) adapters: Adapters,
    pub(crate) store: Arc<Store>,
    pub(crate) metrics: Metrics,
    /// Who asks chains.
    pub(crate) nodes: Arc<dyn Nodes>,
    pub(crate) source: Source,
    /// Where it works, if that is told.
    pub(crate) place: Option<Place>,
}

impl fmt::Debug for Usher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Usher").field("adapters", &self.adapters).finish_non_exhaustive()
    }
}

/// The world outside.
pub struct Adapters {
    /// The table.
    pub table: Arc<dyn Table>,
    /// XMTP.
    pub network: Arc<dyn Network>,
    /// Where a reminder of unfinished work is left.
    pub nudges: Arc<dyn Nudges>,
    /// What seals snapshots.
    pub data_key: DataKeySource,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Unpredictable bytes.
    pub randomness: Arc<dyn Randomness>,
}

impl fmt::Debug for Adapters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapters").field("data_key", &self.data_key).finish_non_exhaustive()
    }
}

/// The keeper of the key that wraps data keys.
#[derive(Clone)]
pub enum DataKeySource {
    /// A KMS key, by id, ARN or alias.
    Kms(aws_sdk_kms::Client, String),
    /// A key file; made if there is none.
    File(PathBuf),
    /// Any other keeper.
    Other(Arc<dyn DataKeys>),
}

impl fmt::Debug for DataKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kms(_, id) => write!(f, "Kms({id})"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Other(_) => f.write_str("Other"),
        }
    }
}

/// Clients of the AWS services.
#[derive(Debug, Clone)]
pub struct AwsClients {
    /// DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// SQS.
    pub sqs: aws_sdk_sqs::Client,
    /// KMS.
    pub kms: aws_sdk_kms::Client,
    /// Secrets Manager.
    pub secrets: aws_sdk_secretsmanager::Client,
    /// What their calls cost.
    pub meter: Meter,
}

/// Why a function cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The XMTP node's address cannot be used.
    #[error("USHER_XMTP_URL cannot be used")]
    Xmtp(#[from] AddressError),
}

/// Why rooms cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There are no settings to work by.
    #[error("there are no settings to work by")]
    Settings(#[from] SettingsError),
    /// The deployment's id was not read.
    #[error("the deployment's id was not read")]
    Deployment(#[from] StoreError),
    /// The deployment's rooms are on another network. On this one all of them would seem lost.
    #[error("the deployment was initialised for XMTP network {bound}, and this is {told}")]
    OtherNetwork {
        /// The network that it is bound to.
        bound: String,
        /// The network that is at hand.
        told: String,
    },
    /// A table of another name is a restored one: its room states are old, and nothing may be committed from them.
    #[error(
        "the deployment's table is {bound}, and this is {told}: restored from a backup? then run `usher recover --begin`"
    )]
    OtherTable {
        /// The table that it is bound to.
        bound: String,
        /// The table that is at hand.
        told: String,
    },
    /// The key file cannot be used.
    #[error("the key file {path} cannot be used")]
    KeyFile {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
}

impl AwsClients {
    /// Clients as the environment describes them, with bounded calls.
    pub async fn from_env() -> Self {
        Self::new(&Self::config_from_env().await)
    }

    /// How AWS is reached, as the environment and the files of the AWS command line describe it, with bounded calls.
    pub fn config_from_env() -> BoxFuture<'static, SdkConfig> {
        Box::pin(async move {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(AWS_CONNECT_TIMEOUT)
                .operation_attempt_timeout(AWS_ATTEMPT_TIMEOUT)
                .operation_timeout(AWS_TIMEOUT)
                .build();
            let https = aws_smithy_http_client::Builder::new()
                .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
                .build_https();
            aws_config::defaults(BehaviorVersion::latest()).http_client(https).timeout_config(timeouts).load().await
        })
    }

    /// Clients of this configuration.
    pub fn new(config: &SdkConfig) -> Self {
        let meter = Meter::default();
        Self {
            dynamodb: aws_sdk_dynamodb::Client::from_conf(
                aws_sdk_dynamodb::config::Builder::from(config).interceptor(meter.clone()).build(),
            ),
            sqs: aws_sdk_sqs::Client::from_conf(
                aws_sdk_sqs::config::Builder::from(config).interceptor(meter.clone()).build(),
            ),
            kms: aws_sdk_kms::Client::from_conf(
                aws_sdk_kms::config::Builder::from(config).interceptor(meter.clone()).build(),
            ),
            secrets: aws_sdk_secretsmanager::Client::from_conf(
                aws_sdk_secretsmanager::config::Builder::from(config).interceptor(meter.clone()).build(),
            ),
            meter,
        }
    }
}

impl Usher {
    /// What the process's environment describes. A failure is logged: a function that cannot start has no other voice.
    pub fn from_env() -> BoxFuture<'static, Result<Self, ConnectError>> {
        Box::pin(async {
            let connected = match Config::from_env() {
                Ok(config) => {
                    let aws = AwsClients::from_env().await;
                    Self::connect(&config, &aws).map(|usher| usher.with_metrics(Metrics::from_env(aws.meter)))
                }
                Err(error) => Err(error.into()),
            };
            connected.inspect_err(|error| tracing::error!(error = %Chain(error), "cannot start"))
        })
    }

    /// What `config` describes, by these clients. To be called within a Tokio runtime.
    pub fn connect(config: &Config, aws: &AwsClients) -> Result<Self, ConnectError> {
        let data_key = match &config.data_key {
            DataKeyConfig::Kms(id) => DataKeySource::Kms(aws.kms.clone(), id.clone()),
            DataKeyConfig::File(path) => DataKeySource::File(path.clone()),
        };
        let adapters = Adapters {
            table: Arc::new(DynamoTable::new(aws.dynamodb.clone(), &config.table)),
            network: Arc::new(V3::new(&config.xmtp_url, XMTP_TIMEOUT)?),
            nudges: Arc::new(SqsNudges::new(aws.sqs.clone(), &config.nudge_queue_url)),
            data_key,
            clock: Arc::new(Machine),
            randomness: Arc::new(Machine),
        };
        let place = Place { network: network_name(&config.xmtp_url), table: config.table.clone() };
        Ok(Self::from_table(adapters).at(place).asking(Arc::new(RpcNodes::new(aws.secrets.clone()))))
    }
}

impl Usher {
    /// An usher whose settings are those in the table.
    pub fn from_table(adapters: Adapters) -> Self {
        Self::with_source(adapters, Source::Table(Mutex::default()))
    }

    /// An usher for these chains, on an XMTP node without rate limits, whatever the table says.
    pub fn new(adapters: Adapters, chains: Chains, policy: Policy) -> Self {
        let settings = Settings { chains, policy, rate_limits: None };
        Self::with_source(adapters, Source::Fixed(Arc::new(Current::fixed(settings))))
    }

    fn with_source(adapters: Adapters, source: Source) -> Self {
        let store = Store::new(adapters.table.clone(), adapters.clock.clone(), adapters.randomness.clone());
        let (store, metrics, nodes) = (Arc::new(store), Metrics::silent(), Arc::new(Nobody));
        Self { adapters, store, metrics, nodes, source, place: None }
    }

    /// The same usher on an XMTP node with these limits, kept together with all that work on the same table. (Settings
    /// in the table have limits of their own.)
    #[must_use]
    pub fn with_rate_limits(self, rate_limits: Option<RateLimits>) -> Self {
        let Source::Fixed(current) = &self.source else { return self };
        let settings = Settings { rate_limits, ..current.settings.clone() };
        Self { source: Source::Fixed(Arc::new(Current::fixed(settings))), ..self }
    }

    /// The same usher at this place: it is where the deployment is bound to be, or no room is touched.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    /// The same usher, which asks chains of these nodes. (One that believes its queues asks nobody.)
    #[must_use]
    pub fn asking(self, nodes: Arc<dyn Nodes>) -> Self {
        Self { nodes, ..self }
    }

    /// The same usher, which tells these metrics.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// The ledger.
    pub fn store(&self) -> &Store {
        &self.store
    }
}
