//! What must hold of every write to the store and of every message that leaves, looked at from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use usher_store::{
    Owner, Snapshots, TableError,
    memory::MemoryTable,
    table::{Attributes as _, Condition, Item, Key, Table as _, Value, Write},
};
use usher_xmtp::{
    Account, Group, GroupId,
    network::OutgoingMessage,
    proto::mls_api::{WelcomeMessageInput, welcome_message_input::Version},
};

use crate::{
    holders::Holders,
    lasting,
    process::Process,
    secrets::Secrets,
    shared::Shared,
    stored::{AccountState, Invited, RoomState},
    world::limits,
};

/// A room as it was last stored.
struct Stored {
    epoch: u64,
    pending: Option<Vec<u8>>,
    lost: bool,
    invited: BTreeSet<Invited>,
    stranded: BTreeSet<Vec<u8>>,
}

/// Who claimed a head last.
struct Claim {
    fence: u64,
    invocation: String,
}

#[derive(Default)]
struct Seen {
    account: Option<AccountState>,
    rooms: BTreeMap<GroupId, Stored>,
    /// The event's item of each room.
    events: BTreeMap<GroupId, Key>,
    /// Who claimed which head last, by its partition.
    claims: BTreeMap<String, Claim>,
    holders: Holders,
    /// Digests of every commit that was ever stored before it could leave.
    commits: BTreeSet<[u8; 32]>,
    /// The stored commits by the epochs that they were made in.
    staged: BTreeMap<(GroupId, u64), [u8; 32]>,
    /// Everybody for whom a Welcome was ever stored with its merged commit.
    invited: BTreeSet<Invited>,
    /// What must never be found in the store.
    secrets: Secrets,
}

/// Looks on.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    items: Arc<MemoryTable>,
    snapshots: Mutex<Option<Arc<Snapshots>>>,
    seen: Mutex<Seen>,
}

/// An item as it was and as it is.
struct Written {
    key: Key,
    old: Item,
    new: Option<Item>,
}

impl Written {
    /// The room whose head it is.
    fn room(&self) -> Option<GroupId> {
        self.key.pk.strip_prefix("room#").map(group)
    }

    fn is_save(&self) -> bool {
        let version = |item: &Item| item.number("version");
        self.key.sk == "head" && self.new.as_ref().is_some_and(|new| version(new) != version(&self.old))
    }
}

/// The items of a write as they were before it.
pub(crate) struct Before(Vec<(Key, Option<Item>)>);

fn group(text: &str) -> GroupId {
    GroupId(hex::decode(text).expect("hex").try_into().expect("16 bytes"))
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, items: Arc<MemoryTable>) -> Self {
        Self { shared, items, snapshots: Mutex::default(), seen: Mutex::default() }
    }

    /// From here on rooms can be looked into.
    pub(crate) fn open(&self, snapshots: Snapshots) {
        *self.snapshots.lock().expect("no panic") = Some(Arc::new(snapshots));
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic")
    }

    /// An invocation begins.
    pub(crate) fn begins(&self, invocation: &str) {
        self.seen().holders.begins(invocation);
    }

    /// An invocation has come to its end, or was killed.
    pub(crate) fn ends(&self, invocation: &str) {
        self.seen().holders.ends(invocation);
    }

    /// What must never be found in the store.
    pub(crate) fn never_store(&self, secret: Vec<u8>) {
        if self.seen().secrets.add(secret) {
            self.shared.count("secrets");
        }
    }

    /// Whether the account is made and registered, as far as is stored.
    pub(crate) fn has_account(&self) -> bool {
        self.seen().account.as_ref().is_some_and(|account| account.sequence_id != 0)
    }

    /// The stored commits by the epochs that they were made in: digests of their bytes.
    pub(crate) fn staged(&self) -> BTreeMap<(GroupId, u64), [u8; 32]> {
        self.seen().staged.clone()
    }

    /// A write was refused for what is stored.
    pub(crate) fn refused(&self, writes: &[Write], error: &TableError) {
        let fenced = writes.iter().enumerate().any(|(at, write)| {
            let asked = write.condition.as_ref().and_then(fence);
            let stored = error.failed_condition(at).flatten().and_then(|old| old.number("fence"));
            asked.zip(stored).is_some_and(|(asked, stored)| stored > asked)
        });
        if fenced {
            self.shared.count("writes behind a lost fence");
        }
    }

    pub(crate) async fn before(&self, writes: &[Write]) -> Before {
        let mut items = Vec::new();
        for write in writes {
            items.push((write.key.clone(), self.items.get(&write.key).await.expect("memory answers")));
        }
        Before(items)
    }

    pub(crate) async fn after(&self, process: &Process, before: Before) {
        let mut all = Vec::new();
        for (key, old) in before.0 {
            let new = self.items.get(&key).await.expect("memory answers");
            all.push(Written { key, old: old.unwrap_or_default(), new });
        }
        self.fences(process, &all);
        let now_ms = self.shared.lock().now_ms;
        for written in &all {
            if !written.old.is_empty()
                && let Some(broken) = lasting::broken(&written.key, &written.old, written.new.as_ref())
            {
                self.shared.broken(format!("{}: {broken}", process.name));
            }
            if let Some(new) = &written.new
                && let Some(broken) = lasting::forgotten(&written.key, new, now_ms)
            {
                self.shared.broken(format!("{}: {broken}", process.name));
            }
            if written.key.sk == "head"
                && let Some(new) = &written.new
            {
                self.head(process, written, new).await;
            }
            if let Some(new) = written.new.as_ref().filter(|_| written.key.pk == "budget") {
                self.budget(new);
            }
        }
        // Last, as a save tells what is secret of it.
        all.iter().for_each(|written| self.scan(&written.key, written.new.as_ref()));
    }

    /// Whoever was overtaken changes nothing. A room's head has a fence of its own: until the next holder has claimed
    /// it, what is written with it counts.
    fn fences(&self, process: &Process, all: &[Written]) {
        let invocation = process.invocation();
        let mut stolen = false;
        {
            let mut seen = self.seen();
            for Written { key, old, new } in all {
                if let Some(room) = key.sk.strip_prefix("event#room#").and_then(|rest| rest.split('#').nth(1)) {
                    seen.events.insert(group(room), Key::new(&key.pk, "event"));
                }
                if bears_lease(key) {
                    stolen |= seen.holders.written(key, &invocation, old, new.as_ref().unwrap_or(old));
                }
            }
        }
        if stolen {
            self.shared.count("leases taken from somebody alive");
        }
        for written in all.iter().filter(|written| written.new.as_ref() != Some(&written.old)) {
            let Some(leased) = self.leased(written) else { continue };
            let seen = self.seen();
            if seen.holders.holds(&invocation, &leased) {
                continue;
            }
            let mine = seen.holders.fence_of(&invocation, &leased);
            let claims = written.key.sk == "head" && !written.is_save();
            let with_head = |head: &Written| head.is_save() && mine.is_some() && head.old.number("fence") == mine;
            drop(seen);
            if all.iter().any(with_head) {
                self.shared.count("saves before the next holder's claim");
            } else if !(claims && mine.is_some()) {
                self.shared.broken(format!("{} wrote {:?} behind a lost fence", process.name, written.key));
            }
        }
    }

    /// The item whose lease its writer must have, if any must be had.
    fn leased(&self, written: &Written) -> Option<Key> {
        let Written { key, old, new } = written;
        let mut parts = key.pk.split('#');
        match (parts.next()?, key.sk.as_str()) {
            ("account", "lease") | ("event", "event") => {
                // Anybody may mark an event, and take a lease that has ended.
                let given_back = old.contains_key("lease_owner") && !new.as_ref()?.contains_key("lease_owner");
                given_back.then(|| key.clone())
            }
            ("account", sk) if sk == "head" || sk.starts_with("chunk#") => Some(Key::new("account", "lease")),
            ("event", sk) if sk.starts_with("event#room#") => Some(Key::new(&key.pk, "event")),
            ("standing", _) => Some(Key::new(format!("event#{}", parts.next()?), "event")),
            ("room", _) => self.seen().events.get(&written.room()?).cloned(),
            _ => None,
        }
    }

    /// Nothing is left of the node's limits but what is for removals.
    fn budget(&self, item: &Item) {
        let state: serde_json::Value = serde_json::from_str(item.text("state").unwrap_or_default()).unwrap_or_default();
        let limits = limits();
        for (class, bucket) in [("publish", limits.publish), ("default", limits.default)] {
            if state[class]["spent"].as_u64().is_some_and(|spent| spent >= bucket.max_tokens / 5 * 4) {
                self.shared.count("reservations of the last that is left");
            }
        }
    }

    fn scan(&self, key: &Key, item: Option<&Item>) {
        let seen = self.seen();
        for value in item.into_iter().flat_map(|item| item.values()) {
            let bytes = match value {
                Value::Text(text) => text.as_bytes(),
                Value::Bytes(bytes) => bytes,
                Value::Number(_) => continue,
            };
            if seen.secrets.are_in(bytes) {
                self.shared.broken(format!("a secret is stored in {key:?}"));
            }
        }
    }

    /// Looks for secrets in all that is stored: some are told after they could have been written.
    pub(crate) fn scan_all(&self) {
        self.items.dump().iter().for_each(|(key, item)| self.scan(key, Some(item)));
    }

    async fn head(&self, process: &Process, written: &Written, new: &Item) {
        let invocation = process.invocation();
        let fence = new.number("fence").unwrap_or_default();
        let claim = Claim { fence, invocation: invocation.clone() };
        let pk = written.key.pk.clone();
        if !written.is_save() {
            self.shared.trace(|| format!("{} claims {pk} with fence {fence}", process.name));
            self.seen().claims.insert(pk, claim);
            return;
        }
        {
            let mut seen = self.seen();
            if written.old.is_empty() {
                // Nobody can know of what is not stored yet.
                seen.claims.insert(pk.clone(), claim);
            }
            let mine = seen.claims.get(&pk).is_some_and(|it| it.fence == fence && it.invocation == invocation);
            if !mine {
                self.shared.broken(format!("{} saved {pk} without the newest claim", process.name));
            }
        }
        let opened = self.snapshots.lock().expect("no panic").clone();
        let opened = opened.expect("opened before anything is saved");
        let owner = written.room().map_or(Owner::Account, |room| Owner::Room(usher_domain::GroupId(room.0)));
        let snapshot = match opened.load(&owner).await {
            Ok(Some(snapshot)) => snapshot,
            other => return self.shared.broken(format!("{pk} cannot be read back: {other:?}")),
        };
        let read = match written.room() {
            Some(room) => self.room_saved(process, room, &snapshot.plaintext),
            None => self.account_saved(process, &snapshot.plaintext),
        };
        if let Err(error) = read {
            self.shared.broken(format!("{pk} cannot be read back: {error}"));
        }
    }

    fn account_saved(&self, process: &Process, plaintext: &[u8]) -> Result<(), String> {
        Account::decode(plaintext).map_err(|error| error.to_string())?;
        let new = AccountState::decode(plaintext).map_err(|error| error.to_string())?;
        new.secrets().into_iter().for_each(|secret| self.never_store(secret));
        self.shared.trace(|| format!("{} saved the account", process.name));
        let old = self.seen().account.replace(new.clone());
        if old.is_some_and(|old| old.newest_key_package() != new.newest_key_package()) {
            self.shared.count("key packages of usher's replaced");
        }
        Ok(())
    }

    fn room_saved(&self, process: &Process, room: GroupId, plaintext: &[u8]) -> Result<(), String> {
        let group = Group::decode(plaintext).map_err(|error| error.to_string())?;
        let state = RoomState::decode(plaintext).map_err(|error| error.to_string())?;
        state.secrets().into_iter().for_each(|secret| self.never_store(secret));
        let new = Stored {
            epoch: group.epoch(),
            pending: state.pending.as_ref().map(|pending| pending.data.clone()),
            lost: group.lost().is_some(),
            invited: state.invited(),
            stranded: state.stranded(),
        };
        self.shared.trace(|| {
            let lost = if new.lost { ", lost" } else { "" };
            let pending = if new.pending.is_some() { ", commit pending" } else { "" };
            format!("{} saved room {room} in epoch {}{pending}{lost}", process.name, new.epoch)
        });
        self.shared.reached("usher", room, new.epoch, state.context());
        if new.pending.is_some() {
            self.shared.lock().pending.insert(room);
        } else {
            self.shared.lock().pending.remove(&room);
        }
        let mut seen = self.seen();
        if let Some(old) = seen.rooms.get(&room) {
            if old.lost {
                self.shared.broken(format!("lost room {room} was written"));
            }
            if new.epoch < old.epoch {
                self.shared.broken(format!("room {room} went back from epoch {} to {}", old.epoch, new.epoch));
            }
            if old.pending.is_some() && new.epoch == old.epoch && new.pending != old.pending && !new.lost {
                self.shared.broken(format!("the stored commit of room {room} was replaced in epoch {}", new.epoch));
            }
            for _ in new.stranded.difference(&old.stranded) {
                self.shared.count("key packages replaced between commit and welcome");
            }
        }
        if let Some(pending) = &new.pending {
            let digest = Sha256::digest(pending).into();
            seen.commits.insert(digest);
            seen.staged.insert((room, new.epoch), digest);
        }
        seen.invited.extend(new.invited.iter().cloned());
        seen.rooms.insert(room, new);
        Ok(())
    }

    /// A message of usher's leaves.
    pub(crate) fn leaves(&self, process: &Process, message: &OutgoingMessage) {
        if !self.seen().commits.contains(&<[u8; 32]>::from(Sha256::digest(&message.data))) {
            self.shared.broken(format!("{} sent a message before its state was stored", process.name));
        }
        self.shared.trace(|| format!("{} publishes a commit", process.name));
    }

    /// Welcomes leave: the stored room has merged their commit and names their recipients. Whoever was overtaken may
    /// send once more what others have sent and crossed out.
    pub(crate) fn welcomes_leave(&self, process: &Process, welcomes: &[WelcomeMessageInput]) {
        let seen = self.seen();
        let overtaken = seen.holders.was_overtaken(&process.invocation());
        for invited in welcomes.iter().filter_map(invited) {
            let is_stored = seen.rooms.values().any(|room| room.invited.contains(&invited));
            if is_stored {
                self.shared.count("welcomes of stored commits");
            } else if !(overtaken && seen.invited.contains(&invited)) {
                self.shared.broken(format!("{} sent a welcome before its state was stored", process.name));
            }
        }
        drop(seen);
        self.shared.trace(|| format!("{} sends welcomes to {:?}", process.name, recipients(welcomes)));
    }
}

fn bears_lease(key: &Key) -> bool {
    (key.pk.starts_with("event#") && key.sk == "event") || (key.pk == "account" && key.sk == "lease")
}

/// The fence that a condition asks for.
fn fence(condition: &Condition) -> Option<u64> {
    match condition {
        Condition::Equals("fence", Value::Number(fence)) | Condition::LessThan("fence", Value::Number(fence)) => {
            Some(*fence)
        }
        Condition::And(all) | Condition::Or(all) => all.iter().find_map(fence),
        _ => None,
    }
}

/// The installations that welcomes are for, in hex.
pub(crate) fn recipients(welcomes: &[WelcomeMessageInput]) -> Vec<String> {
    welcomes.iter().filter_map(invited).map(|(installation, _)| hex::encode(installation)).collect()
}

/// Whom a welcome is for; nobody, if it is the copy that pointers lead to.
fn invited(welcome: &WelcomeMessageInput) -> Option<Invited> {
    match welcome.version.as_ref()? {
        Version::V1(v1) if v1.hpke_public_key.is_empty() => None,
        Version::V1(v1) => Some((v1.installation_key.clone(), v1.hpke_public_key.clone())),
        Version::WelcomePointer(pointer) => Some((pointer.installation_key.clone(), pointer.hpke_public_key.clone())),
    }
}
