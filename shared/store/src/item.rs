//! Reading and writing attributes that hold more than a word.

use std::str::FromStr;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::StoreError,
    table::{Attributes, Item, Key, PK, SK, Value},
};

/// A value as JSON text.
pub(crate) fn json(value: &impl Serialize) -> Value {
    Value::Text(serde_json::to_string(value).expect("plain data with text keys always has a JSON form"))
}

/// The attribute `name`, from JSON text.
pub(crate) fn from_json<T: DeserializeOwned>(item: &Item, name: &str) -> Result<T, StoreError> {
    serde_json::from_str(text(item, name)?).map_err(|error| unreadable(item, format!("{name}: {error}")))
}

/// The attribute `name`, if it is there, from JSON text.
pub(crate) fn from_json_if_any<T: DeserializeOwned>(item: &Item, name: &str) -> Result<Option<T>, StoreError> {
    if item.contains_key(name) { from_json(item, name).map(Some) } else { Ok(None) }
}

/// The attribute `name`, as text.
pub(crate) fn text<'a>(item: &'a Item, name: &str) -> Result<&'a str, StoreError> {
    item.text(name).ok_or_else(|| unreadable(item, format!("no {name}")))
}

/// The attribute `name`, as a number.
pub(crate) fn number(item: &Item, name: &str) -> Result<u64, StoreError> {
    item.number(name).ok_or_else(|| unreadable(item, format!("no {name}")))
}

/// What follows `prefix` in the sort key.
pub(crate) fn named<T: FromStr>(item: &Item, attribute: &str, prefix: &str) -> Result<T, StoreError> {
    let name = text(item, attribute)?;
    let id = name.strip_prefix(prefix).and_then(|id| id.parse().ok());
    id.ok_or_else(|| unreadable(item, format!("{attribute} is not {prefix} and an id")))
}

/// The item is not what it should be.
pub(crate) fn unreadable(item: &Item, problem: impl Into<String>) -> StoreError {
    let name = |attribute| item.text(attribute).unwrap_or("?");
    StoreError::Unreadable { key: Key::new(name(PK), name(SK)), problem: problem.into() }
}
