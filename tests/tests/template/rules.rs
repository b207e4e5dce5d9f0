//! Rules about everything else.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{document::texts, read, template};

#[test]
fn a_function_is_what_lambda_runs_and_its_binary_is_a_package() {
    let template = template(&[]);
    let functions = template.functions();
    assert_eq!(functions.len(), 4);
    for (name, properties) in functions {
        assert_eq!(properties["Runtime"], "provided.al2023", "{name}");
        assert_eq!(properties["Architectures"], serde_json::json!(["arm64"]), "{name}");
        assert_eq!(properties["Timeout"], 30, "{name}");
        assert_eq!(properties["Tracing"], "Active", "{name}");
        assert_eq!(properties["LoggingConfig"]["LogFormat"], "JSON", "{name}");
        let metadata = &template.resources()[name]["Metadata"];
        assert_eq!(metadata["BuildMethod"], "rust-cargolambda", "{name}");
        let binary = metadata["BuildProperties"]["Binary"].as_str().unwrap();
        let folder = binary.strip_prefix("usher-").unwrap();
        assert!(read(&format!("functions/{folder}/Cargo.toml")).contains(&format!("name = \"{binary}\"")), "{name}");
    }
}

#[test]
fn logs_are_each_functions_own_and_not_kept_for_ever() {
    let template = template(&[]);
    let mut groups = BTreeSet::new();
    for (name, properties) in template.functions() {
        let group = properties["LoggingConfig"]["LogGroup"].as_str().unwrap().to_owned();
        assert!(template.properties(&group)["RetentionInDays"].as_u64().is_some_and(|days| days > 0), "{name}");
        groups.insert(group);
    }
    let all: BTreeSet<_> = template.all("AWS::Logs::LogGroup").map(|(name, _)| name.to_owned()).collect();
    assert_eq!(groups, all);
}

#[test]
fn no_concurrency_is_reserved() {
    for setting in ["ReservedConcurrentExecutions", "ProvisionedConcurrencyConfig"] {
        assert!(!read("template.yaml").contains(setting), "{setting}");
    }
}

/// A resource with a star in it says why on its own line. Only a denial is about everybody or every action.
#[test]
fn no_star_without_a_reason() {
    let text = read("template.yaml");
    let mut starred = 0;
    for (number, line) in text.lines().enumerate() {
        let (value, reason) = line.split_once('#').map_or((line, ""), |(value, reason)| (value, reason.trim()));
        if value.contains("*") && !["Principal:", "Action:", "AllowedPattern:"].iter().any(|key| value.contains(key)) {
            assert!(reason.len() >= 6, "line {}: {line}", number + 1);
            starred += 1;
        }
    }
    assert!(starred > 0, "the rule has something to look at");
    let template = template(&[("ProducerArns", "arn:aws:iam::111122223333:role/indexer")]);
    let mut policies = 0;
    visit(&serde_json::json!(template.resources()), &mut |statement| {
        policies += 1;
        for key in ["NotAction", "NotResource", "NotPrincipal"] {
            assert!(statement[key].is_null(), "{key} grants what nobody has thought of: {statement}");
        }
        if statement["Effect"] == "Allow" {
            assert!(texts(&statement["Action"]).iter().all(|action| !action.contains('*')), "{statement}");
            assert!(!statement["Principal"].to_string().contains('*'), "{statement}");
        }
    });
    assert!(policies > 20, "{policies} statements");
}

/// Shows every policy statement in it.
fn visit(value: &Value, look: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("Effect") {
                look(value);
            }
            fields.values().for_each(|value| visit(value, look));
        }
        Value::Array(values) => values.iter().for_each(|value| visit(value, look)),
        _ => {}
    }
}

/// cargo-lambda adds its own settings to those that are not here, `panic = "abort"` among them.
#[test]
fn the_release_profile_unwinds_and_leaves_the_rest_to_cargo_lambda() {
    let manifest = read("Cargo.toml");
    let profiles: Vec<_> = manifest.split("\n[").filter(|section| section.starts_with("profile.release")).collect();
    let [release] = profiles[..] else { panic!("one release profile: {profiles:?}") };
    let settings: Vec<_> = release.lines().skip(1).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(settings, ["panic = \"unwind\""]);
}

#[test]
fn the_tools_that_build_it_are_pinned() {
    let requirements = read("tests/requirements.txt");
    for tool in ["aws-sam-cli", "cargo-lambda", "ziglang"] {
        let line = requirements.lines().find_map(|line| line.strip_prefix(tool)?.strip_prefix("=="));
        assert!(line.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit())), "{tool}");
    }
}
