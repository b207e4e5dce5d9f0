//! What a plan is made of, and how it reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::SequenceId;
use crate::{
    admission::Departure,
    ids::{GroupId, InboxId, InstallationId},
};

/// What to do next, and what remains. Empty when the rooms hold exactly whom they should, as far as can be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What to do, in this order. Only the first is sure: plan again after it.
    pub steps: Vec<Step>,
    /// What a person must be told.
    pub alarms: BTreeSet<Alarm>,
    /// Who belongs but cannot be served now, and why. (Wallets without an inbox wait in the admission.)
    pub waiting: BTreeMap<InboxId, Obstacle>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Bring the stored commit to its end: publish, walk, merge or drop.
    Settle {
        /// Where.
        room: GroupId,
    },
    /// Make a room with usher alone in it.
    CreateRoom {
        /// The lost room whose seats it takes.
        succeeds: Option<GroupId>,
    },
    /// Commit a change of members or their devices.
    Membership {
        /// Where.
        room: GroupId,
        /// What for.
        purpose: Purpose,
        /// The commit's content.
        commit: MembershipCommit,
    },
    /// Commit a change of the admin lists.
    SetRoles {
        /// Where.
        room: GroupId,
        /// The change.
        change: RoleChange,
    },
    /// Commit usher's policy set.
    RestorePolicies {
        /// Where.
        room: GroupId,
    },
    /// Commit the room's name or description; what is `None` stays.
    SetMetadata {
        /// Where.
        room: GroupId,
        /// The new name.
        name: Option<String>,
        /// The new description.
        description: Option<String>,
    },
}

/// What a membership commit is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// These inboxes must go.
    Remove(BTreeMap<InboxId, Grounds>),
    /// Newcomers cannot join until leaves and lists agree with the identity logs.
    Mend,
    /// Members have new devices or gave some up.
    Refresh,
    /// Newcomers.
    Add,
    /// The same devices out and in again at once, for members that cannot see the room.
    Readd,
    /// Members go, to be added again with devices that failed before; their seats are theirs.
    Readmit,
}

/// Why an inbox is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grounds {
    /// A fact, a ban, an own wish or an identity log entry.
    Departed(Departure),
    /// It has its seat in an older room.
    SeatedElsewhere,
    /// It has no title and nothing says why.
    Unexplained,
}

/// What one MLS commit does to a room's members: Adds, Removes, and the group membership extension.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MembershipCommit {
    /// Entries of the extension's map that are added or raised.
    pub set: BTreeMap<InboxId, SequenceId>,
    /// Entries that are deleted.
    pub remove: BTreeSet<InboxId>,
    /// Installations to add, with the inbox that their key package must name.
    pub add_installations: BTreeMap<InstallationId, InboxId>,
    /// Installations whose leaves are removed.
    pub remove_installations: BTreeSet<InstallationId>,
    /// The whole new `failed_installations`.
    pub failed_installations: BTreeSet<InstallationId>,
}

/// A change of the admin lists. Never names usher.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleChange {
    /// To put on the admin list.
    pub add_admins: BTreeSet<InboxId>,
    /// To take off the admin list.
    pub remove_admins: BTreeSet<InboxId>,
    /// To put on the super admin list.
    pub add_super_admins: BTreeSet<InboxId>,
    /// To take off the super admin list.
    pub remove_super_admins: BTreeSet<InboxId>,
}

impl RoleChange {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.add_admins.is_empty()
            && self.remove_admins.is_empty()
            && self.add_super_admins.is_empty()
            && self.remove_super_admins.is_empty()
    }
}

/// Why an inbox that belongs is not served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// Its identity log was not read.
    NoIdentity,
    /// It has no installation.
    NoInstallation,
    /// Its key packages were not read.
    KeyPackagesUnknown,
    /// None of its installations can be added.
    NoUsableKeyPackage,
    /// One of its installations is in the room in another inbox's name.
    SharedInstallation,
    /// A commit of ours is not settled yet, and may be seating it.
    Unsettled,
    /// A room must be made, or declared lost, first.
    NoRoom,
    /// No room can take it, not even an empty one.
    TooLarge,
}

/// What a person must be told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "alarm")]
pub enum Alarm {
    /// usher is not a member of a room that counts as active.
    Ejected {
        /// Where.
        room: GroupId,
    },
    /// usher is not a super admin any more.
    RoleLost {
        /// Where.
        room: GroupId,
    },
    /// More members than allowed would go without an explanation; none of them goes.
    Unexplained {
        /// Where.
        room: GroupId,
        /// Who.
        inboxes: BTreeSet<InboxId>,
    },
    /// Somebody made the room impossible to join and usher may not mend it.
    Unjoinable {
        /// Where.
        room: GroupId,
    },
}

impl Step {
    /// The room that it is about, if there is one already.
    pub fn room(&self) -> Option<GroupId> {
        match self {
            Self::CreateRoom { .. } => None,
            Self::Settle { room }
            | Self::Membership { room, .. }
            | Self::SetRoles { room, .. }
            | Self::RestorePolicies { room }
            | Self::SetMetadata { room, .. } => Some(*room),
        }
    }
}

/// One line per step, alarm and waiting inbox, with ids cut short.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for alarm in &self.alarms {
            writeln!(f, "! {alarm}")?;
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for (inbox, obstacle) in &self.waiting {
            writeln!(f, "wait {}: {obstacle}", short(inbox))?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settle { room } => write!(f, "{}: settle", short(room)),
            Self::CreateRoom { succeeds: None } => write!(f, "create a room"),
            Self::CreateRoom { succeeds: Some(lost) } => write!(f, "create a room in place of {}", short(lost)),
            Self::Membership { room, purpose, commit } => write!(f, "{}: {purpose}{commit}", short(room)),
            Self::SetRoles { room, change } => write!(f, "{}: roles{change}", short(room)),
            Self::RestorePolicies { room } => write!(f, "{}: restore policies", short(room)),
            Self::SetMetadata { room, name, description } => {
                write!(f, "{}: describe", short(room))?;
                name.iter().try_for_each(|name| write!(f, " name={name:?}"))?;
                description.iter().try_for_each(|text| write!(f, " description={text:?}"))
            }
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove(grounds) => {
                f.write_str("remove (")?;
                for (n, (inbox, grounds)) in grounds.iter().enumerate() {
                    write!(f, "{}{}: {grounds}", if n == 0 { "" } else { ", " }, short(inbox))?;
                }
                f.write_str(")")
            }
            Self::Mend => f.write_str("mend"),
            Self::Refresh => f.write_str("refresh"),
            Self::Add => f.write_str("add"),
            Self::Readd => f.write_str("re-add"),
            Self::Readmit => f.write_str("readmit"),
        }
    }
}

impl fmt::Display for MembershipCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.set.iter().try_for_each(|(inbox, id)| write!(f, " {}={id}", short(inbox)))?;
        self.remove.iter().try_for_each(|inbox| write!(f, " {}=out", short(inbox)))?;
        self.add_installations.keys().try_for_each(|device| write!(f, " +{}", short(device)))?;
        self.remove_installations.iter().try_for_each(|device| write!(f, " -{}", short(device)))?;
        self.failed_installations.iter().try_for_each(|device| write!(f, " !{}", short(device)))
    }
}

impl fmt::Display for RoleChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.add_admins.iter().try_for_each(|inbox| write!(f, " +admin {}", short(inbox)))?;
        self.remove_admins.iter().try_for_each(|inbox| write!(f, " -admin {}", short(inbox)))?;
        self.add_super_admins.iter().try_for_each(|inbox| write!(f, " +super {}", short(inbox)))?;
        self.remove_super_admins.iter().try_for_each(|inbox| write!(f, " -super {}", short(inbox)))
    }
}

impl fmt::Display for Grounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Departed(Departure::Banned) => "banned",
            Self::Departed(Departure::Left) => "left",
            Self::Departed(Departure::TicketLost) => "ticket lost",
            Self::Departed(Departure::Unlinked) => "wallet unlinked",
            Self::SeatedElsewhere => "seated elsewhere",
            Self::Unexplained => "unexplained",
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoIdentity => "its identity log was not read",
            Self::NoInstallation => "it has no installation",
            Self::KeyPackagesUnknown => "its key packages were not read",
            Self::NoUsableKeyPackage => "none of its installations can be added",
            Self::SharedInstallation => "another inbox has its installation in the room",
            Self::Unsettled => "a commit is not settled yet",
            Self::NoRoom => "no room has a seat yet",
            Self::TooLarge => "no room can take it",
        })
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ejected { room } => write!(f, "{}: usher is not a member", short(room)),
            Self::RoleLost { room } => write!(f, "{}: usher is not a super admin", short(room)),
            Self::Unexplained { room, inboxes } => {
                write!(f, "{}: nothing explains the removal of", short(room))?;
                inboxes.iter().try_for_each(|inbox| write!(f, " {}", short(inbox)))
            }
            Self::Unjoinable { room } => write!(f, "{}: nobody can join and usher may not mend it", short(room)),
        }
    }
}

/// The first eight digits: enough to tell ids apart when reading.
fn short(id: impl fmt::Display) -> String {
    id.to_string().chars().take(8).collect()
}
