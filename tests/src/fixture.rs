//! Checked-in snapshots of a format: a table, the key file, and what the network said next.

use std::{collections::BTreeMap, fs, path::Path};

use alloy_primitives::Address;
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use usher_store::table::{Item, Value};
use usher_xmtp::{
    GroupId,
    identity::{InboxId, InstallationId},
    network::{FailureKind, GroupMessage, LoggedUpdate, Network, NetworkError, Newest, OutgoingMessage},
    proto::{associations::IdentityUpdate, mls_api},
};

use crate::world::AnyError;

/// The key file's name in a fixture.
pub const KEY_FILE: &str = "data.key";
const TABLE_FILE: &str = "table.json";
const NETWORK_FILE: &str = "network.json";

/// Snapshots of one format, and what to try them with.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// The table's items.
    pub items: Vec<Item>,
    /// What the network said after they were stored.
    pub network: Replay,
}

/// A value in DynamoDB's JSON.
#[derive(Serialize, Deserialize)]
enum Stored {
    S(String),
    N(String),
    B(String),
}

/// An item in DynamoDB's JSON.
type StoredItem = BTreeMap<String, Stored>;

impl Fixture {
    /// Reads the fixture in `folder`.
    pub fn read(folder: &Path) -> Result<Self, AnyError> {
        let items: Vec<StoredItem> = serde_json::from_slice(&fs::read(folder.join(TABLE_FILE))?)?;
        let value = |value| -> Result<Value, AnyError> {
            Ok(match value {
                Stored::S(text) => Value::Text(text),
                Stored::N(number) => Value::Number(number.parse()?),
                Stored::B(bytes) => Value::Bytes(STANDARD.decode(bytes)?),
            })
        };
        let item = |item: StoredItem| item.into_iter().map(|(name, stored)| Ok((name, value(stored)?))).collect();
        Ok(Self {
            items: items.into_iter().map(item).collect::<Result<_, AnyError>>()?,
            network: serde_json::from_slice(&fs::read(folder.join(NETWORK_FILE))?)?,
        })
    }

    /// Writes the fixture, all but its key file.
    pub fn write(&self, folder: &Path) -> Result<(), AnyError> {
        let value = |value: &Value| match value {
            Value::Text(text) => Stored::S(text.clone()),
            Value::Number(number) => Stored::N(number.to_string()),
            Value::Bytes(bytes) => Stored::B(STANDARD.encode(bytes)),
        };
        let item = |item: &Item| item.iter().map(|(name, stored)| (name.clone(), value(stored))).collect();
        let items: Vec<StoredItem> = self.items.iter().map(item).collect();
        fs::write(folder.join(TABLE_FILE), serde_json::to_string_pretty(&items)? + "\n")?;
        fs::write(folder.join(NETWORK_FILE), serde_json::to_string_pretty(&self.network)? + "\n")?;
        Ok(())
    }
}

/// A network that says again what it said once: one group's log and identity logs. It takes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Replay {
    messages: Vec<ReplayedMessage>,
    identities: BTreeMap<InboxId, Vec<ReplayedUpdate>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ReplayedMessage {
    id: u64,
    created_ns: u64,
    /// TLS-serialized MLSMessage, in base64.
    data: String,
    sender_hmac: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ReplayedUpdate {
    sequence_id: u64,
    /// The `IdentityUpdate`, in base64.
    update: String,
}

impl Replay {
    /// Records a group's log after message `after`, and the identity logs of these inboxes.
    pub async fn record(
        network: &dyn Network,
        group: GroupId,
        after: u64,
        inboxes: &[InboxId],
    ) -> Result<Self, AnyError> {
        let message = |message: GroupMessage| ReplayedMessage {
            id: message.id,
            created_ns: message.created_ns,
            data: STANDARD.encode(message.data),
            sender_hmac: STANDARD.encode(message.sender_hmac),
        };
        let update = |logged: LoggedUpdate| ReplayedUpdate {
            sequence_id: logged.sequence_id,
            update: STANDARD.encode(logged.update.encode_to_vec()),
        };
        let asked: Vec<_> = inboxes.iter().map(|inbox| (inbox.clone(), 0)).collect();
        let logs = network.identity_updates(&asked).await?.into_iter();
        let logs = logs.map(|log| log.into_iter().map(update).collect());
        Ok(Self {
            messages: network.group_messages(group, after).await?.into_iter().map(message).collect(),
            identities: inboxes.iter().cloned().zip(logs).collect(),
        })
    }
}

fn bytes(text: &str) -> Vec<u8> {
    STANDARD.decode(text).expect("a fixture is in base64")
}

fn silent<T>(method: &'static str) -> Result<T, NetworkError> {
    Err(NetworkError { method, kind: FailureKind::Refused, message: "only a recording".to_owned() })
}

#[async_trait]
impl Network for Replay {
    async fn publish_identity_update(&self, _: IdentityUpdate) -> Result<(), NetworkError> {
        silent("publish_identity_update")
    }

    async fn identity_updates(&self, after: &[(InboxId, u64)]) -> Result<Vec<Vec<LoggedUpdate>>, NetworkError> {
        let logged = |replayed: &ReplayedUpdate| LoggedUpdate {
            sequence_id: replayed.sequence_id,
            update: IdentityUpdate::decode(bytes(&replayed.update).as_slice()).expect("a fixture has whole updates"),
        };
        let log = |(inbox, after): &(InboxId, u64)| {
            let log = self.identities.get(inbox).into_iter().flatten();
            log.filter(|update| update.sequence_id > *after).map(logged).collect()
        };
        Ok(after.iter().map(log).collect())
    }

    async fn inbox_ids(&self, _: &[Address]) -> Result<Vec<Option<InboxId>>, NetworkError> {
        silent("inbox_ids")
    }

    async fn verify_smart_wallet_signature(
        &self,
        _: &str,
        _: Option<u64>,
        _: [u8; 32],
        _: &[u8],
    ) -> Result<bool, NetworkError> {
        silent("verify_smart_wallet_signature")
    }

    async fn upload_key_package(&self, _: Vec<u8>) -> Result<(), NetworkError> {
        silent("upload_key_package")
    }

    async fn key_packages(&self, _: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError> {
        silent("key_packages")
    }

    async fn send_group_messages(&self, _: Vec<OutgoingMessage>) -> Result<(), NetworkError> {
        silent("send_group_messages")
    }

    async fn group_messages(&self, _: GroupId, after: u64) -> Result<Vec<GroupMessage>, NetworkError> {
        let message = |message: &ReplayedMessage| GroupMessage {
            id: message.id,
            created_ns: message.created_ns,
            data: bytes(&message.data),
            sender_hmac: bytes(&message.sender_hmac),
        };
        Ok(self.messages.iter().filter(|message| message.id > after).map(message).collect())
    }

    async fn newest_group_messages(&self, _: &[GroupId]) -> Result<Vec<Option<Newest>>, NetworkError> {
        silent("newest_group_messages")
    }

    async fn send_welcomes(&self, _: Vec<mls_api::WelcomeMessageInput>) -> Result<(), NetworkError> {
        silent("send_welcomes")
    }

    async fn welcomes(&self, _: [u8; 32], _: u64) -> Result<Vec<mls_api::WelcomeMessage>, NetworkError> {
        silent("welcomes")
    }
}

/// The state of the fixture's large owner: bytes that do not compress, so that they take more than one chunk.
pub fn large_state() -> Vec<u8> {
    let mut word = 1_u64;
    let mut next = || {
        // SplitMix64.
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_be_bytes()
    };
    (0..43_800).flat_map(|_| next()).collect()
}

/// Whose state that is.
pub const LARGE: usher_domain::GroupId = usher_domain::GroupId([0x77; 16]);
