//! One endpoint for all of AWS: it notes who does what with which resource, as IAM would name it, and passes the
//! request on to a stand-in; KMS, Secrets Manager and CloudFormation it does itself. A client is known by its access key id, which is its
//! logical name in the template.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use k256::ecdsa::{Signature, SigningKey, signature::hazmat::PrehashSigner as _};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// Somebody may do something with something, or has done it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Permission {
    /// A function's or a role's logical name.
    pub(crate) who: String,
    /// In IAM's words, e.g. `dynamodb:GetItem`.
    pub(crate) action: String,
    /// A resource in the template's words, e.g. `Table.Arn/index/due`.
    pub(crate) on: String,
}

/// The endpoint; gone when dropped.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) url: String,
    state: Arc<Shared>,
    serve: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    dynamodb: String,
    sqs: String,
    client: Client<HttpConnector, Body>,
    done: Mutex<BTreeSet<Permission>>,
    data_keys: Mutex<BTreeMap<Vec<u8>, Wrapped>>,
    wallet: [u8; 32],
    /// The stack's outputs, as CloudFormation tells them.
    outputs: Mutex<String>,
}

/// Where the node of the chain that is asked is said to be; there is none. Of its path nothing may be told.
pub(crate) const NODE_URL: &str = "http://127.0.0.1:9/v2/cGF0aCB0aGF0IGlzIGEga2V5";

/// The stack, as IAM names it to who knows its name alone.
const STACK: &str = "arn:${AWS::Partition}:cloudformation:${AWS::Region}:${AWS::AccountId}:stack/${AWS::StackName}/*";

/// A data key, and the key and context it is bound to.
type Wrapped = ([u8; 32], Value);

impl Recorder {
    /// Listens before the stand-ins at these URLs.
    pub(crate) async fn start(dynamodb: String, sqs: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let state = Arc::new(Shared {
            dynamodb,
            sqs,
            client,
            done: Mutex::default(),
            data_keys: Mutex::default(),
            wallet: rand::random(),
            outputs: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(state.clone());
        let serve = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, state, serve }
    }

    /// What the stack is said to have put out.
    pub(crate) fn put_out<'a>(&self, outputs: impl Iterator<Item = (&'a str, &'a str)>) {
        let member = |(name, value): (&str, &str)| {
            format!("<member><OutputKey>{name}</OutputKey><OutputValue>{value}</OutputValue></member>")
        };
        *self.state.outputs.lock().expect("no holder panics") = outputs.map(member).collect();
    }

    /// All data keys, and the wallet's key.
    pub(crate) fn secrets(&self) -> Vec<[u8; 32]> {
        let keys = self.state.data_keys.lock().expect("no holder panics");
        keys.values().map(|(plain, _)| *plain).chain([self.state.wallet]).collect()
    }

    /// What was done so far.
    pub(crate) fn done(&self) -> BTreeSet<Permission> {
        self.state.done.lock().expect("no holder panics").clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.serve.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a client sends its request");
    let header =
        |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (target, authorization) = (header("x-amz-target"), header("authorization"));
    let who =
        authorization.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/')).expect("a signature").0;
    let Some((service, operation)) = target.split_once('.') else {
        return shared.cloudformation(who, &body);
    };
    let asked: Value = serde_json::from_slice(&body).expect("JSON");
    let done = needed(service, operation, &asked).into_iter();
    let done = done.map(|(action, on)| Permission { who: who.to_owned(), action, on });
    shared.done.lock().expect("no holder panics").extend(done);
    let stand_in = match service {
        "TrentService" => return shared.kms(operation, &asked),
        "secretsmanager" => return Json(json!({ "SecretString": NODE_URL })).into_response(),
        "AmazonSQS" => &shared.sqs,
        _ => &shared.dynamodb,
    };
    head.uri = format!("{stand_in}{}", head.uri).parse().expect("a URL");
    match shared.client.request(Request::from_parts(head, Body::from(body))).await {
        Ok(response) => response.map(Body::new),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// What IAM asks for before this is done.
fn needed(service: &str, operation: &str, asked: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let item = |action: &str, of: &Value| {
        let index = of["IndexName"].as_str().map(|index| format!("/index/{index}")).unwrap_or_default();
        (format!("dynamodb:{action}"), format!("{}.Arn{index}", text(&of["TableName"])))
    };
    match (service, operation) {
        ("secretsmanager", _) => vec![(format!("secretsmanager:{operation}"), text(&asked["SecretId"]))],
        ("TrentService", _) => vec![(format!("kms:{operation}"), text(&asked["KeyId"]))],
        ("AmazonSQS", _) => {
            let url = text(&asked["QueueUrl"]);
            // A batch needs what each of its messages needs.
            let action = operation.strip_suffix("Batch").unwrap_or(operation);
            vec![(format!("sqs:{action}"), format!("{}.Arn", url.rsplit('/').next().unwrap_or_default()))]
        }
        (_, "TransactWriteItems") => {
            let items = asked["TransactItems"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|it| it.as_object().into_iter().flatten());
            let action = |kind: &str| {
                if kind == "ConditionCheck" { "ConditionCheckItem".to_owned() } else { format!("{kind}Item") }
            };
            items.map(|(kind, of)| item(&action(kind), of)).collect()
        }
        (_, "TransactGetItems") => {
            let items = asked["TransactItems"].as_array().into_iter().flatten();
            items.map(|of| item("GetItem", &of["Get"])).collect()
        }
        (_, "BatchGetItem" | "BatchWriteItem") => {
            let tables = asked["RequestItems"].as_object().into_iter().flatten();
            tables.map(|(table, _)| item(operation, &json!({ "TableName": table }))).collect()
        }
        _ => vec![item(operation, asked)],
    }
}

/// What stands before the 65 bytes of a secp256k1 key in KMS's form.
const PUBLIC_KEY_DER: [u8; 23] = [
    0x30, 0x56, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x0a, 0x03, 0x42, 0x00,
];

/// A signature in KMS's form: two integers, which are negative if their first bit is set.
fn signature_der(signature: &Signature) -> Vec<u8> {
    let bytes = signature.to_bytes();
    let (r, s) = bytes.split_at(32);
    let integer = |number: &[u8]| {
        let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len() - 1);
        let sign = if number[start] >= 0x80 { &[0][..] } else { &[] };
        let number = [sign, &number[start..]].concat();
        [&[2, u8::try_from(number.len()).expect("33 bytes at most")], &number[..]].concat()
    };
    let both = [integer(r), integer(s)].concat();
    [&[0x30, u8::try_from(both.len()).expect("70 bytes at most")], &both[..]].concat()
}

/// As KMS says no.
fn refused(kind: &str, operation: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "__type": kind, "message": operation }))).into_response()
}

impl Shared {
    /// The only thing that anybody asks CloudFormation for, in its protocol of forms and XML.
    fn cloudformation(&self, who: &str, body: &[u8]) -> Response {
        assert!(String::from_utf8_lossy(body).contains("Action=DescribeStacks"), "not the JSON protocol of AWS");
        let action = "cloudformation:DescribeStacks".to_owned();
        let done = Permission { who: who.to_owned(), action, on: STACK.to_owned() };
        self.done.lock().expect("no holder panics").insert(done);
        let outputs = self.outputs.lock().expect("no holder panics");
        let told = format!(
            r#"<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult>
            <Stacks><member><StackName>prod</StackName><CreationTime>2026-11-24T00:00:00Z</CreationTime>
            <StackStatus>CREATE_COMPLETE</StackStatus><Outputs>{outputs}</Outputs></member></Stacks>
            </DescribeStacksResult></DescribeStacksResponse>"#
        );
        ([("content-type", "text/xml")], told).into_response()
    }

    /// The wallet's part of KMS; `None` if this is about data keys.
    fn wallet(&self, operation: &str, asked: &Value) -> Option<Value> {
        let wallet = SigningKey::from_slice(&self.wallet).expect("a key");
        Some(match operation {
            "DescribeKey" => json!({ "KeyMetadata": { "KeyId": asked["KeyId"], "KeyState": "Enabled" } }),
            "GetPublicKey" => {
                let point = wallet.verifying_key().to_encoded_point(false);
                json!({ "PublicKey": STANDARD.encode([&PUBLIC_KEY_DER, point.as_bytes()].concat()) })
            }
            "Sign" => {
                let digest = STANDARD.decode(asked["Message"].as_str().unwrap_or_default()).expect("a digest");
                let signature: Signature = wallet.sign_prehash(&digest).expect("32 bytes");
                json!({ "Signature": STANDARD.encode(signature_der(&signature)) })
            }
            _ => return None,
        })
    }

    /// Data keys that open in the context they were made in, and the wallet.
    fn kms(&self, operation: &str, asked: &Value) -> Response {
        if let Some(answer) = self.wallet(operation, asked) {
            return Json(answer).into_response();
        }
        if asked["DryRun"] == true {
            return refused("DryRunOperationException", operation);
        }
        let mut keys = self.data_keys.lock().expect("no holder panics");
        let bound = json!([asked["KeyId"], asked["EncryptionContext"]]);
        let (wrapped, plain) = match operation {
            "GenerateDataKey" => {
                let (wrapped, plain) = (rand::random::<[u8; 16]>().to_vec(), rand::random::<[u8; 32]>());
                keys.insert(wrapped.clone(), (plain, bound));
                (wrapped, plain)
            }
            _ => {
                let wrapped = STANDARD.decode(asked["CiphertextBlob"].as_str().unwrap_or_default()).unwrap_or_default();
                match keys.get(&wrapped) {
                    Some((plain, made)) if operation == "Decrypt" && *made == bound => (wrapped, *plain),
                    _ => return refused("InvalidCiphertextException", operation),
                }
            }
        };
        Json(json!({
            "KeyId": asked["KeyId"], "Plaintext": STANDARD.encode(plain), "CiphertextBlob": STANDARD.encode(wrapped),
        }))
        .into_response()
    }
}

#[test]
fn a_transaction_is_its_items_and_a_batch_its_messages() {
    let asked = json!({ "TransactItems": [
        { "Put": { "TableName": "Table" } },
        { "ConditionCheck": { "TableName": "Table" } },
        { "Update": { "TableName": "Other" } },
    ] });
    let expected = [
        ("dynamodb:PutItem", "Table.Arn"),
        ("dynamodb:ConditionCheckItem", "Table.Arn"),
        ("dynamodb:UpdateItem", "Other.Arn"),
    ];
    let expected = expected.map(|(action, on)| (action.to_owned(), on.to_owned())).to_vec();
    assert_eq!(needed("DynamoDB_20120810", "TransactWriteItems", &asked), expected);
    let query = json!({ "TableName": "Table", "IndexName": "due" });
    let expected = vec![("dynamodb:Query".to_owned(), "Table.Arn/index/due".to_owned())];
    assert_eq!(needed("DynamoDB_20120810", "Query", &query), expected);
    let deletion = json!({ "QueueUrl": "http://127.0.0.1:1/000000000000/MintQueue" });
    let expected = vec![("sqs:DeleteMessage".to_owned(), "MintQueue.Arn".to_owned())];
    assert_eq!(needed("AmazonSQS", "DeleteMessageBatch", &deletion), expected);
}
