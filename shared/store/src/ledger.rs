//! The ledger: facts go in, in any order and any number of times; who holds which ticket comes out.
//!
//! A batch is folded per kiosk into transactions of at most [`TICKETS_MAX`] tickets. One transaction stores the facts,
//! the holdings they fold to, and marks the event due. Each ticket has a version that its transaction is conditioned
//! on, so a holding is always the fold of exactly the stored facts; whoever is overtaken reads again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alloy_primitives::Address;
use futures::future::BoxFuture;
use futures::future::try_join_all;
use usher_domain::{EventKey, Fact, KioskKey, TicketKey, What, ticket, ticket::Holding};

use crate::{
    Store, StoreError,
    event::{Since, mark_changed, oldest_block_s},
    fact::{Subject, kiosk_pk, read},
    item::{from_json, json, named, number},
    table::{Condition, Item, Key, Kind, Query, SK, TRANSACTION_WRITES_MAX, Table, Write},
};

/// The most tickets of one transaction.
pub const TICKETS_MAX: usize = 40;
/// The most former holders that are kept with a ticket; its facts name all.
pub const FORMER_MAX: usize = 64;
/// The most events that one kiosk's change can mark in its transaction.
pub(crate) const ANNOUNCERS_MAX: usize = 16;
/// How often a transaction overtaken by others is planned anew.
pub(crate) const ATTEMPTS_MAX: u32 = 24;
/// The most writes of facts and tickets in one transaction; the rest is for the kiosk and its events.
const WRITES_MAX: usize = TRANSACTION_WRITES_MAX - ANNOUNCERS_MAX - 1;

const TICKET: &str = "ticket#";
const HOLDING: &str = "holding";
const FORMER: &str = "former";
const VERSION: &str = "version";
const EVENTS: &str = "events";

/// What became of one fact.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It was stored, or its tombstone was.
    New,
    /// It was known.
    Known,
    /// Its kiosk is unknown; it waits for the kiosk to be announced, and expires.
    Waiting,
    /// Its kiosk is unknown and too many facts wait for it; it was not stored.
    NoRoom,
    /// It was not stored.
    Failed(Arc<StoreError>),
}

/// What became of a batch.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// What became of each fact, in the order given.
    pub outcomes: Vec<Outcome>,
    /// The events that are due because of it.
    pub due: BTreeSet<EventKey>,
}

impl Recorded {
    pub(crate) fn none_of(facts: usize) -> Self {
        Self { outcomes: vec![Outcome::Known; facts], due: BTreeSet::new() }
    }

    pub(crate) fn learned(&mut self, news: impl IntoIterator<Item = (usize, bool)>) {
        for (index, new) in news {
            self.outcomes[index] = if new { Outcome::New } else { Outcome::Known };
        }
    }
}

/// A ticket and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketRecord {
    /// Which ticket.
    pub ticket: TicketKey,
    /// Its holder, and what decided that.
    pub holding: Holding,
    /// Other wallets that a fact, live or retracted, says held it: the newest [`FORMER_MAX`], newest first.
    pub former: Vec<Address>,
}

/// A fact and its place in the batch.
pub(crate) type Numbered<'a> = (usize, &'a Fact);

impl Store {
    /// Stores facts and what follows from them. One fact's failure is not another's.
    pub fn record<'a>(&'a self, facts: &'a [Fact]) -> BoxFuture<'a, Recorded> {
        Box::pin(async move {
            let mut recorded = Recorded::none_of(facts.len());
            let mut mints: BTreeMap<EventKey, Vec<Numbered<'_>>> = BTreeMap::new();
            let mut kiosks: BTreeMap<KioskKey, Vec<Numbered<'_>>> = BTreeMap::new();
            for numbered in facts.iter().enumerate() {
                if let Some(incarnation) = numbered.1.incarnation() {
                    mints.entry(incarnation.event).or_default().push(numbered);
                } else if let Some(ticket) = numbered.1.ticket() {
                    kiosks.entry(ticket.kiosk).or_default().push(numbered);
                }
            }
            for (event, facts) in mints {
                let done = self.record_mints(&event, &facts, &mut recorded).await;
                fail(done, &facts, &mut recorded);
            }
            for (kiosk, facts) in kiosks {
                for facts in portions(&facts) {
                    let done = self.record_tickets_or_wait(&kiosk, facts, &mut recorded).await;
                    fail(done, facts, &mut recorded);
                }
            }
            recorded
        })
    }

    /// Whether a fact is recorded, and as retracted if it is a retraction. One that waits for its kiosk is not.
    pub async fn knows(&self, fact: &Fact) -> Result<bool, StoreError> {
        let subject = match (fact.incarnation(), fact.ticket()) {
            (Some(incarnation), _) => Subject::Event(incarnation.event),
            (None, Some(ticket)) => Subject::Ticket(ticket),
            (None, None) => return Ok(false),
        };
        let known = self.table.get(&subject.key(fact)).await?.as_ref().map(read).transpose()?;
        Ok(known.is_some_and(|known| known.retracted || !fact.retracted))
    }

    /// The events that announced `kiosk`, in the order they became known here; `None` if nobody did.
    pub async fn kiosk(&self, kiosk: &KioskKey) -> Result<Option<Vec<EventKey>>, StoreError> {
        self.table.get(&kiosk_key(kiosk)).await?.map(|item| from_json(&item, EVENTS)).transpose()
    }

    /// Every known ticket of a kiosk, in order of the ids' digits.
    pub async fn tickets(&self, kiosk: &KioskKey) -> Result<Vec<TicketRecord>, StoreError> {
        let rows = self.table.query(&Query::prefix(kiosk_pk(kiosk), TICKET)).await?;
        rows.iter().map(read_ticket).collect()
    }

    /// Every known fact of a ticket, retractions included, in order of position.
    pub async fn facts(&self, ticket: &TicketKey) -> Result<Vec<Fact>, StoreError> {
        Ok(Subject::Ticket(*ticket).facts(&self.table).await?.into_values().collect())
    }

    pub(crate) async fn record_tickets_or_wait(
        &self,
        kiosk: &KioskKey,
        facts: &[Numbered<'_>],
        recorded: &mut Recorded,
    ) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let settled = match self.kiosk(kiosk).await? {
                Some(events) => self.try_record_tickets(kiosk, &events, facts, recorded).await?,
                None => self.try_wait(kiosk, facts, recorded).await?,
            };
            if settled {
                return Ok(());
            }
        }
        Err(StoreError::Contended { attempts: ATTEMPTS_MAX })
    }

    /// Whether it is done; if not, somebody else was faster and it must be planned anew.
    async fn try_record_tickets(
        &self,
        kiosk: &KioskKey,
        events: &[EventKey],
        facts: &[Numbered<'_>],
        recorded: &mut Recorded,
    ) -> Result<bool, StoreError> {
        let mut tickets: BTreeMap<TicketKey, Vec<Numbered<'_>>> = BTreeMap::new();
        for numbered in facts {
            tickets.entry(numbered.1.ticket().expect("filed as a ticket's")).or_default().push(*numbered);
        }
        let plans = try_join_all(tickets.into_iter().map(|(ticket, facts)| self.plan_ticket(ticket, facts))).await?;

        let mut writes: Vec<_> = plans.iter().flat_map(|plan| plan.writes.iter().cloned()).collect();
        let changed = plans.iter().any(|plan| plan.changed);
        if !writes.is_empty() {
            writes.push(kiosk_unchanged(kiosk, Some(events)));
            if changed {
                let block_s = plans.iter().filter(|plan| plan.changed).filter_map(|plan| plan.block_s).min();
                let since = Since { now_ms: self.clock.now_ms(), block_s };
                writes.extend(events.iter().map(|event| mark_changed(event, since)));
            }
            if !settled(self.table.transact(&writes).await)? {
                return Ok(false);
            }
        }
        recorded.learned(plans.into_iter().flat_map(|plan| plan.news));
        if changed {
            recorded.due.extend(events);
        }
        Ok(true)
    }

    async fn plan_ticket(&self, ticket: TicketKey, facts: Vec<Numbered<'_>>) -> Result<TicketPlan, StoreError> {
        // The version first: facts that come in between make the write fail, not the fold.
        let key = ticket_key(&ticket);
        let stored = self.table.get(&key).await?;
        let version = stored.as_ref().map(|item| number(item, VERSION)).transpose()?;
        let before = stored.as_ref().map(|item| from_json::<StoredHolding>(item, HOLDING)).transpose()?;

        let subject = Subject::Ticket(ticket);
        let mut known = subject.facts(&self.table).await?;
        let (mut writes, news) = subject.learn(&facts, &mut known);
        if writes.is_empty() {
            return Ok(TicketPlan { writes, news, changed: false, block_s: None });
        }
        let block_s = oldest_block_s(&facts, &news);
        let known: Vec<_> = known.into_values().collect();
        let holding = StoredHolding::from(ticket::fold(&known));
        let item = Item::from([
            (HOLDING.into(), json(&holding)),
            (FORMER.into(), json(&former_holders(&known, holding.holder))),
            (VERSION.into(), (version.unwrap_or(0) + 1).into()),
        ]);
        writes.push(Write::put(key, item).when(Condition::is(VERSION, version)));
        Ok(TicketPlan { writes, news, changed: holding != before.unwrap_or_default(), block_s })
    }
}

/// What one ticket's new facts ask of the transaction.
struct TicketPlan {
    writes: Vec<Write>,
    /// Of each fact, whether it is new.
    news: Vec<(usize, bool)>,
    /// Whether the holding is another.
    changed: bool,
    /// When the oldest block of what is new was made, in seconds since 1970, if that was said.
    block_s: Option<u64>,
}

/// A ticket's holding as stored; a type of its own, because its form outlives a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
struct StoredHolding {
    holder: Option<Address>,
    position: Option<usher_domain::Position>,
    disputed: bool,
}

impl From<Holding> for StoredHolding {
    fn from(Holding { holder, position, disputed }: Holding) -> Self {
        Self { holder, position, disputed }
    }
}

impl From<StoredHolding> for Holding {
    fn from(StoredHolding { holder, position, disputed }: StoredHolding) -> Self {
        Self { holder, position, disputed }
    }
}

fn read_ticket(item: &Item) -> Result<TicketRecord, StoreError> {
    let kiosk: KioskKey = named(item, crate::table::PK, "kiosk#")?;
    let token_id = named(item, SK, TICKET)?;
    let holding: StoredHolding = from_json(item, HOLDING)?;
    let former = from_json(item, FORMER)?;
    Ok(TicketRecord { ticket: TicketKey { kiosk, token_id }, holding: holding.into(), former })
}

/// Who is named as having held the ticket and does not hold it; `known` is in order of position.
fn former_holders(known: &[Fact], holder: Option<Address>) -> Vec<Address> {
    let named = known.iter().rev().flat_map(|fact| match fact.what {
        What::EventMinted(_) => [None, None],
        What::TicketTransferred { from, to, .. } => [Some(to), Some(from)],
        What::TicketMinted { buyer, .. } => [Some(buyer), None],
        What::TicketRefunded { holder, .. } => [Some(holder), None],
    });
    let mut seen = BTreeSet::from([Address::ZERO]);
    seen.extend(holder);
    named.flatten().filter(|wallet| seen.insert(*wallet)).take(FORMER_MAX).collect()
}

fn ticket_key(ticket: &TicketKey) -> Key {
    Key::new(kiosk_pk(&ticket.kiosk), format!("{TICKET}{}", ticket.token_id))
}

fn kiosk_key(kiosk: &KioskKey) -> Key {
    Key::new(kiosk_pk(kiosk), "kiosk")
}

/// Checks that exactly these events announced the kiosk, as read; `None`: that nobody did.
pub(crate) fn kiosk_unchanged(kiosk: &KioskKey, events: Option<&[EventKey]>) -> Write {
    Write::check(kiosk_key(kiosk), Condition::is(EVENTS, events.map(|events| json(&events))))
}

/// Stores that these events announced the kiosk, instead of those read.
pub(crate) fn kiosk_announced(kiosk: &KioskKey, before: Option<&[EventKey]>, events: &[EventKey]) -> Write {
    Write::put(kiosk_key(kiosk), Item::from([(EVENTS.into(), json(&events))]))
        .when(Condition::is(EVENTS, before.map(|events| json(&events))))
}

/// Whether a transaction went through; not, if others were faster.
pub(crate) fn settled(done: Result<(), crate::TableError>) -> Result<bool, StoreError> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), Kind::ConditionFailed | Kind::Conflict) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Portions that fit into one transaction each.
pub(crate) fn portions<'a, 'f>(facts: &'a [Numbered<'f>]) -> Vec<&'a [Numbered<'f>]> {
    let mut portions = Vec::new();
    let (mut begin, mut tickets) = (0, BTreeSet::new());
    for (end, (_, fact)) in facts.iter().enumerate() {
        tickets.insert(fact.ticket());
        if tickets.len() > TICKETS_MAX || tickets.len() + (end - begin) + 1 > WRITES_MAX {
            portions.push(&facts[begin..end]);
            begin = end;
            tickets = BTreeSet::from([fact.ticket()]);
        }
    }
    if begin < facts.len() {
        portions.push(&facts[begin..]);
    }
    portions
}

fn fail(done: Result<(), StoreError>, facts: &[Numbered<'_>], recorded: &mut Recorded) {
    if let Err(error) = done {
        let error = Arc::new(error);
        for (index, _) in facts {
            recorded.outcomes[*index] = Outcome::Failed(error.clone());
        }
    }
}
