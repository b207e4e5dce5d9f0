//! What everybody in a run shares: the dice, the clock, the tally, the trace, and what must never be stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use sha2::{Digest as _, Sha256};
use usher_domain::ports;
use usher_xmtp::GroupId;

use crate::{
    dice::Dice,
    faults::{Fault, Rates},
};

/// One run's world, as far as its parts share it.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

/// What is behind the lock. A run has one thread: nobody waits for it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) dice: Dice,
    /// Keys and ids come from dice of their own, so that their number does not change what happens.
    randomness: Dice,
    pub(crate) now_ms: u64,
    pub(crate) rates: Rates,
    /// XMTP answers nobody until then.
    pub(crate) node_down_until_ms: u64,
    /// The call at which the node is to go down, if at any.
    pub(crate) outage: Option<&'static str>,
    /// KMS refuses usher until then.
    pub(crate) grant_revoked_until_ms: u64,
    pub(crate) tally: Tally,
    pub(crate) broken: Option<String>,
    /// Rooms of which a commit of usher's is stored that the log has not decided about.
    pub(crate) pending: BTreeSet<GroupId>,
    /// By which group context each epoch was reached, and who saw it first.
    epochs: BTreeMap<(GroupId, u64), ([u8; 32], String)>,
    trace: Option<Vec<String>>,
    start_ms: u64,
}

/// How often what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often each fault met each port call.
    pub faults: BTreeMap<(Fault, &'static str), u64>,
    /// How often anything else happened.
    pub events: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds another run's.
    pub fn add(&mut self, other: &Tally) {
        for (key, count) in &other.faults {
            *self.faults.entry(*key).or_default() += count;
        }
        for (key, count) in &other.events {
            *self.events.entry(key).or_default() += count;
        }
    }
}

impl Shared {
    pub(crate) fn new(seed: u64, start_ms: u64, rates: Rates, traced: bool) -> Self {
        let state = State {
            dice: Dice::new(seed),
            randomness: Dice::new(!seed),
            now_ms: start_ms,
            rates,
            node_down_until_ms: 0,
            outage: None,
            grant_revoked_until_ms: 0,
            tally: Tally::default(),
            broken: None,
            pending: BTreeSet::new(),
            epochs: BTreeMap::new(),
            trace: traced.then(Vec::new),
            start_ms,
        };
        Self { state: Mutex::new(state) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // What is noted after a panic is what led to it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a line of the trace.
    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        let mut state = self.lock();
        let at_ms = state.now_ms - state.start_ms;
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{:>7}.{:03} {}", at_ms / 1000, at_ms % 1000, line()));
        }
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.lock().tally.events.entry(what).or_default() += 1;
    }

    /// Somebody is in an epoch of a room: in the same one as everybody else who is or was there.
    pub(crate) fn reached(&self, who: &str, room: GroupId, epoch: u64, context: &[u8]) {
        let context: [u8; 32] = Sha256::digest(context).into();
        let first = self.lock().epochs.entry((room, epoch)).or_insert_with(|| (context, who.to_owned())).clone();
        if first.0 != context {
            self.broken(format!("{who} is in another epoch {epoch} of room {room} than {}", first.1));
        } else if first.1 != who {
            self.count("epochs compared");
        }
    }

    /// Something was seen that must never be.
    pub(crate) fn broken(&self, what: impl fmt::Display) {
        self.trace(|| format!("BROKEN: {what}"));
        self.lock().broken.get_or_insert(what.to_string());
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        self.lock().trace.take().unwrap_or_default()
    }

    /// Whether a fault meets a call of `port` now.
    pub(crate) fn strikes(&self, fault: Fault, port: &'static str) -> bool {
        let mut state = self.lock();
        let rate = state.rates.of(fault, port);
        let strikes = state.dice.happens(rate);
        if strikes {
            state.tally.meet(fault, port);
        }
        strikes
    }
}

impl Tally {
    pub(crate) fn meet(&mut self, fault: Fault, port: &'static str) {
        *self.faults.entry((fault, port)).or_default() += 1;
    }
}

impl ports::Clock for Shared {
    fn now_ms(&self) -> u64 {
        self.lock().now_ms
    }
}

impl ports::Randomness for Shared {
    fn fill(&self, bytes: &mut [u8]) {
        self.lock().randomness.fill(bytes);
    }
}

impl usher_xmtp::ports::Clock for Shared {
    fn now_ns(&self) -> u64 {
        self.lock().now_ms * 1_000_000
    }
}

impl usher_xmtp::ports::Randomness for Shared {
    fn fill(&self, bytes: &mut [u8]) {
        self.lock().randomness.fill(bytes);
    }
}

/// Lets the scheduler decide who goes on.
pub(crate) fn pause() -> Pause {
    Pause(false)
}

pub(crate) struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        // Collections of futures ask only those again that say they can go on.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
