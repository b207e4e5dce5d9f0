//! The targets, one each.

pub mod commits;
pub mod contents;
pub mod group_messages;
pub mod identity_updates;
pub mod key_packages;
pub mod logs;
pub mod queue_bodies;
pub mod snapshots;
pub mod states;
pub mod welcomes;
