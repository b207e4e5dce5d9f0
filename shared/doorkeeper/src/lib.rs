//! The reconciler: makes the rooms of an event equal to its admission.
//!
//! It takes no other input than which event to look at: everything else is read again, so that the way back after a
//! crash and the everyday way are one way. The durable order of a commit is: stage, store, publish, walk the log,
//! store what was merged, send welcomes, forget them. Whoever comes after a crash finds the stored state and goes on
//! from there.

mod account;
mod claims;
mod commit;
mod converge;
mod error;
mod healing;
mod kept;
mod marks;
mod overdue;
mod owed;
mod paced;
#[cfg(feature = "planted-bugs")]
mod planted;
mod ports;
mod recover;
mod room;
mod status;
mod surroundings;
mod upkeep;
mod view;
mod welcome;
mod work;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use alloy_primitives::Address;
use usher_domain::{
    Person,
    admission::CreatorRole,
    planner::Limits,
    ports::{Clock, Randomness},
};
use usher_store::{Snapshots, Store};
use usher_xmtp::{Account, network::Network};

pub use account::{AccountInfo, InitError, init_account};
pub use converge::{Cause, Converged};
pub use error::ConvergeError;
pub use overdue::Oldest;
pub use paced::Paced;
pub use ports::{NudgeError, Nudges};
pub use recover::{Progress, RecoverError, RoomProgress};
pub use status::{RoomStatus, SeatStatus};
pub use work::Work;

/// What the deployment decides about rooms.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// What creators are in their rooms.
    pub creator_role: CreatorRole,
    /// Wallets whose inboxes sit in every room as admins, with or without a ticket.
    pub moderators: BTreeSet<Address>,
    /// Who is in no room, whatever they hold.
    pub bans: BTreeSet<Person>,
    /// How large things may become.
    pub limits: Limits,
}

/// What a doorkeeper works with.
pub struct Parts {
    /// The ledger, leases, and who stands how.
    pub store: Arc<Store>,
    /// The sealed account and rooms.
    pub snapshots: Arc<Snapshots>,
    /// XMTP.
    pub network: Arc<dyn Network>,
    /// Where a reminder of unfinished work is left.
    pub nudges: Arc<dyn Nudges>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Unpredictable bytes.
    pub randomness: Arc<dyn Randomness>,
    /// What the deployment decides.
    pub policy: Policy,
    /// The revision of the stored configuration that the policy is of, if it is of one.
    pub policy_revision: Option<u64>,
}

/// Keeps rooms in step with tickets.
pub struct Doorkeeper {
    parts: Parts,
    surroundings: surroundings::Surroundings,
    /// The account, once it was read. It changes when its key package or its installation is replaced.
    account: Mutex<Option<Arc<Account>>>,
    /// Decoded rooms, so that a warm process decodes a room once.
    rooms: Mutex<kept::Recent<kept::KeptRoom>>,
    /// What was done and not told yet.
    work: Mutex<Work>,
}

impl std::fmt::Debug for Doorkeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doorkeeper").finish_non_exhaustive()
    }
}

impl Doorkeeper {
    /// A doorkeeper with these parts.
    pub fn new(parts: Parts) -> Self {
        let surroundings =
            surroundings::Surroundings { clock: parts.clock.clone(), randomness: parts.randomness.clone() };
        Self { parts, surroundings, account: Mutex::default(), rooms: Mutex::default(), work: Mutex::default() }
    }
}
