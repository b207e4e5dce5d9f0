//! Sealed snapshots: fenced, versioned, and useless to whoever alters them.

use std::{path::Path, sync::Arc};

use rand::{RngCore, SeedableRng, rngs::StdRng};
use usher_domain::GroupId;
use usher_store::{
    DeploymentId, FileDataKeys, Kind, Owner, Save, SnapshotError, Snapshots, Table,
    memory::MemoryTable,
    snapshot::KEY_LIFE_MS,
    table::{Attributes, Condition, Item, Key, Query, SK, Step, Value, Write},
};

use crate::support::{Fault, Faulty, NOW_MS, Seeded, TestClock, on_each};

pub(crate) const ROOM: Owner = Owner::Room(GroupId([7; 16]));
const OTHER_ROOM: Owner = Owner::Room(GroupId([8; 16]));

fn deployment() -> DeploymentId {
    "00112233445566778899aabbccddeeff".parse().unwrap()
}

fn snapshots_of(table: impl Table, folder: &Path, deployment: DeploymentId, clock: Arc<TestClock>) -> Snapshots {
    let keys = FileDataKeys::open(&folder.join("key"), deployment.clone(), Seeded::new(1)).unwrap();
    Snapshots::new(Arc::new(table), Arc::new(keys), deployment, clock, Seeded::new(2))
}

pub(crate) fn snapshots(table: impl Table, folder: &Path) -> Snapshots {
    snapshots_of(table, folder, deployment(), TestClock::at(NOW_MS))
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill_bytes(&mut noise);
    noise
}

pub(crate) fn save(fence: u64, expected_version: u64, plaintext: &[u8]) -> Save<'_> {
    Save { fence, expected_version, plaintext, status: "epoch 3", side_writes: Vec::new() }
}

async fn chunk_keys(table: &impl Table, owner: &Owner) -> Vec<String> {
    let found = table.query(&Query::prefix(owner.to_string(), "chunk#").keys_only()).await.unwrap();
    found.iter().map(|item| item.text(SK).unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_is_saved_is_loaded_small_or_large() {
    on_each(async |table| {
        let folder = folder();
        let snapshots = snapshots(table.clone(), folder.path());
        assert_eq!(snapshots.load(&ROOM).await.unwrap(), None);
        assert_eq!(snapshots.claim(&ROOM, 1).await.unwrap(), None);
        let states =
            [vec![], noise(1, 1_000), noise(2, 1_200_000), vec![3; 5_000_000], noise(4, 400_000), noise(5, 10)];
        for (version, state) in (0..).zip(&states) {
            assert_eq!(snapshots.save(&ROOM, save(1, version, state)).await.unwrap(), version + 1);
            let loaded = snapshots.load(&ROOM).await.unwrap().unwrap();
            assert_eq!((loaded.version, loaded.status.as_str()), (version + 1, "epoch 3"));
            assert!(*loaded.plaintext == *state);
            let chunks = chunk_keys(&table, &ROOM).await.len();
            match state.len() {
                1_200_000 => assert_eq!(chunks, 4),
                5_000_000 => assert_eq!(chunks, 4, "compressed, so inline; the old chunks are pruned later"),
                400_000 => assert_eq!(chunks, 2, "older chunks are gone"),
                _ => {}
            }
        }
        let elsewhere = self::snapshots(table.clone(), folder.path());
        assert!(*elsewhere.claim(&ROOM, 2).await.unwrap().unwrap().plaintext == states[5]);
        assert!(chunk_keys(&table, &ROOM).await.is_empty(), "pruned by who claims");
        assert_eq!(elsewhere.load(&Owner::Account).await.unwrap(), None);
        let clear = crate::support::store(table);
        assert_eq!(clear.status(&ROOM).await.unwrap().as_deref(), Some("epoch 3"));
        assert_eq!(clear.status(&Owner::Account).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_newer_lease_fences_the_older_off() {
    on_each(async |table| {
        let folder = folder();
        let snapshots = snapshots(table, folder.path());
        let unclaimed = snapshots.save(&ROOM, save(3, 1, b"state")).await.unwrap_err();
        assert!(matches!(unclaimed, SnapshotError::Fenced { by: 0 }), "{unclaimed:?}");
        snapshots.save(&OTHER_ROOM, save(3, 0, b"a first version needs no claim")).await.unwrap();
        snapshots.claim(&OTHER_ROOM, 4).await.unwrap();
        let taken = snapshots.save(&OTHER_ROOM, save(3, 0, b"one")).await.unwrap_err();
        assert!(matches!(taken, SnapshotError::Fenced { by: 4 }), "{taken:?}");
        snapshots.claim(&ROOM, 3).await.unwrap();
        snapshots.claim(&ROOM, 3).await.unwrap();
        snapshots.save(&ROOM, save(3, 0, b"one")).await.unwrap();
        assert_eq!(*snapshots.claim(&ROOM, 5).await.unwrap().unwrap().plaintext, b"one");
        for fenced in
            [snapshots.save(&ROOM, save(3, 1, b"two")).await.unwrap_err(), snapshots.claim(&ROOM, 4).await.unwrap_err()]
        {
            assert!(matches!(fenced, SnapshotError::Fenced { by: 5 }), "{fenced:?}");
            assert_eq!(fenced.kind(), Kind::ConditionFailed);
        }
        let stale = snapshots.save(&ROOM, save(5, 0, b"two")).await.unwrap_err();
        assert!(matches!(stale, SnapshotError::VersionConflict { stored: 1 }), "{stale:?}");
        snapshots.save(&ROOM, save(5, 1, b"two")).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn side_writes_ride_along_or_nothing_happens() {
    on_each(async |table| {
        let folder = folder();
        let snapshots = snapshots(table.clone(), folder.path());
        snapshots.claim(&ROOM, 1).await.unwrap();
        let side = |sk: &str, condition| Write::put(Key::new("side", sk), Item::new()).when(condition);
        let with = |side_writes| Save { side_writes, ..save(1, 0, b"one") };
        let refused = [side("a", Condition::ITEM_ABSENT), side("b", Condition::ITEM_EXISTS)].to_vec();
        let error = snapshots.save(&ROOM, with(refused)).await.unwrap_err();
        assert!(matches!(error, SnapshotError::SideWrite { index: 1, old: None }), "{error:?}");
        assert_eq!(snapshots.load(&ROOM).await.unwrap(), None);
        assert!(table.query(&Query::all("side")).await.unwrap().is_empty());
        snapshots.save(&ROOM, with([side("a", Condition::ITEM_ABSENT)].to_vec())).await.unwrap();
        assert_eq!(table.query(&Query::all("side")).await.unwrap().len(), 1);
    })
    .await;
}

/// A room of its own for each round of a test.
fn room(round: u64) -> Owner {
    Owner::Room(GroupId([u8::try_from(round).unwrap(); 16]))
}

#[tokio::test]
async fn a_save_recognises_its_own_write() {
    on_each(async |table| {
        let faults = [Fault::SentTwice, Fault::AnswerLostAt(1), Fault::AnswerLostAt(2), Fault::AnswerLostAt(5)];
        let rounds = faults.iter().flat_map(|fault| [(fault, noise(1, 10)), (fault, noise(2, 1_200_000))]);
        for (round, (fault, state)) in (0..).zip(rounds) {
            let (folder, room) = (folder(), room(round));
            let faulty = snapshots(Faulty::new(table.clone(), *fault), folder.path());
            faulty.claim(&room, 1).await.unwrap();
            let saved = faulty.save(&room, save(1, 0, &state)).await;
            let chunk_lost = state.len() > 10 && matches!(fault, Fault::AnswerLostAt(1 | 2));
            assert_eq!(saved.is_err(), chunk_lost, "{fault:?}: {saved:?}");
            if let Err(error) = saved {
                // Nothing was flipped yet: nothing happened, and the saver may try again.
                assert_eq!(error.kind(), Kind::RetrySoon);
                assert_eq!(faulty.load(&room).await.unwrap(), None);
                faulty.save(&room, save(1, 0, &state)).await.unwrap();
            }
            assert!(*faulty.load(&room).await.unwrap().unwrap().plaintext == state, "{fault:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn dying_at_any_call_leaves_the_old_snapshot_or_the_new() {
    on_each(async |table| {
        for first in 0.. {
            let (folder, room) = (folder(), room(first));
            let well = snapshots(table.clone(), folder.path());
            let (old, new) = (noise(1, 800_000), noise(2, 900_000));
            well.claim(&room, 1).await.unwrap();
            well.save(&room, save(1, 0, &old)).await.unwrap();

            let dying = Arc::new(Faulty::new(table.clone(), Fault::DeadFrom(first)));
            let saved = snapshots(dying.clone(), folder.path()).save(&room, save(1, 1, &new)).await;
            let next = snapshots(table.clone(), folder.path()).claim(&room, 2).await.unwrap().unwrap();
            match saved {
                Ok(version) => assert!(version == 2 && *next.plaintext == new),
                Err(error) => assert!(*next.plaintext == old, "{error:?}"),
            }
            // Two versions on, nothing is left of either, nor of the attempt.
            for version in [next.version, next.version + 1] {
                well.save(&room, save(2, version, b"small")).await.unwrap();
            }
            well.claim(&room, 3).await.unwrap();
            assert!(chunk_keys(&table, &room).await.is_empty(), "died at call {first}");
            if dying.calls() <= first {
                assert!(first > 4);
                return;
            }
        }
    })
    .await;
}

/// Alters an attribute of a stored item.
async fn alter(table: &impl Table, key: Key, name: &'static str, change: impl Fn(Value) -> Value) {
    let item = table.get(&key).await.unwrap().unwrap();
    let value = change(item[name].clone());
    table.write(&Write::update(key, vec![Step::Set(name, value)])).await.unwrap();
}

fn flipped(at: usize) -> impl Fn(Value) -> Value {
    move |value| match value {
        Value::Bytes(mut bytes) => {
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1;
            bytes.into()
        }
        other => other,
    }
}

fn truncated(value: Value) -> Value {
    match value {
        Value::Bytes(mut bytes) => {
            bytes.pop();
            bytes.into()
        }
        other => other,
    }
}

/// A table with one snapshot of each room, and a reader that has no key in memory.
async fn saved(state: &[u8]) -> (Arc<MemoryTable>, tempfile::TempDir, Snapshots) {
    let table = Arc::new(MemoryTable::new());
    let shared: Arc<dyn Table> = table.clone();
    let (folder, reader) = saved_in(&shared, state).await;
    (table, folder, reader)
}

/// The same in a table that may hold such rooms already.
async fn saved_in(table: &Arc<dyn Table>, state: &[u8]) -> (tempfile::TempDir, Snapshots) {
    let folder = folder();
    for owner in [ROOM, OTHER_ROOM] {
        for item in table.query(&Query::all(owner.to_string()).keys_only()).await.unwrap() {
            table.write(&Write::delete(Key::new(owner.to_string(), item.text(SK).unwrap()))).await.unwrap();
        }
        let writer = snapshots(table.clone(), folder.path());
        writer.claim(&owner, 1).await.unwrap();
        writer.save(&owner, save(1, 0, state)).await.unwrap();
    }
    let reader = snapshots(table.clone(), folder.path());
    (folder, reader)
}

async fn chunk(table: &impl Table, owner: &Owner, number: usize) -> (Key, Item) {
    let mut chunks = table.query(&Query::prefix(owner.to_string(), "chunk#")).await.unwrap();
    let chunk = chunks.swap_remove(number);
    (Key::new(owner.to_string(), chunk.text(SK).unwrap()), chunk)
}

/// Sets the head's digest to what its chunks now add up to: so that the seal itself is what refuses.
async fn restore_digest(table: &impl Table) {
    use sha2::{Digest, Sha256};
    let head = table.get(&Key::new(ROOM.to_string(), "head")).await.unwrap().unwrap();
    let chunks = table.query(&Query::prefix(ROOM.to_string(), "chunk#")).await.unwrap();
    let mut digest = Sha256::new();
    head.bytes("body")
        .into_iter()
        .chain(chunks.iter().filter_map(|chunk| chunk.bytes("body")))
        .for_each(|b| digest.update(b));
    let digest = digest.finalize().to_vec();
    alter(table, Key::new(ROOM.to_string(), "head"), "digest", move |_| digest.clone().into()).await;
}

#[tokio::test]
async fn altered_bytes_are_refused() {
    for (name, wrong) in [("body", "tampered"), ("digest", "tampered"), ("data_key", "wrong key")] {
        for change in
            [Box::new(flipped(0)) as Box<dyn Fn(Value) -> Value>, Box::new(flipped(usize::MAX)), Box::new(truncated)]
        {
            let (table, _folder, reader) = saved(&noise(1, 10_000)).await;
            alter(&table, Key::new(ROOM.to_string(), "head"), name, change).await;
            if name == "body" {
                restore_digest(&table).await;
            }
            let error = reader.load(&ROOM).await.unwrap_err();
            let told = match error {
                SnapshotError::Tampered => "tampered",
                SnapshotError::WrongKey => "wrong key",
                other => panic!("{name}: {other:?}"),
            };
            assert_eq!(told, wrong, "{name}");
            reader.load(&OTHER_ROOM).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_altered_header_is_refused() {
    let (table, _folder, reader) = saved(b"state").await;
    let head = Key::new(ROOM.to_string(), "head");
    alter(&table, head.clone(), "seal", |value| {
        if let Value::Bytes(mut b) = value {
            b[0] = 9;
            b.into()
        } else {
            value
        }
    })
    .await;
    assert!(matches!(reader.load(&ROOM).await.unwrap_err(), SnapshotError::UnknownFormat(9)));
    alter(&table, head.clone(), "seal", |value| {
        if let Value::Bytes(mut b) = value {
            b[0] = 1;
            b.into()
        } else {
            value
        }
    })
    .await;
    reader.load(&ROOM).await.unwrap();
    for at in [1, 33, 64] {
        alter(&table, head.clone(), "seal", flipped(at)).await;
        assert!(matches!(reader.load(&ROOM).await.unwrap_err(), SnapshotError::WrongKey), "byte {at}");
        alter(&table, head.clone(), "seal", flipped(at)).await;
    }
    alter(&table, head.clone(), "seal", truncated).await;
    assert!(matches!(reader.load(&ROOM).await.unwrap_err(), SnapshotError::Tampered));
}

#[tokio::test]
async fn a_snapshot_is_bound_to_its_version_and_write() {
    for (name, other) in [("version", Value::Number(2)), ("write_id", "ffffffffffffffffffffffffffffffff".into())] {
        let (table, _folder, reader) = saved(b"state").await;
        alter(&table, Key::new(ROOM.to_string(), "head"), name, |_| other.clone()).await;
        let error = reader.load(&ROOM).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Tampered | SnapshotError::WrongKey), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn chunks_swapped_altered_or_missing_are_refused() {
    on_each(async |table| {
        let state = noise(3, 1_200_000);
        // Two chunks of one snapshot change places.
        let (_folder, reader) = saved_in(&table, &state).await;
        let ((a, first), (b, second)) = (chunk(&table, &ROOM, 0).await, chunk(&table, &ROOM, 1).await);
        alter(&table, a, "body", |_| second["body"].clone()).await;
        alter(&table, b, "body", |_| first["body"].clone()).await;
        assert!(matches!(reader.load(&ROOM).await.unwrap_err(), SnapshotError::Tampered), "by the digest");
        restore_digest(&table).await;
        assert!(matches!(reader.load(&ROOM).await.unwrap_err(), SnapshotError::Tampered), "by the seal");

        // A chunk of another room takes the place of ours.
        let (_folder, reader) = saved_in(&table, &state).await;
        let (_, foreign) = chunk(&table, &OTHER_ROOM, 2).await;
        alter(&table, chunk(&table, &ROOM, 2).await.0, "body", |_| foreign["body"].clone()).await;
        restore_digest(&table).await;
        assert!(matches!(reader.load(&ROOM).await.unwrap_err(), SnapshotError::Tampered));

        // One bit, one byte less.
        for change in [Box::new(flipped(5)) as Box<dyn Fn(Value) -> Value>, Box::new(truncated)] {
            let (_folder, reader) = saved_in(&table, &state).await;
            alter(&table, chunk(&table, &ROOM, 3).await.0, "body", change).await;
            restore_digest(&table).await;
            assert!(matches!(reader.load(&ROOM).await.unwrap_err(), SnapshotError::Tampered));
        }

        // One is gone: the first, one amid, the last.
        for number in [0, 1, 3] {
            let (_folder, reader) = saved_in(&table, &state).await;
            table.write(&Write::delete(chunk(&table, &ROOM, number).await.0)).await.unwrap();
            let error = reader.load(&ROOM).await.unwrap_err();
            assert!(matches!(error, SnapshotError::MissingChunk { number: n } if n == number), "{error:?}");
        }

        // The last is gone and the head agrees: the count is sealed.
        let (_folder, reader) = saved_in(&table, &state).await;
        table.write(&Write::delete(chunk(&table, &ROOM, 3).await.0)).await.unwrap();
        alter(&table, Key::new(ROOM.to_string(), "head"), "chunks", |_| 3.into()).await;
        restore_digest(&table).await;
        assert!(matches!(reader.load(&ROOM).await.unwrap_err(), SnapshotError::Tampered));
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_opens_only_for_its_owner_deployment_and_key() {
    let (table, folder, _) = saved(b"state").await;
    let head = table.get(&Key::new(OTHER_ROOM.to_string(), "head")).await.unwrap().unwrap();
    table.write(&Write::put(Key::new(ROOM.to_string(), "head"), head)).await.unwrap();
    let reader = snapshots(table.clone(), folder.path());
    assert!(matches!(reader.load(&ROOM).await.unwrap_err(), SnapshotError::WrongKey), "another room's");

    let other: DeploymentId = "ff112233445566778899aabbccddeeff".parse().unwrap();
    let stranger = snapshots_of(table.clone(), folder.path(), other, TestClock::at(NOW_MS));
    assert!(matches!(stranger.load(&OTHER_ROOM).await.unwrap_err(), SnapshotError::WrongKey), "another deployment's");

    let elsewhere = self::folder();
    let keys = FileDataKeys::open(&elsewhere.path().join("key"), deployment(), Seeded::new(99)).unwrap();
    let keyless = Snapshots::new(Arc::new(table), Arc::new(keys), deployment(), TestClock::at(NOW_MS), Seeded::new(2));
    assert!(matches!(keyless.load(&OTHER_ROOM).await.unwrap_err(), SnapshotError::WrongKey), "another key file's");
}

#[tokio::test]
async fn a_reader_follows_a_head_that_moves() {
    on_each(async |table| {
        let folder = folder();
        let writer = snapshots(table.clone(), folder.path());
        writer.claim(&ROOM, 1).await.unwrap();
        writer.save(&ROOM, save(1, 0, &noise(1, 800_000))).await.unwrap();
        let old_head = table.get(&Key::new(ROOM.to_string(), "head")).await.unwrap().unwrap();
        writer.save(&ROOM, save(1, 1, &noise(2, 800_000))).await.unwrap();

        // The reader read the head just before the writer moved it and removed the old chunks.
        let reader = snapshots(StaleHead { inner: table, head: std::sync::Mutex::new(Some(old_head)) }, folder.path());
        assert!(*reader.load(&ROOM).await.unwrap().unwrap().plaintext == noise(2, 800_000));
    })
    .await;
}

/// Answers the first read of an item with an older one.
struct StaleHead {
    inner: Arc<dyn Table>,
    head: std::sync::Mutex<Option<Item>>,
}

#[async_trait::async_trait]
impl Table for StaleHead {
    async fn get(&self, key: &Key) -> Result<Option<Item>, usher_store::TableError> {
        let stale = self.head.lock().unwrap().take();
        if stale.is_some() { Ok(stale) } else { self.inner.get(key).await }
    }
    async fn query(&self, query: &Query) -> Result<Vec<Item>, usher_store::TableError> {
        self.inner.query(query).await
    }
    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, usher_store::TableError> {
        self.inner.due(shard, until_ms, limit).await
    }
    async fn write(&self, write: &Write) -> Result<Item, usher_store::TableError> {
        self.inner.write(write).await
    }
    async fn transact(&self, writes: &[Write]) -> Result<(), usher_store::TableError> {
        self.inner.transact(writes).await
    }
}

#[tokio::test]
async fn data_keys_are_kept_and_renewed() {
    let (folder, table, clock) = (folder(), Arc::new(MemoryTable::new()), TestClock::at(NOW_MS));
    let snapshots = snapshots_of(table.clone(), folder.path(), deployment(), clock.clone());
    let data_key = async || {
        let head = table.get(&Key::new(ROOM.to_string(), "head")).await.unwrap().unwrap();
        (head["data_key"].clone(), head["seal"].clone())
    };
    snapshots.claim(&ROOM, 1).await.unwrap();
    snapshots.save(&ROOM, save(1, 0, b"one")).await.unwrap();
    let first = data_key().await;
    clock.set(NOW_MS + KEY_LIFE_MS - 1);
    snapshots.save(&ROOM, save(1, 1, b"one")).await.unwrap();
    let second = data_key().await;
    assert_eq!(first.0, second.0);
    assert!(first.1 != second.1, "each snapshot has a salt, hence a key, of its own");
    clock.set(NOW_MS + KEY_LIFE_MS);
    snapshots.save(&ROOM, save(1, 2, b"two")).await.unwrap();
    assert_ne!(first.0, data_key().await.0);
    assert_eq!(*snapshots.load(&ROOM).await.unwrap().unwrap().plaintext, b"two");
}

#[tokio::test]
async fn no_plaintext_is_stored_or_shown() {
    let state = b"the ratchet tree and its private keys ".repeat(30);
    let (table, _folder, reader) = saved(&state).await;
    let stored = table.dump();
    let leaked = |bytes: &[u8]| bytes.windows(16).any(|window| state.windows(16).any(|secret| secret == window));
    assert!(stored.iter().flat_map(|(_, item)| item.values()).all(|value| match value {
        Value::Bytes(bytes) => !leaked(bytes),
        Value::Text(text) => !leaked(text.as_bytes()),
        Value::Number(_) => true,
    }));
    let snapshot = reader.load(&ROOM).await.unwrap().unwrap();
    for shown in [format!("{snapshot:?}"), format!("{:?}", save(1, 1, &state)), format!("{stored:?}")] {
        assert!(!leaked(shown.as_bytes()) && !shown.contains("116, 104"), "{shown}");
    }
}

#[tokio::test]
async fn too_much_is_refused_before_anything_is_written() {
    let (folder, table) = (folder(), Arc::new(MemoryTable::new()));
    let snapshots = snapshots(table.clone(), folder.path());
    let huge = vec![0; 64 * 1024 * 1024 + 1];
    assert!(matches!(snapshots.save(&ROOM, save(1, 0, &huge)).await.unwrap_err(), SnapshotError::TooLarge));
    assert!(table.dump().is_empty());
}
