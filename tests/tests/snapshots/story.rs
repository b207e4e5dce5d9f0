//! A room with usher, the creator, Alice and Bob, and what can be said of it afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use usher_domain::{EventKey, ports::Clock as _};
use usher_doorkeeper::{Cause, ConvergeError, Converged, Doorkeeper, Parts, Policy};
use usher_localnet::{ambient::SystemClock, person::Person, xmtp_node::NodeOptions};
use usher_store::{
    EventRecord, Owner, RoomRecord, RoomState, Table,
    event::event_key,
    table::{Item, Key, Write},
};
use usher_tests::world::{AnyError, World, sample_facts};
use usher_xmtp::{GroupId, ports::Clock};

pub(crate) type Outcome = Result<(), AnyError>;

/// Everything stored.
pub(crate) type Dump = BTreeMap<Key, Item>;

pub(crate) fn event() -> EventKey {
    "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse().unwrap()
}

/// The node's clock, which a test can move.
#[derive(Debug, Default)]
pub(crate) struct NodeClock {
    ahead_ns: AtomicU64,
}

impl NodeClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.ahead_ns.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for NodeClock {
    fn now_ns(&self) -> u64 {
        SystemClock.now_ns() + self.ahead_ns.load(Ordering::SeqCst)
    }
}

pub(crate) async fn world(clock: Arc<NodeClock>) -> Result<World, AnyError> {
    World::start_on(NodeOptions { clock, ..NodeOptions::on_free_ports() }).await
}

pub(crate) fn dump(world: &World) -> Dump {
    world.table.dump().into_iter().collect()
}

pub(crate) async fn put(world: &World, key: Key, item: Item) -> Outcome {
    world.table.write(&Write::put(key, item)).await?;
    Ok(())
}

pub(crate) fn head_of(owner: &Owner) -> Key {
    Key::new(owner.to_string(), "head")
}

pub(crate) fn owner(room: GroupId) -> Owner {
    Owner::Room(usher_domain::GroupId(room.0))
}

pub(crate) async fn record(world: &World) -> Result<EventRecord, AnyError> {
    Ok(world.store().event(&event()).await?.ok_or("the event is not in the ledger")?)
}

/// The only room there is.
pub(crate) async fn only_room(world: &World) -> Result<GroupId, AnyError> {
    let rooms = record(world).await?.rooms;
    let [room] = &rooms[..] else { return Err(format!("not one room: {rooms:?}").into()) };
    assert_eq!(room.state, RoomState::Active);
    Ok(GroupId(room.group.0))
}

/// An invocation that looks at the event.
pub(crate) async fn look(world: &World, doorkeeper: &Doorkeeper) -> Result<Converged, ConvergeError> {
    doorkeeper.converge(&event(), "look", world.clock.now_ms() + 25_000, Cause::Nudge).await
}

/// The same, by a process that has just started.
pub(crate) async fn cold_look(world: &World) -> Result<Converged, AnyError> {
    Ok(look(world, &world.doorkeeper().await?).await?)
}

/// A cold doorkeeper of a deployment with this policy.
pub(crate) async fn with_policy(world: &World, policy: Policy) -> Result<Doorkeeper, AnyError> {
    Ok(Doorkeeper::new(Parts { policy, ..world.parts().await? }))
}

/// The newest message in a room's log.
pub(crate) async fn newest(world: &World, room: GroupId) -> Result<u64, AnyError> {
    let newest = world.parts().await?.network.newest_group_messages(&[room]).await?;
    Ok(newest[0].ok_or("the room has no log")?.id)
}

/// Who may still be altered of what was stored `before`: the event's lease, the fences of heads, and, where the room is
/// declared lost, its record. What is new belongs to the successor.
pub(crate) fn assert_nothing_overwritten(
    before: &Dump,
    after: &Dump,
    lost: Option<&RoomRecord>,
    heir: Option<&RoomRecord>,
) {
    let without = |item: &Item, gone: &[&str]| {
        let mut item = item.clone();
        gone.iter().for_each(|name| _ = item.remove(*name));
        item
    };
    let lost = lost.map(|record| record.write().key);
    for (key, item) in before.iter().filter(|(key, _)| Some(*key) != lost.as_ref()) {
        let now = after.get(key).unwrap_or_else(|| panic!("{key:?} is gone"));
        let bookkeeping: &[&str] = if *key == event_key(&event()) {
            &[
                "fence",
                "lease_owner",
                "lease_until_ms",
                "due_shard",
                "due_at_ms",
                "behind_since_ms",
                "converged_generation",
            ]
        } else if key.sk == "head" {
            &["fence"]
        } else {
            &[]
        };
        assert_eq!(without(now, bookkeeping), without(item, bookkeeping), "{key:?}");
    }
    let heir = heir.map(|record| (record.write().key, Owner::Room(record.group).to_string()));
    for key in after.keys().filter(|key| !before.contains_key(key)) {
        let expected = heir.as_ref().is_some_and(|(record, owner)| key == record || key.pk == *owner)
            // A claim of a head that is gone leaves one with nothing but a fence.
            || after[key].keys().all(|name| ["pk", "sk", "fence"].contains(&name.as_str()));
        assert!(expected, "{key:?} is new");
    }
}

/// A deployment after the creator minted, and Alice and then Bob bought a ticket.
pub(crate) struct Story {
    pub(crate) world: World,
    pub(crate) clock: Arc<NodeClock>,
    pub(crate) people: [Person; 3],
    pub(crate) room: GroupId,
    /// What was stored before Bob bought his ticket.
    pub(crate) before_bob: Dump,
    /// What the deployment decides from now on.
    pub(crate) policy: Policy,
}

pub(crate) const CREATOR: usize = 0;
pub(crate) const ALICE: usize = 1;
pub(crate) const BOB: usize = 2;

impl Story {
    pub(crate) async fn new() -> Result<Self, AnyError> {
        let clock = Arc::new(NodeClock::default());
        let world = world(clock.clone()).await?;
        let mut people = [world.person(0).await?, world.person(1).await?, world.person(2).await?];
        for file in ["01-mint.json", "02-purchase-alice.json"] {
            world.invoke(file, &sample_facts(file)).await?;
        }
        let before_bob = dump(&world);
        // The creator and Alice are there before Bob comes, and do not look at the log again.
        for person in &mut people {
            person.sync().await?;
        }
        world.invoke("bob", &sample_facts("03-purchase-bob.json")).await?;
        let room = only_room(&world).await?;
        Ok(Self { world, clock, people, room, before_bob, policy: Policy::default() })
    }

    /// The lost room's record says why; its successor, which is named, has all seats, and all read there; nobody is
    /// told to be out; and another look changes nothing.
    pub(crate) async fn assert_succeeded(&mut self, world: &World, reason: &str) -> Result<RoomRecord, AnyError> {
        let rooms = record(world).await?.rooms;
        let [lost, heir] = &rooms[..] else { return Err(format!("not two rooms: {rooms:?}").into()) };
        let RoomState::Lost { reason: told } = &lost.state else { panic!("{lost:?}") };
        assert!(told.contains(reason), "{told}");
        assert_eq!((GroupId(lost.group.0), &heir.state), (self.room, &RoomState::Active));
        assert_eq!(heir.succeeds, Some(lost.group));
        let standing = world.store().standing(&heir.incarnation).await?;
        assert_eq!(standing.marked, [], "nobody was banned, and nobody left");
        assert_eq!(standing.waiting, [], "nobody waits");

        let room = GroupId(heir.group.0);
        let expected: BTreeSet<_> = self.people.iter().map(|person| person.inbox().unwrap()).collect();
        for person in &mut self.people {
            person.sync().await?;
        }
        for person in &self.people {
            let group = person.group(room)?;
            assert_eq!(group.lost(), None);
            let members: BTreeSet<_> = group.members().into_keys().collect();
            assert_eq!(members.len(), 4, "usher and three people: {members:?}");
            assert!(members.is_superset(&expected));
        }
        self.people[ALICE].send_text(room, reason).await?;
        self.people[BOB].sync().await?;
        assert_eq!(self.people[BOB].texts(room), [reason]);

        let (stored, sent) = (dump(world), newest(world, self.room).await?);
        let again = look(world, &with_policy(world, self.policy.clone()).await?).await?;
        assert!(matches!(again, Converged::Done { commits: 0, .. }), "{again:?}");
        let room_items = |dump: &Dump| -> Dump {
            let pk = Owner::Room(lost.group).to_string();
            dump.iter().filter(|(key, _)| key.pk == pk).map(|(key, item)| (key.clone(), item.clone())).collect()
        };
        assert_eq!(room_items(&dump(world)), room_items(&stored), "a lost room is not even claimed");
        assert_eq!(newest(world, self.room).await?, sent, "a lost room is never written again");
        Ok(lost.clone())
    }
}

/// The record of the successor, if there is one.
pub(crate) async fn heir(world: &World) -> Result<Option<RoomRecord>, AnyError> {
    Ok(record(world).await?.rooms.into_iter().find(|room| room.succeeds.is_some()))
}
