//! AWS Secrets Manager on a loopback port: reading secrets, by its AWS JSON 1.1 protocol.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;

use crate::{
    aws::{ACCOUNT, REGION},
    loopback::{ListenError, Server},
};

/// A running Secrets Manager.
#[derive(Debug)]
pub struct Secrets {
    server: Server,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetSecretValue {
    secret_id: String,
}

impl Secrets {
    /// The ARN of a secret of this name.
    pub fn arn(name: &str) -> String {
        format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}")
    }

    /// Serves `port` of 127.0.0.1 (0 takes any free one) with these secrets' texts, by their ARNs.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(port: u16, secrets: BTreeMap<String, String>) -> BoxFuture<'static, Result<Self, ListenError>> {
        Box::pin(async move {
            let router = Router::new().fallback(answer).with_state(Arc::new(secrets));
            Ok(Self { server: Server::start(port, router).await? })
        })
    }

    /// What the SDK takes as endpoint.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Stops answering.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

async fn answer(State(secrets): State<Arc<BTreeMap<String, String>>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    if target != "secretsmanager.GetSecretValue" {
        return refused("InvalidRequestException", &format!("{target} is not known here"));
    }
    let Ok(GetSecretValue { secret_id }) = serde_json::from_slice(&body) else {
        return refused("InvalidRequestException", "there is no SecretId");
    };
    match secrets.get(&secret_id) {
        Some(text) => Json(json!({ "ARN": secret_id, "Name": secret_id, "SecretString": text })).into_response(),
        None => refused("ResourceNotFoundException", "Secrets Manager can't find the specified secret."),
    }
}

fn refused(kind: &str, message: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "__type": kind, "message": message }))).into_response()
}
