//! What the table tells: the configuration, what is parked, due, lost or waited for.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use usher_domain::{EventKey, ports::Clock as _};
use usher_lambda::{Document, Machine, telemetry::Chain};
use usher_store::{Recovery, RoomRecord, RoomState, Store, StoreError};

use super::Check;
use crate::stack::in_utc;

/// Counted up to here.
const MANY: usize = 10_000;
const EVENTS_AT_ONCE: usize = 16;
/// The sweep looks every minute; what is due for longer than this is not looked at.
const OVERDUE_MS: u64 = 10 * 60 * 1000;

pub(super) async fn look(store: &Store) -> Vec<Check> {
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

async fn configuration(store: &Store) -> Result<Check, StoreError> {
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

async fn parked(store: &Store) -> Result<Check, StoreError> {
    Ok(match store.parked_count(MANY).await? {
        0 => Check::ok("parked", "nothing"),
        count => Check::warn("parked", format!("{count}"), "`usher parked list` tells why; then retry or drop them"),
    })
}

async fn due(store: &Store) -> Result<Check, StoreError> {
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
    /// Rooms that wait for a welcome.
    awaiting: usize,
    waiting: usize,
}

async fn events(store: &Store) -> Result<Vec<Check>, StoreError> {
    let events = store.events().await?;
    let count = events.len();
    let sums: Vec<Sums> =
        stream::iter(events).map(|event| of_event(store, event)).buffer_unordered(EVENTS_AT_ONCE).try_collect().await?;
    let sum = |part: fn(&Sums) -> usize| sums.iter().map(part).sum::<usize>();
    let rooms = format!("{} of {count} events", sum(|sums| sums.rooms));
    let rooms = match sum(|sums| sums.lost) {
        0 => Check::ok("rooms", rooms),
        lost => {
            let fix = "`usher rooms` tells why; the sweep makes a successor: does it run?";
            Check::warn("rooms", format!("{rooms}, {lost} lost without a successor"), fix)
        }
    };
    let waiting =
        Check::ok("waiting", format!("{} wallets, for their first XMTP inbox or device", sum(|sums| sums.waiting)));
    let recovery = recovery(store.recovery().await?.as_ref(), sum(|sums| sums.awaiting));
    Ok(vec![rooms, recovery, waiting])
}

/// Whether usher's installation is being replaced, and whether rooms wait for that.
fn recovery(recovery: Option<&Recovery>, awaiting: usize) -> Check {
    let name = "recovery";
    let rooms = format!("{awaiting} rooms wait until a member's client lets usher in again");
    match (recovery, awaiting) {
        (None, 0) => Check::ok(name, "none is under way"),
        (None, _) => Check::warn(name, rooms, "`usher recover --begin`"),
        (Some(recovery), _) => {
            let seen = format!("under way since {}; {rooms}", in_utc(recovery.since_ms));
            Check::warn(name, seen, "`usher recover` goes on with it, and with --give-up-after gives rooms up")
        }
    }
}

async fn of_event(store: &Store, event: EventKey) -> Result<Sums, StoreError> {
    let Some(record) = store.event(&event).await? else { return Ok(Sums::default()) };
    let succeeded = |group| record.rooms.iter().any(|room| room.succeeds == Some(group));
    let is_lost = |state: &RoomState| matches!(state, RoomState::Lost { .. });
    let lost = record.rooms.iter().filter(|room| is_lost(&room.state) && !succeeded(room.group)).count();
    let is_awaiting = |room: &&RoomRecord| matches!(room.state, RoomState::AwaitingWelcome { .. });
    let awaiting = record.rooms.iter().filter(is_awaiting).count();
    let rooms = record.rooms.iter().filter(|room| !is_lost(&room.state)).count();
    let waiting = match &record.minted {
        Some(minted) => store.standing(&minted.incarnation).await?.waiting.len(),
        None => 0,
    };
    Ok(Sums { rooms, lost, awaiting, waiting })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use usher_domain::GroupId;
    use usher_store::parked::ParkedId;

    use super::*;
    use crate::{
        doctor::Status,
        testing::{mint, store},
    };

    async fn write_room(store: &Store, event: &EventKey, number: u8, state: RoomState, succeeds: u8) {
        let minted = store.event(event).await.unwrap().unwrap().minted.unwrap();
        let room = RoomRecord {
            number: number.into(),
            group: GroupId([number; 16]),
            incarnation: minted.incarnation,
            state,
            succeeds: (succeeds > 0).then_some(GroupId([succeeds; 16])),
            seen: 0,
            unexplained_removals: 0,
            repaired_ms: BTreeMap::new(),
            healing: None,
            outbox_since_ms: None,
        };
        store.table().write(&room.write()).await.unwrap();
    }

    /// The checks by their names.
    async fn looked(store: &Store) -> BTreeMap<String, (Status, String)> {
        let checks = look(store).await;
        for check in &checks {
            assert_eq!(check.status == Status::Ok, check.fix.is_none(), "{check:?}");
        }
        checks.into_iter().map(|check| (check.check, (check.status, check.seen))).collect()
    }

    fn saw(checks: &BTreeMap<String, (Status, String)>, name: &str) -> (Status, String) {
        checks.get(name).unwrap_or_else(|| panic!("{name} in {checks:?}")).clone()
    }

    #[tokio::test]
    async fn work_that_nobody_did_is_a_warning() {
        let fresh = store(OVERDUE_MS - 60_000);
        mint(&fresh).await;
        assert_eq!(saw(&looked(&fresh).await, "due"), (Status::Ok, "1 events".to_owned()));
        let late = store(OVERDUE_MS + 60_000);
        mint(&late).await;
        let due = "1 events, 1 of them for more than 10 minutes".to_owned();
        assert_eq!(saw(&looked(&late).await, "due"), (Status::Warn, due));
    }

    #[tokio::test]
    async fn what_is_parked_is_a_warning() {
        let store = store(0);
        assert_eq!(saw(&looked(&store).await, "parked"), (Status::Ok, "nothing".to_owned()));
        store.park(ParkedId::Body { digest: [1; 32].into() }, "it is no JSON", "{").await.unwrap();
        assert_eq!(saw(&looked(&store).await, "parked"), (Status::Warn, "1".to_owned()));
    }

    #[tokio::test]
    async fn a_lost_room_is_a_warning_until_it_has_a_successor() {
        let store = store(0);
        let event = mint(&store).await;
        let lost = RoomState::Lost { reason: "rolled back".to_owned() };
        write_room(&store, &event, 1, lost, 0).await;
        let seen = "0 of 1 events, 1 lost without a successor".to_owned();
        assert_eq!(saw(&looked(&store).await, "rooms"), (Status::Warn, seen));
        write_room(&store, &event, 2, RoomState::Active, 1).await;
        assert_eq!(saw(&looked(&store).await, "rooms"), (Status::Ok, "1 of 1 events".to_owned()));
    }

    #[tokio::test]
    async fn a_room_that_waits_for_a_welcome_is_a_warning_and_so_is_a_recovery() {
        let store = store(0);
        let event = mint(&store).await;
        assert_eq!(saw(&looked(&store).await, "recovery"), (Status::Ok, "none is under way".to_owned()));
        write_room(&store, &event, 1, RoomState::AwaitingWelcome { since_ms: 1 }, 0).await;
        let waits = "1 rooms wait until a member's client lets usher in again".to_owned();
        assert_eq!(saw(&looked(&store).await, "recovery"), (Status::Warn, waits.clone()));
        let recovery = Recovery { since_ms: 0, replaced: [].into() };
        store.table().write(&recovery.begin()).await.unwrap();
        let under_way = format!("under way since 1970-01-01T00:00:00Z; {waits}");
        assert_eq!(saw(&looked(&store).await, "recovery"), (Status::Warn, under_way));
    }

    #[tokio::test]
    async fn a_configuration_that_is_missing_or_spoilt_is_a_failure() {
        let store = store(0);
        assert_eq!(configuration(&store).await.unwrap().status, Status::Fail);
        store.put_configuration("{}", None).await.unwrap();
        let spoilt = configuration(&store).await.unwrap();
        assert!(spoilt.status == Status::Fail && spoilt.seen.contains("missing field"), "{spoilt:?}");
        store.put_configuration(r#"{"version":1,"chains":{}}"#, Some(1)).await.unwrap();
        assert_eq!(configuration(&store).await.unwrap().status, Status::Warn);
    }
}
