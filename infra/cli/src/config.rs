//! `usher config`: the configuration in the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use serde_json::{Value, json};
use usher_domain::ports::Clock as _;
use usher_lambda::{Document, Machine, telemetry::Chain};
use usher_store::{
    Store,
    configuration::{Put, StoredConfiguration},
};

use crate::{Failure, print, stack::Stack};

const EVENTS_AT_ONCE: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a file, without any deployment
    Check {
        /// The document
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a file would change
    Diff(Filed),
    /// Put a file in force
    Put(Filed),
    /// Show what is in force
    Get {
        /// Print JSON: the revision and the document
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        stack: Stack,
    },
}

#[derive(Debug, clap::Args)]
struct Filed {
    /// The document, as docs/config.schema.json describes it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stack: Stack,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Check { file, json } => {
            let document = read(&file)?;
            let chains: BTreeMap<_, _> =
                document.chains.iter().map(|(chain, config)| (chain.to_string(), config.factories.len())).collect();
            if json {
                print(&json!({ "valid": true, "chains": chains }).to_string());
            } else {
                let chains: Vec<_> =
                    chains.iter().map(|(chain, factories)| format!("chain {chain}: {factories}")).collect();
                print(&format!("{} is fine; factories of {}", file.display(), or_nothing(&chains.join(", "))));
            }
            Ok(())
        }
        Command::Diff(Filed { file, json, stack }) => {
            let new = read(&file)?;
            let deployment = stack.reach().await?;
            let stored = deployment.store().configuration().await.map_err(|error| deployment.unreachable(error))?;
            let changes = changes(stored.as_ref(), &new)?;
            let revision = stored.map(|stored| stored.revision);
            print(&if json { json!({ "revision": revision, "changes": changes }).to_string() } else { text(&changes) });
            Ok(())
        }
        Command::Put(Filed { file, json, stack }) => {
            let new = read(&file)?;
            let deployment = stack.reach().await?;
            let store = deployment.store();
            let stored = store.configuration().await.map_err(|error| deployment.unreachable(error))?;
            let done = put(&store, stored, &new).await?;
            print(&if json { serde_json::to_string(&done)? } else { done.text() });
            Ok(())
        }
        Command::Get { json, stack } => {
            let deployment = stack.reach().await?;
            let stored = deployment.store().configuration().await.map_err(|error| deployment.unreachable(error))?;
            let stored = stored.ok_or("no configuration: run `usher config put FILE`")?;
            if json {
                // A document that this version does not understand is shown as the text it is.
                let document = serde_json::from_str(&stored.document).unwrap_or(Value::String(stored.document));
                print(&json!({ "revision": stored.revision, "document": document }).to_string());
            } else {
                print(&stored.document);
            }
            Ok(())
        }
    }
}

/// Reads a file and checks it; says what is wrong and where.
pub(crate) fn read(file: &Path) -> Result<Document, Failure> {
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = fs::read_to_string(file).map_err(|error| said(&error))?;
    Ok(Document::parse(&text).map_err(|error| said(&Chain(&error)))?)
}

/// What putting a document came to.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    revision: u64,
    changes: Vec<Change>,
    /// How many events are looked at again because of it.
    events_due: usize,
}

impl Done {
    pub(crate) fn text(&self) -> String {
        let Self { revision, changes, events_due } = self;
        if changes.is_empty() {
            return format!("revision {revision} says the same; {events_due} events are looked at again");
        }
        format!("{}\nrevision {revision} is in force; {events_due} events are looked at again", text(changes))
    }
}

/// Puts a document in force, and has every event looked at if rooms are to be kept differently. What says the same may
/// be the repetition of a put that ended before that, so it does it, too.
pub(crate) async fn put(store: &Store, stored: Option<StoredConfiguration>, new: &Document) -> Result<Done, Failure> {
    let changes = changes(stored.as_ref(), new)?;
    let before = stored.as_ref().map(|stored| stored.revision);
    let revision = match before.filter(|_| changes.is_empty()) {
        Some(revision) => revision,
        None => match store.put_configuration(&new.to_string(), before).await? {
            Put::Stored(revision) => revision,
            Put::Overtaken => {
                return Err("somebody else has just put another configuration: look at it and try again".into());
            }
        },
    };
    let concerned = changes.is_empty() || changes.iter().any(Change::is_about_rooms);
    let events = if concerned { store.events().await? } else { Vec::new() };
    let now_ms = Machine.now_ms();
    let marked: Vec<bool> = stream::iter(&events)
        .map(|event| store.mark_due(event, now_ms))
        .buffer_unordered(EVENTS_AT_ONCE)
        .try_collect()
        .await?;
    let events_due = marked.into_iter().filter(|marked| *marked).count();
    Ok(Done { revision, changes, events_due })
}

/// One place at which two documents differ.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// The place, e.g. `chains.31337.factories`.
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

impl Change {
    fn is_about_rooms(&self) -> bool {
        ["policy", "moderators", "bans"].iter().any(|part| self.path.starts_with(part))
    }
}

/// What a document changes; of lists, what goes and what comes.
fn changes(stored: Option<&StoredConfiguration>, new: &Document) -> Result<Vec<Change>, Failure> {
    let before = match stored {
        // With everything said that goes without saying, if it is understood.
        Some(stored) => match Document::parse(&stored.document) {
            Ok(document) => leaves(&serde_json::to_value(document)?),
            Err(_) => leaves(&Value::String(stored.document.clone())),
        },
        None => BTreeSet::new(),
    };
    let after = leaves(&serde_json::to_value(new)?);
    let mut changes = BTreeMap::<String, Change>::new();
    for ((path, key), is_new) in
        before.difference(&after).map(|leaf| (leaf, false)).chain(after.difference(&before).map(|leaf| (leaf, true)))
    {
        let value = Some(serde_json::from_str(key)?);
        // Elements of a list are changes of their own.
        let name = if path.ends_with("[]") { format!("{path}{key}") } else { path.clone() };
        let change = changes.entry(name);
        let change = change.or_insert_with(|| Change { path: path.clone(), before: None, after: None });
        *(if is_new { &mut change.after } else { &mut change.before }) = value;
    }
    Ok(changes.into_values().collect())
}

/// Each value with its path, as JSON text.
fn leaves(value: &Value) -> BTreeSet<(String, String)> {
    fn collect(path: &str, value: &Value, leaves: &mut BTreeSet<(String, String)>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    collect(&path, value, leaves);
                }
            }
            Value::Array(elements) => {
                for element in elements {
                    leaves.insert((format!("{path}[]"), element.to_string()));
                }
            }
            value => {
                leaves.insert((path.to_owned(), value.to_string()));
            }
        }
    }
    let mut found = BTreeSet::new();
    collect("", value, &mut found);
    found
}

fn text(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nothing changes".to_owned();
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["what", "in force", "new"]);
    let shown = |value: &Option<Value>| value.as_ref().map(Value::to_string).unwrap_or_default();
    for Change { path, before, after } in changes {
        table.add_row([path.clone(), shown(before), shown(after)]);
    }
    table.to_string()
}

fn or_nothing(text: &str) -> &str {
    if text.is_empty() { "no chain" } else { text }
}

#[cfg(test)]
mod tests {
    use usher_store::Take;

    use super::*;
    use crate::testing;

    fn document(more: &str) -> String {
        let chains = r#""version":1,"chains":{"31337":{"trust":"queue","factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}}"#;
        format!("{{{chains}{more}}}")
    }

    fn changed(before: Option<&str>, after: &str) -> Vec<String> {
        let stored = before.map(|before| StoredConfiguration { revision: 1, document: before.to_owned() });
        let changes = changes(stored.as_ref(), &Document::parse(after).unwrap()).unwrap();
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
        changes
            .iter()
            .map(|change| format!("{} {} {}", change.path, shown(&change.before), shown(&change.after)))
            .collect()
    }

    #[test]
    fn what_goes_without_saying_is_no_change() {
        assert_eq!(changed(Some(&document("")), &document(r#","policy":{"creator_role":"admin"},"bans":[]"#)), [""; 0]);
    }

    #[test]
    fn changes_are_told_by_their_places() {
        let factory = "0x00000000000000000000000000000000000000aa";
        let after = document(r#","policy":{"seats_per_room":9},"rate_limits":null"#)
            .replace("\"]}", &format!("\",\"{factory}\"]}}"));
        let mut said = changed(Some(&document("")), &after);
        assert_eq!(said.remove(0), format!("chains.31337.factories[] - \"{factory}\""));
        assert_eq!(said.remove(0), "policy.seats_per_room 220 9");
        assert!(said.contains(&"rate_limits - null".to_owned()) && said.len() == 5, "{said:?}");
        let banned = |n: &str| document(&format!(r#","bans":["0x{}"]"#, n.repeat(20)));
        assert_eq!(
            changed(Some(&banned("aa")), &banned("bb")),
            [format!("bans[] \"0x{}\" -", "aa".repeat(20)), format!("bans[] - \"0x{}\"", "bb".repeat(20))]
        );
    }

    #[test]
    fn a_first_document_is_all_new_and_one_not_understood_all_old() {
        assert!(changed(None, &document("")).iter().all(|change| change.contains(" - ")));
        let said = changed(Some("{}"), &document(""));
        assert!(said.iter().any(|change| change == " \"{}\" -"), "{said:?}");
    }

    #[tokio::test]
    async fn a_put_that_ended_too_soon_is_made_up_for_by_its_repetition() {
        let store = testing::store(0);
        let event = testing::mint(&store).await;
        let minted_ms = store.event(&event).await.unwrap().unwrap().due_at_ms.unwrap();
        let banning = Document::parse(&document(&format!(r#","bans":["0x{}"]"#, "aa".repeat(20)))).unwrap();
        // All that happened before it died.
        assert_eq!(store.put_configuration(&banning.to_string(), None).await.unwrap(), Put::Stored(1));
        let lease = match store.take(&event, "somebody", minted_ms, minted_ms + 1).await.unwrap() {
            Take::Taken(lease) => lease,
            other => panic!("{other:?}"),
        };
        store.release(&lease, None).await.unwrap();
        assert_eq!(store.event(&event).await.unwrap().unwrap().due_at_ms, None, "the event is at rest");

        for _ in 0..2 {
            let stored = store.configuration().await.unwrap();
            let done = put(&store, stored, &banning).await.unwrap();
            assert_eq!((done.revision, done.changes.len(), done.events_due), (1, 0, 1));
            assert!(store.event(&event).await.unwrap().unwrap().due_at_ms.is_some());
        }
    }

    #[tokio::test]
    async fn only_what_is_about_rooms_has_events_looked_at() {
        let store = testing::store(0);
        testing::mint(&store).await;
        let first = Document::parse(&document("")).unwrap();
        put(&store, None, &first).await.unwrap();
        let mut due = Vec::new();
        for more in [r#","rate_limits":null"#, r#","rate_limits":null,"policy":{"seats_per_room":9}"#] {
            let stored = store.configuration().await.unwrap();
            due.push(put(&store, stored, &Document::parse(&document(more)).unwrap()).await.unwrap().events_due);
        }
        assert_eq!(due, [0, 1]);
    }
}
