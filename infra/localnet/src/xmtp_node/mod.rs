//! A loopback XMTP V3 node: MlsApi and IdentityApi with the rules, texts and quirks of the hosted network's node, so
//! that real clients cannot tell. It authenticates nobody and orders no MLS, as the hosted one.
//!
//! Left out: the V2 message API, the JSON gateway, the version gate (production only) and pruning.

mod faults;
mod feed;
mod gate;
mod identity_service;
mod method;
mod mls_service;
mod paging;
mod rate_limit;
mod server;
mod store;
mod subscription;
mod validation;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use futures::future::BoxFuture;
use tokio::sync::{Mutex, watch};
use usher_xmtp::{
    identity::{AssociationState, NoSmartWallets, SmartWalletVerifier},
    ports::Clock,
};

pub use faults::Faults;
pub use gate::Fault;
pub use method::{Method, UnknownMethod};
pub use rate_limit::{Bucket, Limiter, RateLimits};
pub use store::Hold;

use crate::ambient::SystemClock;
use gate::Gate;
use server::Servers;
use store::Store;
use subscription::StreamEnd;

/// How a node is started.
#[derive(Clone)]
pub struct NodeOptions {
    /// The address both ports are bound on.
    pub host: IpAddr,
    /// gRPC. 0 takes a free port.
    pub port: u16,
    /// gRPC-Web, for browsers of any origin. 0 takes a free port.
    pub web_port: u16,
    /// The SQLite file, made if missing. Without one the node forgets everything when it stops.
    pub database: Option<PathBuf>,
    /// Stamps what is stored and refills the rate limiter's buckets.
    pub clock: Arc<dyn Clock>,
    /// Who checks the signatures of smart-contract wallets.
    pub smart_wallets: Arc<dyn SmartWalletVerifier>,
}

impl Default for NodeOptions {
    /// In memory on 127.0.0.1, on the ports clients of the `local` environment expect: 5556, and 5557 for gRPC-Web.
    /// No smart-contract wallet is verified.
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 5556,
            web_port: 5557,
            database: None,
            clock: Arc::new(SystemClock),
            smart_wallets: Arc::new(NoSmartWallets),
        }
    }
}

impl NodeOptions {
    /// The defaults, on free ports.
    #[must_use]
    pub fn on_free_ports() -> Self {
        Self { port: 0, web_port: 0, ..Self::default() }
    }
}

impl std::fmt::Debug for NodeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("web_port", &self.web_port)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// Why a node does not start or stops badly.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The database cannot be opened.
    #[error("the node's database cannot be opened")]
    Database(#[from] rusqlite::Error),
    /// A port cannot be bound.
    #[error("{address} cannot be bound")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A server failed while it ran.
    #[error("the server failed")]
    Serve(#[from] tonic::transport::Error),
}

/// What the services of one node share.
struct Core {
    store: Arc<Store>,
    gate: Gate,
    stream_end: watch::Sender<StreamEnd>,
    smart_wallets: Arc<dyn SmartWalletVerifier>,
    /// Per inbox, the number of its log's entries and what they add up to. The hosted node verifies the whole log again
    /// with every update, to the same end. Locked from reading a log to appending to it.
    verified_inboxes: Mutex<HashMap<Vec<u8>, (usize, AssociationState)>>,
}

/// A node that can be started.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Opens the database, binds both ports and serves. When this returns, clients can connect.
    ///
    /// # Errors
    /// If the database or a port is not to be had.
    pub fn start(options: NodeOptions) -> BoxFuture<'static, Result<RunningNode, NodeError>> {
        Box::pin(async move {
            let store = Arc::new(Store::open(options.database.as_deref(), options.clock.clone())?);
            let core = Arc::new(Core {
                store,
                gate: Gate::new(options.clock),
                stream_end: watch::Sender::new(StreamEnd::Open),
                smart_wallets: options.smart_wallets,
                verified_inboxes: Mutex::default(),
            });
            let servers = Servers::start(
                &core,
                SocketAddr::new(options.host, options.port),
                SocketAddr::new(options.host, options.web_port),
            )
            .await?;
            Ok(RunningNode { core, servers })
        })
    }
}

/// A node that serves. Dropping it stops it at once, mid-call.
#[must_use = "dropping a running node stops it"]
pub struct RunningNode {
    core: Arc<Core>,
    servers: Servers,
}

impl RunningNode {
    /// Where it speaks gRPC: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.servers.grpc_address)
    }

    /// Where it speaks gRPC-Web.
    #[must_use]
    pub fn web_url(&self) -> String {
        format!("http://{}", self.servers.web_address)
    }

    /// The node's failure switches.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults { core: self.core.clone() }
    }

    /// How many calls of `method` have come in so far, refused ones included.
    #[must_use]
    pub fn calls(&self, method: Method) -> u64 {
        self.core.gate.calls(method)
    }

    /// Ends open streams with UNAVAILABLE, lets calls in flight finish (for two seconds at most) and stops.
    ///
    /// # Errors
    /// If a server had failed before.
    pub async fn shutdown(self) -> Result<(), NodeError> {
        self.core.stream_end.send_replace(StreamEnd::ShuttingDown);
        self.servers.stop().await
    }
}

impl std::fmt::Debug for RunningNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningNode")
            .field("url", &self.url())
            .field("web_url", &self.web_url())
            .finish_non_exhaustive()
    }
}
