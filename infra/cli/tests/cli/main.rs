//! The command as its users run it.

#![expect(clippy::unwrap_used, reason = "a helper that panics fails its test")]

mod live;
mod many_logs;
mod support;

use std::{fs, path::Path};

use serde_json::{Value, json};
use usher_localnet::aws::sqs_client;
use usher_store::parked::ParkedId;

use support::{Dev, complaint, failing_functions, result, sample, stack, usher};

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

const CHAINS: &str = r#""version": 1, "chains": {"31337": {"trust": "queue", "factories": ["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}}"#;

#[tokio::test]
async fn a_configuration_is_checked_compared_put_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    // Needs no stack.
    let good = file("good.json", &format!("{{{CHAINS}, \"rate_limits\": null}}"));
    let checked = result(usher().args(["config", "check", "--json"]).arg(&good).output().unwrap());
    assert_eq!(checked, json!({ "valid": true, "chains": { "31337": 1 } }));
    let bad = file("bad.json", &format!("{{{CHAINS},\n\n  \"polices\": {{}}}}"));
    let said = complaint(usher().args(["config", "check"]).arg(&bad).output().unwrap());
    assert!(said.contains("bad.json: unknown field `polices`") && said.contains("at line 3 column 11"), "{said}");

    let dev = stack(folder.path());
    let config = |command: &str| {
        let mut usher = dev.run("config");
        usher.args([command, "--json"]);
        usher
    };
    let got = result(config("get").output().unwrap());
    assert_eq!((&got["revision"], &got["document"]["chains"]), (&json!(1), &dev.ready["chains"]));
    let unchanged = json!({ "revision": 1, "changes": [] });
    assert_eq!(result(config("diff").arg(&good).output().unwrap()), unchanged);

    let wallet = format!("0x{}", "ab".repeat(20));
    let banning = file("banning.json", &format!("{{{CHAINS}, \"rate_limits\": null, \"bans\": [\"{wallet}\"]}}"));
    let change = json!([{ "path": "bans[]", "after": wallet }]);
    assert_eq!(result(config("diff").arg(&banning).output().unwrap())["changes"], change);
    assert_eq!(result(config("get").output().unwrap())["revision"], 1, "a comparison changes nothing");
    let put = result(config("put").arg(&banning).output().unwrap());
    assert_eq!(put, json!({ "revision": 2, "changes": change, "events_due": 0 }));
    let again = result(config("put").arg(&banning).output().unwrap());
    assert_eq!(again, json!({ "revision": 2, "changes": [], "events_due": 0 }));
    complaint(config("put").arg(&bad).output().unwrap());
    assert_eq!(result(config("get").output().unwrap())["document"]["bans"], json!([wallet]));

    // The next start keeps what was put.
    dev.stop("-TERM");
    let dev = Dev::start(&folder.path().join("functions"), &folder.path().join("state"));
    let got = result(dev.run("config").args(["get", "--json"]).output().unwrap());
    assert_eq!((&got["revision"], &got["document"]["bans"]), (&json!(2), &json!([wallet])));
    dev.stop("-TERM");
}

#[tokio::test]
async fn init_finds_what_is_done_and_keeps_to_its_network() {
    let folder = tempfile::tempdir().unwrap();
    let dev = stack(folder.path());
    let init = || {
        let mut usher = dev.run_with_keys("init");
        usher.env("USHER_WALLET_KEY_FILE", dev.url("wallet_key_file")).arg("--json");
        usher
    };
    let done = result(init().output().unwrap());
    assert_eq!((&done["inbox"], &done["wallet"]), (&dev.ready["inbox_id"], &dev.ready["wallet"]));
    assert_eq!((&done["network"], &done["configuration"]), (&json!("local"), &json!(1)));
    assert_eq!(done["usage"], json!({ "installations": 1, "updates": 1 }));
    assert_eq!(result(init().output().unwrap()), done, "a repetition changes nothing");

    let file = folder.path().join("config.json");
    fs::write(&file, format!("{{{CHAINS}, \"policy\": {{\"seats_per_room\": 50}}}}")).unwrap();
    let with_config = result(init().arg("--config").arg(&file).output().unwrap());
    assert_eq!((&with_config["installation"], &with_config["configuration"]), (&done["installation"], &json!(2)));

    let said = complaint(init().args(["--xmtp-url", "https://grpc.dev.xmtp.network:443"]).output().unwrap());
    assert!(said.contains("initialised for XMTP network local, and this is dev"), "{said}");
    let said = complaint(dev.run_with_keys("init").output().unwrap());
    assert!(said.contains("--wallet-key-file"), "{said}");
    let said = complaint(dev.run("init").env("USHER_WALLET_KEY_FILE", dev.url("wallet_key_file")).output().unwrap());
    assert!(said.contains("--data-key-file"), "{said}");
    let other = folder.path().join("other.key");
    let said = complaint(init().env("USHER_WALLET_KEY_FILE", &other).output().unwrap());
    assert!(said.contains("use the wallet it was made with"), "{said}");
    dev.stop("-TERM");
}

#[tokio::test]
async fn parked_logs_are_shown_retried_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let dev = stack(folder.path());
    let parked = |arguments: &[&str]| dev.run("parked").args(arguments).arg("--json").output().unwrap();
    assert_eq!(result(parked(&["list"])), json!({ "parked": [] }));

    // A mint on a chain that nobody configured, and a text that will never be anything.
    let batch: Value = serde_json::from_str(&fs::read_to_string(sample("mint.event.json")).unwrap()).unwrap();
    let body = batch["Records"][0]["body"].as_str().unwrap().replace("31337", "1328");
    let store = dev.store();
    let [mint, text] = [1, 2].map(|byte| ParkedId::Body { digest: [byte; 32].into() });
    store.park(mint, "chain 1328 is not configured", &body).await.unwrap();
    store.park(text, "it is no JSON", "{").await.unwrap();
    let [mint, text] = [mint, text].map(|id| id.to_string());
    let listed = result(parked(&["list"]));
    assert_eq!((&listed["parked"][0]["name"], &listed["parked"][1]["reason"]), (&json!(mint), &json!("it is no JSON")));
    let shown = result(parked(&["show", &mint]));
    assert_eq!(shown["body"]["chainId"], 1328);
    assert!(complaint(parked(&["show", "body#0"])).contains("nothing is parked as"));

    // Nothing has changed yet.
    let said = complaint(parked(&["retry", "--all"]));
    assert!(said.contains("2 of 2 are still parked"), "{said}");
    let file = folder.path().join("config.json");
    let both = CHAINS.replace("{\"31337\": ", "{\"1328\": {\"trust\": \"queue\", \"factories\": [\"0x5fbdb2315678afecb367f032d93f642f64180aa3\"]}, \"31337\": ");
    fs::write(&file, format!("{{{both}}}")).unwrap();
    result(dev.run("config").args(["put", "--json"]).arg(&file).output().unwrap());
    let retried = result(parked(&["retry", &mint]));
    assert_eq!(retried, json!({ "done": [{ "name": mint, "outcome": "recorded", "facts": 1, "ignored": 6 }] }));
    let event = "1328:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse().unwrap();
    assert!(store.event(&event).await.unwrap().unwrap().due_at_ms.is_some(), "the sweep finds it");

    let stricter = folder.path().join("stricter.json");
    fs::write(&stricter, format!("{{{both}, \"policy\": {{\"seats_per_room\": 9}}}}")).unwrap();
    let put = result(dev.run("config").args(["put", "--json"]).arg(&stricter).output().unwrap());
    assert_eq!(put["events_due"], 1, "rooms are to be kept differently");

    let dropped = result(parked(&["drop", &text]));
    assert_eq!(dropped, json!({ "done": [{ "name": text, "outcome": "dropped" }] }));
    assert_eq!(result(parked(&["list"])), json!({ "parked": [] }));

    // Of what is too long only the beginning is kept, and that is no envelope or another one.
    let long = ParkedId::Body { digest: [3; 32].into() };
    store.park(long, "it is too long", &format!("{body}{}", " ".repeat(100_000))).await.unwrap();
    complaint(parked(&["retry", &long.to_string()]));
    assert_eq!(store.parked_count(9).await.unwrap(), 1);
    dev.stop("-TERM");
}

#[tokio::test]
async fn dead_letters_go_back_and_the_doctor_sees_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let dev = stack(folder.path());
    let doctor = |dev: &Dev| {
        let output = dev.run_with_keys("doctor").arg("--json").output().unwrap();
        let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.success(), checks["checks"].as_array().unwrap().clone())
    };
    let status = |checks: &[Value], name: &str| {
        let check = checks.iter().find(|check| check["check"] == name);
        check.unwrap_or_else(|| panic!("{name} in {checks:?}"))["status"].as_str().unwrap().to_owned()
    };
    let (well, checks) = doctor(&dev);
    let (policies, others): (Vec<_>, Vec<_>) = checks.iter().partition(|check| check["check"] == "queue policies");
    assert!(well && others.iter().all(|check| check["status"] == "ok"), "{checks:#?}");
    assert!(matches!(policies[..], [check] if check["status"] == "warn"), "a dev stack's queues have none");
    for name in [
        "table",
        "recovery",
        "configuration",
        "account",
        "XMTP",
        "network",
        "inbox",
        "parked",
        "due",
        "rooms",
        "waiting",
    ] {
        status(&checks, name);
    }
    let queues = others.iter().filter(|check| check["check"].as_str().unwrap().starts_with("queue "));
    assert_eq!(queues.count(), 4);

    let client = sqs_client(dev.url("sqs_url"));
    for (queue, count) in [("refund-dlq", 23), ("mint-dlq", 1)] {
        let url = dev.ready["queues"][queue].as_str().unwrap();
        for number in 0..count {
            client.send_message().queue_url(url).message_body(format!("letter {number}")).send().await.unwrap();
        }
    }
    let (well, checks) = doctor(&dev);
    assert!(well, "a dead letter is a warning");
    assert_eq!(status(&checks, "dead letters of refund"), "warn");
    let moved = result(dev.run("redrive").args(["refund", "--json"]).output().unwrap());
    assert_eq!(moved, json!({ "moved": 23, "queues": { "refund": 23 } }));
    for (queue, messages) in [("refund", 23), ("refund-dlq", 0), ("mint", 0), ("mint-dlq", 1)] {
        assert_eq!(dev.messages(queue).await, messages, "{queue}");
    }
    let moved = result(dev.run("redrive").arg("--json").output().unwrap());
    assert_eq!((&moved["moved"], &moved["queues"]["mint"]), (&json!(1), &json!(1)));

    // A configuration from some other version.
    let store = dev.store();
    let revision = store.configuration().await.unwrap().unwrap().revision;
    store.put_configuration("{}", Some(revision)).await.unwrap();
    let (well, checks) = doctor(&dev);
    assert_eq!((well, status(&checks, "configuration").as_str()), (false, "fail"));
    let nowhere = dev.run_with_keys("doctor").args(["--table", "nowhere"]).output().unwrap();
    assert!(complaint(nowhere).contains("checks failed"));
    let elsewhere = dev.run_with_keys("doctor").args(["--xmtp-url", "http://127.0.0.1:1", "--json"]).output().unwrap();
    let checks: Value = serde_json::from_slice(&elsewhere.stdout).unwrap();
    assert_eq!(status(checks["checks"].as_array().unwrap(), "XMTP"), "fail");
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
