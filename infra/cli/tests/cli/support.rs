//! A running `usher dev`, and commands for it.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};
use usher_lambda::Machine;
use usher_localnet::aws::{dynamodb_client, sqs_client};
use usher_store::{Store, dynamo::DynamoTable};

pub(crate) fn usher() -> Command {
    let mut usher = Command::new(env!("CARGO_BIN_EXE_usher"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        name.starts_with("USHER_") || name.starts_with("AWS_")
    }) {
        usher.env_remove(name);
    }
    usher
}

pub(crate) fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events").join(name)
}

pub(crate) fn failing_functions(folder: &Path) {
    for name in ["usher-mint", "usher-purchase", "usher-refund", "usher-sweep"] {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o700).open(folder.join(name));
        file.as_mut().unwrap().write_all(b"#!/bin/sh\nexit 1\n").unwrap();
    }
}

/// A running `usher dev`.
pub(crate) struct Dev {
    process: Child,
    pub(crate) ready: Value,
}

impl Dev {
    pub(crate) fn start(functions: &Path, state: &Path) -> Self {
        Self::start_with(
            "0",
            &[OsStr::new("--functions"), functions.as_os_str(), OsStr::new("--state"), state.as_os_str()],
        )
    }

    /// With the real functions, which were built beside the command.
    pub(crate) fn start_live(xmtp_port: &str, arguments: &[&str]) -> Self {
        let arguments: Vec<_> = ["--no-schedule"].iter().chain(arguments).map(OsStr::new).collect();
        Self::start_with(xmtp_port, &arguments)
    }

    fn start_with(xmtp_port: &str, arguments: &[&OsStr]) -> Self {
        let ports = ["--xmtp-web-port", "--dynamodb-port", "--sqs-port", "--secrets-port", "--lambda-port"];
        let mut process = usher()
            .args(["dev", "--json", "--xmtp-port", xmtp_port])
            .args(arguments)
            .args(ports.iter().flat_map(|port| [port, "0"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, ready: serde_json::from_str(&line).unwrap() }
    }

    pub(crate) fn url(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap()
    }

    pub(crate) fn run(&self, command: &str) -> Command {
        let mut usher = usher();
        usher.arg(command).env("AWS_ENDPOINT_URL_DYNAMODB", self.url("dynamodb_url"));
        usher.env("AWS_ENDPOINT_URL_SQS", self.url("sqs_url"));
        usher
    }

    /// The same for a command that touches rooms or keys.
    pub(crate) fn run_with_keys(&self, command: &str) -> Command {
        let mut usher = self.run(command);
        usher.env("USHER_XMTP_URL", self.url("xmtp_url")).env("USHER_DATA_KEY_FILE", self.url("data_key_file"));
        usher
    }

    /// The same for a command that signs.
    pub(crate) fn run_with_wallet(&self, command: &str) -> Command {
        let mut usher = self.run_with_keys(command);
        usher.env("USHER_WALLET_KEY_FILE", self.url("wallet_key_file"));
        usher
    }

    pub(crate) fn send(&self, sample_name: &str) {
        result(self.run("send").arg("--json").arg(sample(sample_name)).output().unwrap());
    }

    pub(crate) fn store(&self) -> Store {
        let table = DynamoTable::new(dynamodb_client(self.url("dynamodb_url")), "usher");
        Store::new(Arc::new(table), Arc::new(Machine), Arc::new(Machine))
    }

    /// How many messages of a queue are not handled, those at work included.
    pub(crate) async fn messages(&self, queue: &str) -> u32 {
        let client = sqs_client(self.url("sqs_url"));
        let url = self.ready["queues"][queue].as_str().unwrap();
        let all = client.get_queue_attributes().queue_url(url).attribute_names(Attribute::All).send().await.unwrap();
        let all = all.attributes.unwrap();
        assert!(queue.ends_with("-dlq") || all[&Attribute::VisibilityTimeout] == "180");
        let states = [Attribute::ApproximateNumberOfMessages, Attribute::ApproximateNumberOfMessagesNotVisible];
        states.iter().map(|state| all[state].parse::<u32>().unwrap()).sum()
    }

    pub(crate) fn stop(mut self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Only a failed test gets here with a process that still runs.
        let _ = self.process.kill();
    }
}

/// What a command prints that must succeed.
pub(crate) fn result(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Stand-ins for the functions and a stack of them; what was written to the folder is gone with it.
pub(crate) fn stack(folder: &Path) -> Dev {
    let functions = folder.join("functions");
    fs::create_dir(&functions).unwrap();
    failing_functions(&functions);
    Dev::start(&functions, &folder.join("state"))
}

/// What a command says that must fail.
pub(crate) fn complaint(output: Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// Awaits the moment from which `look` finds something.
pub(crate) async fn until<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    let mut ticks = interval(Duration::from_millis(200));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < deadline {
        ticks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
    }
    panic!("not within {patience:?}: {what}")
}
