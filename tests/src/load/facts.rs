//! A season's facts, shuffled and tripled, on three queues at once; and a holder killed at work.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy_primitives::Address;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};
use usher_domain::EventKey;
use usher_doorkeeper::RoomStatus;
use usher_localnet::person::Person;
use usher_store::{Owner, RoomState, Store};
use usher_xmtp::GroupId;

use super::{LogBook, VERBOSITY, per, story, within};
use crate::{
    dev_stack::DevStack,
    haus::{Chain, Event},
    world::AnyError,
};

/// Every message comes so often.
const COPIES: usize = 3;
const QUEUES: [&str; 3] = ["mint", "purchase", "refund"];
const AT_ONCE: usize = 16;
/// So many of the people are asked what they see.
const WITNESSES: usize = 4;
/// Events of their own for those who are killed, beyond those of the season.
const KILLED_FROM: u64 = 1_000_000;
const KILLS_TRIED_MAX: u64 = 20;

/// What is delivered.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// How many events.
    pub events: usize,
    /// How many facts, mints included.
    pub facts: usize,
    /// How many people with XMTP clients; everybody else has a wallet and no inbox.
    pub people: usize,
    /// What happens and in which order it is told.
    pub seed: u64,
    /// How long it may take.
    pub patience: Duration,
}

/// What became of it.
#[derive(Debug, Serialize)]
pub struct FactsFigures {
    events: usize,
    facts: usize,
    messages: usize,
    /// From the first message sent to the last one handled.
    seconds_to_ledger: f64,
    /// From the first message sent to the last room right.
    seconds_to_rooms: f64,
    facts_per_second: f64,
    commits: u64,
    commits_per_fact: f64,
    read_units_per_fact: f64,
    write_units_per_fact: f64,
    /// In how many rooms those of the people sit who were asked what they see.
    seats_seen_by_members: usize,
    invocations: u64,
    longest_invocation_ms: u64,
}

/// What became of the killed holders.
#[derive(Debug, Serialize)]
pub struct KilledFigures {
    /// How many processes were killed at once.
    killed_processes: usize,
    /// From the kill to the room being right.
    seconds_from_killed_holder_to_convergence: f64,
}

/// A stack with people.
pub(super) struct Scene {
    pub(super) stack: DevStack,
    pub(super) book: LogBook,
    store: Store,
    /// By their wallets.
    inboxes: BTreeMap<Address, String>,
    /// Some of them, who say what they see.
    witnesses: Mutex<Vec<Person>>,
}

impl Scene {
    pub(super) async fn start(arguments: &[&str], people: usize) -> Result<Self, AnyError> {
        let book = LogBook::default();
        let noted = book.clone();
        let stack = DevStack::start_logged(arguments, VERBOSITY, move |line| noted.note(&line)).await?;
        let url = stack.ready.xmtp_url.as_str();
        let register = |number: usize| async move {
            let mut key = [7; 32];
            key[24..].copy_from_slice(&u64::try_from(number)?.to_be_bytes());
            Ok::<_, AnyError>(Person::register(&key, url).await?)
        };
        let people: Vec<Person> = stream::iter(0..people).map(register).buffered(AT_ONCE).try_collect().await?;
        let inboxes = people.iter().map(|person| Ok((person.address(), person.inbox()?.to_string())));
        let inboxes = inboxes.collect::<Result<_, AnyError>>()?;
        let witnesses = Mutex::new(people.into_iter().take(WITNESSES).collect());
        Ok(Self { store: stack.store(), stack, book, inboxes, witnesses })
    }

    pub(super) fn people(&self) -> Vec<Address> {
        self.inboxes.keys().copied().collect()
    }

    /// Whether the event's one room seats exactly those of the wallets who have inboxes, and nothing is left to do.
    pub(super) async fn is_right(&self, event: &EventKey, belong: &BTreeSet<Address>) -> Result<bool, AnyError> {
        let Some(record) = self.store.event(event).await? else { return Ok(false) };
        let converged = record.converged_generation == Some(record.generation) && record.held.is_none();
        let [room] = &record.rooms[..] else { return Ok(false) };
        if !converged || room.state != RoomState::Active {
            return Ok(false);
        }
        let Some(status) = self.status(&Owner::Room(room.group)).await? else { return Ok(false) };
        let mut seated: BTreeSet<_> = status.seats.iter().map(|seat| seat.inbox.as_str()).collect();
        let usher_sits = seated.remove(self.stack.ready.inbox_id.as_str());
        let wanted: BTreeSet<_> =
            belong.iter().filter_map(|wallet| self.inboxes.get(wallet)).map(String::as_str).collect();
        Ok(usher_sits && seated == wanted)
    }

    async fn status(&self, owner: &Owner) -> Result<Option<RoomStatus>, AnyError> {
        let status = self.store.status(owner).await?;
        Ok(status.map(|status| serde_json::from_str(&status)).transpose()?)
    }

    /// Those of the events that are not right yet.
    pub(super) async fn wrong(
        &self,
        belong: &BTreeMap<EventKey, BTreeSet<Address>>,
    ) -> Result<Vec<EventKey>, AnyError> {
        let looked =
            stream::iter(belong).map(async |(event, belong)| Ok((*event, self.is_right(event, belong).await?)));
        let looked: Vec<(EventKey, bool)> =
            looked.buffered(AT_ONCE).try_collect::<Vec<_>>().await.map_err(|e: AnyError| e)?;
        Ok(looked.into_iter().filter(|(_, right)| !right).map(|(event, _)| event).collect())
    }

    /// What some of the people see: they sit in the rooms of the events that they belong to, with exactly those who belong
    /// there, and in no other any more. Returns in how many rooms they sit.
    pub(super) async fn check_witnesses(
        &self,
        belong: &BTreeMap<EventKey, BTreeSet<Address>>,
    ) -> Result<usize, AnyError> {
        let mut witnesses = self.witnesses.lock().await;
        for witness in witnesses.iter_mut() {
            witness.sync().await?;
        }
        let mut seats = 0;
        for (event, belong) in belong {
            let record = self.store.event(event).await?.ok_or("it is known")?;
            let [room] = &record.rooms[..] else { return Err(format!("{event} has not one room").into()) };
            let wanted = self.inboxes.iter().filter(|(wallet, _)| belong.contains(*wallet)).map(|(_, inbox)| inbox);
            let wanted: BTreeSet<&str> = wanted.map(String::as_str).chain([&*self.stack.ready.inbox_id]).collect();
            for witness in witnesses.iter() {
                let group = witness.group(GroupId(room.group.0)).ok().filter(|group| group.lost().is_none());
                let seen: Option<BTreeSet<String>> =
                    group.map(|group| group.members().keys().map(ToString::to_string).collect());
                let is_right = match &seen {
                    Some(seen) => {
                        belong.contains(&witness.address())
                            && seen.iter().map(String::as_str).eq(wanted.iter().copied())
                    }
                    None => !belong.contains(&witness.address()),
                };
                if !is_right {
                    return Err(format!("{event}: {} sees {seen:?} instead of {wanted:?}", witness.address()).into());
                }
                seats += usize::from(seen.is_some());
            }
        }
        Ok(seats)
    }

    /// The commits of all events' rooms: each moves its room by one epoch.
    pub(super) async fn commits(&self, events: impl Iterator<Item = &EventKey>) -> Result<u64, AnyError> {
        let mut commits = 0;
        for event in events {
            for room in self.store.event(event).await?.into_iter().flat_map(|record| record.rooms) {
                commits += self.status(&Owner::Room(room.group)).await?.map_or(0, |status| status.epoch);
            }
        }
        Ok(commits)
    }

    /// The ledger names exactly these wallets as the events' creators and holders.
    async fn check_ledger(&self, belong: &BTreeMap<EventKey, BTreeSet<Address>>) -> Result<(), AnyError> {
        for (event, wanted) in belong {
            let minted = self.store.event(event).await?.and_then(|record| record.minted).ok_or("it was minted")?;
            let tickets = self.store.tickets(&minted.incarnation.kiosk()).await?;
            let holders = tickets.iter().filter_map(|ticket| ticket.holding.holder);
            let named: BTreeSet<Address> = holders.chain([minted.incarnation.creator]).collect();
            if named != *wanted {
                return Err(format!("{event}: the ledger names {named:?} instead of {wanted:?}").into());
            }
        }
        Ok(())
    }

    /// No message of theirs was given up, and none lies parked.
    pub(super) async fn check_nothing_lost(&self) -> Result<(), AnyError> {
        for queue in ["mint-dlq", "purchase-dlq", "refund-dlq", "nudge-dlq"] {
            let dead = self.stack.messages_in(queue).await?;
            if dead > 0 {
                return Err(format!("{dead} messages in {queue}").into());
            }
        }
        match self.store.parked_count(1).await? {
            0 => Ok(()),
            _ => Err("something lies parked".into()),
        }
    }

    pub(super) async fn until_handled(&self, patience: Duration) -> Result<(), AnyError> {
        within(patience, "the queues of facts empty", async || {
            for queue in QUEUES {
                if self.stack.messages_in(queue).await? > 0 {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }

    pub(super) async fn until_right(
        &self,
        belong: &BTreeMap<EventKey, BTreeSet<Address>>,
        patience: Duration,
    ) -> Result<(), AnyError> {
        let mut wrong = Vec::new();
        let right = within(patience, "all rooms right", async || {
            wrong = self.wrong(belong).await?;
            Ok(wrong.is_empty().then_some(()))
        });
        right.await.map_err(|error| format!("{error}; wrong: {wrong:?}").into())
    }
}

impl Facts {
    /// Delivers the facts to a stack of their own, waits until every room is right, then kills a holder at work.
    pub async fn run(self) -> Result<(FactsFigures, KilledFigures), AnyError> {
        let scene = Scene::start(&[], self.people).await?;
        let delivered = self.deliver(&scene).await?;
        let killed = kill_a_holder(&scene, self.patience).await?;
        Ok((delivered, killed))
    }

    async fn deliver(self, scene: &Scene) -> Result<FactsFigures, AnyError> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let story = story::season(self.events, self.facts, &scene.people(), &mut rng)?;
        let mut messages: Vec<&String> = (0..COPIES).flat_map(|_| &story.bodies).collect();
        messages.shuffle(&mut rng);
        let mut queues: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (number, body) in messages.iter().enumerate() {
            queues.entry(QUEUES[number % QUEUES.len()]).or_default().push((*body).clone());
        }

        let began = Instant::now();
        let send =
            |(queue, bodies): (&'static str, Vec<String>)| async move { scene.stack.send_bodies(queue, &bodies).await };
        futures::future::try_join_all(queues.into_iter().map(send)).await?;
        scene.until_handled(self.patience).await?;
        let seconds_to_ledger = began.elapsed().as_secs_f64();
        scene.until_right(&story.belong, self.patience).await?;
        let seconds_to_rooms = began.elapsed().as_secs_f64();

        scene.check_ledger(&story.belong).await?;
        scene.check_nothing_lost().await?;
        let seats_seen_by_members = scene.check_witnesses(&story.belong).await?;
        if seats_seen_by_members == 0 {
            return Err("nobody who sees anything sits anywhere".into());
        }
        let figures = scene.book.figures();
        figures.check_invocations()?;
        let commits = scene.commits(story.belong.keys()).await?;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let facts = self.facts as f64;
        Ok(FactsFigures {
            events: self.events,
            facts: self.facts,
            messages: messages.len(),
            seconds_to_ledger,
            seconds_to_rooms,
            facts_per_second: facts / seconds_to_rooms,
            commits,
            commits_per_fact: per(commits, self.facts),
            read_units_per_fact: figures.read_units / facts,
            write_units_per_fact: figures.write_units / facts,
            seats_seen_by_members,
            invocations: figures.invocations,
            longest_invocation_ms: figures.longest_invocation_ms,
        })
    }
}

/// Sells a ticket of a new event, kills whoever holds that event, and waits for the buyer's seat.
async fn kill_a_holder(scene: &Scene, patience: Duration) -> Result<KilledFigures, AnyError> {
    let (mut chain, people) = (Chain::default(), scene.people());
    let [creator, buyer, ..] = people[..] else { return Err("two people are needed".into()) };
    for number in 0..KILLS_TRIED_MAX {
        let event = Event::new(KILLED_FROM + number, creator);
        scene.stack.send(&[chain.mint(&event)]).await?;
        let belong = BTreeMap::from([(event.key(), [creator].into())]);
        scene.until_right(&belong, patience).await?;

        let before = scene.store.event(&event.key()).await?.ok_or("it is known")?.fence;
        scene.stack.send(&[chain.purchase(&event, 1, buyer)]).await?;
        while scene.store.event(&event.key()).await?.ok_or("it is known")?.fence == before {
            tokio::task::yield_now().await;
        }
        let killed_processes = scene.stack.kill("usher-purchase")?;
        let began = Instant::now();
        let belong = BTreeMap::from([(event.key(), [creator, buyer].into())]);
        let record = scene.store.event(&event.key()).await?.ok_or("it is known")?;
        if record.held.is_none() {
            // It was faster; or the one at work was somebody else's.
            scene.until_right(&belong, patience).await?;
            continue;
        }
        scene.until_right(&belong, patience).await?;
        let seconds_from_killed_holder_to_convergence = began.elapsed().as_secs_f64();
        return Ok(KilledFigures { killed_processes, seconds_from_killed_holder_to_convergence });
    }
    Err(format!("no holder was met at work in {KILLS_TRIED_MAX} tries").into())
}
