//! What people and outsiders do, unasked.

use usher_xmtp::GroupId;

use crate::{
    hostile::{Flaw, Offence},
    people::Deed,
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
                (8, Deed::Say),
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
