//! An HTTP server on 127.0.0.1 that ends when told, with whatever still waits in it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, sync::watch};

/// A loopback port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("port {port} on 127.0.0.1 cannot be had")]
pub struct ListenError {
    port: u16,
    #[source]
    source: io::Error,
}

impl ListenError {
    pub(crate) fn new(port: u16, source: io::Error) -> Self {
        Self { port, source }
    }
}

/// Binds `port` of 127.0.0.1; 0 takes any free one.
///
/// # Errors
/// The port is taken, or not permitted.
pub(crate) async fn listen(port: u16) -> Result<TcpListener, ListenError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|source| ListenError::new(port, source))
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    /// The server and its connections hold the receivers.
    stop: watch::Sender<bool>,
}

impl Server {
    /// Serves `router` on `port`.
    pub(crate) async fn start(port: u16, router: Router) -> Result<Self, ListenError> {
        let listener = listen(port).await?;
        let address = listener.local_addr().map_err(|source| ListenError::new(port, source))?;
        Ok(Self::on(listener, address, router))
    }

    /// Serves `router` on a `listener` bound to `address`.
    pub(crate) fn on(listener: TcpListener, address: SocketAddr, router: Router) -> Self {
        let (stop, stopped) = watch::channel(false);
        let router = router.layer(from_fn_with_state(stopped.clone(), until_stopped));
        let serve = axum::serve(listener, router).with_graceful_shutdown(wait(stopped));
        tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::warn!(%error, "a loopback server ended badly");
            }
        });
        Self { address, stop }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every request still waiting (503) and returns when no connection is left.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        self.stop.closed().await;
    }
}

/// A long poll would hold the shutdown for as long as it waits.
async fn until_stopped(State(stopped): State<watch::Receiver<bool>>, request: Request, next: Next) -> Response {
    tokio::select! {
        response = next.run(request) => response,
        () = wait(stopped) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    // An error means the `Server` is gone, which ends it as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
