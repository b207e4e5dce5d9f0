//! What the emulator never does: conflicts, throttles and failures, as the real SDK reports them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use usher_store::{
    Kind, Table, TableError,
    dynamo::DynamoTable,
    table::{Item, Key, Query, Reason, Write},
};

use crate::support::client;

/// Answers to give, then what was asked.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<(StatusCode, Value)>>,
    asked: Mutex<Vec<Value>>,
}

async fn answer(State(script): State<Arc<Script>>, body: Bytes) -> (StatusCode, Json<Value>) {
    script.asked.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    let (status, answer) = script.answers.lock().unwrap().pop_front().expect("one more answer");
    (status, Json(answer))
}

async fn scripted(answers: impl IntoIterator<Item = (StatusCode, Value)>) -> (DynamoTable, Arc<Script>) {
    let script = Arc::new(Script { answers: Mutex::new(answers.into_iter().collect()), ..Script::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(answer)).with_state(script.clone());
    tokio::spawn(async { axum::serve(listener, router).await });
    (DynamoTable::new(client(&endpoint), "usher"), script)
}

fn cancelled(codes: &[&str]) -> (StatusCode, Value) {
    let reasons: Vec<_> = codes.iter().map(|code| json!({ "Code": code, "Message": "why" })).collect();
    let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    (StatusCode::BAD_REQUEST, json!({ "__type": kind, "message": "cancelled", "CancellationReasons": reasons }))
}

fn failure(status: StatusCode, kind: &str) -> (StatusCode, Value) {
    (status, json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": "no" }))
}

fn two() -> [Write; 2] {
    ["a", "b"].map(|sk| Write::put(Key::new("p", sk), Item::new()))
}

#[tokio::test]
async fn a_transaction_in_conflict_is_sent_again_as_the_same() {
    let conflict = || cancelled(&["TransactionConflict", "None"]);
    let (table, script) = scripted([conflict(), conflict(), (StatusCode::OK, json!({}))]).await;
    table.transact(&two()).await.unwrap();
    let asked = script.asked.lock().unwrap();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|body| body == &asked[0] && body["ClientRequestToken"].is_string()));
}

#[tokio::test]
async fn a_conflict_that_lasts_is_told_as_one() {
    let (table, script) = scripted((0..5).map(|_| cancelled(&["None", "TransactionConflict"]))).await;
    let error = table.transact(&two()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(matches!(&error, TableError::Cancelled { reasons } if *reasons == [Reason::None, Reason::Conflict]));
    assert_eq!(
        (error.to_string().as_str(), script.asked.lock().unwrap().len()),
        ("transaction cancelled: write 1: conflict", 5)
    );
}

#[tokio::test]
async fn what_a_cancellation_asks_for_follows_its_gravest_reason() {
    for (codes, kind) in [
        (["ConditionalCheckFailed", "TransactionConflict"], Kind::ConditionFailed),
        (["ConditionalCheckFailed", "ThrottlingError"], Kind::ConditionFailed),
        (["ValidationError", "ConditionalCheckFailed"], Kind::Bug),
        (["ItemCollectionSizeLimitExceeded", "None"], Kind::Bug),
    ] {
        let (table, script) = scripted([cancelled(&codes)]).await;
        assert_eq!(table.transact(&two()).await.unwrap_err().kind(), kind, "{codes:?}");
        assert_eq!(script.asked.lock().unwrap().len(), 1, "not sent again");
    }
    let (table, _) = scripted((0..5).map(|_| cancelled(&["ProvisionedThroughputExceeded", "None"]))).await;
    assert_eq!(table.transact(&two()).await.unwrap_err().kind(), Kind::RetrySoon);
}

#[tokio::test]
async fn single_requests_tell_throttles_conflicts_and_failures_apart() {
    for (status, code, kind) in [
        (StatusCode::BAD_REQUEST, "ProvisionedThroughputExceededException", Kind::RetrySoon),
        (StatusCode::BAD_REQUEST, "ThrottlingException", Kind::RetrySoon),
        (StatusCode::BAD_REQUEST, "RequestLimitExceeded", Kind::RetrySoon),
        (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", Kind::RetrySoon),
        (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", Kind::RetrySoon),
        (StatusCode::BAD_REQUEST, "TransactionConflictException", Kind::Conflict),
        (StatusCode::BAD_REQUEST, "ReplicatedWriteConflictException", Kind::Conflict),
        (StatusCode::BAD_REQUEST, "ResourceNotFoundException", Kind::Bug),
        (StatusCode::BAD_REQUEST, "ValidationException", Kind::Bug),
        (StatusCode::BAD_REQUEST, "AccessDeniedException", Kind::Bug),
    ] {
        let (table, _) = scripted((0..4).map(|_| failure(status, code))).await;
        assert_eq!(table.write(&two()[0]).await.unwrap_err().kind(), kind, "{code}");
        assert_eq!(table.write(&Write::delete(Key::new("p", "a"))).await.unwrap_err().kind(), kind, "{code}");
        assert_eq!(table.get(&Key::new("p", "a")).await.unwrap_err().kind(), kind, "{code}");
        assert_eq!(table.query(&Query::all("p")).await.unwrap_err().kind(), kind, "{code}");
    }
    let throttled = scripted([failure(StatusCode::BAD_REQUEST, "ThrottlingException")]).await.0;
    assert!(matches!(throttled.write(&two()[0]).await.unwrap_err(), TableError::Throttled));
}

#[tokio::test]
async fn nobody_there_is_an_unknown_outcome() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let table = DynamoTable::new(client(&endpoint), "usher");
    let error = table.write(&two()[0]).await.unwrap_err();
    assert!(matches!(error, TableError::Unavailable(_)), "{error:?}");
    assert_eq!(error.kind(), Kind::RetrySoon);
}

#[tokio::test]
async fn reads_are_strongly_consistent() {
    let empty = || (StatusCode::OK, json!({}));
    let (table, script) = scripted([empty(), empty(), empty()]).await;
    table.get(&Key::new("p", "a")).await.unwrap();
    table.query(&Query::all("p")).await.unwrap();
    table.due("0", 1, 1).await.unwrap();
    let consistent: Vec<_> = script.asked.lock().unwrap().iter().map(|body| body["ConsistentRead"].clone()).collect();
    assert_eq!(consistent, [json!(true), json!(true), json!(false)], "an index cannot be read consistently");
}
