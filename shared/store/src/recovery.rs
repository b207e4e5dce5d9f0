//! A recovery under way: the account has a new installation, and rooms wait until members let it in.
//!
//! The item is written in the transaction that stores the new installation's keys, and deleted in the one that stores
//! the account without the installations that were replaced. So it is there exactly as long as there is work left.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use usher_domain::InstallationId;

use crate::{
    Store, StoreError,
    item::{from_json, json},
    table::{Condition, Item, Key, Table, Write},
};

const RECOVERY: &str = "recovery";

/// A recovery under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// The installations that are revoked in the end.
    pub replaced: BTreeSet<InstallationId>,
}

fn key() -> Key {
    Key::new("account", RECOVERY)
}

impl Recovery {
    /// The write that begins the recovery; refused if there is one.
    pub fn begin(&self) -> Write {
        Write::put(key(), Item::from([(RECOVERY.into(), json(self))])).when(Condition::ITEM_ABSENT)
    }

    /// The write that ends any.
    pub fn end() -> Write {
        Write::delete(key())
    }
}

impl Store {
    /// The recovery under way, if there is one.
    pub async fn recovery(&self) -> Result<Option<Recovery>, StoreError> {
        self.table.get(&key()).await?.map(|item| from_json(&item, RECOVERY)).transpose()
    }
}
