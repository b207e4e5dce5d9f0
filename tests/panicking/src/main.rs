//! usher's handling of batches over a table in memory that panics when something is parked: a bug, as it were, that
//! only some records meet.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::json;
use usher_chain::Chains;
use usher_domain::EventKey;
use usher_doorkeeper::{NudgeError, Nudges, Policy};
use usher_lambda::{Adapters, DataKeySource, Machine, Usher, handle_queue, telemetry};
use usher_store::{
    Table, TableError,
    memory::MemoryTable,
    table::{Item, Key, Query, Write},
};
use usher_xmtp::V3;

#[tokio::main]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let usher = usher()?;
    lambda_runtime::run(service_fn(|event| handle(&usher, event))).await
}

async fn handle(usher: &Usher, event: LambdaEvent<SqsEvent>) -> Result<SqsBatchResponse, Error> {
    Ok(handle_queue(usher, event.payload, &(&event.context).into()).await?)
}

fn usher() -> Result<Usher, Error> {
    let adapters = Adapters {
        table: Arc::new(Panicking::default()),
        // Nothing is initialised, so no room is touched.
        network: Arc::new(V3::new("http://127.0.0.1:9", Duration::from_secs(1))?),
        nudges: Arc::new(NoNudges),
        data_key: DataKeySource::File("/nowhere".into()),
        clock: Arc::new(Machine),
        randomness: Arc::new(Machine),
    };
    let chains = json!({ "31337": { "trust": "queue", "factories": ["0x5fbdb2315678afecb367f032d93f642f64180aa3"] } });
    let chains: Chains = serde_json::from_value(chains)?;
    Ok(Usher::new(adapters, chains, Policy::default()))
}

#[derive(Debug, Clone, Default)]
struct Panicking(Arc<MemoryTable>);

impl Panicking {
    fn check(writes: &[Write]) {
        assert!(writes.iter().all(|write| write.key.pk != "parked"), "nothing is parked here");
    }
}

#[async_trait]
impl Table for Panicking {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.0.get(key).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        self.0.query(query).await
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        self.0.due(shard, until_ms, limit).await
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        Self::check(std::slice::from_ref(write));
        self.0.write(write).await
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        Self::check(writes);
        self.0.transact(writes).await
    }
}

struct NoNudges;

#[async_trait]
impl Nudges for NoNudges {
    async fn nudge(&self, _event: &EventKey, _delay_s: u32) -> Result<(), NudgeError> {
        Ok(())
    }
}
