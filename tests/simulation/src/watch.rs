//! What must hold of every write to the store and of every message that leaves, looked at from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use sha2::{Digest as _, Sha256};
use usher_store::{
    Owner, Snapshots,
    memory::MemoryTable,
    table::{Attributes as _, Item, Key, Table as _, Value, Write},
};
use usher_xmtp::{Account, Group, GroupId, network::OutgoingMessage};

use crate::{process::Process, shared::Shared, world::limits};

/// A room as it was last stored.
struct Stored {
    epoch: u64,
    pending: Option<Vec<u8>>,
    lost: bool,
}

/// Who claimed a room's head last.
struct Claim {
    fence: u64,
    invocation: String,
}

#[derive(Default)]
struct Seen {
    account: Option<Account>,
    rooms: BTreeMap<GroupId, Stored>,
    claims: BTreeMap<GroupId, Claim>,
    /// Invocations whose claim of a room somebody else has taken over.
    overtaken: BTreeSet<String>,
    /// Digests of every commit that was ever stored before it could leave.
    commits: BTreeSet<[u8; 32]>,
    /// What must never be found in the store.
    secrets: Vec<Vec<u8>>,
}

/// Looks on.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    items: Arc<MemoryTable>,
    snapshots: Mutex<Option<Arc<Snapshots<Arc<MemoryTable>>>>>,
    seen: Mutex<Seen>,
}

/// The items of a write as they were before it.
pub(crate) struct Before(Vec<(Key, Option<Item>)>);

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, items: Arc<MemoryTable>) -> Self {
        Self { shared, items, snapshots: Mutex::default(), seen: Mutex::default() }
    }

    /// From here on rooms can be looked into.
    pub(crate) fn open(&self, snapshots: Snapshots<Arc<MemoryTable>>) {
        *self.snapshots.lock().expect("no panic") = Some(Arc::new(snapshots));
    }

    /// A write of a process was refused for what is stored.
    pub(crate) fn refused(&self, process: &Process) {
        if self.seen.lock().expect("no panic").overtaken.contains(&process.invocation()) {
            self.shared.count("writes behind a lost fence");
        }
    }

    /// What must never be found in the store.
    pub(crate) fn never_store(&self, secret: Vec<u8>) {
        self.seen.lock().expect("no panic").secrets.push(secret);
    }

    pub(crate) async fn before(&self, writes: &[Write]) -> Before {
        let mut items = Vec::new();
        for write in writes {
            items.push((write.key.clone(), self.items.get(&write.key).await.expect("memory answers")));
        }
        Before(items)
    }

    pub(crate) async fn after(&self, process: &Process, before: Before) {
        for (key, old) in before.0 {
            let Some(new) = self.items.get(&key).await.expect("memory answers") else { continue };
            self.scan(&key, &new);
            if key.pk == "budget" {
                self.budget(&new);
            }
            if let Some(group) = key.pk.strip_prefix("room#").filter(|_| key.sk == "head") {
                let group = GroupId(hex::decode(group).expect("hex").try_into().expect("16 bytes"));
                self.head(process, group, &old.unwrap_or_default(), &new).await;
            }
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

    fn scan(&self, key: &Key, item: &Item) {
        let seen = self.seen.lock().expect("no panic");
        for value in item.values() {
            let bytes = match value {
                Value::Text(text) => text.as_bytes(),
                Value::Bytes(bytes) => bytes,
                Value::Number(_) => continue,
            };
            if seen.secrets.iter().any(|secret| bytes.windows(secret.len()).any(|window| window == secret)) {
                self.shared.broken(format!("a secret is stored in {key:?}"));
            }
        }
    }

    async fn head(&self, process: &Process, group: GroupId, old: &Item, new: &Item) {
        for name in ["fence", "version"] {
            if new.number(name) < old.number(name) {
                self.shared.broken(format!("the {name} of room {group} went from {old:?} to {new:?}"));
            }
        }
        let invocation = process.invocation();
        let fence = new.number("fence").unwrap_or_default();
        if new.number("version") == old.number("version") {
            self.shared.trace(|| format!("{} claims room {group} with fence {fence}", process.name));
            let mut seen = self.seen.lock().expect("no panic");
            let before = seen.claims.insert(group, Claim { fence, invocation: invocation.clone() });
            if let Some(before) = before.filter(|before| before.invocation != invocation) {
                seen.overtaken.insert(before.invocation);
            }
            return;
        }
        {
            let mut seen = self.seen.lock().expect("no panic");
            if old.is_empty() {
                // Nobody can know of a room that is not stored yet.
                seen.claims.insert(group, Claim { fence, invocation: invocation.clone() });
            }
            let mine = seen.claims.get(&group).is_some_and(|it| it.fence == fence && it.invocation == invocation);
            if !mine {
                self.shared.broken(format!("{} saved room {group} without the newest claim", process.name));
            }
        }
        let opened = self.snapshots.lock().expect("no panic").clone();
        let opened = opened.expect("opened before there are rooms");
        let owner = Owner::Room(usher_domain::GroupId(group.0));
        let group_state = match opened.load(&owner).await {
            Ok(Some(snapshot)) => Group::decode(&snapshot.plaintext).map_err(|error| error.to_string()),
            other => Err(format!("{other:?}")),
        };
        match group_state {
            Ok(state) => self.saved(process, group, &state),
            Err(error) => self.shared.broken(format!("room {group} cannot be read back: {error}")),
        }
    }

    fn saved(&self, process: &Process, group: GroupId, state: &Group) {
        let mut seen = self.seen.lock().expect("no panic");
        let account = seen.account.as_ref().expect("known before there are rooms");
        let pending = state.pending_commit(account, &*self.shared).map(|message| message.data);
        let new = Stored { epoch: state.epoch(), pending, lost: state.lost().is_some() };
        self.shared.trace(|| {
            let lost = if new.lost { ", lost" } else { "" };
            let pending = if new.pending.is_some() { ", commit pending" } else { "" };
            format!("{} saved room {group} in epoch {}{pending}{lost}", process.name, new.epoch)
        });
        if let Some(old) = seen.rooms.get(&group) {
            if old.lost {
                self.shared.broken(format!("lost room {group} was written"));
            }
            if new.epoch < old.epoch {
                self.shared.broken(format!("room {group} went back from epoch {} to {}", old.epoch, new.epoch));
            }
            if old.pending.is_some() && new.epoch == old.epoch && new.pending != old.pending && !new.lost {
                self.shared.broken(format!("the stored commit of room {group} was replaced in epoch {}", new.epoch));
            }
        }
        if let Some(pending) = &new.pending {
            seen.commits.insert(Sha256::digest(pending).into());
        }
        seen.rooms.insert(group, new);
    }

    /// What usher's account signs with, known from its first snapshot on.
    pub(crate) fn know_account(&self, account: Account) {
        self.seen.lock().expect("no panic").account = Some(account);
    }

    /// A message of usher's leaves.
    pub(crate) fn leaves(&self, process: &Process, message: &OutgoingMessage) {
        let seen = self.seen.lock().expect("no panic");
        if !seen.commits.contains(&<[u8; 32]>::from(Sha256::digest(&message.data))) {
            self.shared.broken(format!("{} sent a message before its state was stored", process.name));
        }
        drop(seen);
        self.shared.trace(|| format!("{} publishes a commit", process.name));
    }
}
