//! What every function shares: configuration, telemetry, SQS batches, deadlines, and the real adapters.
//!
//! [`Usher`] is everything that one deployment works with. A function reads its environment into a [`Config`], connects
//! once, and hands each event to [`handle_queue`] (facts) or [`sweep::handle`] (the clock and the nudges); both run
//! without the Lambda runtime just as well.
//!
//! Invariant: a message's outcome is its ledger write. What goes wrong afterwards, in converging, never fails it: the
//! event stays due, and the clock finds it.

mod adapters;
mod batch;
mod belief;
mod config;
mod converge;
mod current;
mod init;
mod invocation;
mod meter;
mod metrics;
mod nodes;
mod recover;
mod settings;
pub mod sweep;
pub mod telemetry;
#[cfg(test)]
mod testing;
mod usher;

pub use adapters::{Machine, NUDGE_DELAY_S_MAX, SqsNudges};
pub use batch::{NoMessageId, PARKED_REASON_BYTES_MAX, handle_queue};
pub use config::{Config, ConfigError, DataKeyConfig};
pub use init::{InboxUsage, SetUpError, WalletFileError, local_wallet, network_name};
pub use invocation::Invocation;
pub use meter::Meter;
pub use metrics::{Metrics, NAMESPACE, Sink, Stdout};
pub use nodes::{NodeError, Nodes, RpcNodes};
pub use recover::RecoveryError;
pub use settings::{Document, DocumentError, Rooms, Seats, Settings, SettingsError, Version};
pub use usher::{Adapters, AwsClients, ConnectError, DataKeySource, OpenError, Usher};
#[doc(no_inline)]
pub use usher_doorkeeper::{AccountInfo, Progress, RecoverError, RoomProgress};
#[doc(no_inline)]
pub use usher_store::Place;
