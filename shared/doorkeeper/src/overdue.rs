//! What the clock finds: events that are due, and rooms with news.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, stream};
use usher_domain::EventKey;
use usher_store::{RoomState, Table};

use crate::{ConvergeError, Doorkeeper};

/// How many due events one look takes.
const DUE_MAX: usize = 1000;

/// How many events' rooms are read at once.
const READS_AT_ONCE: usize = 32;

impl<T: Table> Doorkeeper<T> {
    /// The events that are due.
    pub async fn due(&self) -> Result<BTreeSet<EventKey>, ConvergeError> {
        let due = self.parts.store.due(self.parts.clock.now_ms(), DUE_MAX).await?;
        Ok(due.into_iter().map(|due| due.event).collect())
    }

    /// The events whose rooms have messages that nobody looked at: leave requests, others' commits, new devices. XMTP
    /// is asked once for all rooms.
    pub async fn with_news(&self) -> Result<BTreeSet<EventKey>, ConvergeError> {
        let events = self.parts.store.events().await?;
        let read = stream::iter(events).map(|event| async move { (event, self.parts.store.event(&event).await) });
        let mut read = read.buffer_unordered(READS_AT_ONCE);
        let mut rooms = BTreeMap::new();
        while let Some((event, record)) = read.next().await {
            for room in record?.into_iter().flat_map(|record| record.rooms) {
                if room.state == RoomState::Active {
                    rooms.insert(room.group, (event, room.seen));
                }
            }
        }
        if rooms.is_empty() {
            return Ok(BTreeSet::new());
        }
        let groups: Vec<_> = rooms.keys().map(|group| usher_xmtp::GroupId(group.0)).collect();
        let newest = self.parts.network.newest_group_messages(&groups).await?;
        let with_news = rooms
            .into_values()
            .zip(newest)
            .filter_map(|((event, seen), newest)| newest.is_some_and(|newest| newest.id > seen).then_some(event));
        Ok(with_news.collect())
    }
}
