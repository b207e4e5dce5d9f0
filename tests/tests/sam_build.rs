//! What `sam build` makes: a panic in one record is that record's failure, although cargo-lambda would have it abort.
//!
//! It compiles everything once more, for Zig's linker, which takes minutes: `tests/run` asks for it by name.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use usher_localnet::lambda::{Function, FunctionConfig, Logs, RuntimeApi};
use usher_tests::world::AnyError;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `sam build` with the tools that tests/run has installed; returns the binary.
async fn sam_build(template: &str, function: &str, to: &Path) -> Result<PathBuf, AnyError> {
    let tools = checkout().join(".venv/bin").canonicalize()?;
    let path =
        env::join_paths([tools.clone()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())))?;
    let mut command = Command::new(tools.join("sam"));
    command.args(["build", function, "--template", template, "--build-dir"]).arg(to);
    command.current_dir(checkout()).env("PATH", path).env("SAM_CLI_TELEMETRY", "0");
    // What cargo says of the package that it tests is not about the one that is built.
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CARGO_PKG_")) {
        command.env_remove(name);
    }
    let output = command.env_remove("CARGO_MANIFEST_DIR").env("AWS_DEFAULT_REGION", "us-east-1").output().await?;
    if !output.status.success() {
        return Err(format!("sam build: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(to.join(function).join("bootstrap"))
}

fn records(bodies: &[&str]) -> Value {
    let record = |(index, body): (usize, &&str)| json!({ "messageId": format!("m{index}"), "body": body });
    json!({ "Records": bodies.iter().enumerate().map(record).collect::<Vec<_>>() })
}

#[tokio::test]
#[ignore = "builds everything for another target; tests/run asks for it"]
async fn a_panic_in_what_sam_builds_is_its_records_failure() -> Result<(), AnyError> {
    let folder = TempDir::new()?;
    let binary = sam_build("tests/panicking/template.yaml", "PanickingFunction", folder.path()).await?;
    let config = FunctionConfig {
        name: "panicking".to_owned(),
        binary,
        env: Vec::new(),
        timeout: Duration::from_secs(30),
        concurrency: 1,
        logs: Logs::Stderr,
    };
    let function = Function::new(Arc::new(RuntimeApi::start(0).await?), config);
    let sample: Value = serde_json::from_str(&fs::read_to_string(checkout().join("events/mint.event.json"))?)?;
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
