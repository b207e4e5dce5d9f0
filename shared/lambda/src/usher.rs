//! Everything that one deployment works with, wired.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, timeout::TimeoutConfig};
use aws_smithy_http_client::tls;
use tokio::sync::OnceCell;
use usher_chain::Chains;
use usher_domain::ports::{Clock, Randomness};
use usher_doorkeeper::{Doorkeeper, Nudges, Paced, Parts, Policy};
use usher_store::{
    DataKeys, DeploymentId, FileDataKeys, KmsDataKeys, Snapshots, Store, StoreError, Table, budget::RateLimits,
    dynamo::DynamoTable,
};
use usher_xmtp::{AddressError, V3, network::Network};

use crate::{
    adapters::{Machine, SqsNudges},
    config::{Config, ConfigError, DataKeyConfig},
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
pub struct Usher<T = DynamoTable> {
    pub(crate) adapters: Adapters<T>,
    pub(crate) store: Arc<Store<T>>,
    pub(crate) chains: Chains,
    policy: Policy,
    rate_limits: Option<RateLimits>,
    /// Opened at first use: the deployment's id is in the table, once somebody wrote it.
    doorkeepers: OnceCell<Doorkeepers<T>>,
}

/// Who works on rooms.
struct Doorkeepers<T> {
    /// Does everything.
    all: Doorkeeper<T>,
    /// Does nothing but removals once what all may spend of the node's limits is spent.
    removals: Option<(Arc<Paced<T>>, Doorkeeper<T>)>,
}

impl<T> fmt::Debug for Usher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Usher").field("chains", &self.chains).finish_non_exhaustive()
    }
}

/// The world outside.
pub struct Adapters<T> {
    /// The table. Clones are the same table.
    pub table: T,
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

impl<T> fmt::Debug for Adapters<T> {
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
    /// The deployment's id was not read.
    #[error("the deployment's id was not read")]
    Deployment(#[from] StoreError),
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
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(AWS_CONNECT_TIMEOUT)
            .operation_attempt_timeout(AWS_ATTEMPT_TIMEOUT)
            .operation_timeout(AWS_TIMEOUT)
            .build();
        let https = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let config =
            aws_config::defaults(BehaviorVersion::latest()).http_client(https).timeout_config(timeouts).load().await;
        Self {
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            sqs: aws_sdk_sqs::Client::new(&config),
            kms: aws_sdk_kms::Client::new(&config),
        }
    }
}

impl Usher<DynamoTable> {
    /// What the process's environment describes. A failure is logged: a function that cannot start has no other voice.
    pub async fn from_env() -> Result<Self, ConnectError> {
        let connected = match Config::from_env() {
            Ok(config) => Self::connect(&config, &AwsClients::from_env().await),
            Err(error) => Err(error.into()),
        };
        connected.inspect_err(|error| tracing::error!(error = %Chain(error), "cannot start"))
    }

    /// What `config` describes, by these clients. To be called within a Tokio runtime.
    pub fn connect(config: &Config, aws: &AwsClients) -> Result<Self, ConnectError> {
        let data_key = match &config.data_key {
            DataKeyConfig::Kms(id) => DataKeySource::Kms(aws.kms.clone(), id.clone()),
            DataKeyConfig::File(path) => DataKeySource::File(path.clone()),
        };
        let adapters = Adapters {
            table: DynamoTable::new(aws.dynamodb.clone(), &config.table),
            network: Arc::new(V3::new(&config.xmtp_url, XMTP_TIMEOUT)?),
            nudges: Arc::new(SqsNudges::new(aws.sqs.clone(), &config.nudge_queue_url)),
            data_key,
            clock: Arc::new(Machine),
            randomness: Arc::new(Machine),
        };
        let usher = Self::new(adapters, config.chains.clone(), config.policy.clone());
        Ok(usher.with_rate_limits(config.rate_limits))
    }
}

impl<T: Table + Clone> Usher<T> {
    /// An usher for these chains, on an XMTP node without rate limits.
    pub fn new(adapters: Adapters<T>, chains: Chains, policy: Policy) -> Self {
        let store = Store::new(adapters.table.clone(), adapters.clock.clone(), adapters.randomness.clone());
        Self { adapters, store: Arc::new(store), chains, policy, rate_limits: None, doorkeepers: OnceCell::new() }
    }

    /// The same usher on an XMTP node with these limits, kept together with all that work on the same table.
    #[must_use]
    pub fn with_rate_limits(self, limits: Option<RateLimits>) -> Self {
        Self { rate_limits: limits, doorkeepers: OnceCell::new(), ..self }
    }

    /// The ledger.
    pub fn store(&self) -> &Store<T> {
        &self.store
    }

    /// Who works on rooms; `None` before the deployment was initialised. Functions never initialise it.
    pub async fn doorkeeper(&self) -> Result<Option<&Doorkeeper<T>>, OpenError> {
        if let Some(opened) = self.doorkeepers.get() {
            return Ok(Some(&opened.all));
        }
        let Some(deployment) = self.store.deployment().await? else { return Ok(None) };
        let open = async || Ok::<_, OpenError>(self.open(self.snapshots(deployment)?));
        Ok(Some(&self.doorkeepers.get_or_try_init(open).await?.all))
    }

    /// Who still works on removals when nothing is left for the others; `None` as long as there is.
    pub(crate) fn removals(&self) -> Option<&Doorkeeper<T>> {
        let (paced, doorkeeper) = self.doorkeepers.get()?.removals.as_ref()?;
        paced.is_spent().then_some(doorkeeper)
    }

    fn open(&self, snapshots: Snapshots<T>) -> Doorkeepers<T> {
        let snapshots = Arc::new(snapshots);
        let doorkeeper = |network: Arc<dyn Network>| {
            Doorkeeper::new(Parts {
                store: self.store.clone(),
                snapshots: snapshots.clone(),
                network,
                nudges: self.adapters.nudges.clone(),
                clock: self.adapters.clock.clone(),
                randomness: self.adapters.randomness.clone(),
                policy: self.policy.clone(),
            })
        };
        let Adapters { network, clock, .. } = &self.adapters;
        let Some(limits) = self.rate_limits else {
            return Doorkeepers { all: doorkeeper(network.clone()), removals: None };
        };
        let paced = Arc::new(Paced::new(network.clone(), self.store.clone(), clock.clone(), limits));
        let last = doorkeeper(Arc::new(paced.for_removals()));
        Doorkeepers { all: doorkeeper(paced.clone()), removals: Some((paced, last)) }
    }

    /// The deployment's snapshots.
    pub(crate) fn snapshots(&self, deployment: DeploymentId) -> Result<Snapshots<T>, OpenError> {
        let Adapters { table, clock, randomness, .. } = &self.adapters;
        let keys: Arc<dyn DataKeys> = match &self.adapters.data_key {
            DataKeySource::Kms(client, id) => Arc::new(KmsDataKeys::new(client.clone(), id, deployment.clone())),
            DataKeySource::File(path) => {
                let opened = FileDataKeys::open(path, deployment.clone(), randomness.clone());
                Arc::new(opened.map_err(|source| OpenError::KeyFile { path: path.clone(), source })?)
            }
            DataKeySource::Other(keys) => keys.clone(),
        };
        Ok(Snapshots::new(table.clone(), keys, deployment, clock.clone(), randomness.clone()))
    }
}
