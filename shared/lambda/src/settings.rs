//! The configuration in the table: which contracts are listened to, how rooms are kept, who is in or out by name.
//!
//! One JSON document, described by docs/config.schema.json. It is put by `usher config put` and read by every
//! invocation; nothing in it is secret.

use std::{collections::BTreeSet, fmt};

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use usher_chain::Chains;
use usher_domain::{
    Person,
    admission::CreatorRole,
    planner::{Limits, MAX_INBOXES},
};
use usher_doorkeeper::Policy;
use usher_store::{
    StoreError,
    budget::{Bucket, RateLimits},
    configuration::DOCUMENT_BYTES_MAX,
};

/// What the deployment is told to do.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Which contracts are listened to.
    pub chains: Chains,
    /// What the deployment decides about rooms.
    pub policy: Policy,
    /// What the XMTP node takes from one address; `None`: all.
    pub rate_limits: Option<RateLimits>,
}

/// Why there are no settings to work by.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Nobody has put a configuration yet.
    #[error("no configuration: run `usher config put FILE`")]
    Missing,
    /// What is stored is no configuration that this version understands.
    #[error("revision {revision} of the configuration cannot be used: run `usher config put FILE`")]
    Unusable {
        /// Which one.
        revision: u64,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// The table did not tell.
    #[error("the configuration was not read")]
    Store(#[from] StoreError),
}

/// A text that is no configuration. `Display` says where, as far as that can be told.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is no JSON, or not of the right shape, or a value is out of its range.
    #[error("{0}")]
    Malformed(serde_json::Error),
    /// Somebody cannot be both.
    #[error("{0} is a moderator and banned")]
    ModeratorBanned(Address),
    /// The table has room for less than it, or than what it says in full.
    #[error("it has {0} bytes; at most {DOCUMENT_BYTES_MAX} are taken")]
    TooLong(usize),
}

/// The document as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// For editors; not looked at.
    #[serde(rename = "$schema", default, skip_serializing)]
    _schema: Option<String>,
    /// The form of the document: 1.
    pub version: Version,
    /// Which contracts are listened to, and how far they are believed.
    pub chains: Chains,
    /// How rooms are kept.
    #[serde(default)]
    pub policy: Rooms,
    /// What the XMTP node takes from one address: of the hosted networks unless it is said, `null` for a node without
    /// limits.
    #[serde(default = "hosted", deserialize_with = "limits")]
    pub rate_limits: Option<RateLimits>,
    /// Wallets whose inboxes sit in every room as admins.
    #[serde(default, deserialize_with = "wallets")]
    pub moderators: BTreeSet<Address>,
    /// Wallets and inboxes that are in no room.
    #[serde(default)]
    pub bans: BTreeSet<Person>,
}

/// How rooms are kept, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rooms {
    /// What creators are in their rooms.
    #[serde(default)]
    pub creator_role: CreatorRole,
    /// How many inboxes fit a room, usher's among them.
    #[serde(default)]
    pub seats_per_room: Seats,
}

/// A number of inboxes in a room: usher's and somebody's at least, and what libxmtp takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub struct Seats(usize);

/// The one form of the document that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Version;

const VERSION: u64 = 1;

impl Default for Seats {
    fn default() -> Self {
        Self(Limits::default().seats_per_room)
    }
}

impl TryFrom<usize> for Seats {
    type Error = String;

    fn try_from(seats: usize) -> Result<Self, String> {
        let fits = (2..=MAX_INBOXES).contains(&seats);
        fits.then_some(Self(seats))
            .ok_or_else(|| format!("seats_per_room is {seats}; it must lie between 2 and {MAX_INBOXES}"))
    }
}

impl From<Seats> for usize {
    fn from(seats: Seats) -> Self {
        seats.0
    }
}

impl TryFrom<u64> for Version {
    type Error = String;

    fn try_from(version: u64) -> Result<Self, String> {
        if version == VERSION {
            Ok(Self)
        } else {
            Err(format!("version {version} is not known; this usher reads {VERSION}"))
        }
    }
}

impl From<Version> for u64 {
    fn from(Version: Version) -> Self {
        VERSION
    }
}

fn hosted() -> Option<RateLimits> {
    Some(RateLimits::default())
}

/// Limits by which anything can be done at all.
fn limits<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<RateLimits>, D::Error> {
    let limits = Option::<RateLimits>::deserialize(deserializer)?;
    let empty = |bucket: &Bucket| bucket.max_tokens == 0 || bucket.per_minute == 0;
    if limits.as_ref().is_some_and(|limits| empty(&limits.publish) || empty(&limits.default)) {
        return Err(serde::de::Error::custom("with a bucket of 0 nothing could ever be done; null means no limits"));
    }
    Ok(limits)
}

/// Wallets alone: it is the link from a wallet to its inbox that later explains why a moderator has to go.
fn wallets<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Address>, D::Error> {
    let wallet = |person| match person {
        Person::Wallet(wallet) => Ok(wallet),
        Person::Inbox(inbox) => {
            Err(serde::de::Error::custom(format!("moderators are named by wallets, not inbox {inbox}")))
        }
    };
    BTreeSet::<Person>::deserialize(deserializer)?.into_iter().map(wallet).collect()
}

impl Document {
    /// A document that says no more than which chains there are.
    pub fn new(chains: Chains) -> Self {
        Self {
            _schema: None,
            version: Version,
            chains,
            policy: Rooms::default(),
            rate_limits: hosted(),
            moderators: BTreeSet::new(),
            bans: BTreeSet::new(),
        }
    }

    /// Reads a document and checks it.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLong(text.len()));
        }
        let document: Self = serde_json::from_str(text).map_err(DocumentError::Malformed)?;
        let written = document.to_string().len();
        if written > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLong(written));
        }
        match document.moderators.iter().find(|wallet| document.bans.contains(&Person::Wallet(**wallet))) {
            Some(wallet) => Err(DocumentError::ModeratorBanned(*wallet)),
            None => Ok(document),
        }
    }
}

/// As JSON, with everything said that goes without saying.
impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?)
    }
}

impl From<Document> for Settings {
    fn from(document: Document) -> Self {
        let Document { chains, policy, rate_limits, moderators, bans, .. } = document;
        let limits = Limits { seats_per_room: policy.seats_per_room.into(), ..Limits::default() };
        Self { chains, policy: Policy { creator_role: policy.creator_role, moderators, bans, limits }, rate_limits }
    }
}

#[cfg(test)]
mod tests;
