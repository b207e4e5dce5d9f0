use std::{collections::HashMap, marker::PhantomData, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::{
    Consent, Conversation, GroupSummary, InboxState, KeyPackageStatus, Message, MetadataField, Permission, Policy,
    PolicySet, Preset, RoleChange, SdkError, SyncSummary, Wallet,
    process::{Delivery, Driver, PATIENCE},
};

/// Where a client keeps its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientStorage {
    /// In a file, as apps do; gone with the driver.
    File,
    /// In memory.
    Memory,
}

/// What a new group starts with; unset fields are left to libxmtp.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupOptions {
    /// `group_name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `description`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The policies by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// The policies one by one; `preset` must then be [`Preset::Custom`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_policies: Option<PolicySet>,
}

/// One installation of one inbox: libxmtp itself, with device sync off.
pub struct SdkClient {
    driver: Arc<Driver>,
    client: u64,
    created: Created,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    inbox_id: String,
    installation_id: String,
    address: String,
    libxmtp_version: String,
}

/// Who the client is.
impl SdkClient {
    pub(super) async fn create(driver: Arc<Driver>, wallet: &Wallet, storage: ClientStorage) -> Result<Self, SdkError> {
        let client = driver.next_id();
        let params = json!({"privateKey": wallet.key_hex(), "inMemory": storage == ClientStorage::Memory});
        let created = driver.call(client, "createClient", params).await?;
        Ok(Self { driver, client, created })
    }

    /// 64 hex digits.
    pub fn inbox_id(&self) -> &str {
        &self.created.inbox_id
    }

    /// 64 hex digits: the installation's Ed25519 key.
    pub fn installation_id(&self) -> &str {
        &self.created.installation_id
    }

    /// The wallet's address: 0x and 40 lower-case hex digits.
    pub fn address(&self) -> &str {
        &self.created.address
    }

    /// The version of the library that does the work, as it names itself.
    pub fn libxmtp_version(&self) -> &str {
        &self.created.libxmtp_version
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, SdkError> {
        self.driver.call(self.client, method, params).await
    }
}

/// All conversations.
impl SdkClient {
    /// `conversations.sync`: takes welcomes; of the groups it knows already it reads nothing.
    pub async fn sync(&self) -> Result<(), SdkError> {
        self.call("sync", json!({})).await
    }

    /// `conversations.syncAll`: takes welcomes and reads all groups with one of these consent states (empty: the
    /// SDK's own default).
    pub async fn sync_all(&self, consent: &[Consent]) -> Result<SyncSummary, SdkError> {
        self.call("syncAll", with_consent(consent)).await
    }

    /// Groups with one of these consent states (empty: the SDK's own default), from the local database.
    pub async fn groups(&self, consent: &[Consent]) -> Result<Vec<GroupSummary>, SdkError> {
        self.call("groups", with_consent(consent)).await
    }

    /// Creates a group with these inboxes and returns its id.
    pub async fn create_group(&self, inbox_ids: &[&str], options: &GroupOptions) -> Result<String, SdkError> {
        let mut params = json!(options);
        params["inboxIds"] = json!(inbox_ids);
        self.call("createGroup", params).await
    }

    /// Creates a group in the local database alone and returns its id.
    pub async fn create_group_optimistic(&self, options: &GroupOptions) -> Result<String, SdkError> {
        let mut params = json!(options);
        params["optimistic"] = json!(true);
        self.call("createGroup", params).await
    }

    /// Opens the DM with an inbox and returns its id.
    pub async fn create_dm(&self, inbox_id: &str) -> Result<String, SdkError> {
        self.call("createDm", json!({"inboxId": inbox_id})).await
    }
}

/// One conversation.
impl SdkClient {
    /// Reads the conversation from the local database.
    pub async fn conversation(&self, group_id: &str) -> Result<Conversation, SdkError> {
        self.call("conversation", json!({"groupId": group_id})).await
    }

    /// Reads the conversation's log from the network.
    pub async fn sync_conversation(&self, group_id: &str) -> Result<(), SdkError> {
        self.call("syncConversation", json!({"groupId": group_id})).await
    }

    /// [`sync_conversation`](Self::sync_conversation), then [`conversation`](Self::conversation).
    pub async fn synced(&self, group_id: &str) -> Result<Conversation, SdkError> {
        self.sync_conversation(group_id).await?;
        self.conversation(group_id).await
    }

    /// Adds all installations of these inboxes.
    pub async fn add_members(&self, group_id: &str, inbox_ids: &[&str]) -> Result<(), SdkError> {
        self.call("addMembers", json!({"groupId": group_id, "inboxIds": inbox_ids})).await
    }

    /// Adds the inboxes that the node names for these addresses.
    pub async fn add_addresses(&self, group_id: &str, addresses: &[&str]) -> Result<(), SdkError> {
        self.call("addAddresses", json!({"groupId": group_id, "addresses": addresses})).await
    }

    /// Removes these inboxes.
    pub async fn remove_members(&self, group_id: &str, inbox_ids: &[&str]) -> Result<(), SdkError> {
        self.call("removeMembers", json!({"groupId": group_id, "inboxIds": inbox_ids})).await
    }

    /// Promotes or demotes a member.
    pub async fn change_role(&self, group_id: &str, inbox_id: &str, change: RoleChange) -> Result<(), SdkError> {
        self.call("changeRole", json!({"groupId": group_id, "inboxId": inbox_id, "change": change})).await
    }

    /// Sets the name, description, image or app data.
    pub async fn set_metadata(&self, group_id: &str, field: MetadataField, value: &str) -> Result<(), SdkError> {
        self.call("setMetadata", json!({"groupId": group_id, "field": field, "value": value})).await
    }

    /// Replaces one policy.
    pub async fn set_permission(&self, group_id: &str, permission: Permission, policy: Policy) -> Result<(), SdkError> {
        let (permission, field) = match permission {
            Permission::AddMember => ("addMember", None),
            Permission::RemoveMember => ("removeMember", None),
            Permission::AddAdmin => ("addAdmin", None),
            Permission::RemoveAdmin => ("removeAdmin", None),
            Permission::UpdateMetadata(field) => ("updateMetadata", Some(field)),
        };
        let params = json!({"groupId": group_id, "permission": permission, "policy": policy, "field": field});
        self.call("setPermission", params).await
    }

    /// Notes the user's decision about the conversation.
    pub async fn set_consent(&self, group_id: &str, state: Consent) -> Result<(), SdkError> {
        self.call("setConsent", json!({"groupId": group_id, "state": state})).await
    }

    /// Asks to leave. A super admin's client takes the member out.
    pub async fn request_removal(&self, group_id: &str) -> Result<(), SdkError> {
        self.call("requestRemoval", json!({"groupId": group_id})).await
    }

    /// Sends a text and returns the message id.
    pub async fn send_text(&self, group_id: &str, text: &str) -> Result<String, SdkError> {
        self.call("sendText", json!({"groupId": group_id, "text": text})).await
    }

    /// Stores a text to be sent by [`publish_messages`](Self::publish_messages) and returns the message id.
    pub async fn send_text_optimistic(&self, group_id: &str, text: &str) -> Result<String, SdkError> {
        self.call("sendText", json!({"groupId": group_id, "text": text, "optimistic": true})).await
    }

    /// Sends what was stored; also publishes a group created optimistically.
    pub async fn publish_messages(&self, group_id: &str) -> Result<(), SdkError> {
        self.call("publishMessages", json!({"groupId": group_id})).await
    }

    /// All messages in the local database, oldest first, transcripts of commits included.
    pub async fn messages(&self, group_id: &str) -> Result<Vec<Message>, SdkError> {
        self.call("messages", json!({"groupId": group_id})).await
    }

    /// The texts among [`messages`](Self::messages).
    pub async fn texts(&self, group_id: &str) -> Result<Vec<String>, SdkError> {
        Ok(self.messages(group_id).await?.into_iter().filter_map(|message| message.text).collect())
    }
}

/// Identities.
impl SdkClient {
    /// Which of the addresses have an inbox; keyed by lower-case address.
    pub async fn can_message(&self, addresses: &[&str]) -> Result<HashMap<String, bool>, SdkError> {
        self.call("canMessage", json!({"addresses": addresses})).await
    }

    /// These inboxes as the node's identity log has them now.
    pub async fn inbox_states(&self, inbox_ids: &[&str]) -> Result<Vec<InboxState>, SdkError> {
        self.call("inboxStates", json!({"inboxIds": inbox_ids})).await
    }

    /// What is published for these installations; keyed by installation id.
    pub async fn key_packages(&self, installation_ids: &[&str]) -> Result<HashMap<String, KeyPackageStatus>, SdkError> {
        self.call("keyPackages", json!({"installationIds": installation_ids})).await
    }

    /// Revokes installations of the client's own inbox.
    pub async fn revoke_installations(&self, installation_ids: &[&str]) -> Result<(), SdkError> {
        self.call("revokeInstallations", json!({"installationIds": installation_ids})).await
    }

    /// Links a wallet to the client's inbox, taking it from another inbox if need be.
    pub async fn add_account(&self, wallet: &Wallet) -> Result<(), SdkError> {
        self.call("addAccount", json!({"privateKey": wallet.key_hex()})).await
    }

    /// Unlinks a wallet from the client's inbox.
    pub async fn remove_account(&self, address: &str) -> Result<(), SdkError> {
        self.call("removeAccount", json!({"address": address})).await
    }
}

/// Streams.
impl SdkClient {
    /// `streamAllMessages`: syncs everything, then delivers new messages of all conversations, also of groups that
    /// the client is added to later.
    pub async fn stream_messages(&self) -> Result<SdkStream<Message>, SdkError> {
        self.stream("messages", &[]).await
    }

    /// The same, of the conversations with one of these consent states.
    pub async fn stream_messages_of(&self, consent: &[Consent]) -> Result<SdkStream<Message>, SdkError> {
        self.stream("messages", consent).await
    }

    /// `conversations.stream`: delivers the ids of new conversations.
    pub async fn stream_conversations(&self) -> Result<SdkStream<String>, SdkError> {
        self.stream("conversations", &[]).await
    }

    async fn stream<T>(&self, kind: &'static str, consent: &[Consent]) -> Result<SdkStream<T>, SdkError> {
        let deliveries = self.driver.route(self.client, kind);
        let mut params = with_consent(consent);
        params["kind"] = json!(kind);
        self.call::<()>("stream", params).await?;
        Ok(SdkStream { driver: self.driver.clone(), client: self.client, kind, deliveries, item: PhantomData })
    }
}

/// What a stream of the SDK delivers, in order.
pub struct SdkStream<T> {
    driver: Arc<Driver>,
    client: u64,
    kind: &'static str,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    item: PhantomData<T>,
}

impl<T: DeserializeOwned> SdkStream<T> {
    /// Awaits the next item.
    pub async fn next(&mut self) -> Result<T, SdkError> {
        let method = || format!("stream of {}", self.kind);
        let delivery = timeout(PATIENCE, self.deliveries.recv()).await.map_err(|_| SdkError::Late(method()))?;
        let value = delivery
            .ok_or_else(|| SdkError::Gone(method()))?
            .map_err(|message| SdkError::Refused { method: method(), message })?;
        serde_json::from_value(value).map_err(|source| SdkError::Unreadable { method: method(), source })
    }

    /// Awaits `count` items.
    pub async fn take(&mut self, count: usize) -> Result<Vec<T>, SdkError> {
        let mut items = Vec::with_capacity(count);
        while items.len() < count {
            items.push(self.next().await?);
        }
        Ok(items)
    }

    /// Awaits an item like that and returns it; those before it are dropped.
    pub async fn until(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<T, SdkError> {
        loop {
            let item = self.next().await?;
            if wanted(&item) {
                return Ok(item);
            }
        }
    }

    /// Ends the stream in the SDK, so that another of its kind can be opened.
    pub async fn end(self) -> Result<(), SdkError> {
        self.driver.call(self.client, "endStream", json!({"kind": self.kind})).await
    }
}

fn with_consent(consent: &[Consent]) -> Value {
    if consent.is_empty() { json!({}) } else { json!({"consent": consent}) }
}
