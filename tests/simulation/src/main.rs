//! Runs many seeds, and prints the first that fails with what happened in it.

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use clap::Parser;
use tracing_subscriber::{Registry, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};
use usher_lambda::telemetry::targets;
use usher_simulation::{Tally, run};

/// Interleaves whole invocations at every port call, with everything that can go wrong.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Print what happens in each run
    #[arg(long)]
    trace: bool,
    /// Go on after a seed that fails
    #[arg(long)]
    all: bool,
    /// How many seeds to run at once; as many as there are processors if none is given
    #[arg(long)]
    workers: Option<usize>,
}

/// How many seeds there are between two words on how far it is.
const PROGRESS_EVERY: u64 = 500;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(targets) = std::env::var("RUST_LOG").ok().and_then(|said| targets(&said)) {
        Registry::default().with(targets).with(fmt::layer()).init();
    }
    let next = AtomicU64::new(arguments.start);
    let end = arguments.start + arguments.seeds;
    let total = Mutex::new(Tally::default());
    let failed = Mutex::new(Vec::new());
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    let workers = arguments.workers.unwrap_or_else(processors);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || (!arguments.all && !failed.lock().expect("no panic").is_empty()) {
                        return;
                    }
                    let outcome = run(seed, arguments.trace);
                    if arguments.trace {
                        println!("seed {seed}\n{}", outcome.trace.join("\n"));
                    }
                    total.lock().expect("no panic").add(&outcome.tally);
                    let begun = seed + 1 - arguments.start;
                    if begun.is_multiple_of(PROGRESS_EVERY) && begun < arguments.seeds {
                        eprintln!(
                            "{begun} of {} seeds, {} failed",
                            arguments.seeds,
                            failed.lock().expect("no panic").len()
                        );
                    }
                    if let Some(broken) = outcome.broken {
                        println!("seed {seed}: {broken}");
                        failed.lock().expect("no panic").push(seed);
                    }
                }
            });
        }
    });
    let total = total.into_inner().expect("no panic");
    for ((fault, port), count) in &total.faults {
        println!("{count:>8}  {fault} {port}");
    }
    for (event, count) in &total.events {
        println!("{count:>8}  {event}");
    }
    let failed = failed.into_inner().expect("no panic");
    if let Some(seed) = failed.first().filter(|_| !arguments.trace) {
        println!("seed {seed}, again:\n{}", run(*seed, true).trace.join("\n"));
    }
    println!("{} seeds from {}: {} failed {failed:?}", arguments.seeds, arguments.start, failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
