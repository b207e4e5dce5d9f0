//! What the integration tests share: drivers for the real clients they talk through.

pub mod node_sdk;
