//! Documents, and that the schema tells them apart as the code does.

use std::path::Path;

use serde_json::Value;
use usher_domain::ChainId;

use super::*;

const CHAINS: &str =
    r#""version":1,"chains":{"31337":{"trust":"queue","factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}}"#;

fn schema() -> jsonschema::Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

fn with(more: &str) -> String {
    format!("{{{CHAINS}{more}}}")
}

fn problem(text: &str) -> String {
    Document::parse(text).unwrap_err().to_string()
}

/// Documents that are fine.
fn good() -> Vec<String> {
    let inbox = "a3".repeat(32);
    let wallet = format!("0x{}", "ab".repeat(20));
    vec![
        with(""),
        r#"{"version":1,"chains":{}}"#.to_owned(),
        with(r#","$schema":"./config.schema.json""#),
        with(r#","policy":{}"#),
        with("").replace(r#""trust":"queue","#, r#""trust":"queue","start_block":7,"#),
        with("").replace(r#""trust":"queue","#, r#""rpc_secret":"arn:aws:secretsmanager:us-east-1:1:secret:a","#),
        with("").replace(
            r#""trust":"queue","#,
            r#""trust":"rpc","rpc_secret":"arn:aws:secretsmanager:us-east-1:1:secret:a","confirmations":12,"start_block":7,"wrappers":["0x00000000000000000000000000000000000000cc"],"#,
        ),
        with(r#","policy":{"creator_role":"super_admin","seats_per_room":50}"#),
        with(r#","rate_limits":null"#),
        with(
            r#","rate_limits":{"publish":{"max_tokens":30,"per_minute":6},"default":{"max_tokens":200,"per_minute":40}}"#,
        ),
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.sample.json")).unwrap(),
        with(&format!(r#","moderators":["{wallet}"],"bans":["{inbox}","0x{}"]"#, "cd".repeat(20))),
    ]
}

/// Documents that are not, with a part of what is said of them.
fn bad() -> Vec<(String, &'static str)> {
    let of_chain = |chain: &str| format!(r#"{{"version":1,"chains":{{"1":{chain}}}}}"#);
    vec![
        ("{}".to_owned(), "missing field `version`"),
        (r#"{"version":1}"#.to_owned(), "missing field `chains`"),
        (with("").replace("\"version\":1", "\"version\":2"), "version 2 is not known; this usher reads 1"),
        (with(r#","rooms":1"#), "unknown field `rooms`"),
        (with(r#","policy":{"creator_role":"owner"}"#), "unknown variant `owner`"),
        (with(r#","policy":{"seats_per_room":251}"#), "between 2 and 250"),
        (with(r#","policy":{"seats_per_room":1}"#), "between 2 and 250"),
        (with(r#","policy":{"seats":9}"#), "unknown field `seats`"),
        (with(r#","moderators":["alice"]"#), "\"alice\" is not a wallet"),
        (with(&format!(r#","moderators":["{}"]"#, "a3".repeat(32))), "moderators are named by wallets, not inbox a3a3"),
        (with(r#","bans":["alice"]"#), "\"alice\" is not a wallet (0x and 40 hex digits) or an inbox id"),
        (
            with(
                r#","rate_limits":{"publish":{"max_tokens":0,"per_minute":6},"default":{"max_tokens":1,"per_minute":1}}"#,
            ),
            "nothing could ever be done",
        ),
        (with(r#","rate_limits":{"publish":{"max_tokens":1,"per_minute":6}}"#), "missing field `default`"),
        (
            of_chain(r#"{"trust":"rpc","factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}"#),
            "trust \"rpc\" needs `rpc_secret`",
        ),
        (
            of_chain(
                r#"{"rpc_secret":"https://rpc.example/key","factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}"#,
            ),
            "not the ARN of an AWS Secrets Manager secret",
        ),
        (
            of_chain(
                r#"{"rpc_secret":"arn:aws:secretsmanager:us-east-1:1:secret:a","confirmations":0,"factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}"#,
            ),
            "`confirmations` counts a log's own block",
        ),
        (
            of_chain(
                r#"{"trust":"queue","confirmations":2,"factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}"#,
            ),
            "nobody would look at",
        ),
        (of_chain(r#"{"trust":"queue","factories":[]}"#), "no factory is configured"),
        (
            of_chain(r#"{"trust":"queue","factories":["0x0000000000000000000000000000000000000000"]}"#),
            "the zero address is not a factory",
        ),
        (of_chain(r#"{"trust":"queue","factories":["0x5fbd"]}"#), "line 1 column"),
        (of_chain(r#"{"trust":"queue"}"#), "missing field `factories`"),
    ]
}

#[test]
fn good_documents_are_read_and_fit_the_schema() {
    let schema = schema();
    for text in good() {
        let document = Document::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(schema.is_valid(&serde_json::from_str(&text).unwrap()), "{text}");
        let written = document.to_string();
        assert_eq!(Document::parse(&written).unwrap().to_string(), written);
        assert!(schema.is_valid(&serde_json::from_str(&written).unwrap()), "{written}");
    }
}

#[test]
fn bad_documents_say_what_and_where_and_do_not_fit_the_schema() {
    let schema = schema();
    for (text, expected) in bad() {
        let said = problem(&text);
        assert!(said.contains(expected) && said.contains("line 1 column"), "{text}: {said}");
        assert!(!schema.is_valid(&serde_json::from_str(&text).unwrap()), "{text} fits the schema");
    }
    // What a schema cannot tell.
    let wallet = format!("0x{}", "ab".repeat(20));
    assert!(problem(&with(&format!(r#","moderators":["{wallet}"],"bans":["{wallet}"]"#))).contains("and banned"));
    assert!(problem(&with(&" ".repeat(DOCUMENT_BYTES_MAX))).contains("bytes"));
    let many: Vec<String> = (0..3_800).map(|number| format!("\"{number:064x}\"")).collect();
    let many = with(&format!(r#","bans":[{}]"#, many.join(",")));
    assert!(many.len() < DOCUMENT_BYTES_MAX && problem(&many).contains("bytes"), "what is stored is longer");
    assert!(problem("{\n  \"version\": 1,\n  chains").contains("line 3 column 3"));
}

#[test]
fn what_is_said_comes_to_pass() {
    let settings = |text: &str| Settings::from(Document::parse(text).unwrap());
    let plain = settings(&with(""));
    assert!(plain.chains.get(ChainId(31337)).is_some());
    assert_eq!(plain.policy.creator_role, CreatorRole::Admin);
    assert_eq!(plain.policy.limits, Limits::default());
    assert_eq!(plain.rate_limits, Some(RateLimits::default()), "those of the hosted networks");

    let inbox = "a3".repeat(32);
    let told = settings(&with(&format!(
        r#","policy":{{"creator_role":"super_admin","seats_per_room":50}},"rate_limits":null,
        "moderators":["0x{}"],"bans":["{inbox}"]"#,
        "ab".repeat(20),
    )));
    assert_eq!(told.policy.creator_role, CreatorRole::SuperAdmin);
    assert_eq!(told.policy.limits.seats_per_room, 50);
    assert_eq!(told.policy.moderators, [Address::repeat_byte(0xab)].into());
    assert_eq!(told.policy.bans, [Person::Inbox(inbox.parse().unwrap())].into());
    assert_eq!(told.rate_limits, None);
}

#[test]
fn the_schema_offers_nothing_that_is_not_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut offered: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    offered.retain(|name| *name != "$schema");
    let document = serde_json::to_value(Document::parse(&with("")).unwrap()).unwrap();
    let mut read: Vec<&String> = document.as_object().unwrap().keys().collect();
    offered.sort();
    read.sort();
    assert_eq!(offered, read);
}
