//! An usher on a table in memory, for tests: with a clock that stands still and troubles to order.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use serde::de::DeserializeOwned;
use usher_chain::Chains;
use usher_domain::{EventKey, ports::Clock};
use usher_doorkeeper::{NudgeError, Nudges, Policy};
use usher_store::{
    Table, TableError,
    memory::MemoryTable,
    table::{Item, Key, Query, Write},
};
use usher_xmtp::V3;

use crate::{Adapters, DataKeySource, Invocation, Machine, Meter, Metrics, Nodes, Sink, Usher};

pub(crate) const NOW_MS: u64 = 1_900_000_000_000;
const FACTORY: &str = "0x5fbdb2315678afecb367f032d93f642f64180aa3";

/// The event of the samples.
pub(crate) fn event() -> EventKey {
    format!("31337:{FACTORY}:0").parse().unwrap()
}

/// A sample of `events/`.
pub(crate) fn sample<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A batch of messages `m0`, `m1`, … with these bodies.
pub(crate) fn batch(bodies: &[&str]) -> SqsEvent {
    let mut batch = SqsEvent::default();
    for (index, body) in bodies.iter().enumerate() {
        let mut message = SqsMessage::default();
        message.message_id = Some(format!("m{index}"));
        message.body = Some((*body).to_owned());
        batch.records.push(message);
    }
    batch
}

/// An invocation with so much time left.
pub(crate) fn invocation(left_ms: u64) -> Invocation {
    Invocation { id: "i1".into(), deadline_ms: NOW_MS + left_ms }
}

struct Standing;

impl Clock for Standing {
    fn now_ms(&self) -> u64 {
        NOW_MS
    }
}

/// What a write meets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    Fails,
    Panics,
}

/// A table in memory whose writes meet trouble if their key has some text in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Troubled {
    pub(crate) inner: Arc<MemoryTable>,
    troubles: Arc<Mutex<Vec<(String, Trouble)>>>,
}

impl Troubled {
    pub(crate) fn order(&self, text: &str, trouble: Trouble) {
        self.troubles.lock().unwrap().push((text.to_owned(), trouble));
    }

    fn meet(&self, write: &Write) -> Result<(), TableError> {
        let name = format!("{} {}", write.key.pk, write.key.sk);
        let troubles = self.troubles.lock().unwrap().clone();
        match troubles.iter().find(|(text, _)| name.contains(text)) {
            None => Ok(()),
            Some((_, Trouble::Fails)) => Err(TableError::Bug("ordered".into())),
            Some((_, Trouble::Panics)) => panic!("ordered"),
        }
    }
}

#[async_trait]
impl Table for Troubled {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.inner.get(key).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        self.inner.query(query).await
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        self.inner.due(shard, until_ms, limit).await
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        self.meet(write)?;
        self.inner.write(write).await
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        writes.iter().try_for_each(|write| self.meet(write))?;
        self.inner.transact(writes).await
    }
}

/// Nudges that were sent; a broken one sends none.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) nudges: Mutex<Vec<(EventKey, u32)>>,
    pub(crate) broken: bool,
}

#[async_trait]
impl Nudges for Sent {
    async fn nudge(&self, event: &EventKey, delay_s: u32) -> Result<(), NudgeError> {
        if self.broken {
            return Err(NudgeError("broken".into()));
        }
        self.nudges.lock().unwrap().push((*event, delay_s));
        Ok(())
    }
}

/// Metrics that were told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<serde_json::Value>>>);

impl Sink for Lines {
    fn write(&self, line: &str) {
        self.0.lock().unwrap().push(serde_json::from_str(line).unwrap());
    }
}

impl Lines {
    pub(crate) fn taken(&self) -> Vec<serde_json::Value> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// An usher with the parts a test looks into. Its XMTP node is nowhere.
pub(crate) struct Rig {
    pub(crate) usher: Usher,
    pub(crate) table: Troubled,
    pub(crate) nudges: Arc<Sent>,
}

impl Rig {
    /// The same rig, and what it tells.
    pub(crate) fn metered(mut self) -> (Self, Lines) {
        let lines = Lines::default();
        let metrics = Metrics::new("test", "usher-test", Arc::new(lines.clone()), Meter::default());
        self.usher = self.usher.with_metrics(metrics);
        (self, lines)
    }

    pub(crate) fn new() -> Self {
        Self::with("/nowhere/data.key".into(), Sent::default())
    }

    pub(crate) fn with(key_file: PathBuf, nudges: Sent) -> Self {
        let (table, nudges) = (Troubled::default(), Arc::new(nudges));
        let adapters = Adapters {
            table: Arc::new(table.clone()),
            network: Arc::new(V3::new("http://127.0.0.1:9", Duration::from_secs(1)).unwrap()),
            nudges: nudges.clone(),
            data_key: DataKeySource::File(key_file),
            clock: Arc::new(Standing),
            randomness: Arc::new(Machine),
        };
        let chains = format!(r#"{{"31337":{{"trust":"queue","factories":["{FACTORY}"]}}}}"#);
        let chains: Chains = serde_json::from_str(&chains).unwrap();
        Self { usher: Usher::new(adapters, chains, Policy::default()), table, nudges }
    }

    /// One that asks the chain of the samples.
    pub(crate) fn asking(nodes: Arc<dyn Nodes>) -> Self {
        let rig = Self::new();
        let secret = "arn:aws:secretsmanager:us-east-1:000000000000:secret:rpc";
        let chains = format!(r#"{{"31337":{{"rpc_secret":"{secret}","factories":["{FACTORY}"]}}}}"#);
        let chains: Chains = serde_json::from_str(&chains).unwrap();
        let usher = Usher::new(rig.usher.adapters, chains, Policy::default()).asking(nodes);
        Self { usher, ..rig }
    }

    /// Whether the samples' event is due.
    pub(crate) async fn is_due(&self) -> bool {
        self.usher.store().due(NOW_MS, 10).await.unwrap().iter().any(|due| due.event == event())
    }
}
