//! The store against the memory model, and both against a DynamoDB emulator through the real SDK.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod dynamo;
mod keys;
mod leases;
mod ledger;
mod snapshots;
mod support;
mod words;
