//! What the SDK shows of conversations, messages and identities. Ids are lower-case hex without 0x, addresses
//! lower-case hex with it.

use serde::{Deserialize, Serialize};

/// Whether the user wants a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Consent {
    /// Not decided yet: apps show it as a request.
    Unknown,
    /// Wanted.
    Allowed,
    /// Refused.
    Denied,
}

/// A member's role in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// Neither admin nor super admin.
    Member,
    /// In the admin list.
    Admin,
    /// In the super admin list.
    SuperAdmin,
}

/// How an SDK calls a group's whole policy set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Preset {
    /// "All members".
    Default,
    /// "Admin only".
    AdminOnly,
    /// Neither of the two.
    Custom,
}

/// Who may do a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    /// Every member.
    Allow,
    /// Nobody.
    Deny,
    /// Admins and super admins.
    Admin,
    /// Super admins.
    SuperAdmin,
    /// The group has no such entry.
    DoesNotExist,
    /// A combination the SDK cannot name.
    Other,
}

/// The policies of a group that the SDK shows and sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are the SDK's own, one policy each")]
pub struct PolicySet {
    pub add_member_policy: Policy,
    pub remove_member_policy: Policy,
    pub add_admin_policy: Policy,
    pub remove_admin_policy: Policy,
    pub update_group_name_policy: Policy,
    pub update_group_description_policy: Policy,
    pub update_group_image_url_square_policy: Policy,
    pub update_message_disappearing_policy: Policy,
    pub update_app_data_policy: Policy,
}

/// A policy that [`set_permission`](super::SdkClient::set_permission) replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the policies'")]
pub enum Permission {
    AddMember,
    RemoveMember,
    AddAdmin,
    RemoveAdmin,
    UpdateMetadata(MetadataField),
}

/// A text that all members see of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MetadataField {
    /// `group_name`.
    Name,
    /// `description`.
    Description,
    /// `group_image_url_square`.
    ImageUrl,
    /// `app_data`.
    AppData,
}

/// What [`change_role`](super::SdkClient::change_role) does to an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are the SDK's calls")]
pub enum RoleChange {
    AddAdmin,
    RemoveAdmin,
    AddSuperAdmin,
    RemoveSuperAdmin,
}

/// One inbox in a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its inbox id.
    pub inbox_id: String,
    /// The installations that its identity log lists at the sequence id the group holds.
    pub installation_ids: Vec<String>,
    /// Its wallets.
    pub addresses: Vec<String>,
    /// Its role.
    pub level: Level,
    /// What the viewing client's user thinks of it.
    pub consent: Consent,
}

/// How far a client has read what one originator wrote. On V3 nodes originator 0 stands for commits, 10 for
/// application messages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "a pair of ids")]
pub struct Cursor {
    pub originator: u32,
    pub sequence: u64,
}

/// A group or DM as one client sees it after its last sync.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    /// Group id.
    pub id: String,
    /// A DM; names, roles and policies are then empty.
    pub is_dm: bool,
    /// `group_name`.
    pub name: String,
    /// `description`.
    pub description: String,
    /// `group_image_url_square`.
    pub image_url: String,
    /// `app_data`.
    pub app_data: String,
    /// The client's installation is in the group.
    pub is_active: bool,
    /// The client asked to leave and is still in.
    pub is_pending_removal: bool,
    /// The user's decision.
    pub consent: Consent,
    /// Inbox that added this client.
    pub added_by: String,
    /// Inbox in the immutable metadata.
    pub creator: String,
    /// Set if the group asks for a newer libxmtp.
    pub paused_for_version: Option<String>,
    /// All members, in no order.
    pub members: Vec<Member>,
    /// `admin_list`, inbox ids.
    pub admins: Vec<String>,
    /// `super_admin_list`, inbox ids.
    pub super_admins: Vec<String>,
    /// The policies' common name; none in a DM.
    pub preset: Option<Preset>,
    /// The policies; none in a DM.
    pub policies: Option<PolicySet>,
    /// MLS epoch.
    pub epoch: u64,
    /// libxmtp met a commit it could not apply where others may have.
    pub maybe_forked: bool,
    /// Why it thinks so.
    pub fork_details: String,
    /// What the commit log says, if it says anything.
    pub is_commit_log_forked: Option<bool>,
    /// How far the client has read.
    pub cursors: Vec<Cursor>,
}

impl Conversation {
    /// The member with this inbox id.
    pub fn member(&self, inbox_id: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.inbox_id == inbox_id)
    }

    /// All members' inbox ids, sorted.
    pub fn inbox_ids(&self) -> Vec<&str> {
        let mut ids: Vec<_> = self.members.iter().map(|member| member.inbox_id.as_str()).collect();
        ids.sort_unstable();
        ids
    }
}

/// A group in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupSummary {
    /// Group id.
    pub id: String,
    /// `group_name`.
    pub name: String,
    /// The client's installation is in the group.
    pub is_active: bool,
    /// The user's decision.
    pub consent: Consent,
}

/// What a commit changed, as libxmtp derives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "lists of inbox ids, named as in GroupUpdated")]
pub struct Updated {
    pub initiated_by: String,
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub left: Vec<String>,
    pub added_admins: Vec<String>,
    pub removed_admins: Vec<String>,
    pub added_super_admins: Vec<String>,
    pub removed_super_admins: Vec<String>,
    pub fields: Vec<FieldChange>,
}

/// One metadata attribute's change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FieldChange {
    /// Attribute key, such as `group_name`.
    pub name: String,
    /// Value before.
    pub old: Option<String>,
    /// Value after.
    pub new: Option<String>,
}

/// A message in a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Message id.
    pub id: String,
    /// The conversation's id.
    pub group_id: String,
    /// Sending inbox.
    pub sender: String,
    /// `authority/type`, such as `xmtp.org/text`.
    pub content_type: String,
    /// Derived from a commit by the reading client, not sent.
    pub transcript: bool,
    /// Set if it is a text.
    pub text: Option<String>,
    /// Set if it is a `group_updated`.
    pub updated: Option<Updated>,
}

/// An inbox as its identity log leaves it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InboxState {
    /// Its id.
    pub inbox_id: String,
    /// The address that may revoke.
    pub recovery_address: String,
    /// Its wallets.
    pub addresses: Vec<String>,
    /// Its installations.
    pub installation_ids: Vec<String>,
}

/// What a client thinks of an installation's published key package.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyPackageStatus {
    /// Seconds since 1970.
    pub not_before: Option<u64>,
    /// Seconds since 1970.
    pub not_after: Option<u64>,
    /// Why it is not usable.
    pub error: Option<String>,
}

/// How many conversations a sync looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct SyncSummary {
    /// Conversations that matched.
    pub eligible: u64,
    /// Conversations read from the network.
    pub synced: u64,
}
