//! An XMTP network in memory that lets anybody put anything anywhere.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use alloy_primitives::Address;
use async_trait::async_trait;
use openmls::framing::{MlsMessageBodyIn, MlsMessageIn};
use tls_codec::Deserialize as _;
use usher_xmtp::{
    GroupId,
    identity::{InboxId, InstallationId},
    network::{FailureKind, GroupMessage, LoggedUpdate, Network, NetworkError, Newest, OutgoingMessage, PAGE_SIZE},
    proto::{
        associations::{IdentityUpdate, identity_action},
        mls_api::{self, WelcomeMessage, welcome_message, welcome_message_input},
    },
};

use crate::cast::NOW_NS;

/// All that a node stores.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    last_id: u64,
    identity_logs: BTreeMap<InboxId, Vec<LoggedUpdate>>,
    inboxes: BTreeMap<Address, InboxId>,
    key_packages: BTreeMap<InstallationId, Vec<u8>>,
    groups: BTreeMap<GroupId, Vec<GroupMessage>>,
    welcomes: BTreeMap<Vec<u8>, Vec<WelcomeMessage>>,
    wallets_unverifiable: bool,
    ahead_ns: u64,
}

/// The network. Numbers everything in one sequence and stores identical group messages once, as V3 nodes do.
#[derive(Debug, Default)]
pub struct MemoryNetwork(Mutex<Stored>);

impl MemoryNetwork {
    /// A network with this history.
    pub fn with(stored: Stored) -> Self {
        Self(Mutex::new(stored))
    }

    /// All that is stored.
    pub fn stored(&self) -> Stored {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Puts bytes into a group's log, whatever they are.
    pub fn post(&self, group: GroupId, data: Vec<u8>, sender_hmac: Vec<u8>) {
        let mut stored = self.lock();
        let (id, created_ns) = (stored.next_id(), NOW_NS + stored.ahead_ns);
        let log = stored.groups.entry(group).or_default();
        if !log.iter().any(|message| message.data == data) {
            log.push(GroupMessage { id, created_ns, data, sender_hmac });
        }
    }

    /// Lets time pass, as the node's clock shows it.
    pub fn pass(&self, time: Duration) {
        self.lock().ahead_ns += u64::try_from(time.as_nanos()).expect("not centuries");
    }

    /// A group's whole log.
    pub fn log(&self, group: GroupId) -> Vec<GroupMessage> {
        self.lock().groups.get(&group).cloned().unwrap_or_default()
    }

    /// Sends somebody a welcome, whatever it is. The node gives it its number.
    pub fn post_welcome(&self, installation: &[u8], mut welcome: WelcomeMessage) {
        let mut stored = self.lock();
        let number = stored.next_id();
        match &mut welcome.version {
            Some(welcome_message::Version::V1(v1)) => (v1.id, v1.created_ns) = (number, NOW_NS),
            Some(welcome_message::Version::WelcomePointer(it)) => (it.id, it.created_ns) = (number, NOW_NS),
            None => {}
        }
        stored.welcomes.entry(installation.to_vec()).or_default().push(welcome);
    }

    /// Takes somebody's welcomes away, as if they had not been sent.
    pub fn take_welcomes(&self, installation: InstallationId) -> Vec<WelcomeMessage> {
        self.lock().welcomes.remove(installation.as_bytes().as_slice()).unwrap_or_default()
    }

    /// Serves these bytes as an installation's key package.
    pub fn replace_key_package(&self, installation: InstallationId, key_package: Vec<u8>) {
        self.lock().key_packages.insert(installation, key_package);
    }

    /// What is served as an installation's key package.
    pub fn key_package(&self, installation: InstallationId) -> Option<Vec<u8>> {
        self.lock().key_packages.get(&installation).cloned()
    }

    /// Appends an entry to an inbox's log, whatever it says.
    pub fn append_update(&self, inbox: &InboxId, update: IdentityUpdate) -> u64 {
        let mut stored = self.lock();
        let sequence_id = stored.next_id();
        stored.identity_logs.entry(inbox.clone()).or_default().push(LoggedUpdate { sequence_id, update });
        sequence_id
    }

    /// From now on nobody can say whether a smart-contract wallet's signature is valid, or somebody can again.
    pub fn make_wallets_unverifiable(&self, unverifiable: bool) {
        self.lock().wallets_unverifiable = unverifiable;
    }

    /// An inbox's log.
    pub fn identity_log(&self, inbox: &InboxId) -> Vec<LoggedUpdate> {
        self.lock().identity_logs.get(inbox).cloned().unwrap_or_default()
    }
}

impl Stored {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

fn page<T: Clone>(items: Option<&Vec<T>>, after: u64, id: impl Fn(&T) -> Option<u64>) -> Vec<T> {
    let newer = |item: &&T| id(item).is_none_or(|id| id > after);
    items.into_iter().flatten().filter(newer).take(PAGE_SIZE).cloned().collect()
}

/// The group that the bytes of a message name.
fn group_of(data: &[u8]) -> Option<GroupId> {
    match MlsMessageIn::tls_deserialize_exact(data).ok()?.extract() {
        MlsMessageBodyIn::PrivateMessage(message) => message.group_id().as_slice().try_into().ok().map(GroupId),
        MlsMessageBodyIn::PublicMessage(message) => message.group_id().as_slice().try_into().ok().map(GroupId),
        _ => None,
    }
}

fn unavailable(method: &'static str) -> NetworkError {
    NetworkError { method, kind: FailureKind::Unknown, message: "no answer".to_owned() }
}

#[async_trait]
impl Network for MemoryNetwork {
    async fn publish_identity_update(&self, update: IdentityUpdate) -> Result<(), NetworkError> {
        let inbox: InboxId = update.inbox_id.parse().map_err(|_| unavailable("PublishIdentityUpdate"))?;
        for action in &update.actions {
            if let Some(identity_action::Kind::CreateInbox(create)) = &action.kind
                && let Ok(wallet) = create.initial_identifier.parse()
            {
                self.lock().inboxes.insert(wallet, inbox.clone());
            }
        }
        self.append_update(&inbox, update);
        Ok(())
    }

    async fn identity_updates(&self, after: &[(InboxId, u64)]) -> Result<Vec<Vec<LoggedUpdate>>, NetworkError> {
        let newer = |(inbox, after): &(InboxId, u64)| {
            self.identity_log(inbox).into_iter().filter(|entry| entry.sequence_id > *after).collect()
        };
        Ok(after.iter().map(newer).collect())
    }

    async fn inbox_ids(&self, wallets: &[Address]) -> Result<Vec<Option<InboxId>>, NetworkError> {
        let stored = self.lock();
        Ok(wallets.iter().map(|wallet| stored.inboxes.get(wallet).cloned()).collect())
    }

    /// A smart-contract wallet's signature says of itself whether it is valid, by a 1.
    async fn verify_smart_wallet_signature(
        &self,
        _account_id: &str,
        _block_number: Option<u64>,
        _hash: [u8; 32],
        signature: &[u8],
    ) -> Result<bool, NetworkError> {
        if self.lock().wallets_unverifiable {
            return Err(unavailable("VerifySmartContractWalletSignatures"));
        }
        Ok(signature.first() == Some(&1))
    }

    async fn upload_key_package(&self, key_package: Vec<u8>) -> Result<(), NetworkError> {
        let refused = |_| unavailable("UploadKeyPackage");
        let parsed = openmls::key_packages::KeyPackageIn::tls_deserialize_exact(&key_package).map_err(refused)?;
        let leaf_key = parsed.unverified_credential().signature_key;
        let installation = leaf_key.as_slice().try_into().map_err(|_| unavailable("UploadKeyPackage"))?;
        self.replace_key_package(installation, key_package);
        Ok(())
    }

    async fn key_packages(&self, installations: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError> {
        Ok(installations.iter().map(|installation| self.key_package(*installation)).collect())
    }

    async fn send_group_messages(&self, messages: Vec<OutgoingMessage>) -> Result<(), NetworkError> {
        for message in messages {
            let group = group_of(&message.data).ok_or_else(|| unavailable("SendGroupMessages"))?;
            self.post(group, message.data, message.sender_hmac);
        }
        Ok(())
    }

    async fn group_messages(&self, group: GroupId, after: u64) -> Result<Vec<GroupMessage>, NetworkError> {
        Ok(page(self.lock().groups.get(&group), after, |message| Some(message.id)))
    }

    async fn newest_group_messages(&self, groups: &[GroupId]) -> Result<Vec<Option<Newest>>, NetworkError> {
        let stored = self.lock();
        let newest = |group| stored.groups.get(group).and_then(|log| log.last());
        let found = groups
            .iter()
            .map(|group| newest(group).map(|message| Newest { id: message.id, created_ns: message.created_ns }));
        Ok(found.collect())
    }

    async fn send_welcomes(&self, welcomes: Vec<mls_api::WelcomeMessageInput>) -> Result<(), NetworkError> {
        for welcome in welcomes {
            let (installation, version) = match welcome.version {
                Some(welcome_message_input::Version::V1(v1)) => {
                    let version = welcome_message::Version::V1(welcome_message::V1 {
                        installation_key: v1.installation_key.clone(),
                        data: v1.data,
                        hpke_public_key: v1.hpke_public_key,
                        wrapper_algorithm: v1.wrapper_algorithm,
                        welcome_metadata: v1.welcome_metadata,
                        ..Default::default()
                    });
                    (v1.installation_key, version)
                }
                Some(welcome_message_input::Version::WelcomePointer(pointer)) => {
                    let version = welcome_message::Version::WelcomePointer(welcome_message::WelcomePointer {
                        installation_key: pointer.installation_key.clone(),
                        welcome_pointer: pointer.welcome_pointer,
                        hpke_public_key: pointer.hpke_public_key,
                        wrapper_algorithm: pointer.wrapper_algorithm,
                        ..Default::default()
                    });
                    (pointer.installation_key, version)
                }
                None => return Err(unavailable("SendWelcomeMessages")),
            };
            self.post_welcome(&installation, WelcomeMessage { version: Some(version) });
        }
        Ok(())
    }

    async fn welcomes(&self, installation: [u8; 32], after: u64) -> Result<Vec<WelcomeMessage>, NetworkError> {
        let id = |welcome: &WelcomeMessage| match welcome.version.as_ref()? {
            welcome_message::Version::V1(v1) => Some(v1.id),
            welcome_message::Version::WelcomePointer(pointer) => Some(pointer.id),
        };
        Ok(page(self.lock().welcomes.get(installation.as_slice()), after, id))
    }
}
