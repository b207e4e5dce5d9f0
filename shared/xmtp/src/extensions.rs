//! The group context extensions of an XMTP group: what a group is, who is in it and who may do what.

use std::collections::{BTreeMap, BTreeSet};

use openmls::{
    extensions::{Extension, ExtensionType, Extensions, RequiredCapabilitiesExtension, UnknownExtension},
    group::GroupContext,
    prelude::{CredentialType, ProposalType},
};
use prost::Message;

use crate::{
    identity::{InboxId, InstallationId},
    policy::Policies,
    proto::contents,
};

pub(crate) const IMMUTABLE_METADATA: u16 = 0xf000;
pub(crate) const MUTABLE_METADATA: u16 = 0xff00;
pub(crate) const MEMBERSHIP: u16 = 0xff01;
pub(crate) const PERMISSIONS: u16 = 0xff02;
pub(crate) const WELCOME_WRAPPER: u16 = 0xff03;
pub(crate) const WELCOME_POINTEE: u16 = 0xff04;

/// Extensions that are not what an XMTP group has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// One of the four is missing.
    #[error("the group context has no extension {0:#06x}")]
    Missing(u16),
    /// One of the four does not parse.
    #[error("extension {extension:#06x}: {reason}")]
    Malformed {
        /// Its type.
        extension: u16,
        /// What is wrong with it.
        reason: String,
    },
}

fn malformed(extension: u16, reason: impl ToString) -> ExtensionError {
    ExtensionError::Malformed { extension, reason: reason.to_string() }
}

/// What kind of conversation a group is (0xf000). Never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConversationType {
    /// A group.
    Group,
    /// A conversation of two inboxes.
    Dm,
    /// Device sync of one inbox.
    Sync,
    /// A message in the shape of a group.
    Oneshot,
}

/// The content of 0xf000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImmutableMetadata {
    /// What kind of conversation this is.
    pub conversation_type: ConversationType,
    /// Who made it.
    pub creator: String,
    /// The two inboxes of a DM.
    pub dm_members: Option<(String, String)>,
}

/// The content of 0xff00.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MutableMetadata {
    /// Named texts, see [`attributes`].
    pub attributes: BTreeMap<String, String>,
    /// Inboxes that count as admin.
    pub admins: BTreeSet<InboxId>,
    /// Inboxes that count as super admin.
    pub super_admins: BTreeSet<InboxId>,
    /// Entries of the admin list that are no inbox ids: clients write any text there.
    pub odd_admins: BTreeSet<String>,
    /// The same in the super admin list.
    pub odd_super_admins: BTreeSet<String>,
}

/// Names of attributes in [`MutableMetadata`].
pub mod attributes {
    /// The group's name; at most 100 bytes.
    pub const NAME: &str = "group_name";
    /// Its description; at most 1000 bytes.
    pub const DESCRIPTION: &str = "description";
    /// The URL of its picture; at most 2048 bytes.
    pub const IMAGE_URL: &str = "group_image_url_square";
    /// A free text for applications; at most 8192 bytes.
    pub const APP_DATA: &str = "app_data";
    /// From when on messages disappear.
    pub const DISAPPEAR_FROM_NS: &str = "message_disappear_from_ns";
    /// After how long messages disappear.
    pub const DISAPPEAR_IN_NS: &str = "message_disappear_in_ns";
    /// Clients below this libxmtp version are locked out.
    pub const MINIMUM_VERSION: &str = "minimum_supported_protocol_version";

    /// The longest value of an attribute, in bytes, where clients enforce one.
    pub fn bytes_max(name: &str) -> Option<usize> {
        match name {
            NAME => Some(100),
            DESCRIPTION => Some(1000),
            IMAGE_URL => Some(2048),
            APP_DATA => Some(8192),
            _ => None,
        }
    }
}

/// The content of 0xff01.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Each member inbox, and the entry of its identity log that says which installations it has.
    pub members: BTreeMap<InboxId, u64>,
    /// Installations of members that could not be added.
    pub failed_installations: BTreeSet<InstallationId>,
}

/// All that an XMTP group context says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupExtensions {
    pub(crate) immutable: ImmutableMetadata,
    pub(crate) mutable: MutableMetadata,
    pub(crate) membership: Membership,
    pub(crate) policies: Policies,
}

impl GroupExtensions {
    pub(crate) fn parse(extensions: &Extensions<GroupContext>) -> Result<Self, ExtensionError> {
        Self::parse_with(parse_immutable(bytes(extensions, IMMUTABLE_METADATA)?)?, extensions)
    }

    /// What a commit makes of a group, as members check it: they do not look at the new 0xf000. What is wrong with that
    /// is told apart.
    pub(crate) fn parse_committed(
        &self,
        extensions: &Extensions<GroupContext>,
    ) -> Result<(Self, Option<ExtensionError>), ExtensionError> {
        let (immutable, ruined) = match bytes(extensions, IMMUTABLE_METADATA).and_then(parse_immutable) {
            Ok(immutable) => (immutable, None),
            Err(error) => (self.immutable.clone(), Some(error)),
        };
        Ok((Self::parse_with(immutable, extensions)?, ruined))
    }

    fn parse_with(immutable: ImmutableMetadata, extensions: &Extensions<GroupContext>) -> Result<Self, ExtensionError> {
        Ok(Self {
            immutable,
            mutable: parse_mutable(bytes(extensions, MUTABLE_METADATA)?)?,
            membership: parse_membership(bytes(extensions, MEMBERSHIP)?)?,
            policies: parse_permissions(bytes(extensions, PERMISSIONS)?)?,
        })
    }

    /// In the order in which libxmtp creates them.
    pub(crate) fn to_extensions(&self) -> Result<Extensions<GroupContext>, ExtensionError> {
        Extensions::from_vec(vec![
            unknown(IMMUTABLE_METADATA, encode_immutable(&self.immutable)),
            unknown(MUTABLE_METADATA, encode_mutable(&self.mutable)),
            unknown(MEMBERSHIP, encode_membership(&self.membership)),
            unknown(PERMISSIONS, self.policies.to_proto().encode_to_vec()),
            Extension::RequiredCapabilities(required_capabilities()),
        ])
        .map_err(|error| malformed(MEMBERSHIP, error))
    }

    /// `current` with the parts that differ from what it says replaced, and all else kept: a
    /// GroupContextExtensions proposal replaces the whole list (RFC 9420 section 12.1.7).
    pub(crate) fn update(
        &self,
        current: &Extensions<GroupContext>,
    ) -> Result<Extensions<GroupContext>, ExtensionError> {
        let old = Self::parse(current)?;
        let mut new = current.clone();
        let mut replace =
            |kind, bytes| new.add_or_replace(unknown(kind, bytes)).map_err(|error| malformed(kind, error));
        if old.mutable != self.mutable {
            replace(MUTABLE_METADATA, encode_mutable(&self.mutable))?;
        }
        if old.membership != self.membership {
            replace(MEMBERSHIP, encode_membership(&self.membership))?;
        }
        if old.policies != self.policies {
            replace(PERMISSIONS, self.policies.to_proto().encode_to_vec())?;
        }
        Ok(new)
    }
}

fn bytes(extensions: &Extensions<GroupContext>, kind: u16) -> Result<&[u8], ExtensionError> {
    extensions.unknown(kind).map(|extension| extension.0.as_slice()).ok_or(ExtensionError::Missing(kind))
}

fn unknown(kind: u16, bytes: Vec<u8>) -> Extension {
    Extension::Unknown(kind, UnknownExtension(bytes))
}

/// What every member's leaf must support.
pub(crate) fn required_capabilities() -> RequiredCapabilitiesExtension {
    RequiredCapabilitiesExtension::new(
        &required_extension_types(),
        &[ProposalType::GroupContextExtensions],
        &[CredentialType::Basic],
    )
}

pub(crate) fn required_extension_types() -> [ExtensionType; 6] {
    [
        ExtensionType::Unknown(MEMBERSHIP),
        ExtensionType::Unknown(MUTABLE_METADATA),
        ExtensionType::Unknown(PERMISSIONS),
        ExtensionType::Unknown(IMMUTABLE_METADATA),
        ExtensionType::LastResort,
        ExtensionType::ApplicationId,
    ]
}

/// XMTP's openmls has a type of its own for 0xf000, whose content is a vector within the extension's vector.
fn encode_immutable(metadata: &ImmutableMetadata) -> Vec<u8> {
    let inbox = |inbox_id: &String| Some(contents::Inbox { inbox_id: inbox_id.clone() });
    let conversation_type = match metadata.conversation_type {
        ConversationType::Group => contents::ConversationType::Group,
        ConversationType::Dm => contents::ConversationType::Dm,
        ConversationType::Sync => contents::ConversationType::Sync,
        ConversationType::Oneshot => contents::ConversationType::Oneshot,
    };
    let proto = contents::GroupMetadataV1 {
        conversation_type: conversation_type.into(),
        creator_account_address: String::new(),
        creator_inbox_id: metadata.creator.clone(),
        dm_members: metadata
            .dm_members
            .as_ref()
            .map(|(one, two)| contents::DmMembers { dm_member_one: inbox(one), dm_member_two: inbox(two) }),
    };
    let bytes = tls_codec::VLBytes::new(proto.encode_to_vec());
    tls_codec::Serialize::tls_serialize_detached(&bytes).expect("a short vector serializes into memory")
}

fn parse_immutable(bytes: &[u8]) -> Result<ImmutableMetadata, ExtensionError> {
    let bad = |reason: String| malformed(IMMUTABLE_METADATA, reason);
    let inner = <tls_codec::VLBytes as tls_codec::Deserialize>::tls_deserialize_exact(bytes)
        .map_err(|error| bad(error.to_string()))?;
    let proto = contents::GroupMetadataV1::decode(inner.as_slice()).map_err(|error| bad(error.to_string()))?;
    let conversation_type = match proto.conversation_type() {
        contents::ConversationType::Group => ConversationType::Group,
        contents::ConversationType::Dm => ConversationType::Dm,
        contents::ConversationType::Sync => ConversationType::Sync,
        contents::ConversationType::Oneshot => ConversationType::Oneshot,
        contents::ConversationType::Unspecified => return Err(bad("no conversation type".to_owned())),
    };
    let dm_members = proto.dm_members.map(|members| {
        let id = |inbox: Option<contents::Inbox>| inbox.map(|inbox| inbox.inbox_id).unwrap_or_default();
        (id(members.dm_member_one), id(members.dm_member_two))
    });
    Ok(ImmutableMetadata { conversation_type, creator: proto.creator_inbox_id, dm_members })
}

/// Both lists are present even when empty: readers refuse a group without them.
fn encode_mutable(metadata: &MutableMetadata) -> Vec<u8> {
    let list = |inboxes: &BTreeSet<InboxId>, odd: &BTreeSet<String>| {
        Some(contents::Inboxes {
            inbox_ids: inboxes.iter().map(ToString::to_string).chain(odd.iter().cloned()).collect(),
        })
    };
    contents::GroupMutableMetadataV1 {
        attributes: metadata.attributes.clone(),
        admin_list: list(&metadata.admins, &metadata.odd_admins),
        super_admin_list: list(&metadata.super_admins, &metadata.odd_super_admins),
    }
    .encode_to_vec()
}

fn parse_mutable(bytes: &[u8]) -> Result<MutableMetadata, ExtensionError> {
    let bad = |reason: &str| malformed(MUTABLE_METADATA, reason);
    let proto = contents::GroupMutableMetadataV1::decode(bytes).map_err(|error| bad(&error.to_string()))?;
    let list = |inboxes: Option<contents::Inboxes>| {
        let (mut good, mut odd) = (BTreeSet::new(), BTreeSet::new());
        for id in inboxes.ok_or_else(|| bad("an admin list is missing"))?.inbox_ids {
            match id.parse() {
                Ok(inbox) => _ = good.insert(inbox),
                Err(_) => _ = odd.insert(id),
            }
        }
        Ok::<_, ExtensionError>((good, odd))
    };
    let (admins, odd_admins) = list(proto.admin_list)?;
    let (super_admins, odd_super_admins) = list(proto.super_admin_list)?;
    Ok(MutableMetadata { attributes: proto.attributes, admins, super_admins, odd_admins, odd_super_admins })
}

fn encode_membership(membership: &Membership) -> Vec<u8> {
    contents::GroupMembership {
        members: membership.members.iter().map(|(inbox, id)| (inbox.to_string(), *id)).collect(),
        failed_installations: membership.failed_installations.iter().map(|id| id.as_bytes().to_vec()).collect(),
    }
    .encode_to_vec()
}

fn parse_membership(bytes: &[u8]) -> Result<Membership, ExtensionError> {
    let bad = |reason: String| malformed(MEMBERSHIP, reason);
    let proto = contents::GroupMembership::decode(bytes).map_err(|error| bad(error.to_string()))?;
    let members = proto.members.iter().map(|(inbox, sequence_id)| {
        Ok((inbox.parse().map_err(|_| bad(format!("{inbox:?} is no inbox id")))?, *sequence_id))
    });
    // Nobody checks this list: an id of odd length names no installation.
    let failed = proto.failed_installations.iter().filter_map(|id| InstallationId::try_from(id.as_slice()).ok());
    Ok(Membership { members: members.collect::<Result<_, ExtensionError>>()?, failed_installations: failed.collect() })
}

fn parse_permissions(bytes: &[u8]) -> Result<Policies, ExtensionError> {
    let proto = contents::GroupMutablePermissionsV1::decode(bytes).map_err(|error| malformed(PERMISSIONS, error))?;
    Policies::from_proto(&proto).map_err(|error| malformed(PERMISSIONS, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(digit: char) -> InboxId {
        digit.to_string().repeat(64).parse().unwrap()
    }

    fn extensions() -> GroupExtensions {
        GroupExtensions {
            immutable: ImmutableMetadata {
                conversation_type: ConversationType::Group,
                creator: inbox('a').to_string(),
                dm_members: None,
            },
            mutable: MutableMetadata { super_admins: [inbox('a')].into(), ..MutableMetadata::default() },
            membership: Membership { members: [(inbox('a'), 7)].into(), failed_installations: BTreeSet::new() },
            policies: Policies::admin_only(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let group = extensions();
        assert_eq!(GroupExtensions::parse(&group.to_extensions().unwrap()).unwrap(), group);
    }

    /// XMTP's fork reads 0xf000 as a vector in a vector; without the inner length its members cannot join.
    #[test]
    fn immutable_metadata_has_an_inner_length() {
        let bytes = encode_immutable(&extensions().immutable);
        assert_eq!(bytes[..3], [0x40, 0x44, 0x08], "two length bytes, then field 1 of the protobuf");
        assert_eq!(bytes.len(), 2 + 0x44);
    }

    #[test]
    fn both_admin_lists_are_written_even_if_empty() {
        let bytes = encode_mutable(&MutableMetadata::default());
        assert_eq!(bytes, [0x12, 0x00, 0x1a, 0x00]);
        assert!(parse_mutable(&bytes[..2]).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn an_update_keeps_what_it_does_not_change() {
        let group = extensions();
        let current = group.to_extensions().unwrap();
        let mut changed = group;
        changed.membership.members.insert(inbox('b'), 9);
        let updated = changed.update(&current).unwrap();
        assert_eq!(GroupExtensions::parse(&updated).unwrap(), changed);
        assert!(updated.required_capabilities().is_some());
        assert_eq!(updated.iter().count(), 5);
    }
}
