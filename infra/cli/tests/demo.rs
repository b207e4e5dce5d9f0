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

#[test]
fn every_check_passes() {
    let output = demo(&["--json"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(failed(&output), [] as [&str; 0]);
    let steps: Vec<Value> = lines(&output).iter().map(|line| line["step"].clone()).collect();
    for step in ["mint", "purchase", "talk", "removal"] {
        assert!(steps.contains(&Value::from(step)), "{step} is missing in {steps:?}");
    }
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
}

#[test]
fn each_way_to_break_it_is_noticed() {
    let breaks = [
        ("skip-removal", "seller, refunded, burned and reorganised are out"),
        ("no-rekey", "and blind to what follows, with all keys they ever had"),
        ("second-room", "one room"),
        ("admit-outsider", "the outsider was never in"),
    ];
    for (broken, check) in breaks {
        let output = demo(&["--json", "--break", broken]);
        assert!(!output.status.success(), "{broken} was not noticed");
        assert!(failed(&output).contains(&check.to_owned()), "{broken}: {:?}", failed(&output));
    }
}
