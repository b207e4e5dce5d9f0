//! An XMTP network that takes what usher sends to rooms and lets nobody hear it but usher: it believes what it did.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::Address;
use async_trait::async_trait;
use usher_domain::ports::Clock as _;
use usher_lambda::Machine;
use usher_xmtp::{
    GroupId,
    identity::{InboxId, InstallationId},
    network::{GroupMessage, LoggedUpdate, Network, NetworkError, Newest, OutgoingMessage, PAGE_SIZE},
    proto::{
        associations::IdentityUpdate,
        mls_api::{WelcomeMessage, WelcomeMessageInput},
    },
};

pub(super) struct Unheard {
    node: Arc<dyn Network>,
    kept: Mutex<Vec<GroupMessage>>,
}

impl Unheard {
    pub(super) fn new(node: Arc<dyn Network>) -> Self {
        Self { node, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<GroupMessage>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Network for Unheard {
    async fn send_group_messages(&self, messages: Vec<OutgoingMessage>) -> Result<(), NetworkError> {
        for message in messages {
            let mut kept = self.kept();
            // Beyond all that the node has or will have. There is one room.
            let id = u64::from(u32::MAX) + kept.len() as u64;
            let OutgoingMessage { data, sender_hmac, .. } = message;
            kept.push(GroupMessage { id, created_ns: Machine.now_ms() * 1_000_000, data, sender_hmac });
        }
        Ok(())
    }

    async fn group_messages(&self, group: GroupId, after: u64) -> Result<Vec<GroupMessage>, NetworkError> {
        let mut heard = self.node.group_messages(group, after).await?;
        if heard.len() < PAGE_SIZE {
            heard.extend(self.kept().iter().filter(|message| message.id > after).cloned());
        }
        Ok(heard)
    }

    async fn publish_identity_update(&self, update: IdentityUpdate) -> Result<(), NetworkError> {
        self.node.publish_identity_update(update).await
    }

    async fn identity_updates(&self, after: &[(InboxId, u64)]) -> Result<Vec<Vec<LoggedUpdate>>, NetworkError> {
        self.node.identity_updates(after).await
    }

    async fn inbox_ids(&self, wallets: &[Address]) -> Result<Vec<Option<InboxId>>, NetworkError> {
        self.node.inbox_ids(wallets).await
    }

    async fn verify_smart_wallet_signature(
        &self,
        account_id: &str,
        block_number: Option<u64>,
        hash: [u8; 32],
        signature: &[u8],
    ) -> Result<bool, NetworkError> {
        self.node.verify_smart_wallet_signature(account_id, block_number, hash, signature).await
    }

    async fn upload_key_package(&self, key_package: Vec<u8>) -> Result<(), NetworkError> {
        self.node.upload_key_package(key_package).await
    }

    async fn key_packages(&self, installations: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError> {
        self.node.key_packages(installations).await
    }

    async fn newest_group_messages(&self, groups: &[GroupId]) -> Result<Vec<Option<Newest>>, NetworkError> {
        self.node.newest_group_messages(groups).await
    }

    async fn send_welcomes(&self, welcomes: Vec<WelcomeMessageInput>) -> Result<(), NetworkError> {
        self.node.send_welcomes(welcomes).await
    }

    async fn welcomes(&self, installation: [u8; 32], after: u64) -> Result<Vec<WelcomeMessage>, NetworkError> {
        self.node.welcomes(installation, after).await
    }
}
