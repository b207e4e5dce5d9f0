//! A restored table: a right ledger, and no room state to go on from. Members' clients let the new installation in.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use usher_domain::{EventKey, ports::Clock as _};
use usher_doorkeeper::{Cause, Converged, Doorkeeper, Progress, RecoverError};
use usher_localnet::{
    ambient::{Ambient, SystemClock},
    person::Person,
    xmtp_node::{Fault, Method},
};
use usher_store::{
    EventRecord, RoomState, Table,
    table::{Key, Write},
};
use usher_tests::world::{ANVIL_KEYS, AnyError, World, sample_facts};
use usher_xmtp::{
    AccountError, GroupId, INSTALLATIONS_MAX, Identities, Lost, V3,
    identity::{InboxId, InstallationId, LocalWallet, WalletSigner as _},
    policy::Policies,
    ports::Randomness,
};

type Outcome = Result<(), AnyError>;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn event() -> EventKey {
    "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse().expect("an event")
}

fn wallet() -> LocalWallet {
    LocalWallet::from_key(&World::WALLET_KEY).expect("a key")
}

async fn record(world: &World) -> Result<EventRecord, AnyError> {
    Ok(world.store().event(&event()).await?.ok_or("the event is not in the ledger")?)
}

/// A deployment with a room of the creator, Alice and Bob, who have all read its log.
struct Story {
    world: World,
    people: [Person; 3],
    room: GroupId,
}

const CREATOR: usize = 0;
const ALICE: usize = 1;
const BOB: usize = 2;

impl Story {
    async fn new() -> Result<Self, AnyError> {
        let world = World::start().await?;
        let people = [world.person(0).await?, world.person(1).await?, world.person(2).await?];
        for file in ["01-mint.json", "02-purchase-alice.json", "03-purchase-bob.json"] {
            world.invoke(file, &sample_facts(file)).await?;
        }
        let room = GroupId(record(&world).await?.rooms[0].group.0);
        let mut story = Self { world, people, room };
        story.sync().await?;
        Ok(story)
    }

    async fn sync(&mut self) -> Outcome {
        for person in &mut self.people {
            person.sync().await?;
        }
        Ok(())
    }

    /// Somebody says something, as libxmtp's clients do: with a look at everybody's devices first.
    async fn speak(&mut self, who: usize, text: &str) -> Outcome {
        self.people[who].update_installations(self.room).await?;
        Ok(self.people[who].send_text(self.room, text).await?)
    }

    /// The table's ledger under another name, and nothing of any snapshot.
    async fn restore_without_snapshots(&mut self) -> Outcome {
        self.world = self.world.fork().await?;
        for (key, _) in self.world.table.dump() {
            let Key { pk, sk } = &key;
            if (pk == "account" || pk.starts_with("room#")) && (sk == "head" || sk.starts_with("chunk#")) {
                self.world.table.write(&Write::delete(key.clone())).await?;
            }
        }
        Ok(())
    }

    /// A new installation, that Alice's client lets in.
    async fn replace_installation(&mut self) -> Outcome {
        self.world.doorkeeper().await?.begin_recovery(&wallet(), None).await?;
        recover(&self.world, None).await?;
        self.sync().await?;
        self.speak(ALICE, "hello").await?;
        assert!(recover(&self.world, None).await?.finished);
        Ok(())
    }

    /// The same group works again: usher follows it, everybody reads, whom a fact takes out is out, and no leaf of an
    /// old installation is left.
    async fn assert_works(&mut self) -> Outcome {
        let record = record(&self.world).await?;
        let [room] = &record.rooms[..] else { return Err(format!("not one room: {:?}", record.rooms).into()) };
        assert_eq!((GroupId(room.group.0), &room.state), (self.room, &RoomState::Active));
        look(&self.world, &self.world.doorkeeper().await?).await?;
        let ends = self.world.invoke("refund", &sample_facts("07-refund-alice.json")).await?;
        assert!(matches!(ends[..], [Converged::Done { .. }]), "{ends:?}");
        self.sync().await?;
        assert_eq!(self.people[ALICE].group(self.room)?.lost(), Some(&Lost::Ejected));
        self.people[BOB].send_text(self.room, "without Alice").await?;
        self.sync().await?;
        assert_eq!(self.people[CREATOR].texts(self.room).last().map(String::as_str), Some("without Alice"));
        assert!(!self.people[ALICE].texts(self.room).contains(&"without Alice".to_owned()));

        let (usher, installations) = account(&self.world).await?;
        assert_eq!(installations.len(), 1, "one installation is left");
        let members = self.people[BOB].group(self.room)?.members();
        assert_eq!(members[&usher].installations, installations);
        assert_eq!(members.len(), 3, "usher, the creator and Bob");
        Ok(())
    }
}

/// usher's inbox and its installations, by the network.
async fn account(world: &World) -> Result<(InboxId, BTreeSet<InstallationId>), AnyError> {
    let network = world.parts().await?.network;
    let inbox = usher_xmtp::inbox_of(wallet().address(), &*network).await?;
    let mut identities = Identities::default();
    identities.load(&*network, [&inbox]).await?;
    let installations = identities.latest(&inbox).expect("usher is registered").1.installations();
    Ok((inbox, installations))
}

async fn look(world: &World, doorkeeper: &Doorkeeper) -> Result<Converged, AnyError> {
    Ok(doorkeeper.converge(&event(), "look", world.clock.now_ms() + 25_000, Cause::Nudge).await?)
}

async fn recover(world: &World, give_up_after_ms: Option<u64>) -> Result<Progress, AnyError> {
    let progress = world.doorkeeper().await?.recover(&wallet(), give_up_after_ms).await?;
    Ok(progress.ok_or("no recovery is under way")?)
}

#[tokio::test]
async fn the_same_group_works_again_after_all_snapshots_are_gone() -> Outcome {
    let mut story = Story::new().await?;
    story.restore_without_snapshots().await?;
    let (_, before) = account(&story.world).await?;

    story.world.doorkeeper().await?.begin_recovery(&wallet(), None).await?;
    // Until the new installation is registered, functions find no account and leave rooms alone.
    let ended = look(&story.world, &story.world.doorkeeper().await?).await?;
    assert_eq!(ended, Converged::NotReady);
    let progress = recover(&story.world, None).await?;
    assert!(!progress.finished && progress.held.is_empty(), "{progress:?}");
    assert_eq!((progress.installations, progress.identity_updates), (2, 2));
    assert!(matches!(progress.rooms[..], [ref room] if matches!(room.state, RoomState::AwaitingWelcome { .. })));
    // A room that waits is not at rest, and nothing is written to it; a buyer waits, too.
    let ended = look(&story.world, &story.world.doorkeeper().await?).await?;
    assert!(matches!(ended, Converged::Unfinished { .. }), "{ended:?}");

    story.speak(ALICE, "anybody there?").await?;
    let progress = recover(&story.world, None).await?;
    assert!(progress.finished, "{progress:?}");
    let (_, after) = account(&story.world).await?;
    assert_eq!(after.len(), 1);
    assert!(before.is_disjoint(&after));
    story.assert_works().await
}

/// The sweep receives the welcome; the operator only ends it.
#[tokio::test]
async fn the_sweep_receives_welcomes() -> Outcome {
    let mut story = Story::new().await?;
    story.restore_without_snapshots().await?;
    story.world.doorkeeper().await?.begin_recovery(&wallet(), None).await?;
    recover(&story.world, None).await?;
    let doorkeeper = story.world.doorkeeper().await?;
    assert!(!doorkeeper.keep_up().await?, "nobody has spoken");
    story.speak(BOB, "hello").await?;
    assert!(doorkeeper.keep_up().await?);
    assert_eq!(record(&story.world).await?.rooms[0].state, RoomState::Active);
    let ended = look(&story.world, &doorkeeper).await?;
    assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
    assert!(recover(&story.world, None).await?.finished);
    story.assert_works().await
}

/// The snapshots are there, and old: nothing is committed from them.
#[tokio::test]
async fn an_old_snapshot_is_never_written_from() -> Outcome {
    let mut story = Story::new().await?;
    let restored = story.world.fork().await?;
    story.world.invoke("resale", &sample_facts("06-resale-bob-to-erin.json")).await?;
    let network = story.world.parts().await?.network;
    let newest = async || network.newest_group_messages(&[story.room]).await;
    let before = newest().await?;

    restored.doorkeeper().await?.begin_recovery(&wallet(), None).await?;
    recover(&restored, None).await?;
    restored.invoke("resale", &sample_facts("06-resale-bob-to-erin.json")).await?;
    restored.clock.advance(Duration::from_secs(60));
    restored.sweep("sweep").await?;
    assert_eq!(newest().await?, before, "nothing was sent to the room");
    drop(network);

    story.world = restored;
    story.people[CREATOR].sync().await?;
    story.speak(CREATOR, "hello").await?;
    assert!(recover(&story.world, None).await?.finished);
    look(&story.world, &story.world.doorkeeper().await?).await?;
    story.sync().await?;
    assert_eq!(story.people[BOB].group(story.room)?.lost(), Some(&Lost::Ejected), "the resale counts");
    assert!(story.people[ALICE].group(story.room)?.lost().is_none());
    Ok(())
}

#[tokio::test]
async fn a_room_where_nobody_speaks_is_given_up_and_gets_a_successor() -> Outcome {
    let mut story = Story::new().await?;
    story.restore_without_snapshots().await?;
    story.world.doorkeeper().await?.begin_recovery(&wallet(), None).await?;
    recover(&story.world, Some(DAY_MS)).await?;
    story.world.clock.advance(DAY / 2);
    assert!(!recover(&story.world, Some(DAY_MS)).await?.finished);
    story.world.clock.advance(DAY);
    assert!(recover(&story.world, Some(DAY_MS)).await?.finished);
    story.world.sweep("sweep").await?;
    let [lost, heir] = &record(&story.world).await?.rooms[..] else { panic!("two rooms") };
    assert!(matches!(lost.state, RoomState::Lost { .. }), "{lost:?}");
    assert_eq!((&heir.state, heir.succeeds), (&RoomState::Active, Some(lost.group)));
    story.sync().await?;
    let room = GroupId(heir.group.0);
    for person in &story.people {
        assert_eq!(person.group(room)?.members().len(), 4);
    }
    // The new room knows nothing of the old installation's leaf.
    assert_eq!(account(&story.world).await?.1.len(), 1);
    Ok(())
}

/// Draws the same group id again.
struct Forger(GroupId);

impl Randomness for Forger {
    fn fill(&self, bytes: &mut [u8]) {
        if bytes.len() == self.0.0.len() { bytes.copy_from_slice(&self.0.0) } else { Ambient.fill(bytes) }
    }
}

/// Whoever knows a group's id can make another by that name and let usher in there.
#[tokio::test]
async fn a_welcome_to_another_group_of_the_same_name_is_not_followed() -> Outcome {
    let mut story = Story::new().await?;
    story.restore_without_snapshots().await?;
    story.world.doorkeeper().await?.begin_recovery(&wallet(), None).await?;
    recover(&story.world, None).await?;
    let network = Arc::new(V3::new(&story.world.node.url(), Duration::from_secs(4))?);
    let (clock, forger) = (Arc::new(SystemClock), Arc::new(Forger(story.room)));
    let mut alice = Person::register_on(network, &ANVIL_KEYS[1], clock, forger).await?;
    let usher = account(&story.world).await?.0;
    let forged = alice.create_group("the same", Policies::admin_only(), &[usher].into()).await?;
    assert_eq!(forged, story.room);

    assert!(!recover(&story.world, None).await?.finished);
    assert!(matches!(record(&story.world).await?.rooms[0].state, RoomState::AwaitingWelcome { .. }));
    story.sync().await?;
    story.speak(BOB, "hello").await?;
    assert!(recover(&story.world, None).await?.finished);
    story.assert_works().await
}

/// A process that was warm before notices at the first room that the account is another one.
#[tokio::test]
async fn a_warm_process_goes_on_with_the_new_installation() -> Outcome {
    let mut story = Story::new().await?;
    let warm = story.world.doorkeeper().await?;
    look(&story.world, &warm).await?;
    story.world.doorkeeper().await?.begin_recovery(&wallet(), None).await?;
    recover(&story.world, None).await?;
    story.speak(ALICE, "hello").await?;
    assert!(recover(&story.world, None).await?.finished);
    let first = look(&story.world, &warm).await?;
    assert!(matches!(first, Converged::Unfinished { .. }), "{first:?}");
    let second = look(&story.world, &warm).await?;
    assert!(matches!(second, Converged::Done { .. }), "{second:?}");
    story.assert_works().await
}

/// What the old installation still owed is done by the new one.
#[tokio::test]
async fn a_welcome_that_was_still_to_be_sent_is_made_good() -> Outcome {
    let mut story = Story::new().await?;
    let mut carol = story.world.person(3).await?;
    let faults = story.world.node.faults();
    faults.fail(Method::SendWelcomeMessages, Fault::Unavailable);
    let ends = story.world.invoke("purchase", &sample_facts("04-purchase-carol.json")).await?;
    assert!(matches!(ends[..], [Converged::Unfinished { .. }]), "{ends:?}");
    faults.heal(Method::SendWelcomeMessages);
    story.replace_installation().await?;

    carol.sync().await?;
    assert_eq!(carol.groups().count(), 0);
    assert_eq!(story.people[ALICE].group(story.room)?.members().len(), 5, "Carol is a member and cannot know");
    look(&story.world, &story.world.doorkeeper().await?).await?;
    carol.sync().await?;
    story.sync().await?;
    story.people[BOB].send_text(story.room, "welcome").await?;
    carol.sync().await?;
    assert_eq!(carol.texts(story.room), ["welcome"]);
    Ok(())
}

#[tokio::test]
async fn limits_and_wallets_are_checked_before_anything_is_changed() -> Outcome {
    let story = Story::new().await?;
    let before = story.world.table.dump();
    let unchanged = |world: &World| {
        let without = |items: Vec<(Key, _)>| items.into_iter().filter(|(key, _)| key.sk != "lease").collect::<Vec<_>>();
        assert_eq!(without(world.table.dump()), without(before.clone()));
    };
    let other = LocalWallet::from_key(&[0xdd; 32])?;
    let doorkeeper = story.world.doorkeeper().await?;
    let refused = doorkeeper.begin_recovery(&other, None).await.unwrap_err();
    assert!(matches!(refused, RecoverError::NothingToRecover(_)), "{refused:?}");
    unchanged(&story.world);
    // A wallet that has an inbox with an installation, and not the stored account's.
    let alice = LocalWallet::from_key(&ANVIL_KEYS[1])?;
    let refused = doorkeeper.begin_recovery(&alice, None).await.unwrap_err();
    assert!(matches!(refused, RecoverError::OtherWallet { .. }), "{refused:?}");
    unchanged(&story.world);
    for _ in 1..INSTALLATIONS_MAX {
        Person::register(&World::WALLET_KEY, &story.world.node.url()).await?;
    }
    let refused = doorkeeper.begin_recovery(&wallet(), None).await.unwrap_err();
    let RecoverError::Account(AccountError::TooManyInstallations(_)) = refused else {
        panic!("{refused:?}");
    };
    unchanged(&story.world);
    assert!(doorkeeper.recover(&wallet(), None).await?.is_none(), "none is under way");
    Ok(())
}

/// After a month the key package is another, and a welcome made for the new one lets usher in.
#[tokio::test]
async fn the_key_package_is_replaced_monthly() -> Outcome {
    let story = Story::new().await?;
    let parts = story.world.parts().await?;
    let installation = account(&story.world).await?.1.into_iter().next().expect("one");
    let served = async || parts.network.key_packages(&[installation]).await.map(|mut found| found.remove(0));
    let first = served().await?;
    let (one, two) = (story.world.doorkeeper().await?, story.world.doorkeeper().await?);
    look(&story.world, &two).await?;
    assert!(!one.keep_up().await?, "it is fresh");
    story.world.clock.advance(31 * DAY);
    assert!(one.keep_up().await?);
    let second = served().await?;
    assert_ne!(first, second);
    assert!(!one.keep_up().await?);
    assert!(!two.keep_up().await?, "another warm process sees that it is done");
    assert_eq!(served().await?, second);
    Ok(())
}

/// A room at rest gets a new data key after three months, one that changes after one.
#[tokio::test]
async fn data_keys_are_replaced() -> Outcome {
    let story = Story::new().await?;
    let head = Key::new(format!("room#{}", story.room), "head");
    let account = Key::new("account", "head");
    let key = async |of: &Key| -> Result<usher_store::table::Value, AnyError> {
        Ok(story.world.table.get(of).await?.ok_or("no head")?["data_key"].clone())
    };
    let (first, first_of_account) = (key(&head).await?, key(&account).await?);
    story.world.clock.advance(60 * DAY);
    look(&story.world, &story.world.doorkeeper().await?).await?;
    assert_eq!(key(&head).await?, first, "nothing changed");
    story.world.clock.advance(31 * DAY);
    let ended = look(&story.world, &story.world.doorkeeper().await?).await?;
    assert!(matches!(ended, Converged::Done { .. }), "{ended:?}");
    let second = key(&head).await?;
    assert_ne!(second, first);
    look(&story.world, &story.world.doorkeeper().await?).await?;
    assert_eq!(key(&head).await?, second);
    story.world.doorkeeper().await?.keep_up().await?;
    assert_ne!(key(&account).await?, first_of_account);
    Ok(())
}
