//! What looking again costs: while a room's head stands, a warm process neither decodes it again nor asks the key service;
//! and ordinary chat is rarely saved.

use std::collections::BTreeSet;

use usher_domain::{EventKey, ports::Clock as _};
use usher_doorkeeper::{Cause, Converged, Doorkeeper};
use usher_localnet::person::Person;
use usher_store::{
    Owner, RoomState, Save, Table,
    table::{Attributes as _, Key, Step, Write},
};
use usher_tests::world::{AnyError, World, sample_facts};
use usher_xmtp::{GroupId, policy::Policies};

type Outcome = Result<(), AnyError>;

fn event() -> EventKey {
    "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse().expect("an event")
}

async fn look(world: &World, doorkeeper: &Doorkeeper) -> Result<Converged, AnyError> {
    Ok(doorkeeper.converge(&event(), "look", world.clock.now_ms() + 25_000, Cause::Nudge).await?)
}

/// A room with its creator and Alice.
async fn with_a_room() -> Result<(World, Person), AnyError> {
    let world = World::start().await?;
    let (_creator, mut alice) = (world.person(0).await?, world.person(1).await?);
    for file in ["01-mint.json", "02-purchase-alice.json"] {
        world.invoke(file, &sample_facts(file)).await?;
    }
    alice.sync().await?;
    Ok((world, alice))
}

/// The room's owner name and how often it was saved.
async fn saved(world: &World) -> Result<(Owner, u64), AnyError> {
    let event = world.store().event(&event()).await?.ok_or("there is the event")?;
    let room = Owner::Room(event.rooms.first().ok_or("there is a room")?.group);
    let head = world.table.get(&Key::new(room.to_string(), "head")).await?.ok_or("the room has a head")?;
    Ok((room, head.number("version").ok_or("the head has a version")?))
}

async fn states(world: &World) -> Result<Vec<RoomState>, AnyError> {
    let record = world.store().event(&event()).await?.ok_or("the event is not in the ledger")?;
    Ok(record.rooms.into_iter().map(|room| room.state).collect())
}

/// Puts a head of the same version in its place that opens and is no room's state.
async fn spoil(world: &World, room: Owner) -> Outcome {
    let (elsewhere, key) = (world.fork().await?, Key::new(room.to_string(), "head"));
    let head = world.table.get(&key).await?.ok_or("the room has a head")?;
    let number = |name: &str| head.number(name).ok_or_else(|| format!("the head has no {name}"));
    let (fence, version) = (number("fence")?, number("version")?);
    elsewhere.table.write(&Write::update(key.clone(), vec![Step::set("version", version - 1)])).await?;
    let status = head.text("status").ok_or("the head has a status")?;
    let save = Save { fence, expected_version: version - 1, plaintext: b"no room", status, side_writes: Vec::new() };
    elsewhere.parts().await?.snapshots.save(&room, save).await?;
    let spoilt = elsewhere.table.get(&key).await?.ok_or("it was saved")?;
    world.table.write(&Write::put(key, spoilt)).await?;
    Ok(())
}

#[tokio::test]
async fn a_room_is_decoded_once_while_its_head_stands() -> Outcome {
    let (world, _) = with_a_room().await?;
    let warm = world.doorkeeper().await?;
    look(&world, &warm).await?;
    spoil(&world, saved(&world).await?.0).await?;
    for _ in 0..2 {
        let ended = look(&world, &warm).await?;
        assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
    }
    assert_eq!(states(&world).await?, [RoomState::Active]);
    // Who has to decode it notices.
    look(&world, &world.doorkeeper().await?).await?;
    let states = states(&world).await?;
    assert!(matches!(states[..], [RoomState::Lost { .. }, RoomState::Active]), "{states:?}");
    Ok(())
}

/// How often a look asks the key service.
async fn key_calls(world: &World, doorkeeper: &Doorkeeper) -> Result<usize, AnyError> {
    world.killer.disarm();
    let ended = look(world, doorkeeper).await?;
    assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
    Ok(world.killer.calls().iter().filter(|call| call.ends_with("_data_key")).count())
}

#[tokio::test]
async fn the_key_service_is_asked_once() -> Outcome {
    let (world, _) = with_a_room().await?;
    let warm = world.doorkeeper().await?;
    assert_eq!(key_calls(&world, &warm).await?, 2, "for the account and for the room");
    assert_eq!(key_calls(&world, &warm).await?, 0);
    assert_eq!(key_calls(&world, &world.doorkeeper().await?).await?, 2);
    Ok(())
}

/// Of the room's own chat: a node counts the messages of all groups in one sequence, and others talk in other rooms.
#[tokio::test]
async fn chat_is_saved_when_a_page_of_it_came_together() -> Outcome {
    let (world, mut alice) = with_a_room().await?;
    let room = {
        let (Owner::Room(group), _) = saved(&world).await? else { panic!("a room") };
        GroupId(group.0)
    };
    let elsewhere = alice.create_group("elsewhere", Policies::admin_only(), &BTreeSet::new()).await?;
    for is_warm in [true, false] {
        let mut doorkeeper = world.doorkeeper().await?;
        look(&world, &doorkeeper).await?;
        let (_, before) = saved(&world).await?;
        for (messages, saves) in [(60, 0), (41, 1), (60, 1), (41, 2)] {
            for _ in 0..messages {
                alice.send_text(room, "hello").await?;
                alice.send_text(elsewhere, "hello").await?;
                alice.send_text(elsewhere, "hello").await?;
            }
            if !is_warm {
                doorkeeper = world.doorkeeper().await?;
            }
            let ended = look(&world, &doorkeeper).await?;
            assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
            assert_eq!(saved(&world).await?.1, before + saves, "warm: {is_warm}, {messages} messages more");
        }
    }
    Ok(())
}
