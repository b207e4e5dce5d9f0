//! An XMTP V3 node without wires: logs that number what they take. What it refuses, and in which words, is the local
//! node's business (usher-localnet); here a call either counts or does not.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex},
};

use alloy_primitives::Address;
use openmls::{
    framing::{ContentType, MlsMessageBodyIn, MlsMessageIn},
    key_packages::KeyPackageIn,
};
use tls_codec::Deserialize as _;
use usher_xmtp::{
    GroupId,
    identity::{AssociationState, InboxId, InstallationId, NoSmartWallets},
    network::{FailureKind, GroupMessage, LoggedUpdate, NetworkError, Newest, OutgoingMessage, PAGE_SIZE},
    proto::{associations::IdentityUpdate, mls_api},
};

use crate::shared::Shared;
use usher_xmtp::ports::Clock as _;

#[derive(Default)]
struct Logs {
    sequence: u64,
    identity: BTreeMap<InboxId, Vec<LoggedUpdate>>,
    states: BTreeMap<InboxId, AssociationState>,
    /// Which inbox claimed a wallet, by the claim's sequence id.
    claims: BTreeMap<Address, BTreeMap<u64, InboxId>>,
    key_packages: BTreeMap<InstallationId, Vec<u8>>,
    messages: BTreeMap<GroupId, Vec<GroupMessage>>,
    known: HashSet<Vec<u8>>,
    welcomes: BTreeMap<[u8; 32], Vec<(u64, mls_api::WelcomeMessage)>>,
}

/// The node.
pub(crate) struct Node {
    shared: Arc<Shared>,
    logs: Mutex<Logs>,
}

fn refused(method: &'static str, message: &str) -> NetworkError {
    NetworkError { method, kind: FailureKind::Refused, message: message.to_owned() }
}

impl Node {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, logs: Mutex::default() }
    }

    fn logs(&self) -> std::sync::MutexGuard<'_, Logs> {
        self.logs.lock().expect("no panic")
    }

    pub(crate) async fn publish_identity_update(&self, update: IdentityUpdate) -> Result<(), NetworkError> {
        let method = "PublishIdentityUpdate";
        let inbox: InboxId = update.inbox_id.parse().map_err(|_| refused(method, "inbox id"))?;
        let before = self.logs().states.get(&inbox).cloned();
        let state = AssociationState::apply(before, &update, &NoSmartWallets).await;
        let state = state.map_err(|error| refused(method, &error.to_string()))?;
        let mut logs = self.logs();
        logs.sequence += 1;
        let sequence_id = logs.sequence;
        let before = logs.states.insert(inbox.clone(), state.clone()).map(|old| old.addresses()).unwrap_or_default();
        for wallet in state.addresses().difference(&before) {
            logs.claims.entry(*wallet).or_default().insert(sequence_id, inbox.clone());
        }
        for wallet in before.difference(&state.addresses()) {
            logs.claims.entry(*wallet).or_default().retain(|_, claimed| *claimed != inbox);
        }
        logs.identity.entry(inbox).or_default().push(LoggedUpdate { sequence_id, update });
        Ok(())
    }

    pub(crate) fn identity_updates(&self, after: &[(InboxId, u64)]) -> Vec<Vec<LoggedUpdate>> {
        let logs = self.logs();
        let newer = |(inbox, after): &(InboxId, u64)| {
            let log = logs.identity.get(inbox).into_iter().flatten();
            log.filter(|entry| entry.sequence_id > *after).cloned().collect()
        };
        after.iter().map(newer).collect()
    }

    /// `behind` entries of all logs together are not seen yet.
    pub(crate) fn inbox_ids(&self, wallets: &[Address], behind: u64) -> Vec<Option<InboxId>> {
        let logs = self.logs();
        let horizon = logs.sequence.saturating_sub(behind);
        let newest =
            |wallet: &Address| logs.claims.get(wallet)?.range(..=horizon).next_back().map(|(_, it)| it.clone());
        wallets.iter().map(newest).collect()
    }

    pub(crate) fn upload_key_package(&self, bytes: Vec<u8>) -> Result<(), NetworkError> {
        let package = KeyPackageIn::tls_deserialize_exact(&bytes);
        let package = package.map_err(|error| refused("UploadKeyPackage", &error.to_string()))?;
        let key = package.unverified_credential().signature_key;
        let installation: InstallationId =
            key.as_slice().try_into().map_err(|_| refused("UploadKeyPackage", "signature key"))?;
        self.put_key_package(installation, bytes);
        Ok(())
    }

    /// Whatever bytes: a node may be hostile.
    pub(crate) fn put_key_package(&self, installation: InstallationId, bytes: Vec<u8>) {
        self.logs().key_packages.insert(installation, bytes);
    }

    pub(crate) fn key_packages(&self, installations: &[InstallationId]) -> Vec<Option<Vec<u8>>> {
        let logs = self.logs();
        installations.iter().map(|installation| logs.key_packages.get(installation).cloned()).collect()
    }

    pub(crate) fn send_group_messages(&self, messages: Vec<OutgoingMessage>) -> Result<(), NetworkError> {
        for message in messages {
            let (group, _) =
                framing(&message.data).ok_or_else(|| refused("SendGroupMessages", "not a PrivateMessage"))?;
            self.append(group, message.data, message.sender_hmac);
        }
        Ok(())
    }

    /// Whatever bytes, in whatever group's log: the node authenticates nobody.
    pub(crate) fn append(&self, group: GroupId, data: Vec<u8>, sender_hmac: Vec<u8>) {
        let created_ns = self.shared.now_ns();
        let mut logs = self.logs();
        if !logs.known.insert([group.0.as_slice(), &data].concat()) {
            return;
        }
        logs.sequence += 1;
        let id = logs.sequence;
        logs.messages.entry(group).or_default().push(GroupMessage { id, created_ns, data, sender_hmac });
    }

    pub(crate) fn group_messages(&self, group: GroupId, after: u64) -> Vec<GroupMessage> {
        let logs = self.logs();
        let log = logs.messages.get(&group).into_iter().flatten();
        log.filter(|message| message.id > after).take(PAGE_SIZE).cloned().collect()
    }

    /// A group's whole log.
    pub(crate) fn log(&self, group: GroupId) -> Vec<GroupMessage> {
        self.logs().messages.get(&group).cloned().unwrap_or_default()
    }

    pub(crate) fn newest_group_messages(&self, groups: &[GroupId], behind: u64) -> Vec<Option<Newest>> {
        let logs = self.logs();
        let horizon = logs.sequence.saturating_sub(behind);
        let newest = |group: &GroupId| {
            let message = logs.messages.get(group)?.iter().rfind(|message| message.id <= horizon)?;
            Some(Newest { id: message.id, created_ns: message.created_ns })
        };
        groups.iter().map(newest).collect()
    }

    pub(crate) fn send_welcomes(&self, welcomes: Vec<mls_api::WelcomeMessageInput>) {
        for welcome in welcomes {
            self.append_welcome(welcome);
        }
    }

    fn append_welcome(&self, welcome: mls_api::WelcomeMessageInput) {
        use mls_api::{welcome_message, welcome_message_input::Version};
        let created_ns = self.shared.now_ns();
        let mut logs = self.logs();
        logs.sequence += 1;
        let id = logs.sequence;
        let (installation, version) = match welcome.version {
            None => return,
            Some(Version::V1(v1)) => (
                v1.installation_key.clone(),
                welcome_message::Version::V1(welcome_message::V1 {
                    id,
                    created_ns,
                    installation_key: v1.installation_key,
                    data: v1.data,
                    hpke_public_key: v1.hpke_public_key,
                    wrapper_algorithm: v1.wrapper_algorithm,
                    welcome_metadata: v1.welcome_metadata,
                }),
            ),
            Some(Version::WelcomePointer(pointer)) => (
                pointer.installation_key.clone(),
                welcome_message::Version::WelcomePointer(welcome_message::WelcomePointer {
                    id,
                    created_ns,
                    installation_key: pointer.installation_key,
                    welcome_pointer: pointer.welcome_pointer,
                    hpke_public_key: pointer.hpke_public_key,
                    wrapper_algorithm: pointer.wrapper_algorithm,
                }),
            ),
        };
        // A pointer's destination is a topic like an installation's, and as long.
        let Ok(topic) = installation.try_into() else { return };
        logs.welcomes.entry(topic).or_default().push((id, mls_api::WelcomeMessage { version: Some(version) }));
    }

    pub(crate) fn welcomes(&self, installation: [u8; 32], after: u64) -> Vec<mls_api::WelcomeMessage> {
        let logs = self.logs();
        let log = logs.welcomes.get(&installation).into_iter().flatten();
        log.filter(|(id, _)| *id > after).take(PAGE_SIZE).map(|(_, welcome)| welcome.clone()).collect()
    }

    /// The installations that an inbox's log lists.
    pub(crate) fn installations(&self, inbox: &InboxId) -> BTreeSet<InstallationId> {
        self.logs().states.get(inbox).map(AssociationState::installations).unwrap_or_default()
    }
}

/// The group of a message, and the epoch if it is a commit.
pub(crate) fn framing(data: &[u8]) -> Option<(GroupId, Option<u64>)> {
    let MlsMessageBodyIn::PrivateMessage(message) = MlsMessageIn::tls_deserialize_exact(data).ok()?.extract() else {
        return None;
    };
    let group = GroupId(message.group_id().as_slice().try_into().ok()?);
    let commit = message.content_type() == ContentType::Commit;
    Some((group, commit.then(|| message.epoch().as_u64())))
}
