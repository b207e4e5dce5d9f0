//! A function for tests: it does what its event says, the bad things as well.

use std::process::exit;

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    if let Ok(reason) = std::env::var("REFUSE_TO_START") {
        return Err(reason.into());
    }
    run(service_fn(handle)).await
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    log(&event.payload);
    let Some(records) = event.payload["Records"].as_array() else {
        obey(event.payload["do"].as_str().unwrap_or_default()).await?;
        return Ok(json!({ "event": event.payload, "context": event.context, "pid": std::process::id() }));
    };
    let mut failures = Vec::new();
    for record in records {
        let body = record["body"].as_str().unwrap_or_default();
        match body {
            "fail" => failures.push(json!({ "itemIdentifier": record["messageId"] })),
            "fail without a name" => failures.push(json!({ "itemIdentifier": "" })),
            order => obey(order).await?,
        }
    }
    Ok(json!({ "batchItemFailures": failures }))
}

#[expect(clippy::print_stdout, reason = "what Lambda's functions print is their log")]
fn log(event: &Value) {
    println!("got {event}");
}

async fn obey(order: &str) -> Result<(), Error> {
    match order {
        "return an error" => Err("as ordered".into()),
        "panic" => panic!("as ordered"),
        "hang" => std::future::pending().await,
        "exit" => exit(3),
        _ => Ok(()),
    }
}
