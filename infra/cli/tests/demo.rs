//! `usher demo` as a person runs it, whole and broken.

use std::process::{Command, Output};

use serde_json::Value;

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_usher")).arg("demo").args(arguments).output().expect("the demo starts")
}

/// The objects that `--json` prints, a line each.
fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// The names of the checks that failed.
fn failed(output: &Output) -> Vec<String> {
    let lines = lines(output);
    let checks = lines.last().and_then(|last| last["checks"].as_array()).expect("the checks come last");
    assert!(checks.len() >= 8, "{checks:?}");
    let failed = checks.iter().filter(|check| check["passed"] == Value::Bool(false));
    failed.map(|check| check["check"].as_str().expect("a name").to_owned()).collect()
}

/// What a check saw.
fn seen(output: &Output, check: &str) -> String {
    let lines = lines(output);
    let checks = lines.last().and_then(|last| last["checks"].as_array()).expect("the checks come last");
    let found = checks.iter().find(|one| one["check"] == check).expect("there is such a check");
    found["detail"].as_str().expect("a text").to_owned()
}

#[test]
fn every_check_passes() {
    let output = demo(&["--json"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(failed(&output), [] as [&str; 0]);
    let steps: Vec<Value> = lines(&output).iter().map(|line| line["step"].clone()).collect();
    for step in ["trust", "mint", "purchase", "talk", "junk", "removal"] {
        assert!(steps.contains(&Value::from(step)), "{step} is missing in {steps:?}");
    }
    let text = |step: &str| {
        let lines = lines(&output);
        let line = lines.iter().find(|line| line["step"] == step).expect("it was told");
        line["text"].as_str().expect("a text").to_owned()
    };
    assert!(text("trust").starts_with("chain 31337, trust: queue."), "{}", text("trust"));
    assert!(text("talk").ends_with("all 5 in the room read it"), "{}", text("talk"));
    assert!(
        text("junk").ends_with("2 facts of an unknown kiosk wait; 5 malformed logs are parked"),
        "{}",
        text("junk")
    );
    let rebuilt = seen(&output, "usher was rebuilt from DynamoDB");
    let (opened, sent) = rebuilt.split_once(" of ").expect("so many of so many");
    assert_eq!(Some((opened, "1 installation")), sent.split_once(" times, "), "{rebuilt}");
    assert!(opened.parse::<usize>().expect("a number") >= 9, "the mint, four purchases, four losses: {rebuilt}");
}

#[test]
fn more_tickets_can_be_sold_than_the_samples_tell_of() {
    let output = demo(&["--json", "--tickets", "12"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_table_is_for_people() {
    let output = demo(&[]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("8 passed, 0 failed"), "{text}");
    assert!(text.contains("chain 31337, trust: queue. Whoever may send"), "{text}");
}

/// A way to break it is noticed by its own check, and by no check that has nothing to do with it.
fn assert_noticed(broken: &str, check: &str, unharmed: &[&str]) {
    let output = demo(&["--json", "--break", broken]);
    assert!(!output.status.success(), "{broken} was not noticed");
    let failed = failed(&output);
    assert!(failed.iter().any(|failed| failed == check), "{broken}: {failed:?}");
    for check in unharmed {
        assert!(!failed.iter().any(|failed| failed == check), "{broken}: {failed:?}");
    }
}

const ONE_ROOM: &str = "one room";
const OUT: &str = "seller, refunded, burned and reorganised are out";
const BLIND: &str = "and blind to what follows, with all keys they ever had";
const OUTSIDER: &str = "the outsider was never in";
const REBUILT: &str = "usher was rebuilt from DynamoDB";

#[test]
fn a_removal_that_nobody_hears_of_is_noticed() {
    assert_noticed("skip-removal", OUT, &[ONE_ROOM, OUTSIDER]);
}

#[test]
fn talk_with_old_keys_is_noticed() {
    assert_noticed("no-rekey", BLIND, &[ONE_ROOM, OUT, OUTSIDER, REBUILT]);
}

#[test]
fn a_second_room_is_noticed() {
    assert_noticed("second-room", ONE_ROOM, &[OUTSIDER, REBUILT]);
}

#[test]
fn an_outsider_is_noticed() {
    assert_noticed("admit-outsider", OUTSIDER, &[ONE_ROOM, OUT, BLIND, REBUILT]);
}

#[test]
fn a_usher_that_works_from_memory_is_noticed() {
    assert_noticed("stay-warm", REBUILT, &[ONE_ROOM, OUT, BLIND, OUTSIDER]);
}
