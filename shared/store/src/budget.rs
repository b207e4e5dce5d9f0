//! How much the XMTP node still takes from this deployment's address, in one item that all functions share.
//!
//! The node keeps a bucket of tokens for each address and class of call, refills it only by whole minutes in which the
//! address was silent, and restarts that minute with every call, refused ones included. The item mirrors the buckets.
//! Functions reserve tokens ahead, in portions: an unused one is lost, never lent twice, so that the mirror never shows
//! more than the node has, as long as nobody else calls from the same address. When somebody does, the node says so by
//! a refusal: the mirror is corrected, and everybody is quiet for a minute.

use serde::{Deserialize, Serialize};

use crate::{
    Kind, Store, StoreError, Table,
    item::{from_json_if_any, json},
    ledger::ATTEMPTS_MAX,
    table::{Attributes, Condition, Item, Key, Write},
};

/// How long reserved tokens may be spent, in milliseconds.
pub const PORTION_LIFE_MS: u64 = 10_000;
/// What the node takes for silence, in milliseconds.
const SILENCE_MS: u64 = 60_000;
/// After a refusal: the silence, and whatever others had reserved by then.
const QUIET_MS: u64 = SILENCE_MS + PORTION_LIFE_MS;
/// The last one in so many tokens of a bucket is for removals alone.
const REMOVALS_SHARE: u64 = 5;

const STATE: &str = "state";
const VERSION: &str = "version";

/// One bucket of the node's limiter, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// What it holds when full.
    pub max_tokens: u64,
    /// What a whole minute of silence puts back.
    pub per_minute: u64,
}

/// The node's limits for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// For [`Class::Publish`].
    pub publish: Bucket,
    /// For [`Class::Default`].
    pub default: Bucket,
}

impl Default for RateLimits {
    /// What XMTP documents for its hosted networks, with the refill of its node's code.
    fn default() -> Self {
        Self {
            publish: Bucket { max_tokens: 3000, per_minute: 600 },
            default: Bucket { max_tokens: 20_000, per_minute: 4000 },
        }
    }
}

impl RateLimits {
    fn of(&self, class: Class) -> Bucket {
        match class {
            Class::Publish => self.publish,
            Class::Default => self.default,
        }
    }
}

/// What a call is to the limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A group message or a welcome costs one token, and so does a key package or an identity update.
    Publish,
    /// Every other call costs one.
    Default,
}

/// Who may spend how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// All but the last fifth of a bucket.
    Any,
    /// All of it.
    Removal,
}

/// The answer to a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// So many tokens, at least those needed, to be spent within [`PORTION_LIFE_MS`].
    Granted(u64),
    /// The node refused somebody: nobody calls before this time, in milliseconds since 1970.
    Quiet(u64),
    /// The share is spent. There is more at this time, in milliseconds since 1970, if nobody spends until then.
    Spent(u64),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    publish: Tally,
    default: Tally,
    quiet_until_ms: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    /// Tokens that are gone from the bucket.
    spent: u64,
    /// When the last of them were reserved.
    at_ms: u64,
}

impl Tally {
    /// The same with what silence has put back by now.
    fn refilled(self, bucket: Bucket, now_ms: u64) -> Self {
        let minutes = now_ms.saturating_sub(self.at_ms + PORTION_LIFE_MS) / SILENCE_MS;
        Self { spent: self.spent.saturating_sub(minutes.saturating_mul(bucket.per_minute)), ..self }
    }
}

impl State {
    fn tally(&mut self, class: Class) -> &mut Tally {
        match class {
            Class::Publish => &mut self.publish,
            Class::Default => &mut self.default,
        }
    }

    fn reserve(
        &mut self,
        bucket: Bucket,
        class: Class,
        purpose: Purpose,
        needed: u64,
        wanted: u64,
        now_ms: u64,
    ) -> Reserved {
        if now_ms < self.quiet_until_ms {
            return Reserved::Quiet(self.quiet_until_ms);
        }
        let share = match purpose {
            Purpose::Any => bucket.max_tokens - bucket.max_tokens / REMOVALS_SHARE,
            Purpose::Removal => bucket.max_tokens,
        };
        let before = *self.tally(class);
        let tally = before.refilled(bucket, now_ms);
        let left = share.saturating_sub(tally.spent);
        if left < needed {
            let missing = (before.spent + needed).saturating_sub(share);
            let minutes = missing.div_ceil(bucket.per_minute.max(1));
            return Reserved::Spent(before.at_ms + PORTION_LIFE_MS + minutes.saturating_mul(SILENCE_MS));
        }
        let granted = wanted.clamp(needed, left);
        *self.tally(class) = Tally { spent: tally.spent + granted, at_ms: now_ms };
        Reserved::Granted(granted)
    }
}

impl Store {
    /// Reserves at least `needed` tokens, `wanted` if there are so many.
    pub async fn reserve(
        &self,
        limits: &RateLimits,
        class: Class,
        purpose: Purpose,
        needed: u64,
        wanted: u64,
    ) -> Result<Reserved, StoreError> {
        let now_ms = self.clock.now_ms();
        self.change_budget(|state| state.reserve(limits.of(class), class, purpose, needed, wanted, now_ms)).await
    }

    /// Notes that the node refused a call of this class just now; returns until when everybody is quiet, in
    /// milliseconds since 1970.
    pub async fn refused(&self, limits: &RateLimits, class: Class) -> Result<u64, StoreError> {
        let now_ms = self.clock.now_ms();
        let quiet = |state: &mut State| {
            *state.tally(class) = Tally { spent: limits.of(class).max_tokens, at_ms: now_ms };
            state.quiet_until_ms = state.quiet_until_ms.max(now_ms + QUIET_MS);
            state.quiet_until_ms
        };
        self.change_budget(quiet).await
    }

    /// Until when everybody is quiet, in milliseconds since 1970; in the past if nobody need be.
    pub async fn quiet_until_ms(&self) -> Result<u64, StoreError> {
        let item = self.table.get(&key()).await?.unwrap_or_default();
        Ok(read(&item)?.quiet_until_ms)
    }

    /// Changes the item as one; writes nothing if `change` leaves it as it is.
    async fn change_budget<R>(&self, change: impl Fn(&mut State) -> R) -> Result<R, StoreError> {
        let mut item = self.table.get(&key()).await?.unwrap_or_default();
        for _ in 0..ATTEMPTS_MAX {
            let before = read(&item)?;
            let mut after = before.clone();
            let result = change(&mut after);
            if after == before {
                return Ok(result);
            }
            let version = item.number(VERSION);
            let new = Item::from([(STATE.into(), json(&after)), (VERSION.into(), (version.unwrap_or(0) + 1).into())]);
            match self.table.write(&Write::put(key(), new).when(Condition::is(VERSION, version))).await {
                Ok(_) => return Ok(result),
                Err(error) if error.kind() == Kind::Conflict => {}
                Err(error) => match error.failed_condition(0) {
                    Some(newer) => item = newer.cloned().unwrap_or_default(),
                    None => return Err(error.into()),
                },
            }
        }
        Err(StoreError::Contended { attempts: ATTEMPTS_MAX })
    }
}

fn key() -> Key {
    Key::new("budget", "xmtp")
}

fn read(item: &Item) -> Result<State, StoreError> {
    Ok(from_json_if_any(item, STATE)?.unwrap_or_default())
}
