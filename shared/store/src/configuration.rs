//! The deployment's configuration: one document, replaced as a whole, with a revision that tells whether it changed.

use crate::{
    Store, StoreError,
    item::{number, text},
    table::{Attributes, Condition, Item, Key, Table, Write},
};

/// The most bytes of a document: an item of DynamoDB has room for it with all else.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

const DOCUMENT: &str = "document";
const REVISION: &str = "revision";

/// The configuration as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConfiguration {
    /// Counts the changes, from 1.
    pub revision: u64,
    /// The document, as it was put.
    pub document: String,
}

/// The answer to putting a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is stored, with this revision.
    Stored(u64),
    /// Somebody else has put another one meanwhile; it stays.
    Overtaken,
}

fn key() -> Key {
    Key::new("configuration", "configuration")
}

impl Store {
    /// The configuration in force; `None` if none was put yet.
    pub async fn configuration(&self) -> Result<Option<StoredConfiguration>, StoreError> {
        self.table.get(&key()).await?.map(|item| read(&item)).transpose()
    }

    /// Puts a document in the place of revision `before`; `None`: there must be none yet.
    ///
    /// # Panics
    /// If the document is longer than [`DOCUMENT_BYTES_MAX`].
    pub async fn put_configuration(&self, document: &str, before: Option<u64>) -> Result<Put, StoreError> {
        assert!(document.len() <= DOCUMENT_BYTES_MAX, "the caller has checked the document's length");
        let revision = before.unwrap_or(0) + 1;
        let item = Item::from([(DOCUMENT.into(), document.into()), (REVISION.into(), revision.into())]);
        match self.table.write(&Write::put(key(), item).when(Condition::is(REVISION, before))).await {
            Ok(_) => Ok(Put::Stored(revision)),
            Err(error) => match error.failed_condition(0) {
                // This very write was sent twice, or somebody else put the same.
                Some(Some(item))
                    if item.number(REVISION) == Some(revision) && item.text(DOCUMENT) == Some(document) =>
                {
                    Ok(Put::Stored(revision))
                }
                Some(_) => Ok(Put::Overtaken),
                None => Err(error.into()),
            },
        }
    }
}

fn read(item: &Item) -> Result<StoredConfiguration, StoreError> {
    Ok(StoredConfiguration { revision: number(item, REVISION)?, document: text(item, DOCUMENT)?.to_owned() })
}
