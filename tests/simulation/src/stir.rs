//! What people and outsiders do, unasked.

use usher_xmtp::GroupId;

use crate::{
    hostile::{Flaw, Offence},
    people::{CHAT, Deed},
    world::World,
};

impl World {
    /// Somebody does something.
    pub(crate) async fn stir(&mut self) {
        let (who, deed) = {
            let mut state = self.shared.lock();
            let people = self.people.all.lock().expect("no panic").len();
            let who = state.dice.below(people);
            let other = state.dice.below(people);
            let flaw = state.dice.weighted(&[(1, Flaw::Junk), (1, Flaw::Expired), (1, Flaw::OtherInbox)]);
            let deed = state.dice.weighted(&[
                (6, Deed::Register),
                (10, Deed::Sync),
                (8, Deed::Say(CHAT)),
                (5, Deed::UpdateKeys),
                (2, Deed::Leave),
                (4, Deed::RotateKeyPackage),
                (2, Deed::SpoilKeyPackage(flaw)),
                (3, Deed::MendKeyPackage),
                (3, Deed::Forge),
                (5, Deed::Add(other)),
                (5, Deed::Remove(other)),
                (2, Deed::Revoke(1)),
            ]);
            (who, deed)
        };
        let rooms = self.rooms().await;
        let room = (!rooms.is_empty()).then(|| {
            let room = &rooms[self.shared.lock().dice.below(rooms.len())];
            (GroupId(room.group.0), room.incarnation.creator)
        });
        let (who, deed) = match deed {
            // Admins are creators; who else tries only learns that he may not.
            Deed::Add(other) | Deed::Remove(other) => {
                let creator = room.and_then(|(_, wallet)| {
                    self.chain.mints.iter().find(|mint| mint.event.creator == wallet).map(|mint| mint.creator)
                });
                match creator {
                    Some(creator) if creator != other => (creator, deed),
                    _ => (who, Deed::Sync),
                }
            }
            _ => (who, deed),
        };
        let devices = self.people.all.lock().expect("no panic")[who].devices.len();
        if (devices == 0) != (deed == Deed::Register) && !(deed == Deed::Register && devices == 1) {
            return;
        }
        if matches!(deed, Deed::Revoke(_)) && devices < 2 {
            return;
        }
        let device =
            if devices == 0 || matches!(deed, Deed::Revoke(_)) { 0 } else { self.shared.lock().dice.below(devices) };
        self.deed(who, device, room.map(|(room, _)| room), deed);
    }

    /// A member commits in a room, or changes his devices, while usher's commit is on its way.
    pub(crate) async fn compete(&mut self) {
        let room = {
            let mut state = self.shared.lock();
            let pending: Vec<GroupId> = state.pending.iter().copied().collect();
            pending[state.dice.below(pending.len())]
        };
        let creator = self.rooms().await.iter().find(|it| it.group.0 == room.0).map(|it| it.incarnation.creator);
        let creator = self.chain.mints.iter().find(|mint| Some(mint.event.creator) == creator).map(|mint| mint.creator);
        let (who, device, deed) = {
            let mut state = self.shared.lock();
            let all = self.people.all.lock().expect("no panic");
            let (somebody, other) = (state.dice.below(all.len()), state.dice.below(all.len()));
            let creator = creator.filter(|creator| *creator != other).unwrap_or(somebody);
            let deed = state.dice.weighted(&[
                (3, Deed::Add(other)),
                (3, Deed::Remove(other)),
                (4, Deed::UpdateKeys),
                (1, Deed::Revoke(1)),
                (1, Deed::Register),
            ]);
            let who = if matches!(deed, Deed::Add(_) | Deed::Remove(_)) { creator } else { somebody };
            let devices = all[who].devices.len();
            let possible = match deed {
                Deed::Register => devices < 2,
                Deed::Revoke(_) => devices == 2,
                Deed::Add(other) | Deed::Remove(other) => devices > 0 && other != who,
                _ => devices > 0,
            };
            if !possible {
                return;
            }
            let device = if deed == Deed::UpdateKeys { state.dice.below(devices) } else { 0 };
            (who, device, deed)
        };
        self.deed(who, device, Some(room), deed);
    }

    /// Whoever has a modified client uses it.
    pub(crate) fn offend(&mut self) {
        let Some(who) = self.people.rogue else { return };
        let offence = self.shared.lock().dice.weighted(&[
            (4, Offence::AddLeaf),
            (4, Offence::RemoveLeaf),
            (4, Offence::RemoveInbox),
            (4, Offence::Promote),
            (4, Offence::Permit),
            (4, Offence::SpoilMembership),
            (2, Offence::SpoilConversation),
        ]);
        self.deed(who, 0, None, Deed::Offend(offence));
    }

    /// An outsider writes what he likes into a room's log.
    pub(crate) async fn intrude(&mut self) {
        let rooms = self.rooms().await;
        if rooms.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        let group = GroupId(rooms[state.dice.below(rooms.len())].group.0);
        let mut junk = vec![0; state.dice.below(300) + 1];
        state.dice.fill(&mut junk);
        drop(state);
        self.shared.count("an outsider's message");
        let log = self.node.group_messages(group, 0);
        let data = if log.is_empty() || junk[0] < 80 {
            junk
        } else {
            // Somebody's message, spoilt behind its framing.
            let mut data = log[usize::from(junk[0]) % log.len()].data.clone();
            let at = data.len() - 1 - usize::from(junk.len() > 1) * (junk.len() % 40).min(data.len() - 1);
            data[at] ^= 1 | junk[0];
            data
        };
        self.node.append(group, data, Vec::new());
    }
}
