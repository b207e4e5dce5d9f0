//! Loopback stand-ins for what usher runs on, faithful enough that the functions' release binaries run unchanged:
//! an XMTP V3 node, DynamoDB, SQS, Secrets Manager, and Lambda with its queue poller and schedule.

pub mod ambient;
pub mod aws;
mod clock;
pub mod dynamodb;
pub mod lambda;
mod loopback;
pub mod person;
pub mod secrets;
pub mod sqs;
pub mod xmtp_node;

pub use loopback::ListenError;
