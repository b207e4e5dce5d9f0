//! How a change of members becomes the content of one commit that every member and every later joiner accepts.
//!
//! Members recompute from the identity logs which installations a commit must remove, and want exactly those that are
//! not in the commit's new `failed_installations`. Joiners want every installation of every listed inbox to be a leaf or
//! in that list, and no other leaf. So an installation that goes is removed and not listed if it has a leaf, and listed
//! if it has none; an installation that comes is added and not listed, or listed.

use std::collections::{BTreeMap, BTreeSet};

use super::{AssociationView, Input, KeyPackageView, MembershipCommit, Obstacle, RoomView, SequenceId};
use crate::ids::{InboxId, InstallationId};

/// What a commit does about one or several inboxes.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    set: BTreeMap<InboxId, SequenceId>,
    remove: BTreeSet<InboxId>,
    add_installations: BTreeMap<InstallationId, InboxId>,
    remove_installations: BTreeSet<InstallationId>,
    /// To be listed as failed, unless also in `unfail`.
    fail: BTreeSet<InstallationId>,
    /// Not to be listed as failed.
    unfail: BTreeSet<InstallationId>,
}

impl Change {
    /// Takes `inbox` out. Its installations are those of the identity log at the stored id; where the log was not
    /// read, the leaves and the failed list of a room that can be joined say the same.
    pub(super) fn removal(input: &Input, room: &RoomView, inbox: &InboxId, super_admin: bool) -> Self {
        let member = &room.members[inbox];
        let known = state(input, inbox, member.stored_sequence_id).unwrap_or(&member.leaves);
        let mut change = Self { remove: [inbox.clone()].into(), ..Self::default() };
        for leaf in &member.leaves {
            if known.contains(leaf) {
                change.take_out(*leaf);
            } else if super_admin {
                change.cast_out(*leaf);
            }
        }
        change.fail.extend(known.difference(&member.leaves));
        change
    }

    /// Seats `inbox` with all installations it has now.
    /// `leaves` are those of the room.
    pub(super) fn arrival(input: &Input, leaves: &BTreeSet<InstallationId>, inbox: &InboxId) -> Result<Self, Obstacle> {
        let latest = input.association.get(inbox).and_then(AssociationView::latest);
        let (sequence_id, installations) = latest.ok_or(Obstacle::NoIdentity)?;
        if installations.is_empty() {
            return Err(Obstacle::NoInstallation);
        }
        let mut change = Self { set: [(inbox.clone(), sequence_id)].into(), ..Self::default() };
        change.bring_in(input, leaves, inbox, installations.iter().copied())?;
        if change.add_installations.is_empty() { Err(Obstacle::NoUsableKeyPackage) } else { Ok(change) }
    }

    /// Raises a member to the newest update of its identity log. `None` if it is there, or if nothing was heard.
    pub(super) fn refresh(input: &Input, room: &RoomView, inbox: &InboxId) -> Result<Option<Self>, Obstacle> {
        let member = &room.members[inbox];
        let latest = input.association.get(inbox).and_then(AssociationView::latest);
        let Some((sequence_id, now)) = latest.filter(|(id, _)| *id > member.stored_sequence_id) else {
            return Ok(None);
        };
        // libxmtp writes 0 for a creator whose first update it has not looked up: no installation is known by it.
        let nothing = BTreeSet::new();
        let before = match member.stored_sequence_id {
            0 => Some(&nothing),
            id => state(input, inbox, id),
        };
        let Some(before) = before else { return Ok(None) };
        let mut change = Self { set: [(inbox.clone(), sequence_id)].into(), ..Self::default() };
        for gone in before.difference(now) {
            if member.leaves.contains(gone) {
                change.take_out(*gone);
            } else {
                change.fail.insert(*gone);
            }
        }
        let new = now.difference(before).filter(|installation| !member.leaves.contains(*installation));
        change.bring_in(input, &room.leaves(), inbox, new.copied())?;
        Ok(Some(change))
    }

    /// Takes out leaves of usher's own that its identity log does not list any more, e.g. after its installation was
    /// replaced. `None` if there are none, or nothing was heard. Other devices of its inbox are not its own to add: they
    /// are listed.
    pub(super) fn replaced(input: &Input, room: &RoomView) -> Option<Self> {
        let usher = &input.admission.usher;
        let member = room.members.get(usher)?;
        let (sequence_id, now) = input.association.get(usher)?.latest()?;
        let before = state(input, usher, member.stored_sequence_id)?;
        let gone = || before.difference(now).filter(|leaf| member.leaves.contains(*leaf));
        // Whoever commits keeps a leaf.
        if sequence_id <= member.stored_sequence_id || gone().count() == 0 || gone().count() == member.leaves.len() {
            return None;
        }
        let mut change = Self { set: [(usher.clone(), sequence_id)].into(), ..Self::default() };
        gone().for_each(|leaf| change.take_out(*leaf));
        change
            .fail
            .extend(before.difference(now).chain(now.difference(before)).filter(|id| !member.leaves.contains(*id)));
        Some(change)
    }

    /// Gives leaves of a member a fresh start, within one commit. Only a super admin may.
    pub(super) fn readd(inbox: &InboxId, leaves: impl IntoIterator<Item = InstallationId>) -> Self {
        let mut change = Self::default();
        for leaf in leaves {
            change.take_out(leaf);
            change.add_installations.insert(leaf, inbox.clone());
        }
        change
    }

    /// Makes a room joinable again: lists what is neither leaf nor failed, and takes out leaves that no identity log
    /// vouches for. Only a super admin may do the latter; tells whether nothing is left to do.
    pub(super) fn mend(input: &Input, room: &RoomView, super_admin: bool) -> (Self, bool) {
        let mut rogue = room.strangers.clone();
        let leaves = room.leaves();
        let mut change = Self::default();
        for (inbox, member) in &room.members {
            let Some(known) = state(input, inbox, member.stored_sequence_id) else { continue };
            let accounted = |id: &&InstallationId| leaves.contains(*id) || room.failed_installations.contains(*id);
            change.fail.extend(known.iter().filter(|id| !accounted(id)));
            if *inbox != input.admission.usher {
                rogue.extend(member.leaves.difference(known));
            }
        }
        let complete = super_admin || rogue.is_empty();
        if super_admin {
            rogue.into_iter().for_each(|leaf| change.cast_out(leaf));
        }
        (change, complete)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty()
            && self.remove.is_empty()
            && self.add_installations.is_empty()
            && self.remove_installations.is_empty()
            && self.fail.is_empty()
            && self.unfail.is_empty()
    }

    /// The installations it adds.
    pub(super) fn additions(&self) -> impl Iterator<Item = &InstallationId> {
        self.add_installations.keys()
    }

    /// Whether it takes leaves away.
    pub(super) fn removes_leaves(&self) -> bool {
        !self.remove_installations.is_empty()
    }

    /// Both in one commit.
    pub(super) fn join(mut self, other: Self) -> Self {
        self.set.extend(other.set);
        self.remove.extend(other.remove);
        self.add_installations.extend(other.add_installations);
        self.remove_installations.extend(other.remove_installations);
        self.fail.extend(other.fail);
        self.unfail.extend(other.unfail);
        self
    }

    pub(super) fn into_commit(self, room: &RoomView) -> MembershipCommit {
        let listed = room.failed_installations.union(&self.fail).filter(|id| !self.unfail.contains(*id));
        MembershipCommit {
            failed_installations: listed.copied().collect(),
            set: self.set,
            remove: self.remove,
            add_installations: self.add_installations,
            remove_installations: self.remove_installations,
        }
    }

    /// A Remove that the identity logs call for.
    fn take_out(&mut self, leaf: InstallationId) {
        self.remove_installations.insert(leaf);
        self.unfail.insert(leaf);
    }

    /// A Remove that no identity log calls for: members let a super admin do it when the leaf is listed as failed.
    fn cast_out(&mut self, leaf: InstallationId) {
        self.remove_installations.insert(leaf);
        self.fail.insert(leaf);
    }

    /// Adds the installations that can be added and lists the rest.
    fn bring_in(
        &mut self,
        input: &Input,
        leaves: &BTreeSet<InstallationId>,
        inbox: &InboxId,
        installations: impl Iterator<Item = InstallationId>,
    ) -> Result<(), Obstacle> {
        for installation in installations {
            if leaves.contains(&installation) {
                return Err(Obstacle::SharedInstallation);
            }
            match input.key_packages.get(&installation) {
                Some(KeyPackageView::Usable { .. }) => {
                    self.add_installations.insert(installation, inbox.clone());
                    self.unfail.insert(installation);
                }
                Some(KeyPackageView::Unusable { .. }) => {
                    self.fail.insert(installation);
                }
                Some(KeyPackageView::Unknown) | None => return Err(Obstacle::KeyPackagesUnknown),
            }
        }
        Ok(())
    }
}

fn state<'a>(input: &'a Input, inbox: &InboxId, id: SequenceId) -> Option<&'a BTreeSet<InstallationId>> {
    input.association.get(inbox)?.states.get(&id)
}

/// How much a room holds, as far as it matters for the size of commits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) inboxes: usize,
    pub(super) leaves: usize,
    pub(super) failed: usize,
}

impl Load {
    pub(super) fn of(room: &RoomView) -> Self {
        Self { inboxes: room.members.len(), leaves: room.leaves().len(), failed: room.failed_installations.len() }
    }

    /// The load after `change`, at most.
    pub(super) fn after(self, change: &Change) -> Self {
        Self {
            inboxes: self.inboxes + change.set.len(),
            leaves: self.leaves + change.add_installations.len(),
            failed: self.failed + change.fail.len(),
        }
    }

    /// The most bytes that `change` can take as a commit: the membership map and an update path that encrypts to every
    /// leaf singly, as measured; the key packages; everything else that 0xff00 to 0xff02 may hold.
    pub(super) fn commit_bytes(self, input: &Input, change: &Change) -> usize {
        const REST: usize = 16_384;
        let (inbox, leaf, failed, proposal) = (80, 90, 34, 32);
        let key_packages = change.add_installations.keys().map(|id| match input.key_packages.get(id) {
            Some(KeyPackageView::Usable { bytes }) => *bytes,
            _ => 0,
        });
        let after = self.after(change);
        REST + inbox * after.inboxes
            + leaf * self.leaves
            + failed * after.failed
            + proposal * (change.add_installations.len() + change.remove_installations.len())
            + key_packages.sum::<usize>()
    }
}

impl RoomView {
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.state, super::RoomState::Lost { .. })
    }

    /// All leaves of the tree.
    pub(super) fn leaves(&self) -> BTreeSet<InstallationId> {
        self.members.values().flat_map(|member| &member.leaves).chain(&self.strangers).copied().collect()
    }

    /// The room as it is when `commit` is merged.
    pub(super) fn apply(&mut self, commit: &MembershipCommit) {
        for leaf in &commit.remove_installations {
            self.strangers.remove(leaf);
            self.members.values_mut().for_each(|member| {
                member.leaves.remove(leaf);
            });
        }
        for inbox in &commit.remove {
            let member = self.members.remove(inbox).unwrap_or_default();
            self.strangers.extend(member.leaves);
        }
        for (inbox, id) in &commit.set {
            self.members.entry(inbox.clone()).or_default().stored_sequence_id = *id;
        }
        for (leaf, inbox) in &commit.add_installations {
            self.members.entry(inbox.clone()).or_default().leaves.insert(*leaf);
        }
        self.failed_installations.clone_from(&commit.failed_installations);
    }
}
