//! One endpoint for all of AWS: it notes who does what with which resource, as IAM would name it, and passes the
//! request on to a stand-in. A client is known by its access key id, which is its logical name in the template.

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
}

/// A data key, and the key and context it is bound to.
type Wrapped = ([u8; 32], Value);

impl Recorder {
    /// Listens before the stand-ins at these URLs; KMS it does itself.
    pub(crate) async fn start(dynamodb: String, sqs: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let state = Arc::new(Shared { dynamodb, sqs, client, done: Mutex::default(), data_keys: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(state.clone());
        let serve = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, state, serve }
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
    let (service, operation) = target.split_once('.').expect("a JSON protocol of AWS");
    let who =
        authorization.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/')).expect("a signature").0;
    let asked: Value = serde_json::from_slice(&body).expect("JSON");
    let done = needed(service, operation, &asked).into_iter();
    let done = done.map(|(action, on)| Permission { who: who.to_owned(), action, on });
    shared.done.lock().expect("no holder panics").extend(done);
    let stand_in = match service {
        "TrentService" => return shared.kms(operation, &asked),
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

impl Shared {
    /// Data keys that open in the context they were made in.
    fn kms(&self, operation: &str, asked: &Value) -> Response {
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
                    _ => {
                        let refusal = json!({ "__type": "InvalidCiphertextException", "message": operation });
                        return (StatusCode::BAD_REQUEST, Json(refusal)).into_response();
                    }
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
