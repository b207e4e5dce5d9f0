//! The node's two ports: gRPC, and gRPC-Web for browsers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::timeout};
use tonic::{
    codec::CompressionEncoding,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_web::GrpcWebLayer;
use tower_http::cors::{Any, CorsLayer};
use usher_xmtp::proto::{identity_api::identity_api_server::IdentityApiServer, mls_api::mls_api_server::MlsApiServer};

use super::{Core, NodeError, identity_service::IdentityService, mls_service::MlsService};

/// The largest message taken, in bytes.
const MAX_MESSAGE: usize = 50 * 1024 * 1024;
/// A connection this long silent is pinged.
const PING_AFTER: Duration = Duration::from_mins(5);
/// How long calls in flight may take to finish at a shutdown.
const GRACE: Duration = Duration::from_secs(2);

pub(super) struct Servers {
    pub(super) grpc_address: SocketAddr,
    pub(super) web_address: SocketAddr,
    tasks: JoinSet<Result<(), tonic::transport::Error>>,
    stop: watch::Sender<bool>,
}

impl Servers {
    pub(super) async fn start(core: &Arc<Core>, grpc: SocketAddr, web: SocketAddr) -> Result<Self, NodeError> {
        let (grpc, grpc_address) = bind(grpc)?;
        let (web, web_address) = bind(web)?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let routes = routes(core).await;
        let server = Server::builder().http2_keepalive_interval(Some(PING_AFTER)).add_routes(routes.clone());
        tasks.spawn(server.serve_with_incoming_shutdown(grpc, until(stopped.clone())));
        let cors = CorsLayer::new().allow_origin(Any).allow_methods(Any).allow_headers(Any).expose_headers(Any);
        let server = Server::builder().accept_http1(true).layer(cors).layer(GrpcWebLayer::new()).add_routes(routes);
        tasks.spawn(server.serve_with_incoming_shutdown(web, until(stopped)));
        Ok(Self { grpc_address, web_address, tasks, stop })
    }

    pub(super) async fn stop(mut self) -> Result<(), NodeError> {
        self.stop.send_replace(true);
        let finished = async {
            while let Some(task) = self.tasks.join_next().await {
                // A panic in a server task is a bug; do not hide it.
                task.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
            }
            Ok(())
        };
        // A client that keeps a connection busy does not keep the node: dropping the tasks closes it.
        timeout(GRACE, finished).await.unwrap_or(Ok(()))
    }
}

fn bind(address: SocketAddr) -> Result<(TcpIncoming, SocketAddr), NodeError> {
    let bound = TcpIncoming::bind(address).and_then(|incoming| {
        let address = incoming.local_addr()?;
        Ok((incoming.with_nodelay(Some(true)), address))
    });
    bound.map_err(|source| NodeError::Bind { address, source })
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the node was dropped.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn routes(core: &Arc<Core>) -> Routes {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<MlsApiServer<MlsService>>().await;
    health.set_serving::<IdentityApiServer<IdentityService>>().await;
    let mls = MlsApiServer::new(MlsService { core: core.clone() })
        .max_decoding_message_size(MAX_MESSAGE)
        .accept_compressed(CompressionEncoding::Gzip);
    let identity = IdentityApiServer::new(IdentityService { core: core.clone() })
        .max_decoding_message_size(MAX_MESSAGE)
        .accept_compressed(CompressionEncoding::Gzip);
    Routes::new(health_service).add_service(mls).add_service(identity)
}
