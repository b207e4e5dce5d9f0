//! What the clock finds: events that are due, and rooms with news.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::LocalBoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use usher_domain::EventKey;
use usher_store::RoomState;

use crate::{ConvergeError, Doorkeeper};

/// How many due events, or active rooms, one look takes note of. 20,000 rooms are 20 calls to XMTP.
const LOOKED_AT_MAX: usize = 20_000;
/// Among how many due events, those due longest, the oldest work is looked for.
const OLDEST_AMONG: usize = 100;
/// How many of them are read at a time.
const READ_AT_ONCE: usize = 16;

/// The oldest unfinished work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Oldest {
    /// Since when an event has been due or behind the ledger, in milliseconds since 1970.
    pub due_since_ms: Option<u64>,
    /// Since when a room has had a commit or welcomes that the network may not have, in milliseconds since 1970.
    pub outbox_since_ms: Option<u64>,
}

impl Doorkeeper {
    /// The events that are due.
    pub async fn due(&self) -> Result<BTreeSet<EventKey>, ConvergeError> {
        let due = self.parts.store.due(self.parts.clock.now_ms(), LOOKED_AT_MAX).await?;
        Ok(due.into_iter().map(|due| due.event).collect())
    }

    /// The oldest unfinished work among the events that have been due longest. A new fact has its event due anew; since
    /// when it has been behind is kept apart.
    pub fn oldest(&self) -> LocalBoxFuture<'_, Result<Oldest, ConvergeError>> {
        Box::pin(async move {
            let due = self.parts.store.due(self.parts.clock.now_ms(), OLDEST_AMONG).await?;
            let records =
                stream::iter(&due).map(|due| self.parts.store.event(&due.event)).buffer_unordered(READ_AT_ONCE);
            let records: Vec<_> = records.try_collect().await?;
            let records = || records.iter().flatten();
            let active = records().flat_map(|record| &record.rooms).filter(|room| room.state == RoomState::Active);
            let behind = records().filter_map(|record| record.behind_since_ms);
            Ok(Oldest {
                due_since_ms: due.iter().map(|due| due.at_ms).chain(behind).min(),
                outbox_since_ms: active.filter_map(|room| room.outbox_since_ms).min(),
            })
        })
    }

    /// The events whose rooms have messages that nobody looked at: leave requests, others' commits, new devices. The
    /// index has all active rooms, and XMTP is asked for a thousand at once.
    pub fn with_news(&self) -> LocalBoxFuture<'_, Result<BTreeSet<EventKey>, ConvergeError>> {
        Box::pin(async move {
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
        })
    }
}
