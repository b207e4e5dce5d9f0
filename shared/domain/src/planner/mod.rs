//! The planner: what to do next so that an event's rooms hold exactly whom the admission names.
//!
//! A pure function. It is asked again after every commit, so its first step is what counts; the later steps tell what
//! remains and hold if nothing else happens in between. They come in the order of their urgency: removals that a fact
//! calls for, in commits of their own; what else must go; policies; whatever keeps newcomers from joining; devices of
//! members; roles; newcomers; repairs; names.

mod change;
mod draft;
mod plan;
mod repair;
mod seating;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use plan::{Alarm, Grounds, MembershipCommit, Obstacle, Plan, Purpose, RoleChange, Step};

use crate::{
    admission::{Admission, CreatorRole},
    ids::{GroupId, InboxId, InstallationId},
    planted::Bug,
};

/// The id of an identity update, as the network gives it out (XIP-46).
pub type SequenceId = u64;

/// What a plan is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Who belongs.
    pub admission: Admission,
    /// The event's rooms, oldest first, lost ones included.
    pub rooms: Vec<RoomView>,
    /// The identity logs of the inboxes that matter. A missing one is silence, and changes nothing.
    pub association: BTreeMap<InboxId, AssociationView>,
    /// What was found out about installations' key packages. A missing one is [`KeyPackageView::Unknown`].
    pub key_packages: BTreeMap<InstallationId, KeyPackageView>,
    /// How large things may become.
    pub limits: Limits,
    /// Whose appointments stand.
    pub creator_role: CreatorRole,
    /// What the rooms should be called.
    pub metadata: WantedMetadata,
    /// Milliseconds since 1970, against which repairs are spaced out.
    pub now_ms: u64,
}

/// What a room holds, by its newest merged state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomView {
    /// The room's MLS group.
    pub group: GroupId,
    /// Whether it can go on.
    pub state: RoomState,
    /// The inboxes of the group membership extension (0xff01), with the leaves that carry their credential.
    pub members: BTreeMap<InboxId, MemberView>,
    /// `failed_installations` of the same extension, as it stands.
    pub failed_installations: BTreeSet<InstallationId>,
    /// Leaves whose inbox the extension does not list.
    pub strangers: BTreeSet<InstallationId>,
    /// The admin list (0xff00).
    pub admins: BTreeSet<InboxId>,
    /// The super admin list (0xff00).
    pub super_admins: BTreeSet<InboxId>,
    /// The policy set (0xff02) is the one usher wants.
    pub policies_ok: bool,
    /// The room's name in 0xff00.
    pub name: String,
    /// The room's description in 0xff00.
    pub description: String,
    /// A commit of ours is stored and not settled: nothing may be built until it is.
    pub pending_commit: bool,
    /// Inboxes that asked to leave.
    pub leave_requests: BTreeSet<InboxId>,
    /// Inboxes that cannot see the room although they have leaves in it, e.g. for want of a welcome.
    pub damaged: BTreeSet<InboxId>,
    /// When an inbox was last repaired here: written with the commit of a [`Purpose::Readmit`] or [`Purpose::Readd`].
    pub last_repaired_ms: BTreeMap<InboxId, u64>,
    /// How many the room has ever lost by a removal with [`Grounds::Unexplained`]; counts against the allowance.
    pub unexplained_removals: usize,
}

/// Whether a room can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomState {
    /// It is written to.
    Active,
    /// Its members keep their seats, and nothing can be done in it until its state is there again.
    Awaited,
    /// It is never written to again.
    Lost {
        /// The room that takes its seats, once there is one.
        successor: Option<GroupId>,
    },
}

/// An inbox in a room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberView {
    /// The id of the identity update by which the room knows the inbox.
    pub stored_sequence_id: SequenceId,
    /// Its installations that are leaves of the tree.
    pub leaves: BTreeSet<InstallationId>,
}

/// An inbox's verified identity log, as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssociationView {
    /// The inbox's installations right after each update that matters: the newest one and those that rooms know.
    pub states: BTreeMap<SequenceId, BTreeSet<InstallationId>>,
}

impl AssociationView {
    /// The newest update with the installations after it.
    pub fn latest(&self) -> Option<(SequenceId, &BTreeSet<InstallationId>)> {
        self.states.last_key_value().map(|(id, installations)| (*id, installations))
    }
}

/// What is known about an installation's key package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPackageView {
    /// Fetched and valid.
    Usable {
        /// Its encoded size.
        bytes: usize,
    },
    /// The network has none, or none that may be added.
    Unusable {
        /// Why, for people.
        reason: String,
    },
    /// Not asked for, or no answer.
    Unknown,
}

/// How large things may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Inboxes in a room. Those who sit in every room may exceed it, up to [`MAX_INBOXES`].
    pub seats_per_room: usize,
    /// Leaves in a room, before newcomers go to another one.
    pub leaves_per_room: usize,
    /// The estimated size of a commit.
    pub commit_bytes: usize,
    /// How much of a room may be removed without an explanation, in percent of its members.
    pub unexplained_percent: usize,
    /// The shortest time between two repairs of one inbox in one room.
    pub repair_every_ms: u64,
}

/// The most inboxes that libxmtp lets into a group.
pub const MAX_INBOXES: usize = 250;

impl Default for Limits {
    fn default() -> Self {
        Self {
            seats_per_room: 220,
            leaves_per_room: 1_000,
            commit_bytes: 250_000,
            unexplained_percent: 10,
            repair_every_ms: 15 * 60 * 1_000,
        }
    }
}

/// What the rooms should be called; what is `None` is left to the admins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WantedMetadata {
    /// The name, cut to the 100 bytes that members accept.
    pub name: Option<String>,
    /// The description, cut to the 1000 bytes that members accept.
    pub description: Option<String>,
}

/// What to do, most urgent first.
pub fn plan(input: &Input) -> Plan {
    let mut draft = draft::Draft::open(input);
    draft.revoke();
    draft.remove_unexplained();
    draft.restore_policies();
    draft.mend();
    draft.refresh();
    draft.appoint();
    draft.seat();
    draft.repair();
    draft.appoint();
    draft.name();
    if Bug::RemovalBoundToAddition.is_planted() && !draft.plan.waiting.is_empty() {
        draft.plan.steps.retain(|step| !matches!(step, Step::Membership { purpose: Purpose::Remove(_), .. }));
    }
    draft.plan
}
