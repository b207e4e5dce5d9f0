//! The sweep against a table in memory.

use usher_store::{
    event::event_key,
    table::{Step, Write},
};

use super::*;
use crate::{
    handle_queue,
    testing::{NOW_MS, Rig, Sent, batch, event, invocation, sample},
};

/// A deployment with an id, a key, and the samples' event due.
async fn due(folder: &tempfile::TempDir, nudges: Sent) -> Rig {
    let rig = Rig::with(folder.path().join("data.key"), nudges);
    handle_queue(&rig.usher, sample("mint.event.json"), &invocation(29_000)).await.unwrap();
    rig.usher.store().init_deployment().await.unwrap();
    rig
}

#[test]
fn triggers_are_told_apart() {
    let Trigger::Nudges(batch) = sample("sweep.nudge.json") else { panic!("these are nudges") };
    assert_eq!(read(batch), Nudged { events: [event()].into(), dropped: 0 });
    assert!(matches!(sample("sweep.schedule.json"), Trigger::Schedule(_)));
    for other in [r#"{"source":"aws.s3","detail":{}}"#, "{}", "null"] {
        assert!(serde_json::from_str::<Trigger>(other).is_err(), "{other}");
    }
}

#[test]
fn nudges_are_read_once_each_and_others_dropped() {
    let nudge = Nudge { event: event() }.body();
    assert_eq!(nudge, r#"{"event":"31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0"}"#);
    let nudged = read(batch(&[&nudge, "", "{}", r#"{"event":"31337:0x5f:0"}"#, &nudge]));
    assert_eq!(nudged, Nudged { events: [event()].into(), dropped: 3 });
}

#[tokio::test]
async fn the_clock_nudges_what_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let rig = due(&folder, Sent::default()).await;
    let response = handle(&rig.usher, sample("sweep.schedule.json"), &invocation(29_000)).await.unwrap();
    assert!(response.batch_item_failures.is_empty());
    assert_eq!(*rig.nudges.nudges.lock().unwrap(), [(event(), 0)]);
}

#[tokio::test]
async fn nudges_that_are_not_sent_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let rig = due(&folder, Sent { broken: true, ..Sent::default() }).await;
    let error = handle_schedule(&rig.usher, &invocation(29_000)).await.unwrap_err();
    assert!(matches!(error, SweepError::Nudges { failed: 1, events: 1 }), "{error}");
}

#[tokio::test]
async fn before_initialisation_the_clock_does_nothing() {
    let rig = Rig::new();
    handle_queue(&rig.usher, sample("mint.event.json"), &invocation(29_000)).await.unwrap();
    assert_eq!(handle_schedule(&rig.usher, &invocation(29_000)).await.unwrap(), 0);
    assert!(rig.nudges.nudges.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_nudge_sends_no_nudge_and_no_message_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let rig = due(&folder, Sent::default()).await;
    for left_ms in [0, 29_000] {
        let mut nudges: SqsEvent = sample("sweep.nudge.json");
        nudges.records.extend(batch(&["not a nudge"]).records);
        let response = handle(&rig.usher, Trigger::Nudges(nudges), &invocation(left_ms)).await.unwrap();
        assert!(response.batch_item_failures.is_empty());
        assert!(rig.nudges.nudges.lock().unwrap().is_empty());
        assert!(rig.is_due().await);
    }
}

#[test]
fn of_many_events_each_has_its_turn() {
    let numbered = |number: u32| format!("31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:{number}").parse().unwrap();
    let events: BTreeSet<EventKey> = (0..2_500).map(numbered).collect();
    let turns: Vec<_> = (7..10).map(|turn| portion(&events, 1000, turn)).collect();
    assert!(turns.iter().all(|turn| turn.len() <= 1000));
    assert_eq!(turns.into_iter().flatten().collect::<BTreeSet<_>>(), events);
    assert_eq!(portion(&events, 2_500, 1).len(), 2_500);
    assert_eq!(portion(&events, 0, 5), []);
    assert_eq!(portion(&BTreeSet::new(), 1000, 5), []);
}

#[tokio::test]
async fn a_look_that_runs_out_of_time_says_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let rig = due(&folder, Sent::default()).await;
    let error = handle_schedule(&rig.usher, &invocation(MARGIN_MS)).await.unwrap_err();
    assert!(matches!(error, SweepError::Nudges { failed: 1, events: 1 }), "{error}");
    assert!(rig.is_due().await && rig.nudges.nudges.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_clock_tells_how_old_the_oldest_work_is() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, lines) = due(&folder, Sent::default()).await.metered();
    // The event became due, and its room's commit was stored, before the next fact.
    let mut room: usher_store::RoomRecord = serde_json::from_value(serde_json::json!({
        "number": 1, "group": "00".repeat(16), "succeeds": null, "seen": 0, "state": {"state": "active"},
        "incarnation": rig.usher.store().event(&event()).await.unwrap().unwrap().minted.unwrap().incarnation,
    }))
    .unwrap();
    room.outbox_since_ms = Some(NOW_MS - 2_000);
    let behind = Step::Set("behind_since_ms", (NOW_MS - 3_000).into());
    let writes = [room.write(), Write::update(event_key(&event()), vec![behind])];
    rig.usher.store().table().transact(&writes).await.unwrap();
    handle_queue(&rig.usher, batch(&["junk"]), &invocation(29_000)).await.unwrap();
    lines.taken();

    handle(&rig.usher, sample("sweep.schedule.json"), &invocation(29_000)).await.unwrap();
    let [line] = &lines.taken()[..] else { panic!("one line for one look") };
    // An `init` that stopped half-way left the deployment's id, and no account.
    let told = ["Sweeps", "Due", "OldestDueMs", "OldestOutboxMs", "ParkedCount", "NotInitialised"];
    assert_eq!(told.map(|name| line[name].as_u64().unwrap()), [1, 1, 3_000, 2_000, 1, 1], "{line}");
}

#[tokio::test]
async fn a_look_that_fails_or_that_finds_no_account_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, lines) = due(&folder, Sent { broken: true, ..Sent::default() }).await.metered();
    handle_schedule(&rig.usher, &invocation(29_000)).await.unwrap_err();
    assert_eq!(lines.taken()[0]["Sweeps"], 0);
    let (rig, lines) = Rig::new().metered();
    handle_schedule(&rig.usher, &invocation(29_000)).await.unwrap();
    let line = lines.taken().remove(0);
    assert_eq!((&line["Sweeps"], &line["NotInitialised"]), (&1.into(), &1.into()));
}

#[tokio::test]
async fn a_convergence_tells_its_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, lines) = due(&folder, Sent::default()).await.metered();
    handle(&rig.usher, Trigger::Nudges(sample("sweep.nudge.json")), &invocation(29_000)).await.unwrap();
    let [converged, nudges] = &lines.taken()[..] else { panic!("one line for the event, one for the invocation") };
    assert_eq!((&converged["work"], &converged["outcome"]), (&"converge".into(), &"not_ready".into()));
    assert_eq!(converged["event"], event().to_string());
    assert_eq!((&nudges["work"], &nudges["Messages"], &nudges["left"]), (&"nudges".into(), &1.into(), &1.into()));
}
