//! Purchases of many people, handled by all functions' processes at once, against the node's rate limiter.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy_primitives::{Address, keccak256};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::facts::Scene;
use crate::{
    haus::{CHAIN, Chain, Event},
    world::AnyError,
};

/// A call under way when the first was refused, or made before its process heard of it, may be refused as well.
const HEARD: Duration = Duration::from_secs(3);
const QUEUES: [&str; 3] = ["mint", "purchase", "refund"];
/// With fewer it says little.
const PROCESSES_MIN: usize = 10;

/// What is bought, and what the node takes.
#[derive(Debug, Clone)]
pub struct Limiter {
    /// How many purchases.
    pub purchases: usize,
    /// Of how many events.
    pub events: usize,
    /// How many of the buyers have XMTP clients. They register at the stack's own address, which usher knows nothing
    /// of: that is what makes the node refuse a call.
    pub people: usize,
    /// As `usher dev --rate-limits` takes them.
    pub rate_limits: String,
    /// The order of delivery.
    pub seed: u64,
    /// How long it may take.
    pub patience: Duration,
}

/// What became of it.
#[derive(Debug, Serialize)]
pub struct LimiterFigures {
    purchases: usize,
    people: usize,
    rate_limits: String,
    seconds_to_rooms: f64,
    /// How many processes of functions took part.
    processes: usize,
    /// The first, and those that were under way.
    refusals_at_first: usize,
    refusals_later: usize,
    /// How often calls were left for later without touching the node.
    kept_back: u64,
    commits: u64,
    longest_invocation_ms: u64,
}

impl Limiter {
    /// Sells the tickets on a stack of its own.
    pub async fn run(self) -> Result<LimiterFigures, AnyError> {
        let scene = Scene::start(&["--rate-limits", &self.rate_limits], self.people).await?;
        let people = scene.people();
        let buyer = |number: usize| match people.get(number) {
            Some(person) => *person,
            None => Address::from_word(keccak256(format!("buyer {number}"))),
        };
        let (mut chain, mut belong) = (Chain::default(), BTreeMap::<_, BTreeSet<_>>::new());
        let mut events = Vec::new();
        let mut transactions = Vec::new();
        for id in 0..self.events {
            let event = Event::new(u64::try_from(id)?, buyer(id));
            transactions.push(chain.mint(&event));
            belong.entry(event.key()).or_default().insert(event.creator);
            events.push(event);
        }
        for number in 0..self.purchases {
            let event = &events[number % events.len()];
            transactions.push(chain.purchase(event, u64::try_from(number)? + 1, buyer(number)));
            belong.entry(event.key()).or_default().insert(buyer(number));
        }
        let mut bodies: Vec<_> = transactions
            .into_iter()
            .map(|transaction| json!({ "chainId": CHAIN, "logs": transaction.logs }).to_string())
            .collect();
        bodies.shuffle(&mut StdRng::seed_from_u64(self.seed));

        let began = Instant::now();
        let each = bodies.len().div_ceil(QUEUES.len());
        let sent = QUEUES.into_iter().zip(bodies.chunks(each));
        let sent = sent.map(|(queue, bodies)| scene.stack.send_bodies(queue, bodies));
        futures::future::try_join_all(sent).await?;
        scene.until_right(&belong, self.patience).await?;
        let seconds_to_rooms = began.elapsed().as_secs_f64();
        scene.until_handled(self.patience).await?;
        // Each stays for the next invocation.
        let processes = scene.stack.processes()?;

        scene.check_nothing_lost().await?;
        let figures = scene.book.figures();
        figures.check_invocations()?;
        let at_first = |refused: &&Instant| figures.refusals.first().is_some_and(|first| **refused - *first <= HEARD);
        let refusals_at_first = figures.refusals.iter().filter(at_first).count();
        let refusals_later = figures.refusals.len() - refusals_at_first;
        if refusals_at_first == 0 || refusals_later > 0 {
            return Err(format!("{refusals_at_first} calls were refused at first, {refusals_later} after it").into());
        }
        if processes < PROCESSES_MIN {
            return Err(format!("{processes} processes took part").into());
        }
        scene.check_witnesses(&belong).await?;
        Ok(LimiterFigures {
            purchases: self.purchases,
            people: self.people,
            rate_limits: self.rate_limits,
            processes,
            seconds_to_rooms,
            refusals_at_first,
            refusals_later,
            kept_back: figures.kept_back,
            commits: scene.commits(belong.keys()).await?,
            longest_invocation_ms: figures.longest_invocation_ms,
        })
    }
}
