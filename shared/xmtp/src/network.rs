//! The port to an XMTP network: what the client asks of nodes, and nothing else.
//!
//! Positions are (originator, sequence id) as in XIP-49, although a V3 node numbers everything by itself: V3 ids are
//! filed under the originator numbers that libxmtp gives them, so that stored cursors survive the move to D14n.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use async_trait::async_trait;

use crate::{
    GroupId,
    identity::{InboxId, InstallationId},
    proto::{associations::IdentityUpdate, mls_api},
};

/// libxmtp's originator number for V3 commits.
pub const COMMITS: u32 = 0;
/// libxmtp's originator number for V3 application messages.
pub const APPLICATION_MESSAGES: u32 = 10;
/// libxmtp's originator number for V3 welcomes.
pub const WELCOMES: u32 = 11;

/// How far a topic was read: the highest sequence id seen of each originator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor(pub BTreeMap<u32, u64>);

impl Cursor {
    /// Moves forward; never back.
    pub fn advance(&mut self, originator: u32, sequence_id: u64) {
        let seen = self.0.entry(originator).or_default();
        *seen = (*seen).max(sequence_id);
    }

    /// On V3 all originators share one sequence: the highest id seen.
    pub fn latest(&self) -> u64 {
        self.0.values().copied().max().unwrap_or_default()
    }
}

/// What a failed call leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The node did not answer, or not in time: the request may have been accepted.
    Unknown,
    /// The node refuses because of load: stay silent for at least a minute (its limiter refills only then).
    RateLimited,
    /// The node no longer takes V3 traffic (the D14n cutover has passed).
    Retired,
    /// The node refused this very request; sending it again changes nothing.
    Refused,
    /// The answer is larger than this client reads; to ask for less may help.
    TooLarge,
}

/// A call to the network that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method}: {message}")]
pub struct NetworkError {
    /// The RPC's name.
    pub method: &'static str,
    /// What is left open.
    pub kind: FailureKind,
    /// The node's words.
    pub message: String,
}

/// An entry of an inbox's identity log.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedUpdate {
    /// The entry's number; grows within an inbox, with gaps.
    pub sequence_id: u64,
    /// The entry.
    pub update: IdentityUpdate,
}

/// A message in a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMessage {
    /// Its number; within a group, id order is the order that counts.
    pub id: u64,
    /// When the node stored it, in nanoseconds since 1970.
    pub created_ns: u64,
    /// TLS-serialized MLSMessage (RFC 9420 section 6).
    pub data: Vec<u8>,
    /// What its sender gave as [`OutgoingMessage::sender_hmac`]. Nobody but he can check it.
    pub sender_hmac: Vec<u8>,
}

/// A message for a group's log; the group is named inside the MLS bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// TLS-serialized MLSMessage.
    pub data: Vec<u8>,
    /// HMAC by which a push server skips the sender's own devices.
    pub sender_hmac: Vec<u8>,
    /// Whether members' devices should be woken.
    pub should_push: bool,
}

/// Where a group's newest message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// The message's id.
    pub id: u64,
    /// When the node stored it, in nanoseconds since 1970.
    pub created_ns: u64,
}

/// Nodes answer at most this many messages per page.
pub const PAGE_SIZE: usize = 100;
/// libxmtp asks for at most this many identity logs in one call; more are more calls.
pub const IDENTITY_LOGS_PER_CALL: usize = 50;
/// libxmtp asks for at most this many groups' newest messages in one call; more are more calls.
pub const GROUPS_PER_CALL: usize = 1000;

/// An XMTP network as a client sees it.
#[async_trait]
pub trait Network: Send + Sync {
    /// Appends to an inbox's identity log.
    async fn publish_identity_update(&self, update: IdentityUpdate) -> Result<(), NetworkError>;
    /// The log entries of each inbox after the given sequence id (0 = all), in the order asked.
    async fn identity_updates(&self, after: &[(InboxId, u64)]) -> Result<Vec<Vec<LoggedUpdate>>, NetworkError>;
    /// The inbox that last claimed each wallet. Only a suggestion: verify it against the inbox's log.
    async fn inbox_ids(&self, wallets: &[Address]) -> Result<Vec<Option<InboxId>>, NetworkError>;
    /// Asks the node to check an ERC-1271 or ERC-6492 signature on its chain.
    async fn verify_smart_wallet_signature(
        &self,
        account_id: &str,
        block_number: Option<u64>,
        hash: [u8; 32],
        signature: &[u8],
    ) -> Result<bool, NetworkError>;
    /// Replaces the installation's key package (TLS-serialized KeyPackage).
    async fn upload_key_package(&self, key_package: Vec<u8>) -> Result<(), NetworkError>;
    /// The current key package of each installation, in the order asked.
    async fn key_packages(&self, installations: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError>;
    /// Appends to groups' logs. Identical bytes are stored once, so a resend is safe.
    async fn send_group_messages(&self, messages: Vec<OutgoingMessage>) -> Result<(), NetworkError>;
    /// Up to [`PAGE_SIZE`] messages of a group with an id above `after`, ascending. Fewer may come although there are
    /// more, if they are very large; none come only if there are none.
    async fn group_messages(&self, group: GroupId, after: u64) -> Result<Vec<GroupMessage>, NetworkError>;
    /// The newest message of each group, in the order asked.
    async fn newest_group_messages(&self, groups: &[GroupId]) -> Result<Vec<Option<Newest>>, NetworkError>;
    /// Sends wrapped welcomes.
    async fn send_welcomes(&self, welcomes: Vec<mls_api::WelcomeMessageInput>) -> Result<(), NetworkError>;
    /// Up to [`PAGE_SIZE`] welcomes of an installation with an id above `after`, ascending. Fewer may come as with group
    /// messages.
    async fn welcomes(&self, installation: [u8; 32], after: u64) -> Result<Vec<mls_api::WelcomeMessage>, NetworkError>;
}
