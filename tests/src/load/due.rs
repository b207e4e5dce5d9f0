//! Ten thousand events due at once, and as many rooms that may have news.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy_primitives::{Address, B256, keccak256};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use usher_chain::{Chains, Reading};
use usher_domain::{EventKey, Fact, GroupId, Incarnation, ports::Clock as _};
use usher_store::{
    RoomRecord, RoomState, Store, Table as _,
    event::event_key,
    table::{DUE_AT_MS, DUE_SHARD, Step, TRANSACTION_WRITES_MAX, Write},
};

use super::{INVOCATION_MS_MAX, facts::Scene, within};
use crate::{
    haus::{CHAIN, Chain, Event, FACTORY},
    world::{AnyError, TestClock},
};

const AT_ONCE: usize = 16;
/// Rooms of events that nobody looks at.
const QUIET_FROM: u64 = 10_000_000;
/// The clock comes every minute.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is due.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// How many events are due whose mints were taken back: looking at them is all there is to do.
    pub events: usize,
    /// How many events are due that want a room.
    pub minted: usize,
    /// How many people made those in turn, and have XMTP clients; nobody else's wallet has an inbox.
    pub people: usize,
    /// How many more rooms are active.
    pub rooms: usize,
    /// How often the clock comes at most; all must be at rest then, unless it comes only once.
    pub looks: usize,
}

/// What became of it.
#[derive(Debug, Serialize)]
pub struct DueFigures {
    due_events: usize,
    /// In how many rooms those of the people sit who were asked what they see.
    seats_seen_by_members: usize,
    active_rooms: usize,
    looks: usize,
    /// Until nothing was due any more.
    seconds_to_rest: f64,
    still_due: usize,
    longest_look_ms: u128,
    invocations: u64,
    longest_invocation_ms: u64,
}

impl Due {
    /// Makes a stack with so much due and lets the clock come.
    pub async fn run(self) -> Result<DueFigures, AnyError> {
        let scene = Scene::start(&["--no-schedule"], self.people).await?;
        let store = scene.stack.store();
        let belong = self.seed(&store, &scene.people()).await?;

        let began = Instant::now();
        // Who waits for an inbox is due again later: that is not from before.
        let began_ms = TestClock::default().now_ms();
        let due_since_before = async || Ok::<_, AnyError>(store.due(began_ms, usize::from(u16::MAX)).await?.len());
        let (mut looks, mut longest_look_ms) = (0, 0);
        let all = due_since_before().await?;
        if all != self.events + self.minted {
            return Err(format!("{all} events are due").into());
        }
        let mut still_due = all;
        while looks < self.looks && still_due > 0 {
            let look_began = Instant::now();
            invoke_sweep(&scene.stack.ready.lambda_url).await?;
            longest_look_ms = longest_look_ms.max(look_began.elapsed().as_millis());
            looks += 1;
            // The next minute, or sooner if nobody has anything to do.
            let nudged = within(Duration::from_secs(600), "the nudges are handled", async || {
                Ok((scene.stack.messages_in("nudge").await? == 0 || look_began.elapsed() >= LOOK_EVERY).then_some(()))
            });
            nudged.await?;
            still_due = due_since_before().await?;
        }
        let seconds_to_rest = began.elapsed().as_secs_f64();
        let figures = scene.book.figures();
        figures.check_invocations()?;
        if longest_look_ms >= u128::from(INVOCATION_MS_MAX) || self.looks > 1 && still_due > 0 || still_due == all {
            return Err(format!("the longest look took {longest_look_ms} ms, {still_due} are still due").into());
        }
        scene.check_nothing_lost().await?;
        // At rest all have the rooms that they wanted, with the people who made them.
        let seats_seen_by_members = match still_due {
            0 => {
                scene.until_right(&belong, LOOK_EVERY).await?;
                scene.check_witnesses(&belong).await?
            }
            _ => 0,
        };
        if still_due == 0 && self.people > 0 && seats_seen_by_members == 0 {
            return Err("nobody who made an event sits in its room".into());
        }
        Ok(DueFigures {
            due_events: all,
            seats_seen_by_members,
            active_rooms: self.rooms,
            looks,
            seconds_to_rest,
            still_due,
            longest_look_ms,
            invocations: figures.invocations,
            longest_invocation_ms: figures.longest_invocation_ms,
        })
    }

    /// Makes what is due; returns who belongs to the events that want a room.
    async fn seed(self, store: &Store, people: &[Address]) -> Result<BTreeMap<EventKey, BTreeSet<Address>>, AnyError> {
        let minted = u64::try_from(self.minted)?;
        let events = minted..minted + u64::try_from(self.events)?;
        let rooms = QUIET_FROM..QUIET_FROM + u64::try_from(self.rooms)?;
        let writes: Vec<Write> = events.map(due_event).chain(rooms.map(|id| room(id).write())).collect();
        let written = stream::iter(writes.chunks(TRANSACTION_WRITES_MAX)).map(Ok);
        written.try_for_each_concurrent(AT_ONCE, |writes| store.table().transact(writes)).await?;
        let (mut chain, mut mints, mut belong) = (Chain::default(), Vec::new(), BTreeMap::new());
        // Every other event is made by one of the people.
        let mut makers = people.iter().cycle();
        for id in 0..minted {
            let maker = makers.next().filter(|_| id % 2 == 0).copied();
            let event = Event::new(id, maker.unwrap_or_else(|| stranger(id)));
            mints.push(mint(&mut chain, &event)?);
            belong.insert(event.key(), BTreeSet::from([event.creator]));
        }
        let recorded = stream::iter(mints).map(|fact| async move { store.record(&[fact]).await.due.len() });
        let due: usize = recorded.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().sum();
        if due == self.minted { Ok(belong) } else { Err(format!("{due} mints were recorded").into()) }
    }
}

fn key(id: u64) -> EventKey {
    Event::new(id, Address::ZERO).key()
}

/// An event whose mints were all taken back, as the ledger keeps it, due since 1970.
fn due_event(id: u64) -> Write {
    let shard = (id % u64::from(usher_store::lease::DUE_SHARDS)).to_string();
    let steps = vec![Step::set("generation", 2), Step::set(DUE_AT_MS, id), Step::set(DUE_SHARD, shard)];
    Write::update(event_key(&key(id)), steps)
}

/// A room of a group that the node has never heard of.
fn room(id: u64) -> RoomRecord {
    let group = keccak256(id.to_be_bytes());
    let group = GroupId(group[..16].try_into().expect("16 of 32 bytes"));
    let incarnation = Incarnation { event: key(id), creator: FACTORY, kiosk: FACTORY, transaction: B256::ZERO };
    RoomRecord {
        number: 0,
        group,
        incarnation,
        state: RoomState::Active,
        succeeds: None,
        seen: 5,
        unexplained_removals: 0,
        repaired_ms: std::collections::BTreeMap::new(),
        healing: None,
        outbox_since_ms: None,
    }
}

/// Somebody without an inbox.
fn stranger(id: u64) -> Address {
    Address::from_word(keccak256(format!("creator {id}")))
}

fn mint(chain: &mut Chain, event: &Event) -> Result<Fact, AnyError> {
    let chains: Chains =
        serde_json::from_value(json!({ CHAIN.to_string(): { "trust": "queue", "factories": [FACTORY] } }))?;
    let body = json!({ "chainId": CHAIN, "logs": chain.mint(event).logs }).to_string();
    let fact = usher_chain::read(&body, &chains).into_iter().find_map(|reading| match reading {
        Reading::Fact(fact) => Some(fact),
        _ => None,
    });
    fact.ok_or_else(|| "a mint is a fact".into())
}

/// What EventBridge does every minute; waits for the end.
async fn invoke_sweep(lambda_url: &str) -> Result<(), AnyError> {
    let address = lambda_url.trim_start_matches("http://").trim_end_matches('/');
    let body = include_str!("../../../events/sweep.schedule.json");
    let request = format!(
        "POST /2015-03-31/functions/sweep/invocations HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let lower = answer.to_lowercase();
    if lower.starts_with("http/1.1 200") && !lower.contains("x-amz-function-error") {
        Ok(())
    } else {
        Err(answer.into())
    }
}
