//! What usher remembers, in one DynamoDB table: the ledger of facts, leases, sealed snapshots, who stands how.
//!
//! - [`table`] is the only way to the database; [`dynamo`] and [`memory`] implement it.
//! - [`Store`] holds what is in the clear: [`ledger`] (facts, tickets, events), [`lease`], [`standing`], [`parked`],
//!   [`budget`], [`configuration`].
//! - [`Snapshots`] holds what is sealed with keys from [`keys::DataKeys`]: the account and the rooms.
//!
//! Invariants: a fact once stored never changes, only gains a tombstone; a ticket's holding is always the fold of its
//! stored facts; an event whose tickets changed is due in the same transaction; a snapshot's head moves only for the
//! newest fence, one version at a time.

pub mod budget;
pub mod configuration;
pub mod deployment;
pub mod dynamo;
mod error;
pub mod event;
mod expression;
mod fact;
mod item;
pub mod keys;
pub mod lease;
pub mod ledger;
pub mod memory;
pub mod parked;
pub mod recovery;
mod seal;
pub mod snapshot;
pub mod standing;
pub mod table;
pub mod waiting;

use std::sync::Arc;

use usher_domain::ports::{Clock, Randomness};

pub use deployment::{DeploymentId, Place};
pub use error::{Chain, StoreError};
pub use event::{ActiveRoom, EventRecord, Healing, RoomRecord, RoomState};
pub use keys::{DataKeys, FileDataKeys, KmsDataKeys};
pub use lease::{AccountLease, Due, Lease, Release, Take};
pub use ledger::{Outcome, Recorded, TicketRecord};
pub use recovery::Recovery;
pub use snapshot::{Owner, Save, Snapshot, SnapshotError, Snapshots};
pub use standing::Standing;
pub use table::{Kind, Table, TableError};

/// What usher remembers in the clear.
#[derive(Clone)]
pub struct Store {
    table: Arc<dyn Table>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
}

impl Store {
    /// A store in `table`.
    pub fn new(table: Arc<dyn Table>, clock: Arc<dyn Clock>, randomness: Arc<dyn Randomness>) -> Self {
        Self { table, clock, randomness }
    }

    /// The table below, for what this crate has no words for.
    pub fn table(&self) -> &Arc<dyn Table> {
        &self.table
    }
}
