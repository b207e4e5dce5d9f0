//! SQS batches of facts: bodies to the ledger, then the events that became due to their rooms.

use std::{collections::BTreeSet, panic::AssertUnwindSafe};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::join_all, stream};
use tracing::{error, info, warn};
use usher_chain::{Chains, ParkName, Parked, Reading};
use usher_domain::{EventKey, Fact};
use usher_doorkeeper::Cause;
use usher_store::{
    Outcome, Store, StoreError,
    parked::{EXCERPT_BYTES_MAX, ParkedId},
};

use crate::{
    Invocation, Usher,
    converge::{Tally, converge_all},
    metrics::Record,
    telemetry::{Chain, panic_text},
};

/// The most bytes of a reason that are kept with something parked: it may quote what was sent.
pub const PARKED_REASON_BYTES_MAX: usize = 1024;
/// How many logs of one message are parked at a time.
const PARKED_AT_ONCE: usize = 8;

/// A record without a message id: its failure could not be told apart from the whole batch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record {index} of the batch has no message id")]
pub struct NoMessageId {
    /// Its place in the batch.
    pub index: usize,
}

/// Stores what a batch of messages says and converges the events that became due, until the deadline is near.
/// Returns the messages whose facts are not all stored; they come again.
///
/// # Errors
/// If a record has no message id; nothing was done then.
pub fn handle_queue<'a>(
    usher: &'a Usher,
    batch: SqsEvent,
    invocation: &'a Invocation,
) -> LocalBoxFuture<'a, Result<SqsBatchResponse, NoMessageId>> {
    Box::pin(async move {
        let usage = usher.metrics.usage();
        let queued_ms = sent_ms(&batch).map(|sent_ms| usher.adapters.clock.now_ms().saturating_sub(sent_ms));
        let (stored, tally) = match usher.current().await {
            Ok(current) => {
                let stored = store_batch(&usher.store, &current.settings.chains, batch.records).await?;
                let tally = converge_all(usher, &current, &stored.due, invocation, Cause::Fact).await;
                (stored, tally)
            }
            Err(error) => {
                error!(invocation = invocation.id, error = %Chain(&error), "nothing can be read: all messages come again");
                (left_batch(batch.records)?, Tally::default())
            }
        };
        info!(
            invocation = invocation.id,
            messages = stored.messages,
            messages.failed = stored.failed.len(),
            facts = stored.facts,
            parked = stored.parked,
            ignored = stored.ignored,
            events = stored.due.len(),
            events.done = tally.done,
            events.held = tally.held,
            events.left = tally.left,
            "batch handled"
        );
        let record = Record::of_invocation("batch", &invocation.id)
            .duration("QueueMs", queued_ms)
            .stored(&stored)
            .tally(stored.due.len(), tally)
            .usage(usher.metrics.usage_since(usage));
        usher.metrics.tell(usher.adapters.clock.now_ms(), record);
        let mut response = SqsBatchResponse::default();
        response.set_failures(stored.failed);
        Ok(response)
    })
}

/// What became of a batch in the ledger.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stored {
    messages: usize,
    /// The ids of the messages that must come again.
    failed: Vec<String>,
    facts: usize,
    parked: usize,
    ignored: usize,
    due: BTreeSet<EventKey>,
}

impl Record {
    fn stored(self, stored: &Stored) -> Self {
        self.count("Messages", stored.messages)
            .count("MessagesFailed", stored.failed.len())
            .count("Facts", stored.facts)
            .count("Ignored", stored.ignored)
            .count("Parked", stored.parked)
    }

    pub(crate) fn tally(self, events: usize, tally: Tally) -> Self {
        self.property("events", events)
            .property("done", tally.done)
            .property("held", tally.held)
            .property("left", tally.left)
    }
}

/// When the oldest message of a batch was sent, in milliseconds since 1970.
fn sent_ms(batch: &SqsEvent) -> Option<u64> {
    batch.records.iter().filter_map(|record| record.attributes.get("SentTimestamp")?.parse().ok()).min()
}

/// One message on its way into the ledger.
struct Message {
    id: String,
    facts: Vec<Fact>,
    parked: usize,
    ignored: usize,
    /// Why it must come again.
    failure: Option<String>,
}

async fn store_batch(store: &Store, chains: &Chains, records: Vec<SqsMessage>) -> Result<Stored, NoMessageId> {
    let mut messages =
        join_all(named(records)?.into_iter().map(|(id, body)| read_message(store, chains, id, body))).await;
    let (outcomes, due) = record_all(store, &messages).await;

    let mut stored = Stored { messages: messages.len(), due, ..Stored::default() };
    for (message, outcomes) in messages.iter_mut().zip(outcomes) {
        conclude(message, outcomes);
        stored.facts += message.facts.len();
        stored.parked += message.parked;
        stored.ignored += message.ignored;
        if message.failure.is_some() {
            stored.failed.push(message.id.clone());
        }
    }
    Ok(stored)
}

/// What becomes of a batch that nobody can read: nothing, and every message comes again.
fn left_batch(records: Vec<SqsMessage>) -> Result<Stored, NoMessageId> {
    let failed: Vec<String> = named(records)?.into_iter().map(|(id, _)| id).collect();
    Ok(Stored { messages: failed.len(), failed, ..Stored::default() })
}

/// The messages' ids and bodies.
fn named(records: Vec<SqsMessage>) -> Result<Vec<(String, String)>, NoMessageId> {
    let named = records.into_iter().enumerate().map(|(index, record)| {
        let id = record.message_id.filter(|id| !id.is_empty()).ok_or(NoMessageId { index })?;
        Ok((id, record.body.unwrap_or_default()))
    });
    named.collect()
}

/// Reads one body and parks what cannot be used. A panic is this message's failure.
async fn read_message(store: &Store, chains: &Chains, id: String, body: String) -> Message {
    let mut message = Message { id, facts: Vec::new(), parked: 0, ignored: 0, failure: None };
    let reading = async {
        let mut parked = Vec::new();
        for reading in usher_chain::read(&body, chains) {
            match reading {
                Reading::Fact(fact) => message.facts.push(fact),
                Reading::Ignored(_) => message.ignored += 1,
                Reading::Parked(log) => parked.push(log),
            }
        }
        message.parked = parked.len();
        stream::iter(parked).map(Ok).try_for_each_concurrent(PARKED_AT_ONCE, |log| park(store, log)).await
    };
    let failure = match AssertUnwindSafe(reading).catch_unwind().await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("not parked: {}", Chain(&error))),
        Err(panic) => Some(format!("panicked: {}", panic_text(&*panic))),
    };
    message.failure = failure;
    message
}

async fn park(store: &Store, parked: Parked) -> Result<(), StoreError> {
    let mut reason = parked.reason.to_string();
    reason.truncate(reason.floor_char_boundary(PARKED_REASON_BYTES_MAX));
    let bytes = parked.body.len();
    if bytes > EXCERPT_BYTES_MAX {
        reason.push_str(&format!(
            " (of its {bytes} bytes the first {EXCERPT_BYTES_MAX} are kept: send it again to retry)"
        ));
    }
    let new = store.park(parked_id(parked.name), &reason, &parked.body).await?;
    if new {
        warn!(parked = %parked.name, reason, "parked");
    }
    Ok(())
}

fn parked_id(name: ParkName) -> ParkedId {
    match name {
        ParkName::Log { chain, transaction, log_index, block_hash, retracted } => {
            ParkedId::Log { chain, transaction, log_index, block_hash, retracted }
        }
        ParkName::Digest(digest) => ParkedId::Body { digest },
    }
}

/// What became of a message's facts; the text of the panic that met them, if one did.
type Outcomes = Result<Vec<Outcome>, String>;

/// Records the facts of all messages at once. If that panics, each message's by themselves, so that a panic is the
/// failure of the message that causes it. (What the first attempt stored is known to the second, and the clock finds
/// the events that it made due.)
async fn record_all(store: &Store, messages: &[Message]) -> (Vec<Outcomes>, BTreeSet<EventKey>) {
    let all: Vec<Fact> = messages.iter().flat_map(|message| message.facts.iter().cloned()).collect();
    if let Ok(recorded) = AssertUnwindSafe(store.record(&all)).catch_unwind().await {
        let mut outcomes = recorded.outcomes.into_iter();
        let each = messages.iter().map(|message| Ok(outcomes.by_ref().take(message.facts.len()).collect()));
        return (each.collect(), recorded.due);
    }
    let (mut each, mut due) = (Vec::new(), BTreeSet::new());
    for message in messages {
        each.push(match AssertUnwindSafe(store.record(&message.facts)).catch_unwind().await {
            Ok(recorded) => {
                due.extend(recorded.due);
                Ok(recorded.outcomes)
            }
            Err(panic) => Err(panic_text(&*panic).to_owned()),
        });
    }
    (each, due)
}

/// Says what became of a message.
fn conclude(message: &mut Message, outcomes: Outcomes) {
    let (mut new, mut known, mut waiting, mut no_room, mut failed) = (0, 0, 0, 0, 0);
    let failure = match outcomes {
        Ok(outcomes) => {
            let mut failure = None;
            for outcome in outcomes {
                match outcome {
                    Outcome::New => new += 1,
                    Outcome::Known => known += 1,
                    Outcome::Waiting => waiting += 1,
                    // A kiosk that nobody announced and that emits that much is noise; the cap is the answer to it.
                    Outcome::NoRoom => no_room += 1,
                    Outcome::Failed(error) => {
                        failed += 1;
                        failure = Some(format!("not recorded: {}", Chain(&*error)));
                    }
                }
            }
            failure
        }
        Err(panic) => Some(format!("panicked: {panic}")),
    };
    message.failure = message.failure.take().or(failure);
    let Message { id, facts, parked, ignored, failure } = message;
    let about = about(facts);
    if let Some(failure) = failure {
        error!(
            message.id = id,
            outcome = "failed",
            failure,
            new,
            known,
            waiting,
            no_room,
            failed,
            parked,
            ignored,
            about,
            "message comes again"
        );
    } else {
        info!(
            message.id = id,
            outcome = "stored",
            new,
            known,
            waiting,
            no_room,
            parked,
            ignored,
            about,
            "message stored"
        );
    }
}

/// What facts are about, for the log: events and kiosks.
fn about(facts: &[Fact]) -> String {
    let subject = |fact: &Fact| match (fact.incarnation(), fact.ticket()) {
        (Some(incarnation), _) => format!("event {}", incarnation.event),
        (None, Some(ticket)) => format!("kiosk {}", ticket.kiosk),
        (None, None) => String::new(),
    };
    let subjects: BTreeSet<String> = facts.iter().map(subject).collect();
    subjects.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
