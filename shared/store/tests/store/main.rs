//! The store on the memory model, and through the real SDK on a DynamoDB emulator (dynoxide) and on Amazon's DynamoDB
//! Local.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ambiguous;
mod budget;
mod configuration;
mod contract;
mod dynamo;
mod dynamodb_local;
mod keys;
mod leases;
mod ledger;
mod line;
mod logs;
mod snapshots;
mod snapshots_hostile;
mod support;
mod words;
