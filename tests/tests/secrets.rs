//! Nothing secret is said, however much is asked for: a whole story at trace level, and then every line searched for
//! every key and every word of chat.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use alloy_primitives::Address;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use usher_store::{
    DataKeys as _, FileDataKeys, Owner, RoomState, Snapshots, Table as _,
    table::{Key, Value},
};
use usher_tests::{
    dev_stack::DevStack,
    haus::{Chain, Event},
    node_sdk::Wallet,
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

/// Every form in which a program may say bytes.
fn forms(secret: &[u8]) -> BTreeSet<String> {
    let numbers = |separator: &str| secret.iter().map(u8::to_string).collect::<Vec<_>>().join(separator);
    let mut forms = BTreeSet::from([
        hex::encode(secret),
        hex::encode_upper(secret),
        numbers(", "),
        numbers(","),
        secret.escape_ascii().to_string(),
        // As it stands in a JSON text.
        secret.escape_ascii().to_string().replace('\\', "\\\\"),
    ]);
    forms.extend(std::str::from_utf8(secret).map(str::to_owned));
    // Within something longer the secret begins at any of three places of a group of four digits.
    for start in 0..3 {
        let whole = &secret[start..secret.len() - (secret.len() - start) % 3];
        let text = STANDARD.encode(whole);
        forms.insert(text.replace('+', "-").replace('/', "_"));
        forms.insert(text);
    }
    forms
}

#[test]
fn bytes_are_found_in_each_form() {
    let secret = [0xfb, 0xef, 7, 34, 200, 65];
    let spoken = [
        format!("{secret:?}"),
        format!("{:?}", secret.to_vec()),
        STANDARD.encode([&[1], &secret[..], &[2, 3]].concat()),
        STANDARD.encode([&[1, 9], &secret[..], &[2]].concat()),
        format!("b\"{}\"", secret.escape_ascii()),
        format!("0x{}", hex::encode(secret)),
    ];
    for text in spoken {
        assert!(forms(&secret).iter().any(|form| text.contains(form)), "{text}");
    }
    let packed = [&[1, 0xdc, 0, 32][..], &[0xcc, 200, 5].repeat(16), &[9]].concat();
    assert_eq!(arrays_of_32(&packed), [[200, 5].repeat(16)]);
}

fn key_file(text: &str) -> Result<Vec<u8>, hex::FromHexError> {
    hex::decode(text.trim().trim_start_matches("0x"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_said_at_trace_level() -> Result<(), AnyError> {
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("state");
    let said = Arc::new(Mutex::new(Vec::<String>::new()));
    let note = said.clone();
    let arguments = ["--state", state.to_str().ok_or("UTF-8")?];
    let stack = DevStack::start_metered(&arguments, "trace", "secrets", move |line| {
        note.lock().expect("nobody panics with it").push(line);
    })
    .await?;
    let (host, ana, ben) = (stack.person(1).await?, stack.person(2).await?, stack.person(3).await?);
    let address = |number| -> Address { Wallet::numbered(number).address() };
    let (mut chain, event) = (Chain::default(), Event::new(0, address(1)));
    stack.send(&[chain.mint(&event), chain.purchase(&event, 1, address(2))]).await?;
    let room = stack.until_seated(&event.key(), &[(&host, 1), (&ana, 1)]).await?;
    for (person, words) in [(&host, WORDS[0]), (&ana, WORDS[1])] {
        person.sync().await?;
        person.synced(&room).await?;
        person.send_text(&room, words).await?;
    }
    stack.send(&[chain.purchase(&event, 2, address(3))]).await?;
    stack.until_seated(&event.key(), &[(&host, 1), (&ana, 1), (&ben, 1)]).await?;
    ben.sync().await?;
    ben.synced(&room).await?;
    ben.send_text(&room, WORDS[2]).await?;
    stack.send(&[chain.refund(&event, 1, address(2))]).await?;
    stack.nudged_until_seated(&event.key(), &[(&host, 1), (&ben, 1)]).await?;
    stack.until_handled().await?;

    let mut secrets: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for name in ["data.key", "wallet.key"] {
        secrets.insert(name.to_owned(), key_file(&std::fs::read_to_string(state.join(name))?)?);
    }
    let store = stack.store();
    let deployment = store.deployment().await?.ok_or("there is a deployment")?;
    let randomness = Arc::new(TestRandomness);
    let keys = Arc::new(FileDataKeys::open(&state.join("data.key"), deployment.clone(), randomness.clone())?);
    let clock = Arc::new(TestClock::default());
    let snapshots = Snapshots::new(store.table().clone(), keys.clone(), deployment, clock, randomness);
    let rooms = store.event(&event.key()).await?.ok_or("there is the event")?.rooms;
    let active: Vec<_> = rooms.iter().filter(|room| room.state == RoomState::Active).collect();
    for owner in [Owner::Account].into_iter().chain(active.iter().map(|room| Owner::Room(room.group))) {
        let plaintext = snapshots.load(&owner).await?.ok_or("it is stored")?.plaintext;
        let mls = if owner == Owner::Account {
            let account = AccountState::decode(&plaintext[..])?;
            secrets.insert("installation's seed".to_owned(), account.installation_seed);
            secrets.insert("HMAC's root".to_owned(), account.hmac_root);
            for (number, package) in account.key_packages.into_iter().enumerate() {
                secrets.insert(format!("key package {number}"), package.xwing_private_key);
            }
            account.mls
        } else {
            GroupState::decode(&plaintext[..])?.mls
        };
        for (number, secret) in mls_secrets(&mls).into_iter().enumerate() {
            secrets.insert(format!("openmls's secret {number} of {owner}"), secret);
        }
        let pk = owner.to_string();
        let head = store.table().get(&Key::new(pk, "head")).await?.ok_or("it has a head")?;
        let Some(Value::Bytes(wrapped)) = head.get("data_key") else { return Err("it has a data key".into()) };
        secrets.insert(format!("data key of {owner}"), keys.unwrap(&owner, wrapped).await?.to_vec());
    }
    assert!(secrets.keys().filter(|name| name.starts_with("openmls's")).count() > 5, "{:?}", secrets.keys());
    secrets.extend(WORDS.map(|words| (words.to_owned(), words.as_bytes().to_vec())));
    drop(stack);

    let lines = std::mem::take(&mut *said.lock().expect("nobody panics with it"));
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
                found.insert(format!("{name}, by {}", target.unwrap_or("?")));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
    Ok(())
}
