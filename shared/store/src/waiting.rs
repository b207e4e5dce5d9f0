//! Facts of kiosks nobody has announced yet. Anyone can emit logs, so they are capped per kiosk and expire.
//!
//! A fact is left to wait in one transaction that checks that its kiosk is still unknown; announcing the kiosk
//! commits first. So once a kiosk is known nothing new comes to wait for it, and replaying until nothing is left
//! misses nothing. The event bears a mark until then, which keeps it due: a replay that died is taken up again.

use std::collections::BTreeMap;

use usher_domain::{EventKey, Fact, KioskKey};

use crate::{
    Store, StoreError,
    event::{REPLAY, event_key},
    fact,
    item::{from_json_if_any, json},
    ledger::{ATTEMPTS_MAX, Numbered, Outcome, Recorded, kiosk_unchanged, portions, settled},
    table::{Attributes, Condition, EXPIRES_AT_S, Key, Kind, Query, Step, Table, TableError, Write},
};

/// The most facts that wait for one kiosk.
pub const WAITING_MAX: u64 = 2_000;
/// How long a fact waits, in seconds.
pub const WAITING_S: u64 = 7 * 24 * 60 * 60;
/// How many waiting facts are replayed at a time.
const REPLAYED_AT_ONCE: usize = 40;

const COUNT: &str = "count";
const PREFIX: &str = "fact#";
/// Where in a waiting transaction the kiosk's check and the count stand; the rows follow.
const KIOSK_AT: usize = 0;
const COUNT_AT: usize = 1;
const ROWS_AT: usize = 2;

/// Waiting facts by sort key, with their places in the batch.
type Rows<'a> = BTreeMap<String, (&'a Fact, Vec<usize>)>;

impl Store {
    /// Leaves facts to wait. Whether it is done; if not, the kiosk is known by now, or others were faster.
    pub(crate) async fn try_wait(
        &self,
        kiosk: &KioskKey,
        facts: &[Numbered<'_>],
        recorded: &mut Recorded,
    ) -> Result<bool, StoreError> {
        let mut rows = Rows::new();
        for (index, fact) in facts {
            rows.entry(sort_key(fact)).or_insert((fact, Vec::new())).1.push(*index);
        }
        let mut settle = |indices: &[usize], outcome: Outcome| {
            indices.iter().for_each(|index| recorded.outcomes[*index] = outcome.clone());
        };
        // Every turn but the last leaves rows out; a turn that leaves out none means that others were faster.
        while !rows.is_empty() {
            let Err(error) = self.table.transact(&self.waiting_writes(kiosk, &rows)).await else {
                rows.values().for_each(|(_, indices)| settle(indices, Outcome::Waiting));
                return Ok(true);
            };
            if !matches!(error.kind(), Kind::ConditionFailed) {
                return settled(Err(error));
            }
            if error.failed_condition(KIOSK_AT).is_some() {
                return Ok(false);
            }
            let before = rows.len();
            for key in already_waiting(&rows, &error) {
                let (_, indices) = rows.remove(&key).expect("is one of the rows");
                settle(&indices, Outcome::Waiting);
            }
            if let Some(count) = error.failed_condition(COUNT_AT) {
                let count = count.and_then(|item| item.number(COUNT)).unwrap_or(0);
                let room = usize::try_from(WAITING_MAX.saturating_sub(count)).unwrap_or(usize::MAX);
                while rows.len() > room {
                    let (_, (_, indices)) = rows.pop_last().expect("is not empty");
                    settle(&indices, Outcome::NoRoom);
                }
            }
            if rows.len() == before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn waiting_writes(&self, kiosk: &KioskKey, rows: &Rows<'_>) -> Vec<Write> {
        let expires_at_s = self.clock.now_ms() / 1000 + WAITING_S;
        let count = Write::update(
            count_key(kiosk),
            vec![Step::Add(COUNT, rows.len() as u64), Step::SetIfAbsent(EXPIRES_AT_S, expires_at_s.into())],
        )
        .when(Condition::Absent(COUNT).or(Condition::less_than(COUNT, WAITING_MAX + 1 - rows.len() as u64)));
        let row = |(key, (fact, _)): (&String, &(&Fact, Vec<usize>))| {
            let mut item = fact::row(fact);
            item.insert(EXPIRES_AT_S.into(), expires_at_s.into());
            Write::put(Key::new(waiting_pk(kiosk), key), item).when(Condition::ITEM_ABSENT)
        };
        [kiosk_unchanged(kiosk, None), count].into_iter().chain(rows.iter().map(row)).collect()
    }

    /// Records what waits for the kiosks that `event` announced, if that was not finished; cheap if it was. An event
    /// is not released as converged before this is done.
    pub async fn replay(&self, event: &EventKey) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(item) = self.table.get(&event_key(event)).await? else { return Ok(()) };
            let Some(kiosks) = from_json_if_any::<Vec<KioskKey>>(&item, REPLAY)? else { return Ok(()) };
            for kiosk in &kiosks {
                self.replay_kiosk(kiosk).await?;
            }
            let done = Write::update(event_key(event), vec![Step::Remove(REPLAY)])
                .when(Condition::equals(REPLAY, json(&kiosks)));
            if settled(self.table.write(&done).await.map(drop))? {
                return Ok(());
            }
        }
        Err(StoreError::Contended { attempts: ATTEMPTS_MAX })
    }

    async fn replay_kiosk(&self, kiosk: &KioskKey) -> Result<(), StoreError> {
        let next = Query::prefix(waiting_pk(kiosk), PREFIX).limit(REPLAYED_AT_ONCE);
        loop {
            let rows = self.table.query(&next).await?;
            if rows.is_empty() {
                self.table.write(&Write::delete(count_key(kiosk))).await?;
                return Ok(());
            }
            let facts = rows.iter().map(fact::read).collect::<Result<Vec<_>, _>>()?;
            let numbered: Vec<_> = facts.iter().enumerate().collect();
            let mut recorded = Recorded::none_of(facts.len());
            for portion in portions(&numbered) {
                self.record_tickets_or_wait(kiosk, portion, &mut recorded).await?;
            }
            // Only now: if we die here, they are recorded again, as known.
            let keys = facts.iter().map(|fact| Key::new(waiting_pk(kiosk), sort_key(fact)));
            self.table.transact(&keys.map(Write::delete).collect::<Vec<_>>()).await?;
        }
    }
}

/// The rows that the transaction found waiting already.
fn already_waiting(rows: &Rows<'_>, error: &TableError) -> Vec<String> {
    let waiting = |(at, _): &(usize, &String)| error.failed_condition(ROWS_AT + at).is_some();
    rows.keys().enumerate().filter(waiting).map(|(_, key)| key.clone()).collect()
}

fn waiting_pk(kiosk: &KioskKey) -> String {
    format!("waiting#{kiosk}")
}

fn count_key(kiosk: &KioskKey) -> Key {
    Key::new(waiting_pk(kiosk), COUNT)
}

/// A log and its retraction wait apart: either may expire or be replayed alone.
fn sort_key(fact: &Fact) -> String {
    let token_id = fact.ticket().map(|ticket| ticket.token_id).unwrap_or_default();
    let tombstone = if fact.retracted { "#retracted" } else { "" };
    format!("{PREFIX}{token_id}#{}{tombstone}", fact::name(fact))
}
