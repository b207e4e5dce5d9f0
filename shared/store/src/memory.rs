//! [`Table`] in memory, with DynamoDB's semantics: for tests and for simulation.
//!
//! One lock makes every call atomic and strongly consistent. What DynamoDB may do besides (conflicts, throttles,
//! lost answers, a due index that lags) is injected by wrapping [`Table`], not here.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::table::{
    Attributes, Change, Condition, DUE_AT_MS, DUE_SHARD, ITEM_BYTES_MAX, Item, Key, PK, Query, Reason, SK, Step,
    TRANSACTION_BYTES_MAX, TRANSACTION_WRITES_MAX, Table, TableError, Value, Write,
};

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
        check_key(key)?;
        Ok(self.lock().get(key).cloned())
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        if query.from.is_empty() || query.pk.is_empty() {
            return Err(bug("a key is empty"));
        }
        if query.from > query.to {
            return Err(bug("the range ends before it begins"));
        }
        let range = Key::new(&query.pk, &query.from)..=Key::new(&query.pk, &query.to);
        let items = self.lock();
        let found = items.range(range).take(query.limit.unwrap_or(usize::MAX));
        Ok(found.map(|(key, item)| if query.keys_only { keys(key) } else { item.clone() }).collect())
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
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
        check_key(&write.key)?;
        let mut items = self.lock();
        let old = items.get(&write.key);
        if !write.condition.as_ref().is_none_or(|condition| holds(condition, old)) {
            return Err(TableError::ConditionFailed { old: old.cloned() });
        }
        let new = changed(write, old).map_err(TableError::Bug)?;
        store(&mut items, &write.key, new.clone());
        Ok(new.unwrap_or_default())
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        check_transaction(writes)?;
        let mut items = self.lock();
        let mut reasons = Vec::with_capacity(writes.len());
        let mut changes = Vec::with_capacity(writes.len());
        for write in writes {
            let old = items.get(&write.key);
            if !write.condition.as_ref().is_none_or(|condition| holds(condition, old)) {
                reasons.push(Reason::ConditionFailed(old.cloned()));
                continue;
            }
            match changed(write, old) {
                Ok(new) => {
                    changes.push((&write.key, new));
                    reasons.push(Reason::None);
                }
                Err(text) => reasons.push(Reason::Other(format!("ValidationError: {text}"))),
            }
        }
        if reasons.iter().any(|reason| *reason != Reason::None) {
            return Err(TableError::Cancelled { reasons });
        }
        let bytes: usize = changes.iter().filter_map(|(_, new)| new.as_ref()).map(size).sum();
        if bytes > TRANSACTION_BYTES_MAX {
            return Err(bug("the transaction is over 4 MB"));
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

fn check_key(key: &Key) -> Result<(), TableError> {
    if key.pk.is_empty() || key.sk.is_empty() {
        return Err(bug("a key is empty"));
    }
    if key.pk.len() > 2048 || key.sk.len() > 1024 {
        return Err(bug("a key is too long"));
    }
    Ok(())
}

fn check_transaction(writes: &[Write]) -> Result<(), TableError> {
    if writes.is_empty() || writes.len() > TRANSACTION_WRITES_MAX {
        return Err(bug("a transaction has 1 to 100 writes"));
    }
    let mut keys: Vec<_> = writes.iter().map(|write| &write.key).collect();
    keys.sort();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(bug("two writes of one item"));
    }
    if writes.iter().any(|write| write.change == Change::Check && write.condition.is_none()) {
        return Err(bug("a check without condition"));
    }
    keys.into_iter().try_for_each(check_key)
}

fn store(items: &mut Items, key: &Key, new: Option<Item>) {
    match new {
        Some(item) => items.insert(key.clone(), item),
        None => items.remove(key),
    };
}

fn keys(key: &Key) -> Item {
    Item::from([(PK.into(), key.pk.clone().into()), (SK.into(), key.sk.clone().into())])
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

/// The item after the write; `None` if there is none.
fn changed(write: &Write, old: Option<&Item>) -> Result<Option<Item>, String> {
    let mut item = match &write.change {
        Change::Delete => return Ok(None),
        Change::Check => return Ok(old.cloned()),
        Change::Put(item) => item.clone(),
        Change::Update(steps) => {
            let mut item = old.cloned().unwrap_or_default();
            steps.iter().try_for_each(|step| apply(step, &mut item))?;
            item
        }
    };
    item.extend(keys(&write.key));
    check_index(&item)?;
    if size(&item) > ITEM_BYTES_MAX {
        return Err("Item size has exceeded the maximum allowed size".into());
    }
    Ok(Some(item))
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
            Value::Number(number) => *number += by,
            _ => return Err(format!("{name} is no number")),
        },
        Step::Remove(name) => {
            item.remove(*name);
        }
    }
    Ok(())
}

/// An item's index keys must be of the index's types.
fn check_index(item: &Item) -> Result<(), String> {
    let text = item.get(DUE_SHARD).is_none_or(|value| matches!(value, Value::Text(text) if !text.is_empty()));
    let number = item.get(DUE_AT_MS).is_none_or(|value| matches!(value, Value::Number(_)));
    if text && number { Ok(()) } else { Err("an index key is of the wrong type".into()) }
}

/// An item's size as DynamoDB counts it: UTF-8 bytes of names and strings, bytes, and about half a byte a digit.
fn size(item: &Item) -> usize {
    let value = |value: &Value| match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Number(number) => number.to_string().len().div_ceil(2) + 1,
    };
    item.iter().map(|(name, v)| name.len() + value(v)).sum()
}
