//! A ledger in memory, for unit tests.

use std::{fs, path::Path, sync::Arc};

use usher_chain::{Chains, Reading};
use usher_domain::{EventKey, ports::Clock};
use usher_lambda::Machine;
use usher_store::{Store, memory::MemoryTable};

/// What time it was so many milliseconds ago.
struct Ago(u64);

impl Clock for Ago {
    fn now_ms(&self) -> u64 {
        Machine.now_ms() - self.0
    }
}

/// An empty ledger whose clock is late by so much.
pub(crate) fn store(ago_ms: u64) -> Store {
    Store::new(Arc::new(MemoryTable::new()), Arc::new(Ago(ago_ms)), Arc::new(Machine))
}

/// Records the mint of the samples; returns its event.
pub(crate) async fn mint(store: &Store) -> EventKey {
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/logs/01-mint.json");
    let chains = r#"{"31337":{"trust":"queue","factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}}"#;
    let chains: Chains = serde_json::from_str(chains).unwrap();
    let readings = usher_chain::read(&fs::read_to_string(logs).unwrap(), &chains).into_iter();
    let facts = readings.filter_map(|reading| match reading {
        Reading::Fact(fact) => Some(fact),
        _ => None,
    });
    store.record(&facts.collect::<Vec<_>>()).await;
    let [event] = store.events().await.unwrap()[..] else { panic!("one event") };
    event
}
