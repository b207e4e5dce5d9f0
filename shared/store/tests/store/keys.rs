//! Where data keys come from: a local file, and KMS as seen through the real SDK.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
};

use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use usher_domain::GroupId;
use usher_store::{DataKeys, DeploymentId, FileDataKeys, Kind, KmsDataKeys, Owner, keys::KeyError};

use crate::support::Seeded;

fn deployment(first: &str) -> DeploymentId {
    format!("{first}112233445566778899aabbccddeeff").parse().unwrap()
}

const ROOM: Owner = Owner::Room(GroupId([7; 16]));

#[tokio::test]
async fn a_key_file_is_made_once_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usher.key");
    let first = FileDataKeys::open(&path, deployment("00"), Seeded::new(1)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left behind");
    let second = FileDataKeys::open(&path, deployment("00"), Seeded::new(2)).unwrap();
    let made = first.generate(&ROOM).await.unwrap();
    assert_eq!(second.unwrap(&ROOM, &made.wrapped).await.unwrap(), made.plain);
    assert_ne!(first.generate(&ROOM).await.unwrap().plain, made.plain);

    let key = fs::read_to_string(&path).unwrap();
    assert!(!format!("{first:?} {made:?}").contains(&key[..16]));
    assert!(!made.wrapped.windows(8).any(|window| made.plain.windows(8).any(|secret| secret == window)));
}

#[tokio::test]
async fn a_wrapped_key_opens_only_where_it_belongs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usher.key");
    let keys = FileDataKeys::open(&path, deployment("00"), Seeded::new(1)).unwrap();
    let made = keys.generate(&ROOM).await.unwrap();
    let elsewhere = FileDataKeys::open(&path, deployment("ff"), Seeded::new(1)).unwrap();
    let mut altered = made.wrapped.clone();
    altered[20] ^= 1;
    for wrong in [
        keys.unwrap(&Owner::Account, &made.wrapped).await,
        elsewhere.unwrap(&ROOM, &made.wrapped).await,
        keys.unwrap(&ROOM, &altered).await,
        keys.unwrap(&ROOM, &made.wrapped[..5]).await,
        keys.unwrap(&ROOM, &[]).await,
    ] {
        assert!(matches!(wrong, Err(KeyError::WrongKey)));
    }
}

#[test]
fn a_key_file_that_others_read_or_that_holds_no_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usher.key");
    FileDataKeys::open(&path, deployment("00"), Seeded::new(1)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(FileDataKeys::open(&path, deployment("00"), Seeded::new(1)).is_err());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "not a key").unwrap();
    assert!(FileDataKeys::open(&path, deployment("00"), Seeded::new(1)).is_err());
}

/// A plaintext and its encryption context.
type Wrapped = (Vec<u8>, Value);

/// What KMS does for us, and what it was asked.
#[derive(Default)]
pub(crate) struct Kms {
    wrapped: Mutex<BTreeMap<Vec<u8>, Wrapped>>,
    asked: Mutex<Vec<Value>>,
    pub(crate) fail_with: Mutex<Option<(StatusCode, &'static str)>>,
}

impl Kms {
    /// Serves it on loopback; data keys as the real SDK gets them from there.
    pub(crate) async fn serve() -> (Arc<Self>, impl Fn(DeploymentId) -> KmsDataKeys) {
        let state = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/", post(kms)).with_state(state.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        (state, move |deployment| keys_at(&endpoint, deployment))
    }
}

/// Data keys from the KMS at `endpoint`.
pub(crate) fn keys_at(endpoint: &str, deployment: DeploymentId) -> KmsDataKeys {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    KmsDataKeys::new(aws_sdk_kms::Client::from_conf(config), "alias/usher", deployment)
}

async fn kms(State(kms): State<Arc<Kms>>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    kms.asked.lock().unwrap().push(body.clone());
    let failure =
        |status: StatusCode, kind: &str| (status, Json(json!({ "__type": kind, "message": "no" }))).into_response();
    if let Some((status, kind)) = *kms.fail_with.lock().unwrap() {
        return failure(status, kind);
    }
    let mut wrapped = kms.wrapped.lock().unwrap();
    let context = body["EncryptionContext"].clone();
    if headers["x-amz-target"].as_bytes().ends_with(b"GenerateDataKey") {
        assert_eq!(body["KeySpec"], "AES_256");
        let number = u8::try_from(wrapped.len()).unwrap();
        let (plain, sealed) = (vec![number; 32], vec![0xc0, number]);
        wrapped.insert(sealed.clone(), (plain.clone(), context));
        let made =
            json!({ "Plaintext": STANDARD.encode(plain), "CiphertextBlob": STANDARD.encode(sealed), "KeyId": "key" });
        return Json(made).into_response();
    }
    let sealed = STANDARD.decode(body["CiphertextBlob"].as_str().unwrap()).unwrap();
    match wrapped.get(&sealed) {
        Some((plain, bound)) if *bound == context => {
            Json(json!({ "Plaintext": STANDARD.encode(plain), "KeyId": "key" })).into_response()
        }
        _ => failure(StatusCode::BAD_REQUEST, "InvalidCiphertextException"),
    }
}

#[tokio::test]
async fn kms_binds_keys_to_deployment_and_owner() {
    let (state, keys_of) = Kms::serve().await;
    let keys = keys_of(deployment("00"));

    let made = keys.generate(&ROOM).await.unwrap();
    assert_eq!(keys.unwrap(&ROOM, &made.wrapped).await.unwrap(), made.plain);
    let context = json!({ "deployment": deployment("00").as_str(), "owner": ROOM.to_string() });
    assert!(
        state
            .asked
            .lock()
            .unwrap()
            .iter()
            .all(|asked| asked["EncryptionContext"] == context && asked["KeyId"] == "alias/usher")
    );
    for wrong in [
        keys.unwrap(&Owner::Account, &made.wrapped).await,
        keys_of(deployment("ff")).unwrap(&ROOM, &made.wrapped).await,
    ] {
        assert!(matches!(wrong, Err(KeyError::WrongKey)));
    }
    for (status, error, kind) in [
        (StatusCode::BAD_REQUEST, "ThrottlingException", Kind::RetrySoon),
        (StatusCode::INTERNAL_SERVER_ERROR, "KMSInternalException", Kind::RetrySoon),
        (StatusCode::BAD_REQUEST, "AccessDeniedException", Kind::Bug),
        (StatusCode::BAD_REQUEST, "DisabledException", Kind::Bug),
        (StatusCode::BAD_REQUEST, "IncorrectKeyException", Kind::Bug),
    ] {
        *state.fail_with.lock().unwrap() = Some((status, error));
        assert_eq!(keys.generate(&ROOM).await.unwrap_err().kind(), kind, "{error}");
        let refused = keys.unwrap(&ROOM, &made.wrapped).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{error}");
        assert!(!matches!(refused, KeyError::WrongKey), "{error} says nothing about what is stored");
    }
}
