//! Lambda on this machine: real function binaries run against a Runtime API of our own.
//!
//! As in AWS, a process ([`environment`]) serves one invocation at a time, is frozen between invocations, killed at
//! the timeout and replaced after a crash; a [`Function`] keeps several. An [`SqsEventSource`] feeds a function from a
//! queue, a [`Schedule`] at a fixed rate, and whoever calls the [Invoke API](invoke_api) with what he likes.

mod environment;
mod event_source;
mod function;
mod invoke_api;
mod runtime_api;
mod schedule;

pub use environment::{FunctionConfig, FunctionError, Logs};
pub use event_source::{EventSourceConfig, SqsEventSource};
pub use function::Function;
pub use runtime_api::RuntimeApi;
pub use schedule::Schedule;
