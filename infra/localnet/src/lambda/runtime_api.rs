//! The Lambda Runtime API (2018-06-01): what a function's process calls to get its work and to hand it back.
//!
//! Lambda gives each process a host and port of its own; here they share one port, and each is given a URL with a path
//! before the API's, which `lambda_runtime` honours. The [Invoke API](super::invoke_api) is on this port, too.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{
    environment::FunctionError,
    function::Function,
    invoke_api::{self, Invocations},
};
use crate::loopback::{ListenError, Server};

/// Lambda's limit for a synchronous request, and for its response.
const MAX_PAYLOAD: usize = 6 * 1024 * 1024;

/// The Runtime API for every process on this machine, and the Invoke API for the functions that are published.
#[derive(Debug)]
pub struct RuntimeApi {
    server: Server,
    processes: Processes,
    invocations: Arc<Invocations>,
}

/// Where to leave a call of a process, by the process's name in the path.
type Processes = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Call>>>>;

/// One unit of work for a process.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) request_id: String,
    pub(super) deadline_ms: i64,
    pub(super) function_arn: String,
    pub(super) trace_id: String,
    pub(super) payload: Bytes,
}

/// What a process says.
#[derive(Debug)]
pub(super) enum Call {
    /// It is idle and waits for work.
    Next(oneshot::Sender<Invocation>),
    /// It is done with an invocation.
    Done { request_id: String, outcome: Result<Bytes, FunctionError>, accepted: oneshot::Sender<bool> },
    /// It cannot start.
    InitError(FunctionError),
}

/// Ends a process's part in the API when dropped.
#[derive(Debug)]
pub(super) struct Registration {
    processes: Processes,
    name: String,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl RuntimeApi {
    /// Serves `port` of 127.0.0.1; 0 takes any free one.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(port: u16) -> BoxFuture<'static, Result<Self, ListenError>> {
        Box::pin(async move {
            let (processes, invocations) = (Processes::default(), Arc::<Invocations>::default());
            let router = Router::new()
                .route("/{process}/2018-06-01/runtime/invocation/next", get(next))
                .route("/{process}/2018-06-01/runtime/invocation/{request_id}/response", post(response))
                .route("/{process}/2018-06-01/runtime/invocation/{request_id}/error", post(error))
                .route("/{process}/2018-06-01/runtime/init/error", post(init_error))
                .with_state(Arc::clone(&processes))
                .merge(invoke_api::router(Arc::clone(&invocations)))
                .layer(DefaultBodyLimit::max(MAX_PAYLOAD));
            Ok(Self { server: Server::start(port, router).await?, processes, invocations })
        })
    }

    /// Where functions are invoked: `http://127.0.0.1:…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Lets `function` be invoked under `name` by `POST /2015-03-31/functions/{name}/invocations`, for as long as
    /// somebody keeps it.
    pub fn publish(&self, name: &str, function: &Arc<Function>) {
        self.invocations.publish(name, function);
    }

    /// Drops the invocations that came by HTTP and stops serving. Processes still waiting lose their connection.
    pub async fn stop(&self) {
        self.invocations.stop().await;
        self.server.stop().await;
    }

    /// Opens a path for the process `name`: the value of its `AWS_LAMBDA_RUNTIME_API`, and what it says.
    pub(super) fn register(&self, name: &str) -> (String, mpsc::UnboundedReceiver<Call>, Registration) {
        let (calls, said) = mpsc::unbounded_channel();
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), calls);
        let registration = Registration { processes: Arc::clone(&self.processes), name: name.to_owned() };
        (format!("http://{}/{name}", self.server.address()), said, registration)
    }
}

fn say(processes: &Processes, process: &str, call: Call) -> Result<(), Refusal> {
    let processes = processes.lock().unwrap_or_else(PoisonError::into_inner);
    let calls = processes.get(process).ok_or(Refusal::Forbidden)?;
    calls.send(call).map_err(|_| Refusal::Forbidden)
}

async fn next(State(processes): State<Processes>, Path(process): Path<String>) -> Result<Response, Refusal> {
    let (give, given) = oneshot::channel();
    say(&processes, &process, Call::Next(give))?;
    let invocation = given.await.map_err(|_| Refusal::Forbidden)?;
    let headers = [
        ("lambda-runtime-aws-request-id", invocation.request_id),
        ("lambda-runtime-deadline-ms", invocation.deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", invocation.function_arn),
        ("lambda-runtime-trace-id", invocation.trace_id),
        ("content-type", "application/json".to_owned()),
    ];
    Ok((headers, invocation.payload).into_response())
}

async fn response(
    State(processes): State<Processes>,
    Path((process, request_id)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refusal> {
    done(&processes, &process, request_id, Ok(body)).await
}

async fn error(
    State(processes): State<Processes>,
    Path((process, request_id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let (error_type, message) = reported(&headers, &body);
    done(&processes, &process, request_id, Err(FunctionError::Returned { error_type, message })).await
}

async fn done(
    processes: &Processes,
    process: &str,
    request_id: String,
    outcome: Result<Bytes, FunctionError>,
) -> Result<Response, Refusal> {
    let (accepted, answer) = oneshot::channel();
    say(processes, process, Call::Done { request_id, outcome, accepted })?;
    if answer.await.map_err(|_| Refusal::Forbidden)? { Ok(thanks()) } else { Err(Refusal::InvalidRequestId) }
}

async fn init_error(
    State(processes): State<Processes>,
    Path(process): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let (error_type, message) = reported(&headers, &body);
    say(&processes, &process, Call::InitError(FunctionError::Init { error_type, message }))?;
    Ok(thanks())
}

fn thanks() -> Response {
    (StatusCode::ACCEPTED, Json(json!({ "status": "OK" }))).into_response()
}

/// The error's type and message, as the runtime reports them.
fn reported(headers: &HeaderMap, body: &[u8]) -> (String, String) {
    let report: Value = serde_json::from_slice(body).unwrap_or_default();
    let header = headers.get("lambda-runtime-function-error-type").and_then(|value| value.to_str().ok());
    let error_type = report["errorType"].as_str().or(header).unwrap_or("Unhandled");
    (error_type.to_owned(), report["errorMessage"].as_str().unwrap_or_default().to_owned())
}

/// Why the API does not take a call.
#[derive(Debug)]
enum Refusal {
    /// No such process, or no longer.
    Forbidden,
    /// Not the invocation the process is working on.
    InvalidRequestId,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error_type) = match self {
            Self::Forbidden => (StatusCode::FORBIDDEN, "InvalidStateTransition"),
            Self::InvalidRequestId => (StatusCode::BAD_REQUEST, "InvalidRequestID"),
        };
        (status, Json(json!({ "errorType": error_type, "errorMessage": error_type }))).into_response()
    }
}
