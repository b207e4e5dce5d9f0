//! `usher rooms`: what the table says of the rooms.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use futures::future::try_join_all;
use serde::Serialize;
use usher_domain::{EventKey, Incarnation, ports::Clock as _};
use usher_doorkeeper::{RoomStatus, SeatStatus};
use usher_lambda::Machine;
use usher_store::{EventRecord, Owner, RoomRecord, RoomState, Standing, Store};

use crate::{Failure, print, stack::Stack};

/// Parked logs are counted up to here.
const PARKED_MAX: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this event
    #[arg(long, value_name = "CHAIN:FACTORY:ID")]
    event: Option<EventKey>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stack: Stack,
}

#[derive(Debug, Serialize)]
struct Report {
    events: Vec<Event>,
    /// Logs and bodies that an operator should look at.
    parked: usize,
}

#[derive(Debug, Serialize)]
struct Event {
    event: EventKey,
    /// Live mints contradict each other, so the event has no incarnation that counts.
    disputed: bool,
    /// How often what should be has changed.
    generation: u64,
    /// The newest generation that the rooms were equal to.
    converged_generation: Option<u64>,
    /// When it is looked at again, in milliseconds since 1970.
    due_at_ms: Option<u64>,
    incarnations: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    incarnation: Incarnation,
    /// Whether it is the one that counts.
    current: bool,
    rooms: Vec<Room>,
    waiting: Vec<Waiting>,
}

#[derive(Debug, Serialize)]
struct Room {
    number: u32,
    group: String,
    #[serde(flatten)]
    state: RoomState,
    /// The lost room whose seats it takes.
    succeeds: Option<String>,
    /// The room that takes its seats, if it is lost and that room was made.
    successor: Option<String>,
    /// As of the last time that the room's state was saved; none if it never was. A lost room's is not saved again.
    status: Option<RoomStatus>,
}

#[derive(Debug, Serialize)]
struct Waiting {
    wallet: String,
    reason: String,
    next_try_ms: u64,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let deployment = args.stack.reach().await?;
    let store = deployment.store();
    let parked = store.parked_count(PARKED_MAX).await.map_err(|error| deployment.unreachable(error))?;
    let report = Report { events: events(&store, args.event).await?, parked };
    print(&if args.json { serde_json::to_string(&report)? } else { text(&report) });
    Ok(())
}

async fn events(store: &Store, only: Option<EventKey>) -> Result<Vec<Event>, Failure> {
    let keys = match only {
        Some(event) => vec![event],
        None => store.events().await?,
    };
    let mut events = Vec::new();
    for key in keys {
        match store.event(&key).await? {
            Some(record) => events.push(event(store, record).await?),
            None if only.is_some() => return Err(format!("no event {key} is known").into()),
            None => {}
        }
    }
    Ok(events)
}

async fn event(store: &Store, record: EventRecord) -> Result<Event, Failure> {
    let current = record.minted.as_ref().map(|minted| minted.incarnation);
    let known: BTreeSet<_> = record.rooms.iter().map(|room| room.incarnation).chain(current).collect();
    let mut incarnations = Vec::new();
    for incarnation in known {
        let standing = store.standing(&incarnation).await?;
        let rooms = record.rooms.iter().filter(|room| room.incarnation == incarnation);
        let rooms = try_join_all(rooms.map(|room| self::room(store, room, &record.rooms))).await?;
        incarnations.push(Shown {
            incarnation,
            current: current == Some(incarnation),
            rooms,
            waiting: waiting(&standing),
        });
    }
    Ok(Event {
        event: record.event,
        disputed: record.disputed,
        generation: record.generation,
        converged_generation: record.converged_generation,
        due_at_ms: record.due_at_ms,
        incarnations,
    })
}

async fn room(store: &Store, record: &RoomRecord, all: &[RoomRecord]) -> Result<Room, Failure> {
    let status = store.status(&Owner::Room(record.group)).await?;
    Ok(Room {
        number: record.number,
        group: record.group.to_string(),
        state: record.state.clone(),
        succeeds: record.succeeds.map(|group| group.to_string()),
        successor: all.iter().find(|other| other.succeeds == Some(record.group)).map(|other| other.group.to_string()),
        // Somebody may have put another head there: that is why the room is lost, and no reason to show nothing.
        status: status.and_then(|status| serde_json::from_str(&status).ok()),
    })
}

fn waiting(standing: &Standing) -> Vec<Waiting> {
    let one = |waiting: &usher_store::standing::Waiting| Waiting {
        wallet: format!("{:#x}", waiting.wallet),
        reason: waiting.reason.clone(),
        next_try_ms: waiting.next_try_ms,
    };
    standing.waiting.iter().map(one).collect()
}

fn text(report: &Report) -> String {
    let now_ms = Machine.now_ms();
    let mut text: Vec<_> = report.events.iter().map(|event| event_table(event, now_ms).to_string()).collect();
    if text.is_empty() {
        text.push("no events".to_owned());
    }
    let or_more = if report.parked < PARKED_MAX { "" } else { " or more" };
    text.push(format!("parked: {}{or_more}", report.parked));
    text.join("\n")
}

fn event_table(event: &Event, now_ms: u64) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["event".to_owned(), event.event.to_string()]);
    table.add_row(["state", &state(event, now_ms)]);
    for Shown { incarnation, current, rooms, waiting } in &event.incarnations {
        let counts = if *current { "" } else { "\n(of a mint that does not count any more)" };
        let Incarnation { creator, kiosk, transaction, .. } = incarnation;
        let minted = format!("minted in {transaction:#x}\nby {creator:#x}\nkiosk {kiosk:#x}{counts}");
        table.add_row(["incarnation", &minted]);
        for room in rooms {
            table.add_row([format!("room {}", room.number), room_text(room)]);
            table.add_row(["members".to_owned(), members(room.status.as_ref())]);
        }
        let lines: BTreeMap<_, _> = waiting.iter().map(|one| (&one.wallet, &one.reason)).collect();
        let lines: Vec<_> = lines.iter().map(|(wallet, reason)| format!("{wallet} {reason}")).collect();
        table.add_row(["waiting".to_owned(), if lines.is_empty() { "nobody".to_owned() } else { lines.join("\n") }]);
    }
    table
}

fn room_text(room: &Room) -> String {
    let lost = match (&room.state, &room.successor) {
        (RoomState::Active, _) => String::new(),
        (RoomState::AwaitingWelcome { .. }, _) => " awaits a member's client that lets usher in again".to_owned(),
        (RoomState::Lost { reason }, Some(successor)) => format!(" LOST: {reason}\nits seats are in {successor}"),
        (RoomState::Lost { reason }, None) => format!(" LOST: {reason}\nits successor is not made yet"),
    };
    let succeeds = room.succeeds.as_ref().map(|lost| format!("\nin place of {lost}")).unwrap_or_default();
    format!("{}{lost}{succeeds}", room.group)
}

fn members(status: Option<&RoomStatus>) -> String {
    let one = |seat: &SeatStatus| {
        let wallets: String = seat.wallets.iter().map(|wallet| format!("\n  {wallet:#x}")).collect();
        format!("{} {}{wallets}", seat.inbox, seat.role)
    };
    let Some(status) = status else { return "not known yet".to_owned() };
    status.seats.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn state(event: &Event, now_ms: u64) -> String {
    let reached = match event.converged_generation {
        Some(reached) => format!("generation {reached} of {} reached", event.generation),
        None => format!("generation 0 of {} reached", event.generation),
    };
    let due = match event.due_at_ms {
        None => String::new(),
        Some(at_ms) if at_ms <= now_ms => ", due".to_owned(),
        Some(at_ms) => format!(", due in {} s", (at_ms - now_ms).div_ceil(1000)),
    };
    let disputed = if event.disputed { ", its mints are disputed" } else { "" };
    format!("{reached}{due}{disputed}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use usher_domain::GroupId;
    use usher_store::{
        Table,
        memory::MemoryTable,
        table::{Item, Key, Write},
    };

    use super::*;

    #[tokio::test]
    async fn a_lost_room_is_shown_whatever_lies_where_its_state_was() {
        let table = Arc::new(MemoryTable::new());
        let store = Store::new(table.clone(), Arc::new(Machine), Arc::new(Machine));
        let incarnation = Incarnation {
            event: "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse().unwrap(),
            creator: Default::default(),
            kiosk: Default::default(),
            transaction: Default::default(),
        };
        let record = |number: u8, state: RoomState, succeeds: Option<GroupId>| -> RoomRecord {
            let group = GroupId([number; 16]);
            let record = json!({
                "number": number, "group": group, "incarnation": incarnation, "state": state, "succeeds": succeeds,
                "seen": 0,
            });
            serde_json::from_value(record).unwrap()
        };
        let lost = RoomState::Lost { reason: "the snapshot was sealed with another key".to_owned() };
        let all = [record(0, lost, None), record(1, RoomState::Active, Some(GroupId([0; 16])))];
        let head = Key::new(Owner::Room(all[0].group).to_string(), "head");
        table.write(&Write::put(head, Item::from([("status".into(), "the account's".into())]))).await.unwrap();
        let (lost, heir) = (room(&store, &all[0], &all).await.unwrap(), room(&store, &all[1], &all).await.unwrap());
        assert_eq!((lost.status, lost.successor), (None, Some(heir.group)));
        assert_eq!((heir.succeeds, heir.successor), (Some(lost.group), None));
    }

    #[test]
    fn a_lost_room_says_why_and_names_its_successor() {
        let lost = RoomState::Lost { reason: "rolled back".to_owned() };
        let room = |group: &str, state, succeeds: Option<&str>, successor: Option<&str>| Room {
            number: 0,
            group: group.to_owned(),
            state,
            succeeds: succeeds.map(str::to_owned),
            successor: successor.map(str::to_owned),
            status: None,
        };
        assert_eq!(room_text(&room("aa", RoomState::Active, None, None)), "aa");
        assert_eq!(
            room_text(&room("aa", lost.clone(), None, None)),
            "aa LOST: rolled back\nits successor is not made yet"
        );
        assert_eq!(room_text(&room("aa", lost.clone(), None, Some("bb"))), "aa LOST: rolled back\nits seats are in bb");
        assert_eq!(
            room_text(&room("bb", lost, Some("aa"), Some("cc"))),
            "bb LOST: rolled back\nits seats are in cc\nin place of aa"
        );
        assert_eq!(room_text(&room("cc", RoomState::Active, Some("bb"), None)), "cc\nin place of bb");
    }
}
