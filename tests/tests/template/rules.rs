//! Rules about everything else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    document::{Template, texts},
    file, read, template,
};

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
        assert_eq!(properties["CodeUri"], format!("functions/{folder}"), "{name}");
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
    let mut starred = 0;
    for file in templates() {
        for (number, line) in read(&file).lines().enumerate() {
            let (value, reason) = line.split_once('#').map_or((line, ""), |(value, reason)| (value, reason.trim()));
            if value.contains("*")
                && !["Principal:", "Action:", "AllowedPattern:"].iter().any(|key| value.contains(key))
            {
                assert!(reason.len() >= 6, "{file}, line {}: {line}", number + 1);
                starred += 1;
            }
        }
    }
    assert!(starred > 0, "the rule has something to look at");
    let producers = template(&[("ProducerArns", "arn:aws:iam::111122223333:role/indexer")]);
    let nested = templates().into_iter().skip(1).map(|file| Template::read(&read(&file), &[]));
    let all: Vec<_> = std::iter::once(producers).chain(nested).collect();
    let resources: Vec<_> = all.iter().map(Template::resources).collect();
    let (mut policies, mut topics) = (0, 0);
    visit(&serde_json::json!(resources), &mut |statement| {
        policies += 1;
        topics += usize::from(texts(&statement["Action"]) == ["sns:Publish"]);
        for key in ["NotAction", "NotResource", "NotPrincipal"] {
            assert!(statement[key].is_null(), "{key} grants what nobody has thought of: {statement}");
        }
        if statement["Effect"] == "Allow" {
            assert!(texts(&statement["Action"]).iter().all(|action| !action.contains('*')), "{statement}");
            assert!(!statement["Principal"].to_string().contains('*'), "{statement}");
        }
    });
    assert!(policies > 20 && topics > 0, "{policies} statements, {topics} of the nested templates");
}

/// Where a function is sent is what it takes that for: `init` binds a deployment to that name.
#[test]
fn each_network_is_the_one_that_its_node_is_taken_for() {
    let networks = template(&[]);
    let networks = networks.allowed_values("XmtpNetwork");
    assert!(networks.contains(&"production") && networks.contains(&"dev"), "{networks:?}");
    for network in networks {
        let template = template(&[("XmtpNetwork", network)]);
        for (function, properties) in template.functions() {
            let url = properties["Environment"]["Variables"]["USHER_XMTP_URL"].as_str().unwrap();
            assert_eq!(usher_lambda::network_name(url), network, "{function}: {url}");
            assert_eq!(template.output("XmtpUrl"), url);
        }
        assert_eq!(template.output("XmtpNetwork"), network);
    }
}

/// `template.yaml`, and then what it nests.
fn templates() -> Vec<String> {
    let mut nested: Vec<_> = std::fs::read_dir(file("infra"))
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".yaml"))
        .map(|name| format!("infra/{name}"))
        .collect();
    nested.sort();
    assert!(nested.len() >= 2, "{nested:?}");
    nested.insert(0, "template.yaml".to_owned());
    nested
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
    let sections = manifest.split("\n[").filter_map(|section| section.strip_prefix("profile.release"));
    let sections: Vec<_> = sections.filter_map(|section| section.split_once("]\n")).collect();
    let settings = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    };
    let [release] = sections.iter().filter(|(of, _)| of.is_empty()).collect::<Vec<_>>()[..] else {
        panic!("one release profile: {sections:?}")
    };
    assert_eq!(settings(release.1), ["panic = \"unwind\""]);
    // cargo-lambda's `--config` goes before this file.
    assert_eq!(settings(&read(".cargo/config.toml")), ["[profile.release]", "lto = \"off\""]);
    // What takes time at run time is optimised as far as it goes. The others are run through once for a call (decision
    // 15) or more rarely, or are no part of a function.
    let once = [
        "aws-config",
        "aws-sdk-dynamodb",
        "aws-sdk-sqs",
        "aws-smithy-http-client",
        "lambda_runtime_api_client",
        "reqwest",
        "usher-doorkeeper",
        "usher-lambda",
        "usher-store",
    ];
    let elsewhere = [
        "clap_builder",
        "dynoxide-rs",
        "libsqlite3-sys",
        "usher",
        "usher-fuzz",
        "usher-localnet",
        "usher-simulation",
        "usher-tests",
    ];
    let rarely = ["cloudformation", "kms", "secretsmanager", "sso", "ssooidc", "sts"];
    let levels = once.iter().chain(&elsewhere).map(|package| ((*package).to_owned(), 1));
    let levels = levels.chain(rarely.map(|sdk| (format!("aws-sdk-{sdk}"), 0)));
    let mut expected: BTreeMap<String, String> =
        levels.map(|(package, level)| (package, format!("opt-level = {level}"))).collect();
    expected.insert("usher-xmtp".to_owned(), "codegen-units = 1".to_owned());
    let found: BTreeMap<String, String> = sections
        .iter()
        .filter_map(|(of, text)| Some((of.strip_prefix(".package.")?.to_owned(), settings(text).join(", "))))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_tools_that_build_it_are_pinned() {
    let requirements = read("tests/requirements.txt");
    for tool in ["aws-sam-cli", "cargo-lambda", "ziglang"] {
        let line = requirements.lines().find_map(|line| line.strip_prefix(tool)?.strip_prefix("=="));
        assert!(line.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit())), "{tool}");
    }
}
