//! Whoever can write the table, or take the key away: everything is refused with a name of its own, and nothing that is
//! stored is overwritten.

use std::{collections::BTreeMap, sync::Arc};

use axum::http::StatusCode;
use sha2::{Digest, Sha256};
use usher_domain::GroupId;
use usher_store::{
    DataKeys, DeploymentId, FileDataKeys, Owner, Save, SnapshotError, Snapshots, Table,
    memory::MemoryTable,
    snapshot::KEY_LIFE_MS,
    table::{Attributes, Item, Key, PK, SK, Value, Write},
};

use crate::{
    keys::{Kms, keys_at},
    support::{NOW_MS, Seeded, TestClock},
};

const ROOM: Owner = Owner::Room(GroupId([7; 16]));
const OTHER_ROOM: Owner = Owner::Room(GroupId([8; 16]));
const OWNERS: [Owner; 3] = [Owner::Account, ROOM, OTHER_ROOM];

/// The bytes of a state that lies in the head, and of one that takes three chunks.
const SIZES: [usize; 2] = [20_000, 710_000];

type Dump = BTreeMap<Key, Item>;

fn deployment() -> DeploymentId {
    "00112233445566778899aabbccddeeff".parse().unwrap()
}

/// Bytes that do not compress.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let block = |n: u64| Sha256::digest([seed.to_be_bytes(), n.to_be_bytes()].concat());
    (0..).flat_map(block).take(bytes).collect()
}

/// Three owners with two versions each, under a data key each.
struct Scene {
    table: Arc<MemoryTable>,
    folder: tempfile::TempDir,
    /// The table when all were at version 1.
    old: Dump,
    /// The table now.
    new: Dump,
}

impl Scene {
    async fn new(bytes: usize) -> Self {
        let (table, folder) = (Arc::new(MemoryTable::new()), tempfile::tempdir().unwrap());
        let mut scene = Self { table, folder, old: Dump::new(), new: Dump::new() };
        for version in [0, 1] {
            // Each version by a writer without a key in memory, and so late that it takes a new one.
            let writer = scene.reader_at(NOW_MS + version * KEY_LIFE_MS);
            for (seed, owner) in (0..).zip(OWNERS) {
                writer.claim(&owner, 1).await.unwrap();
                let state = noise(10 * version + seed, bytes);
                let status = format!("{owner} at {version}");
                let save = Save {
                    fence: 1,
                    expected_version: version,
                    plaintext: &state,
                    status: &status,
                    side_writes: vec![],
                };
                writer.save(&owner, save).await.unwrap();
            }
            let now = scene.dump();
            scene.old = std::mem::replace(&mut scene.new, now);
        }
        scene
    }

    fn reader_at(&self, now_ms: u64) -> Snapshots {
        let keys = FileDataKeys::open(&self.folder.path().join("key"), deployment(), Seeded::new(now_ms)).unwrap();
        Snapshots::new(self.table.clone(), Arc::new(keys), deployment(), TestClock::at(now_ms), Seeded::new(now_ms + 1))
    }

    fn dump(&self) -> Dump {
        self.table.dump().into_iter().collect()
    }

    async fn put(&self, key: Key, item: Item) {
        self.table.write(&Write::put(key, item)).await.unwrap();
    }

    /// The table as it was before the attack.
    async fn mend(&self) {
        for key in self.dump().into_keys() {
            self.table.write(&Write::delete(key)).await.unwrap();
        }
        for (key, item) in self.new.clone() {
            self.put(key, item).await;
        }
    }

    /// Makes the head's digest agree with what is stored, so that the seal itself has to refuse.
    async fn agree(&self, owner: &Owner) {
        let head = head_of(owner);
        let mut item = self.dump()[&head].clone();
        let mut digest = Sha256::new();
        match item.bytes("body") {
            Some(body) => digest.update(body),
            None => {
                chunks_of(&self.dump(), owner).values().for_each(|chunk| digest.update(chunk.bytes("body").unwrap()))
            }
        }
        item.insert("digest".into(), digest.finalize().to_vec().into());
        self.put(head, item).await;
    }

    /// What a reader without any key in memory is told; it must not have written anything but its fence.
    async fn refusal(&self, owner: &Owner) -> &'static str {
        let reader = self.reader_at(NOW_MS);
        let before = self.dump();
        let loaded = reader.load(owner).await.map(|_| ());
        assert_eq!(self.dump(), before, "a load writes nothing");
        let claimed = reader.claim(owner, 9).await.map(|_| ());
        let mut after = self.dump();
        if let Some(head) = after.get_mut(&head_of(owner)) {
            let fence = before.get(&head_of(owner)).and_then(|head| head.get("fence"));
            assert_eq!(head.number("fence"), Some(9));
            match fence {
                Some(fence) => head.insert("fence".into(), fence.clone()),
                None => head.remove("fence"),
            };
        }
        assert_eq!(after, before, "a claim writes nothing but its fence");
        let code = |result: Result<(), SnapshotError>| result.map_or_else(|error| error.code(), |()| "accepted");
        let (loaded, claimed) = (code(loaded), code(claimed));
        assert_eq!(loaded, claimed);
        loaded
    }
}

fn head_of(owner: &Owner) -> Key {
    Key::new(owner.to_string(), "head")
}

fn chunks_of(dump: &Dump, owner: &Owner) -> Dump {
    let chunk = |(key, _): &(&Key, &Item)| key.pk == owner.to_string() && key.sk.starts_with("chunk#");
    dump.iter().filter(chunk).map(|(key, item)| (key.clone(), item.clone())).collect()
}

fn with(item: &Item, name: &str, value: Option<Value>) -> Item {
    let mut item = item.clone();
    match value {
        Some(value) => item.insert(name.to_owned(), value),
        None => item.remove(name),
    };
    item
}

/// The same value with its last bit, digit or letter changed.
fn tampered(value: &Value) -> Value {
    match value.clone() {
        Value::Number(number) => (number + 1).into(),
        Value::Text(text) => format!("{}~", &text[..text.len() - 1]).into(),
        Value::Bytes(mut bytes) => {
            *bytes.last_mut().unwrap() ^= 1;
            bytes.into()
        }
    }
}

fn truncated(value: &Value) -> Value {
    match value.clone() {
        Value::Number(number) => (number / 10).into(),
        Value::Text(text) => text[..text.len() - 1].into(),
        Value::Bytes(mut bytes) => {
            bytes.pop();
            bytes.into()
        }
    }
}

#[tokio::test]
async fn every_attribute_of_a_head_is_bound_into_the_seal() {
    for bytes in SIZES {
        let scene = Scene::new(bytes).await;
        let owners = if bytes == SIZES[0] { &OWNERS[..] } else { &OWNERS[..1] };
        for owner in owners.iter().copied() {
            let key = head_of(&owner);
            let (head, older) = (&scene.new[&key], &scene.old[&key]);
            let other = &scene.new[&head_of(OWNERS.iter().find(|other| **other != owner).unwrap())];
            assert_eq!(head.contains_key("body"), bytes == SIZES[0]);
            for name in head.keys().filter(|name| ![PK, SK, "fence"].contains(&name.as_str())) {
                let attacks = [
                    ("tampered", Some(tampered(&head[name]))),
                    ("truncated", Some(truncated(&head[name]))),
                    ("removed", None),
                    ("replayed", Some(older[name].clone())),
                    ("swapped", Some(other[name].clone())),
                ];
                for (attack, value) in attacks.into_iter().filter(|(_, value)| value.as_ref() != Some(&head[name])) {
                    scene.put(key.clone(), with(head, name, value)).await;
                    // To keep the digest right costs an attacker nothing.
                    if name == "body" && attack != "removed" {
                        scene.agree(&owner).await;
                    }
                    let inline = bytes == SIZES[0];
                    let expected = match (name.as_str(), attack) {
                        ("body", "removed") => "snapshot_chunk_missing",
                        (_, "removed") => "snapshot_tampered",
                        // They name the chunks.
                        ("version" | "write_id", _) if !inline => "snapshot_chunk_missing",
                        ("chunks", "tampered") if !inline => "snapshot_chunk_missing",
                        ("seal", "truncated") => "snapshot_tampered",
                        ("seal" | "data_key", _) => "snapshot_wrong_key",
                        _ => "snapshot_tampered",
                    };
                    assert_eq!(scene.refusal(&owner).await, expected, "{owner}, {bytes} bytes, {name} {attack}");
                    scene.mend().await;
                }
            }
        }
    }
}

#[tokio::test]
async fn another_format_is_named() {
    let scene = Scene::new(SIZES[0]).await;
    let head = &scene.new[&head_of(&ROOM)];
    let mut seal = head.bytes("seal").unwrap().to_vec();
    seal[0] = 9;
    scene.put(head_of(&ROOM), with(head, "seal", Some(seal.into()))).await;
    assert_eq!(scene.refusal(&ROOM).await, "snapshot_unknown_format");
}

#[tokio::test]
async fn a_head_without_its_snapshot_is_not_taken_for_a_new_one() {
    let scene = Scene::new(SIZES[0]).await;
    let mut head = scene.new[&head_of(&Owner::Account)].clone();
    for gone in ["version", "write_id", "seal", "body"] {
        head.remove(gone);
    }
    scene.put(head_of(&Owner::Account), head).await;
    assert_eq!(scene.refusal(&Owner::Account).await, "snapshot_tampered", "or init would make another account");
}

#[tokio::test]
async fn an_owners_whole_snapshot_is_no_others() {
    for bytes in SIZES {
        let scene = Scene::new(bytes).await;
        for victim in OWNERS {
            for donor in OWNERS.into_iter().filter(|donor| *donor != victim) {
                for key in chunks_of(&scene.new, &victim).into_keys() {
                    scene.table.write(&Write::delete(key)).await.unwrap();
                }
                for (key, item) in chunks_of(&scene.new, &donor) {
                    scene.put(Key::new(victim.to_string(), key.sk), item).await;
                }
                scene.put(head_of(&victim), scene.new[&head_of(&donor)].clone()).await;
                assert_eq!(scene.refusal(&victim).await, "snapshot_wrong_key", "{donor} as {victim}");
                // With the victim's own key the seal itself refuses.
                let key = scene.new[&head_of(&victim)]["data_key"].clone();
                let head = with(&scene.new[&head_of(&donor)], "data_key", Some(key));
                scene.put(head_of(&victim), head).await;
                assert_eq!(scene.refusal(&victim).await, "snapshot_wrong_key", "{donor} as {victim}, under its key");
                scene.mend().await;
            }
        }
    }
}

#[tokio::test]
async fn chunks_hold_only_in_their_place() {
    let scene = Scene::new(SIZES[1]).await;
    let other_of = |owner: &Owner| *OWNERS.iter().find(|other| *other != owner).unwrap();
    for owner in OWNERS {
        let (chunks, older) = (chunks_of(&scene.new, &owner), chunks_of(&scene.old, &owner));
        let foreign = chunks_of(&scene.new, &other_of(&owner));
        let keys: Vec<Key> = chunks.keys().cloned().collect();
        let body = |dump: &Dump, at: usize| dump.values().nth(at).unwrap()["body"].clone();
        assert_eq!((chunks.len(), older.len(), foreign.len()), (3, 3, 3));
        let last = keys.len() - 1;
        // What each attack puts where; `None` removes the chunk.
        let attacks = [
            ("tampered", vec![(0, Some(tampered(&body(&chunks, 0))))]),
            ("truncated", vec![(last, Some(truncated(&body(&chunks, last))))]),
            ("reordered", vec![(0, Some(body(&chunks, 1))), (1, Some(body(&chunks, 0)))]),
            ("repeated", vec![(last, Some(body(&chunks, 1)))]),
            ("replayed", vec![(1, Some(body(&older, 1)))]),
            ("swapped", vec![(1, Some(body(&foreign, 1)))]),
            ("emptied", vec![(1, Some(Value::Text(String::new())))]),
            ("lost", vec![(1, None)]),
            ("cut off", vec![(last, None)]),
        ];
        for (attack, changes) in attacks {
            for (at, body) in changes {
                match body {
                    Some(body) => scene.put(keys[at].clone(), Item::from([("body".into(), body)])).await,
                    None => _ = scene.table.write(&Write::delete(keys[at].clone())).await.unwrap(),
                }
            }
            let expected =
                if ["lost", "cut off"].contains(&attack) { "snapshot_chunk_missing" } else { "snapshot_tampered" };
            assert_eq!(scene.refusal(&owner).await, expected, "{owner}: {attack}, by the digest");
            if attack != "emptied" {
                scene.agree(&owner).await;
                assert_eq!(scene.refusal(&owner).await, expected, "{owner}: {attack}, by the seal");
            }
            scene.mend().await;
        }
        // One more behind the last, and one less with a head that agrees.
        let one_more = Key::new(owner.to_string(), format!("{}3", &keys[last].sk[..keys[last].sk.len() - 1]));
        scene.put(one_more, chunks[&keys[last]].clone()).await;
        assert_eq!(scene.refusal(&owner).await, "snapshot_tampered", "{owner}: one more");
        scene.mend().await;
        scene.table.write(&Write::delete(keys[last].clone())).await.unwrap();
        scene.put(head_of(&owner), with(&scene.new[&head_of(&owner)], "chunks", Some(2.into()))).await;
        scene.agree(&owner).await;
        assert_eq!(scene.refusal(&owner).await, "snapshot_tampered", "{owner}: the count is sealed");
        scene.mend().await;
    }
}

/// The table alone cannot show it: that is for the network to show.
#[tokio::test]
async fn an_older_whole_snapshot_opens_as_what_it_was() {
    for bytes in SIZES {
        let scene = Scene::new(bytes).await;
        let older = scene.old.iter().filter(|(key, _)| key.pk == ROOM.to_string());
        for (key, item) in older {
            scene.put(key.clone(), item.clone()).await;
        }
        let loaded = scene.reader_at(NOW_MS).claim(&ROOM, 9).await.unwrap().unwrap();
        assert_eq!((loaded.version, loaded.status), (1, format!("{ROOM} at 0")));
        assert!(*loaded.plaintext == noise(1, bytes));
    }
}

fn snapshots_with(table: &Arc<MemoryTable>, keys: impl DataKeys + 'static) -> Snapshots {
    Snapshots::new(table.clone(), Arc::new(keys), deployment(), TestClock::at(NOW_MS), Seeded::new(5))
}

/// A keeper that refuses or is away: nothing is read, nothing is written, and nothing is wrong with what is stored.
#[tokio::test]
async fn a_keeper_that_fails_changes_nothing() {
    let (kms, keys_of) = Kms::serve().await;
    let table = Arc::new(MemoryTable::new());
    let save = |expected_version| Save {
        fence: 1,
        expected_version,
        plaintext: b"state",
        status: "",
        side_writes: vec![Write::put(Key::new("side", "a"), Item::new())],
    };
    let writer = snapshots_with(&table, keys_of(deployment()));
    writer.save(&ROOM, save(0)).await.unwrap();
    let before = table.dump();

    let failures = [
        (StatusCode::BAD_REQUEST, "AccessDeniedException", "keys_refused"),
        (StatusCode::BAD_REQUEST, "DisabledException", "keys_refused"),
        (StatusCode::BAD_REQUEST, "KMSInvalidStateException", "keys_refused"),
        (StatusCode::BAD_REQUEST, "IncorrectKeyException", "keys_refused"),
        (StatusCode::BAD_REQUEST, "ThrottlingException", "keys_unavailable"),
        (StatusCode::INTERNAL_SERVER_ERROR, "DependencyTimeoutException", "keys_unavailable"),
    ];
    for (status, error, code) in failures {
        *kms.fail_with.lock().unwrap() = Some((status, error));
        let cold = snapshots_with(&table, keys_of(deployment()));
        assert_eq!(cold.load(&ROOM).await.unwrap_err().code(), code, "{error}");
        assert_eq!(cold.save(&ROOM, save(1)).await.unwrap_err().code(), code, "{error}");
        assert_eq!(cold.save(&OTHER_ROOM, save(0)).await.unwrap_err().code(), code, "{error}");
        assert_eq!(table.dump(), before, "{error}");
    }
    // Nobody listens there any more.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = snapshots_with(&table, keys_at(&format!("http://{nowhere}"), deployment()));
    assert_eq!(down.load(&ROOM).await.unwrap_err().code(), "keys_unavailable");
    assert_eq!(down.save(&OTHER_ROOM, save(0)).await.unwrap_err().code(), "keys_unavailable");
    assert_eq!(table.dump(), before);

    *kms.fail_with.lock().unwrap() = None;
    let back = snapshots_with(&table, keys_of(deployment()));
    assert_eq!(*back.load(&ROOM).await.unwrap().unwrap().plaintext, b"state");
}

/// A time that somebody altered does not become the time by which the key is renewed.
#[tokio::test]
async fn a_refused_head_leaves_no_key_behind() {
    let scene = Scene::new(SIZES[0]).await;
    let head = &scene.new[&head_of(&ROOM)];
    let reader = scene.reader_at(NOW_MS + 2 * KEY_LIFE_MS);
    scene.put(head_of(&ROOM), with(head, "data_key_at_ms", Some((NOW_MS * 2).into()))).await;
    assert_eq!(reader.load(&ROOM).await.unwrap_err().code(), "snapshot_tampered");
    scene.mend().await;
    reader.claim(&ROOM, 2).await.unwrap();
    let save = Save { fence: 2, expected_version: 2, plaintext: b"new", status: "", side_writes: vec![] };
    reader.save(&ROOM, save).await.unwrap();
    assert_ne!(scene.dump()[&head_of(&ROOM)]["data_key"], head["data_key"], "a key that old is replaced");
}
