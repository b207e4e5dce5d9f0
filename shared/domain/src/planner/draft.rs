//! A plan in the making: the rooms as they are after the steps so far, and the steps that keep a room in order.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Alarm, Grounds, Input, Obstacle, Plan, Purpose, RoleChange, RoomState, RoomView, Step,
    change::{Change, Load},
};
use crate::{
    admission::{CreatorRole, Departure, Role, Unresolved},
    ids::{InboxId, InstallationId},
};

pub(super) struct Draft<'a> {
    pub(super) input: &'a Input,
    /// The rooms that usher is a member of, those included whose state is not there.
    pub(super) rooms: Vec<Room>,
    /// usher is not a member of a room that should be active: the view of it may be old.
    pub(super) ejected: bool,
    leaving: BTreeSet<&'a InboxId>,
    /// The network was silent about a wallet with a title: whose title is missing may have it all the same.
    silence: bool,
    pub(super) plan: Plan,
}

pub(super) struct Room {
    pub(super) view: RoomView,
    pub(super) standing: Standing,
    pub(super) joinable: bool,
}

/// What usher can do in a room now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    SuperAdmin,
    Admin,
    Powerless,
    Unsettled,
}

impl Room {
    /// Membership commits can be built.
    pub(super) fn workable(&self) -> bool {
        matches!(self.standing, Standing::SuperAdmin | Standing::Admin)
    }

    /// Newcomers can be added.
    pub(super) fn open(&self) -> bool {
        self.workable() && self.joinable
    }

    pub(super) fn super_admin(&self) -> bool {
        self.standing == Standing::SuperAdmin
    }

    /// Whether `inbox` is on one of the admin lists.
    pub(super) fn lists(&self, inbox: &InboxId) -> bool {
        self.view.admins.contains(inbox) || self.view.super_admins.contains(inbox)
    }
}

impl<'a> Draft<'a> {
    pub(super) fn open(input: &'a Input) -> Self {
        let usher = &input.admission.usher;
        let mut draft = Self {
            input,
            rooms: vec![],
            ejected: false,
            leaving: BTreeSet::new(),
            silence: input.admission.waiting.values().any(|reason| *reason == Unresolved::Silent),
            plan: Plan::default(),
        };
        for view in &input.rooms {
            match view.state {
                RoomState::Active => {}
                RoomState::Awaited => {
                    draft.rooms.push(Room { view: view.clone(), standing: Standing::Unsettled, joinable: true });
                    continue;
                }
                RoomState::Lost { .. } => continue,
            }
            let room = view.group;
            draft.leaving.extend(view.leave_requests.iter().filter(|inbox| *inbox != usher));
            if !view.members.contains_key(usher) {
                draft.plan.alarms.insert(Alarm::Ejected { room });
                draft.ejected = true;
                continue;
            }
            let super_admin = view.super_admins.contains(usher);
            if !super_admin {
                draft.plan.alarms.insert(Alarm::RoleLost { room });
            }
            let standing = if view.pending_commit {
                draft.plan.steps.push(Step::Settle { room });
                Standing::Unsettled
            } else if super_admin {
                Standing::SuperAdmin
            } else if view.admins.contains(usher) {
                Standing::Admin
            } else {
                Standing::Powerless
            };
            draft.rooms.push(Room { view: view.clone(), standing, joinable: true });
        }
        draft
    }

    pub(super) fn workable(&self) -> Vec<usize> {
        (0..self.rooms.len()).filter(|at| self.rooms[*at].workable()).collect()
    }

    /// A commit of ours may still change who sits where.
    pub(super) fn unsettled(&self) -> bool {
        self.rooms.iter().any(|room| room.standing == Standing::Unsettled)
    }

    /// Whether `inbox` should sit in a room.
    pub(super) fn belongs(&self, inbox: &InboxId) -> bool {
        self.input.admission.seats.contains_key(inbox) && !self.leaving.contains(inbox)
    }

    /// Whether `inbox`, which belongs, should sit in every room.
    pub(super) fn everywhere(&self, inbox: &InboxId) -> bool {
        self.input.admission.role(inbox) >= Some(Role::Admin)
    }

    /// The oldest room that has `inbox`.
    pub(super) fn home(&self, inbox: &InboxId) -> Option<usize> {
        self.rooms.iter().position(|room| room.view.members.contains_key(inbox))
    }

    /// What calls for taking `inbox` out of a room that has it.
    fn grounds(&self, at: usize, inbox: &InboxId) -> Option<Grounds> {
        if *inbox == self.input.admission.usher {
            None
        } else if self.leaving.contains(inbox) {
            Some(Grounds::Departed(Departure::Left))
        } else if let Some(departure) = self.input.admission.departures.get(inbox) {
            Some(Grounds::Departed(*departure))
        } else {
            let elsewhere = self.belongs(inbox) && !self.everywhere(inbox) && self.home(inbox) != Some(at);
            (elsewhere && !self.unsettled() && !self.silence).then_some(Grounds::SeatedElsewhere)
        }
    }

    /// Removals that something calls for.
    pub(super) fn revoke(&mut self) {
        for at in self.workable() {
            let members = self.rooms[at].view.members.keys();
            let grounds = members.filter_map(|inbox| Some((inbox.clone(), self.grounds(at, inbox)?))).collect();
            self.dismiss(at, grounds);
            self.step_down_absent(at);
        }
    }

    /// Removals that nothing explains: a few at a time, and none while the network is silent about somebody.
    pub(super) fn remove_unexplained(&mut self) {
        for at in self.workable() {
            let view = &self.rooms[at].view;
            let untitled = |inbox: &&InboxId| !self.belongs(inbox) && self.grounds(at, inbox).is_none();
            let inboxes: BTreeSet<_> = view.members.keys().filter(untitled).cloned().collect();
            let others = view.members.len() - 1;
            let allowed =
                (others * self.input.limits.unexplained_percent / 100).saturating_sub(view.unexplained_removals);
            if inboxes.is_empty() {
                continue;
            } else if self.silence || inboxes.len() > allowed {
                self.plan.alarms.insert(Alarm::Unexplained { room: view.group, inboxes });
            } else {
                self.dismiss(at, inboxes.into_iter().map(|inbox| (inbox, Grounds::Unexplained)).collect());
            }
        }
    }

    /// Removes inboxes from a room; whoever is on an admin list loses that first, and leaves in a later commit.
    fn dismiss(&mut self, at: usize, grounds: BTreeMap<InboxId, Grounds>) {
        let (listed, plain): (BTreeMap<_, _>, _) =
            grounds.into_iter().partition(|(inbox, _)| self.rooms[at].lists(inbox));
        self.take_out(at, plain.keys(), Purpose::Remove(plain.clone()));
        if self.rooms[at].super_admin() {
            self.step_down(at, &listed.keys().cloned().collect());
            self.take_out(at, listed.keys(), Purpose::Remove(listed.clone()));
        }
    }

    /// Removes inboxes that are on no admin list.
    pub(super) fn take_out<'b>(&mut self, at: usize, inboxes: impl Iterator<Item = &'b InboxId>, purpose: Purpose) {
        let room = &self.rooms[at];
        let change = inboxes
            .map(|inbox| Change::removal(self.input, &room.view, inbox, room.super_admin()))
            .fold(Change::default(), Change::join);
        self.commit(at, change, purpose);
    }

    /// Takes inboxes off both admin lists.
    pub(super) fn step_down(&mut self, at: usize, inboxes: &BTreeSet<InboxId>) {
        let view = &self.rooms[at].view;
        let change = RoleChange {
            remove_admins: &view.admins & inboxes,
            remove_super_admins: &view.super_admins & inboxes,
            ..RoleChange::default()
        };
        self.set_roles(at, change);
    }

    /// A role outlives its holder: whoever was removed without losing it would be an admin on coming back.
    fn step_down_absent(&mut self, at: usize) {
        let room = &self.rooms[at];
        if room.super_admin() {
            let listed = room.view.admins.union(&room.view.super_admins);
            let absent = listed.filter(|inbox| !room.view.members.contains_key(*inbox));
            let stale = absent.filter(|inbox| {
                let departed = self.grounds(at, inbox).is_some();
                departed || !self.everywhere(inbox) && !self.silence
            });
            let stale = stale.cloned().collect();
            self.step_down(at, &stale);
        }
    }

    pub(super) fn restore_policies(&mut self) {
        for at in self.workable() {
            let room = &mut self.rooms[at];
            if room.super_admin() && !room.view.policies_ok {
                room.view.policies_ok = true;
                self.plan.steps.push(Step::RestorePolicies { room: room.view.group });
            }
        }
    }

    /// Whatever keeps newcomers from joining goes before anybody is added.
    pub(super) fn mend(&mut self) {
        for at in self.workable() {
            let room = &mut self.rooms[at];
            let (change, complete) = Change::mend(self.input, &room.view, room.super_admin());
            room.joinable = complete;
            if !complete {
                self.plan.alarms.insert(Alarm::Unjoinable { room: room.view.group });
            }
            self.commit(at, change, Purpose::Mend);
        }
    }

    /// New and given up devices of members; given up ones first.
    pub(super) fn refresh(&mut self) {
        for at in self.workable() {
            let usher = &self.input.admission.usher;
            let replaced = Change::replaced(self.input, &self.rooms[at].view).map(|change| (usher.clone(), change));
            let mut changes = Vec::from_iter(replaced);
            for inbox in self.rooms[at].view.members.keys() {
                if *inbox == self.input.admission.usher || !self.belongs(inbox) {
                    continue;
                }
                match Change::refresh(self.input, &self.rooms[at].view, inbox) {
                    Ok(change) => changes.extend(change.map(|change| (inbox.clone(), change))),
                    Err(obstacle) => _ = self.plan.waiting.insert(inbox.clone(), obstacle),
                }
            }
            changes.sort_by_key(|(_, change)| !change.removes_leaves());
            self.pack(at, changes, &Purpose::Refresh);
        }
    }

    /// Roles of members. Where the creator may appoint, the roles that others were given stand. So they do in silence.
    pub(super) fn appoint(&mut self) {
        let appointments_stand = self.input.creator_role == CreatorRole::SuperAdmin || self.silence;
        for at in self.workable().into_iter().filter(|at| self.rooms[*at].super_admin()).collect::<Vec<_>>() {
            let view = &self.rooms[at].view;
            let mut change = RoleChange::default();
            for inbox in view.members.keys().filter(|inbox| **inbox != self.input.admission.usher) {
                let Some(wanted) = self.input.admission.role(inbox).filter(|_| self.belongs(inbox)) else { continue };
                if self.must_leave_to_be_repaired(at, inbox) {
                    continue;
                }
                let (admin, super_admin) = (view.admins.contains(inbox), view.super_admins.contains(inbox));
                if wanted == Role::SuperAdmin && !super_admin {
                    change.add_super_admins.insert(inbox.clone());
                }
                let surplus = super_admin && wanted < Role::SuperAdmin && !appointments_stand;
                if surplus {
                    change.remove_super_admins.insert(inbox.clone());
                }
                if wanted == Role::Admin && !admin && (!super_admin || surplus) {
                    change.add_admins.insert(inbox.clone());
                }
                if admin && wanted == Role::Member && !appointments_stand {
                    change.remove_admins.insert(inbox.clone());
                }
            }
            self.set_roles(at, change);
        }
    }

    pub(super) fn name(&mut self) {
        let wanted = &self.input.metadata;
        for at in self.workable() {
            let view = &self.rooms[at].view;
            let name = differing(wanted.name.as_deref(), 100, &view.name);
            let description = differing(wanted.description.as_deref(), 1_000, &view.description);
            if name.is_some() || description.is_some() {
                self.plan.steps.push(Step::SetMetadata { room: view.group, name, description });
            }
        }
    }

    fn set_roles(&mut self, at: usize, change: RoleChange) {
        if change.is_empty() {
            return;
        }
        let view = &mut self.rooms[at].view;
        view.admins = &(&view.admins - &change.remove_admins) | &change.add_admins;
        view.super_admins = &(&view.super_admins - &change.remove_super_admins) | &change.add_super_admins;
        self.plan.steps.push(Step::SetRoles { room: view.group, change });
    }

    /// As many commits as the changes need, in their order.
    pub(super) fn pack(&mut self, at: usize, changes: Vec<(InboxId, Change)>, purpose: &Purpose) {
        let mut added = BTreeSet::<InstallationId>::new();
        let mut batch = Change::default();
        for (inbox, change) in changes {
            if change.additions().any(|installation| !added.insert(*installation)) {
                self.plan.waiting.insert(inbox, Obstacle::SharedInstallation);
                continue;
            }
            let both = batch.clone().join(change.clone());
            let bytes = Load::of(&self.rooms[at].view).commit_bytes(self.input, &both);
            if bytes <= self.input.limits.commit_bytes || batch.is_empty() {
                batch = both;
            } else {
                self.commit(at, std::mem::replace(&mut batch, change), purpose.clone());
            }
        }
        self.commit(at, batch, purpose.clone());
    }

    fn commit(&mut self, at: usize, change: Change, purpose: Purpose) {
        if change.is_empty() {
            return;
        }
        let view = &mut self.rooms[at].view;
        let commit = change.into_commit(view);
        view.apply(&commit);
        self.plan.steps.push(Step::Membership { room: view.group, purpose, commit });
    }
}

/// What `wanted` comes to within `limit` bytes, unless it is there already.
fn differing(wanted: Option<&str>, limit: usize, present: &str) -> Option<String> {
    let wanted = wanted?;
    let cut = &wanted[..wanted.floor_char_boundary(limit)];
    (cut != present).then(|| cut.to_owned())
}
