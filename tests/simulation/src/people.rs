//! The people: members of real MLS groups, with devices, wishes and faults of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use openmls::{
    framing::{MlsMessageIn, ProcessedMessageContent},
    prelude::ProtocolMessage,
};
use prost::Message as _;
use tls_codec::Deserialize as _;
use usher_fuzz::rogue::{self, Candidate, Rogue};
use usher_localnet::person::{Person, PersonError};
use usher_xmtp::{
    Group, GroupId, Wrapping,
    content::{self, Content},
    group::{Committed, Event},
    identity::{InboxId, InstallationKey, LocalWallet, add_installation_update},
    network::{Network as _, OutgoingMessage},
    ports::{Clock as _, Randomness},
    proto::contents::group_updated,
};

use crate::{
    hostile::{self, Flaw, Offence},
    network::MemberNetwork,
    node::Node,
    shared::Shared,
    stored::RoomState,
};

/// What people say to each other all the time.
pub(crate) const CHAT: &str = "hello, is anybody here";

/// What an admin did to an inbox in a room, by the id of his commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Removed,
    Added,
    /// It asked to leave; not a commit's doing.
    Left,
}

/// One device of a person; empty while its client is at work.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) client: Option<Person>,
    key: InstallationKey,
    /// It serves a key package that nobody can use.
    pub(crate) spoiled: bool,
    pub(crate) revoked: bool,
    /// How many of its events were looked at, by group.
    looked: BTreeMap<GroupId, usize>,
    /// Its states as a member, the newest of each epoch: what somebody who does not play fair would keep.
    hoard: BTreeMap<(GroupId, u64), Vec<u8>>,
}

/// The commit that led to an epoch.
#[derive(Debug, Clone)]
pub(crate) struct Winner {
    pub(crate) id: u64,
    pub(crate) actor: InboxId,
    pub(crate) actor_is_admin: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Somebody {
    pub(crate) key: [u8; 32],
    pub(crate) devices: Vec<Device>,
    pub(crate) inbox: Option<InboxId>,
    /// Another device of his, with a modified client; empty while it is at work.
    rogue: Option<Candidate>,
}

impl Somebody {
    /// Whether every device that is still his can be added. One that cannot keeps the others from being added again.
    pub(crate) fn is_sound(&self) -> bool {
        self.devices.iter().filter(|device| !device.revoked).all(|device| !device.spoiled)
    }
}

/// Everybody.
pub(crate) struct People {
    shared: Arc<Shared>,
    node: Arc<Node>,
    pub(crate) all: Mutex<Vec<Somebody>>,
    /// Which commit led to an epoch, as members see it.
    pub(crate) commits: Mutex<BTreeMap<(GroupId, u64), Winner>>,
    /// What befell whom, in the order of the log.
    pub(crate) marks: Mutex<BTreeMap<(GroupId, usize), BTreeMap<u64, Mark>>>,
    /// Who has a modified client, if anybody.
    pub(crate) rogue: Option<usize>,
    /// Rooms that may be lost by what he did.
    pub(crate) spoilt: Mutex<BTreeSet<GroupId>>,
}

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Gets a first or another device.
    Register,
    Sync,
    Say(&'static str),
    UpdateKeys,
    Leave,
    RotateKeyPackage,
    /// Serves a key package that nobody can use.
    SpoilKeyPackage(Flaw),
    /// Uploads a good one again.
    MendKeyPackage,
    Forge,
    /// Commits what members refuse, with the modified client.
    Offend(Offence),
    /// The creator lets somebody in.
    Add(usize),
    /// The creator puts somebody out.
    Remove(usize),
    /// Gives up another device.
    Revoke(usize),
}

impl People {
    pub(crate) fn new(shared: Arc<Shared>, node: Arc<Node>, count: usize) -> Self {
        let somebody = |index: usize| Somebody {
            key: [u8::try_from(index + 1).expect("a few people"); 32],
            ..Somebody::default()
        };
        Self {
            shared,
            node,
            all: Mutex::new((0..count).map(somebody).collect()),
            commits: Mutex::default(),
            marks: Mutex::default(),
            rogue: None,
            spoilt: Mutex::default(),
        }
    }

    fn network(&self) -> Arc<MemberNetwork> {
        Arc::new(MemberNetwork { node: self.node.clone(), shared: self.shared.clone() })
    }

    /// Does something with a person's device; with `Register`, `device` is ignored.
    pub(crate) async fn act(&self, who: usize, device: usize, room: Option<GroupId>, deed: Deed) {
        if deed == Deed::Register {
            return self.register(who).await;
        }
        let taken = {
            let mut all = self.all.lock().expect("no panic");
            all[who].devices.get_mut(device).and_then(|device| device.client.take())
        };
        let Some(mut client) = taken else { return };
        let done = self.deed(who, device, &mut client, room, deed).await;
        if let Err(error) = done {
            self.shared.trace(|| format!("person {who}.{device} {deed:?}: {error}"));
            self.shared.count("deeds in vain");
        }
        self.look(who, device, &client);
        self.all.lock().expect("no panic")[who].devices[device].client = Some(client);
    }

    async fn register(&self, who: usize) {
        let key = self.all.lock().expect("no panic")[who].key;
        let seed = Arc::new(Seed { shared: self.shared.clone(), drawn: Mutex::default() });
        let made = Person::register_on(self.network(), &key, self.shared.clone(), seed.clone()).await;
        match made {
            Ok(client) => {
                let key = seed.key();
                assert_eq!(client.installation().ok(), Some(key.public()), "the seed is drawn first");
                self.go_rogue(who, &client).await;
                // Some never had a key package that can be used.
                let flaw = {
                    let dice = &mut self.shared.lock().dice;
                    dice.happens(200)
                        .then(|| dice.weighted(&[(1, Flaw::Junk), (1, Flaw::Expired), (1, Flaw::OtherInbox)]))
                };
                if let Some(flaw) = flaw {
                    self.spoil(&client, &key, flaw);
                }
                self.shared
                    .trace(|| format!("person {who} has installation {:?} of {:?}", key.public(), client.inbox()));
                let mut all = self.all.lock().expect("no panic");
                all[who].inbox = client.inbox().ok();
                let device = Device {
                    client: Some(client),
                    key,
                    spoiled: flaw.is_some(),
                    revoked: false,
                    looked: BTreeMap::new(),
                    hoard: BTreeMap::new(),
                };
                all[who].devices.push(device);
            }
            // Two devices at once make one inbox; the slower one has to try again.
            Err(error) => self.shared.trace(|| format!("person {who} cannot register: {error}")),
        }
    }

    /// The modified client is another installation of the same inbox.
    async fn go_rogue(&self, who: usize, client: &Person) {
        let wallet = {
            let all = self.all.lock().expect("no panic");
            let due = self.rogue == Some(who) && all[who].rogue.is_none();
            due.then(|| LocalWallet::from_key(&all[who].key).expect("a small number is a key"))
        };
        let Some(wallet) = wallet else { return };
        let network = self.network();
        let key = InstallationKey::from_seed(&usher_domain::ports::random(&*self.shared));
        let inbox = client.inbox().expect("readable");
        let update = add_installation_update(&inbox, &wallet, &key, self.shared.now_ns()).await.expect("it signs");
        let candidate = Candidate::apply(rogue::Device { inbox, key }, &*network).await;
        match network.publish_identity_update(update).await {
            Ok(()) => self.all.lock().expect("no panic")[who].rogue = Some(candidate),
            Err(error) => self.shared.trace(|| format!("person {who} does not go rogue: {error}")),
        }
    }

    fn spoil(&self, client: &Person, key: &InstallationKey, flaw: Flaw) {
        let device = rogue::Device { inbox: client.inbox().expect("readable"), key: key.clone() };
        self.shared.count(match flaw {
            Flaw::Junk => "a key package that is none",
            Flaw::Expired => "an expired key package",
            Flaw::OtherInbox => "a key package of another inbox",
        });
        self.node.put_key_package(device.key.public(), hostile::key_package(&device, flaw));
    }

    /// Commits what members refuse, in the epoch in which his honest device is.
    async fn offend(&self, who: usize, client: &Person, offence: Offence) -> Result<(), PersonError> {
        let alive = |room: &GroupId| client.group(*room).is_ok_and(|group| group.lost().is_none());
        let rooms: Vec<GroupId> = client.groups().filter(alive).collect();
        let room = (!rooms.is_empty()).then(|| rooms[self.shared.lock().dice.below(rooms.len())]);
        let Some(room) = room else { return Ok(()) };
        let candidate = self.all.lock().expect("no panic")[who].rogue.take();
        let Some(candidate) = candidate else { return Ok(()) };
        let network = self.network();
        let joined = candidate.join(room, &*network).await;
        self.all.lock().expect("no panic")[who].rogue = Some(candidate);
        let Some(mut rogue) = joined else {
            self.shared.count("offences without a welcome");
            return Ok(());
        };
        let committed: BTreeSet<u64> = client
            .events(room)
            .iter()
            .filter(|event| matches!(event, Event::Committed(_)))
            .filter_map(Event::id)
            .collect();
        rogue.follow(&self.node.log(room), |message| committed.contains(&message.id));
        let epochs = (rogue.group.epoch().as_u64(), client.group(room)?.epoch());
        let data = (epochs.0 == epochs.1).then(|| hostile::commit(&mut rogue, offence)).flatten();
        let Some(data) = data else {
            self.shared.trace(|| format!("no {offence:?} in room {room}, epochs {epochs:?}"));
            self.shared.count("offences in vain");
            return Ok(());
        };
        self.shared.count(if offence.is_fatal() {
            "a commit that ends a room"
        } else {
            "a commit that members refuse"
        });
        self.shared.trace(|| format!("person {who} commits {offence:?} in room {room} in epoch {}", epochs.0));
        if offence.is_fatal() {
            self.spoilt.lock().expect("no panic").insert(room);
        }
        let message = OutgoingMessage { data, sender_hmac: Vec::new(), should_push: false };
        Ok(network.send_group_messages(vec![message]).await?)
    }

    async fn deed(
        &self,
        who: usize,
        device: usize,
        client: &mut Person,
        room: Option<GroupId>,
        deed: Deed,
    ) -> Result<(), PersonError> {
        client.sync().await?;
        let inbox = |other: usize| self.all.lock().expect("no panic")[other].inbox.clone();
        let set_spoiled = |spoiled: bool| self.all.lock().expect("no panic")[who].devices[device].spoiled = spoiled;
        match deed {
            Deed::Register | Deed::Sync => return Ok(()),
            // Who serves a useless one does so until he mends it.
            Deed::RotateKeyPackage if self.all.lock().expect("no panic")[who].devices[device].spoiled => return Ok(()),
            Deed::RotateKeyPackage | Deed::MendKeyPackage => {
                client.rotate_key_package(Wrapping::XWing).await?;
                set_spoiled(false);
                return Ok(());
            }
            Deed::SpoilKeyPackage(flaw) => {
                let key = self.all.lock().expect("no panic")[who].devices[device].key.clone();
                self.spoil(client, &key, flaw);
                set_spoiled(true);
                return Ok(());
            }
            Deed::Revoke(other) => {
                let given_up = {
                    let mut all = self.all.lock().expect("no panic");
                    let other = all[who].devices.get_mut(other);
                    other.and_then(|other| {
                        let given_up = other.client.as_ref().and_then(|client| client.installation().ok());
                        other.revoked |= given_up.is_some();
                        given_up
                    })
                };
                let Some(given_up) = given_up else { return Ok(()) };
                return client.revoke(given_up).await;
            }
            Deed::Offend(offence) => return self.offend(who, client, offence).await,
            _ => {}
        }
        let Some(room) = room.filter(|room| client.group(*room).is_ok_and(|group| group.lost().is_none())) else {
            return Ok(());
        };
        match deed {
            Deed::Say(words) => client.send_text(room, words).await,
            Deed::UpdateKeys => client.update_keys(room).await,
            Deed::Leave => {
                client.leave(room).await?;
                // Where in the log it stands matters little: see the oracle.
                self.mark(room, who, u64::MAX, Mark::Left);
                Ok(())
            }
            Deed::Forge => client.send_forgery(room).await,
            Deed::Add(other) => {
                let Some(inbox) = inbox(other) else { return Ok(()) };
                client.change_members(room, &BTreeSet::from([inbox]), &BTreeSet::new()).await
            }
            Deed::Remove(other) => {
                let Some(inbox) = inbox(other) else { return Ok(()) };
                client.change_members(room, &BTreeSet::new(), &BTreeSet::from([inbox])).await
            }
            _ => Ok(()),
        }
    }

    fn mark(&self, room: GroupId, who: usize, commit: u64, mark: Mark) {
        self.marks.lock().expect("no panic").entry((room, who)).or_default().insert(commit, mark);
    }

    /// Takes note of what a device has seen: one commit for an epoch, whoever looks.
    fn look(&self, who: usize, device: usize, client: &Person) {
        for room in client.groups() {
            let events = client.events(room);
            let from = {
                let mut all = self.all.lock().expect("no panic");
                let looked = all[who].devices[device].looked.entry(room).or_default();
                std::mem::replace(looked, events.len())
            };
            for event in &events[from.min(events.len())..] {
                if *event == Event::Superseded {
                    self.shared.count("members' commits superseded");
                }
                let Event::Committed(committed) = event else { continue };
                self.won(room, committed);
                if committed.actor_is_admin {
                    self.note_deed(room, committed);
                    if Some(&committed.actor) == client.inbox().ok().as_ref() {
                        self.shared.count("an admin's commit");
                    }
                }
                if !committed.actor_is_admin {
                    self.shared.count("a member's commit");
                }
            }
        }
        self.hoard(who, device, client);
    }

    /// Whom an admin other than usher has let in or put out, whoever sees it: his modified client's commits are his, too.
    fn note_deed(&self, room: GroupId, committed: &Committed) {
        let named = |inbox: &str| {
            let all = self.all.lock().expect("no panic");
            all.iter().position(|it| it.inbox.as_ref().is_some_and(|it| it.as_str() == inbox))
        };
        if named(committed.actor.as_str()).is_none() {
            return;
        }
        let (added, removed) = (&committed.change.added_inboxes, &committed.change.removed_inboxes);
        for (inboxes, mark) in [(removed, Mark::Removed), (added, Mark::Added)] {
            for who in inboxes.iter().filter_map(|inbox| named(&inbox.inbox_id)) {
                self.mark(room, who, committed.id, mark);
            }
        }
    }

    fn won(&self, room: GroupId, committed: &Committed) {
        let Committed { id, epoch, actor, actor_is_admin, change, .. } = committed;
        let winner = Winner { id: *id, actor: actor.clone(), actor_is_admin: *actor_is_admin };
        let first = {
            let mut commits = self.commits.lock().expect("no panic");
            commits
                .entry((room, *epoch))
                .or_insert_with(|| {
                    self.shared.trace(|| {
                        let named = |inboxes: &[group_updated::Inbox]| {
                            inboxes.iter().map(|inbox| inbox.inbox_id.clone()).collect::<Vec<_>>()
                        };
                        let (added, removed) = (named(&change.added_inboxes), named(&change.removed_inboxes));
                        let actor = if *actor_is_admin { format!("admin {actor}") } else { format!("inbox {actor}") };
                        format!("commit {id} of {actor} leads room {room} to epoch {epoch}: +{added:?} -{removed:?}")
                    });
                    winner
                })
                .id
        };
        if first != *id {
            self.shared
                .broken(format!("epoch {epoch} of room {room} was reached by commit {first} and by commit {id}"));
        }
    }

    /// Keeps what a device knows while it is a member.
    fn hoard(&self, who: usize, device: usize, client: &Person) {
        for (room, state) in client.snapshot() {
            let Ok(group) = Group::decode(&state) else { continue };
            if group.lost().is_some() {
                continue;
            }
            let decoded = RoomState::decode(state.as_slice()).expect("a group's state was just decoded");
            self.shared.reached(&format!("{who}.{device}"), room, group.epoch(), decoded.context());
            let mut all = self.all.lock().expect("no panic");
            all[who].devices[device].hoard.insert((room, group.epoch()), state.to_vec());
        }
    }

    /// All that a device can open of a room's log with any keys it ever had; `None` if it never had one.
    pub(crate) async fn overhear(&self, who: usize, device: usize, room: GroupId) -> Option<Vec<String>> {
        let hoard: Vec<Vec<u8>> = {
            let all = self.all.lock().expect("no panic");
            let hoard = &all[who].devices[device].hoard;
            hoard.range((room, 0)..=(room, u64::MAX)).map(|(_, state)| state.clone()).collect()
        };
        let mut heard = Vec::new();
        for state in &hoard {
            let group = Group::decode(state).expect("it was decoded before");
            let contents = group.overhear(&*self.network()).await.expect("the node answers");
            heard.extend(contents.into_iter().filter_map(text));
        }
        (!hoard.is_empty()).then_some(heard)
    }

    /// The same for somebody's modified client, which goes along with every commit that members accept.
    pub(crate) async fn rogue_overhears(&self, who: usize, room: GroupId) -> Option<Vec<String>> {
        let candidate = self.all.lock().expect("no panic")[who].rogue.take()?;
        let joined = candidate.join(room, &*self.network()).await;
        self.all.lock().expect("no panic")[who].rogue = Some(candidate);
        let mut rogue = joined?;
        let accepted: BTreeSet<u64> = {
            let commits = self.commits.lock().expect("no panic");
            commits.range((room, 0)..=(room, u64::MAX)).map(|(_, winner)| winner.id).collect()
        };
        let log = self.node.log(room);
        Some(log.iter().filter_map(|message| open(&mut rogue, &message.data, accepted.contains(&message.id))).collect())
    }
}

/// What a modified client reads in a message; it follows a commit that counts.
fn open(rogue: &mut Rogue, data: &[u8], counts: bool) -> Option<String> {
    let message = ProtocolMessage::try_from(MlsMessageIn::tls_deserialize_exact(data).ok()?).ok()?;
    match rogue.group.process_message(&rogue.provider, message).ok()?.into_content() {
        ProcessedMessageContent::ApplicationMessage(message) => text(content::decode(&message.into_bytes()).ok()?),
        ProcessedMessageContent::StagedCommitMessage(staged) if counts => {
            rogue.group.merge_staged_commit(&rogue.provider, *staged).expect("memory takes it");
            None
        }
        _ => None,
    }
}

fn text(content: Content) -> Option<String> {
    match content {
        Content::Text(text) => Some(text),
        _ => None,
    }
}

/// Randomness that remembers its first 32 bytes: what an installation's key is made from.
struct Seed {
    shared: Arc<Shared>,
    drawn: Mutex<Option<[u8; 32]>>,
}

impl Seed {
    fn key(&self) -> InstallationKey {
        InstallationKey::from_seed(&self.drawn.lock().expect("no panic").expect("an account has drawn its keys"))
    }
}

impl Randomness for Seed {
    fn fill(&self, bytes: &mut [u8]) {
        usher_domain::ports::Randomness::fill(&*self.shared, bytes);
        if let Ok(seed) = <[u8; 32]>::try_from(&*bytes) {
            self.drawn.lock().expect("no panic").get_or_insert(seed);
        }
    }
}
