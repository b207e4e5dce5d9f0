//! The long form of the load, on the binaries of the same profile:
//! `cargo build --release --bins && cargo run --release -p usher-tests --example load -- --events 200 --facts 10000`.
//!
//! Three stacks, one after the other: shuffled and tripled facts and a killed holder; many due events; purchases against
//! the node's rate limiter. Prints a table, or JSON.

use std::time::Duration;

use clap::Parser;
use serde_json::json;
use usher_tests::{
    load::{Due, Facts, Limiter, rows},
    world::AnyError,
};

#[derive(Debug, Parser)]
struct Args {
    /// How many events have a season
    #[arg(long, default_value_t = 200)]
    events: usize,
    /// How many facts that season has; each comes three times
    #[arg(long, default_value_t = 10_000)]
    facts: usize,
    /// How many people have XMTP clients
    #[arg(long, default_value_t = 60)]
    people: usize,
    /// How many events are due at once
    #[arg(long, default_value_t = 10_000)]
    due: usize,
    /// How many tickets are bought against the rate limiter
    #[arg(long, default_value_t = 1000)]
    purchases: usize,
    /// What the node takes, as `usher dev` reads it
    #[arg(long, default_value = "1000/400,4000/2000")]
    rate_limits: String,
    /// What happens and in which order it is told
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long each part may take, in minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Only these parts: facts, due, limiter
    #[arg(long, value_delimiter = ',', default_value = "facts,due,limiter")]
    parts: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "this is a measurement's result")]
async fn main() -> Result<(), AnyError> {
    let args = Args::parse();
    let patience = Duration::from_secs(args.minutes * 60);
    let has = |part: &str| args.parts.iter().any(|wanted| wanted == part);
    let (mut all, mut table) = (json!({}), String::from("| | |\n| :-- | --: |\n"));
    if has("facts") {
        let facts = Facts { events: args.events, facts: args.facts, people: args.people, seed: args.seed, patience };
        let (delivered, killed) = facts.run().await?;
        table += &(rows(&delivered)? + &rows(&killed)?);
        all["facts"] = serde_json::to_value(delivered)?;
        all["killed"] = serde_json::to_value(killed)?;
    }
    if has("due") {
        let minutes = usize::try_from(args.minutes)?;
        let minted = args.due / 10;
        let due =
            Due { events: args.due - minted, minted, people: args.people, rooms: args.due, looks: minutes.max(2) };
        let due = due.run().await?;
        table += &rows(&due)?;
        all["due"] = serde_json::to_value(due)?;
    }
    if has("limiter") {
        let limiter = Limiter {
            purchases: args.purchases,
            events: 10,
            people: 300.min(args.purchases),
            rate_limits: args.rate_limits,
            seed: args.seed,
            patience,
        };
        let limited = limiter.run().await?;
        table += &rows(&limited)?;
        all["limiter"] = serde_json::to_value(limited)?;
    }
    println!("{}", if args.json { all.to_string() } else { table });
    Ok(())
}
