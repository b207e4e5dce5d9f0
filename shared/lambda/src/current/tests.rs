//! What is in force, read from a table in memory.

use std::{sync::Arc, time::Duration};

use aws_lambda_events::event::sqs::SqsEvent;
use usher_domain::ChainId;
use usher_store::{Place, memory::MemoryTable};
use usher_xmtp::V3;

use super::*;
use crate::{
    Adapters, Machine, handle_queue,
    sweep::{self, Trigger},
    testing::{Sent, event, invocation, sample},
};

const DOCUMENT: &str =
    r#"{"version":1,"chains":{"31337":{"trust":"queue","factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}}}"#;

fn usher(folder: &tempfile::TempDir, table: &Arc<MemoryTable>) -> Usher {
    Usher::from_table(Adapters {
        table: table.clone(),
        network: Arc::new(V3::new("http://127.0.0.1:9", Duration::from_secs(1)).unwrap()),
        nudges: Arc::new(Sent::default()),
        data_key: DataKeySource::File(folder.path().join("data.key")),
        clock: Arc::new(Machine),
        randomness: Arc::new(Machine),
    })
}

fn rig() -> (tempfile::TempDir, Arc<MemoryTable>, Usher) {
    let (folder, table) = (tempfile::tempdir().unwrap(), Arc::new(MemoryTable::new()));
    let usher = usher(&folder, &table);
    (folder, table, usher)
}

#[tokio::test]
async fn without_a_configuration_every_message_comes_again_and_is_stored_once_there_is_one() {
    let (_folder, table, usher) = rig();
    let batch: SqsEvent = sample("mint.event.json");
    let id = batch.records[0].message_id.clone().unwrap();
    let response = handle_queue(&usher, batch.clone(), &invocation(29_000)).await.unwrap();
    assert_eq!(response.batch_item_failures.len(), 1);
    assert_eq!(response.batch_item_failures[0].item_identifier, id);
    assert!(table.dump().is_empty(), "nothing is parked, ignored or stored");
    let error = usher.current().await.err().unwrap();
    assert_eq!(error.to_string(), "no configuration: run `usher config put FILE`");

    usher.store().put_configuration(DOCUMENT, None).await.unwrap();
    let response = handle_queue(&usher, batch, &invocation(29_000)).await.unwrap();
    assert!(response.batch_item_failures.is_empty());
    assert!(usher.store().event(&event()).await.unwrap().is_some());
}

#[tokio::test]
async fn the_sweep_says_that_there_is_no_configuration() {
    let (_folder, _table, usher) = rig();
    let swept = sweep::handle(&usher, sample("sweep.schedule.json"), &invocation(29_000)).await;
    assert!(matches!(swept, Err(sweep::SweepError::Open(OpenError::Settings(SettingsError::Missing)))));
    let Trigger::Nudges(nudges) = sample("sweep.nudge.json") else { panic!("these are nudges") };
    let swept = sweep::handle(&usher, Trigger::Nudges(nudges), &invocation(29_000)).await.unwrap();
    assert!(swept.batch_item_failures.is_empty(), "the events are due in the ledger");
}

#[tokio::test]
async fn a_new_revision_is_in_force_at_once_and_an_old_one_is_not_parsed_again() {
    let (_folder, _table, usher) = rig();
    usher.store().put_configuration(DOCUMENT, None).await.unwrap();
    let first = usher.current().await.unwrap();
    assert!(Arc::ptr_eq(&first, &usher.current().await.unwrap()), "the same revision is kept");
    usher.store().put_configuration(&DOCUMENT.replace("31337", "1328"), Some(1)).await.unwrap();
    let second = usher.current().await.unwrap();
    assert!(
        second.settings.chains.get(ChainId(1328)).is_some() && second.settings.chains.get(ChainId(31337)).is_none()
    );
}

#[tokio::test]
async fn who_works_on_rooms_works_by_the_newest_policy() {
    let (_folder, _table, usher) = rig();
    usher.store().init_deployment().await.unwrap();
    usher.store().put_configuration(DOCUMENT, None).await.unwrap();
    let first = usher.doorkeeper().await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &usher.doorkeeper().await.unwrap().unwrap()), "a warm process keeps what it knows");
    usher.store().put_configuration(&DOCUMENT.replace("}}}", "}},\"policy\":{}}"), Some(1)).await.unwrap();
    assert!(!Arc::ptr_eq(&first, &usher.doorkeeper().await.unwrap().unwrap()));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_used_by_nobody() {
    let (_folder, _table, usher) = rig();
    usher.store().put_configuration(DOCUMENT, None).await.unwrap();
    usher.current().await.unwrap();
    usher.store().put_configuration("{}", Some(1)).await.unwrap();
    let error = usher.current().await.err().unwrap();
    assert!(matches!(error, SettingsError::Unusable { revision: 2, .. }), "{error}");
}

fn place(network: &str, table: &str) -> Place {
    Place { network: network.to_owned(), table: table.to_owned() }
}

/// Its room states are of another time: nothing may be committed from them before an operator has said so.
#[tokio::test]
async fn in_a_restored_table_no_room_is_touched() {
    let (folder, table, usher) = rig();
    usher.store().put_configuration(DOCUMENT, None).await.unwrap();
    usher.store().init_deployment().await.unwrap();
    usher.store().bind(&place("dev", "usher")).await.unwrap();
    let restored = self::usher(&folder, &table).at(place("dev", "usher-restored"));
    let error = restored.doorkeeper().await.err().unwrap();
    assert!(error.to_string().contains("`usher recover --begin`"), "{error}");
    let wallet = crate::local_wallet(&folder.path().join("wallet.key"), &Machine).unwrap();
    let error = restored.init(&wallet).await.unwrap_err();
    assert!(matches!(error, crate::SetUpError::Open(OpenError::OtherTable { .. })), "{error}");
    usher.store().table().write(&place("dev", "usher-restored").adopt_table()).await.unwrap();
    assert!(restored.doorkeeper().await.unwrap().is_some());
}

#[tokio::test]
async fn on_another_network_no_room_is_touched() {
    let (folder, table, usher) = rig();
    usher.store().put_configuration(DOCUMENT, None).await.unwrap();
    usher.store().init_deployment().await.unwrap();
    usher.store().bind(&place("dev", "usher")).await.unwrap();
    assert!(usher.doorkeeper().await.unwrap().is_some(), "an usher that is not told where it is cannot know");
    let usher = self::usher(&folder, &table).at(place("production", "usher"));
    let error = usher.doorkeeper().await.err().unwrap();
    assert_eq!(error.to_string(), "the deployment was initialised for XMTP network dev, and this is production");
    let wallet = crate::local_wallet(&folder.path().join("wallet.key"), &Machine).unwrap();
    let error = usher.init(&wallet).await.unwrap_err();
    assert!(matches!(error, crate::SetUpError::Open(OpenError::OtherNetwork { .. })), "{error}");
    assert!(self::usher(&folder, &table).at(place("dev", "usher")).doorkeeper().await.unwrap().is_some());
}
