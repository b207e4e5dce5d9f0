//! The sealed items of the table, as somebody who can write to it but has no key leaves them.

use std::sync::{Arc, OnceLock};

use usher_domain::GroupId;
use usher_store::{
    DataKeys, DeploymentId, FileDataKeys, Owner, Save, Snapshots,
    memory::MemoryTable,
    table::{Item, Key, Table as _, Value, Write},
};

use crate::{
    Target,
    cast::{self, Machine, Still},
    mutate::{Choices, mutate},
};

/// Changes items of two snapshots; each loads as it was saved, or not at all.
pub const TARGET: Target = Target { name: "snapshots", run, seeds, smoke: 800 };

/// Two chunks' worth of state that does not compress.
const ROOM_BYTES: usize = 500_000;
const ACCOUNT_BYTES: usize = 3_000;

struct Saved {
    keys: Arc<dyn DataKeys>,
    deployment: DeploymentId,
    items: Vec<(Key, Item)>,
    states: [(Owner, Vec<u8>); 3],
}

static SAVED: OnceLock<Saved> = OnceLock::new();

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    usher_xmtp::ports::Randomness::fill(&Machine, &mut bytes);
    bytes
}

impl Saved {
    fn snapshots(&self, table: Arc<MemoryTable>) -> Snapshots {
        Snapshots::new(table, self.keys.clone(), self.deployment.clone(), Arc::new(Still), Arc::new(Machine))
    }

    async fn make() -> Self {
        let folder = tempfile::tempdir().expect("there is a place for a key file");
        let deployment: DeploymentId = "00".repeat(16).parse().expect("it is an id");
        let keys = FileDataKeys::open(&folder.path().join("data.key"), deployment.clone(), Arc::new(Machine));
        let states = [
            (Owner::Account, noise(ACCOUNT_BYTES)),
            (Owner::Room(GroupId([1; 16])), noise(ROOM_BYTES)),
            (Owner::Room(GroupId([2; 16])), noise(ACCOUNT_BYTES)),
        ];
        let mut saved =
            Self { keys: Arc::new(keys.expect("a key file can be made")), deployment, items: Vec::new(), states };
        let table = Arc::new(MemoryTable::new());
        let snapshots = saved.snapshots(table.clone());
        for (owner, plaintext) in &saved.states {
            snapshots.claim(owner, 1).await.expect("the table is in memory");
            let save = Save { fence: 1, expected_version: 0, plaintext, status: "", side_writes: Vec::new() };
            snapshots.save(owner, save).await.expect("the table is in memory");
        }
        saved.items = table.dump();
        saved
    }
}

fn run(data: &[u8]) {
    let saved = SAVED.get_or_init(|| cast::run(Saved::make()));
    let mut choices = Choices::new(data);
    let mut items = saved.items.clone();
    for _ in 0..choices.below(4) {
        change(&mut items, &mut choices);
    }
    cast::run(async {
        let table = Arc::new(MemoryTable::new());
        for (key, item) in items {
            // Nobody can write what DynamoDB does not take.
            let _ = table.write(&Write::put(key, item)).await;
        }
        let snapshots = saved.snapshots(table.clone());
        for (owner, state) in &saved.states {
            if let Ok(Some(loaded)) = snapshots.load(owner).await {
                assert!(*loaded.plaintext == *state, "{owner} loads as something else");
            }
            if let Ok(Some(loaded)) = snapshots.claim(owner, 2).await {
                assert!(*loaded.plaintext == *state, "{owner} loads as something else");
            }
        }
    });
}

fn change(items: &mut Vec<(Key, Item)>, choices: &mut Choices<'_>) {
    let (one, other) = (choices.below(items.len()), choices.below(items.len()));
    let names: Vec<String> = items[one].1.keys().map(ToString::to_string).collect();
    let Some(name) = choices.pick(&names).cloned() else { return };
    match choices.below(6) {
        0 => _ = items[one].1.remove(name.as_str()),
        1 => {
            let theirs = items[other].1.get(name.as_str()).cloned();
            if let Some(theirs) = theirs {
                items[one].1.insert(name, theirs);
            }
        }
        // Somebody else's item in this one's place.
        2 => items[one].1 = items[other].1.clone(),
        3 => _ = items.remove(one),
        4 => {
            let number = *choices.pick(&[0, 1, 2, 3, u64::MAX - 1, u64::MAX]).expect("there are some");
            items[one].1.insert(name, Value::Number(number));
        }
        _ => {
            if let Some(value) = items[one].1.get_mut(name.as_str()) {
                *value = match value {
                    Value::Bytes(bytes) => Value::Bytes(mutate(bytes, &[], choices)),
                    Value::Text(text) => {
                        let bytes = mutate(text.as_bytes(), &[], choices);
                        Value::Text(String::from_utf8_lossy(&bytes).into_owned())
                    }
                    Value::Number(number) => Value::Number(number.wrapping_add(u64::from(choices.byte()))),
                };
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let changes = (0..6).flat_map(|kind| (0..4).map(move |item| vec![1, item, 0, 0, kind, 1]));
    std::iter::once(vec![0]).chain(changes).collect()
}
