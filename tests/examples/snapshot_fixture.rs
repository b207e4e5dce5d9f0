//! Writes a fixture of the snapshot format of today: `cargo run -p usher-tests --example snapshot_fixture -- <folder>`.
//! The folder must be there and empty.

use std::{fs, path::PathBuf, time::Duration};

use usher_doorkeeper::{Converged, RoomStatus};
use usher_store::{Owner, Save, Table as _, table::Query};
use usher_tests::{
    fixture::{Fixture, KEY_FILE, LARGE, Replay, large_state},
    world::{AnyError, World, sample_facts},
};
use usher_xmtp::GroupId;

const EVENT: &str = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AnyError> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("which folder?")?);
    if fs::read_dir(&folder)?.next().is_some() {
        return Err("the folder is not empty: a fixture is not overwritten".into());
    }
    let origin = World::start().await?;
    let (_creator, mut alice, bob) = (origin.person(0).await?, origin.person(1).await?, origin.person(2).await?);
    for file in ["01-mint.json", "02-purchase-alice.json"] {
        origin.invoke(file, &sample_facts(file)).await?;
    }
    let purchase = sample_facts("03-purchase-bob.json");
    let world = killed_before_publishing(&origin, &purchase).await?;
    let event = world.store().event(&EVENT.parse()?).await?.ok_or("no event")?;
    let [room] = &event.rooms[..] else { return Err("not one room".into()) };
    let snapshots = world.parts().await?.snapshots;
    let large = large_state();
    let save = Save { fence: 1, expected_version: 0, plaintext: &large, status: "large", side_writes: Vec::new() };
    snapshots.save(&Owner::Room(LARGE), save).await?;
    let mut items = Vec::new();
    for owner in ["deployment".to_owned(), Owner::Account.to_string(), Owner::Room(room.group).to_string()] {
        items.extend(world.table.query(&Query::all(owner)).await?);
    }
    items.extend(world.table.query(&Query::all(Owner::Room(LARGE).to_string())).await?);

    // What comes next: Alice says something in the old epoch, then the stored commit is published.
    let group = GroupId(room.group.0);
    alice.sync().await?;
    alice.send_text(group, "before the commit").await?;
    world.clock.advance(Duration::from_secs(60));
    let ended = world.sweep("sweep").await?;
    if !matches!(ended[..], [Converged::Done { .. }]) {
        return Err(format!("the commit is not ended: {ended:?}").into());
    }
    let status = snapshots.load(&Owner::Room(room.group)).await?.ok_or("no snapshot")?.status;
    let status: RoomStatus = serde_json::from_str(&status)?;
    let seats = status.seats.iter().map(|seat| seat.inbox.parse()).collect::<Result<Vec<_>, _>>()?;
    if !seats.contains(&bob.inbox()?) {
        return Err("Bob is not in".into());
    }
    let network = world.parts().await?.network;
    let cursor = items.iter().find_map(|item| match item.get("status") {
        Some(usher_store::table::Value::Text(status)) => serde_json::from_str::<RoomStatus>(status).ok(),
        _ => None,
    });
    let cursor = cursor.ok_or("no status")?.cursor;
    let network = Replay::record(&*network, group, cursor, &seats).await?;
    Fixture { items, network }.write(&folder)?;
    fs::copy(world.key_file(), folder.join(KEY_FILE))?;
    Ok(())
}

/// A world whose usher has stored the commit of these facts and was killed before it was published.
async fn killed_before_publishing(origin: &World, facts: &[usher_domain::Fact]) -> Result<World, AnyError> {
    for call in 0.. {
        let world = origin.fork().await?;
        world.killer.arm(call, false);
        tokio::select! {
            result = world.invoke("victim", facts) => { result?; return Err("it publishes nothing".into()) }
            () = world.killer.killed() => {}
        }
        let last = world.killer.calls().pop();
        world.killer.disarm();
        if last.as_deref() == Some("send_group_messages") {
            return Ok(world);
        }
    }
    unreachable!("there are not so many calls")
}
