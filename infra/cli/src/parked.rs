//! `usher parked`: what should have been ours and could not be used.

use clap::Subcommand;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;
use serde_json::{Value, json};
use usher_chain::{Chains, Reading};
use usher_lambda::{Document, telemetry::Chain};
use usher_store::{Outcome, Store, parked::EXCERPT_BYTES_MAX, parked::Parked};

use crate::{Failure, print, stack::Stack};

/// What is done with all is done with so many.
const ALL: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what is parked, and why
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Show one with its body
    Show {
        /// As `list` calls it
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Read it again by the configuration in force, and record what it says
    Retry(Chosen),
    /// Forget it
    Drop(Chosen),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stack: Stack,
}

#[derive(Debug, clap::Args)]
struct Chosen {
    /// As `list` calls them
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// All that is parked
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    common: Common,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::List { limit, common } => {
            let deployment = common.stack.reach().await?;
            let parked = deployment.store().parked(limit).await.map_err(|error| deployment.unreachable(error))?;
            let parked: Vec<Shown> = parked.into_iter().map(Shown::from).collect();
            print(&if common.json { json!({ "parked": parked }).to_string() } else { table(&parked) });
        }
        Command::Show { name, common } => {
            let deployment = common.stack.reach().await?;
            let store = deployment.store();
            // Whether the table is there at all is told apart from whether this is in it.
            store.parked_count(1).await.map_err(|error| deployment.unreachable(error))?;
            let parked = named(&store, &name).await?;
            let Parked { excerpt, .. } = &parked;
            print(&if common.json {
                // As JSON where it is JSON.
                let body = serde_json::from_str(excerpt).unwrap_or_else(|_| Value::String(excerpt.clone()));
                json!({ "parked": Shown::from(parked), "body": body }).to_string()
            } else {
                format!("{}\n{}\n\n{excerpt}", parked.id, parked.reason)
            });
        }
        Command::Retry(chosen) => {
            let deployment = chosen.common.stack.reach().await?;
            let store = deployment.store();
            let stored = store.configuration().await.map_err(|error| deployment.unreachable(error))?;
            let stored = stored.ok_or("no configuration: run `usher config put FILE`")?;
            let chains = Document::parse(&stored.document)?.chains;
            let mut done = Vec::new();
            for parked in chosen.of(&store).await? {
                done.push(Done { name: parked.id.to_string(), outcome: retry(&store, &chains, &parked).await? });
            }
            return conclude(done, chosen.common.json);
        }
        Command::Drop(chosen) => {
            let deployment = chosen.common.stack.reach().await?;
            let store = deployment.store();
            store.parked_count(1).await.map_err(|error| deployment.unreachable(error))?;
            let mut done = Vec::new();
            for parked in chosen.of(&store).await? {
                store.unpark(parked.id).await?;
                done.push(Done { name: parked.id.to_string(), outcome: Ended::Dropped });
            }
            return conclude(done, chosen.common.json);
        }
    }
    Ok(())
}

impl Chosen {
    async fn of(&self, store: &Store) -> Result<Vec<Parked>, Failure> {
        if self.all {
            return Ok(store.parked(ALL).await?);
        }
        let mut parked = Vec::new();
        for name in &self.names {
            parked.push(named(store, name).await?);
        }
        Ok(parked)
    }
}

async fn named(store: &Store, name: &str) -> Result<Parked, Failure> {
    let found = store.parked_named(name).await?;
    found.ok_or_else(|| format!("nothing is parked as {name:?}; `usher parked list` shows what is").into())
}

/// What became of one.
#[derive(Debug, Serialize)]
struct Done {
    name: String,
    #[serde(flatten)]
    outcome: Ended,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Ended {
    /// Its facts are in the ledger, or it concerns nobody; it is parked no more.
    Recorded { facts: usize, ignored: usize },
    /// It cannot be used now either.
    StillParked { reason: String },
    /// It is forgotten.
    Dropped,
}

/// Reads one again. It is forgotten only when all it says is in the ledger, from where the sweep takes it to the rooms.
async fn retry(store: &Store, chains: &Chains, parked: &Parked) -> Result<Ended, Failure> {
    let (mut facts, mut ignored, mut still) = (Vec::new(), 0, None);
    for reading in usher_chain::read(&parked.excerpt, chains) {
        match reading {
            Reading::Fact(fact) => facts.push(fact),
            Reading::Ignored(_) => ignored += 1,
            Reading::Parked(parked) => still = Some(parked.reason.to_string()),
        }
    }
    // What was cut off may be read as something else than what was sent.
    let is_cut = parked.excerpt.len() > EXCERPT_BYTES_MAX - char::MAX.len_utf8();
    if is_cut {
        still = Some("only its beginning was kept: have it sent again".to_owned());
    }
    if let Some(reason) = still {
        return Ok(Ended::StillParked { reason });
    }
    for outcome in store.record(&facts).await.outcomes {
        match outcome {
            Outcome::New | Outcome::Known | Outcome::Waiting => {}
            Outcome::NoRoom => {
                let reason = "too many facts wait for its kiosk, which no event has announced".to_owned();
                return Ok(Ended::StillParked { reason });
            }
            Outcome::Failed(error) => return Err(format!("{}: not recorded: {}", parked.id, Chain(&*error)).into()),
        }
    }
    store.unpark(parked.id).await?;
    Ok(Ended::Recorded { facts: facts.len(), ignored })
}

/// Something parked, without its body.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    reason: String,
    /// When it was first parked, in milliseconds since 1970.
    at_ms: u64,
    bytes: usize,
}

impl From<Parked> for Shown {
    fn from(Parked { id, reason, excerpt, at_ms }: Parked) -> Self {
        Self { name: id.to_string(), reason, at_ms, bytes: excerpt.len() }
    }
}

fn table(parked: &[Shown]) -> String {
    if parked.is_empty() {
        return "nothing is parked".to_owned();
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["parked, and why"]);
    // Names are longer than a terminal is wide.
    for Shown { name, reason, .. } in parked {
        table.add_row([format!("{name}\n  {reason}")]);
    }
    table.to_string()
}

/// A retry that leaves something parked is a failed one.
fn conclude(done: Vec<Done>, json: bool) -> Result<(), Failure> {
    let line = |Done { name, outcome }: &Done| match outcome {
        Ended::Recorded { facts, ignored: 0 } => format!("{name}: {facts} facts recorded"),
        Ended::Recorded { facts, ignored } => format!("{name}: {facts} facts recorded, {ignored} logs concern nobody"),
        Ended::StillParked { reason } => format!("{name}: still parked: {reason}"),
        Ended::Dropped => format!("{name}: dropped"),
    };
    if json {
        print(&json!({ "done": done }).to_string());
    } else if done.is_empty() {
        print("nothing is parked");
    } else {
        print(&done.iter().map(line).collect::<Vec<_>>().join("\n"));
    }
    let still = done.iter().filter(|done| matches!(done.outcome, Ended::StillParked { .. })).count();
    if still > 0 { Err(format!("{still} of {} are still parked", done.len()).into()) } else { Ok(()) }
}
