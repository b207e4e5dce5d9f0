//! The keys in KMS, the deployment's id, and its account, which only its data key opens.

use aws_sdk_kms::{
    Client,
    operation::{RequestId as _, generate_data_key::GenerateDataKeyError},
    types::{DataKeySpec, KeyState},
};
use usher_lambda::telemetry::Chain;
use usher_store::DeploymentId;

use super::Check;
use crate::{
    Failure,
    stack::{Deployment, Machinery},
    wallet::KmsWallet,
};

const INIT: &str = "`usher init`";

pub(super) async fn look(deployment: &Deployment, machinery: &Machinery) -> Vec<Check> {
    let id = match deployment.store().deployment().await {
        Ok(id) => id,
        Err(error) => {
            return vec![Check::fail("account", Chain(&error).to_string(), "see whether the table may be read")];
        }
    };
    let mut checks = Vec::new();
    if let Some((kms, outputs)) = deployment.keys() {
        checks.push(checked("data key", data_key(kms, &outputs.data_key, id.as_ref()).await));
        checks.push(checked("wallet key", wallet_key(kms, &outputs.wallet_key).await));
    }
    checks.push(account(deployment, machinery, id).await);
    checks
}

fn checked(name: &str, looked: Result<Check, Failure>) -> Check {
    looked.unwrap_or_else(|error| {
        let fix = "see whether the key exists and its policy lets the operator's role use it";
        Check::fail(name, Chain(&*error).to_string(), fix)
    })
}

async fn enabled(kms: &Client, name: &str, id: &str) -> Result<Option<Check>, Failure> {
    let key = kms.describe_key().key_id(id).send().await.map_err(aws_sdk_kms::Error::from)?.key_metadata;
    let state = key.and_then(|key| key.key_state);
    if state == Some(KeyState::Enabled) {
        return Ok(None);
    }
    let state = state.as_ref().map_or("unknown", KeyState::as_str).to_owned();
    let fix = "cancel its deletion and enable it: what it sealed cannot be had without it";
    Ok(Some(Check::fail(name, format!("{id} is {state}"), fix)))
}

/// Asks KMS whether it would make a data key, and makes none.
async fn data_key(kms: &Client, id: &str, deployment: Option<&DeploymentId>) -> Result<Check, Failure> {
    if let Some(trouble) = enabled(kms, "data key", id).await? {
        return Ok(trouble);
    }
    let Some(deployment) = deployment else { return Ok(Check::ok("data key", format!("{id} is enabled"))) };
    let request = kms.generate_data_key().key_id(id).key_spec(DataKeySpec::Aes256).dry_run(true);
    let request = request.encryption_context("deployment", deployment.as_str());
    match request.encryption_context("owner", "account").send().await {
        // What a dry run says when all is well.
        Err(error) if matches!(error.as_service_error(), Some(GenerateDataKeyError::DryRunOperationException(_))) => {
            Ok(Check::ok("data key", format!("{id} is enabled and makes data keys")))
        }
        Err(error) => Err(aws_sdk_kms::Error::from(error).into()),
        Ok(answer) => Err(format!("KMS took no notice of the dry run ({:?})", answer.request_id()).into()),
    }
}

async fn wallet_key(kms: &Client, id: &str) -> Result<Check, Failure> {
    if let Some(trouble) = enabled(kms, "wallet key", id).await? {
        return Ok(trouble);
    }
    let wallet = KmsWallet::open(kms.clone(), id).await?;
    let address = usher_xmtp::identity::WalletSigner::address(&wallet);
    Ok(Check::ok("wallet key", format!("{id} is enabled, wallet {address:#x}")))
}

/// Opens the account, which says more of the data key than KMS does.
async fn account(deployment: &Deployment, machinery: &Machinery, id: Option<DeploymentId>) -> Check {
    let name = "account";
    if id.is_none() {
        return Check::fail(name, "the deployment is not initialised: facts are stored, no room is made", INIT);
    }
    let usher = match deployment.usher(machinery).await {
        Ok(Some(usher)) => usher,
        Ok(None) => {
            let fix = "--data-key-file FILE, which `usher dev` names when it is ready";
            return Check::warn(name, "not opened: the data key's file is not named", fix);
        }
        Err(error) => {
            return Check::fail(name, Chain(&*error).to_string(), "see the queues and the XMTP node's address");
        }
    };
    match usher.account().await {
        Ok(Some(account)) if account.is_registered() => Check::ok(name, format!("inbox {}", account.inbox())),
        Ok(_) => match deployment.store().recovery().await {
            Ok(None) => Check::fail(name, "it is not made, or not to its end", INIT),
            _ => Check::fail(name, "its new installation is not registered yet: no room is touched", "`usher recover`"),
        },
        Err(error) => {
            let fix = "give it the key that sealed it: ExistingDataKey of the stack, or the dev stack's --data-key-file; \
                       if that is gone, `usher recover --begin`";
            Check::fail(name, Chain(&error).to_string(), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
    use axum::{Json, Router, http::HeaderMap, http::StatusCode, routing::post};
    use serde_json::{Value, json};

    use super::*;
    use crate::doctor::Status;

    /// A KMS whose key is in this state, and which answers a dry run with this error.
    async fn kms(state: &'static str, dry_run: &'static str) -> Client {
        let answer = move |headers: HeaderMap, request: String| async move {
            let request: Value = serde_json::from_str(&request).unwrap();
            match headers["x-amz-target"].to_str().unwrap() {
                "TrentService.DescribeKey" => {
                    (StatusCode::OK, Json(json!({ "KeyMetadata": { "KeyId": "k", "KeyState": state } })))
                }
                "TrentService.GenerateDataKey" => {
                    let context = json!({ "deployment": "00".repeat(16), "owner": "account" });
                    assert_eq!((&request["DryRun"], &request["EncryptionContext"]), (&json!(true), &context));
                    (StatusCode::BAD_REQUEST, Json(json!({ "__type": dry_run, "message": dry_run })))
                }
                other => panic!("{other}"),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(answer))).await });
        let config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("eu-central-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(url)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        Client::from_conf(config)
    }

    #[tokio::test]
    async fn a_data_key_that_cannot_be_used_is_a_failure() {
        let deployment: DeploymentId = "00".repeat(16).parse().unwrap();
        let look = async |state, dry_run| {
            checked("data key", data_key(&kms(state, dry_run).await, "k", Some(&deployment)).await)
        };
        assert_eq!(look("Enabled", "DryRunOperationException").await.status, Status::Ok);
        let refused = look("Enabled", "AccessDeniedException").await;
        assert!(refused.status == Status::Fail && refused.seen.contains("AccessDenied"), "{refused:?}");
        for state in ["Disabled", "PendingDeletion"] {
            let found = look(state, "DryRunOperationException").await;
            assert!(found.status == Status::Fail && found.seen.contains(state), "{found:?}");
        }
    }
}
