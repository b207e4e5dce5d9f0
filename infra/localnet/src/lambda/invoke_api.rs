//! Lambda's Invoke API (2015-03-31), as `cargo lambda invoke` uses it: a function is run once, and its response is the
//! answer.
//!
//! Not here: versions and aliases, client contexts, the log's tail, and the further tries that AWS gives an `Event`.

use std::{
    collections::HashMap,
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::{sync::oneshot, task::JoinSet};
use uuid::Uuid;

use super::{environment::FunctionError, function::Function};
use crate::aws::{ACCOUNT, REGION};

/// The functions that can be invoked, and the invocations that run.
#[derive(Debug, Default)]
pub(super) struct Invocations {
    /// A function keeps the server that this belongs to; the other way round neither would ever end.
    functions: Mutex<HashMap<String, Weak<Function>>>,
    running: Mutex<JoinSet<()>>,
}

impl Invocations {
    pub(super) fn publish(&self, name: &str, function: &Arc<Function>) {
        lock(&self.functions).insert(name.to_owned(), Arc::downgrade(function));
    }

    fn function(&self, name: &str) -> Option<Arc<Function>> {
        lock(&self.functions).get(name)?.upgrade()
    }

    /// Runs the function; as in AWS, to the end, whether or not the caller waits for it.
    fn start(
        &self,
        function: Arc<Function>,
        request_id: String,
        payload: Bytes,
    ) -> oneshot::Receiver<Result<Bytes, FunctionError>> {
        let (tell, outcome) = oneshot::channel();
        let mut running = lock(&self.running);
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            // The caller of an `Event` does not listen.
            let _ = tell.send(function.invoke_as(request_id, payload).await);
        });
        outcome
    }

    /// Drops what runs; its processes are killed.
    pub(super) async fn stop(&self) {
        let mut running = std::mem::take(&mut *lock(&self.running));
        running.shutdown().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn router(invocations: Arc<Invocations>) -> Router {
    Router::new().route("/2015-03-31/functions/{function}/invocations", post(invoke)).with_state(invocations)
}

async fn invoke(
    State(invocations): State<Arc<Invocations>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<Response, Refusal> {
    let function = invocations.function(&name).ok_or(Refusal::ResourceNotFound(name))?;
    serde_json::from_slice::<IgnoredAny>(&payload).map_err(Refusal::InvalidRequestContent)?;
    let kind = headers.get("x-amz-invocation-type").map_or(&b"RequestResponse"[..], |kind| kind.as_bytes());
    let request_id = Uuid::new_v4().to_string();
    let answer = match kind {
        b"DryRun" => StatusCode::NO_CONTENT.into_response(),
        b"Event" => {
            invocations.start(function, request_id.clone(), payload);
            StatusCode::ACCEPTED.into_response()
        }
        b"RequestResponse" => {
            let outcome = invocations.start(function, request_id.clone(), payload).await;
            answer(outcome.map_err(|_| Refusal::Service)?)
        }
        other => return Err(Refusal::InvalidParameterValue(String::from_utf8_lossy(other).into_owned())),
    };
    Ok(([("x-amzn-requestid", request_id), ("x-amz-executed-version", "$LATEST".to_owned())], answer).into_response())
}

/// The function's response, or its error: both were an invocation that succeeded.
fn answer(outcome: Result<Bytes, FunctionError>) -> Response {
    match outcome {
        Ok(response) => ([(CONTENT_TYPE, "application/json")], response).into_response(),
        Err(error) => {
            let (error_type, message) = described(&error);
            let body = Json(json!({ "errorType": error_type, "errorMessage": message }));
            ([("x-amz-function-error", "Unhandled")], body).into_response()
        }
    }
}

/// The error's type, in Lambda's words if the function gave none, and its message.
fn described(error: &FunctionError) -> (&str, String) {
    let error_type = match error {
        FunctionError::Init { error_type, message } | FunctionError::Returned { error_type, message } => {
            return (error_type, message.clone());
        }
        FunctionError::Start { .. } => "Runtime.InvalidEntrypoint",
        FunctionError::InitTimeout | FunctionError::Timeout(_) => "Sandbox.Timedout",
        FunctionError::Exited(_) => "Runtime.ExitError",
        FunctionError::Protocol => "Runtime.Unknown",
    };
    (error_type, error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}")))
}

/// Why nothing is invoked.
#[derive(Debug)]
enum Refusal {
    /// No function has this name.
    ResourceNotFound(String),
    /// The payload is not JSON.
    InvalidRequestContent(serde_json::Error),
    /// There is no such invocation type.
    InvalidParameterValue(String),
    /// The server stops.
    Service,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error_type, message) = match self {
            Self::ResourceNotFound(name) => (
                StatusCode::NOT_FOUND,
                "ResourceNotFoundException",
                format!("Function not found: arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"),
            ),
            Self::InvalidRequestContent(error) => (
                StatusCode::BAD_REQUEST,
                "InvalidRequestContentException",
                format!("Could not parse request body into json: {error}"),
            ),
            Self::InvalidParameterValue(kind) => (
                StatusCode::BAD_REQUEST,
                "InvalidParameterValueException",
                format!("{kind:?} is no invocation type: RequestResponse, Event or DryRun"),
            ),
            Self::Service => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceException", "the server is being stopped".to_owned())
            }
        };
        // AWS sends the first two; `cargo lambda invoke` shows the others, which it knows from functions' errors.
        let body = json!({ "Type": "User", "Message": message, "errorType": error_type, "errorMessage": message });
        (status, [("x-amzn-errortype", error_type)], Json(body)).into_response()
    }
}
