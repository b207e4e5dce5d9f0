//! How people stand with one incarnation of an event: what the reconciler keeps between two looks.
//!
//! All rows of an incarnation lie in one partition and are read at once. They are written as [`Write`]s that ride in
//! the transaction of [`Snapshots::save`](crate::Snapshots::save), so that they never contradict the room's state.

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use usher_domain::{InboxId, Incarnation};

use crate::{
    Store, StoreError,
    item::{from_json, json, text},
    table::{Item, Key, Query, SK, Table, Write},
};

const ROW: &str = "row";

/// Why an inbox is not treated by its tickets alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mark {
    /// An admin removed it; it stays out until one adds it again.
    Banned {
        /// The admin's inbox.
        by: InboxId,
    },
    /// It left by its own wish; it stays out until it asks back.
    Left,
    /// An admin added it, and it never held a ticket.
    Guest {
        /// The admin's inbox.
        by: InboxId,
    },
}

/// An inbox and its mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// Which inbox.
    pub inbox: InboxId,
    /// What it is.
    pub mark: Mark,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

/// A wallet that belongs and cannot be seated yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which wallet.
    pub wallet: Address,
    /// What it waits for, as an operator and its owner should read it.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// When it is tried again, in milliseconds since 1970.
    pub next_try_ms: u64,
}

/// The inbox that a wallet was last verified to belong to. Never deleted: it explains a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Which wallet.
    pub wallet: Address,
    /// Whose identity log lists it, or listed it.
    pub inbox: InboxId,
    /// When that was last verified, in milliseconds since 1970.
    pub verified_ms: u64,
}

/// How everybody stands with one incarnation of an event, each list in order of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Who is banned, left, or a guest.
    pub marked: Vec<Marked>,
    /// Who waits.
    pub waiting: Vec<Waiting>,
    /// Which wallet is whose.
    pub links: Vec<Link>,
}

const INBOX: &str = "inbox#";
const WALLET: &str = "wallet#";
const LINK: &str = "link#";

fn pk(incarnation: &Incarnation) -> String {
    let Incarnation { event, creator, kiosk, transaction } = incarnation;
    format!("standing#{event}#{transaction:x}#{creator:x}#{kiosk:x}")
}

fn marked_key(incarnation: &Incarnation, inbox: &InboxId) -> Key {
    Key::new(pk(incarnation), format!("{INBOX}{inbox}"))
}

fn waiting_key(incarnation: &Incarnation, wallet: &Address) -> Key {
    Key::new(pk(incarnation), format!("{WALLET}{wallet:x}"))
}

fn link_key(incarnation: &Incarnation, wallet: &Address) -> Key {
    Key::new(pk(incarnation), format!("{LINK}{wallet:x}"))
}

fn row(value: &impl Serialize) -> Item {
    Item::from([(ROW.into(), json(value))])
}

impl Marked {
    /// The write that marks the inbox, instead of any mark it has.
    pub fn write(&self, incarnation: &Incarnation) -> Write {
        Write::put(marked_key(incarnation, &self.inbox), row(self))
    }

    /// The write that takes an inbox's mark away.
    pub fn remove(incarnation: &Incarnation, inbox: &InboxId) -> Write {
        Write::delete(marked_key(incarnation, inbox))
    }
}

impl Waiting {
    /// The write that has the wallet wait.
    pub fn write(&self, incarnation: &Incarnation) -> Write {
        Write::put(waiting_key(incarnation, &self.wallet), row(self))
    }

    /// The write by which a wallet waits no longer.
    pub fn remove(incarnation: &Incarnation, wallet: &Address) -> Write {
        Write::delete(waiting_key(incarnation, wallet))
    }
}

impl Link {
    /// The write that stores the link, instead of any the wallet has.
    pub fn write(&self, incarnation: &Incarnation) -> Write {
        Write::put(link_key(incarnation, &self.wallet), row(self))
    }

    /// The write that forgets a wallet's link.
    pub fn remove(incarnation: &Incarnation, wallet: &Address) -> Write {
        Write::delete(link_key(incarnation, wallet))
    }
}

impl Store {
    /// How everybody stands with an incarnation.
    pub async fn standing(&self, incarnation: &Incarnation) -> Result<Standing, StoreError> {
        let mut standing = Standing::default();
        for item in self.table.query(&Query::all(pk(incarnation))).await? {
            let sk = text(&item, SK)?;
            if sk.starts_with(INBOX) {
                standing.marked.push(from_json(&item, ROW)?);
            } else if sk.starts_with(WALLET) {
                standing.waiting.push(from_json(&item, ROW)?);
            } else if sk.starts_with(LINK) {
                standing.links.push(from_json(&item, ROW)?);
            }
            // A newer release may keep rows of other kinds here while both are live.
        }
        Ok(standing)
    }
}
