//! What should have been ours and could not be used: kept once, for an operator to see, retry or drop.

use std::fmt;

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};
use usher_domain::ChainId;

use crate::{
    Store, StoreError,
    item::{from_json, json, number, text},
    table::{Condition, Item, Key, Query, Table, Write},
};

/// The most bytes of a body that are kept: more than a log of ours has, and less than an item.
pub const EXCERPT_BYTES_MAX: usize = 64 * 1024;

const PARKED: &str = "parked";
const ID: &str = "id";
const REASON: &str = "reason";
const EXCERPT: &str = "excerpt";
const AT_MS: &str = "at_ms";

/// What names something parked, so that it is parked once however often it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ParkedId {
    /// A log. In a sister block, or taken back, it is another thing: each must outlive the other.
    Log {
        /// Its chain.
        chain: ChainId,
        /// The transaction that emitted it.
        transaction: B256,
        /// Its index within the block.
        log_index: u64,
        /// Its block, if that could be read.
        block_hash: Option<B256>,
        /// It is a retraction.
        retracted: bool,
    },
    /// A body in which no log could be told.
    Body {
        /// The body's hash.
        digest: B256,
    },
}

/// The name that an operator uses, and the item's sort key: `log#…` or `body#…`.
impl fmt::Display for ParkedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParkedId::Log { chain, transaction, log_index, block_hash, retracted } => {
                let block_hash = block_hash.map(|hash| format!("#{hash:x}")).unwrap_or_default();
                let tombstone = if *retracted { "#retracted" } else { "" };
                write!(f, "log#{chain}#{transaction:x}#{log_index}{block_hash}{tombstone}")
            }
            ParkedId::Body { digest } => write!(f, "body#{digest:x}"),
        }
    }
}

impl ParkedId {
    fn key(&self) -> Key {
        Key::new(PARKED, self.to_string())
    }
}

/// Something parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// What it is.
    pub id: ParkedId,
    /// Why it could not be used.
    pub reason: String,
    /// The body, or its beginning: see [`EXCERPT_BYTES_MAX`].
    pub excerpt: String,
    /// When it was first parked, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Store {
    /// Parks something once; whether it was new. What is there already stays as it is.
    pub async fn park(&self, id: ParkedId, reason: &str, body: &str) -> Result<bool, StoreError> {
        let item = Item::from([
            (ID.into(), json(&id)),
            (REASON.into(), reason.into()),
            (EXCERPT.into(), excerpt(body).into()),
            (AT_MS.into(), self.clock.now_ms().into()),
        ]);
        match self.table.write(&Write::put(id.key(), item).when(Condition::ITEM_ABSENT)).await {
            Ok(_) => Ok(true),
            Err(error) if error.failed_condition(0).is_some() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// At most `limit` parked things, in order of chain and transaction.
    pub async fn parked(&self, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.table.query(&Query::all(PARKED).limit(limit)).await?.iter().map(read).collect()
    }

    /// The parked thing of this name, if there is one.
    pub async fn parked_named(&self, name: &str) -> Result<Option<Parked>, StoreError> {
        // DynamoDB takes no empty key.
        if name.is_empty() {
            return Ok(None);
        }
        self.table.get(&Key::new(PARKED, name)).await?.map(|item| read(&item)).transpose()
    }

    /// How many things are parked, counted up to `limit`.
    pub async fn parked_count(&self, limit: usize) -> Result<usize, StoreError> {
        Ok(self.table.query(&Query::all(PARKED).limit(limit).keys_only()).await?.len())
    }

    /// Forgets something parked, because it was dealt with; whether it was there is not told.
    pub async fn unpark(&self, id: ParkedId) -> Result<(), StoreError> {
        self.table.write(&Write::delete(id.key())).await?;
        Ok(())
    }
}

fn read(item: &Item) -> Result<Parked, StoreError> {
    Ok(Parked {
        id: from_json(item, ID)?,
        reason: text(item, REASON)?.to_owned(),
        excerpt: text(item, EXCERPT)?.to_owned(),
        at_ms: number(item, AT_MS)?,
    })
}

fn excerpt(body: &str) -> &str {
    &body[..body.floor_char_boundary(EXCERPT_BYTES_MAX)]
}
