//! What a member with a modified client commits, and what key packages people serve that nobody can use.

use openmls::{
    extensions::{Extension, Extensions, UnknownExtension},
    group::GroupContext,
    key_packages::{KeyPackage, Lifetime},
    prelude::LeafNodeIndex,
};
use prost::Message as _;
use tls_codec::Serialize as _;
use usher_fuzz::rogue::{Device, GROUP_EXTENSIONS, Provider, Rogue, Shape};
use usher_xmtp::{
    identity::{InboxId, InstallationKey},
    proto::{MlsCredential, contents},
};

const CONVERSATION: u16 = GROUP_EXTENSIONS[0];
const METADATA: u16 = GROUP_EXTENSIONS[1];
const MEMBERSHIP: u16 = GROUP_EXTENSIONS[2];
const PERMISSIONS: u16 = GROUP_EXTENSIONS[3];
/// In September 2020.
const LONG_AGO_S: u64 = 1_600_000_000;

/// A commit that MLS allows and XMTP does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offence {
    /// A leaf that no membership calls for.
    AddLeaf,
    /// Somebody's leaf goes and his inbox stays.
    RemoveLeaf,
    /// An inbox and its leaves go, as only admins may have it.
    RemoveInbox,
    /// He makes himself a super admin.
    Promote,
    /// Everybody may do everything.
    Permit,
    /// A membership that cannot be read.
    SpoilMembership,
    /// An immutable description that cannot be read: nobody looks at it, and nobody can use the group afterwards.
    SpoilConversation,
}

impl Offence {
    /// Whether the room may be lost by it (docs/security.md).
    pub(crate) fn is_fatal(self) -> bool {
        self == Self::SpoilConversation
    }
}

/// The commit's bytes, for the rogue's epoch; `None` if nobody is there to be wronged.
pub(crate) fn commit(rogue: &mut Rogue, offence: Offence) -> Option<Vec<u8>> {
    let mut extensions = rogue.group.extensions().clone();
    let (mut adds, mut removes) = (Vec::new(), Vec::new());
    match offence {
        Offence::AddLeaf => adds.push(second_device(rogue)?),
        Offence::RemoveLeaf => removes.push(somebody_else(rogue)?.1),
        Offence::RemoveInbox => {
            let (inbox, _) = somebody_else(rogue)?;
            let leaves = rogue.group.members().filter(|member| inbox_of(&member.credential).as_ref() == Some(&inbox));
            removes.extend(leaves.map(|member| member.index));
            change(&mut extensions, MEMBERSHIP, |membership: &mut contents::GroupMembership| {
                membership.members.remove(inbox.as_str());
            })?;
        }
        Offence::Promote => {
            let inbox = rogue.device.inbox.to_string();
            change(&mut extensions, METADATA, |metadata: &mut contents::GroupMutableMetadataV1| {
                metadata.super_admin_list.get_or_insert_default().inbox_ids.push(inbox);
            })?;
        }
        Offence::Permit => {
            use contents::{MembershipPolicy, membership_policy};
            let allow = i32::from(membership_policy::BasePolicy::Allow);
            let allow = MembershipPolicy { kind: Some(membership_policy::Kind::Base(allow)) };
            change(&mut extensions, PERMISSIONS, |permissions: &mut contents::GroupMutablePermissionsV1| {
                permissions.policies.get_or_insert_default().remove_member_policy = Some(allow);
            })?;
        }
        Offence::SpoilMembership => put(&mut extensions, MEMBERSHIP, vec![0xff; 9]),
        Offence::SpoilConversation => put(&mut extensions, CONVERSATION, vec![0xff; 9]),
    }
    rogue.commit(adds, removes, extensions)
}

fn change<M: prost::Message + Default>(
    extensions: &mut Extensions<GroupContext>,
    kind: u16,
    change: impl FnOnce(&mut M),
) -> Option<()> {
    let mut message = M::decode(extensions.unknown(kind)?.0.as_slice()).ok()?;
    change(&mut message);
    put(extensions, kind, message.encode_to_vec());
    Some(())
}

fn put(extensions: &mut Extensions<GroupContext>, kind: u16, bytes: Vec<u8>) {
    let extension = Extension::Unknown(kind, UnknownExtension(bytes));
    extensions.add_or_replace(extension).expect("unknown extensions are legal in a group context");
}

fn second_device(rogue: &Rogue) -> Option<KeyPackage> {
    let device = Device { inbox: rogue.device.inbox.clone(), key: InstallationKey::from_seed(&[0xdd; 32]) };
    Some(device.key_package(Shape::default(), &Provider::default())?.key_package().clone())
}

/// The last member of another inbox: never usher, who comes first.
fn somebody_else(rogue: &Rogue) -> Option<(InboxId, LeafNodeIndex)> {
    let others = rogue.group.members().skip(1).filter_map(|member| Some((inbox_of(&member.credential)?, member.index)));
    others.filter(|(inbox, _)| *inbox != rogue.device.inbox).last()
}

fn inbox_of(credential: &openmls::credentials::Credential) -> Option<InboxId> {
    let basic = openmls::credentials::BasicCredential::try_from(credential.clone()).ok()?;
    MlsCredential::decode(basic.identity()).ok()?.inbox_id.parse().ok()
}

/// Why a key package cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It is none.
    Junk,
    /// It was usable until long ago.
    Expired,
    /// Its credential names another inbox than the one whose log lists the installation.
    OtherInbox,
}

/// What an installation serves, validly signed where there is something to sign.
pub(crate) fn key_package(device: &Device, flaw: Flaw) -> Vec<u8> {
    let shape = match flaw {
        Flaw::Junk => return b"no key package".to_vec(),
        Flaw::Expired => Shape { lifetime: Lifetime::init(0, LONG_AGO_S), ..Shape::default() },
        Flaw::OtherInbox => {
            let other = MlsCredential { inbox_id: "0".repeat(64) };
            Shape { credential: Some(other.encode_to_vec()), ..Shape::default() }
        }
    };
    let bundle = device.key_package(shape, &Provider::default()).expect("openmls makes it");
    bundle.key_package().tls_serialize_detached().expect("it serializes into memory")
}
