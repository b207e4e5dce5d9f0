//! `--stack NAME` from end to end: CloudFormation and KMS are stand-ins on loopback that answer as AWS does, everything
//! else is what a dev stack is made of.

#![expect(clippy::unwrap_used, reason = "a helper that panics fails its test")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use axum::{Json, Router, extract::State, http::HeaderMap, routing::post};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use k256::{
    PublicKey,
    ecdsa::{Signature, SigningKey, signature::hazmat::PrehashSigner as _},
    pkcs8::EncodePublicKey as _,
};
use serde_json::{Value, json};
use usher_localnet::{
    aws::{dynamodb_client, sqs_client},
    dynamodb::DynamoDb,
    sqs::Sqs,
    xmtp_node::{Node, NodeOptions, RunningNode},
};
use usher_store::dynamo::DynamoTable;

const TABLE: &str = "prod-Table-1A2B3C";

/// What a deployed stack is made of.
struct Stack {
    xmtp: RunningNode,
    dynamodb: DynamoDb,
    sqs: Sqs,
    cloudformation_url: String,
    kms: Kms,
    kms_url: String,
}

/// A KMS with one key for data and one that is a wallet. Like KMS, it does not care which s it signs with.
#[derive(Clone)]
struct Kms {
    wallet: SigningKey,
    /// What was wrapped, by its ciphertext: the key and the context.
    wrapped: Arc<Mutex<BTreeMap<String, (String, Value)>>>,
    calls: Arc<Mutex<Vec<String>>>,
}

async fn kms(State(kms): State<Kms>, headers: HeaderMap, request: String) -> Json<Value> {
    let request: Value = serde_json::from_str(&request).unwrap();
    let call = headers["x-amz-target"].to_str().unwrap().trim_start_matches("TrentService.").to_owned();
    let key = if matches!(&*call, "GetPublicKey" | "Sign") { "arn:wallet" } else { "arn:data" };
    assert!(call == "DescribeKey" || request["KeyId"] == key, "{request}");
    kms.calls.lock().unwrap().push(call.clone());
    let mut wrapped = kms.wrapped.lock().unwrap();
    Json(match &*call {
        "GetPublicKey" => {
            let der = PublicKey::from(kms.wallet.verifying_key()).to_public_key_der().unwrap();
            json!({ "PublicKey": BASE64_STANDARD.encode(der.as_bytes()) })
        }
        "Sign" => {
            let digest = BASE64_STANDARD.decode(request["Message"].as_str().unwrap()).unwrap();
            let low: Signature = kms.wallet.sign_prehash(&digest).unwrap();
            let (r, s) = low.split_scalars();
            let high = Signature::from_scalars(r, -s).unwrap();
            json!({ "Signature": BASE64_STANDARD.encode(high.to_der().as_bytes()) })
        }
        "DescribeKey" => json!({ "KeyMetadata": { "KeyId": request["KeyId"], "KeyState": "Enabled" } }),
        "GenerateDataKey" => {
            let number = u8::try_from(wrapped.len()).unwrap();
            let (plain, cipher) = ([number + 1; 32], [b'w', number]);
            let (plain, cipher) = (BASE64_STANDARD.encode(plain), BASE64_STANDARD.encode(cipher));
            wrapped.insert(cipher.clone(), (plain.clone(), request["EncryptionContext"].clone()));
            json!({ "KeyId": key, "Plaintext": plain, "CiphertextBlob": cipher })
        }
        "Decrypt" => {
            let (plain, context) = &wrapped[request["CiphertextBlob"].as_str().unwrap()];
            assert_eq!(*context, request["EncryptionContext"]);
            json!({ "KeyId": key, "Plaintext": plain })
        }
        other => panic!("{other}"),
    })
}

/// The indexer's role, which may send.
const INDEXER: &str = "arn:aws:iam::123456789012:role/indexer";

fn role(name: &str) -> String {
    format!("arn:aws:iam::123456789012:role/usher-prod-{name}-eu-central-1")
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

impl Stack {
    async fn start() -> Self {
        let xmtp = Node::start(NodeOptions::on_free_ports()).await.unwrap();
        let dynamodb = DynamoDb::start(0, None).await.unwrap();
        let sqs = Sqs::start(0, None).await.unwrap();
        DynamoTable::new(dynamodb_client(&dynamodb.url()), TABLE).create_table().await.unwrap();
        let mut outputs = vec![
            ("TableName".to_owned(), TABLE.to_owned()),
            ("DataKeyArn".to_owned(), "arn:data".to_owned()),
            ("WalletKeyArn".to_owned(), "arn:wallet".to_owned()),
            ("XmtpUrl".to_owned(), xmtp.url()),
            ("Stage".to_owned(), "prod".to_owned()),
            ("OperatorRoleArn".to_owned(), role("operator")),
        ];
        let client = sqs_client(&sqs.url());
        for name in ["Mint", "Purchase", "Refund", "Nudge"] {
            for kind in ["Queue", "DeadLetters"] {
                let queue = format!("usher-prod-{name}-{kind}");
                let url = client.create_queue().queue_name(queue).send().await.unwrap().queue_url.unwrap();
                outputs.push((format!("{name}{kind}Url"), url));
            }
        }
        let member = |(name, value): (String, String)| {
            format!("<member><OutputKey>{name}</OutputKey><OutputValue>{value}</OutputValue></member>")
        };
        let members: String = outputs.into_iter().map(member).collect();
        let body = format!(
            r#"<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult>
            <Stacks><member><StackName>prod</StackName><CreationTime>2026-11-24T00:00:00Z</CreationTime>
            <StackStatus>CREATE_COMPLETE</StackStatus><Outputs>{members}</Outputs><Parameters><member>
            <ParameterKey>ProducerArns</ParameterKey><ParameterValue>{INDEXER}</ParameterValue></member></Parameters>
            </member></Stacks></DescribeStacksResult></DescribeStacksResponse>"#
        );
        let describe = post(move || async move { ([("content-type", "text/xml")], body) });
        let cloudformation_url = serve(Router::new().route("/", describe)).await;
        let wallet = SigningKey::from_slice(&[7; 32]).unwrap();
        let keys = Kms { wallet, wrapped: Arc::default(), calls: Arc::default() };
        let kms_url = serve(Router::new().route("/", post(kms)).with_state(keys.clone())).await;
        Self { xmtp, dynamodb, sqs, cloudformation_url, kms: keys, kms_url }
    }

    /// Sets the queues up as template.yaml does, with these for producers.
    async fn set_queues_up(&self, producers: &[&str]) {
        let client = sqs_client(&self.sqs.url());
        let tls = json!({
            "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": "*",
            "Condition": { "Bool": { "aws:SecureTransport": "false" } },
        });
        let nobody_but = |senders: Vec<String>| {
            json!({
                "Effect": "Deny", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*",
                "Condition": { "ArnNotEquals": { "aws:PrincipalArn": senders } },
            })
        };
        let operator = role("operator");
        for name in ["Mint", "Purchase", "Refund", "Nudge"] {
            let senders = match name {
                "Nudge" => ["mint", "purchase", "refund", "sweep", "operator"].map(role).to_vec(),
                _ => producers.iter().map(|arn| (*arn).to_owned()).chain([operator.clone()]).collect(),
            };
            let live = json!({ "Statement": [tls, nobody_but(senders)] });
            let dead = json!({ "Statement": [tls] });
            let arn = format!("arn:aws:sqs:us-east-1:000000000000:usher-prod-{name}-DeadLetters");
            let redrive = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": 5 });
            for (kind, kept, policy) in [("Queue", "345600", live), ("DeadLetters", "1209600", dead)] {
                let url = client.get_queue_url().queue_name(format!("usher-prod-{name}-{kind}")).send().await.unwrap();
                let mut set = client.set_queue_attributes().set_queue_url(url.queue_url);
                set = set.attributes(Attribute::Policy, policy.to_string());
                set = set.attributes(Attribute::MessageRetentionPeriod, kept);
                if kind == "Queue" {
                    set = set.attributes(Attribute::VisibilityTimeout, "180");
                    set = set.attributes(Attribute::RedrivePolicy, redrive.to_string());
                }
                set.send().await.unwrap();
            }
        }
    }

    /// What the doctor says, by the checks' names, and whether all is well.
    async fn doctor(&self) -> (bool, BTreeMap<String, Value>) {
        let output = self.run(&["doctor", "--json"]).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().iter();
        (
            output.status.success(),
            checks.map(|check| (check["check"].as_str().unwrap().into(), check.clone())).collect(),
        )
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut usher = Command::new(env!("CARGO_BIN_EXE_usher"));
        usher.env_clear().args(arguments).args(["--stack", "prod"]);
        usher.envs([("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
        usher.env("AWS_ENDPOINT_URL_CLOUDFORMATION", &self.cloudformation_url);
        usher.env("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.url()).env("AWS_ENDPOINT_URL_SQS", self.sqs.url());
        usher.env("AWS_ENDPOINT_URL_KMS", &self.kms_url);
        tokio::task::spawn_blocking(move || usher.output().unwrap()).await.unwrap()
    }

    async fn result(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn calls(&self, name: &str) -> usize {
        self.kms.calls.lock().unwrap().iter().filter(|call| *call == name).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_is_found_by_its_name_and_initialised_with_its_keys() {
    let stack = Stack::start().await;
    let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    let chains = r#"{"31337":{"trust":"queue","factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}}"#;
    fs::write(&config, format!(r#"{{"version":1,"chains":{chains}}}"#)).unwrap();

    let done = stack.result(&["init", "--json", "--config", config.to_str().unwrap()]).await;
    let wallet = usher_xmtp::identity::LocalWallet::from_key(&[7; 32]).unwrap();
    let wallet = usher_xmtp::identity::WalletSigner::address(&wallet);
    assert_eq!(done["wallet"], format!("{wallet:#x}"), "the wallet is the one in KMS");
    assert_eq!((&done["usage"]["installations"], &done["configuration"]), (&json!(1), &json!(1)));
    assert_eq!(stack.calls("Sign"), 1);
    assert_eq!(stack.result(&["init", "--json"]).await, done, "a repetition changes nothing");
    assert_eq!(stack.calls("Sign"), 1, "and signs nothing");

    let mint = events.join("logs/01-mint.json");
    let sent = stack.result(&["send", "--json", mint.to_str().unwrap()]).await;
    assert_eq!(sent["queues"], json!({ "mint": 1, "purchase": 6 }));
    assert_eq!(stack.result(&["rooms", "--json"]).await, json!({ "events": [], "parked": 0 }));
    assert_eq!(stack.result(&["config", "get", "--json"]).await["revision"], 1);
    assert_eq!(stack.result(&["parked", "list", "--json"]).await, json!({ "parked": [] }));
    assert_eq!(stack.result(&["redrive", "--json"]).await["moved"], 0);

    // These queues were not made by the template, and the doctor says so.
    let (well, checks) = stack.doctor().await;
    assert!(!well);
    for name in ["wallet key", "account", "table", "configuration", "XMTP", "network", "inbox"] {
        assert_eq!(checks[name]["status"], "ok", "{checks:#?}");
    }
    for name in ["queue mint", "dead letters of mint", "policy of mint"] {
        assert_eq!(checks[name]["status"], "fail", "{checks:#?}");
    }
    // Now they are as if they were, but for who may send.
    stack.set_queues_up(&[INDEXER, "arn:aws:iam::123456789012:role/somebody"]).await;
    let (well, checks) = stack.doctor().await;
    assert!(!well);
    for name in ["queue mint", "queue nudge", "dead letters of mint", "policy of nudge"] {
        assert_eq!(checks[name]["status"], "ok", "{checks:#?}");
    }
    let refund = &checks["policy of refund"];
    assert_eq!((&refund["status"], refund["fix"].is_string()), (&json!("fail"), true));
    assert_eq!(refund["seen"], "arn:aws:iam::123456789012:role/somebody may send, too");
    stack.set_queues_up(&[INDEXER]).await;
    let (_, checks) = stack.doctor().await;
    for name in ["mint", "purchase", "refund", "nudge"] {
        assert_eq!(checks[&format!("policy of {name}")]["status"], "ok", "{checks:#?}");
    }
    drop(stack.xmtp);
}

#[tokio::test]
async fn a_stack_that_is_not_found_is_named() {
    let mut usher = Command::new(env!("CARGO_BIN_EXE_usher"));
    usher.env_clear().args(["rooms", "--stack", "prod"]);
    usher.envs([("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
    usher.env("AWS_ENDPOINT_URL_CLOUDFORMATION", "http://127.0.0.1:1");
    let output = usher.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("stack prod was not found"), "{error}");
}
