//! What the integration tests share: drivers for the real clients they talk through, and usher in one process.

pub mod anvil;
pub mod dev_stack;
pub mod fixture;
pub mod haus;
pub mod load;
pub mod node_sdk;
pub mod spoken;
pub mod welcomes;
pub mod world;
