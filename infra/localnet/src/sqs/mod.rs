//! SQS on a loopback port: its AWS JSON 1.0 protocol over standard queues in SQLite.

mod protocol;
mod queues;
mod refusal;

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures::future::BoxFuture;

use crate::loopback::{ListenError, Server, listen};
use protocol::Protocol;
use queues::Queues;

/// SQS refuses messages and batches above 1 MiB.
const MAX_PAYLOAD: usize = 1024 * 1024;
/// Room for JSON escapes around a payload of the greatest size.
const MAX_BODY: usize = 4 * MAX_PAYLOAD;

/// A running SQS.
#[derive(Debug)]
pub struct Sqs {
    server: Server,
}

/// SQS could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port cannot be had.
    #[error("SQS has no port")]
    Port(#[from] ListenError),
    /// The queues cannot be opened.
    #[error("SQS's queues cannot be opened")]
    Queues(#[from] rusqlite::Error),
}

impl Sqs {
    /// Serves `port` of 127.0.0.1 (0 takes any free one) from the SQLite file `state`, or from memory.
    ///
    /// Whoever had received a message when the file was last closed is gone, so it is visible again at once.
    ///
    /// # Errors
    /// The port is taken or the file cannot be opened.
    pub fn start(port: u16, state: Option<&Path>) -> BoxFuture<'_, Result<Self, StartError>> {
        Box::pin(async move {
            let listener = listen(port).await?;
            let address = listener.local_addr().map_err(|source| ListenError::new(port, source))?;
            let protocol = Protocol::new(Queues::open(state)?, url(address));
            let router =
                Router::new().fallback(answer).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(Arc::new(protocol));
            Ok(Self { server: Server::on(listener, address, router) })
        })
    }

    /// What the SDK takes as endpoint; a queue's URL is this, the account and the queue's name.
    pub fn url(&self) -> String {
        url(self.server.address())
    }

    /// Ends the long polls and closes the queues.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// The action stands in a header, e.g. `X-Amz-Target: AmazonSQS.SendMessage`.
async fn answer(State(protocol): State<Arc<Protocol>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let action = target.and_then(|target| target.strip_prefix("AmazonSQS.")).unwrap_or_default();
    match protocol.answer(action, &body).await {
        Ok(answer) => ([("content-type", "application/x-amz-json-1.0")], Json(answer)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}
