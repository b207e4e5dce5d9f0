//! What is kept in the clear beside a room's sealed state, for operators and for `usher rooms`.

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

/// A room as it was when its state was last saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomStatus {
    /// The room's name.
    pub name: String,
    /// The MLS epoch.
    pub epoch: u64,
    /// The newest message of the log that the state knows.
    pub cursor: u64,
    /// Who sits in it.
    pub seats: Vec<SeatStatus>,
}

/// A member of a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatStatus {
    /// The inbox, in hex.
    pub inbox: String,
    /// The wallets by which it belongs; empty for those who belong otherwise, usher among them.
    pub wallets: Vec<Address>,
    /// How many of its devices are in the room.
    pub installations: usize,
    /// `member`, `admin` or `super_admin`.
    pub role: String,
}
