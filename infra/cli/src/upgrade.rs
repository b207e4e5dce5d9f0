//! `usher upgrade`: whether everything that is stored is what this release writes.
//!
//! While two releases run side by side, the new one reads what the old one wrote, and the old one must read what the new
//! one writes. So far there is one format of snapshots: what remains to be seen at the end is that no newer release has
//! written into this table, which this one could not go on from.

use std::collections::BTreeMap;

use clap::Subcommand;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use usher_store::{Owner, RoomState, Store, StoreError, snapshot::FORMAT};

use crate::{Failure, print, stack::Stack};

/// How many snapshots are looked at at a time.
const AT_ONCE: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See, after a deploy, that no snapshot is of another format than this release writes
    Finish {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        stack: Stack,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Command::Finish { json, stack } = args.command;
    let deployment = stack.reach().await?;
    let formats = formats(&deployment.store()).await.map_err(|error| deployment.unreachable(error))?;
    let finished = is_finished(&formats);
    if json {
        print(&json!({ "finished": finished, "format": FORMAT, "snapshots": formats }).to_string());
    } else {
        print(&told(&formats));
    }
    if finished { Ok(()) } else { Err(OTHER.into()) }
}

const OTHER: &str =
    "snapshots are of a format that this release does not write: finish with the release that wrote them";

/// How many snapshots there are of each format: the account's, and those of rooms that are not lost.
async fn formats(store: &Store) -> Result<BTreeMap<u8, usize>, StoreError> {
    let mut owners = vec![Owner::Account];
    for event in store.events().await? {
        let rooms = store.event(&event).await?.into_iter().flat_map(|record| record.rooms);
        let kept = rooms.filter(|room| !matches!(room.state, RoomState::Lost { .. }));
        owners.extend(kept.map(|room| Owner::Room(room.group)));
    }
    let formats = stream::iter(&owners).map(|owner| store.snapshot_format(owner)).buffer_unordered(AT_ONCE);
    let found: Vec<Option<u8>> = formats.try_collect().await?;
    let mut formats = BTreeMap::new();
    found.into_iter().flatten().for_each(|format| *formats.entry(format).or_default() += 1);
    Ok(formats)
}

fn is_finished(formats: &BTreeMap<u8, usize>) -> bool {
    formats.keys().all(|format| *format == FORMAT)
}

fn told(formats: &BTreeMap<u8, usize>) -> String {
    let counted: Vec<_> = formats.iter().map(|(format, count)| format!("{count} of format {format}")).collect();
    let counted = if counted.is_empty() { "none".to_owned() } else { counted.join(", ") };
    format!("snapshots: {counted}; this release writes format {FORMAT}")
}

#[cfg(test)]
mod tests {
    use usher_store::table::{Item, Key, Write};

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn formats_are_counted_and_another_is_told() {
        let store = testing::store(0);
        testing::mint(&store).await;
        assert_eq!(told(&formats(&store).await.unwrap()), "snapshots: none; this release writes format 1");
        for format in [1, 2] {
            let sealed = Item::from([("seal".into(), vec![format; 65].into())]);
            store.table().write(&Write::put(Key::new("account", "head"), sealed)).await.unwrap();
            let found = formats(&store).await.unwrap();
            assert_eq!((is_finished(&found), found), (format == FORMAT, [(format, 1)].into()));
        }
        assert_eq!(told(&formats(&store).await.unwrap()), "snapshots: 1 of format 2; this release writes format 1");
    }
}
