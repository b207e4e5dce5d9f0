//! DynamoDB as a process meets it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use usher_domain::ports::Clock as _;
use usher_store::{
    TableError,
    memory::MemoryTable,
    table::{Item, Key, Query, Reason, Table, Write},
};

use crate::{faults::Fault, process::Process, shared::pause, watch::Watch};

/// The longest that a write holds its items.
const UNDER_WAY_MS_MAX: u64 = 1_000;

/// What all processes' tables share.
#[derive(Debug, Default)]
pub(crate) struct Database {
    pub(crate) items: Arc<MemoryTable>,
    /// The keys of transactions and writes under way, by number.
    under_way: Mutex<BTreeMap<u64, (u64, Vec<Key>)>>,
    numbers: Mutex<u64>,
    /// What the due index said some time ago.
    earlier: Mutex<BTreeMap<String, Vec<Item>>>,
}

impl Database {
    /// Enters a write; says whether another one under way holds one of its items.
    fn enter(&self, writes: &[Write], now_ms: u64) -> (UnderWay<'_>, Option<Vec<bool>>) {
        let mut under_way = self.under_way.lock().expect("no panic");
        // The database does not wait for a process that froze.
        under_way.retain(|_, (since_ms, _)| *since_ms + UNDER_WAY_MS_MAX > now_ms);
        let holds = |key: &Key| under_way.values().any(|(_, keys)| keys.contains(key));
        let held: Vec<bool> = writes.iter().map(|write| holds(&write.key)).collect();
        let mut numbers = self.numbers.lock().expect("no panic");
        *numbers += 1;
        let number = *numbers;
        under_way.insert(number, (now_ms, writes.iter().map(|write| write.key.clone()).collect()));
        (UnderWay { database: self, number }, held.contains(&true).then_some(held))
    }
}

/// A write under way; dropped with its process.
struct UnderWay<'a> {
    database: &'a Database,
    number: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.database.under_way.lock().expect("no panic").remove(&self.number);
    }
}

/// The database of one process.
#[derive(Clone)]
pub(crate) struct SimTable {
    pub(crate) database: Arc<Database>,
    pub(crate) process: Arc<Process>,
    pub(crate) watch: Arc<Watch>,
}

impl SimTable {
    fn unavailable() -> TableError {
        TableError::Unavailable(Arc::new(std::io::Error::other("simulated")))
    }

    /// Trouble that keeps a call from having any effect.
    fn trouble(&self, port: &'static str) -> Result<(), TableError> {
        if self.process.meets(Fault::Unanswered, port) {
            return Err(Self::unavailable());
        }
        if self.process.meets(Fault::Throttled, port) {
            return Err(TableError::Throttled);
        }
        Ok(())
    }

    async fn read<R>(
        &self,
        port: &'static str,
        effect: impl Future<Output = Result<R, TableError>>,
    ) -> Result<R, TableError> {
        self.process.before(port).await;
        self.trouble(port)?;
        let read = effect.await;
        self.process.after(port).await;
        read
    }
}

#[async_trait]
impl Table for SimTable {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.read("get", self.database.items.get(key)).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        self.read("query", self.database.items.query(query)).await
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        self.process.before("due").await;
        self.trouble("due")?;
        let now = self.database.items.due(shard, until_ms, limit).await?;
        let earlier = self.database.earlier.lock().expect("no panic").insert(shard.to_owned(), now.clone());
        let stale = self.process.meets(Fault::Stale, "due");
        self.process.after("due").await;
        Ok(if stale { earlier.unwrap_or_default() } else { now })
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        self.process.before("write").await;
        self.trouble("write")?;
        let (under_way, held) = self.database.enter(std::slice::from_ref(write), self.process.shared.now_ms());
        pause().await;
        if held.is_some() {
            self.process.shared.lock().tally.meet(Fault::Conflict, "write");
            return Err(TableError::Conflict);
        }
        let watched = self.watch.before(std::slice::from_ref(write)).await;
        let written = self.database.items.write(write).await;
        drop(under_way);
        match &written {
            Ok(_) => self.watch.after(&self.process, watched).await,
            Err(error) => self.watch.refused(std::slice::from_ref(write), error),
        }
        if self.process.meets(Fault::AnswerLost, "write") {
            return Err(Self::unavailable());
        }
        self.process.after("write").await;
        written
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        self.process.before("transact").await;
        self.trouble("transact")?;
        let (under_way, held) = self.database.enter(writes, self.process.shared.now_ms());
        pause().await;
        if let Some(held) = held {
            self.process.shared.lock().tally.meet(Fault::Conflict, "transact");
            let reason = |held: bool| if held { Reason::Conflict } else { Reason::None };
            return Err(TableError::Cancelled { reasons: held.into_iter().map(reason).collect() });
        }
        let watched = self.watch.before(writes).await;
        let written = self.database.items.transact(writes).await;
        drop(under_way);
        match &written {
            Ok(_) => self.watch.after(&self.process, watched).await,
            Err(error) => self.watch.refused(writes, error),
        }
        if self.process.meets(Fault::AnswerLost, "transact") {
            return Err(Self::unavailable());
        }
        self.process.after("transact").await;
        written
    }
}
