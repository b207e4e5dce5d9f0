//! What the table tells: the configuration, what is parked, due, lost or waited for.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use usher_domain::{EventKey, ports::Clock as _};
use usher_lambda::{Document, Machine, telemetry::Chain};
use usher_store::{RoomState, Store, StoreError, Table};

use super::Check;

/// Counted up to here.
const MANY: usize = 10_000;
const EVENTS_AT_ONCE: usize = 16;
/// The sweep looks every minute; what is due for longer than this is not looked at.
const OVERDUE_MS: u64 = 10 * 60 * 1000;

pub(super) async fn look<T: Table>(store: &Store<T>) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, check) in
        [("configuration", configuration(store).await), ("parked", parked(store).await), ("due", due(store).await)]
    {
        checks.push(check.unwrap_or_else(|error| unread(name, &error)));
    }
    checks.extend(events(store).await.unwrap_or_else(|error| vec![unread("events", &error)]));
    checks
}

fn unread(name: &str, error: &StoreError) -> Check {
    Check::fail(name, Chain(error).to_string(), "see whether the table may be read")
}

async fn configuration<T: Table>(store: &Store<T>) -> Result<Check, StoreError> {
    let Some(stored) = store.configuration().await? else {
        let seen = "there is none: every message comes again, and at last is a dead letter";
        return Ok(Check::fail("configuration", seen, "`usher config put FILE`"));
    };
    let revision = stored.revision;
    Ok(match Document::parse(&stored.document) {
        Ok(document) => match document.chains.iter().map(|(chain, _)| chain.to_string()).collect::<Vec<_>>() {
            chains if chains.is_empty() => {
                let seen = format!("revision {revision} names no chain: every log is parked");
                Check::warn("configuration", seen, "name a chain and its factories, then `usher config put FILE`")
            }
            chains => Check::ok("configuration", format!("revision {revision}, chains {}", chains.join(", "))),
        },
        Err(error) => {
            let seen = format!("revision {revision} cannot be used: {}", Chain(&error));
            Check::fail("configuration", seen, "`usher config put FILE`")
        }
    })
}

async fn parked<T: Table>(store: &Store<T>) -> Result<Check, StoreError> {
    Ok(match store.parked_count(MANY).await? {
        0 => Check::ok("parked", "nothing"),
        count => Check::warn("parked", format!("{count}"), "`usher parked list` tells why; then retry or drop them"),
    })
}

async fn due<T: Table>(store: &Store<T>) -> Result<Check, StoreError> {
    let now_ms = Machine.now_ms();
    let due = store.due(now_ms, MANY).await?;
    let overdue = due.iter().filter(|due| now_ms.saturating_sub(due.at_ms) > OVERDUE_MS).count();
    let seen = format!("{} events", due.len());
    if overdue == 0 {
        return Ok(Check::ok("due", seen));
    }
    let seen = format!("{seen}, {overdue} of them for more than 10 minutes");
    Ok(Check::warn("due", seen, "see the sweep's log: does it run, and what keeps these events from their end?"))
}

/// What one event adds to the sums.
#[derive(Default)]
struct Sums {
    rooms: usize,
    /// Lost rooms that no other has taken the seats of.
    lost: usize,
    waiting: usize,
}

async fn events<T: Table>(store: &Store<T>) -> Result<Vec<Check>, StoreError> {
    let events = store.events().await?;
    let count = events.len();
    let sums: Vec<Sums> =
        stream::iter(events).map(|event| of_event(store, event)).buffer_unordered(EVENTS_AT_ONCE).try_collect().await?;
    let sum = |part: fn(&Sums) -> usize| sums.iter().map(part).sum::<usize>();
    let rooms = format!("{} of {count} events", sum(|sums| sums.rooms));
    let rooms = match sum(|sums| sums.lost) {
        0 => Check::ok("rooms", rooms),
        lost => {
            let fix = "`usher rooms` tells why; the sweep makes a successor, `usher recover` tries to get a room back";
            Check::warn("rooms", format!("{rooms}, {lost} lost without a successor"), fix)
        }
    };
    let waiting =
        Check::ok("waiting", format!("{} wallets, for their first XMTP inbox or device", sum(|sums| sums.waiting)));
    Ok(vec![rooms, waiting])
}

async fn of_event<T: Table>(store: &Store<T>, event: EventKey) -> Result<Sums, StoreError> {
    let Some(record) = store.event(&event).await? else { return Ok(Sums::default()) };
    let succeeded = |group| record.rooms.iter().any(|room| room.succeeds == Some(group));
    let is_lost = |state: &RoomState| matches!(state, RoomState::Lost { .. });
    let lost = record.rooms.iter().filter(|room| is_lost(&room.state) && !succeeded(room.group)).count();
    let rooms = record.rooms.iter().filter(|room| !is_lost(&room.state)).count();
    let waiting = match &record.minted {
        Some(minted) => store.standing(&minted.incarnation).await?.waiting.len(),
        None => 0,
    };
    Ok(Sums { rooms, lost, waiting })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use usher_store::memory::MemoryTable;

    use super::*;
    use crate::doctor::Status;

    #[tokio::test]
    async fn a_configuration_that_is_missing_or_spoilt_is_a_failure() {
        let store = Store::new(Arc::new(MemoryTable::new()), Arc::new(Machine), Arc::new(Machine));
        assert_eq!(configuration(&store).await.unwrap().status, Status::Fail);
        store.put_configuration("{}", None).await.unwrap();
        let spoilt = configuration(&store).await.unwrap();
        assert!(spoilt.status == Status::Fail && spoilt.seen.contains("missing field"), "{spoilt:?}");
        store.put_configuration(r#"{"version":1,"chains":{}}"#, Some(1)).await.unwrap();
        assert_eq!(configuration(&store).await.unwrap().status, Status::Warn);
    }
}
