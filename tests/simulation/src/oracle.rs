//! What should be once faults have stopped: who sits where, and who reads what.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use usher_store::{Owner, RoomRecord, RoomState};
use usher_xmtp::{Account, Group, GroupId, group::Event};

use crate::{
    people::{Deed, Mark, Somebody},
    stored::AccountState,
    world::{NEWEST, World},
};

/// Whether somebody should be in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Should {
    BeIn,
    BeOut,
    /// It depends on what usher heard first.
    Either,
}

/// One room and who should be in it.
struct Expected {
    room: GroupId,
    people: BTreeMap<usize, Should>,
}

async fn expected(world: &World, wrong: &mut Vec<String>) -> Vec<Expected> {
    let state = world.chain.state();
    let rooms = world.rooms().await;
    let mut all = Vec::new();
    for (mint, it) in world.chain.mints.iter().enumerate() {
        let live = state.minted.get(&it.event.id.to::<u64>()) == Some(&mint);
        let hash = world.chain.hash_of_mint(mint);
        let of_mint: Vec<_> = rooms
            .iter()
            .filter(|room| room.incarnation.creator == it.event.creator && room.incarnation.event == it.event.key())
            .collect();
        let active: Vec<_> = of_mint.iter().filter(|room| room.state == RoomState::Active).collect();
        let groups: Vec<GroupId> = of_mint.iter().map(|room| GroupId(room.group.0)).collect();
        for (room, group) in of_mint.iter().zip(&groups) {
            let spoilt = world.people.spoilt.lock().expect("no panic").contains(group);
            if room.state != RoomState::Active && !spoilt {
                wrong.push(format!("room {group} is lost: {:?}", room.state));
            }
        }
        let current = active.iter().filter(|room| live && Some(room.incarnation.transaction) == hash);
        if live && current.count() != 1 {
            wrong.push(format!("mint {mint} has {} rooms", active.len()));
        }
        for room in active {
            let group = GroupId(room.group.0);
            let counts = live && Some(room.incarnation.transaction) == hash;
            // Guests and bans are an incarnation's: minted anew, an event begins without them.
            let same = |it: &&&RoomRecord| it.incarnation == room.incarnation;
            let groups: Vec<GroupId> = of_mint.iter().filter(same).map(|it| GroupId(it.group.0)).collect();
            let people = world.people.all.lock().expect("no panic").len();
            let should = |who| (who, if counts { should(world, &state, mint, &groups, who) } else { Should::BeOut });
            all.push(Expected { room: group, people: (0..people).map(should).collect() });
        }
    }
    all
}

fn should(world: &World, state: &crate::chain::State, mint: usize, rooms: &[GroupId], who: usize) -> Should {
    let all = world.people.all.lock().expect("no panic");
    let somebody = &all[who];
    if somebody.inbox.is_none() {
        return Should::BeOut;
    }
    let reachable = somebody.devices.iter().any(|device| !device.revoked && !device.spoiled);
    let titled = world.chain.mints[mint].creator == who || state.holders(mint).any(|holder| holder == who);
    let held = world.chain.ever_held.get(&mint).is_some_and(|held| held.contains(&who));
    let marks = world.people.marks.lock().expect("no panic");
    // What befell somebody in a room that was lost holds in its successor. The network numbers all logs together.
    let marks: BTreeMap<u64, Mark> =
        rooms.iter().filter_map(|room| marks.get(&(*room, who))).flatten().map(|(id, mark)| (*id, *mark)).collect();
    let left = marks.values().any(|mark| *mark == Mark::Left);
    let by_admin = marks.values().rfind(|mark| **mark != Mark::Left).copied();
    let in_if_reachable = if reachable { Should::BeIn } else { Should::Either };
    match (titled, by_admin) {
        // A ticket that was held only while the mint stood on another branch is no title, and yet usher may know the
        // wallet by it.
        (_, Some(Mark::Removed)) if left => Should::Either,
        (_, Some(Mark::Removed)) => Should::BeOut,
        (true, _) if left => Should::Either,
        (true, _) => in_if_reachable,
        (false, Some(Mark::Added)) if held || left => Should::Either,
        (false, Some(Mark::Added)) => in_if_reachable,
        (false, _) => Should::BeOut,
    }
}

/// What is not yet as it should be.
#[derive(Debug, Default)]
pub(crate) struct Wrong {
    /// What sweeps alone put right.
    pub(crate) soon: Vec<String>,
    /// Members' devices that are missing, or were given up and are still in. No room tells of them until somebody
    /// speaks in it (XMTP's clients then add and remove them); usher looks by itself once a day.
    pub(crate) within_a_day: Vec<String>,
}

impl Wrong {
    pub(crate) fn is_empty(&self) -> bool {
        self.soon.is_empty() && self.within_a_day.is_empty()
    }
}

/// What is not yet as it should be.
pub(crate) async fn wrong(world: &World) -> Wrong {
    let mut wrong = Vec::new();
    let mut missing = Vec::new();
    for event in world.store.events().await.expect("memory answers") {
        let Some(record) = world.store.event(&event).await.expect("readable") else { continue };
        if record.held.is_some() || record.converged_generation != Some(record.generation) || record.replaying {
            let (generation, converged) = (record.generation, record.converged_generation);
            let (held, replaying, due_ms) = (record.held, record.replaying, record.due_at_ms);
            wrong.push(format!(
                "event {} is not at rest: generation {generation}, converged {converged:?}, held {held:?}, replaying \
                 {replaying}, due {due_ms:?}",
                event.event_id
            ));
        }
    }
    let seen: BTreeMap<GroupId, u64> =
        world.rooms().await.into_iter().map(|room| (GroupId(room.group.0), room.seen)).collect();
    for Expected { room, people } in expected(world, &mut wrong).await {
        // While its budget of calls is spent, usher looks at no log: who should be in may not be in for long.
        if world.node.log(room).last().is_some_and(|newest| newest.id > seen[&room]) {
            wrong.push(format!("room {room} has messages that were not looked at"));
        }
        let stored = world.snapshots.load(&Owner::Room(usher_domain::GroupId(room.0))).await;
        let Some(stored) = stored.expect("readable") else {
            wrong.push(format!("room {room} has no snapshot"));
            continue;
        };
        let group = Group::decode(&stored.plaintext).expect("readable");
        let members = group.members();
        let all = world.people.all.lock().expect("no panic");
        let known: BTreeSet<_> = all.iter().filter_map(|it| it.inbox.clone()).chain([world.usher.clone()]).collect();
        if let Some(stranger) = members.keys().find(|inbox| !known.contains(*inbox)) {
            wrong.push(format!("stranger {stranger} is in room {room}"));
        }
        for (who, somebody) in all.iter().enumerate() {
            let Some(member) = somebody.inbox.as_ref().and_then(|inbox| members.get(inbox)) else { continue };
            for (number, device) in somebody.devices.iter().enumerate().filter(|(_, it)| it.revoked) {
                let installation = device.client.as_ref().and_then(|client| client.installation().ok());
                if installation.is_some_and(|it| member.installations.contains(&it)) {
                    missing.push(format!("device {who}.{number} was given up and is in room {room}"));
                }
            }
        }
        for (who, should) in people {
            let inside = all[who].inbox.as_ref().is_some_and(|inbox| members.contains_key(inbox));
            match should {
                Should::BeIn if !inside => wrong.push(format!("person {who} is missing in room {room}")),
                Should::BeOut if inside => wrong.push(format!("person {who} is in room {room}")),
                _ => {}
            }
            let member = all[who].inbox.as_ref().filter(|_| should == Should::BeIn).and_then(|it| members.get(it));
            let Some(member) = member else { continue };
            if !all[who].is_sound() {
                continue;
            }
            for (number, device) in all[who].devices.iter().enumerate().filter(|(_, it)| !it.revoked) {
                let installation = device.client.as_ref().and_then(|client| client.installation().ok());
                if !installation.is_some_and(|it| member.installations.contains(&it)) {
                    missing.push(format!("device {who}.{number} is missing in room {room}"));
                }
            }
            if all[who].inbox.as_ref().is_some_and(|inbox| group.stranded().contains(inbox)) {
                wrong.push(format!("person {who} cannot see room {room}"));
            }
        }
        if group.has_welcomes() || group.has_pending_commit() {
            wrong.push(format!("room {room} has something left to send"));
        }
    }
    account(world, &mut wrong).await;
    Wrong { soon: wrong, within_a_day: missing }
}

/// There is one installation, and who serves its key package serves one that can be opened and is young.
async fn account(world: &World, wrong: &mut Vec<String>) {
    let Some(stored) = world.snapshots.load(&Owner::Account).await.expect("readable") else {
        return wrong.push("there is no account".to_owned());
    };
    let account = Account::decode(&stored.plaintext).expect("readable");
    let state = AccountState::decode(stored.plaintext.as_slice()).expect("readable");
    let installations = world.node.installations(&world.usher);
    if installations != BTreeSet::from([account.installation()]) {
        wrong.push(format!("usher has {} installations", installations.len()));
    }
    let served = world.node.key_packages(&[account.installation()]).pop().flatten();
    if !served.is_some_and(|served| state.keeps(&served)) {
        wrong.push("the node serves a key package of usher's that nobody can open".to_owned());
    }
    if account.awaits_upload() || account.key_package_is_old(&*world.shared) {
        wrong.push("the account's key package is old".to_owned());
    }
}

/// Somebody speaks in each room: who should be in hears it, and nobody else can, with whatever keys he ever had.
pub(crate) async fn read(world: &mut World) {
    let devices: Vec<(usize, usize)> = {
        let all = world.people.all.lock().expect("no panic");
        let of = |(who, it): (usize, &Somebody)| {
            let devices = it.devices.iter().enumerate().filter(|(_, device)| !device.revoked);
            devices.map(move |(device, _)| (who, device)).collect::<Vec<_>>()
        };
        all.iter().enumerate().flat_map(of).collect()
    };
    for (who, device) in &devices {
        world.now(*who, *device, None, Deed::Sync);
    }
    for Expected { room, people } in expected(world, &mut Vec::new()).await {
        let sound: Vec<bool> = world.people.all.lock().expect("no panic").iter().map(|it| it.is_sound()).collect();
        let inside = |who: &usize| people[who] == Should::BeIn && sound[*who];
        let Some((speaker, device_of_speaker)) = devices.iter().find(|(who, _)| inside(who)).copied() else {
            let belongs = people.values().any(|should| *should != Should::BeOut);
            world.shared.count(if belongs { "rooms without a sound speaker" } else { "rooms that belong to nobody" });
            continue;
        };
        world.shared.count("rooms read");
        world.now(speaker, device_of_speaker, Some(room), Deed::Say(NEWEST));
        for (who, device) in &devices {
            world.now(*who, *device, None, Deed::Sync);
        }
        world.shared.trace(|| format!("room {room}: {people:?}"));
        show(world, &devices, room);
        let hearers = hearers(world, &devices, room);
        for device in devices.iter().filter(|device| **device != (speaker, device_of_speaker)) {
            let ((who, number), hears) = (device, hearers.contains(device));
            match people[who] {
                Should::BeIn if !hears && sound[*who] => {
                    world.shared.broken(format!("person {who}.{number} belongs to room {room} and hears nothing"));
                }
                Should::BeOut if hears => {
                    world.shared.broken(format!("person {who}.{number} was put out of room {room} and hears"));
                }
                _ if hears => world.shared.count("hearers"),
                _ => {}
            }
        }
        listen_in(world, room, &people).await;
    }
}

/// Whoever was put out, and every device that was given up, tries with all keys it ever had.
async fn listen_in(world: &World, room: GroupId, people: &BTreeMap<usize, Should>) {
    let devices: Vec<(usize, usize, bool)> = {
        let all = world.people.all.lock().expect("no panic");
        let of = |(who, it): (usize, &Somebody)| {
            let each = it.devices.iter().enumerate();
            each.map(move |(device, it)| (who, device, it.revoked)).collect::<Vec<_>>()
        };
        all.iter().enumerate().flat_map(of).collect()
    };
    let judge = |who: usize, deaf: &'static str, heard: Option<Vec<String>>| match heard {
        Some(heard) if heard.iter().any(|text| text == NEWEST) => {
            world.shared.broken(format!("person {who} can read room {room}, and should count as \"{deaf}\""));
        }
        Some(_) => world.shared.count(deaf),
        // There is nothing to try with.
        None => {}
    };
    for (who, device, revoked) in devices {
        if revoked || people[&who] == Should::BeOut {
            let deaf = if revoked { "deaf devices that were given up" } else { "deaf devices of who was put out" };
            judge(who, deaf, world.people.overhear(who, device, room).await);
        }
    }
    if let Some(rogue) = world.people.rogue.filter(|rogue| people[rogue] == Should::BeOut) {
        judge(rogue, "deaf modified clients", world.people.rogue_overhears(rogue, room).await);
    }
}

/// How everybody sees a room, for the trace.
fn show(world: &World, devices: &[(usize, usize)], room: GroupId) {
    let all = world.people.all.lock().expect("no panic");
    for (who, device) in devices {
        let Some(client) = all[*who].devices[*device].client.as_ref() else { continue };
        let view = match client.group(room) {
            Ok(group) => format!("epoch {}, cursor {}, {:?}", group.epoch(), group.cursor().latest(), group.lost()),
            Err(error) => error.to_string(),
        };
        let last: Vec<_> = client.events(room).iter().rev().take(6).map(event).collect();
        world.shared.trace(|| format!("{who}.{device}: {view}; {}; {:?}", last.join(" < "), client.dropped()));
    }
}

fn event(event: &Event) -> String {
    match event {
        Event::Received(received) => format!("{} received", received.id),
        Event::Committed(committed) => format!("{} leads to epoch {}", committed.id, committed.epoch),
        Event::Superseded => "superseded".to_owned(),
        Event::Skipped { id, reason } => format!("{id} skipped: {reason}"),
    }
}

/// The devices that have read the newest words.
fn hearers(world: &World, devices: &[(usize, usize)], room: GroupId) -> BTreeSet<(usize, usize)> {
    let all = world.people.all.lock().expect("no panic");
    let hears = |(who, device): &&(usize, usize)| {
        let client = all[*who].devices[*device].client.as_ref();
        client.is_some_and(|client| client.texts(room).iter().any(|text| text == NEWEST))
    };
    devices.iter().filter(hears).copied().collect()
}
