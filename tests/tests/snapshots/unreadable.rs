//! State that somebody altered: refused by name, told, not overwritten. A room is lost and gets a successor; without the
//! account nothing is done at all.

use usher_doorkeeper::{ConvergeError, Converged};
use usher_store::{
    FileDataKeys, Owner, Save, Snapshots, Table,
    table::{Attributes as _, Item, Value, Write},
};
use usher_tests::world::TestRandomness;

use crate::{
    alarms::Alarms,
    story::{
        Dump, Outcome, Story, assert_nothing_overwritten, cold_look, dump, head_of, heir, look, newest, owner, put,
    },
};

/// What the head of a room is replaced by; `None` if it is deleted.
type Attack = (&'static str, Option<Item>, &'static str, &'static str);

fn with(item: &Item, name: &str, value: impl Into<Value>) -> Item {
    let mut item = item.clone();
    item.insert(name.to_owned(), value.into());
    item
}

fn without(item: &Item, name: &str) -> Item {
    let mut item = item.clone();
    item.remove(name).unwrap();
    item
}

fn flipped(item: &Item, name: &str) -> Item {
    let mut bytes = item.bytes(name).unwrap().to_vec();
    bytes[3] ^= 1;
    with(item, name, bytes)
}

fn attacks(now: &Dump, old: &Dump, room: &Owner) -> Vec<Attack> {
    let (head, older, account) = (&now[&head_of(room)], &old[&head_of(room)], &now[&head_of(&Owner::Account)]);
    let cut = |item: &Item| with(item, "body", item.bytes("body").unwrap()[..100].to_vec());
    let (altered, other_key) = ("was altered", "sealed with another key");
    vec![
        ("tampered", Some(flipped(head, "body")), "snapshot_tampered", altered),
        ("truncated", Some(cut(head)), "snapshot_tampered", altered),
        ("an attribute replayed", Some(with(head, "status", older["status"].clone())), "snapshot_tampered", altered),
        ("the body replayed", Some(with(head, "body", older["body"].clone())), "snapshot_tampered", altered),
        ("the account's", Some(account.clone()), "snapshot_wrong_key", other_key),
        ("the account's, far ahead", Some(with(account, "fence", 1 << 40)), "snapshot_wrong_key", other_key),
        ("a wrong key", Some(flipped(head, "data_key")), "snapshot_wrong_key", other_key),
        ("no body", Some(without(head, "body")), "snapshot_chunk_missing", "chunk 0 is missing"),
        ("gone", None, "snapshot_missing", "there is no snapshot of it"),
    ]
}

#[tokio::test]
async fn a_room_that_cannot_be_read_is_lost_and_nothing_of_it_overwritten() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    let room = owner(story.room);
    let sent = newest(&story.world, story.room).await?;
    for (attack, head, code, reason) in attacks(&dump(&story.world), &story.before_bob, &room) {
        let world = story.world.fork().await?;
        match head {
            Some(head) => put(&world, head_of(&room), head).await?,
            None => _ = world.table.write(&Write::delete(head_of(&room))).await?,
        }
        let before = dump(&world);
        let ended = cold_look(&world).await?;
        assert!(matches!(ended, Converged::Done { .. }), "{attack}: {ended:?}");
        alarms.assert_lost(code, attack);
        let after = dump(&world);
        let lost = story.assert_succeeded(&world, reason).await?;
        assert_nothing_overwritten(&before, &after, Some(&lost), heir(&world).await?.as_ref());
        assert_eq!(newest(&world, story.room).await?, sent, "{attack}");
        assert_eq!(alarms.take(), [], "{attack}: told once");
    }
    Ok(())
}

/// It opens and means nothing: what a release with a mistake might have left.
#[tokio::test]
async fn a_room_that_opens_and_cannot_be_decoded_is_lost() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    let world = story.world.fork().await?;
    let snapshots = world.parts().await?.snapshots;
    let room = owner(story.room);
    let version = snapshots.claim(&room, 1000).await?.unwrap().version;
    let save = Save { fence: 1000, expected_version: version, plaintext: b"room", status: "", side_writes: vec![] };
    snapshots.save(&room, save).await?;
    let head = dump(&world)[&head_of(&room)].clone();
    put(&world, head_of(&room), with(&head, "fence", 1)).await?;

    let before = dump(&world);
    cold_look(&world).await?;
    alarms.assert_lost("group", "undecodable");
    let after = dump(&world);
    let lost = story.assert_succeeded(&world, "state cannot be used").await?;
    assert_nothing_overwritten(&before, &after, Some(&lost), heir(&world).await?.as_ref());
    Ok(())
}

/// The room's own state with a fence that no lease has had: it may not be written, and is not lost.
#[tokio::test]
async fn a_fence_from_the_future_waits_for_the_leases_to_come_there() -> Outcome {
    let story = Story::new().await?;
    let alarms = Alarms::listen();
    let room = owner(story.room);
    let head = dump(&story.world)[&head_of(&room)].clone();
    let fence = crate::story::record(&story.world).await?.fence + 3;
    put(&story.world, head_of(&room), with(&head, "fence", fence)).await?;
    for _ in 0..2 {
        let before = dump(&story.world);
        let ended = cold_look(&story.world).await?;
        assert!(matches!(ended, Converged::Unfinished { .. }), "{ended:?}");
        alarms.assert_waits("fence_ahead", "before it");
        assert_nothing_overwritten(&before, &dump(&story.world), None, None);
    }
    let ended = cold_look(&story.world).await?;
    assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
    assert_eq!(alarms.take(), []);
    Ok(())
}

#[tokio::test]
async fn without_the_account_nothing_is_done_and_somebody_is_called() -> Outcome {
    let story = Story::new().await?;
    let alarms = Alarms::listen();
    let now = dump(&story.world);
    let head = &now[&head_of(&Owner::Account)];
    let room = &now[&head_of(&owner(story.room))];
    let attacks = [
        ("tampered", flipped(head, "body"), "snapshot_tampered"),
        ("a room's", room.clone(), "snapshot_wrong_key"),
        ("cut down", without(head, "body"), "snapshot_chunk_missing"),
    ];
    for (attack, head, code) in attacks {
        let world = story.world.fork().await?;
        put(&world, head_of(&Owner::Account), head).await?;
        let before = dump(&world);
        let refused = look(&world, &world.doorkeeper().await?).await.unwrap_err();
        assert_eq!(refused.code(), code, "{attack}");
        alarms.assert_waits(code, attack);
        assert_eq!(dump(&world), before, "{attack}");
    }

    // Somebody starts the functions with another key: every room would be unreadable, and none is lost.
    let world = story.world.fork().await?;
    let folder = tempfile::tempdir()?;
    let deployment = world.store().deployment().await?.unwrap();
    let randomness = std::sync::Arc::new(TestRandomness);
    let keys = FileDataKeys::open(&folder.path().join("key"), deployment.clone(), randomness.clone())?;
    let parts = world.parts().await?;
    let snapshots = Snapshots::new(
        parts.store.table().clone(),
        std::sync::Arc::new(keys),
        deployment,
        world.clock.clone(),
        randomness,
    );
    let parts = usher_doorkeeper::Parts { snapshots: std::sync::Arc::new(snapshots), ..parts };
    let before = dump(&world);
    let refused = look(&world, &usher_doorkeeper::Doorkeeper::new(parts)).await.unwrap_err();
    assert!(matches!(refused, ConvergeError::Snapshot(_)), "{refused:?}");
    alarms.assert_waits("snapshot_wrong_key", "another key");
    assert_eq!(dump(&world), before);
    let ended = cold_look(&world).await?;
    assert!(matches!(ended, Converged::Done { commits: 0, .. }), "{ended:?}");
    Ok(())
}
