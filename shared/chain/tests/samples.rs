//! Every file in events/ says what events/README.md says it does.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails as they do")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use alloy_primitives::{Address, U256, address};
use aws_lambda_events::event::sqs::SqsEvent;
use serde_json::{Value, json};
use usher_chain::{Chains, Fact, Reading, read};
use usher_domain::{EventKey, TicketKey, What, event, ticket};

const CREATOR: Address = address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
const ALICE: Address = address!("70997970C51812dc3A010C7d01b50e0d17dc79C8");
const BOB: Address = address!("3C44CdDdB6a900fa2b585dd299e03d12FA4293BC");
const CAROL: Address = address!("90F79bf6EB2c4f870365E785982E1f101E93b906");
const DAVE: Address = address!("15d34AAf54267DB7D7c367839AAF71A00a2C6A65");
const ERIN: Address = address!("9965507D1a55bcC2695C58ba16FB37d819B0A4dc");
const NOBODY: Address = Address::ZERO;
const KIOSK: Address = address!("a16e02e87b7454126e5e10d957a927a7f5b5d2be");
const ELSEWHERE: Address = address!("b7a5bd0345ef1cc5e66bf61bdec17d2461fbd968");
const EVENT: &str = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_else(|e| panic!("events/{name}: {e}"))
}

fn chains() -> Chains {
    let factory = EVENT.parse::<EventKey>().unwrap().factory;
    serde_json::from_value(json!({"31337": {"trust": "queue", "factories": [factory]}})).unwrap()
}

/// The bodies of a sample: of an envelope itself, of an SQS event its records'.
fn bodies(name: &str) -> Vec<String> {
    if name.starts_with("logs/") {
        return vec![text(name)];
    }
    let event = serde_json::from_str::<SqsEvent>(&text(name)).unwrap_or_else(|e| panic!("events/{name}: {e}"));
    let queue = if name.starts_with("sweep.") { "nudge" } else { name.split('.').next().unwrap() };
    let mut ids = BTreeSet::new();
    for record in &event.records {
        let arn = record.event_source_arn.as_deref().unwrap();
        assert!(arn.ends_with(&format!(":usher-{queue}")), "events/{name}: {arn}");
        assert!(ids.insert(record.message_id.clone().unwrap()), "events/{name}: a message id twice");
    }
    event.records.into_iter().map(|record| record.body.unwrap()).collect()
}

fn readings(name: &str) -> Vec<Reading> {
    bodies(name).iter().flat_map(|body| read(body, &chains())).collect()
}

fn facts(name: &str) -> Vec<Fact> {
    let fact = |reading| if let Reading::Fact(fact) = reading { Some(fact) } else { None };
    readings(name).into_iter().filter_map(fact).collect()
}

fn logs() -> Vec<String> {
    let mut names = samples().into_iter().filter(|name| name.starts_with("logs/")).collect::<Vec<_>>();
    names.sort();
    names
}

fn samples() -> BTreeSet<String> {
    let list = |folder: PathBuf, prefix: &str| {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".json")).map(|name| format!("{prefix}{name}")).collect::<Vec<_>>()
    };
    list(folder(), "").into_iter().chain(list(folder().join("logs"), "logs/")).collect()
}

#[test]
fn the_readme_lists_every_sample_with_what_it_reads_as() {
    let readme = text("README.md");
    let mut listed = BTreeSet::new();
    for row in readme.lines().filter(|line| line.contains(".json`") && line.starts_with("| `")) {
        let cells = row.split('|').map(str::trim).collect::<Vec<_>>();
        let file = cells[1].trim_matches('`');
        let name = if file.as_bytes()[0].is_ascii_digit() { format!("logs/{file}") } else { file.to_owned() };
        if !name.starts_with("sweep.") {
            let mut counts = [0; 3];
            for reading in readings(&name) {
                counts[match reading {
                    Reading::Fact(_) => 0,
                    Reading::Ignored(_) => 1,
                    Reading::Parked(_) => 2,
                }] += 1;
            }
            assert_eq!(counts.map(|count: u32| count.to_string()), cells[3..6], "events/{name}");
        }
        listed.insert(name);
    }
    assert_eq!(listed, samples());
}

#[test]
fn each_sample_says_what_its_name_says() {
    let moved = |id: u64, from, to| What::TicketTransferred { token_id: U256::from(id), from, to };
    let sold = |id: u64, buyer| What::TicketMinted { token_id: U256::from(id), buyer };
    let refund = What::TicketRefunded { token_id: U256::ONE, holder: ALICE };
    for (name, emitter, expected) in [
        ("logs/02-purchase-alice.json", KIOSK, vec![moved(1, NOBODY, ALICE), sold(1, ALICE)]),
        ("logs/03-purchase-bob.json", KIOSK, vec![moved(2, NOBODY, BOB), sold(2, BOB)]),
        ("logs/04-purchase-carol.json", KIOSK, vec![moved(3, NOBODY, CAROL), sold(3, CAROL)]),
        ("logs/05-purchase-dave.json", KIOSK, vec![moved(4, NOBODY, DAVE), sold(4, DAVE)]),
        ("logs/06-resale-bob-to-erin.json", KIOSK, vec![moved(2, BOB, ERIN)]),
        ("logs/07-refund-alice.json", KIOSK, vec![refund.clone()]),
        ("logs/08-burn-carol.json", KIOSK, vec![moved(3, CAROL, NOBODY)]),
        ("logs/09-retraction-dave.json", KIOSK, vec![moved(4, NOBODY, DAVE), sold(4, DAVE)]),
        ("logs/10-duplicate.json", KIOSK, vec![moved(1, NOBODY, ALICE)]),
        ("logs/11-unknown-kiosk.json", ELSEWHERE, vec![moved(1, NOBODY, ALICE), sold(1, ALICE)]),
        ("logs/12-malformed.json", KIOSK, vec![moved(9, NOBODY, CREATOR)]),
        ("purchase.issue.json", KIOSK, vec![moved(1, NOBODY, ALICE), sold(1, ALICE)]),
        ("purchase.resale.json", KIOSK, vec![moved(2, BOB, ERIN)]),
        ("purchase.unknown-kiosk.json", ELSEWHERE, vec![moved(1, NOBODY, ALICE)]),
        ("refund.refund.json", KIOSK, vec![refund]),
        ("refund.burn.json", KIOSK, vec![moved(3, CAROL, NOBODY)]),
        ("refund.resale.json", KIOSK, vec![moved(2, BOB, ERIN)]),
        ("refund.retraction.json", KIOSK, vec![moved(4, NOBODY, DAVE), sold(4, DAVE)]),
    ] {
        let facts = facts(name);
        assert!(facts.iter().all(|fact| fact.emitter == emitter), "events/{name}");
        assert!(facts.iter().all(|fact| fact.retracted == name.contains("retraction")), "events/{name}");
        assert!(!name.starts_with("refund.") || facts.iter().all(Fact::is_loss), "events/{name}");
        assert_eq!(facts.into_iter().map(|fact| fact.what).collect::<Vec<_>>(), expected, "events/{name}");
    }
    assert_eq!(facts("logs/09-retraction-dave.json"), facts("refund.retraction.json"));
    assert!(facts("logs/02-purchase-alice.json").contains(&facts("logs/10-duplicate.json")[0]));
}

#[test]
fn the_mints_name_the_event_its_creator_and_its_kiosk() {
    for name in ["logs/01-mint.json", "mint.event.json", "mint.duplicate.json", "mint.malformed.json"] {
        for fact in facts(name) {
            let incarnation = fact.incarnation().unwrap();
            assert_eq!(incarnation.event.to_string(), EVENT, "events/{name}");
            assert_eq!((incarnation.creator, incarnation.kiosk), (CREATOR, KIOSK), "events/{name}");
            let What::EventMinted(mint) = fact.what else { panic!("events/{name}: {:?}", fact.what) };
            assert_eq!((mint.start_s, mint.art_category.as_str()), (1_900_000_000, "Performance Art"));
            assert!(mint.metadata_uri.starts_with("ipfs://"));
        }
    }
    let twice = facts("mint.duplicate.json");
    assert_eq!(twice[0], twice[1]);
}

#[test]
fn what_is_parked_says_why() {
    let reasons = |name| {
        let reason =
            |reading| if let Reading::Parked(parked) = reading { Some(parked.reason.to_string()) } else { None };
        readings(name).into_iter().filter_map(reason).collect::<Vec<_>>()
    };
    let malformed = reasons("logs/12-malformed.json");
    for (reason, why) in malformed.iter().zip(["JSON object", "3 topics, not 4", "EventCreated", "Transfer", "pending"])
    {
        assert!(reason.contains(why), "{reason} / {why}");
    }
    let [not_json, truncated] = &reasons("mint.malformed.json")[..] else { panic!("two are parked") };
    assert!(not_json.contains("not JSON") && truncated.contains("does not decode"), "{not_json} / {truncated}");
}

#[test]
fn the_story_ends_the_same_in_any_order() {
    let mut told = logs().iter().flat_map(|name| facts(name)).collect::<Vec<_>>();
    for _ in 0..2 {
        let mut tickets = BTreeMap::<TicketKey, Vec<Fact>>::new();
        for fact in &told {
            if let Some(ticket) = fact.ticket().filter(|ticket| ticket.kiosk.address == KIOSK) {
                tickets.entry(ticket).or_default().push(fact.clone());
            }
        }
        let holders = tickets
            .iter()
            .map(|(ticket, facts)| (ticket.token_id.to::<u64>(), ticket::fold(facts)))
            .filter(|(id, holding)| *id < 9 && !holding.disputed)
            .map(|(id, holding)| (id, holding.holder))
            .collect::<Vec<_>>();
        assert_eq!(holders, [(1, None), (2, Some(ERIN)), (3, None), (4, None)]);
        assert_eq!(event::fold(&told).current.unwrap().incarnation.creator, CREATOR);
        told.reverse();
    }
}

#[test]
fn sweep_is_told_by_a_nudge_or_by_the_clock() {
    let nudge = serde_json::from_str::<Value>(&bodies("sweep.nudge.json")[0]).unwrap();
    assert_eq!(nudge, json!({"event": EVENT}));
    let schedule = serde_json::from_str::<Value>(&text("sweep.schedule.json")).unwrap();
    assert_eq!((&schedule["source"], &schedule["detail-type"]), (&json!("aws.events"), &json!("Scheduled Event")));
    assert_eq!(schedule["detail"], json!({}));
    assert!(schedule.get("Records").is_none());
}
