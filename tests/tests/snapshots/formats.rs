//! Every released format of sealed state opens for ever: the files in `fixtures/` were written by the release that had
//! it. See the README there.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use usher_domain::GroupId;
use usher_localnet::ambient::SystemClock;
use usher_store::{
    FileDataKeys, Owner, Save, Snapshots, Store, Table as _,
    memory::MemoryTable,
    table::{Attributes as _, Key, PK, SK, Write},
};
use usher_tests::{
    fixture::{Fixture, KEY_FILE, LARGE, Replay, large_state},
    world::{ANVIL_KEYS, AnyError, TestClock, TestRandomness},
};
use usher_xmtp::{
    Account, Group, Identities, NONCE,
    content::Content,
    group::{Committed, Event, Received},
    identity::{InboxId, LocalWallet, WalletSigner as _},
};

use crate::story::{ALICE, BOB, CREATOR, Outcome};

fn inbox_of(private_key: &[u8; 32]) -> InboxId {
    InboxId::of_wallet(LocalWallet::from_key(private_key).unwrap().address(), NONCE)
}

#[tokio::test]
async fn every_format_still_opens_and_works() -> Outcome {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut formats = BTreeSet::new();
    for entry in fs::read_dir(fixtures)? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(format) = name.strip_prefix("snapshot-format-") {
            opens(&folder, format.parse()?).await?;
            formats.insert(name);
        }
    }
    assert_eq!(formats.into_iter().collect::<Vec<_>>(), ["snapshot-format-1"], "a fixture of each format");
    Ok(())
}

async fn opens(folder: &Path, format: u8) -> Outcome {
    let fixture = Fixture::read(folder)?;
    let (table, mut rooms) = (Arc::new(MemoryTable::new()), BTreeSet::new());
    for item in fixture.items {
        let key = Key::new(item.text(PK).unwrap(), item.text(SK).unwrap());
        assert!(item.bytes("seal").is_none_or(|seal| seal[0] == format), "{key:?} is of another format");
        if let Some(group) = key.pk.strip_prefix("room#") {
            rooms.insert(group.parse::<GroupId>()?);
        }
        table.write(&Write::put(key, item)).await?;
    }
    let snapshots = snapshots(&folder.join(KEY_FILE), table).await?;

    let chunked = snapshots.load(&Owner::Room(LARGE)).await?.unwrap();
    assert!(*chunked.plaintext == large_state() && chunked.status == "large");

    let account = Account::decode(&snapshots.load(&Owner::Account).await?.unwrap().plaintext)?;
    assert_eq!(*account.inbox(), inbox_of(&[0xee; 32]));
    assert!(account.is_registered());
    assert!(rooms.remove(&LARGE) && rooms.len() == 1);
    works(&snapshots, &Owner::Room(*rooms.first().unwrap()), &account, &fixture.network).await
}

/// The sealed state in `table`, with a copy of the key file: a checkout does not keep it from others' eyes.
async fn snapshots(key: &Path, table: Arc<MemoryTable>) -> Result<Snapshots, AnyError> {
    let scratch = tempfile::tempdir()?;
    let copy = scratch.path().join(KEY_FILE);
    fs::copy(key, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600))?;
    let (clock, randomness) = (Arc::new(TestClock::default()), Arc::new(TestRandomness));
    let store = Store::new(table.clone(), clock.clone(), randomness.clone());
    let deployment = store.deployment().await?.ok_or("no deployment")?;
    let keys = FileDataKeys::open(&copy, deployment.clone(), randomness.clone())?;
    Ok(Snapshots::new(table, Arc::new(keys), deployment, clock, randomness))
}

/// The room was stored with a commit that adds Bob and was not published yet. It reads what came next, ends the commit,
/// can commit again, and is saved.
async fn works(snapshots: &Snapshots, owner: &Owner, account: &Account, network: &Replay) -> Outcome {
    let fence = 1000;
    let stored = snapshots.claim(owner, fence).await?.unwrap();
    let mut group = Group::decode(&stored.plaintext)?;
    let people = [CREATOR, ALICE, BOB].map(|who| inbox_of(&ANVIL_KEYS[who]));
    let members = |group: &Group| group.members().into_keys().collect::<BTreeSet<_>>();
    let before = BTreeSet::from([account.inbox().clone(), people[CREATOR].clone(), people[ALICE].clone()]);
    assert_eq!(members(&group), before);
    assert!(group.metadata().admins.contains(&people[CREATOR]));
    assert!(group.has_pending_commit() && group.pending_commit(account, &SystemClock).is_some());

    let (epoch, mut events) = (group.epoch(), Vec::new());
    group.sync(account, network, &mut Identities::default(), &mut events).await?;
    let [Event::Received(Received { sender, content, .. }), Event::Committed(Committed { own: true, .. })] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((sender, content), (&people[ALICE], &Content::Text("before the commit".to_owned())));
    assert_eq!((group.epoch(), group.lost(), group.has_welcomes()), (epoch + 1, None, true));
    assert!(members(&group).contains(&people[BOB]));

    group.stage_key_update(account, network, &mut Identities::default()).await?;
    let state = group.encode()?;
    let save = Save {
        fence,
        expected_version: stored.version,
        plaintext: &state,
        status: &stored.status,
        side_writes: Vec::new(),
    };
    snapshots.save(owner, save).await?;
    let again = Group::decode(&snapshots.load(owner).await?.unwrap().plaintext)?;
    assert!(again.has_pending_commit() && again.epoch() == epoch + 1);
    Ok(())
}
