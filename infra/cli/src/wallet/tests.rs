//! The KMS wallet against a KMS on loopback that signs as KMS does: DER, and whichever s.

use std::sync::{Arc, Mutex};

use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use axum::{Json, Router, extract::State, http::HeaderMap, routing::post};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use k256::{
    ecdsa::{SigningKey, signature::hazmat::PrehashSigner as _},
    pkcs8::EncodePublicKey as _,
};
use serde_json::{Value, json};

use super::*;

#[derive(Clone)]
struct Kms {
    key: SigningKey,
    /// Whether the s of its signatures is high.
    is_high: Arc<Mutex<bool>>,
    /// Who signs instead, if somebody does.
    impostor: Option<SigningKey>,
}

async fn answer(State(kms): State<Kms>, headers: HeaderMap, request: String) -> Json<Value> {
    let request: Value = serde_json::from_str(&request).unwrap();
    assert_eq!(request["KeyId"], "wallet");
    match headers["x-amz-target"].to_str().unwrap() {
        "TrentService.GetPublicKey" => {
            let der = PublicKey::from(kms.key.verifying_key()).to_public_key_der().unwrap();
            Json(
                json!({ "KeyId": "wallet", "PublicKey": BASE64_STANDARD.encode(der.as_bytes()), "KeySpec": "ECC_SECG_P256K1" }),
            )
        }
        "TrentService.Sign" => {
            assert_eq!(
                (&request["MessageType"], &request["SigningAlgorithm"]),
                (&json!("DIGEST"), &json!("ECDSA_SHA_256"))
            );
            let digest = BASE64_STANDARD.decode(request["Message"].as_str().unwrap()).unwrap();
            assert_eq!(digest.len(), 32);
            let signer = kms.impostor.as_ref().unwrap_or(&kms.key);
            let low: k256::ecdsa::Signature = signer.sign_prehash(&digest).unwrap();
            assert_eq!(low.normalize_s(), None);
            let (r, s) = low.split_scalars();
            let signature =
                if *kms.is_high.lock().unwrap() { k256::ecdsa::Signature::from_scalars(r, -s).unwrap() } else { low };
            Json(json!({ "KeyId": "wallet", "Signature": BASE64_STANDARD.encode(signature.to_der().as_bytes()) }))
        }
        other => panic!("{other}"),
    }
}

async fn serve(kms: Kms) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(answer)).with_state(kms);
    tokio::spawn(async move { axum::serve(listener, router).await });
    client(&url)
}

fn client(url: &str) -> Client {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(url)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_slice(&[byte; 32]).unwrap()
}

async fn wallet(impostor: Option<SigningKey>) -> (KmsWallet, Arc<Mutex<bool>>) {
    let is_high = Arc::new(Mutex::new(false));
    let client = serve(Kms { key: key(7), is_high: is_high.clone(), impostor }).await;
    (KmsWallet::open(client, "wallet").await.unwrap(), is_high)
}

#[tokio::test]
async fn it_signs_as_the_same_key_in_this_process_does_be_s_high_or_low() {
    let (kms, is_high) = wallet(None).await;
    let local = usher_xmtp::identity::LocalWallet::from_key(&[7; 32]).unwrap();
    assert_eq!(kms.address(), local.address());
    let mut recovery_ids = std::collections::BTreeSet::new();
    // Enough texts to meet both recovery ids.
    for number in 0..16 {
        let text = format!("XMTP : Authenticate to inbox {number}");
        for high in [false, true] {
            *is_high.lock().unwrap() = high;
            let signed = kms.sign_text(&text).await.unwrap();
            assert_eq!(signed, local.sign_text(&text).await.unwrap(), "{text}, high: {high}");
            let signature = Signature::from_raw_array(&signed).unwrap();
            assert_eq!(signature.normalize_s(), None, "s is low");
            assert_eq!(signature.recover_address_from_msg(&text).unwrap(), kms.address());
            recovery_ids.insert(signed[64]);
        }
    }
    assert_eq!(recovery_ids, [27, 28].into());
}

#[tokio::test]
async fn a_signature_by_another_key_is_refused() {
    let (kms, _) = wallet(Some(key(8))).await;
    assert!(matches!(kms.sign_text("text").await, Err(SignerError::Malformed)));
}

#[tokio::test]
async fn a_key_of_another_curve_is_no_wallet() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // A public key of P-256.
    let der = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==";
    let router =
        Router::new().route("/", post(move || async move { Json(json!({ "KeyId": "wallet", "PublicKey": der })) }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let error = KmsWallet::open(client(&url), "wallet").await.err().unwrap();
    assert!(error.to_string().contains("no secp256k1 key"), "{error}");
}
