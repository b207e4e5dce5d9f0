//! Members that cannot see the room, or not with all their devices.

use std::collections::BTreeSet;

use super::{
    AssociationView, KeyPackageView, Purpose,
    change::{Change, Load},
    draft::Draft,
    seating::can_be_sent,
};
use crate::ids::{InboxId, InstallationId};

/// What would help a member.
enum Repair {
    /// Out, and in again: the only way for a device that is listed as failed.
    Readmit,
    /// These leaves out and in again within one commit.
    Readd(Vec<InstallationId>),
}

impl Draft<'_> {
    /// Repairs come last: nobody waits for them.
    pub(super) fn repair(&mut self) {
        if self.unsettled() {
            return;
        }
        for at in self.workable().into_iter().filter(|at| self.rooms[*at].open()).collect::<Vec<_>>() {
            let mut readmitted = BTreeSet::new();
            let mut readded = vec![];
            for inbox in self.rooms[at].view.members.keys() {
                match self.repair_of(at, inbox) {
                    Some(Repair::Readmit) => _ = readmitted.insert(inbox.clone()),
                    Some(Repair::Readd(leaves)) => readded.push((inbox.clone(), Change::readd(inbox, leaves))),
                    None => {}
                }
            }
            self.pack(at, readded, &Purpose::Readd);
            self.readmit(at, &readmitted);
        }
    }

    /// Whether the next repair of `inbox` takes it out of the room, for which it must not be on an admin list.
    pub(super) fn must_leave_to_be_repaired(&self, at: usize, inbox: &InboxId) -> bool {
        matches!(self.repair_of(at, inbox), Some(Repair::Readmit))
    }

    fn repair_of(&self, at: usize, inbox: &InboxId) -> Option<Repair> {
        let room = &self.rooms[at];
        let limits = &self.input.limits;
        let last_ms = room.view.last_repaired_ms.get(inbox);
        let rested = last_ms.is_none_or(|ms| self.input.now_ms >= ms.saturating_add(limits.repair_every_ms));
        if *inbox == self.input.admission.usher || !self.belongs(inbox) || !rested {
            return None;
        }
        let member = room.view.members.get(inbox)?;
        let (newest, installations) = self.input.association.get(inbox).and_then(AssociationView::latest)?;
        if newest != member.stored_sequence_id {
            return None;
        }
        let usable =
            |id: &InstallationId| matches!(self.input.key_packages.get(id), Some(KeyPackageView::Usable { .. }));
        let (present, absent): (BTreeSet<InstallationId>, BTreeSet<InstallationId>) =
            installations.iter().partition(|id| member.leaves.contains(*id));

        // Nothing may be lost on the way: every device there is must be able to come back, and nothing be in doubt.
        let without = &room.view.leaves() - &member.leaves;
        let comes_back = Change::arrival(self.input, &without, inbox)
            .is_ok_and(|change| can_be_sent(self.input, Load::of(&room.view), &change));
        let may_leave = room.super_admin() || !room.lists(inbox);
        if present.iter().all(usable) && absent.iter().any(usable) && comes_back && may_leave {
            return Some(Repair::Readmit);
        }
        let damaged = room.view.damaged.contains(inbox) && room.super_admin();
        let fresh: Vec<_> = present.into_iter().filter(usable).collect();
        (damaged && !fresh.is_empty()).then_some(Repair::Readd(fresh))
    }

    fn readmit(&mut self, at: usize, inboxes: &BTreeSet<InboxId>) {
        if inboxes.is_empty() {
            return;
        }
        self.step_down(at, inboxes);
        self.take_out(at, inboxes.iter(), Purpose::Readmit);
        let leaves = self.rooms[at].view.leaves();
        let arrivals =
            inboxes.iter().filter_map(|inbox| Some((inbox.clone(), Change::arrival(self.input, &leaves, inbox).ok()?)));
        let arrivals = arrivals.collect();
        self.pack(at, arrivals, &Purpose::Add);
    }
}
