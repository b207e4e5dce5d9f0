//! An XMTP client with no disk: state goes in, state comes out.
//!
//! Wire-compatible with libxmtp on XMTP V3, built on crates.io openmls. An [`Account`] (one installation of one inbox)
//! and each [`Group`] are values that [`Account::encode`] and [`Group::encode`] turn into bytes; the caller seals and
//! stores them. Nothing here keeps a file, a global or a task.
//!
//! What leaves for the network is made in two steps, so that a crash between them loses nothing: first a change is
//! *staged* or a message *encrypted*, which changes the group in memory; the caller stores the group; then the bytes are
//! sent. A commit of ours counts when [`Group::sync`] meets it in the group's log with its epoch still current, never
//! when the node takes it.

mod account;
pub mod content;
mod extensions;
pub mod group;
mod identities;
pub mod identity;
mod key_package;
pub mod network;
pub mod policy;
pub mod ports;
pub mod proto;
mod provider;
mod v3;
mod welcome;
pub mod wrapper;

use std::fmt;

pub use account::{Account, AccountError, IDENTITY_UPDATES_MAX, INSTALLATIONS_MAX, NONCE, inbox_of};
pub use extensions::{ConversationType, ExtensionError, ImmutableMetadata, Membership, MutableMetadata, attributes};
pub use group::{Group, GroupError, Lost, NewGroup};
pub use identities::{Identities, IdentitiesError};
pub use key_package::{KeyPackageError, MemberKeyPackage, Wrapping};
pub use provider::StorageCodecError;
pub use v3::{AddressError, V3};
pub use welcome::{DroppedWelcome, Invitation, WelcomeError, Welcomed, WelcomesSent};

/// A group's id: 16 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 16]);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
