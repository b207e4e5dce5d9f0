//! What the clock finds: events that are due, and rooms with news.

use std::collections::{BTreeMap, BTreeSet};

use usher_domain::EventKey;
use usher_store::Table;

use crate::{ConvergeError, Doorkeeper};

/// How many due events, or active rooms, one look takes note of. 20,000 rooms are 20 calls to XMTP.
const LOOKED_AT_MAX: usize = 20_000;

impl<T: Table> Doorkeeper<T> {
    /// The events that are due.
    pub async fn due(&self) -> Result<BTreeSet<EventKey>, ConvergeError> {
        let due = self.parts.store.due(self.parts.clock.now_ms(), LOOKED_AT_MAX).await?;
        Ok(due.into_iter().map(|due| due.event).collect())
    }

    /// The events whose rooms have messages that nobody looked at: leave requests, others' commits, new devices. The
    /// index has all active rooms, and XMTP is asked for a thousand at once.
    pub async fn with_news(&self) -> Result<BTreeSet<EventKey>, ConvergeError> {
        let active = self.parts.store.active_rooms(LOOKED_AT_MAX).await?;
        let rooms: BTreeMap<_, _> = active.into_iter().map(|room| (room.group, room)).collect();
        if rooms.is_empty() {
            return Ok(BTreeSet::new());
        }
        let groups: Vec<_> = rooms.keys().map(|group| usher_xmtp::GroupId(group.0)).collect();
        let newest = self.parts.network.newest_group_messages(&groups).await?;
        let with_news = rooms
            .into_values()
            .zip(newest)
            .filter_map(|(room, newest)| newest.is_some_and(|newest| newest.id > room.seen).then_some(room.event));
        Ok(with_news.collect())
    }
}
