//! What becomes of bodies and logs, good and bad.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails as they do")]

use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, U256, keccak256};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use usher_chain::{Chains, Ignored, ParkName, Parked, Reading, Reason, read};
use usher_domain::{ChainId, What};

const FACTORY: &str = "0x5fbdb2315678afecb367f032d93f642f64180aa3";
const KIOSK: &str = "0xa16e02e87b7454126e5e10d957a927a7f5b5d2be";
const ALICE: Address = Address::repeat_byte(0xa1);

fn chains() -> Chains {
    serde_json::from_value(json!({"31337": {"trust": "queue", "factories": [FACTORY]}, "1328": {"trust": "queue", "factories": [FACTORY]}}))
        .unwrap()
}

fn log(emitter: &str, signature: &str, indexed: &[B256], log_index: u64) -> Value {
    let topics = [&[keccak256(signature)], indexed].concat();
    json!({
        "address": emitter, "topics": topics, "data": "0x",
        "blockNumber": "0x12", "blockHash": B256::repeat_byte(0xbb),
        "transactionHash": B256::repeat_byte(0x77), "logIndex": format!("{log_index:#x}"), "removed": false,
    })
}

fn transfer(emitter: &str, log_index: u64) -> Value {
    let indexed = [B256::ZERO, ALICE.into_word(), U256::from(log_index).into()];
    log(emitter, "Transfer(address,address,uint256)", &indexed, log_index)
}

fn read_one(chain: u64, log: &Value) -> Reading {
    let mut readings = read(&json!({"chainId": chain, "log": log}).to_string(), &chains());
    assert_eq!(readings.len(), 1);
    readings.remove(0)
}

#[track_caller]
fn parked(reading: Reading) -> Parked {
    let Reading::Parked(parked) = reading else { panic!("not parked: {reading:?}") };
    parked
}

/// `transfer(KIOSK, 5)` with one member changed, or taken away.
fn spoilt(name: &str, value: Option<Value>) -> Value {
    let mut log = transfer(KIOSK, 5);
    let members = log.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(name.to_owned(), value),
        None => members.remove(name),
    };
    log
}

#[test]
fn a_ticket_log_is_a_fact_about_its_emitter_as_kiosk() {
    for number in [json!("0x12"), json!(18), json!("18")] {
        let Reading::Fact(fact) = read_one(31337, &spoilt("blockNumber", Some(number))) else { panic!("no fact") };
        assert_eq!(fact.chain, ChainId(31337));
        assert_eq!(fact.emitter, KIOSK.parse::<Address>().unwrap());
        assert_eq!(fact.transaction, B256::repeat_byte(0x77));
        let position = fact.position;
        assert_eq!((position.block_number, position.log_index, position.block_hash), (18, 5, B256::repeat_byte(0xbb)));
        assert!(!fact.retracted);
        assert_eq!(fact.what, What::TicketTransferred { token_id: U256::from(5), from: Address::ZERO, to: ALICE });
    }
}

/// It is measured by and decides nothing, so a bad one spoils nothing.
#[test]
fn when_a_block_was_made_is_noted_if_it_is_said() {
    for (said, noted) in [
        (Some(json!("0x6745a000")), Some(0x6745_a000)),
        (Some(json!(7)), Some(7)),
        (Some(json!("x")), None),
        (Some(json!("0x0")), None),
        (None, None),
    ] {
        let Reading::Fact(fact) = read_one(31337, &spoilt("blockTimestamp", said)) else { panic!("no fact") };
        assert_eq!(fact.block_time_s, noted);
    }
}

#[test]
fn what_was_logged_before_the_start_is_ignored() {
    let chains: Chains =
        serde_json::from_value(json!({"31337": {"trust": "queue", "factories": [FACTORY], "start_block": 18}}))
            .unwrap();
    for (number, ignored) in [("0x11", true), ("0x12", false)] {
        let body = json!({"chainId": 31337, "log": spoilt("blockNumber", Some(json!(number)))}).to_string();
        assert_eq!(read(&body, &chains).remove(0) == Reading::Ignored(Ignored::BeforeStart), ignored, "{number}");
    }
}

#[test]
fn removed_makes_a_retraction() {
    for (removed, retracted) in [(Some(json!(true)), true), (Some(json!(null)), false), (None, false)] {
        let Reading::Fact(fact) = read_one(31337, &spoilt("removed", removed)) else { panic!("no fact") };
        assert_eq!(fact.retracted, retracted);
    }
}

#[test]
fn what_cannot_concern_us_is_ignored() {
    let approval = log(KIOSK, "Approval(address,address,uint256)", &[], 0);
    assert_eq!(read_one(31337, &approval), Reading::Ignored(Ignored::Unrelated));
    assert_eq!(read_one(1, &approval), Reading::Ignored(Ignored::Unrelated));
    let unknown = log(KIOSK, "Unheard(uint256)", &[], 0);
    assert_eq!(read_one(31337, &unknown), Reading::Ignored(Ignored::UnknownTopic));
    assert_eq!(read_one(31337, &spoilt("topics", Some(json!([])))), Reading::Ignored(Ignored::UnknownTopic));
    let spoof = log(KIOSK, "EventCreated(uint256,address,uint256,uint256,string,string,address)", &[], 0);
    assert_eq!(read_one(31337, &spoof), Reading::Ignored(Ignored::UnconfiguredFactory));
    assert_eq!(read_one(31337, &transfer(FACTORY, 0)), Reading::Ignored(Ignored::EventNftMoved));
    let sale = log(FACTORY, "TicketMinted(uint256,address,string,string,uint256)", &[], 0);
    assert_eq!(read_one(31337, &sale), Reading::Ignored(Ignored::FactoryIsNoKiosk));
}

#[test]
fn a_chain_nobody_configured_is_an_error_an_operator_understands() {
    let Parked { name, reason, .. } = parked(read_one(1, &transfer(KIOSK, 5)));
    assert!(reason.to_string().starts_with("chain 1 is not configured (configured: 1328, 31337); "), "{reason}");
    assert_eq!(
        name.to_string(),
        format!("1:{}:5:{}", B256::repeat_byte(0x77), B256::repeat_byte(0xbb)),
        "the log is readable, so it is named"
    );
}

#[test]
fn malformed_logs_are_parked_with_their_reason() {
    for (member, value, why) in [
        ("topics", None, "topics is missing"),
        ("topics", Some(json!(["0x12"])), "topics is malformed"),
        ("address", None, "address is missing"),
        ("address", Some(json!("0x12")), "address is malformed"),
        ("data", None, "data is missing"),
        ("data", Some(json!("0x123")), "data is malformed"),
        ("data", Some(json!("0x00")), "where none belong"),
        ("blockNumber", Some(json!("0x1ffffffffffffffff")), "blockNumber is malformed"),
        ("blockNumber", Some(json!(-1)), "blockNumber is malformed"),
        ("blockNumber", Some(json!(null)), "blockNumber is malformed"),
        ("blockHash", Some(json!(null)), "blockHash is malformed"),
        ("transactionHash", None, "transactionHash is missing"),
        ("logIndex", Some(json!("five")), "logIndex is malformed"),
        ("removed", Some(json!("true")), "removed is malformed"),
    ] {
        let reason = parked(read_one(31337, &spoilt(member, value))).reason.to_string();
        assert!(reason.contains(why), "{member}: {reason}");
    }
    let pending = json!({"blockNumber": null, "blockHash": null, "logIndex": null});
    let mut log = transfer(KIOSK, 5);
    log.as_object_mut().unwrap().extend(pending.as_object().unwrap().clone());
    assert_eq!(parked(read_one(31337, &log)).reason, Reason::Pending);
    assert!(matches!(parked(read_one(31337, &json!(7))).reason, Reason::NotALog(_)));
}

#[test]
fn parked_things_keep_their_names_and_differ_where_they_are_different() {
    let name = |log: &Value| parked(read_one(31337, log)).name;
    let bad = spoilt("address", None);
    assert_eq!(name(&bad), name(&bad));
    assert_eq!(parked(read_one(31337, &bad)).name, {
        let many = json!({"chainId": "0x7a69", "logs": [transfer(KIOSK, 1), bad]}).to_string();
        parked(read(&many, &chains()).remove(1)).name
    });
    let mut others = vec![name(&bad)];
    for (member, value) in [
        ("removed", json!(true)),
        ("logIndex", json!("0x6")),
        ("blockHash", json!(B256::ZERO)),
        ("transactionHash", json!(B256::ZERO)),
        ("blockHash", json!(null)),
    ] {
        let mut other = bad.clone();
        other[member] = value;
        others.push(name(&other));
    }
    let nameless = [spoilt("logIndex", None), spoilt("transactionHash", None), json!(7), json!(8)];
    for log in &nameless {
        assert!(matches!(name(log), ParkName::Digest(_)), "{log}");
    }
    others.extend(nameless.iter().map(name));
    let distinct = others.iter().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(distinct.len(), others.len(), "{others:#?}");
}

#[test]
fn one_bad_log_harms_nobody_else() {
    let logs = json!([transfer(KIOSK, 0), 7, null, spoilt("data", None), [[]], transfer(KIOSK, 1)]);
    let readings = read(&json!({"chainId": 31337, "logs": logs}).to_string(), &chains());
    let shapes = readings.iter().map(|reading| matches!(reading, Reading::Fact(_))).collect::<Vec<_>>();
    assert_eq!(shapes, [true, false, false, false, false, true]);
    assert!(readings[1..5].iter().all(|reading| matches!(reading, Reading::Parked(_))));
}

#[test]
fn ten_thousand_logs_are_read_in_no_time() {
    let logs = (0..10_000).map(|index| transfer(KIOSK, index)).collect::<Vec<_>>();
    let body = json!({"chainId": 31337, "logs": logs}).to_string();
    let started = Instant::now();
    let readings = read(&body, &chains());
    let took = started.elapsed();
    assert_eq!(readings.len(), 10_000);
    for (index, reading) in (0..).zip(&readings) {
        let Reading::Fact(fact) = reading else { panic!("no fact: {reading:?}") };
        assert_eq!(fact.position.log_index, index);
    }
    // Measured at under half a second, unoptimised; what is quadratic takes minutes.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "0x[0-9a-fA-F]{0,66}".prop_map(Value::from),
        Just(json!(FACTORY)),
        Just(json!(B256::repeat_byte(1))),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((member(), inner), 0..5)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn member() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "chainId",
        "log",
        "logs",
        "address",
        "topics",
        "data",
        "blockNumber",
        "blockHash",
        "transactionHash",
        "logIndex",
        "removed",
        "else",
    ])
    .prop_map(str::to_owned)
}

/// Logs of every kind that concerns us, some with a member replaced by anything.
fn any_log() -> impl Strategy<Value = Value> {
    let signature = prop::sample::select(vec![
        "EventCreated(uint256,address,uint256,uint256,string,string,address)",
        "TicketMinted(uint256,address,string,string,uint256)",
        "TicketRefunded(uint256,address,uint256)",
        "Transfer(address,address,uint256)",
        "MetadataUpdate(uint256)",
    ]);
    let word = prop_oneof![Just(ALICE.into_word()), any::<[u8; 32]>().prop_map(B256::from), Just(B256::ZERO)];
    let words = prop::collection::vec(prop_oneof![0..200_u64, any::<u64>()], 0..9)
        .prop_map(|words| words.into_iter().flat_map(|word| U256::from(word).to_be_bytes::<32>()).collect::<Vec<_>>());
    let good = (prop::sample::select(vec![FACTORY, KIOSK]), signature, prop::collection::vec(word, 0..5), words)
        .prop_map(|(emitter, signature, indexed, data)| {
            let mut log = log(emitter, signature, &indexed, 3);
            log["data"] = json!(alloy_primitives::Bytes::from(data));
            log
        });
    let maimed = (good.clone(), member(), any_json()).prop_map(|(mut log, member, value)| {
        log[member] = value;
        log
    });
    prop_oneof![4 => good, 3 => maimed, 1 => any_json()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_text_panics(text in "\\PC*") {
        prop_assert_eq!(read(&text, &chains()).len(), 1);
    }

    #[test]
    fn no_json_panics_and_what_is_parked_reads_the_same_again(body in any_json()) {
        check(&body.to_string())?;
    }

    /// Every log is accounted for exactly once, and by itself: as in a body of its own.
    #[test]
    fn every_log_has_one_reading_of_its_own(logs in prop::collection::vec(any_log(), 0..8), chain in prop::sample::select(vec![1_u64, 31337])) {
        let readings = check(&json!({"chainId": chain, "logs": logs}).to_string())?;
        prop_assert_eq!(readings.len(), logs.len());
        for (log, reading) in logs.iter().zip(readings) {
            prop_assert_eq!(&read_one(chain, log), &reading);
        }
    }
}

/// Reads `body`, and again whatever is parked: it must come back under the same name, for the same reason.
fn check(body: &str) -> Result<Vec<Reading>, TestCaseError> {
    let readings = read(body, &chains());
    for reading in &readings {
        if let Reading::Parked(parked) = reading {
            prop_assert_eq!(read(&parked.body, &chains()), vec![reading.clone()], "{}", parked.reason);
        }
    }
    Ok(readings)
}
