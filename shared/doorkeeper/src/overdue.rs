//! What the clock finds: events that are due, and rooms with news.

use std::collections::{BTreeMap, BTreeSet};

use usher_domain::EventKey;
use usher_store::{RoomState, Table};

use crate::{ConvergeError, Doorkeeper};

/// How many due events one look takes.
const DUE_MAX: usize = 1000;

impl<T: Table> Doorkeeper<T> {
    /// The events that are due, and those whose rooms have messages nobody looked at: leave requests, others' commits,
    /// new devices. XMTP is asked once for all rooms; if it does not answer, the due events still count.
    pub async fn overdue(&self) -> Result<BTreeSet<EventKey>, ConvergeError> {
        let now_ms = self.parts.clock.now_ms();
        let due = self.parts.store.due(now_ms, DUE_MAX).await?;
        let mut events: BTreeSet<EventKey> = due.into_iter().map(|due| due.event).collect();
        match self.news().await {
            Ok(news) => events.extend(news),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "news were not looked for"),
        }
        Ok(events)
    }

    async fn news(&self) -> Result<BTreeSet<EventKey>, ConvergeError> {
        let mut rooms = BTreeMap::new();
        for event in self.parts.store.events().await? {
            for room in self.parts.store.event(&event).await?.into_iter().flat_map(|event| event.rooms) {
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
