//! Sealed state that is altered, old or cannot be opened, and rooms that cannot go on: over the in-memory table, with a
//! keeper of keys that fails on demand, and a real XMTP node.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod account;
mod alarms;
mod formats;
mod keeper;
mod lost;
mod refusal;
mod story;
mod unreadable;
