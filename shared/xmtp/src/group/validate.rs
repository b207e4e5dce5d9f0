//! Which commits members accept: the rules of libxmtp 1.9 (unchanged in 1.10), and the joiner's rules.
//!
//! openmls has checked all that RFC 9420 asks for by the time a commit gets here. A commit that one member accepts and
//! another refuses splits the group, so these rules are neither laxer nor stricter than libxmtp's.

use std::collections::{BTreeMap, BTreeSet};

use openmls::{
    framing::Sender,
    group::{Member, MlsGroup, StagedCommit},
    treesync::LeafNode,
};

use crate::{
    extensions::{ExtensionError, GroupExtensions, attributes},
    identities::Identities,
    identity::{InboxId, InstallationId},
    key_package::credential_inbox,
    policy::Roles,
    proto::contents::{GroupUpdated, group_updated},
};

/// Why a commit is refused by everybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommit {
    /// The group context is not an XMTP group's.
    #[error(transparent)]
    Extensions(#[from] ExtensionError),
    /// An attribute is too long.
    #[error("attribute {0} is too long")]
    AttributeTooLong(String),
    /// The minimum version is not a version.
    #[error("the minimum version {0:?} is no version")]
    MinimumVersion(String),
    /// A leaf's credential is not XMTP's.
    #[error("a leaf's credential names no inbox")]
    Credential,
    /// The committer is no member, or proposals come from somebody else.
    #[error("the committer is no member, or not the only author")]
    Actor,
    /// PSK proposals are not part of XMTP.
    #[error("it contains a PSK proposal")]
    Psk,
    /// An inbox's sequence id went back.
    #[error("the sequence id of inbox {0} decreased")]
    SequenceIdDecreased(InboxId),
    /// A sequence id that is not an entry of the inbox's identity log.
    #[error("inbox {0} has no identity update {1}")]
    MissingIdentityUpdate(InboxId, u64),
    /// An Add that the change of the membership does not call for.
    #[error("installation {0} is added without being called for")]
    UnexpectedAdd(InstallationId),
    /// Removes that differ from what the change of the membership calls for.
    #[error("the removed installations are not those that the membership change calls for")]
    UnexpectedRemoves,
    /// The actor's inbox is not in the new membership, or does not have the installation any more.
    #[error("installation {1} does not belong to inbox {0} of the new membership")]
    ActorNotInMembership(InboxId, InstallationId),
    /// The actor lacks the role for this.
    #[error("inbox {actor} may not {what}")]
    NotPermitted {
        /// Who committed.
        actor: InboxId,
        /// What he did.
        what: String,
    },
}

/// A leaf of the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Leaf {
    /// What its credential names. Members do not look at the credential of an added leaf, so it may name no inbox.
    pub(crate) inbox: Option<InboxId>,
    pub(crate) installation: InstallationId,
}

impl Leaf {
    fn of(node: &LeafNode) -> Result<Self, InvalidCommit> {
        let inbox = credential_inbox(node.credential());
        let installation = node.signature_key().as_slice().try_into().map_err(|_| InvalidCommit::Credential)?;
        Ok(Self { inbox, installation })
    }

    pub(crate) fn of_member(member: &Member) -> Result<Self, InvalidCommit> {
        let inbox = credential_inbox(&member.credential);
        let installation = member.signature_key.as_slice().try_into().map_err(|_| InvalidCommit::Credential)?;
        Ok(Self { inbox, installation })
    }
}

/// The leaves of a group.
pub(crate) fn leaves(group: &MlsGroup) -> BTreeSet<Leaf> {
    group.members().filter_map(|member| Leaf::of_member(&member).ok()).collect()
}

/// What the rules look at, taken out of a staged commit.
#[derive(Debug, Clone)]
pub(crate) struct CommitView {
    actor: Leaf,
    pub(crate) actor_inbox: InboxId,
    pub(crate) old: GroupExtensions,
    pub(crate) new: GroupExtensions,
    /// What is wrong with the new 0xf000. Members accept the commit, and cannot use the group afterwards.
    pub(crate) ruined: Option<ExtensionError>,
    added: Vec<Leaf>,
    removed: Vec<Leaf>,
    updated: Vec<Leaf>,
    leaves_before: BTreeSet<Leaf>,
    psk: bool,
}

impl CommitView {
    pub(crate) fn new(group: &MlsGroup, staged: &StagedCommit, sender: &Sender) -> Result<Self, InvalidCommit> {
        let Sender::Member(index) = sender else { return Err(InvalidCommit::Actor) };
        let leaf = |index| group.public_group().leaf(index).ok_or(InvalidCommit::Actor).and_then(Leaf::of);
        let actor = leaf(*index)?;
        if staged.queued_proposals().any(|proposal| proposal.sender() != sender) {
            return Err(InvalidCommit::Actor);
        }
        if let Some(path_leaf) = staged.update_path_leaf_node() {
            let path_leaf = Leaf::of(path_leaf)?;
            if path_leaf != actor {
                return Err(InvalidCommit::Actor);
            }
        }
        let added = staged.add_proposals().map(|add| Leaf::of(add.add_proposal().key_package().leaf_node()));
        let removed = staged.remove_proposals().map(|remove| leaf(remove.remove_proposal().removed()));
        let updated = staged.update_proposals().map(|update| Leaf::of(update.update_proposal().leaf_node()));
        let old = GroupExtensions::parse(group.extensions())?;
        let (new, ruined) = old.parse_committed(staged.group_context().extensions())?;
        Ok(Self {
            actor_inbox: actor.inbox.clone().ok_or(InvalidCommit::Credential)?,
            actor,
            old,
            new,
            ruined,
            added: added.collect::<Result<_, _>>()?,
            removed: removed.collect::<Result<_, _>>()?,
            updated: updated.collect::<Result<_, _>>()?,
            leaves_before: leaves(group),
            psk: staged.psk_proposals().next().is_some(),
        })
    }

    /// The roles of the actor before the commit: nobody gains a right and uses it in one commit.
    pub(crate) fn actor_roles(&self) -> Roles {
        Roles {
            admin: self.old.mutable.admins.contains(&self.actor_inbox),
            super_admin: self.old.mutable.super_admins.contains(&self.actor_inbox),
        }
    }

    pub(crate) fn actor_installation(&self) -> InstallationId {
        self.actor.installation
    }

    pub(crate) fn added_installations(&self) -> impl Iterator<Item = InstallationId> {
        self.added.iter().map(|leaf| leaf.installation)
    }

    fn leaves_after(&self) -> BTreeSet<Leaf> {
        let mut leaves: BTreeSet<Leaf> = self.leaves_before.clone();
        for leaf in &self.removed {
            leaves.remove(leaf);
        }
        leaves.extend(self.added.iter().cloned());
        leaves
    }

    fn old_members(&self) -> &BTreeMap<InboxId, u64> {
        &self.old.membership.members
    }

    fn new_members(&self) -> &BTreeMap<InboxId, u64> {
        &self.new.membership.members
    }

    pub(crate) fn added_inboxes(&self) -> impl Iterator<Item = &InboxId> {
        self.new_members().keys().filter(|inbox| !self.old_members().contains_key(*inbox))
    }

    pub(crate) fn removed_inboxes(&self) -> impl Iterator<Item = &InboxId> {
        self.old_members().keys().filter(|inbox| !self.new_members().contains_key(*inbox))
    }

    /// Inboxes whose identity logs the rules below need.
    pub(crate) fn inboxes_to_verify(&self) -> BTreeSet<InboxId> {
        let before = by_inbox(&self.leaves_before);
        let leaves_after = self.leaves_after();
        let after = by_inbox(&leaves_after);
        let failed = &self.new.membership.failed_installations;
        let unlisted = self
            .old
            .membership
            .failed_installations
            .iter()
            .any(|id| !failed.contains(id) && !leaves_after.iter().any(|leaf| leaf.installation == *id));
        let changed = |inbox: &&InboxId| {
            unlisted
                || self.old_members().get(*inbox) != self.new_members().get(*inbox)
                || before.get(inbox) != after.get(inbox)
        };
        let mut inboxes: BTreeSet<InboxId> =
            self.old_members().keys().chain(self.new_members().keys()).filter(changed).cloned().collect();
        inboxes.insert(self.actor_inbox.clone());
        inboxes.extend(self.updated.iter().filter_map(|leaf| leaf.inbox.clone()));
        inboxes
    }

    /// Whether every member accepts the commit. `identities` must have loaded [`Self::inboxes_to_verify`].
    pub(crate) fn check(&self, identities: &Identities) -> Result<(), InvalidCommit> {
        self.check_attributes()?;
        if self.psk {
            return Err(InvalidCommit::Psk);
        }
        self.check_installations(identities)?;
        for leaf in self.updated.iter().chain([&self.actor]) {
            self.check_in_membership(leaf, identities)?;
        }
        self.check_permissions()
    }

    fn check_attributes(&self) -> Result<(), InvalidCommit> {
        for (name, value) in self.changed_attributes() {
            let Some(value) = value else { continue };
            if attributes::bytes_max(name).is_some_and(|max| value.len() > max) {
                return Err(InvalidCommit::AttributeTooLong(name.clone()));
            }
            if name == attributes::MINIMUM_VERSION && !is_version(value) {
                return Err(InvalidCommit::MinimumVersion(value.clone()));
            }
        }
        Ok(())
    }

    /// Attributes whose value changed, with the new value.
    fn changed_attributes(&self) -> impl Iterator<Item = (&String, Option<&String>)> {
        let (old, new) = (&self.old.mutable.attributes, &self.new.mutable.attributes);
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        names.into_iter().filter(|name| old.get(*name) != new.get(*name)).map(|name| (name, new.get(name)))
    }

    /// Adds and Removes must be what the identity logs say that the change of the membership implies.
    fn check_installations(&self, identities: &Identities) -> Result<(), InvalidCommit> {
        let (expected_added, mut expected_removed) = self.expected_installations(identities)?;
        let mut added: BTreeSet<InstallationId> = self.added.iter().map(|leaf| leaf.installation).collect();
        let mut removed: BTreeSet<InstallationId> = self.removed.iter().map(|leaf| leaf.installation).collect();
        let mut failed = self.new.membership.failed_installations.clone();
        if self.actor_roles().super_admin {
            // Recovery from a fork: a super admin adds an installation again, or lists it as failed.
            let again: BTreeSet<InstallationId> = removed.intersection(&added).copied().collect();
            added.retain(|id| !again.contains(id));
            removed.retain(|id| !again.contains(id));
            let listed: BTreeSet<InstallationId> = removed.intersection(&failed).copied().collect();
            failed.retain(|id| !listed.contains(id));
            removed.retain(|id| !listed.contains(id));
        }
        let in_tree = |id: &InstallationId| self.leaves_before.iter().any(|leaf| leaf.installation == *id);
        if let Some(unexpected) = added.iter().find(|id| !expected_added.contains(*id) && !in_tree(id)) {
            return Err(InvalidCommit::UnexpectedAdd(*unexpected));
        }
        expected_removed.retain(|id| !failed.contains(id));
        if removed == expected_removed { Ok(()) } else { Err(InvalidCommit::UnexpectedRemoves) }
    }

    fn expected_installations(
        &self,
        identities: &Identities,
    ) -> Result<(BTreeSet<InstallationId>, BTreeSet<InstallationId>), InvalidCommit> {
        let at = |inbox: &InboxId, sequence_id: u64| {
            identities
                .installations_at(inbox, sequence_id)
                .ok_or_else(|| InvalidCommit::MissingIdentityUpdate(inbox.clone(), sequence_id))
        };
        let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
        for (inbox, new_id) in self.new_members() {
            match self.old_members().get(inbox) {
                Some(old_id) if old_id == new_id => {}
                Some(old_id) if old_id > new_id => return Err(InvalidCommit::SequenceIdDecreased(inbox.clone())),
                // libxmtp's creators start with 0, which stands for an empty state.
                None | Some(0) => added.extend(at(inbox, *new_id)?),
                Some(old_id) => {
                    let old = at(inbox, *old_id)?;
                    // libxmtp compares the last entry up to the new id with it, and lets an id pass that has none.
                    if identities.has_entries_between(inbox, *old_id, *new_id) {
                        let new = at(inbox, *new_id)?;
                        added.extend(new.difference(&old));
                        removed.extend(old.difference(&new));
                    }
                }
            }
        }
        for inbox in self.removed_inboxes() {
            removed.extend(at(inbox, self.old_members()[inbox])?);
        }
        Ok((added, removed))
    }

    fn check_in_membership(&self, leaf: &Leaf, identities: &Identities) -> Result<(), InvalidCommit> {
        let inbox = leaf.inbox.as_ref().ok_or(InvalidCommit::Credential)?;
        let outside = || InvalidCommit::ActorNotInMembership(inbox.clone(), leaf.installation);
        let sequence_id = *self.new_members().get(inbox).ok_or_else(outside)?;
        let installations = identities
            .installations_at(inbox, sequence_id)
            .ok_or_else(|| InvalidCommit::MissingIdentityUpdate(inbox.clone(), sequence_id))?;
        if installations.contains(&leaf.installation) { Ok(()) } else { Err(outside()) }
    }

    /// libxmtp lets anybody add the other listed member of a DM, whatever kind of conversation it is.
    fn adds_dm_member(&self) -> bool {
        let Some((one, two)) = &self.old.immutable.dm_members else { return false };
        let mut added = self.added_inboxes();
        let (Some(only), None) = (added.next(), added.next()) else { return false };
        *only != self.actor_inbox && (only.as_str() == one || only.as_str() == two)
    }

    fn check_permissions(&self) -> Result<(), InvalidCommit> {
        let roles = self.actor_roles();
        let policies = &self.old.policies;
        let (old, new) = (&self.old.mutable, &self.new.mutable);
        let permit = |allowed: bool, what: &dyn Fn() -> String| {
            let refused = || InvalidCommit::NotPermitted { actor: self.actor_inbox.clone(), what: what() };
            if allowed { Ok(()) } else { Err(refused()) }
        };
        for inbox in self.added_inboxes() {
            permit(policies.add_member.allows(roles) || self.adds_dm_member(), &|| format!("add inbox {inbox}"))?;
        }
        for inbox in self.removed_inboxes() {
            let allowed = policies.remove_member.allows(roles) && !old.super_admins.contains(inbox);
            permit(allowed, &|| format!("remove inbox {inbox}"))?;
        }
        for (name, _) in self.changed_attributes() {
            permit(policies.metadata(name).allows(roles), &|| format!("change attribute {name}"))?;
        }
        if gained(&old.admins, &old.odd_admins, &new.admins, &new.odd_admins) {
            permit(policies.add_admin.allows(roles), &|| "name admins".to_owned())?;
        }
        if gained(&new.admins, &new.odd_admins, &old.admins, &old.odd_admins) {
            permit(policies.remove_admin.allows(roles), &|| "dismiss admins".to_owned())?;
        }
        if gained(&old.super_admins, &old.odd_super_admins, &new.super_admins, &new.odd_super_admins) {
            permit(roles.super_admin, &|| "name super admins".to_owned())?;
        }
        if gained(&new.super_admins, &new.odd_super_admins, &old.super_admins, &old.odd_super_admins) {
            permit(roles.super_admin && !(new.super_admins.is_empty() && new.odd_super_admins.is_empty()), &|| {
                "dismiss super admins".to_owned()
            })?;
        }
        permit(*policies == self.new.policies || roles.super_admin, &|| "change permissions".to_owned())
    }

    /// Members, of those that this commit touched, whose installations are afterwards neither all in the tree nor
    /// listed as failed, or that have leaves they should not have: while there is one, nobody can join.
    pub(crate) fn damage(&self, identities: &Identities) -> BTreeSet<InboxId> {
        let leaves = self.leaves_after();
        let by_inbox = by_inbox(&leaves);
        let failed = &self.new.membership.failed_installations;
        let broken = self.new_members().iter().filter(|(inbox, sequence_id)| {
            let Some(expected) = identities.installations_at(inbox, **sequence_id) else { return true };
            let present: BTreeSet<InstallationId> = by_inbox.get(inbox).cloned().unwrap_or_default();
            !present.is_subset(&expected) || expected.difference(&present).any(|id| !failed.contains(id))
        });
        let checked = self.inboxes_to_verify();
        broken.map(|(inbox, _)| inbox).filter(|inbox| checked.contains(*inbox)).cloned().collect()
    }

    /// Leaves that this commit plants and whose inbox is no member: with them nobody can join either.
    pub(crate) fn planted(&self) -> BTreeSet<InstallationId> {
        let member = |leaf: &&Leaf| leaf.inbox.as_ref().is_some_and(|inbox| self.new_members().contains_key(inbox));
        let strangers = self
            .leaves_after()
            .iter()
            .filter(|leaf| !member(leaf))
            .map(|leaf| leaf.installation)
            .collect::<BTreeSet<_>>();
        let old_member = |leaf: &&Leaf| leaf.inbox.as_ref().is_some_and(|inbox| self.old_members().contains_key(inbox));
        let before: BTreeSet<_> =
            self.leaves_before.iter().filter(|leaf| !old_member(leaf)).map(|leaf| leaf.installation).collect();
        strangers.difference(&before).copied().collect()
    }

    /// What a client shows of the commit. `leaving` are the inboxes that had asked to leave.
    pub(crate) fn summary(&self, leaving: &BTreeSet<InboxId>) -> GroupUpdated {
        let inbox = |inbox: &InboxId| group_updated::Inbox { inbox_id: inbox.to_string() };
        let added = |old: &BTreeSet<InboxId>, new: &BTreeSet<InboxId>| new.difference(old).map(inbox).collect();
        let (old, new) = (&self.old.mutable, &self.new.mutable);
        GroupUpdated {
            initiated_by_inbox_id: self.actor_inbox.to_string(),
            added_inboxes: self.added_inboxes().map(inbox).collect(),
            removed_inboxes: self.removed_inboxes().filter(|gone| !leaving.contains(*gone)).map(inbox).collect(),
            left_inboxes: self.removed_inboxes().filter(|gone| leaving.contains(*gone)).map(inbox).collect(),
            metadata_field_changes: self
                .changed_attributes()
                .map(|(name, value)| group_updated::MetadataFieldChange {
                    field_name: name.clone(),
                    old_value: old.attributes.get(name).cloned(),
                    new_value: value.cloned(),
                })
                .collect(),
            added_admin_inboxes: added(&old.admins, &new.admins),
            removed_admin_inboxes: added(&new.admins, &old.admins),
            added_super_admin_inboxes: added(&old.super_admins, &new.super_admins),
            removed_super_admin_inboxes: added(&new.super_admins, &old.super_admins),
        }
    }
}

pub(crate) fn by_inbox(leaves: &BTreeSet<Leaf>) -> BTreeMap<&InboxId, BTreeSet<InstallationId>> {
    let mut by_inbox: BTreeMap<&InboxId, BTreeSet<InstallationId>> = BTreeMap::new();
    for leaf in leaves {
        if let Some(inbox) = &leaf.inbox {
            by_inbox.entry(inbox).or_default().insert(leaf.installation);
        }
    }
    by_inbox
}

/// Whether the second pair of lists names somebody whom the first does not.
fn gained(
    inboxes: &BTreeSet<InboxId>,
    odd: &BTreeSet<String>,
    later: &BTreeSet<InboxId>,
    later_odd: &BTreeSet<String>,
) -> bool {
    !later.is_subset(inboxes) || !later_odd.is_subset(odd)
}

/// `x.y.z`, with an optional suffix after `-` that holds no dot, as libxmtp 1.9 reads it.
fn is_version(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let [major, minor, patch] = parts[..] else { return false };
    let patch = patch.split_once('-').map_or(patch, |(patch, _suffix)| patch);
    [major, minor, patch].iter().all(|part| part.parse::<u32>().is_ok())
}
