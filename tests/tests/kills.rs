//! Killed at each port call in turn, before its effect and after it, and started cold: the end is always the same. Which
//! calls there are is found out by killing at the first, the second, and so on, until nothing dies any more.

use std::{collections::BTreeSet, future::pending, time::Duration};

use tokio::sync::oneshot;
use usher_domain::{EventKey, Fact, ports::Clock as _};
use usher_doorkeeper::{Cause, Converged, Progress};
use usher_localnet::person::Person;
use usher_store::{
    EventRecord, Owner,
    table::{Attributes as _, Key, Table as _},
};
use usher_tests::world::{AnyError, Killer, World, sample_facts};
use usher_xmtp::{
    Account, GroupId, Identities, Welcomed, attributes,
    group::MetadataChange,
    identity::{InboxId, InstallationId},
    policy::Policies,
};

type Outcome = Result<(), AnyError>;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn event() -> EventKey {
    "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse().expect("an event")
}

fn facts(files: &[&str]) -> Vec<Fact> {
    files.iter().flat_map(|file| sample_facts(file)).collect()
}

const MINT: &str = "01-mint.json";
const ALICE_BUYS: &str = "02-purchase-alice.json";
const BOB_BUYS: &str = "03-purchase-bob.json";
const ALICE_IS_REFUNDED: &str = "07-refund-alice.json";

/// Prepares a world, has `act` die at one port call, and `mend` bring everything to its end and look at it; again for
/// each port call, and for each that changes something once more, after its effect. (Dying after a call that changes
/// nothing is dying before the next.)
async fn at_each_call<S>(
    name: &str,
    state: &mut S,
    prepare: impl AsyncFn(&mut S) -> Result<World, AnyError>,
    act: impl AsyncFn(&World, &mut S) -> Outcome,
    mend: impl AsyncFn(&World, &mut S, &str) -> Outcome,
) -> Outcome {
    let mut names: Vec<String> = Vec::new();
    for after_effect in [false, true] {
        for call in 0.. {
            match names.get(call) {
                None if after_effect => break,
                Some(name) if after_effect && !Killer::has_effect(name) => continue,
                _ => {}
            }
            let world = prepare(state).await?;
            world.killer.arm(call, after_effect);
            let died = tokio::select! {
                result = act(&world, state) => { result?; false }
                () = world.killer.killed() => true,
            };
            let last = world.killer.calls().pop().unwrap_or_default();
            world.killer.disarm();
            if !died {
                break;
            }
            if !after_effect {
                names.push(last.clone());
            }
            // Leases of the dead run out.
            world.clock.advance(2 * MINUTE);
            let scene = format!("{name} killed at call {call} ({last}), after effect: {after_effect}");
            mend(&world, state, &scene).await.map_err(|error| format!("{scene}: {error}"))?;
        }
    }
    let effects = names.iter().filter(|name| Killer::has_effect(name)).count();
    let asks_for_keys = names.iter().any(|name| name.ends_with("_data_key"));
    assert!(effects > 2 && names.len() > effects && asks_for_keys, "{name} has only the port calls {names:?}");
    Ok(())
}

/// Who is met in rooms; the same persons in all worlds on a node.
struct People {
    origin: World,
    creator: Person,
    alice: Person,
    bob: Person,
}

impl People {
    async fn new() -> Result<Self, AnyError> {
        let origin = World::start().await?;
        let (creator, alice, bob) = (origin.person(0).await?, origin.person(1).await?, origin.person(2).await?);
        Ok(Self { origin, creator, alice, bob })
    }

    /// A world of its own, in which this has happened.
    async fn world(&self, files: &[&str]) -> Result<World, AnyError> {
        let world = self.origin.fork().await?;
        for file in files {
            world.invoke(file, &sample_facts(file)).await?;
        }
        Ok(world)
    }

    /// One room; Bob in and reading the newest message, Alice out and blind to it.
    async fn check(&mut self, world: &World, scene: &str) -> Outcome {
        let room = only_room(world).await?;
        for person in [&mut self.alice, &mut self.bob] {
            person.sync().await?;
        }
        assert!(in_room(&self.bob, room), "{scene}: Bob is not in: {:?}", self.bob.dropped());
        self.bob.send_text(room, scene).await?;
        self.alice.sync().await?;
        assert!(!self.alice.texts(room).iter().any(|text| text == scene), "{scene}: Alice reads on");
        assert!(!in_room(&self.alice, room), "{scene}: Alice is still in");
        let members = self.bob.group(room)?.members();
        assert_eq!(members.len(), 3, "{scene}: usher, the creator and Bob: {members:?}");
        let event = record(world).await?;
        assert_eq!(event.converged_generation, Some(event.generation), "{scene}");
        self.alice.forget_groups();
        self.bob.forget_groups();
        self.creator.forget_groups();
        Ok(())
    }
}

fn in_room(person: &Person, room: GroupId) -> bool {
    person.group(room).is_ok_and(|group| group.lost().is_none())
}

async fn record(world: &World) -> Result<EventRecord, AnyError> {
    Ok(world.store().event(&event()).await?.ok_or("the event is not in the ledger")?)
}

async fn only_room(world: &World) -> Result<GroupId, AnyError> {
    match &record(world).await?.rooms[..] {
        [room] => Ok(GroupId(room.group.0)),
        rooms => Err(format!("not one room: {rooms:?}").into()),
    }
}

/// The queue delivers the message again, and the clock finds the rest.
async fn deliver_again(world: &World, facts: &[Fact]) -> Outcome {
    world.invoke("redelivery", facts).await?;
    world.clock.advance(MINUTE);
    world.sweep("sweep").await?;
    Ok(())
}

async fn look(world: &World) -> Result<Converged, AnyError> {
    let deadline_ms = world.clock.now_ms() + 25_000;
    Ok(world.doorkeeper().await?.converge(&event(), "look", deadline_ms, Cause::Nudge).await?)
}

/// What the network has of the world's account: entries of its log, and installations.
async fn on_network(world: &World, inbox: &InboxId) -> Result<(usize, BTreeSet<InstallationId>), AnyError> {
    let network = world.parts().await?.network;
    let entries = network.identity_updates(&[(inbox.clone(), 0)]).await?[0].len();
    let mut identities = Identities::default();
    identities.load(&*network, [inbox]).await?;
    Ok((entries, identities.latest(inbox).map(|(_, state)| state.installations()).unwrap_or_default()))
}

#[tokio::test]
async fn mint_add_and_remove() -> Outcome {
    let mut people = People::new().await?;
    let acts: [&[&str]; 3] = [&[MINT], &[ALICE_BUYS, BOB_BUYS], &[ALICE_IS_REFUNDED]];
    for (number, files) in acts.iter().enumerate() {
        let (before, after) = (acts[..number].concat(), acts[number + 1..].concat());
        let mend = async |world: &World, people: &mut People, scene: &str| {
            world.invoke("redelivery", &facts(files)).await?;
            for file in &after {
                world.invoke(file, &sample_facts(file)).await?;
            }
            world.clock.advance(MINUTE);
            world.sweep("sweep").await?;
            people.check(world, scene).await
        };
        at_each_call(
            &files.join(", "),
            &mut people,
            async |people| people.world(&before).await,
            async |world, _| {
                drop(world.invoke("victim", &facts(files)).await?);
                Ok(())
            },
            mend,
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn add_and_remove_in_one_batch() -> Outcome {
    let mut people = People::new().await?;
    let batch = facts(&[BOB_BUYS, ALICE_IS_REFUNDED]);
    at_each_call(
        "add and remove",
        &mut people,
        async |people| people.world(&[MINT, ALICE_BUYS]).await,
        async |world, _| {
            drop(world.invoke("victim", &batch).await?);
            Ok(())
        },
        async |world, people, scene| {
            deliver_again(world, &batch).await?;
            people.check(world, scene).await
        },
    )
    .await
}

/// What a creator does between the moments when usher's commit is stored and published.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rival {
    Renames,
    AddsBob,
}

#[tokio::test]
async fn a_competing_commit_of_an_admins_at_the_worst_moment() -> Outcome {
    const RIVAL: &str = "the creator's own";
    for (rival, files) in [(Rival::Renames, [ALICE_IS_REFUNDED]), (Rival::AddsBob, [BOB_BUYS])] {
        let mut scene = (People::new().await?, false);
        let bob = scene.0.bob.inbox()?;
        let rename = MetadataChange {
            attributes: [(attributes::NAME.to_owned(), RIVAL.to_owned())].into(),
            ..MetadataChange::default()
        };
        let act = async |world: &World, (people, acted): &mut (People, bool)| {
            let room = only_room(world).await?;
            people.creator.sync().await?;
            let (stored, now) = oneshot::channel();
            let (go_on, done) = oneshot::channel();
            world.killer.meanwhile("send_group_messages", async move {
                stored.send(()).ok();
                done.await.ok();
            });
            let competing = async {
                now.await?;
                match rival {
                    Rival::Renames => people.creator.change_metadata(room, &rename).await?,
                    Rival::AddsBob => {
                        people.creator.change_members(room, &[bob.clone()].into(), &BTreeSet::new()).await?
                    }
                }
                *acted = true;
                go_on.send(()).ok();
                pending::<Outcome>().await
            };
            let loss = facts(&files);
            tokio::select! {
                ends = world.invoke("victim", &loss) => { ends?; Ok(()) }
                failed = competing => failed,
            }
        };
        at_each_call(
            &format!("{files:?}, and the creator {rival:?}"),
            &mut scene,
            async |(people, acted)| {
                *acted = false;
                let before: &[&str] =
                    if rival == Rival::Renames { &[MINT, ALICE_BUYS, BOB_BUYS] } else { &[MINT, ALICE_BUYS] };
                people.world(before).await
            },
            act,
            async |world, (people, acted), scene| {
                deliver_again(world, &facts(&files)).await?;
                if rival == Rival::AddsBob {
                    deliver_again(world, &facts(&[ALICE_IS_REFUNDED])).await?;
                }
                people.bob.sync().await?;
                let room = only_room(world).await?;
                let name = people.bob.group(room)?.metadata().attributes[attributes::NAME].clone();
                let renamed = rival == Rival::Renames && *acted;
                assert_eq!(name == RIVAL, renamed, "{scene}: the room is called {name}");
                people.check(world, scene).await
            },
        )
        .await?;
    }
    Ok(())
}

/// The first invocation dies around the calls that others see; the one that mends it dies, too.
#[tokio::test]
async fn the_way_back_after_a_crash() -> Outcome {
    let mut people = People::new().await?;
    for (call, after_effect) in [
        ("send_group_messages", false),
        ("send_group_messages", true),
        ("send_welcomes", false),
        ("send_welcomes", true),
    ] {
        at_each_call(
            &format!("the way back after {call} ({after_effect})"),
            &mut people,
            async |people| {
                let world = people.world(&[MINT, ALICE_BUYS]).await?;
                world.killer.arm_named(call, after_effect);
                let purchase = facts(&[BOB_BUYS]);
                tokio::select! {
                    ends = world.invoke("first victim", &purchase) => return Err(format!("{ends:?}").into()),
                    () = world.killer.killed() => {}
                }
                world.clock.advance(MINUTE);
                Ok(world)
            },
            async |world, _| {
                drop(world.sweep("second victim").await?);
                Ok(())
            },
            async |world, people, scene| {
                deliver_again(world, &facts(&[BOB_BUYS])).await?;
                world.invoke("refund", &facts(&[ALICE_IS_REFUNDED])).await?;
                people.check(world, scene).await
            },
        )
        .await?;
    }
    Ok(())
}

/// `usher init`: nothing is deleted in between, and there is one installation and one entry of the log.
#[tokio::test]
async fn making_the_account() -> Outcome {
    let mut origin = World::start().await?;
    at_each_call(
        "init",
        &mut origin,
        async |origin| origin.beside(),
        async |world, _| {
            drop(world.usher().init(&world.wallet).await?);
            Ok(())
        },
        async |world, _, scene| {
            let made = world.usher().init(&world.wallet).await?;
            let (entries, installations) = on_network(world, &made.inbox.parse()?).await?;
            assert_eq!(entries, 1, "{scene}");
            let made_id: InstallationId = hex::decode(&made.installation)?.as_slice().try_into()?;
            assert_eq!(installations, [made_id].into(), "{scene}");
            assert!(world.parts().await?.network.key_packages(&[made_id]).await?[0].is_some(), "{scene}");
            assert!(world.doorkeeper().await?.has_account().await?, "{scene}");
            let stored = world.table.dump();
            assert_eq!(world.usher().init(&world.wallet).await?, made, "{scene}");
            assert_eq!(world.table.dump(), stored, "{scene}: once more changes nothing");
            Ok(())
        },
    )
    .await
}

/// A room at rest gets another data key after three months, and one that changes after one.
#[tokio::test]
async fn data_keys() -> Outcome {
    let mut people = People::new().await?;
    for (days, files) in [(91, &[][..]), (31, &[BOB_BUYS][..])] {
        let act = async |world: &World, _: &mut People| {
            match files {
                [] => drop(look(world).await?),
                files => drop(world.invoke("victim", &facts(files)).await?),
            }
            Ok(())
        };
        at_each_call(
            &format!("another data key after {days} days"),
            &mut people,
            async |people| {
                let world = people.world(&[MINT, ALICE_BUYS]).await?;
                world.clock.advance(days * DAY);
                Ok(world)
            },
            act,
            async |world, people, scene| {
                deliver_again(world, &facts(files)).await?;
                let ended = look(world).await?;
                assert!(matches!(ended, Converged::Done { .. }), "{scene}: {ended:?}");
                let room = Owner::Room(usher_domain::GroupId(only_room(world).await?.0));
                let head = world.table.get(&Key::new(room.to_string(), "head")).await?.ok_or("a head")?;
                let age_ms = world.clock.now_ms() - head.number("data_key_at_ms").ok_or("the key has an age")?;
                assert!(age_ms < 86_400_000, "{scene}: the key is {age_ms} ms old");
                deliver_again(world, &facts(&[BOB_BUYS, ALICE_IS_REFUNDED])).await?;
                people.check(world, scene).await
            },
        )
        .await?;
    }
    Ok(())
}

/// After a month the account's key package and data key are replaced. Whoever fetched the one before and whoever fetches
/// the one after lets usher in.
#[tokio::test]
async fn the_key_package() -> Outcome {
    let origin = World::start().await?;
    let mut scene = (origin.person(1).await?, origin);
    at_each_call(
        "another key package",
        &mut scene,
        async |(alice, origin)| {
            let world = origin.beside()?;
            let usher: InboxId = world.init().await?.inbox.parse()?;
            alice.create_group("before", Policies::admin_only(), &[usher].into()).await?;
            world.clock.advance(31 * DAY);
            Ok(world)
        },
        async |world, _| {
            world.doorkeeper().await?.keep_up().await?;
            Ok(())
        },
        async |world, (alice, _), scene| {
            world.doorkeeper().await?.keep_up().await?;
            assert!(!world.doorkeeper().await?.keep_up().await?, "{scene}: it is not finished");
            let parts = world.parts().await?;
            let stored = parts.snapshots.load(&Owner::Account).await?.ok_or("an account")?;
            let mut account = Account::decode(&stored.plaintext)?;
            assert!(!account.awaits_upload(), "{scene}");
            alice.create_group("after", Policies::admin_only(), &[account.inbox().clone()].into()).await?;
            let mut welcomed = Welcomed::default();
            let identities = &mut Identities::default();
            account.receive_welcomes(&*parts.network, identities, &mut welcomed, |_| true).await?;
            assert_eq!(welcomed.joined.len(), 2, "{scene}: {:?}", welcomed.dropped);
            let head = world.table.get(&Key::new("account", "head")).await?.ok_or("a head")?;
            let key_at_ms = head.number("data_key_at_ms").ok_or("the data key has an age")?;
            assert!(world.clock.now_ms() - key_at_ms < 86_400_000, "{scene}: the data key is the old one");
            alice.forget_groups();
            Ok(())
        },
    )
    .await
}

/// A recovery from its beginning to its end: the group is the same, and one installation is left of two.
#[tokio::test]
async fn another_installation() -> Outcome {
    let mut people = People::new().await?;
    let begin =
        async |world: &World| -> Outcome { Ok(world.doorkeeper().await?.begin_recovery(&world.wallet, None).await?) };
    let pass = async |world: &World, people: &mut People| -> Result<Option<Progress>, AnyError> {
        let room = only_room(world).await?;
        let recover = async || -> Result<Option<Progress>, AnyError> {
            Ok(world.doorkeeper().await?.recover(&world.wallet, None).await?)
        };
        let progress = recover().await?;
        if progress.as_ref().is_some_and(|progress| progress.finished) {
            return Ok(progress);
        }
        people.alice.sync().await?;
        people.alice.update_installations(room).await?;
        people.alice.send_text(room, "hello").await?;
        recover().await
    };
    at_each_call(
        "another installation",
        &mut people,
        async |people| {
            let world = people.origin.beside()?;
            world.init().await?;
            for file in [MINT, ALICE_BUYS] {
                world.invoke(file, &sample_facts(file)).await?;
            }
            Ok(world)
        },
        async |world, people| {
            begin(world).await?;
            pass(world, people).await?;
            look(world).await?;
            Ok(())
        },
        async |world, people, scene| {
            let inbox = usher_xmtp::inbox_of(address(world), &*world.parts().await?.network).await?;
            // The operator sees whether it was finished: two entries more, and one installation.
            if on_network(world, &inbox).await?.0 < 3 || world.store().recovery().await?.is_some() {
                begin(world).await?;
                let progress = pass(world, people).await?.ok_or("none is under way")?;
                assert!(progress.finished, "{scene}: {progress:?}");
            }
            let (entries, installations) = on_network(world, &inbox).await?;
            assert_eq!((entries, installations.len()), (3, 1), "{scene}: made, replaced, and the old one revoked");
            deliver_again(world, &facts(&[BOB_BUYS, ALICE_IS_REFUNDED])).await?;
            people.bob.sync().await?;
            let members = people.bob.group(only_room(world).await?)?.members();
            assert_eq!(members[&inbox].installations, installations, "{scene}");
            people.check(world, scene).await
        },
    )
    .await
}

fn address(world: &World) -> alloy_primitives::Address {
    usher_xmtp::identity::WalletSigner::address(&world.wallet)
}
