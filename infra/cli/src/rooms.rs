//! `usher rooms`: what the table says of the rooms.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use futures::future::try_join_all;
use serde::Serialize;
use usher_domain::{EventKey, Incarnation, ports::Clock as _};
use usher_doorkeeper::{RoomStatus, SeatStatus};
use usher_lambda::Machine;
use usher_store::{EventRecord, Owner, RoomRecord, RoomState, Standing, Store, dynamo::DynamoTable};

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
    /// As of the last time that the room's state was saved; none if it never was.
    status: Option<RoomStatus>,
}

#[derive(Debug, Serialize)]
struct Waiting {
    wallet: String,
    reason: String,
    next_try_ms: u64,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let store = args.stack.store();
    let parked = store.parked_count(PARKED_MAX).await.map_err(|error| args.stack.unreachable(error))?;
    let report = Report { events: events(&store, args.event).await?, parked };
    print(&if args.json { serde_json::to_string(&report)? } else { text(&report) });
    Ok(())
}

async fn events(store: &Store<DynamoTable>, only: Option<EventKey>) -> Result<Vec<Event>, Failure> {
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

async fn event(store: &Store<DynamoTable>, record: EventRecord) -> Result<Event, Failure> {
    let current = record.minted.as_ref().map(|minted| minted.incarnation);
    let known: BTreeSet<_> = record.rooms.iter().map(|room| room.incarnation).chain(current).collect();
    let mut incarnations = Vec::new();
    for incarnation in known {
        let standing = store.standing(&incarnation).await?;
        let rooms = record.rooms.iter().filter(|room| room.incarnation == incarnation);
        let rooms = try_join_all(rooms.map(|record| room(store, record))).await?;
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

async fn room(store: &Store<DynamoTable>, record: &RoomRecord) -> Result<Room, Failure> {
    let status = store.status(&Owner::Room(record.group)).await?;
    Ok(Room {
        number: record.number,
        group: record.group.to_string(),
        state: record.state.clone(),
        status: status.map(|status| serde_json::from_str(&status)).transpose()?,
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
    text.push(format!("parked: {}", report.parked));
    text.join("\n")
}

fn event_table(event: &Event, now_ms: u64) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["event".to_owned(), event.event.to_string()]);
    table.add_row(["state", &state(event, now_ms)]);
    for Shown { incarnation, current, rooms, waiting } in &event.incarnations {
        let counts = if *current { "" } else { "\n(of a mint that does not count any more)" };
        let Incarnation { creator, kiosk, transaction, .. } = incarnation;
        let minted = format!("minted in {transaction:#x}\nby {creator:#x}\nkiosk {kiosk:#x}{counts}");
        table.add_row(["incarnation", &minted]);
        for room in rooms {
            let lost = match &room.state {
                RoomState::Active => String::new(),
                RoomState::Lost { reason } => format!(" LOST: {reason}"),
            };
            table.add_row([format!("room {}", room.number), format!("{}{lost}", room.group)]);
            table.add_row(["members".to_owned(), members(room.status.as_ref())]);
        }
        let lines: BTreeMap<_, _> = waiting.iter().map(|one| (&one.wallet, &one.reason)).collect();
        let lines: Vec<_> = lines.iter().map(|(wallet, reason)| format!("{wallet} {reason}")).collect();
        table.add_row(["waiting".to_owned(), if lines.is_empty() { "nobody".to_owned() } else { lines.join("\n") }]);
    }
    table
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
