//! `usher`: run it all locally, operate a deployment.

mod config;
mod demo;
mod dev;
mod doctor;
mod functions;
mod init;
mod outputs;
mod parked;
mod recover;
mod redrive;
mod rooms;
mod send;
mod stack;
#[cfg(test)]
mod testing;
mod upgrade;
mod wallet;

use std::{error::Error, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};
use usher_lambda::telemetry::{Chain, discreet, targets};

/// Keeps XMTP rooms in step with on-chain tickets.
#[derive(Debug, Parser)]
#[command(name = "usher", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell the story of an event with real clients, in one process, and check how it ends
    Demo(demo::Args),
    /// Run it all on this machine: an XMTP node, DynamoDB, SQS and the functions
    Dev(dev::Args),
    /// Make a deployment's XMTP account, or find it made
    Init(init::Args),
    /// Check, compare, put or show the configuration
    Config(config::Args),
    /// Look whether everything is as it should be, and say how to mend what is not
    Doctor(doctor::Args),
    /// Put chain logs on the queues
    Send(send::Args),
    /// Show, retry or drop what should have been ours and could not be used
    Parked(parked::Args),
    /// Put dead letters back into their queues
    Redrive(redrive::Args),
    /// Replace usher's installation, after a restore or a leak, and bring the rooms back
    Recover(recover::Args),
    /// See that an upgrade is finished: that nothing stored is of another release's format
    Upgrade(upgrade::Args),
    /// Show the rooms, who sits in them and who waits
    Rooms(rooms::Args),
}

/// What went wrong, for a person to read.
type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let said = std::env::var("RUST_LOG").ok().and_then(|said| targets(&said));
    let errors = || Targets::new().with_default(LevelFilter::ERROR).with_target("openmls", LevelFilter::OFF);
    let lines = fmt::layer().with_writer(std::io::stderr);
    Registry::default().with(discreet(said.unwrap_or_else(errors))).with(lines).init();
    let done = match Cli::parse().command {
        Command::Demo(args) => demo::run(args).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Init(args) => init::run(args).await,
        Command::Config(args) => config::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Parked(args) => parked::run(args).await,
        Command::Recover(args) => recover::run(args).await,
        Command::Redrive(args) => redrive::run(args).await,
        Command::Send(args) => send::run(args).await,
        Command::Upgrade(args) => upgrade::run(args).await,
        Command::Rooms(args) => rooms::run(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("error: {}", Chain(&*failure)));
            ExitCode::FAILURE
        }
    }
}

/// To the person at the terminal; what a program may read goes to [`print()`].
#[expect(clippy::print_stderr, reason = "this is a command's way to speak")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// The command's result.
#[expect(clippy::print_stdout, reason = "this is a command's result")]
fn print(text: &str) {
    println!("{text}");
}
