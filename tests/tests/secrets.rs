//! Nothing secret is said, however much is asked for: a whole story and the operator's commands at trace level, and then
//! every line searched for every key that was ever stored and every word of chat. (The same with keys in KMS:
//! `tests/tests/template/disclosure.rs`.)

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use alloy_primitives::Address;
use prost::Message as _;
use usher_domain::EventKey;
use usher_store::{
    DataKeys as _, FileDataKeys, Owner, RoomState, Snapshots, Table as _,
    table::{Key, Value},
};
use usher_tests::{
    dev_stack::DevStack,
    haus::{Chain, Event},
    node_sdk::Wallet,
    spoken::forms,
    world::{AnyError, TestClock, TestRandomness},
};

const WORDS: [&str; 3] = ["meet me behind the piano", "bring the blue umbrella", "nobody else must know"];

/// What is secret of the account and of rooms as they are stored (shared/xmtp/proto/state.proto).
#[derive(Clone, PartialEq, prost::Message)]
struct AccountState {
    #[prost(bytes, tag = "2")]
    installation_seed: Vec<u8>,
    #[prost(message, repeated, tag = "5")]
    key_packages: Vec<KeyPackageState>,
    #[prost(bytes, tag = "7")]
    hmac_root: Vec<u8>,
    #[prost(message, repeated, tag = "8")]
    mls: Vec<MlsValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyPackageState {
    #[prost(bytes, tag = "4")]
    xwing_private_key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GroupState {
    #[prost(message, repeated, tag = "2")]
    mls: Vec<MlsValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MlsValue {
    #[prost(bytes, tag = "1")]
    key: Vec<u8>,
    #[prost(bytes, tag = "2")]
    value: Vec<u8>,
}

/// The names of openmls's values that hold secrets and nothing that may be told.
const SECRET_VALUES: [&str; 3] = ["EpochSecrets", "EpochKeyPairs", "EncryptionKeyPair"];

/// The 32-byte secrets of openmls's values: MessagePack arrays of 32 small numbers.
fn mls_secrets(values: &[MlsValue]) -> Vec<Vec<u8>> {
    let is_secret = |value: &&MlsValue| {
        let key = String::from_utf8_lossy(&value.key);
        SECRET_VALUES.iter().any(|name| key.contains(name))
    };
    values.iter().filter(is_secret).flat_map(|value| arrays_of_32(&value.value)).collect()
}

fn arrays_of_32(mut packed: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((_, rest)) = packed.split_first() {
        if let Some(mut numbers) = packed.strip_prefix(&[0xdc, 0, 32]) {
            let array: Vec<u8> = std::iter::from_fn(|| {
                let (byte, rest) = match numbers {
                    [0xcc, byte, rest @ ..] => (*byte, rest),
                    [byte @ ..0x80, rest @ ..] => (*byte, rest),
                    _ => return None,
                };
                numbers = rest;
                Some(byte)
            })
            .take(32)
            .collect();
            found.extend((array.len() == 32).then_some(array));
        }
        packed = rest;
    }
    found
}

#[test]
fn secrets_are_found_in_what_openmls_stores() {
    let packed = [&[1, 0xdc, 0, 32][..], &[0xcc, 200, 5].repeat(16), &[9]].concat();
    assert_eq!(arrays_of_32(&packed), [[200, 5].repeat(16)]);
}

fn key_file(text: &str) -> Result<Vec<u8>, hex::FromHexError> {
    hex::decode(text.trim().trim_start_matches("0x"))
}

/// All secrets of a deployment that were ever stored, by their names.
#[derive(Default)]
struct Secrets {
    found: BTreeMap<String, Vec<u8>>,
    /// How often rooms were found with epoch secrets that were new.
    epochs: usize,
}

impl Secrets {
    fn add(&mut self, name: impl Into<String>, secret: Vec<u8>) {
        if !self.found.values().any(|known| *known == secret) {
            self.found.insert(name.into(), secret);
        }
    }

    /// Takes note of what is stored now.
    async fn note(&mut self, stack: &DevStack, event: &EventKey) -> Result<(), AnyError> {
        let store = stack.store();
        let deployment = store.deployment().await?.ok_or("there is a deployment")?;
        let (randomness, clock) = (Arc::new(TestRandomness), Arc::new(TestClock::default()));
        let keys = FileDataKeys::open(&stack.ready.data_key_file, deployment.clone(), randomness.clone())?;
        let keys = Arc::new(keys);
        let snapshots = Snapshots::new(store.table().clone(), keys.clone(), deployment, clock, randomness);
        let rooms = store.event(event).await?.ok_or("there is the event")?.rooms;
        let active: Vec<_> = rooms.iter().filter(|room| room.state == RoomState::Active).collect();
        for owner in [Owner::Account].into_iter().chain(active.iter().map(|room| Owner::Room(room.group))) {
            let snapshot = snapshots.load(&owner).await?.ok_or("it is stored")?;
            let (version, plaintext) = (snapshot.version, snapshot.plaintext);
            let mls = if owner == Owner::Account {
                let account = AccountState::decode(&plaintext[..])?;
                self.add(format!("installation's seed in {version}"), account.installation_seed);
                self.add(format!("HMAC's root in {version}"), account.hmac_root);
                for (number, package) in account.key_packages.into_iter().enumerate() {
                    self.add(format!("key package {number} in {version}"), package.xwing_private_key);
                }
                account.mls
            } else {
                GroupState::decode(&plaintext[..])?.mls
            };
            let before = self.found.len();
            for (number, secret) in mls_secrets(&mls).into_iter().enumerate() {
                self.add(format!("openmls's secret {number} of {owner} in {version}"), secret);
            }
            self.epochs += usize::from(owner != Owner::Account && self.found.len() > before);
            let head = store.table().get(&Key::new(owner.to_string(), "head")).await?.ok_or("it has a head")?;
            let Some(Value::Bytes(wrapped)) = head.get("data_key") else { return Err("it has a data key".into()) };
            self.add(format!("data key of {owner} in {version}"), keys.unwrap(&owner, wrapped).await?.to_vec());
        }
        Ok(())
    }
}

/// What an operator's command says in all, at trace level.
async fn command(stack: &DevStack, arguments: &[&str]) -> Result<Vec<String>, AnyError> {
    let output = stack.command().args(arguments).envs([("RUST_LOG", "trace"), ("NO_COLOR", "1")]).output().await?;
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(said[1].contains("TRACE"), "{arguments:?} says everything");
    Ok(said.iter().flat_map(|said| said.lines()).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_said_at_trace_level() -> Result<(), AnyError> {
    let said = Arc::new(Mutex::new(Vec::<String>::new()));
    let note = said.clone();
    let stack = DevStack::start_metered(&[], "trace", "secrets", move |line| {
        note.lock().expect("nobody panics with it").push(line);
    })
    .await?;
    let mut secrets = Secrets::default();
    for path in [&stack.ready.data_key_file, &stack.ready.wallet_key_file] {
        secrets.add(path.display().to_string(), key_file(&std::fs::read_to_string(path)?)?);
    }
    let (host, ana, ben) = (stack.person(1).await?, stack.person(2).await?, stack.person(3).await?);
    let address = |number| -> Address { Wallet::numbered(number).address() };
    let (mut chain, event) = (Chain::default(), Event::new(0, address(1)));
    stack.send(&[chain.mint(&event)]).await?;
    stack.until_seated(&event.key(), &[(&host, 1)]).await?;
    secrets.note(&stack, &event.key()).await?;
    stack.send(&[chain.purchase(&event, 1, address(2))]).await?;
    let room = stack.until_seated(&event.key(), &[(&host, 1), (&ana, 1)]).await?;
    secrets.note(&stack, &event.key()).await?;
    for (person, words) in [(&host, WORDS[0]), (&ana, WORDS[1])] {
        person.sync().await?;
        person.synced(&room).await?;
        person.send_text(&room, words).await?;
    }
    stack.send(&[chain.purchase(&event, 2, address(3))]).await?;
    stack.until_seated(&event.key(), &[(&host, 1), (&ana, 1), (&ben, 1)]).await?;
    secrets.note(&stack, &event.key()).await?;
    ben.sync().await?;
    ben.synced(&room).await?;
    ben.send_text(&room, WORDS[2]).await?;
    stack.send(&[chain.refund(&event, 1, address(2))]).await?;
    stack.nudged_until_seated(&event.key(), &[(&host, 1), (&ben, 1)]).await?;
    stack.until_handled().await?;
    secrets.note(&stack, &event.key()).await?;
    let by_commands = async {
        let mut lines = Vec::new();
        for arguments in [&["init"][..], &["doctor"], &["config", "get"], &["parked", "list"], &["rooms"]] {
            lines.extend(command(&stack, arguments).await?);
        }
        // The new account's keys, too.
        lines.extend(command(&stack, &["recover", "--begin"]).await?);
        secrets.note(&stack, &event.key()).await?;
        Ok::<_, AnyError>(lines)
    };
    let by_commands = by_commands.await?;

    assert!(secrets.epochs >= 4, "the room's secrets of {} epochs", secrets.epochs);
    let Secrets { found: mut secrets, .. } = secrets;
    assert!(secrets.keys().filter(|name| name.starts_with("openmls's")).count() > 20, "{:?}", secrets.keys());
    assert!(secrets.keys().filter(|name| name.starts_with("installation's seed")).count() == 2, "{:?}", secrets.keys());
    secrets.extend(WORDS.map(|words| (words.to_owned(), words.as_bytes().to_vec())));
    drop(stack);

    let mut lines = std::mem::take(&mut *said.lock().expect("nobody panics with it"));
    lines.extend(by_commands);
    // Everybody was asked for everything, and said much of it.
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    for text in ["usher_lambda", "usher_doorkeeper", "aws_smithy_runtime", "h2::", "TRACE", r#""work":"converge""#] {
        assert!(has(text), "no line of {text}");
    }
    let mut found = BTreeSet::new();
    for (name, secret) in &secrets {
        assert!(secret.len() >= 16 && secret.iter().any(|byte| *byte != 0), "{name} is no secret");
        for form in forms(secret) {
            if let Some(line) = lines.iter().find(|line| line.contains(&form)) {
                let target = line.split("\"target\":\"").nth(1).and_then(|rest| rest.split('"').next());
                let target = target.map_or_else(|| line.chars().take(200).collect(), str::to_owned);
                found.insert(format!("{name}, by {target}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
    Ok(())
}
