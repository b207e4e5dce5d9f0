//! Real XMTP clients for interop tests: the published `@xmtp/node-sdk`, driven over a pipe.
//!
//! One [`NodeSdk`] is one `node` process bound to one XMTP node; it holds any number of [`SdkClient`]s. What the
//! SDK answers is returned as it is: these types add names, no opinion.

mod client;
mod process;
mod view;
mod wallet;

pub use client::{ClientStorage, GroupOptions, SdkClient, SdkStream};
pub use process::{NodeSdk, SdkError};
pub use view::{
    Consent, Conversation, Cursor, FieldChange, GroupSummary, InboxState, KeyPackageStatus, Level, Member, Message,
    MetadataField, Permission, Policy, PolicySet, Preset, RoleChange, SyncSummary, Updated,
};
pub use wallet::Wallet;
