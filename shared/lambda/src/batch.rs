//! SQS batches of facts: bodies to the ledger, then the events that became due to their rooms.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    time::Duration,
};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures::future::LocalBoxFuture;
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::{join, join_all},
    stream,
};
use tracing::{error, info, warn};
use usher_chain::{Chains, ParkName, Parked, Reading, acts_at_once};
use usher_domain::{EventKey, Fact};
use usher_doorkeeper::Cause;
use usher_store::{
    Outcome, Store, StoreError,
    parked::{EXCERPT_BYTES_MAX, ParkedId},
};

use crate::{
    Invocation, Usher,
    belief::{Answer, ask, is_stored_at_once, node_of, pause},
    converge::{Tally, converge_all},
    current::Current,
    metrics::Record,
    nodes::Nodes,
    telemetry::{Chain, panic_text},
};

/// The most bytes of a reason that are kept with something parked: it may quote what was sent.
pub const PARKED_REASON_BYTES_MAX: usize = 1024;
/// After so many deliveries, a message is not delivered again because the chain does not confirm what it says. (The
/// queues give it up after five, see `template.yaml`.)
const ASKED_DELIVERIES: u32 = 4;
/// How many facts are looked up in the ledger at a time.
const KNOWN_AT_ONCE: usize = 40;
/// How long that may take: it saves questions, and no more.
const LOOK_UP: Duration = Duration::from_secs(2);
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
            Ok(current) => take_batch(usher, &current, batch.records, invocation).await?,
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
            dropped = stored.dropped,
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
    /// Facts of kiosks that nobody announced and for which enough wait already.
    dropped: usize,
    due: BTreeSet<EventKey>,
}

impl Record {
    fn stored(self, stored: &Stored) -> Self {
        self.count("Messages", stored.messages)
            .count("MessagesFailed", stored.failed.len())
            .count("Facts", stored.facts)
            .count("Ignored", stored.ignored)
            .count("Dropped", stored.dropped)
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
    body: String,
    /// How often it was delivered, this time included.
    deliveries: u32,
    facts: Vec<Fact>,
    /// What became of each fact; of one that is not to be stored, nothing.
    outcomes: Vec<Option<Outcome>>,
    parked: usize,
    /// How many logs do not concern us, by the reason.
    ignored: BTreeMap<&'static str, usize>,
    /// Why it must come again.
    failure: Option<String>,
}

impl Message {
    /// A panic is the failure of the message that it came over, and of no other.
    fn panicked(&mut self, panic: &(dyn Any + Send)) {
        self.failure.get_or_insert_with(|| format!("panicked: {}", panic_text(panic)));
    }
}

/// Stores what a batch says and converges the events that became due. What a chain has to confirm first, or afterwards,
/// it is asked about while the rest converges.
async fn take_batch(
    usher: &Usher,
    current: &Current,
    records: Vec<SqsMessage>,
    invocation: &Invocation,
) -> Result<(Stored, Tally), NoMessageId> {
    let (store, chains) = (&*usher.store, &current.settings.chains);
    let mut messages = join_all(named(records)?.into_iter().map(|record| read_message(store, chains, record))).await;
    let mut due = record_all(store, &mut messages, |_, fact| is_stored_at_once(chains, fact)).await;
    let (mut tally, confirmed) = join(
        converge_all(usher, current, &due, invocation, Cause::Fact),
        confirm(store, &*usher.nodes, chains, &mut messages),
    )
    .await;
    tally.add(converge_all(usher, current, &confirmed, invocation, Cause::Fact).await);
    due.extend(confirmed);

    let mut stored = Stored { messages: messages.len(), due, ..Stored::default() };
    for message in &mut messages {
        stored.dropped += conclude(message);
        stored.facts += message.facts.len();
        stored.parked += message.parked;
        stored.ignored += message.ignored.values().sum::<usize>();
        if message.failure.is_some() {
            stored.failed.push(message.id.clone());
        }
    }
    Ok((stored, tally))
}

/// Asks the chains about what they have to confirm, and stores what they do. Returns the events that became due.
async fn confirm(store: &Store, nodes: &dyn Nodes, chains: &Chains, messages: &mut [Message]) -> BTreeSet<EventKey> {
    settle_known(store, chains, messages).await;
    let open = |message: &Message| -> Vec<Fact> {
        let unsettled = message
            .facts
            .iter()
            .zip(&message.outcomes)
            .filter(|(fact, outcome)| node_of(chains, fact).is_some() && (acts_at_once(fact) || outcome.is_none()));
        unsettled.map(|(fact, _)| fact.clone()).collect()
    };
    let questions: Vec<Vec<Fact>> = messages.iter().map(open).collect();
    let mut answers = ask(nodes, chains, &questions.iter().flatten().collect::<Vec<_>>()).await.into_iter();
    let answered: Vec<Vec<(Fact, Answer)>> =
        questions.into_iter().map(|facts| facts.into_iter().zip(answers.by_ref()).collect()).collect();
    let is_confirmed = |index: usize, fact: &Fact| {
        !is_stored_at_once(chains, fact) && answered[index].contains(&(fact.clone(), Answer::True))
    };
    let mut due = record_all(store, messages, is_confirmed).await;
    for (message, answered) in messages.iter_mut().zip(answered) {
        match AssertUnwindSafe(give_up(store, chains, message, &answered)).catch_unwind().await {
            Ok(events) => due.extend(events),
            Err(panic) => message.panicked(&*panic),
        }
    }
    due
}

/// Finds the gains that the chains confirmed when their messages came before, so that a message with more than a node
/// answers in time gets on with each delivery. (What acted at once is in the ledger and may be unconfirmed.) What is not
/// read in time is asked about again.
async fn settle_known(store: &Store, chains: &Chains, messages: &mut [Message]) {
    let redelivered = messages.iter().enumerate().filter(|(_, message)| message.deliveries > 1);
    let facts = redelivered.flat_map(|(at, message)| message.facts.iter().enumerate().map(move |fact| (at, fact)));
    let gains = facts.filter(|(_, (_, fact))| node_of(chains, fact).is_some() && !acts_at_once(fact));
    let look_up = async |(message, (index, fact)): (usize, (usize, &Fact))| {
        let known = AssertUnwindSafe(store.knows(fact)).catch_unwind().await;
        matches!(known, Ok(Ok(true))).then_some((message, index))
    };
    let known = stream::iter(gains).map(look_up).buffer_unordered(KNOWN_AT_ONCE).take_until(Box::pin(pause(LOOK_UP)));
    let known: Vec<(usize, usize)> = known.filter_map(std::future::ready).collect().await;
    for (message, index) in known {
        messages[message].outcomes[index] = Some(Outcome::Known);
    }
}

/// What becomes of facts that the chain does not confirm: they come again, or, when that is hopeless, are parked; and
/// those that have acted already are taken back. Returns the events that became due.
async fn give_up(
    store: &Store,
    chains: &Chains,
    message: &mut Message,
    answered: &[(Fact, Answer)],
) -> BTreeSet<EventKey> {
    let last = message.deliveries >= ASKED_DELIVERIES;
    let doubted = |fact: &Fact| match answered.iter().find(|(it, _)| it == fact) {
        Some((_, Answer::Doubt(doubt))) if last || doubt.is_final() => Some(doubt.clone()),
        _ => None,
    };
    let open = answered.iter().find(|(fact, answer)| *answer != Answer::True && doubted(fact).is_none());
    let why = open.map(|(_, answer)| format!("not confirmed by the chain: {answer}"));
    message.failure = message.failure.take().or(why);

    let hopeless: Vec<Fact> =
        answered.iter().filter(|(fact, _)| doubted(fact).is_some()).map(|it| it.0.clone()).collect();
    if hopeless.is_empty() {
        return BTreeSet::new();
    }
    let taken_back =
        hopeless.iter().filter(|fact| acts_at_once(fact)).map(|fact| Fact { retracted: true, ..fact.clone() });
    let recorded = store.record(&taken_back.collect::<Vec<_>>()).await;
    let parked = usher_chain::park_doubted(&message.body, chains, doubted);
    message.parked += parked.len();
    let failed = recorded.outcomes.into_iter().find_map(|outcome| match outcome {
        Outcome::Failed(error) => Some(format!("not taken back: {}", Chain(&*error))),
        _ => None,
    });
    let unparked = park_all(store, parked).await.err().map(|error| format!("not parked: {}", Chain(&error)));
    message.failure = message.failure.take().or(failed).or(unparked);
    recorded.due
}

/// What becomes of a batch that nobody can read: nothing, and every message comes again.
fn left_batch(records: Vec<SqsMessage>) -> Result<Stored, NoMessageId> {
    let failed: Vec<String> = named(records)?.into_iter().map(|(id, _)| id).collect();
    Ok(Stored { messages: failed.len(), failed, ..Stored::default() })
}

/// The messages' ids, before anything is done.
fn named(records: Vec<SqsMessage>) -> Result<Vec<(String, SqsMessage)>, NoMessageId> {
    let named = records.into_iter().enumerate().map(|(index, mut record)| {
        let id = record.message_id.take().filter(|id| !id.is_empty()).ok_or(NoMessageId { index })?;
        Ok((id, record))
    });
    named.collect()
}

/// Reads one body and parks what cannot be used. A panic is this message's failure.
async fn read_message(store: &Store, chains: &Chains, (id, record): (String, SqsMessage)) -> Message {
    let deliveries = record.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(1);
    let (body, facts, outcomes) = (record.body.unwrap_or_default(), Vec::new(), Vec::new());
    let mut message =
        Message { id, body, deliveries, facts, outcomes, parked: 0, ignored: BTreeMap::new(), failure: None };
    let reading = async {
        let mut parked = Vec::new();
        for reading in usher_chain::read(&message.body, chains) {
            match reading {
                Reading::Fact(fact) => message.facts.push(fact),
                Reading::Ignored(reason) => *message.ignored.entry(reason.as_str()).or_default() += 1,
                Reading::Parked(log) => parked.push(log),
            }
        }
        message.parked = parked.len();
        park_all(store, parked).await
    };
    match AssertUnwindSafe(reading).catch_unwind().await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => message.failure = Some(format!("not parked: {}", Chain(&error))),
        Err(panic) => message.panicked(&*panic),
    }
    message.outcomes = message.facts.iter().map(|_| None).collect();
    message
}

async fn park_all(store: &Store, parked: Vec<Parked>) -> Result<(), StoreError> {
    stream::iter(parked).map(Ok).try_for_each_concurrent(PARKED_AT_ONCE, |log| park(store, log)).await
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

/// Records those facts of all messages, by the message's place, that `wanted` names. If that panics, each message's by
/// themselves, so that a panic is the failure of the message that causes it. (What the first attempt stored is known to
/// the second, and the clock finds the events that it made due.) Returns the events that became due.
async fn record_all(
    store: &Store,
    messages: &mut [Message],
    wanted: impl Fn(usize, &Fact) -> bool,
) -> BTreeSet<EventKey> {
    let each: Vec<Vec<(usize, Fact)>> = messages
        .iter()
        .enumerate()
        .map(|(message, it)| {
            let wanted = it.facts.iter().enumerate().filter(|(_, fact)| wanted(message, fact));
            wanted.map(|(index, fact)| (index, fact.clone())).collect()
        })
        .collect();
    let all: Vec<Fact> = each.iter().flatten().map(|(_, fact)| fact.clone()).collect();
    if all.is_empty() {
        return BTreeSet::new();
    }
    if let Ok(recorded) = AssertUnwindSafe(store.record(&all)).catch_unwind().await {
        let mut outcomes = recorded.outcomes.into_iter();
        for (message, facts) in messages.iter_mut().zip(each) {
            for (index, _) in facts {
                message.outcomes[index] = outcomes.next();
            }
        }
        return recorded.due;
    }
    let mut due = BTreeSet::new();
    for (message, facts) in messages.iter_mut().zip(each) {
        let (indices, facts): (Vec<usize>, Vec<Fact>) = facts.into_iter().unzip();
        match AssertUnwindSafe(store.record(&facts)).catch_unwind().await {
            Ok(recorded) => {
                due.extend(recorded.due);
                for (index, outcome) in indices.into_iter().zip(recorded.outcomes) {
                    message.outcomes[index] = Some(outcome);
                }
            }
            Err(panic) => message.panicked(&*panic),
        }
    }
    due
}

/// Says what became of a message. Returns how many of its facts were dropped.
fn conclude(message: &mut Message) -> usize {
    let (mut new, mut known, mut waiting, mut dropped, mut failed) = (0, 0, 0, 0, 0);
    for outcome in message.outcomes.iter().flatten() {
        match outcome {
            Outcome::New => new += 1,
            Outcome::Known => known += 1,
            Outcome::Waiting => waiting += 1,
            // A kiosk that nobody announced and that emits that much is noise; the cap is the answer to it.
            Outcome::NoRoom => dropped += 1,
            Outcome::Failed(error) => {
                failed += 1;
                message.failure.get_or_insert_with(|| format!("not recorded: {}", Chain(&**error)));
            }
        }
    }
    let Message { id, facts, parked, ignored, failure, .. } = message;
    let about = about(facts);
    let ignored = ignored.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ");
    if dropped > 0 {
        warn!(message.id = id, dropped, about, "too much waits for a kiosk that no event has announced: not kept");
    }
    if let Some(failure) = failure {
        error!(
            message.id = id,
            outcome = "failed",
            failure,
            new,
            known,
            waiting,
            dropped,
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
            dropped,
            parked,
            ignored,
            about,
            "message stored"
        );
    }
    dropped
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
