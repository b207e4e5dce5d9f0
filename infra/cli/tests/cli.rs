//! The command as its users run it. The functions are stand-ins that fail, so messages stay where they were put.

#![expect(clippy::unwrap_used, reason = "a helper that panics fails its test")]

use std::{
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use serde_json::{Value, json};
use usher_localnet::aws::sqs_client;

fn usher() -> Command {
    let mut usher = Command::new(env!("CARGO_BIN_EXE_usher"));
    for name in ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_SQS", "USHER_TABLE"] {
        usher.env_remove(name);
    }
    usher
}

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events").join(name)
}

fn failing_functions(folder: &Path) {
    for name in ["usher-mint", "usher-purchase", "usher-refund", "usher-sweep"] {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o700).open(folder.join(name));
        file.as_mut().unwrap().write_all(b"#!/bin/sh\nexit 1\n").unwrap();
    }
}

struct Dev {
    process: Child,
    ready: Value,
}

impl Dev {
    fn start(functions: &Path, state: &Path) -> Self {
        let ports = ["--xmtp-port", "--xmtp-web-port", "--dynamodb-port", "--sqs-port", "--lambda-port"];
        let mut process = usher()
            .args(["dev", "--json", "--functions"])
            .arg(functions)
            .arg("--state")
            .arg(state)
            .args(ports.iter().flat_map(|port| [port, "0"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, ready: serde_json::from_str(&line).unwrap() }
    }

    fn url(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap()
    }

    fn run(&self, command: &str) -> Command {
        let mut usher = usher();
        usher.arg(command).env("AWS_ENDPOINT_URL_DYNAMODB", self.url("dynamodb_url"));
        usher.env("AWS_ENDPOINT_URL_SQS", self.url("sqs_url"));
        usher
    }

    async fn messages(&self, queue: &str) -> u32 {
        let client = sqs_client(self.url("sqs_url"));
        let url = self.ready["queues"][queue].as_str().unwrap();
        let all = client.get_queue_attributes().queue_url(url).attribute_names(Attribute::All).send().await.unwrap();
        let all = all.attributes.unwrap();
        assert!(queue.ends_with("-dlq") || all[&Attribute::VisibilityTimeout] == "180");
        let states = [Attribute::ApproximateNumberOfMessages, Attribute::ApproximateNumberOfMessagesNotVisible];
        states.iter().map(|state| all[state].parse::<u32>().unwrap()).sum()
    }

    fn stop(mut self, signal: &str) {
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

fn result(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_stack_is_made_filled_stopped_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (functions, state) = (folder.path().join("functions"), folder.path().join("state"));
    fs::create_dir(&functions).unwrap();
    failing_functions(&functions);

    let dev = Dev::start(&functions, &state);
    let account = (dev.ready["inbox_id"].clone(), dev.ready["wallet"].clone());
    assert_eq!(account.0.as_str().unwrap().len(), 64);
    assert_eq!(account.1.as_str().unwrap().len(), 42);
    assert_eq!(dev.ready["table"], "usher");
    assert_eq!(dev.ready["chains"]["31337"]["trust"], "queue");
    assert!(dev.url("xmtp_url").starts_with("http://127.0.0.1:"));
    assert!(dev.url("xmtp_web_url").starts_with("http://127.0.0.1:"));
    assert!(dev.url("lambda_url").starts_with("http://127.0.0.1:"));

    let sent = result(dev.run("send").arg("--json").arg(sample("logs/01-mint.json")).output().unwrap());
    assert_eq!(sent, json!({ "sent": 7, "queues": { "mint": 1, "purchase": 6 } }));
    let files = ["logs/08-burn-carol.json", "sweep.nudge.json"].map(sample);
    let sent = result(dev.run("send").arg("--json").args(files).output().unwrap());
    assert_eq!(sent, json!({ "sent": 2, "queues": { "refund": 1, "nudge": 1 } }));
    for (queue, messages) in [("mint", 1), ("purchase", 6), ("refund", 1), ("nudge", 1), ("mint-dlq", 0)] {
        assert_eq!(dev.messages(queue).await, messages, "{queue}");
    }
    let rooms = result(dev.run("rooms").arg("--json").output().unwrap());
    assert_eq!(rooms, json!({ "events": [], "parked": 0 }));
    let unknown = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:7";
    let output = dev.run("rooms").args(["--event", unknown]).output().unwrap();
    assert!(!output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("error: no event {unknown} is known\n"));
    dev.stop("-INT");

    let dev = Dev::start(&functions, &state);
    assert_eq!((dev.ready["inbox_id"].clone(), dev.ready["wallet"].clone()), account);
    assert_eq!(dev.messages("mint").await, 1);
    assert_eq!(dev.messages("purchase").await, 6);
    dev.stop("-TERM");
}

#[test]
fn without_a_stack_the_command_says_what_is_missing() {
    // A port on which nobody listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let commands = [
        vec!["send".to_owned(), "--sqs-url".to_owned(), url.clone(), sample("mint.event.json").display().to_string()],
        vec!["rooms".to_owned(), "--dynamodb-url".to_owned(), url.clone()],
    ];
    for command in commands {
        let output = usher().args(&command).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(error.contains(&url) && error.contains("is `usher dev` running?"), "{error}");
    }
}

#[test]
fn run_by_cargo_it_does_not_start_functions_that_may_be_old() {
    // As `cargo run` sets them, but for a cargo that fails.
    let cargo = [("CARGO", "false"), ("CARGO_PKG_NAME", "usher"), ("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR"))];
    let output = usher().arg("dev").envs(cargo).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    let release = Path::new(env!("CARGO_BIN_EXE_usher")).parent().unwrap().ends_with("release");
    let command = if release { "cargo build --release" } else { "cargo build --profile=dev" };
    assert!(error.starts_with(&format!("bringing the functions up to date: {command}\n")), "{error}");
    assert!(error.contains(&format!("error: `{command}` failed in ")), "{error}");
}
