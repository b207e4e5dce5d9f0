//! SQS on a loopback port: winterbaume's AWS JSON protocol over queues of our own in SQLite.
//!
//! winterbaume-sqs 0.2 keeps its queues in memory only (its snapshots leave the messages out), ignores
//! `MessageRetentionPeriod`, drops messages whose dead-letter queue is missing, and no longer counts a message as
//! visible once it was received. Its storage is pluggable, so [`queues`] replaces just that. It also takes batches of
//! any size, so the limits of a request are checked here, before it.

mod backend;
mod queues;

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use winterbaume_core::{MockRequest, MockService};
use winterbaume_sqs::SqsService;

use crate::loopback::{ListenError, Server, listen};
use backend::Backend;
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
            let queues = Queues::open(state)?;
            let service = SqsService::with_backend(Arc::new(Backend::new(queues, url(address))));
            let router =
                Router::new().fallback(answer).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(Arc::new(service));
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

async fn answer(
    State(service): State<Arc<SqsService>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err((code, message)) = within_limits(&body) {
        let error = json!({ "__type": code, "message": message }).to_string();
        return (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.0")], error).into_response();
    }
    let request = MockRequest { method: method.to_string(), uri: uri.to_string(), headers, body };
    let answer = service.handle(request).await;
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = answer.headers;
    response
}

/// The limits of one request, from the SQS API reference; what is no JSON is left to the protocol's own refusal.
fn within_limits(body: &[u8]) -> Result<(), (&'static str, &'static str)> {
    let Ok(request) = serde_json::from_slice::<Value>(body) else { return Ok(()) };
    let text = |message: &Value| message["MessageBody"].as_str().map_or(0, str::len);
    if text(&request) > MAX_PAYLOAD {
        return Err((
            "InvalidParameterValue",
            "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes.",
        ));
    }
    if request["MaxNumberOfMessages"].as_i64().is_some_and(|number| !(1..=10).contains(&number)) {
        return Err(("InvalidParameterValue", "Reason: Must be between 1 and 10, if provided."));
    }
    if request["DelaySeconds"].as_i64().is_some_and(|seconds| !(0..=900).contains(&seconds)) {
        return Err(("InvalidParameterValue", "Reason: DelaySeconds must be >= 0 and <= 900."));
    }
    let Some(entries) = request["Entries"].as_array() else { return Ok(()) };
    if entries.is_empty() {
        return Err(("AWS.SimpleQueueService.EmptyBatchRequest", "There should be at least one entry in the request."));
    }
    if entries.len() > 10 {
        return Err((
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            "Maximum number of entries per request are 10.",
        ));
    }
    if entries.iter().map(text).sum::<usize>() > MAX_PAYLOAD {
        return Err((
            "AWS.SimpleQueueService.BatchRequestTooLong",
            "Batch requests cannot be longer than 1048576 bytes.",
        ));
    }
    let mut ids: Vec<_> = entries.iter().map(|entry| entry["Id"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() < entries.len() {
        return Err(("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", "Two or more batch entries have the same Id."));
    }
    Ok(())
}
