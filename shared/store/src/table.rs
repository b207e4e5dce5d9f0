//! The port to the database, at the level of DynamoDB itself: one table, keyed `pk` and `sk`, and one sparse index
//! of what is to be looked at (`due_shard`, `due_at_ms`): events by when they are due, active rooms by what was seen.
//!
//! [`Table`] is the only way to the database. Conditions and updates are values of our own, so that
//! [`MemoryTable`](crate::memory::MemoryTable) can evaluate what [`DynamoTable`](crate::dynamo::DynamoTable) renders.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

/// The name of the partition key attribute.
pub const PK: &str = "pk";
/// The name of the sort key attribute.
pub const SK: &str = "sk";
/// The partition key of the due index; only items that bear it are in the index.
pub const DUE_SHARD: &str = "due_shard";
/// The sort key of the due index: when an event is due, in milliseconds since 1970; of a room, the newest message seen.
pub const DUE_AT_MS: &str = "due_at_ms";
/// The table's time-to-live attribute: when DynamoDB may delete the item, in seconds since 1970.
pub const EXPIRES_AT_S: &str = "expires_at_s";
/// The most writes of one transaction (`TransactWriteItems`).
pub const TRANSACTION_WRITES_MAX: usize = 100;
/// The most bytes of what one transaction's writes bring along together; what is stored already does not count.
pub const TRANSACTION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most bytes of one item, its attribute names included.
pub const ITEM_BYTES_MAX: usize = 400 * 1024;

/// An attribute's value.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// A string (`S`).
    Text(String),
    /// A number (`N`); only unsigned integers are used.
    Number(u64),
    /// Binary (`B`).
    Bytes(Vec<u8>),
}

/// Shows the length of bytes, not the bytes: they may be sealed state or a wrapped key.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Text(text) => text.fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::Bytes(bytes) => write!(f, "[{} bytes]", bytes.len()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Number(number)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Bytes(bytes)
    }
}

/// Attributes by name. An item as read contains [`PK`] and [`SK`]; an item to put need not.
pub type Item = BTreeMap<String, Value>;

/// Reads typed attributes from an [`Item`].
pub trait Attributes {
    /// The string named `name`, if there is one.
    fn text(&self, name: &str) -> Option<&str>;
    /// The number named `name`, if there is one.
    fn number(&self, name: &str) -> Option<u64>;
    /// The bytes named `name`, if there are any.
    fn bytes(&self, name: &str) -> Option<&[u8]>;
}

impl Attributes for Item {
    fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.get(name) {
            Some(Value::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }
}

/// Names one item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The partition.
    pub pk: String,
    /// The place in the partition; sorted by bytes.
    pub sk: String,
}

impl Key {
    /// The item `sk` of partition `pk`.
    pub fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: sk.into() }
    }
}

/// What must hold of the stored item for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The item has the attribute.
    Exists(&'static str),
    /// The item lacks the attribute, or there is no item.
    Absent(&'static str),
    /// The attribute is there and has this value.
    Equals(&'static str, Value),
    /// The attribute is there, of the same type, and less than this value.
    LessThan(&'static str, Value),
    /// All of these hold; at least one is given.
    And(Vec<Condition>),
    /// At least one of these holds; at least one is given.
    Or(Vec<Condition>),
}

impl Condition {
    /// There is an item.
    pub const ITEM_EXISTS: Condition = Condition::Exists(PK);
    /// There is no item.
    pub const ITEM_ABSENT: Condition = Condition::Absent(PK);

    /// The attribute equals `value`.
    pub fn equals(name: &'static str, value: impl Into<Value>) -> Self {
        Condition::Equals(name, value.into())
    }

    /// The attribute is less than `value`.
    pub fn less_than(name: &'static str, value: impl Into<Value>) -> Self {
        Condition::LessThan(name, value.into())
    }

    /// The attribute equals `value`, or is absent if there is none.
    pub fn is(name: &'static str, value: Option<impl Into<Value>>) -> Self {
        value.map_or(Condition::Absent(name), |value| Condition::Equals(name, value.into()))
    }

    /// Both hold.
    pub fn and(self, other: Condition) -> Self {
        Condition::And(vec![self, other])
    }

    /// One of the two holds.
    pub fn or(self, other: Condition) -> Self {
        Condition::Or(vec![self, other])
    }
}

/// One step of an update. An update creates the item if there is none and the condition allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Gives the attribute a value.
    Set(&'static str, Value),
    /// Gives the attribute a value unless it has one.
    SetIfAbsent(&'static str, Value),
    /// Adds to a number; an absent one counts as 0. The sum must fit into 64 bits: a greater one would be stored and
    /// then be unreadable.
    Add(&'static str, u64),
    /// Removes the attribute.
    Remove(&'static str),
}

impl Step {
    /// Gives the attribute a value.
    pub fn set(name: &'static str, value: impl Into<Value>) -> Self {
        Step::Set(name, value.into())
    }
}

/// What a write does to its item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Replaces the whole item by these attributes.
    Put(Item),
    /// Changes some attributes. At least one step, at most one per attribute, none for the key's.
    Update(Vec<Step>),
    /// Removes the item; removing nothing is fine.
    Delete,
    /// Changes nothing; only the condition counts. Only within a transaction.
    Check,
}

/// A conditional write of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which item.
    pub key: Key,
    /// What happens to it.
    pub change: Change,
    /// What must hold before.
    pub condition: Option<Condition>,
}

impl Write {
    /// Replaces the item.
    pub fn put(key: Key, item: Item) -> Self {
        Self { key, change: Change::Put(item), condition: None }
    }

    /// Changes some attributes.
    pub fn update(key: Key, steps: Vec<Step>) -> Self {
        Self { key, change: Change::Update(steps), condition: None }
    }

    /// Removes the item.
    pub fn delete(key: Key) -> Self {
        Self { key, change: Change::Delete, condition: None }
    }

    /// Only checks the item.
    pub fn check(key: Key, condition: Condition) -> Self {
        Self { key, change: Change::Check, condition: Some(condition) }
    }

    /// The same write, only if `condition` holds.
    #[must_use]
    pub fn when(mut self, condition: Condition) -> Self {
        self.condition = Some(condition);
        self
    }
}

/// The last sort key there can be after a prefix.
const LAST: char = '\u{10FFFF}';

/// A strongly consistent read of a range of one partition, in ascending order of sort keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The partition.
    pub pk: String,
    /// The first sort key, inclusive; never empty.
    pub from: String,
    /// The last sort key, inclusive.
    pub to: String,
    /// The most items to return.
    pub limit: Option<usize>,
    /// Return [`PK`] and [`SK`] alone.
    pub keys_only: bool,
}

impl Query {
    /// Everything in the partition.
    pub fn all(pk: impl Into<String>) -> Self {
        Self::between(pk, " ", LAST)
    }

    /// What begins with `prefix`.
    pub fn prefix(pk: impl Into<String>, prefix: &str) -> Self {
        Self::between(pk, prefix, format!("{prefix}{LAST}"))
    }

    /// What lies between `from` and `to`, both included.
    pub fn between(pk: impl Into<String>, from: impl Into<String>, to: impl Into<String>) -> Self {
        Self { pk: pk.into(), from: from.into(), to: to.into(), limit: None, keys_only: false }
    }

    /// At most `limit` items.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Only the keys of the items.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }
}

/// What an error asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Try the same again soon. A write may or may not have happened.
    RetrySoon,
    /// Another transaction touched the items at that moment; nothing was written. Read again and retry.
    Conflict,
    /// A condition did not hold; nothing was written. Look at what is stored.
    ConditionFailed,
    /// Trying again will not help.
    Bug,
}

/// Why a write within a cancelled transaction was, or was not, the cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// This write was not the cause.
    None,
    /// Its condition did not hold of the stored item (`None`: there is no item).
    ConditionFailed(Option<Item>),
    /// Its item was part of another transaction at that moment.
    Conflict,
    /// Its partition is over its throughput.
    Throttled,
    /// Something else, e.g. an item over 400 KB.
    Other(String),
}

/// Why the database did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A single write's condition did not hold.
    #[error("condition failed")]
    ConditionFailed {
        /// The stored item, if there is one.
        old: Option<Item>,
    },
    /// A transaction was cancelled: nothing of it was written.
    #[error("transaction cancelled: {}", causes(.reasons))]
    Cancelled {
        /// One reason for each write, in order.
        reasons: Vec<Reason>,
    },
    /// A single read or write met a transaction on the same item.
    #[error("another transaction holds the item")]
    Conflict,
    /// Over the throughput of the table, a partition or the account.
    #[error("throttled")]
    Throttled,
    /// No answer, or an answer of no use. Whether a write happened is unknown.
    #[error("the database did not answer")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The request or the stored item is not what it should be.
    #[error("refused by the database: {0}")]
    Bug(String),
}

fn causes(reasons: &[Reason]) -> String {
    let cause = |(index, reason): (usize, &Reason)| match reason {
        Reason::None => None,
        Reason::ConditionFailed(_) => Some(format!("write {index}: condition failed")),
        Reason::Conflict => Some(format!("write {index}: conflict")),
        Reason::Throttled => Some(format!("write {index}: throttled")),
        Reason::Other(text) => Some(format!("write {index}: {text}")),
    };
    reasons.iter().enumerate().filter_map(cause).collect::<Vec<_>>().join(", ")
}

impl TableError {
    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        match self {
            TableError::ConditionFailed { .. } => Kind::ConditionFailed,
            TableError::Conflict => Kind::Conflict,
            TableError::Throttled | TableError::Unavailable(_) => Kind::RetrySoon,
            TableError::Bug(_) => Kind::Bug,
            TableError::Cancelled { reasons } => {
                let any = |wanted: fn(&Reason) -> bool| reasons.iter().any(wanted);
                if any(|r| matches!(r, Reason::Other(_))) {
                    Kind::Bug
                } else if any(|r| matches!(r, Reason::ConditionFailed(_))) {
                    Kind::ConditionFailed
                } else if any(|r| matches!(r, Reason::Conflict)) {
                    Kind::Conflict
                } else {
                    Kind::RetrySoon
                }
            }
        }
    }

    /// Whether the condition of write `index` (0 for a single write) did not hold, and of which stored item.
    pub fn failed_condition(&self, index: usize) -> Option<Option<&Item>> {
        match self {
            TableError::ConditionFailed { old } if index == 0 => Some(old.as_ref()),
            TableError::Cancelled { reasons } => match reasons.get(index) {
                Some(Reason::ConditionFailed(old)) => Some(old.as_ref()),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The database. Every read is strongly consistent, except [`Table::due`].
#[async_trait]
pub trait Table: Send + Sync + 'static {
    /// The item, if there is one.
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError>;

    /// The items of a range. Pages internally: the answer is complete up to the query's limit.
    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError>;

    /// What is due in a shard of the index until `until_ms` (inclusive), earliest first: [`PK`], [`SK`],
    /// [`DUE_SHARD`] and [`DUE_AT_MS`] of each. Eventually consistent.
    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError>;

    /// One write; returns the item as it is afterwards (empty after a delete).
    ///
    /// After [`TableError::Unavailable`] it may have happened, and a retried conditional write may fail because of
    /// itself: whoever cares writes something by which he recognises his own.
    async fn write(&self, write: &Write) -> Result<Item, TableError>;

    /// All of these writes or none: 1 to [`TRANSACTION_WRITES_MAX`], no two of one item.
    async fn transact(&self, writes: &[Write]) -> Result<(), TableError>;
}

#[async_trait]
impl<T: Table + ?Sized> Table for Arc<T> {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        (**self).get(key).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        (**self).query(query).await
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        (**self).due(shard, until_ms, limit).await
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        (**self).write(write).await
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        (**self).transact(writes).await
    }
}
