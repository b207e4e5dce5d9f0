//! Rooms that cannot go on although their state opens: rolled back, ejected, a commit that cannot be followed. And where
//! their members go. (Refused commits: `refusal`. Unreadable state: `unreadable`.)

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use openmls::{
    key_packages::{KeyPackage, KeyPackageIn, Lifetime},
    prelude::{
        CredentialWithKey, ProtocolVersion,
        tls_codec::{Deserialize as _, Serialize as _},
    },
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider as _;
use usher_domain::{admission::CreatorRole, planner::Limits};
use usher_doorkeeper::{Converged, Policy};
use usher_localnet::{ambient::Ambient, ambient::SystemClock, person::Person};
use usher_store::{
    RoomState, Table as _,
    table::{Item, Write},
};
use usher_tests::world::{AnyError, World, sample_facts};
use usher_xmtp::{GroupId, group::MetadataChange, identity::InstallationKey, ports::Randomness};

use crate::{
    alarms::Alarms,
    story::{
        ALICE, BOB, CREATOR, Dump, Outcome, Story, assert_nothing_overwritten, cold_look, dump, head_of, heir, look,
        newest, owner, put, record, with_policy,
    },
};

/// Puts what lies in `pk`, or everything, back to what it was.
async fn roll_back(world: &World, old: &Dump, pk: Option<&str>) -> Outcome {
    let of = |dump: &Dump| -> Dump {
        let chosen = dump.iter().filter(|(key, _)| pk.is_none_or(|pk| key.pk == pk));
        chosen.map(|(key, item)| (key.clone(), item.clone())).collect()
    };
    for key in of(&dump(world)).into_keys() {
        world.table.write(&Write::delete(key)).await?;
    }
    for (key, item) in of(old) {
        put(world, key, item).await?;
    }
    Ok(())
}

/// An older whole head is in order by itself. But the log has a commit of usher's that it does not know.
#[tokio::test]
async fn an_older_head_is_noticed_by_the_log() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    let room = owner(story.room);
    for warm in [false, true] {
        let world = story.world.fork().await?;
        let doorkeeper = world.doorkeeper().await?;
        if warm {
            // It keeps the newest state in memory, and must not prefer that to what is stored.
            look(&world, &doorkeeper).await?;
        }
        roll_back(&world, &story.before_bob, Some(&room.to_string())).await?;
        let (before, sent) = (dump(&world), newest(&world, story.room).await?);
        let ended = look(&world, &doorkeeper).await?;
        assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
        alarms.assert_lost("room_rolled_back", "an older head");
        let after = dump(&world);
        let lost = story.assert_succeeded(&world, "rolled back").await?;
        assert_nothing_overwritten(&before, &after, Some(&lost), heir(&world).await?.as_ref());
        assert_eq!(newest(&world, story.room).await?, sent, "nothing was encrypted from it");
        assert_eq!(alarms.take(), []);
    }
    Ok(())
}

/// After a restore of the table every room that usher has changed since is found out, although no fact calls for a look.
#[tokio::test]
async fn after_a_restore_every_room_is_checked() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    let world = story.world.fork().await?;
    roll_back(&world, &story.before_bob, None).await?;
    world.sweep("sweep").await?;
    alarms.assert_lost("room_rolled_back", "a restored table");
    // The restored ledger knows nothing of Bob until his purchase is sent again.
    world.invoke("again", &sample_facts("03-purchase-bob.json")).await?;
    story.assert_succeeded(&world, "rolled back").await?;
    Ok(())
}

/// A rolled back room reads again what it has read before. It must not take for news what was overtaken since.
#[tokio::test]
async fn what_a_rolled_back_room_reads_again_is_no_news() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    let (room, alice) = (owner(story.room), story.people[ALICE].inbox()?);
    let old = dump(&story.world);
    let creator = &mut story.people[CREATOR];
    creator.change_members(story.room, &BTreeSet::new(), &[alice.clone()].into()).await?;
    // usher takes note that Alice is banned, and commits itself.
    story.world.invoke("resale", &sample_facts("06-resale-bob-to-erin.json")).await?;
    let incarnation = record(&story.world).await?.rooms[0].incarnation;
    assert_eq!(story.world.store().standing(&incarnation).await?.marked.len(), 1);
    // Then she is forgiven.
    story.people[CREATOR].change_members(story.room, &[alice].into(), &BTreeSet::new()).await?;
    cold_look(&story.world).await?;
    assert_eq!(story.world.store().standing(&incarnation).await?.marked, []);

    roll_back(&story.world, &old, Some(&room.to_string())).await?;
    cold_look(&story.world).await?;
    alarms.assert_lost("room_rolled_back", "an older head");
    assert_eq!(story.world.store().standing(&incarnation).await?.marked, [], "Alice is not banned again");
    Ok(())
}

#[tokio::test]
async fn a_room_without_usher_is_lost() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    story.policy = Policy { creator_role: CreatorRole::SuperAdmin, ..Policy::default() };
    look(&story.world, &with_policy(&story.world, story.policy.clone()).await?).await?;

    let creator = &mut story.people[CREATOR];
    creator.sync().await?;
    let admins = creator.group(story.room)?.metadata().super_admins;
    let usher: BTreeSet<_> = admins.into_iter().filter(|inbox| *inbox != creator.inbox().unwrap()).collect();
    let dismissal = MetadataChange { remove_super_admins: usher.clone(), ..MetadataChange::default() };
    creator.change_metadata(story.room, &dismissal).await?;
    creator.change_members(story.room, &BTreeSet::new(), &usher).await?;

    let world = story.world.fork().await?;
    let before = dump(&world);
    let ended = look(&world, &with_policy(&world, story.policy.clone()).await?).await?;
    assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
    alarms.assert_lost("room_ejected", "usher was removed");
    let after = dump(&world);
    let lost = story.assert_succeeded(&world, "ejected").await?;
    assert_nothing_overwritten(&before, &after, Some(&lost), heir(&world).await?.as_ref());
    Ok(())
}

/// Remembers the first bytes that were drawn: the seed of an installation's key.
#[derive(Debug, Default)]
struct Remembering(Mutex<Option<Vec<u8>>>);

impl Randomness for Remembering {
    fn fill(&self, bytes: &mut [u8]) {
        Ambient.fill(bytes);
        self.0.lock().unwrap().get_or_insert_with(|| bytes.to_vec());
    }
}

/// A new person whose key package is about to expire.
async fn person_with_expiring_key_package(world: &World) -> Result<(Person, Lifetime), AnyError> {
    let (network, randomness) = (world.parts().await?.network, Arc::new(Remembering::default()));
    let person = Person::register_on(network.clone(), &[0x42; 32], Arc::new(SystemClock), randomness.clone()).await?;
    let seed: [u8; 32] = randomness.0.lock().unwrap().clone().unwrap().try_into().unwrap();
    let key = InstallationKey::from_seed(&seed);
    assert_eq!(key.public(), person.installation()?);

    let provider = OpenMlsRustCrypto::default();
    let served = network.key_packages(&[key.public()]).await?[0].clone().unwrap();
    let served = KeyPackageIn::tls_deserialize_exact(served)?.validate(provider.crypto(), ProtocolVersion::Mls10)?;
    let leaf = served.leaf_node();
    let lifetime = Lifetime::new(5);
    let expiring = KeyPackage::builder()
        .key_package_lifetime(lifetime)
        .key_package_extensions(served.extensions().clone())
        .leaf_node_capabilities(leaf.capabilities().clone())
        .leaf_node_extensions(leaf.extensions().clone())
        .build(
            served.ciphersuite(),
            &provider,
            &key.mls_signer(),
            CredentialWithKey { credential: leaf.credential().clone(), signature_key: leaf.signature_key().clone() },
        )?;
    network.upload_key_package(expiring.key_package().tls_serialize_detached()?).await?;
    Ok((person, lifetime))
}

/// The creator invites a guest, which members take; but when usher comes to read it, the guest's key package has
/// expired, and openmls refuses what libxmtp's members accept.
#[tokio::test]
async fn a_commit_that_openmls_refuses_and_others_took_ends_the_room() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    story.people[CREATOR].sync().await?;
    let (guest, lifetime) = person_with_expiring_key_package(&story.world).await?;
    story.people[CREATOR].change_members(story.room, &[guest.inbox()?].into(), &BTreeSet::new()).await?;
    assert!(story.people[CREATOR].group(story.room)?.members().contains_key(&guest.inbox()?));
    let mut patience = tokio::time::interval(Duration::from_millis(50));
    while lifetime.validate().is_ok() {
        patience.tick().await;
    }

    let world = story.world.fork().await?;
    let before = dump(&world);
    let ended = cold_look(&world).await?;
    assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
    alarms.assert_lost("room_unfollowable", "an expired key package");
    let after = dump(&world);
    let lost = story.assert_succeeded(&world, "unfollowable").await?;
    let RoomState::Lost { reason } = &lost.state else { panic!("{lost:?}") };
    let author = format!("by inbox {}", story.people[CREATOR].inbox()?);
    assert!(reason.contains(&author), "who did it can be banned only if he is named: {reason}");
    assert_nothing_overwritten(&before, &after, Some(&lost), heir(&world).await?.as_ref());
    Ok(())
}

/// Of two rooms one is lost: its members come into its successor together, not one by one into whichever room has a
/// seat.
#[tokio::test]
async fn a_lost_rooms_members_stay_together() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    let mut carol = story.world.person(3).await?;
    let small = Policy { limits: Limits { seats_per_room: 4, ..Limits::default() }, ..Policy::default() };
    story.world.store().record(&sample_facts("04-purchase-carol.json")).await;
    look(&story.world, &with_policy(&story.world, small.clone()).await?).await?;
    let rooms = record(&story.world).await?.rooms;
    let [first, second] = &rooms[..] else { panic!("usher, the creator, Alice and Bob fill a room: {rooms:?}") };

    let head = head_of(&owner(story.room));
    let mut altered: Item = dump(&story.world)[&head].clone();
    altered.insert("version".into(), 77.into());
    put(&story.world, head, altered).await?;
    look(&story.world, &with_policy(&story.world, small).await?).await?;
    alarms.assert_lost("snapshot_tampered", "the first room");

    let rooms = record(&story.world).await?.rooms;
    let [lost, still, heir] = &rooms[..] else { panic!("one successor: {rooms:?}") };
    assert!(matches!(&lost.state, RoomState::Lost { .. }) && lost.group == first.group);
    assert_eq!((still.group, &still.state), (second.group, &RoomState::Active));
    assert_eq!((heir.succeeds, &heir.state), (Some(lost.group), &RoomState::Active));
    for person in story.people.iter_mut().chain([&mut carol]) {
        person.sync().await?;
    }
    let sits_in = |person: &Person, room: &usher_store::RoomRecord| {
        person.group(GroupId(room.group.0)).is_ok_and(|group| group.lost().is_none())
    };
    for person in &story.people {
        assert!(sits_in(person, heir));
    }
    assert!(sits_in(&story.people[CREATOR], still) && sits_in(&carol, still));
    assert!(!sits_in(&story.people[BOB], still) && !sits_in(&carol, heir));
    Ok(())
}
