//! The clock and the nudges. The clock finds what is due and sends nudges; a nudge has one event converged.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use futures::future::LocalBoxFuture;
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};
use usher_domain::EventKey;
use usher_doorkeeper::{Cause, ConvergeError, Doorkeeper, Oldest};

use crate::{
    Invocation, OpenError, Usher,
    converge::{Tally, converge_all},
    metrics::Record,
    telemetry::Chain,
};

/// How many nudges are sent at a time.
const NUDGES_AT_ONCE: usize = 16;
/// How many nudges one look sends. XMTP takes hardly more commits a minute, and what is not nudged within a minute is
/// nudged again.
const NUDGES_MAX: usize = 1000;
/// When there are more, others have their turn every minute.
const TURN_MS: u64 = 60_000;
/// Parked things are counted up to this many: reading them costs by their size.
const PARKED_MAX: usize = 100;
/// A look ends so long before its invocation does.
const MARGIN_MS: u64 = 3_000;

/// What wakes the sweep.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Trigger {
    /// Messages of the nudge queue.
    Nudges(SqsEvent),
    /// EventBridge's schedule.
    Schedule(Scheduled),
}

/// A scheduled event of EventBridge, as far as it matters.
#[derive(Debug, Clone, Deserialize)]
pub struct Scheduled {
    /// Always `aws.events`: nothing else may wake the sweep.
    #[serde(rename = "source")]
    _source: EventBridge,
}

#[derive(Debug, Clone, Deserialize)]
enum EventBridge {
    #[serde(rename = "aws.events")]
    Schedule,
}

/// A message of the nudge queue: `{"event": "chain:factory:id"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nudge {
    /// Which event to look at.
    pub event: EventKey,
}

impl Nudge {
    /// The message's body.
    pub fn body(&self) -> String {
        serde_json::to_string(self).expect("an id is a text")
    }
}

/// Why the clock did not do its work. The next minute tries again.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Rooms cannot be worked on.
    #[error("rooms cannot be worked on")]
    Open(#[from] OpenError),
    /// What is due was not found.
    #[error("what is due was not found")]
    Overdue(#[from] ConvergeError),
    /// Some events are due and were not nudged.
    #[error("{failed} of {events} nudges were not sent")]
    Nudges {
        /// How many nudges were not sent.
        failed: usize,
        /// How many events there were to nudge.
        events: usize,
    },
}

/// Does what the trigger asks. The answer never names a message.
pub fn handle<'a>(
    usher: &'a Usher,
    trigger: Trigger,
    invocation: &'a Invocation,
) -> LocalBoxFuture<'a, Result<SqsBatchResponse, SweepError>> {
    Box::pin(async move {
        match trigger {
            Trigger::Nudges(batch) => handle_nudges(usher, batch, invocation).await,
            Trigger::Schedule(_) => {
                let swept = handle_schedule(usher, invocation).await;
                swept.inspect_err(|error| error!(invocation = invocation.id, error = %Chain(error), "sweep failed"))?;
            }
        }
        Ok(SqsBatchResponse::default())
    })
}

/// Sends one nudge for each event that is due, or whose rooms have news, at most [`NUDGES_MAX`]; returns how many.
/// Tells how old the oldest work is.
pub async fn handle_schedule(usher: &Usher, invocation: &Invocation) -> Result<usize, SweepError> {
    let usage = usher.metrics.usage();
    let found = look(usher, invocation).await;
    let now_ms = usher.adapters.clock.now_ms();
    let record = Record::new("sweep").property("invocation", &*invocation.id);
    let record = found.iter().fold(record, |record, found| found.tell(record, now_ms));
    let swept = found.and_then(|Found { events, failed, .. }| match failed {
        0 => Ok(events),
        failed => Err(SweepError::Nudges { failed, events }),
    });
    let record = record.count("Sweeps", usize::from(swept.is_ok())).usage(usher.metrics.usage_since(usage));
    usher.metrics.tell(now_ms, record);
    swept
}

/// What a look came to.
#[derive(Default)]
struct Found {
    is_initialised: bool,
    /// How many events were to be nudged.
    events: usize,
    /// How many were not.
    failed: usize,
    /// How many events are due.
    due: usize,
    /// Unknown if there was no time for it.
    oldest: Oldest,
    /// Likewise.
    parked: Option<usize>,
}

impl Found {
    fn tell(&self, record: Record, now_ms: u64) -> Record {
        let age_ms = |since_ms: Option<u64>| since_ms.map(|since_ms| now_ms.saturating_sub(since_ms));
        let record = record
            .property("events", self.events)
            .property("failed", self.failed)
            .count("NotInitialised", usize::from(!self.is_initialised))
            .count("Due", self.due)
            .duration("OldestDueMs", age_ms(self.oldest.due_since_ms))
            .duration("OldestOutboxMs", age_ms(self.oldest.outbox_since_ms));
        self.parked.into_iter().fold(record, |record, parked| record.count("ParkedCount", parked))
    }
}

async fn look(usher: &Usher, invocation: &Invocation) -> Result<Found, SweepError> {
    let Some(doorkeeper) = usher.doorkeeper().await? else {
        warn!(invocation = invocation.id, "not initialised: make its account first");
        return Ok(Found { parked: parked(usher, invocation).await, ..Found::default() });
    };
    // What is due must not wait for the news: looking for those takes the longer the more rooms there are.
    let all_due = doorkeeper.due().await?;
    let turn = usher.adapters.clock.now_ms() / TURN_MS;
    let due = portion(&all_due, NUDGES_MAX, turn);
    let mut failed = nudge_all(usher, &due, invocation).await;
    let news = match tokio::time::timeout(time_left(usher, invocation), doorkeeper.with_news()).await {
        Ok(Ok(news)) => portion(&news.difference(&all_due).copied().collect(), NUDGES_MAX - due.len(), turn),
        Ok(Err(error)) => {
            warn!(invocation = invocation.id, error = %Chain(&error), "news were not looked for");
            Vec::new()
        }
        Err(_) => {
            warn!(invocation = invocation.id, "news were not found in time");
            Vec::new()
        }
    };
    failed += nudge_all(usher, &news, invocation).await;
    let events = due.len() + news.len();
    info!(invocation = invocation.id, events, events.due = all_due.len(), events.failed = failed, "nudged what is due");
    let is_initialised = keep_up(usher, &doorkeeper, invocation).await;
    let oldest = oldest(usher, &doorkeeper, invocation).await;
    let parked = parked(usher, invocation).await;
    Ok(Found { is_initialised, events, failed, due: all_due.len(), oldest, parked })
}

/// Does for the account what it needs from time to time. Whether there is one, as far as is known.
async fn keep_up(usher: &Usher, doorkeeper: &Doorkeeper, invocation: &Invocation) -> bool {
    let kept_up = async {
        let has_account = doorkeeper.has_account().await?;
        doorkeeper.keep_up().await?;
        Ok::<bool, ConvergeError>(has_account)
    };
    match tokio::time::timeout(time_left(usher, invocation), kept_up).await {
        Ok(Ok(has_account)) => return has_account,
        Ok(Err(error)) => {
            warn!(invocation = invocation.id, error = %Chain(&error), "the account's upkeep is left for later");
        }
        Err(_) => warn!(invocation = invocation.id, "no time was left for the account's upkeep"),
    }
    true
}

async fn oldest(usher: &Usher, doorkeeper: &Doorkeeper, invocation: &Invocation) -> Oldest {
    match tokio::time::timeout(time_left(usher, invocation), doorkeeper.oldest()).await {
        Ok(Ok(oldest)) => return oldest,
        Ok(Err(error)) => {
            warn!(invocation = invocation.id, error = %Chain(&error), "the oldest work was not looked for")
        }
        Err(_) => warn!(invocation = invocation.id, "the oldest work was not found in time"),
    }
    Oldest::default()
}

/// How many things are parked, up to [`PARKED_MAX`].
async fn parked(usher: &Usher, invocation: &Invocation) -> Option<usize> {
    match tokio::time::timeout(time_left(usher, invocation), usher.store.parked_count(PARKED_MAX)).await {
        Ok(Ok(parked)) => return Some(parked),
        Ok(Err(error)) => warn!(invocation = invocation.id, error = %Chain(&error), "parked things were not counted"),
        Err(_) => warn!(invocation = invocation.id, "parked things were not counted in time"),
    }
    None
}

/// At most `max` of the events. When there are more, the next ones have their turn next.
fn portion(events: &BTreeSet<EventKey>, max: usize, turn: u64) -> Vec<EventKey> {
    let portions = u64::try_from(events.len().div_ceil(max.max(1))).unwrap_or(u64::MAX).max(1);
    let skipped = usize::try_from(turn % portions).unwrap_or_default() * max;
    events.iter().skip(skipped).take(max).copied().collect()
}

fn time_left(usher: &Usher, invocation: &Invocation) -> Duration {
    let end_ms = invocation.deadline_ms.saturating_sub(MARGIN_MS);
    Duration::from_millis(end_ms.saturating_sub(usher.adapters.clock.now_ms()))
}

/// Sends one nudge for each event while there is time; returns how many were not sent.
async fn nudge_all(usher: &Usher, events: &[EventKey], invocation: &Invocation) -> usize {
    let failed = AtomicUsize::new(0);
    stream::iter(events)
        .for_each_concurrent(NUDGES_AT_ONCE, async |event| {
            if time_left(usher, invocation).is_zero() {
                failed.fetch_add(1, Ordering::Relaxed);
            } else if let Err(error) = usher.adapters.nudges.nudge(event, 0).await {
                failed.fetch_add(1, Ordering::Relaxed);
                error!(%event, error = %Chain(&error), "not nudged");
            }
        })
        .await;
    failed.into_inner()
}

/// Converges the events of a batch of nudges, each once. No message ever comes again: an event that still has work is
/// due in the ledger, and a message that is no nudge will never be one.
pub async fn handle_nudges(usher: &Usher, batch: SqsEvent, invocation: &Invocation) {
    let messages = batch.records.len();
    let Nudged { events, dropped } = read(batch);
    let usage = usher.metrics.usage();
    let tally = match usher.current().await {
        Ok(current) => converge_all(usher, &current, &events, invocation, Cause::Nudge).await,
        Err(error) => {
            error!(invocation = invocation.id, error = %Chain(&error), "nothing can be done; the events stay due");
            Tally { left: events.len(), ..Tally::default() }
        }
    };
    info!(
        invocation = invocation.id,
        messages,
        messages.dropped = dropped,
        events = events.len(),
        events.done = tally.done,
        events.held = tally.held,
        events.left = tally.left,
        "nudges handled"
    );
    let record = Record::of_invocation("nudges", &invocation.id)
        .count("Messages", messages)
        .tally(events.len(), tally)
        .usage(usher.metrics.usage_since(usage));
    usher.metrics.tell(usher.adapters.clock.now_ms(), record);
}

/// What a batch of nudges asks for.
#[derive(Debug, PartialEq, Eq, Default)]
struct Nudged {
    events: BTreeSet<EventKey>,
    /// How many messages were no nudges.
    dropped: usize,
}

fn read(batch: SqsEvent) -> Nudged {
    let mut nudged = Nudged::default();
    for record in batch.records {
        match serde_json::from_str::<Nudge>(record.body.as_deref().unwrap_or_default()) {
            Ok(nudge) => _ = nudged.events.insert(nudge.event),
            Err(error) => {
                nudged.dropped += 1;
                error!(message.id = record.message_id, error = %error, outcome = "dropped", "not a nudge");
            }
        }
    }
    nudged
}

#[cfg(test)]
mod tests;
