//! From events to rooms, within one invocation's time. Whatever goes wrong here stays here: the events are due in the
//! ledger, and the clock finds them.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use tracing::{Instrument as _, error, info, info_span, warn};
use usher_domain::EventKey;
use usher_doorkeeper::{Cause, Converged, Doorkeeper, Work};

use crate::{
    Invocation, Usher,
    current::Current,
    metrics::Record,
    telemetry::{Chain, panic_text},
};

/// Convergence must end so long before the invocation does: what is logged and answered after it takes time, too.
const MARGIN_MS: u64 = 1_000;
/// An event is begun with at least so much time left. The doorkeeper begins no commit with less than 8 s.
const BEGIN_MS_MIN: u64 = 10_000;

/// How many events ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Their rooms are equal to the admission, or need not be.
    pub(crate) done: usize,
    /// Somebody else is at it.
    pub(crate) held: usize,
    /// There is work left, and they are due.
    pub(crate) left: usize,
}

impl Tally {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: Self) {
        self.done += other.done;
        self.held += other.held;
        self.left += other.left;
    }
}

/// Converges events one after the other, until the invocation's deadline is near.
pub(crate) async fn converge_all(
    usher: &Usher,
    current: &Current,
    events: &BTreeSet<EventKey>,
    invocation: &Invocation,
    cause: Cause,
) -> Tally {
    let mut tally = Tally { left: events.len(), ..Tally::default() };
    if events.is_empty() {
        return tally;
    }
    let doorkeeper = match usher.doorkeeper_of(current).await {
        Ok(Some(doorkeeper)) => doorkeeper,
        Ok(None) => {
            warn!(
                events = tally.left,
                "not initialised: the facts are stored, the rooms follow once the account is made"
            );
            return tally;
        }
        Err(error) => {
            error!(events = tally.left, error = %Chain(&error), "rooms cannot be worked on; the events stay due");
            return tally;
        }
    };
    for event in events {
        let time_left_ms = invocation.deadline_ms.saturating_sub(usher.adapters.clock.now_ms());
        if time_left_ms < BEGIN_MS_MIN {
            leave(usher, event, cause).await;
            continue;
        }
        let span = info_span!("converge", %event, ?cause);
        let usage = usher.metrics.usage();
        let (ended, outcome) =
            converge(usher, current, doorkeeper, event, invocation, time_left_ms, cause).instrument(span).await;
        let now_ms = usher.adapters.clock.now_ms();
        let removals = current.removals().map(Doorkeeper::take_work).filter(|work| *work != Work::default());
        for work in [doorkeeper.take_work()].into_iter().chain(removals) {
            let record = Record::new("converge").property("invocation", &*invocation.id);
            let record = record.property("event", event.to_string()).property("outcome", outcome);
            let record = record.work(&work, outcome == DONE, now_ms).usage_of_part(usher.metrics.usage_since(usage));
            usher.metrics.tell(now_ms, record);
        }
        match ended {
            Ended::Done => tally.done += 1,
            Ended::Held => tally.held += 1,
            Ended::Left => continue,
        }
        tally.left -= 1;
    }
    tally
}

/// The outcome of an event whose rooms are in step.
const DONE: &str = "done";

enum Ended {
    Done,
    Held,
    Left,
}

async fn converge(
    usher: &Usher,
    current: &Current,
    doorkeeper: &Doorkeeper,
    event: &EventKey,
    invocation: &Invocation,
    time_left_ms: u64,
    cause: Cause,
) -> (Ended, &'static str) {
    let deadline_ms = invocation.deadline_ms.saturating_sub(MARGIN_MS);
    let attempt = async {
        let converged = doorkeeper.converge(event, &invocation.id, deadline_ms, cause).await?;
        match (&converged, current.removals()) {
            (Converged::Unfinished { reason }, Some(removals)) if removals.owes_removal(event).await? => {
                info!(reason, "somebody must go: on with what is left for removals");
                removals.converge(event, &invocation.id, deadline_ms, Cause::Nudge).await
            }
            _ => Ok(converged),
        }
    };
    let attempt = AssertUnwindSafe(attempt).catch_unwind();
    // Whoever overruns is dropped, as by a crash, so that the ledger's answer still gets out.
    let patience = Duration::from_millis(time_left_ms.saturating_sub(MARGIN_MS));
    let Ok(attempt) = tokio::time::timeout(patience, attempt).await else {
        warn!(outcome = "overran", "dropped at the deadline");
        return (Ended::Left, "overran");
    };
    let converged = match attempt {
        Ok(Ok(converged)) => converged,
        Ok(Err(error)) => {
            warn!(outcome = "failed", error.code = error.code(), error = %Chain(&error), "not converged");
            return (Ended::Left, "failed");
        }
        Err(panic) => {
            error!(outcome = "panicked", panic = panic_text(&*panic), "not converged");
            return (Ended::Left, "panicked");
        }
    };
    match converged {
        Converged::Done { generation, commits } => {
            info!(outcome = DONE, generation, commits, rooms = rooms(usher, event).await, "converged");
            (Ended::Done, DONE)
        }
        Converged::Held => {
            info!(outcome = "held", "somebody else is at it");
            (Ended::Held, "held")
        }
        Converged::NoSuchEvent => {
            info!(outcome = "no_such_event", "there is no such event");
            (Ended::Done, "no_such_event")
        }
        Converged::Unfinished { reason } => {
            info!(outcome = "unfinished", reason, rooms = rooms(usher, event).await, "there is work left");
            (Ended::Left, "unfinished")
        }
        Converged::NotReady => {
            warn!(outcome = "not_ready", "the XMTP account is not made: the rooms follow once the account is made");
            (Ended::Left, "not_ready")
        }
    }
}

/// Leaves an event for which no time is left to another invocation. A nudge sends none: the event is due anyway.
async fn leave(usher: &Usher, event: &EventKey, cause: Cause) {
    info!(%event, outcome = "no_time", "left for later");
    if cause == Cause::Fact
        && let Err(error) = usher.adapters.nudges.nudge(event, 0).await
    {
        warn!(%event, error = %Chain(&error), "no nudge was left; the schedule will find the event");
    }
}

/// The event's rooms, for the log; nothing if they cannot be told.
async fn rooms(usher: &Usher, event: &EventKey) -> String {
    let record = usher.store.event(event).await.ok().flatten();
    let rooms = record.into_iter().flat_map(|record| record.rooms);
    rooms.map(|room| room.group.to_string()).collect::<Vec<_>>().join(",")
}
