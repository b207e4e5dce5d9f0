//! What `sam build` makes: functions that run, and a panic in one record that is that record's failure, although
//! cargo-lambda would have it abort.
//!
//! It compiles everything once more, as cargo-lambda does it, which takes minutes: `tests/run` asks for it by name. Both
//! templates are built for this machine's processor, from the same packages, so that it is compiled once for both.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use usher_lambda::Machine;
use usher_localnet::{
    aws::{dynamodb_client, sqs_client},
    dynamodb::DynamoDb,
    lambda::{Function, FunctionConfig, Logs, RuntimeApi},
    sqs::Sqs,
};
use usher_store::{Store, dynamo::DynamoTable};
use usher_tests::world::AnyError;

/// What Lambda takes of a zipped function.
const ZIP_BYTES_MAX: u64 = 50 * 1024 * 1024;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `sam build` with the tools that tests/run has installed.
async fn sam_build(template: &str, to: &Path) -> Result<(), AnyError> {
    let tools = checkout().join(".venv/bin").canonicalize()?;
    let path =
        env::join_paths([tools.clone()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())))?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    let mut command = Command::new(tools.join("sam"));
    command.args(["build", "--template", template, "--build-dir"]).arg(to);
    command.args(["--parameter-overrides", &format!("Architecture={architecture}")]);
    command.current_dir(checkout()).env("PATH", path).env("SAM_CLI_TELEMETRY", "0");
    // What cargo says of the package that it tests is not about the one that is built.
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CARGO_PKG_")) {
        command.env_remove(name);
    }
    let output = command.env_remove("CARGO_MANIFEST_DIR").env("AWS_DEFAULT_REGION", "us-east-1").output().await?;
    if !output.status.success() {
        return Err(format!("sam build: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

/// One of the functions that were built there.
fn function(built: &Path, name: &str, api: &Arc<RuntimeApi>, env: &[(&str, &str)]) -> Function {
    let config = FunctionConfig {
        name: name.to_owned(),
        binary: built.join(name).join("bootstrap"),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        timeout: Duration::from_secs(30),
        concurrency: 1,
        logs: Logs::Stderr,
    };
    Function::new(api.clone(), config)
}

/// How large a function is once it is zipped as SAM zips it.
async fn zip_bytes(folder: &Path) -> Result<u64, AnyError> {
    let zip = folder.with_extension("zip");
    let mut python = Command::new(checkout().join(".venv/bin/python"));
    let zipped = python.args(["-m", "zipfile", "-c"]).arg(&zip).arg(folder.join("bootstrap")).status().await?;
    if !zipped.success() {
        return Err(format!("{} cannot be zipped", folder.display()).into());
    }
    Ok(fs::metadata(zip)?.len())
}

fn sample(name: &str) -> Result<Value, AnyError> {
    Ok(serde_json::from_str(&fs::read_to_string(checkout().join("events").join(name))?)?)
}

/// The four functions of `template.yaml` work off the samples of their queues.
#[tokio::test]
#[ignore = "builds everything as cargo-lambda does; tests/run asks for it"]
async fn what_sam_builds_of_the_template_runs_and_is_small_enough() -> Result<(), AnyError> {
    let folder = TempDir::new()?;
    sam_build("template.yaml", folder.path()).await?;
    let (dynamodb, sqs) = (DynamoDb::start(0, None).await?, Sqs::start(0, None).await?);
    let table = DynamoTable::new(dynamodb_client(&dynamodb.url()), "usher");
    table.create_table().await?;
    let store = Store::new(Arc::new(table), Arc::new(Machine), Arc::new(Machine));
    store.put_configuration(&fs::read_to_string(checkout().join("docs/config.sample.json"))?, None).await?;
    let (dynamodb_url, sqs_url) = (dynamodb.url(), sqs.url());
    let nudges = sqs_client(&sqs_url).create_queue().queue_name("nudge").send().await?;
    let env = [
        ("USHER_TABLE", "usher"),
        // Nothing is initialised, so no room is touched.
        ("USHER_XMTP_URL", "http://127.0.0.1:9"),
        ("USHER_DATA_KEY_ID", "none"),
        ("USHER_NUDGE_QUEUE_URL", nudges.queue_url().ok_or("a queue has a URL")?),
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb_url.as_str()),
        ("AWS_ENDPOINT_URL_SQS", sqs_url.as_str()),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
    ];
    let api = Arc::new(RuntimeApi::start(0).await?);
    for (name, event) in [
        ("MintFunction", "mint.event.json"),
        ("PurchaseFunction", "purchase.issue.json"),
        ("RefundFunction", "refund.burn.json"),
        ("SweepFunction", "sweep.nudge.json"),
    ] {
        let function = function(folder.path(), name, &api, &env);
        let answer: Value = serde_json::from_slice(&function.invoke(sample(event)?.to_string().into()).await?)?;
        assert_eq!(answer, json!({ "batchItemFailures": [] }), "{name}");
        let bytes = fs::metadata(folder.path().join(name).join("bootstrap"))?.len();
        let zipped = zip_bytes(&folder.path().join(name)).await?;
        println!("sam build: {name}: {bytes} bytes, {zipped} zipped");
        assert!(zipped < bytes && zipped < ZIP_BYTES_MAX, "{name}: {zipped} bytes zipped");
    }
    let event = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse()?;
    let record = store.event(&event).await?.ok_or("the event was minted")?;
    let kiosk = record.minted.ok_or("the event was minted")?.incarnation.kiosk();
    let tickets = store.tickets(&kiosk).await?;
    assert!(!tickets.is_empty(), "what was bought is in the ledger");
    Ok(())
}

fn records(bodies: &[&str]) -> Value {
    let record = |(index, body): (usize, &&str)| json!({ "messageId": format!("m{index}"), "body": body });
    json!({ "Records": bodies.iter().enumerate().map(record).collect::<Vec<_>>() })
}

#[tokio::test]
#[ignore = "builds everything as cargo-lambda does; tests/run asks for it"]
async fn a_panic_in_what_sam_builds_is_its_records_failure() -> Result<(), AnyError> {
    let folder = TempDir::new()?;
    sam_build("tests/panicking/template.yaml", folder.path()).await?;
    let api = Arc::new(RuntimeApi::start(0).await?);
    let function = function(folder.path(), "PanickingFunction", &api, &[]);
    let sample = sample("mint.event.json")?;
    let mint = sample["Records"][0]["body"].as_str().ok_or("the sample has a body")?;
    // What is no log is parked, which panics there.
    let batch = records(&[mint, "{", mint]);
    for round in ["first", "second, by the same process"] {
        let answer = function.invoke(batch.to_string().into()).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        assert_eq!(answer, json!({ "batchItemFailures": [{ "itemIdentifier": "m1" }] }), "{round}");
    }
    Ok(())
}
