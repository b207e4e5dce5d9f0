//! What a warm process keeps of the rooms it had in hand.

use std::collections::VecDeque;

use usher_domain::GroupId;
use usher_xmtp::Group;

/// A process lives for hours and meets many rooms; one that is not kept is decoded again.
const ROOMS_KEPT_MAX: usize = 32;

/// A decoded room, good while its head is at this version.
#[derive(Debug)]
pub(crate) struct KeptRoom {
    pub(crate) version: u64,
    pub(crate) group: Group,
    /// How many messages the group had read when it was stored.
    pub(crate) read_when_stored: u64,
}

/// The rooms that were in hand last, the newest one last.
#[derive(Debug)]
pub(crate) struct Recent<R>(VecDeque<(GroupId, R)>);

impl<R> Default for Recent<R> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<R> Recent<R> {
    pub(crate) fn take(&mut self, group: &GroupId) -> Option<R> {
        let index = self.0.iter().position(|(kept, _)| kept == group)?;
        self.0.remove(index).map(|(_, room)| room)
    }

    pub(crate) fn put(&mut self, group: GroupId, room: R) {
        self.take(&group);
        self.0.push_back((group, room));
        if self.0.len() > ROOMS_KEPT_MAX {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: usize) -> GroupId {
        GroupId([u8::try_from(number).unwrap(); 16])
    }

    #[test]
    fn the_one_that_waited_longest_goes() {
        let mut rooms = Recent::default();
        (0..ROOMS_KEPT_MAX).for_each(|number| rooms.put(group(number), number));
        let oldest = rooms.take(&group(0)).unwrap();
        rooms.put(group(0), oldest);
        rooms.put(group(ROOMS_KEPT_MAX), ROOMS_KEPT_MAX);
        assert_eq!((rooms.take(&group(1)), rooms.take(&group(0))), (None, Some(0)));
        assert_eq!(rooms.take(&group(ROOMS_KEPT_MAX)), Some(ROOMS_KEPT_MAX));
        assert_eq!(rooms.0.len(), ROOMS_KEPT_MAX - 2);
    }
}
