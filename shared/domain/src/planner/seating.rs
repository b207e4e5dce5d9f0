//! Who comes into which room, and when another room is needed.
//!
//! usher, the creator and the moderators sit in every room, everybody else in one, and keeps it while they belong.

use std::collections::BTreeSet;

use super::{
    Input, MAX_INBOXES, Obstacle, Purpose, RoomState, Step,
    change::{Change, Load},
    draft::{Draft, Standing},
};
use crate::ids::{GroupId, InboxId};

/// What is planned to come into a room.
struct Intake {
    load: Load,
    arrivals: Vec<(InboxId, Change)>,
}

impl Draft<'_> {
    /// Adds whoever is missing and reachable, and makes the rooms that are needed for it.
    pub(super) fn seat(&mut self) {
        let seats = self.input.admission.seats.keys();
        let guests = seats.filter(|inbox| **inbox != self.input.admission.usher && self.belongs(inbox));
        let (everywhere, single): (Vec<_>, Vec<_>) = guests.cloned().partition(|inbox| self.everywhere(inbox));
        let mut newcomers: Vec<_> = single.into_iter().filter(|inbox| self.home(inbox).is_none()).collect();
        newcomers.sort_by_key(|inbox| self.room_of_repair(inbox).is_none());

        let mut intakes = self.intakes(&everywhere);
        let overflow = if self.unsettled() {
            self.plan.waiting.extend(newcomers.into_iter().map(|inbox| (inbox, Obstacle::Unsettled)));
            false
        } else {
            self.place(newcomers, &everywhere, &mut intakes)
        };
        for (at, intake) in intakes.into_iter().enumerate() {
            self.pack(at, intake.arrivals, &Purpose::Add);
        }
        self.make_rooms(overflow);
    }

    /// One per room; those who sit everywhere have their seats reserved, and come first.
    fn intakes(&mut self, everywhere: &[InboxId]) -> Vec<Intake> {
        let mut intakes = vec![];
        for room in &self.rooms {
            let missing: Vec<_> = everywhere.iter().filter(|inbox| !room.view.members.contains_key(*inbox)).collect();
            let leaves = room.view.leaves();
            let mut load = Load::of(&room.view);
            load.inboxes += missing.len();
            let mut arrivals = vec![];
            for inbox in missing {
                let arrival = match room.standing {
                    _ if room.open() => Change::arrival(self.input, &leaves, inbox),
                    Standing::Unsettled => Err(Obstacle::Unsettled),
                    _ => Err(Obstacle::NoRoom),
                };
                let without = Load { inboxes: load.inboxes - 1, ..load };
                match arrival {
                    Ok(change) if can_be_sent(self.input, without, &change) => {
                        load.leaves += change.additions().count();
                        arrivals.push((inbox.clone(), change));
                    }
                    Ok(_) => _ = self.plan.waiting.insert(inbox.clone(), Obstacle::TooLarge),
                    Err(obstacle) => _ = self.plan.waiting.insert(inbox.clone(), obstacle),
                }
            }
            intakes.push(Intake { load, arrivals });
        }
        intakes
    }

    /// Finds each newcomer a room. Tells whether somebody needs a room that does not exist.
    fn place(&mut self, newcomers: Vec<InboxId>, everywhere: &[InboxId], intakes: &mut [Intake]) -> bool {
        let fresh = self.fresh_load(everywhere);
        let mut overflow = false;
        for inbox in newcomers {
            match self.find(&inbox, fresh, intakes) {
                Ok((at, change)) => {
                    let intake = &mut intakes[at];
                    intake.load = intake.load.after(&change);
                    intake.arrivals.push((inbox, change));
                }
                Err(obstacle) => {
                    overflow |= obstacle == Obstacle::NoRoom;
                    self.plan.waiting.insert(inbox, obstacle);
                }
            }
        }
        overflow
    }

    fn find(&self, inbox: &InboxId, fresh: Load, intakes: &[Intake]) -> Result<(usize, Change), Obstacle> {
        let newcomer = Change::arrival(self.input, &BTreeSet::new(), inbox)?;
        let mut shared = false;
        for at in self.candidates(inbox).into_iter().filter(|at| self.rooms[*at].open()) {
            // Whoever is out for repair has a seat of their own, however full the room is.
            let load = intakes[at].load;
            let returns = self.room_of_repair(inbox) == Some(at) && can_be_sent(self.input, load, &newcomer);
            if !returns && !fits(self.input, load, &newcomer) {
                continue;
            }
            match Change::arrival(self.input, &self.rooms[at].view.leaves(), inbox) {
                Ok(change) => return Ok((at, change)),
                Err(_) => shared = true,
            }
        }
        Err(if shared {
            Obstacle::SharedInstallation
        } else if fits(self.input, fresh, &newcomer) {
            Obstacle::NoRoom
        } else {
            Obstacle::TooLarge
        })
    }

    /// Rooms that `inbox` may come into, best first: the one it was in; then the oldest.
    fn candidates(&self, inbox: &InboxId) -> Vec<usize> {
        let lost = self.input.rooms.iter().rev();
        let lost = lost.filter(|room| room.is_lost() && room.members.contains_key(inbox));
        let heir = match lost.map(|room| self.heir(room.group)).next() {
            Some(None) => return vec![],
            Some(heir) => heir,
            None => None,
        };
        let heir = heir.and_then(|group| self.rooms.iter().position(|room| room.view.group == group));
        let mut candidates: Vec<_> = self.room_of_repair(inbox).into_iter().chain(heir).collect();
        candidates.extend((0..self.rooms.len()).filter(|at| !candidates.contains(at)).collect::<Vec<_>>());
        candidates
    }

    /// The room that has the seats of a lost one. `None` if it is still to be made.
    fn heir(&self, mut group: GroupId) -> Option<GroupId> {
        // As many hops as there are rooms, lest a circle of successors holds us up.
        for _ in &self.input.rooms {
            match self.input.rooms.iter().find(|room| room.group == group)?.state {
                RoomState::Active | RoomState::Awaited => break,
                RoomState::Lost { successor } => group = successor?,
            }
        }
        Some(group)
    }

    fn room_of_repair(&self, inbox: &InboxId) -> Option<usize> {
        self.rooms.iter().position(|room| room.view.last_repaired_ms.contains_key(inbox))
    }

    /// What a new room holds before any newcomer.
    fn fresh_load(&self, everywhere: &[InboxId]) -> Load {
        let arrivals = everywhere.iter().map(|inbox| Change::arrival(self.input, &BTreeSet::new(), inbox).ok());
        let mut load = Load { inboxes: 1 + everywhere.len(), leaves: 1, ..Load::default() };
        load.leaves += arrivals.flatten().map(|change| change.additions().count()).sum::<usize>();
        load
    }

    /// Every lost room gets its successor, the event its first room, and whoever found no seat an additional one. But
    /// while a room is in doubt, whether it has seats is for the one who decides to say first.
    fn make_rooms(&mut self, overflow: bool) {
        let orphans = self.input.rooms.iter().filter(|room| room.state == RoomState::Lost { successor: None });
        let successors: Vec<_> = orphans.map(|room| Step::CreateRoom { succeeds: Some(room.group) }).collect();
        let in_doubt = self.ejected || self.rooms.iter().any(|room| !room.open());
        if successors.is_empty() && !in_doubt && (overflow || self.rooms.is_empty()) {
            self.plan.steps.push(Step::CreateRoom { succeeds: None });
        }
        self.plan.steps.extend(successors);
    }
}

/// Within the limits that a deployment sets.
fn fits(input: &Input, load: Load, change: &Change) -> bool {
    let (limits, after) = (&input.limits, load.after(change));
    after.inboxes <= limits.seats_per_room && after.leaves <= limits.leaves_per_room && can_be_sent(input, load, change)
}

/// Within the limits that XMTP sets.
pub(super) fn can_be_sent(input: &Input, load: Load, change: &Change) -> bool {
    load.after(change).inboxes <= MAX_INBOXES && load.commit_bytes(input, change) <= input.limits.commit_bytes
}
