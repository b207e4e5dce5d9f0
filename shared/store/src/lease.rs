//! Who may work on an event, and when it must be looked at.
//!
//! The lease keeps two from doing the same work; it is not what keeps them from harming each other. That is the
//! fence: every lease has a greater number than the one before, and what the holder writes durably is conditioned on
//! its number (see [`Snapshots`](crate::Snapshots)). A wrong clock costs work done twice, nothing else.

use futures::future::try_join_all;
use sha2::{Digest, Sha256};
use usher_domain::{EventKey, planted::Bug};

use crate::{
    Store, StoreError,
    event::{REPLAY, event_key},
    item::{named, number, text},
    ledger::{ATTEMPTS_MAX, settled},
    table::{Attributes, Condition, DUE_AT_MS, DUE_SHARD, Item, Key, PK, Step, Table, Write},
};

/// How many shards the due index has.
pub const DUE_SHARDS: u8 = 8;

pub(crate) const GENERATION: &str = "generation";
pub(crate) const CONVERGED: &str = "converged_generation";
pub(crate) const FENCE: &str = "fence";
/// Since when something should be that is not: the oldest change that no convergence has covered.
pub(crate) const BEHIND_SINCE_MS: &str = "behind_since_ms";
/// When the block was made of the first change since then whose log says so, in milliseconds since 1970.
pub(crate) const BEHIND_BLOCK_MS: &str = "behind_block_ms";
const OWNER: &str = "lease_owner";
const UNTIL_MS: &str = "lease_until_ms";
/// Counts the calls of [`Store::mark_due`]: a holder's release must not wipe a mark that it has not seen.
const MARKS: &str = "marks";

/// The right to work on an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which event.
    pub event: EventKey,
    /// Who holds it.
    pub owner: String,
    /// The lease's number, greater than any before it.
    pub fence: u64,
    /// When it ends by itself, in milliseconds since 1970.
    pub until_ms: u64,
    /// The newest generation when the lease was taken, or last looked at: what to converge to.
    pub generation: u64,
    /// Since when the rooms were behind the chain, in milliseconds since 1970; `None` if they were not. That is when the
    /// ledger took the oldest change that no convergence has covered, or when the block of the first of them that says so
    /// was made, whichever is earlier.
    pub behind_chain_since_ms: Option<u64>,
    /// How often others had asked for a look at the event by then.
    marks: Option<u64>,
}

/// Somebody else's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Who holds it.
    pub owner: String,
    /// When it ends by itself, in milliseconds since 1970.
    pub until_ms: u64,
}

impl Held {
    pub(crate) fn read(item: &Item) -> Option<Self> {
        Some(Self { owner: item.text(OWNER)?.to_owned(), until_ms: item.number(UNTIL_MS)? })
    }
}

/// The answer to taking a lease. Conflicts and throttles are errors, not answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Take {
    /// It is yours.
    Taken(Lease),
    /// Somebody else has it: nothing more to do.
    HeldByOther(Held),
    /// There is no such event.
    NoSuchEvent,
}

/// The answer to releasing a lease as converged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// The event is at rest, or due at the time given.
    Released,
    /// There is something new: the lease is still yours, go round again with this one.
    NewWork(Lease),
    /// Somebody else has taken the lease since: drop everything.
    Fenced,
}

impl Store {
    /// Takes the lease of an event until `until_ms`, if nobody holds it at `now_ms`. While it is held the event is
    /// due, so that whatever happens to its holder it is looked at again.
    ///
    /// `owner` names one attempt to work on the event, e.g. an invocation: it recognises itself in a write that was
    /// sent twice. Who takes one event twice at the same time must use two owners.
    pub async fn take(&self, event: &EventKey, owner: &str, now_ms: u64, until_ms: u64) -> Result<Take, StoreError> {
        let mut steps = hold(owner, until_ms);
        // Also if it was due later: whoever looks at it may leave work behind that nobody was to look at before.
        steps.extend(due_at(event, Some(now_ms)));
        let take = Write::update(event_key(event), steps).when(Condition::ITEM_EXISTS.and(free(now_ms)));
        match self.table.write(&take).await {
            Ok(item) => Ok(Take::Taken(Lease::read(event, &item)?)),
            Err(error) => match error.failed_condition(0) {
                Some(None) => Ok(Take::NoSuchEvent),
                Some(Some(item)) => match Held::read(item) {
                    Some(held) if held.owner == owner => Ok(Take::Taken(Lease::read(event, item)?)),
                    Some(held) => Ok(Take::HeldByOther(held)),
                    None => Err(error.into()),
                },
                None => Err(error.into()),
            },
        }
    }

    /// Gives the lease back because the rooms equal generation `converged` (the lease's), unless there is something
    /// new: a newer generation, a due mark, or waiting facts still to be replayed. The event is then at
    /// rest, or due at `again_at_ms`.
    pub async fn release(&self, lease: &Lease, again_at_ms: Option<u64>) -> Result<Release, StoreError> {
        let mut steps = [OWNER, UNTIL_MS, BEHIND_SINCE_MS, BEHIND_BLOCK_MS].map(Step::Remove).to_vec();
        steps.push(Step::set(CONVERGED, lease.generation));
        steps.extend(due_at(&lease.event, again_at_ms));
        let nothing_new =
            if Bug::ReleaseUnchecked.is_planted() { Condition::equals(FENCE, lease.fence) } else { nothing_new(lease) };
        match self.table.write(&Write::update(event_key(&lease.event), steps).when(nothing_new)).await {
            Ok(_) => Ok(Release::Released),
            Err(error) => match error.failed_condition(0) {
                Some(Some(item)) if item.number(FENCE) == Some(lease.fence) => {
                    if item.contains_key(OWNER) {
                        Ok(Release::NewWork(Lease::read(&lease.event, item)?))
                    } else {
                        // Nobody else can have released it: this very write was sent twice.
                        Ok(Release::Released)
                    }
                }
                Some(_) => Ok(Release::Fenced),
                None => Err(error.into()),
            },
        }
    }

    /// Gives the lease back with work left to do; the event stays due, and is behind from now on if it was not. Does
    /// nothing if it is somebody else's by now.
    pub async fn abandon(&self, lease: &Lease) -> Result<(), StoreError> {
        let behind = Step::SetIfAbsent(BEHIND_SINCE_MS, self.clock.now_ms().into());
        self.let_go(event_key(&lease.event), &lease.owner, lease.fence, vec![behind]).await
    }

    /// Takes the lease of the account, which belongs to no event; `None` if somebody else holds it. `owner` as in
    /// [`Store::take`].
    pub async fn take_account(
        &self,
        owner: &str,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<AccountLease>, StoreError> {
        let take = Write::update(account_key(), hold(owner, until_ms)).when(free(now_ms));
        match self.table.write(&take).await {
            Ok(item) => AccountLease::read(&item).map(Some),
            Err(error) => match error.failed_condition(0) {
                Some(Some(item)) if item.text(OWNER) == Some(owner) => AccountLease::read(item).map(Some),
                Some(_) => Ok(None),
                None => Err(error.into()),
            },
        }
    }

    /// Gives the account's lease back. Does nothing if it is somebody else's by now.
    pub async fn release_account(&self, lease: &AccountLease) -> Result<(), StoreError> {
        self.let_go(account_key(), &lease.owner, lease.fence, Vec::new()).await
    }

    async fn let_go(&self, key: Key, owner: &str, fence: u64, mut steps: Vec<Step>) -> Result<(), StoreError> {
        steps.extend([Step::Remove(OWNER), Step::Remove(UNTIL_MS)]);
        let mine = Condition::equals(FENCE, fence).and(Condition::equals(OWNER, owner));
        match self.table.write(&Write::update(key, steps).when(mine)).await {
            Err(error) if error.failed_condition(0).is_none() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Has an event looked at, at `at_ms` or earlier: sets the due mark or moves it earlier, never later. Somebody who
    /// holds the event at that time goes round once more. Whether there is such an event.
    ///
    /// For others than the holder; the holder says when it wants to be back in [`Store::release`].
    pub async fn mark_due(&self, event: &EventKey, at_ms: u64) -> Result<bool, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(item) = self.table.get(&event_key(event)).await? else { return Ok(false) };
            let due_at_ms = item.number(DUE_AT_MS);
            let earliest_ms = due_at_ms.map_or(at_ms, |due_at_ms| due_at_ms.min(at_ms));
            let mut steps = due_at(event, Some(earliest_ms)).to_vec();
            steps.push(Step::Add(MARKS, 1));
            let unchanged = Condition::ITEM_EXISTS.and(Condition::is(DUE_AT_MS, due_at_ms));
            let marked = self.table.write(&Write::update(event_key(event), steps).when(unchanged)).await;
            if settled(marked.map(drop))? {
                return Ok(true);
            }
        }
        Err(StoreError::Contended { attempts: ATTEMPTS_MAX })
    }

    /// The events due at `now_ms`, at most `limit`, those due longest first. Eventually consistent.
    pub async fn due(&self, now_ms: u64, limit: usize) -> Result<Vec<Due>, StoreError> {
        let shards: Vec<_> = (0..DUE_SHARDS).map(|shard| shard.to_string()).collect();
        let found = try_join_all(shards.iter().map(|shard| self.table.due(shard, now_ms, limit))).await?;
        let mut due = found.iter().flatten().map(read_due).collect::<Result<Vec<_>, _>>()?;
        due.sort_by_key(|due| (due.at_ms, due.event));
        due.truncate(limit);
        Ok(due)
    }
}

impl Lease {
    /// A condition for a transaction: that no newer lease has the event.
    pub fn still_mine(&self) -> Write {
        Write::check(event_key(&self.event), Condition::equals(FENCE, self.fence))
    }

    /// The lease that an event's item bears.
    fn read(event: &EventKey, item: &Item) -> Result<Self, StoreError> {
        Ok(Self {
            event: *event,
            owner: text(item, OWNER)?.to_owned(),
            fence: number(item, FENCE)?,
            until_ms: number(item, UNTIL_MS)?,
            generation: number(item, GENERATION)?,
            behind_chain_since_ms: item
                .number(BEHIND_SINCE_MS)
                .map(|since_ms| item.number(BEHIND_BLOCK_MS).map_or(since_ms, |block_ms| block_ms.min(since_ms))),
            marks: item.number(MARKS),
        })
    }
}

/// The right to work on the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountLease {
    /// Who holds it.
    pub owner: String,
    /// The lease's number, greater than any before it.
    pub fence: u64,
    /// When it ends by itself, in milliseconds since 1970.
    pub until_ms: u64,
}

impl AccountLease {
    fn read(item: &Item) -> Result<Self, StoreError> {
        let owner = text(item, OWNER)?.to_owned();
        Ok(Self { owner, fence: number(item, FENCE)?, until_ms: number(item, UNTIL_MS)? })
    }
}

fn account_key() -> Key {
    Key::new("account", "lease")
}

/// Nothing has happened since the lease's holder looked last.
fn nothing_new(lease: &Lease) -> Condition {
    Condition::And(vec![
        Condition::equals(FENCE, lease.fence),
        Condition::equals(OWNER, lease.owner.as_str()),
        Condition::equals(GENERATION, lease.generation),
        Condition::is(MARKS, lease.marks),
        Condition::Absent(REPLAY),
    ])
}

/// Nobody holds the lease.
fn free(now_ms: u64) -> Condition {
    Condition::Absent(OWNER).or(Condition::less_than(UNTIL_MS, now_ms))
}

/// The lease is `owner`'s, under the next number.
fn hold(owner: &str, until_ms: u64) -> Vec<Step> {
    vec![Step::set(OWNER, owner), Step::set(UNTIL_MS, until_ms), Step::Add(FENCE, 1)]
}

/// An event that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Which event.
    pub event: EventKey,
    /// Since when, in milliseconds since 1970.
    pub at_ms: u64,
}

fn read_due(item: &Item) -> Result<Due, StoreError> {
    Ok(Due { event: named(item, PK, "event#")?, at_ms: number(item, DUE_AT_MS)? })
}

/// Sets or removes the due mark: both attributes of the index together.
pub(crate) fn due_at(event: &EventKey, at_ms: Option<u64>) -> [Step; 2] {
    match at_ms {
        Some(at_ms) => [Step::set(DUE_AT_MS, at_ms), Step::set(DUE_SHARD, due_shard(event))],
        None => [Step::Remove(DUE_AT_MS), Step::Remove(DUE_SHARD)],
    }
}

/// The shard of the due index that an event is in.
fn due_shard(event: &EventKey) -> String {
    (Sha256::digest(event.to_string())[0] % DUE_SHARDS).to_string()
}
