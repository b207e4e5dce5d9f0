//! Whole invocations of usher at its ports, in one thread, from a seed: who goes on at every port call, what fails,
//! what the chain and the members do. After every step it is checked what must always hold, and after the faults have
//! stopped, what must hold then.
//!
//! Decisions and traces repeat with the seed. MLS bytes do not (openmls draws its own randomness and reads the
//! machine's clock): they are compared by what they mean.

mod chain;
mod dice;
mod faults;
mod hostile;
mod invocations;
mod keys;
mod network;
mod node;
mod nudges;
mod oracle;
mod people;
mod process;
mod queue;
mod run;
mod settle;
mod shared;
mod stir;
mod table;
mod trouble;
mod watch;
mod world;

pub use faults::Fault;
#[cfg(feature = "planted-bugs")]
pub use run::run_planted;
pub use run::{Outcome, run};
pub use shared::Tally;
