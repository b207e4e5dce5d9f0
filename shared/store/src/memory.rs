//! [`Table`] in memory, with DynamoDB's semantics: for tests and for simulation.
//!
//! One lock makes every call atomic and strongly consistent. What DynamoDB may do besides (conflicts, throttles,
//! lost answers, a due index that lags) is injected by wrapping [`Table`], not here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::table::{
    Attributes, Change, Condition, DUE_AT_MS, DUE_SHARD, ITEM_BYTES_MAX, Item, Key, PK, Query, Reason, SK, Step,
    TRANSACTION_BYTES_MAX, TRANSACTION_WRITES_MAX, Table, TableError, Value, Write,
};

/// The most bytes of a partition key, of the table or of the index.
const PK_BYTES_MAX: usize = 2048;
/// The most bytes of a sort key.
const SK_BYTES_MAX: usize = 1024;

/// The table's items in order.
type Items = BTreeMap<Key, Item>;

/// A table in memory.
#[derive(Debug, Default)]
pub struct MemoryTable {
    items: Mutex<Items>,
}

impl MemoryTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of everything stored, in order; for comparing two histories and for looking into a simulation.
    pub fn dump(&self) -> Vec<(Key, Item)> {
        self.lock().iter().map(|(key, item)| (key.clone(), item.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Items> {
        // A panic elsewhere leaves the map whole: every call checks first and writes last.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Table for MemoryTable {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        check_key(&key.pk, &key.sk)?;
        Ok(self.lock().get(key).cloned())
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        check_key(&query.pk, &query.from)?;
        check_key(&query.pk, &query.to)?;
        if query.from > query.to {
            return Err(bug("the range ends before it begins"));
        }
        let range = Key::new(&query.pk, &query.from)..=Key::new(&query.pk, &query.to);
        let items = self.lock();
        let found = items.range(range).take(query.limit.unwrap_or(usize::MAX));
        Ok(found.map(|(key, item)| if query.keys_only { keys(key) } else { item.clone() }).collect())
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        if shard.is_empty() {
            return Err(bug("a key is empty"));
        }
        let items = self.lock();
        let mut due: Vec<_> = items
            .iter()
            .filter(|(_, item)| item.text(DUE_SHARD) == Some(shard))
            .filter_map(|(key, item)| item.number(DUE_AT_MS).map(|at_ms| (at_ms, key)))
            .filter(|(at_ms, _)| *at_ms <= until_ms)
            .collect();
        due.sort();
        let entry = |(at_ms, key): (u64, &Key)| {
            let mut entry = keys(key);
            entry.insert(DUE_SHARD.into(), shard.into());
            entry.insert(DUE_AT_MS.into(), at_ms.into());
            entry
        };
        Ok(due.into_iter().take(limit).map(entry).collect())
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        if write.change == Change::Check {
            return Err(bug("a check outside of a transaction"));
        }
        check_request(write)?;
        let mut items = self.lock();
        let new = changed(write, items.get(&write.key)).map_err(|refused| match refused {
            Refused::ConditionFailed(old) => TableError::ConditionFailed { old },
            Refused::Invalid(text) => bug(&text),
        })?;
        store(&mut items, &write.key, new.clone());
        Ok(new.unwrap_or_default())
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        check_transaction(writes)?;
        let mut items = self.lock();
        let (mut reasons, mut changes) = (Vec::new(), Vec::new());
        for write in writes {
            match changed(write, items.get(&write.key)) {
                Ok(new) => {
                    reasons.push(Reason::None);
                    changes.push((&write.key, new));
                }
                Err(Refused::ConditionFailed(old)) => reasons.push(Reason::ConditionFailed(old)),
                Err(Refused::Invalid(text)) => reasons.push(Reason::Other(format!("ValidationError: {text}"))),
            }
        }
        if changes.len() < writes.len() {
            return Err(TableError::Cancelled { reasons });
        }
        for (key, new) in changes {
            store(&mut items, key, new);
        }
        Ok(())
    }
}

fn bug(text: &str) -> TableError {
    TableError::Bug(format!("ValidationException: {text}"))
}

fn check_key(pk: &str, sk: &str) -> Result<(), TableError> {
    if pk.is_empty() || sk.is_empty() {
        return Err(bug("a key is empty"));
    }
    if pk.len() > PK_BYTES_MAX || sk.len() > SK_BYTES_MAX {
        return Err(bug("a key is too long"));
    }
    Ok(())
}

/// What DynamoDB refuses by the request alone, whatever is stored.
fn check_request(write: &Write) -> Result<(), TableError> {
    check_key(&write.key.pk, &write.key.sk)?;
    write.condition.as_ref().map_or(Ok(()), check_condition)?;
    match &write.change {
        Change::Put(_) if payload(write) > ITEM_BYTES_MAX => Err(bug("an item is too large")),
        Change::Update(steps) if steps.is_empty() => Err(bug("an update without steps")),
        Change::Update(steps) => {
            let names: BTreeSet<_> = steps.iter().map(attribute).collect();
            if names.len() == steps.len() { Ok(()) } else { Err(bug("two steps of one attribute")) }
        }
        Change::Check if write.condition.is_none() => Err(bug("a check without condition")),
        Change::Put(_) | Change::Delete | Change::Check => Ok(()),
    }
}

fn check_condition(condition: &Condition) -> Result<(), TableError> {
    match condition {
        Condition::And(all) | Condition::Or(all) if all.is_empty() => Err(bug("a condition of no conditions")),
        Condition::And(all) | Condition::Or(all) => all.iter().try_for_each(check_condition),
        Condition::Exists(_) | Condition::Absent(_) | Condition::Equals(..) | Condition::LessThan(..) => Ok(()),
    }
}

fn check_transaction(writes: &[Write]) -> Result<(), TableError> {
    if writes.is_empty() || writes.len() > TRANSACTION_WRITES_MAX {
        return Err(bug("a transaction has 1 to 100 writes"));
    }
    writes.iter().try_for_each(check_request)?;
    let keys: BTreeSet<_> = writes.iter().map(|write| &write.key).collect();
    if keys.len() < writes.len() {
        return Err(bug("two writes of one item"));
    }
    if writes.iter().map(payload).sum::<usize>() > TRANSACTION_BYTES_MAX {
        return Err(bug("the transaction is over 4 MB"));
    }
    Ok(())
}

/// The bytes that a write brings along. What is stored already does not count, however large.
fn payload(write: &Write) -> usize {
    let key = PK.len() + write.key.pk.len() + SK.len() + write.key.sk.len();
    let given = match &write.change {
        Change::Put(item) => size(item.iter().filter(|(name, _)| ![PK, SK].contains(&name.as_str()))),
        Change::Update(steps) => steps.iter().map(given).sum(),
        Change::Delete | Change::Check => 0,
    };
    key + given
}

fn given(step: &Step) -> usize {
    let value = match step {
        Step::Set(_, value) | Step::SetIfAbsent(_, value) => value_size(value),
        Step::Add(_, by) => value_size(&Value::Number(*by)),
        Step::Remove(_) => 0,
    };
    attribute(step).len() + value
}

fn attribute(step: &Step) -> &'static str {
    match step {
        Step::Set(name, _) | Step::SetIfAbsent(name, _) | Step::Add(name, _) | Step::Remove(name) => name,
    }
}

fn store(items: &mut Items, key: &Key, new: Option<Item>) {
    match new {
        Some(item) => items.insert(key.clone(), item),
        None => items.remove(key),
    };
}

fn keys(key: &Key) -> Item {
    with_key(Item::new(), key)
}

fn with_key(mut item: Item, key: &Key) -> Item {
    item.insert(PK.into(), key.pk.as_str().into());
    item.insert(SK.into(), key.sk.as_str().into());
    item
}

fn holds(condition: &Condition, item: Option<&Item>) -> bool {
    let attribute = |name: &str| item.and_then(|item| item.get(name));
    match condition {
        Condition::Exists(name) => attribute(name).is_some(),
        Condition::Absent(name) => attribute(name).is_none(),
        Condition::Equals(name, value) => attribute(name) == Some(value),
        Condition::LessThan(name, value) => match (attribute(name), value) {
            (Some(Value::Text(a)), Value::Text(b)) => a < b,
            (Some(Value::Number(a)), Value::Number(b)) => a < b,
            (Some(Value::Bytes(a)), Value::Bytes(b)) => a < b,
            _ => false,
        },
        Condition::And(all) => all.iter().all(|condition| holds(condition, item)),
        Condition::Or(any) => any.iter().any(|condition| holds(condition, item)),
    }
}

/// Why an item is not written.
enum Refused {
    /// The condition did not hold of the stored item.
    ConditionFailed(Option<Item>),
    /// What is stored and what was asked do not go together, or what would be stored is not allowed.
    Invalid(String),
}

/// The item after the write; `None` if there is none.
fn changed(write: &Write, old: Option<&Item>) -> Result<Option<Item>, Refused> {
    if let Change::Put(item) = &write.change {
        check_index(item).map_err(Refused::Invalid)?;
    }
    if !write.condition.as_ref().is_none_or(|condition| holds(condition, old)) {
        return Err(Refused::ConditionFailed(old.cloned()));
    }
    match &write.change {
        Change::Delete => Ok(None),
        Change::Check => Ok(old.cloned()),
        Change::Put(item) => Ok(Some(with_key(item.clone(), &write.key))),
        Change::Update(steps) => {
            updated(steps, with_key(old.cloned().unwrap_or_default(), &write.key)).map(Some).map_err(Refused::Invalid)
        }
    }
}

fn updated(steps: &[Step], mut item: Item) -> Result<Item, String> {
    for step in steps {
        if [PK, SK].contains(&attribute(step)) {
            return Err(format!("{} is part of the key", attribute(step)));
        }
        apply(step, &mut item)?;
    }
    check_index(&item)?;
    if size(&item) > ITEM_BYTES_MAX {
        return Err("the item is too large".into());
    }
    Ok(item)
}

fn apply(step: &Step, item: &mut Item) -> Result<(), String> {
    match step {
        Step::Set(name, value) => {
            item.insert((*name).into(), value.clone());
        }
        Step::SetIfAbsent(name, value) => {
            item.entry((*name).into()).or_insert_with(|| value.clone());
        }
        Step::Add(name, by) => match item.entry((*name).into()).or_insert(Value::Number(0)) {
            // DynamoDB has greater numbers: it stores the sum, and the port cannot read it.
            Value::Number(number) => *number = number.checked_add(*by).ok_or_else(|| format!("{name} is too great"))?,
            _ => return Err(format!("{name} is no number")),
        },
        Step::Remove(name) => {
            item.remove(*name);
        }
    }
    Ok(())
}

/// An item's index keys must be of the index's types, and a string one as long as keys are.
fn check_index(item: &Item) -> Result<(), String> {
    let key = |value: &Value| matches!(value, Value::Text(text) if (1..=PK_BYTES_MAX).contains(&text.len()));
    let text = item.get(DUE_SHARD).is_none_or(key);
    let number = item.get(DUE_AT_MS).is_none_or(|value| matches!(value, Value::Number(_)));
    if text && number { Ok(()) } else { Err("an index key is of the wrong type or length".into()) }
}

/// The size of attributes as DynamoDB counts it: UTF-8 bytes of names and strings, bytes, and about half a byte a digit.
fn size<'a>(attributes: impl IntoIterator<Item = (&'a String, &'a Value)>) -> usize {
    attributes.into_iter().map(|(name, value)| name.len() + value_size(value)).sum()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Number(number) => number.to_string().len().div_ceil(2) + 1,
    }
}
