//! Whole invocations of usher at its ports, in one thread, from a seed: who goes on at every port call, what fails,
//! what the chain and the members do. After every step it is checked what must always hold, and after the faults have
//! stopped, what must hold then.
//!
//! Decisions and traces repeat with the seed. MLS bytes do not (openmls draws its own randomness and reads the
//! machine's clock): they are compared by what they mean.

mod chain;
mod dice;
mod faults;
mod holders;
mod hostile;
mod invocations;
mod junk;
mod keys;
mod lasting;
mod network;
mod node;
mod nudges;
mod oracle;
mod panics;
mod people;
mod process;
mod queue;
mod run;
mod secrets;
mod settle;
mod shared;
mod stir;
mod stored;
mod table;
mod taken;
mod trouble;
mod watch;
mod world;

pub use faults::Fault;
#[cfg(feature = "planted-bugs")]
pub use run::run_planted;
pub use run::{Outcome, run};
pub use shared::Tally;
