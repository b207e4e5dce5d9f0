//! Tables, faults, clocks and facts for tests.

use std::{
    future::Future,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy_primitives::{Address, B256, U256};
use async_trait::async_trait;
use aws_sdk_dynamodb::config::{
    BehaviorVersion, Credentials, Region,
    retry::{RetryConfig, RetryPartition},
};
use futures::{FutureExt, future::BoxFuture};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use tokio::{net::TcpListener, sync::oneshot};
use usher_domain::{
    ChainId, EventKey, EventMint, Fact, Incarnation, KioskKey, Position, What,
    ports::{Clock, Randomness},
};

use crate::dynamodb_local;
use usher_store::{
    Store, Table, TableError,
    dynamo::DynamoTable,
    memory::MemoryTable,
    table::{Item, Key, Query, Write},
};

/// A clock that stands still until it is set.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn at(now_ms: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(now_ms)))
    }

    pub(crate) fn set(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Randomness from a seed.
#[derive(Debug)]
pub(crate) struct Seeded(Mutex<StdRng>);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(StdRng::seed_from_u64(seed))))
    }
}

impl Randomness for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap().fill_bytes(bytes);
    }
}

pub(crate) const NOW_MS: u64 = 1_900_000_000_000;

pub(crate) fn store(table: impl Table) -> Store {
    Store::new(Arc::new(table), TestClock::at(NOW_MS), Seeded::new(7))
}

/// The emulator, served on loopback until dropped.
pub(crate) struct Emulator {
    pub(crate) table: DynamoTable,
    address: SocketAddr,
    tables: AtomicU64,
    _stop: oneshot::Sender<()>,
}

impl Emulator {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let database = dynoxide::Database::memory().unwrap();
        tokio::spawn(dynoxide::server::serve_with_shutdown(listener, database, async {
            let _ = stopped.await;
        }));
        let table = DynamoTable::new(client(&format!("http://{address}")), "usher");
        table.create_table().await.unwrap();
        table.create_table().await.unwrap(); // once more is fine
        Self { table, address, tables: AtomicU64::new(0), _stop: stop }
    }

    /// The server's address, and the name of a new, empty table there.
    pub(crate) async fn place(&self) -> (SocketAddr, String) {
        let name = format!("usher-{}", self.tables.fetch_add(1, Ordering::Relaxed));
        let table = DynamoTable::new(client(&format!("http://{}", self.address)), &name);
        table.create_table().await.unwrap();
        (self.address, name)
    }
}

/// A real SDK client of an endpoint; it sends everything once, but see [`DynamoTable`]'s transactions.
pub(crate) fn client(endpoint: &str) -> aws_sdk_dynamodb::Client {
    client_that_retries(endpoint, RetryConfig::disabled())
}

/// A real SDK client of an endpoint, with retries that do not eat up other clients': the SDK has one budget of them for
/// all clients of a process.
pub(crate) fn client_that_retries(endpoint: &str, retries: RetryConfig) -> aws_sdk_dynamodb::Client {
    static CLIENTS: AtomicU64 = AtomicU64::new(0);
    let own = format!("client {}", CLIENTS.fetch_add(1, Ordering::Relaxed));
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(retries)
        .retry_partition(RetryPartition::new(own))
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// What tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Model,
    Dynoxide,
    DynamoDbLocal,
}

/// Runs a test on the memory model, on the emulator and on DynamoDB Local; says on which of them it failed.
pub(crate) async fn on_each<F: Future<Output = ()>>(test: impl Fn(Arc<dyn Table>) -> F) {
    on([On::Model, On::Dynoxide, On::DynamoDbLocal], test).await;
}

/// Runs a test on all but one, which is known to do otherwise than DynamoDB.
pub(crate) async fn on_all_but<F: Future<Output = ()>>(different: On, test: impl Fn(Arc<dyn Table>) -> F) {
    on([On::Model, On::Dynoxide, On::DynamoDbLocal].into_iter().filter(|on| *on != different), test).await;
}

async fn on<F: Future<Output = ()>>(which: impl IntoIterator<Item = On>, test: impl Fn(Arc<dyn Table>) -> F) {
    let emulator = Emulator::start().await;
    let mut failed = Vec::new();
    for on in which {
        let table: Arc<dyn Table> = match on {
            On::Model => Arc::new(MemoryTable::new()),
            On::Dynoxide => Arc::new(emulator.table.clone()),
            On::DynamoDbLocal => Arc::new(dynamodb_local::table().await),
        };
        if AssertUnwindSafe(test(table)).catch_unwind().await.is_err() {
            failed.push(on);
        }
    }
    assert!(failed.is_empty(), "failed on {failed:?}");
}

/// What a [`Faulty`] table does around a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Yields a few times first, so that concurrent callers interleave.
    Interleave,
    /// Performs every write twice and returns the second answer: a retry after a lost first answer.
    SentTwice,
    /// From call `n` on nothing happens and nothing answers.
    DeadFrom(u64),
    /// The writing call `n` happens, but its answer gets lost.
    AnswerLostAt(u64),
}

/// A table with faults.
pub(crate) struct Faulty<T> {
    pub(crate) inner: T,
    fault: Fault,
    calls: AtomicU64,
    writes: AtomicU64,
    rng: Mutex<StdRng>,
}

impl<T: Table> Faulty<T> {
    pub(crate) fn new(inner: T, fault: Fault) -> Self {
        Self {
            inner,
            fault,
            calls: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            rng: Mutex::new(StdRng::seed_from_u64(3)),
        }
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn before(&self) -> Result<(), TableError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::DeadFrom(first) if call >= first => return Err(no_answer()),
            Fault::Interleave => {
                let yields = self.rng.lock().unwrap().next_u32() % 4;
                for _ in 0..yields {
                    tokio::task::yield_now().await;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn around<R, F: Future<Output = Result<R, TableError>>>(
        &self,
        write: impl Fn() -> F,
    ) -> Result<R, TableError> {
        self.before().await?;
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        let first = write().await;
        match self.fault {
            Fault::SentTwice => write().await,
            Fault::AnswerLostAt(at) if at == number => Err(no_answer()),
            _ => first,
        }
    }
}

/// A table on which something else happens just before the first transaction.
pub(crate) struct Meanwhile<T> {
    inner: T,
    other: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl<T: Table> Meanwhile<T> {
    pub(crate) fn new(inner: T, other: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { inner, other: Mutex::new(Some(Box::pin(other))) }
    }
}

#[async_trait]
impl<T: Table> Table for Meanwhile<T> {
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
        self.inner.write(write).await
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        let other = self.other.lock().unwrap().take();
        if let Some(other) = other {
            other.await;
        }
        self.inner.transact(writes).await
    }
}

pub(crate) fn no_answer() -> TableError {
    TableError::Unavailable(Arc::new(std::io::Error::other("injected")))
}

#[async_trait]
impl<T: Table> Table for Faulty<T> {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.before().await?;
        self.inner.get(key).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        self.before().await?;
        self.inner.query(query).await
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        self.before().await?;
        self.inner.due(shard, until_ms, limit).await
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        self.around(|| self.inner.write(write)).await
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        self.around(|| self.inner.transact(writes)).await
    }
}

pub(crate) const CHAIN: ChainId = ChainId(31337);
pub(crate) const FACTORY: Address = Address::repeat_byte(0xfa);
pub(crate) const KIOSK: Address = Address::repeat_byte(0x11);
pub(crate) const ALICE: Address = Address::repeat_byte(0xa1);
pub(crate) const BOB: Address = Address::repeat_byte(0xb0);

pub(crate) fn event(id: u64) -> EventKey {
    EventKey { chain: CHAIN, factory: FACTORY, event_id: U256::from(id) }
}

pub(crate) fn kiosk() -> KioskKey {
    KioskKey { chain: CHAIN, address: KIOSK }
}

pub(crate) fn at(block_number: u64, log_index: u64, block: u8) -> Position {
    Position { block_number, log_index, block_hash: B256::repeat_byte(block) }
}

fn fact(emitter: Address, position: Position, what: What) -> Fact {
    let (transaction, retracted, block_time_s) = (B256::repeat_byte(0x77), false, None);
    Fact { chain: CHAIN, emitter, transaction, position, retracted, block_time_s, what }
}

pub(crate) fn mint_of(id: u64, position: Position, creator: Address, kiosk: Address) -> Fact {
    let mint = EventMint {
        event_id: U256::from(id),
        creator,
        kiosk,
        metadata_uri: "ipfs://metadata".into(),
        art_category: "jazz".into(),
        start_s: 1_900_000_000,
    };
    fact(FACTORY, position, What::EventMinted(mint))
}

pub(crate) fn mint() -> Fact {
    mint_of(0, at(1, 0, 1), ALICE, KIOSK)
}

pub(crate) fn incarnation() -> Incarnation {
    mint().incarnation().unwrap()
}

pub(crate) fn transfer(token: u64, position: Position, from: Address, to: Address) -> Fact {
    fact(KIOSK, position, What::TicketTransferred { token_id: U256::from(token), from, to })
}

pub(crate) fn sold(token: u64, position: Position, buyer: Address) -> Fact {
    fact(KIOSK, position, What::TicketMinted { token_id: U256::from(token), buyer })
}

pub(crate) fn refunded(token: u64, position: Position, holder: Address) -> Fact {
    fact(KIOSK, position, What::TicketRefunded { token_id: U256::from(token), holder })
}

pub(crate) fn retracted(fact: &Fact) -> Fact {
    Fact { retracted: true, ..fact.clone() }
}
