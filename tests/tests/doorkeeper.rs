//! The doorkeeper over the in-memory table and a real XMTP node: the story of `events/logs/`.

use std::{collections::BTreeSet, time::Duration};

use usher_domain::{EventKey, ports::Clock as _};
use usher_doorkeeper::Converged;
use usher_localnet::person::Person;
use usher_tests::world::{AnyError, World, sample_facts};
use usher_xmtp::{GroupId, Lost, attributes};

type Outcome = Result<(), AnyError>;

fn event() -> EventKey {
    "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse().expect("an event")
}

async fn rooms(world: &World) -> Result<Vec<GroupId>, AnyError> {
    let event = world.store().event(&event()).await?.ok_or("the event is not in the ledger")?;
    Ok(event.rooms.iter().map(|room| GroupId(room.group.0)).collect())
}

fn in_room(person: &Person, room: GroupId) -> bool {
    person.group(room).is_ok_and(|group| group.lost().is_none())
}

#[tokio::test]
async fn the_story_of_the_samples() -> Outcome {
    let world = World::start().await?;
    let (mut creator, mut alice, mut bob) = (world.person(0).await?, world.person(1).await?, world.person(2).await?);

    let ends = world.invoke("mint", &sample_facts("01-mint.json")).await?;
    assert!(matches!(ends[..], [Converged::Done { .. }]), "{ends:?}");
    let [room] = rooms(&world).await?[..] else { panic!("one room") };
    creator.sync().await?;
    assert_eq!(creator.dropped(), [] as [&str; 0]);
    let group = creator.group(room)?;
    let metadata = group.metadata();
    assert!(metadata.admins.contains(&creator.inbox()?));
    assert!(!metadata.super_admins.contains(&creator.inbox()?));
    assert!(metadata.attributes[attributes::NAME].ends_with(" #0"), "{metadata:?}");
    assert_eq!(metadata.attributes[attributes::DESCRIPTION], event().to_string());

    for file in ["02-purchase-alice.json", "03-purchase-bob.json"] {
        let ends = world.invoke(file, &sample_facts(file)).await?;
        assert!(matches!(ends[..], [Converged::Done { .. }]), "{ends:?}");
    }
    for person in [&mut alice, &mut bob] {
        person.sync().await?;
        assert!(in_room(person, room));
    }
    alice.send_text(room, "hello").await?;
    bob.sync().await?;
    assert_eq!(bob.texts(room), ["hello"]);

    // Erin has no inbox yet: she waits; Bob is out all the same.
    let ends = world.invoke("resale", &sample_facts("06-resale-bob-to-erin.json")).await?;
    assert!(matches!(ends[..], [Converged::Done { .. }]), "{ends:?}");
    bob.sync().await?;
    assert_eq!(bob.group(room)?.lost(), Some(&Lost::Ejected));
    alice.send_text(room, "without Bob").await?;
    bob.sync().await?;
    assert_eq!(bob.texts(room), ["hello"]);
    let mut erin = world.person(5).await?;
    world.clock.advance(Duration::from_secs(60));
    let ends = world.sweep("sweep").await?;
    assert!(matches!(ends[..], [Converged::Done { commits: 1, .. }]), "{ends:?}");
    erin.sync().await?;
    assert!(in_room(&erin, room));

    world.invoke("refund", &sample_facts("07-refund-alice.json")).await?;
    alice.sync().await?;
    assert_eq!(alice.group(room)?.lost(), Some(&Lost::Ejected));
    creator.sync().await?;
    let members: BTreeSet<_> = creator.group(room)?.members().into_keys().collect();
    assert!(members.contains(&erin.inbox()?) && members.contains(&creator.inbox()?));
    assert_eq!(members.len(), 3, "usher, the creator and Erin");

    // The retraction of the mint closes the room.
    let mut retracted = sample_facts("01-mint.json");
    retracted.iter_mut().for_each(|fact| fact.retracted = true);
    world.invoke("reorg", &retracted).await?;
    erin.sync().await?;
    creator.sync().await?;
    assert_eq!(erin.group(room)?.lost(), Some(&Lost::Ejected));
    assert_eq!(creator.group(room)?.lost(), Some(&Lost::Ejected));
    Ok(())
}

/// What a killed invocation had stored and not sent is told, with its age, until it is sent.
#[tokio::test]
async fn an_outbox_is_told_until_it_is_sent() -> Outcome {
    let world = World::start().await?;
    let (_creator, _alice) = (world.person(0).await?, world.person(1).await?);
    let (mint, purchase) = (sample_facts("01-mint.json"), sample_facts("02-purchase-alice.json"));
    world.invoke("mint", &mint).await?;
    let before_ms = world.clock.now_ms();
    world.killer.arm_named("send_group_messages", false);
    tokio::select! {
        result = world.invoke("victim", &purchase) => panic!("it lives: {result:?}"),
        () = world.killer.killed() => {}
    }
    let after_ms = world.clock.now_ms();
    world.killer.disarm();
    world.clock.advance(Duration::from_secs(1200));
    let oldest = world.doorkeeper().await?.oldest().await?;
    let stored_then = |since_ms: Option<u64>| since_ms.is_some_and(|ms| (before_ms..=after_ms).contains(&ms));
    assert!(stored_then(oldest.outbox_since_ms) && stored_then(oldest.due_since_ms), "{oldest:?}");

    world.sweep("sweep").await?;
    let record = world.store().event(&event()).await?.ok_or("there is the event")?;
    assert_eq!((record.rooms[0].outbox_since_ms, record.behind_since_ms), (None, None));
    Ok(())
}
