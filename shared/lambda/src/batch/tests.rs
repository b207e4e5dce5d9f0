//! Batches against a table in memory.

use usher_store::parked::EXCERPT_BYTES_MAX;

use super::*;
use crate::testing::{Rig, Sent, Trouble, batch, event, invocation, sample};

const ENOUGH_MS: u64 = 29_000;

fn failed(response: &SqsBatchResponse) -> Vec<&str> {
    response.batch_item_failures.iter().map(|failure| failure.item_identifier.as_str()).collect()
}

fn bodies(name: &str) -> Vec<String> {
    let batch: SqsEvent = sample(name);
    batch.records.into_iter().map(|record| record.body.unwrap()).collect()
}

async fn stored(rig: &Rig, batch: SqsEvent) -> Stored {
    let current = rig.usher.current().await.unwrap();
    take_batch(&rig.usher, &current, batch.records, &invocation(ENOUGH_MS)).await.unwrap().0
}

#[tokio::test]
async fn a_batch_is_stored_and_its_events_are_due() {
    let rig = Rig::new();
    let found = stored(&rig, sample("mint.event.json")).await;
    let expected = Stored { messages: 1, facts: 1, ignored: 6, due: [event()].into(), ..Stored::default() };
    assert_eq!(found, expected);
    assert!(rig.is_due().await);
}

#[tokio::test]
async fn what_cannot_be_used_is_parked_and_the_rest_stored() {
    let rig = Rig::new();
    let found = stored(&rig, sample("mint.malformed.json")).await;
    assert_eq!((found.facts, found.parked, found.failed), (1, 2, vec![]));
    assert_eq!(rig.usher.store().parked(10).await.unwrap().len(), 2);
    assert!(rig.is_due().await);

    let again = stored(&rig, sample("mint.malformed.json")).await;
    assert_eq!((again.parked, again.due), (2, [].into()), "nothing new");
    assert_eq!(rig.usher.store().parked(10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_facts_failure_is_its_messages_alone() {
    let rig = Rig::new();
    let mint = &bodies("mint.event.json")[0];
    let [of_known, of_unknown] =
        ["purchase.issue.json", "purchase.unknown-kiosk.json"].map(|name| bodies(name).remove(0));
    rig.table.order("b7a5bd0345ef1cc5e66bf61bdec17d2461fbd968", Trouble::Fails);
    let response = handle_queue(&rig.usher, batch(&[&of_unknown, mint, &of_known]), &invocation(ENOUGH_MS)).await;
    assert_eq!(failed(&response.unwrap()), ["m0"]);
    let kiosk = usher_domain::KioskKey { chain: event().chain, address: mint_kiosk(&rig).await };
    assert_eq!(rig.usher.store().tickets(&kiosk).await.unwrap().len(), 1);
}

async fn mint_kiosk(rig: &Rig) -> alloy_primitives::Address {
    rig.usher.store().event(&event()).await.unwrap().unwrap().minted.unwrap().incarnation.kiosk
}

#[tokio::test]
async fn what_cannot_be_parked_comes_again() {
    let rig = Rig::new();
    rig.table.order("parked", Trouble::Fails);
    let response = handle_queue(&rig.usher, batch(&["{", &bodies("mint.event.json")[0]]), &invocation(ENOUGH_MS)).await;
    assert_eq!(failed(&response.unwrap()), ["m0"]);
    assert!(rig.is_due().await);
}

#[tokio::test]
async fn a_panic_is_its_messages_failure() {
    let rig = Rig::new();
    rig.table.order("parked", Trouble::Panics);
    rig.table.order("b7a5bd0345ef1cc5e66bf61bdec17d2461fbd968", Trouble::Panics);
    let (mint, unknown) = (&bodies("mint.event.json")[0], &bodies("purchase.unknown-kiosk.json")[0]);
    let found = stored(&rig, batch(&[unknown, "{", mint])).await;
    assert_eq!(found.failed, ["m0", "m1"]);
    assert!(rig.is_due().await);
}

#[tokio::test]
async fn a_message_without_an_id_fails_the_batch_before_anything_is_done() {
    let rig = Rig::new();
    for id in [None, Some(String::new())] {
        let mut batch = batch(&[&bodies("mint.event.json")[0], "{"]);
        batch.records[1].message_id = id;
        let response = handle_queue(&rig.usher, batch, &invocation(ENOUGH_MS)).await;
        assert_eq!(response.unwrap_err(), NoMessageId { index: 1 });
        assert!(rig.table.inner.dump().is_empty());
    }
}

#[tokio::test]
async fn a_huge_body_is_parked_in_part_and_says_so() {
    let rig = Rig::new();
    // A topic that is none is quoted by the reason as well.
    let topic = "x".repeat(600_000);
    let body = format!(r#"{{"chainId":31337,"log":{{"topics":["{topic}"]}}}}"#);
    assert_eq!(stored(&rig, batch(&[&body])).await.parked, 1);
    let parked = rig.usher.store().parked(10).await.unwrap().remove(0);
    assert_eq!(parked.excerpt.len(), EXCERPT_BYTES_MAX);
    assert!(parked.reason.len() < 2 * PARKED_REASON_BYTES_MAX, "{}", parked.reason.len());
    assert!(parked.reason.contains("are kept"), "{}", parked.reason);
}

#[tokio::test]
async fn a_log_its_sister_and_its_retraction_are_parked_apart() {
    let rig = Rig::new();
    let log = |hash: u8, removed: bool| {
        format!(
            r#"{{"chainId":1,"log":{{"address":"0x5fbdb2315678afecb367f032d93f642f64180aa3","topics":["0x8c8fd3da31954f4657d981e2a89ea3421ef5d7bfa0998012eaff5f24a61a867a"],"data":"0x","blockNumber":1,"blockHash":"0x{}","transactionHash":"0x{}","logIndex":0,"removed":{removed}}}}}"#,
            hex::encode([hash; 32]),
            hex::encode([7; 32]),
        )
    };
    let logs = [log(1, false), log(2, false), log(2, true), log(2, true)];
    assert_eq!(stored(&rig, batch(&logs.each_ref().map(String::as_str))).await.parked, 4);
    assert_eq!(rig.usher.store().parked(10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn before_initialisation_facts_are_stored_and_nothing_else() {
    let rig = Rig::new();
    let response = handle_queue(&rig.usher, sample("mint.event.json"), &invocation(ENOUGH_MS)).await.unwrap();
    assert_eq!(failed(&response), [""; 0]);
    assert!(rig.is_due().await);
    assert!(rig.usher.store().deployment().await.unwrap().is_none(), "functions initialise nothing");
    assert!(rig.nudges.nudges.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_key_that_cannot_be_used_fails_no_message() {
    let rig = Rig::new();
    rig.usher.store().init_deployment().await.unwrap();
    assert!(rig.usher.doorkeeper().await.is_err());
    let response = handle_queue(&rig.usher, sample("mint.event.json"), &invocation(ENOUGH_MS)).await.unwrap();
    assert_eq!(failed(&response), [""; 0]);
    assert!(rig.is_due().await);
}

#[tokio::test]
async fn an_event_without_time_left_is_nudged_once() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::with(folder.path().join("data.key"), Sent::default());
    rig.usher.store().init_deployment().await.unwrap();
    let response = handle_queue(&rig.usher, sample("mint.event.json"), &invocation(9_000)).await.unwrap();
    assert_eq!(failed(&response), [""; 0]);
    assert_eq!(*rig.nudges.nudges.lock().unwrap(), [(event(), 0)]);
    assert!(rig.is_due().await);
}

#[tokio::test]
async fn an_event_is_left_due_while_there_is_no_account() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::with(folder.path().join("data.key"), Sent::default());
    rig.usher.store().init_deployment().await.unwrap();
    let current = rig.usher.current().await.unwrap();
    let tally = converge_all(&rig.usher, &current, &[event()].into(), &invocation(ENOUGH_MS), Cause::Fact).await;
    assert_eq!((tally.done, tally.held, tally.left), (0, 0, 1));
    assert!(rig.nudges.nudges.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_invocation_tells_what_became_of_its_messages() {
    let (rig, lines) = Rig::new().metered();
    rig.table.order("b7a5bd0345ef1cc5e66bf61bdec17d2461fbd968", Trouble::Fails);
    let mut batch = batch(&[&bodies("purchase.unknown-kiosk.json")[0], &bodies("mint.event.json")[0], "junk"]);
    for (record, sent_ms) in batch.records.iter_mut().zip([7_000, 4_000, 5_000]) {
        let sent_ms = crate::testing::NOW_MS - sent_ms;
        record.attributes.insert("SentTimestamp".into(), sent_ms.to_string());
    }
    handle_queue(&rig.usher, batch, &invocation(ENOUGH_MS)).await.unwrap();
    let [line] = &lines.taken()[..] else { panic!("one line for one invocation") };
    let told = ["Messages", "MessagesFailed", "Facts", "Ignored", "Parked", "QueueMs", "events", "left"];
    let numbers = told.map(|name| line[name].as_u64().unwrap());
    assert_eq!(numbers, [3, 1, 2, 6, 1, 7_000, 1, 1], "{line}");
    assert_eq!((&line["Stage"], &line["work"], &line["invocation"]), (&"test".into(), &"batch".into(), &"i1".into()));
}

#[tokio::test]
async fn what_is_too_much_for_a_kiosk_that_nobody_announced_is_told() {
    let (rig, lines) = Rig::new().metered();
    let mut body: serde_json::Value = serde_json::from_str(&bodies("purchase.unknown-kiosk.json")[0]).unwrap();
    let log = body.as_object_mut().unwrap().remove("log").unwrap();
    let of_ticket = |ticket: u64| {
        let mut log = log.clone();
        log["topics"][3] = format!("{ticket:#066x}").into();
        log["logIndex"] = format!("{ticket:#x}").into();
        log
    };
    body["logs"] = (0..=usher_store::waiting::WAITING_MAX).map(of_ticket).collect();
    let response = handle_queue(&rig.usher, batch(&[&body.to_string()]), &invocation(ENOUGH_MS)).await.unwrap();
    assert_eq!(failed(&response), [""; 0], "again it would be no better");
    let [line] = &lines.taken()[..] else { panic!("one line for one invocation") };
    assert_eq!(
        (&line["Facts"], &line["Dropped"]),
        (&(usher_store::waiting::WAITING_MAX + 1).into(), &1.into()),
        "{line}"
    );
}

#[tokio::test]
async fn what_is_ignored_is_counted_by_the_reason() {
    let rig = Rig::new();
    let current = rig.usher.current().await.unwrap();
    let mut elsewhere: serde_json::Value = sample("logs/01-mint.json");
    for log in elsewhere["logs"].as_array_mut().unwrap() {
        log["address"] = "0x00000000000000000000000000000000000000aa".into();
    }
    let record = batch(&[&elsewhere.to_string()]).records.remove(0);
    let message = read_message(&rig.usher.store, &current.settings.chains, ("m0".into(), record)).await;
    assert_eq!(message.ignored.get("unconfigured_factory"), Some(&1), "{:?}", message.ignored);
}
