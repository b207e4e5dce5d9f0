//! What usher decides, without any network: ids, facts, tickets, the admission and the planner.
//!
//! Nothing here does I/O, reads a clock or draws randomness by itself; the same input gives the same output.

pub mod admission;
pub mod event;
pub mod fact;
pub mod ids;
pub mod planner;
pub mod planted;
pub mod ports;
pub mod ticket;

pub use fact::{EventMint, Fact, Position, What};
pub use ids::{ChainId, EventKey, GroupId, InboxId, Incarnation, InstallationId, KioskKey, Person, TicketKey};
