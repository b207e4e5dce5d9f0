//! A line to the table on which a write or its answer gets lost: the caller cannot tell which.

use std::{
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use futures::{FutureExt, future::join_all};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use usher_store::{
    Table, TableError,
    dynamo::DynamoTable,
    memory::MemoryTable,
    table::{Item, Key, Query, Write},
};

use crate::{
    dynamodb_local,
    support::{Emulator, On, client_that_retries, no_answer},
};

/// How often [`DynamoTable`] sends a transaction that gets no answer.
const TRANSACTION_ATTEMPTS: u32 = 5;

/// What gets lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The request: nothing happens.
    Request,
    /// The answer: it has happened.
    Answer,
}

/// A call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Transact,
}

/// What will be lost: how many times that which call is sent.
type Plan = Option<(Call, Lost, u32)>;

/// What the test holds in its hand.
#[derive(Debug)]
pub(crate) struct Line {
    plan: Mutex<Plan>,
    transaction_attempts: u32,
}

impl Line {
    fn new(transaction_attempts: u32) -> Arc<Self> {
        Arc::new(Self { plan: Mutex::new(None), transaction_attempts })
    }

    /// The next such call gets no answer, however often the SDK sends it.
    pub(crate) fn lose(&self, call: Call, lost: Lost) {
        let times = if call == Call::Transact { self.transaction_attempts } else { 1 };
        *self.plan.lock().unwrap() = Some((call, lost, times));
    }

    /// The next such request gets no answer; if the SDK sends it again, that one does.
    pub(crate) fn lose_once(&self, call: Call, lost: Lost) {
        *self.plan.lock().unwrap() = Some((call, lost, 1));
    }

    /// Whether everything that was to be lost is lost.
    pub(crate) fn lost_all(&self) -> bool {
        self.plan.lock().unwrap().is_none()
    }

    fn fate(&self, sent: Call) -> Option<Lost> {
        let mut plan = self.plan.lock().unwrap();
        let (call, lost, times) = plan.filter(|(call, ..)| *call == sent)?;
        *plan = (times > 1).then_some((call, lost, times - 1));
        Some(lost)
    }
}

/// A table at the other end of the line.
struct Far<T> {
    table: T,
    line: Arc<Line>,
}

impl<T: Table> Far<T> {
    async fn send<R>(&self, call: Call, done: impl Future<Output = Result<R, TableError>>) -> Result<R, TableError> {
        match self.line.fate(call) {
            None => done.await,
            Some(Lost::Request) => Err(no_answer()),
            Some(Lost::Answer) => done.await.and(Err(no_answer())),
        }
    }
}

#[async_trait]
impl<T: Table> Table for Far<T> {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.table.get(key).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        self.table.query(query).await
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        self.table.due(shard, until_ms, limit).await
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        self.send(Call::Write, self.table.write(write)).await
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        self.send(Call::Transact, self.table.transact(writes)).await
    }
}

/// Runs a test on the memory model, and through a proxy on the emulator and on DynamoDB Local; once for each thing that
/// can get lost.
pub(crate) async fn on_each_line<F: Future<Output = ()>>(test: impl Fn(Arc<dyn Table>, Arc<Line>, Lost) -> F) {
    on_lines(&[On::Model, On::Dynoxide, On::DynamoDbLocal], &RetryConfig::disabled(), test).await;
}

/// Runs a test through a proxy, and with the SDK's own retries; once for each thing that can get lost.
pub(crate) async fn on_each_retried_line<F: Future<Output = ()>>(test: impl Fn(Arc<dyn Table>, Arc<Line>, Lost) -> F) {
    on_lines(&[On::Dynoxide, On::DynamoDbLocal], &RetryConfig::standard(), test).await;
}

async fn on_lines<F: Future<Output = ()>>(
    which: &[On],
    retries: &RetryConfig,
    test: impl Fn(Arc<dyn Table>, Arc<Line>, Lost) -> F,
) {
    let (emulator, test) = (&Emulator::start().await, &test);
    let runs = which.iter().flat_map(|on| [(*on, Lost::Request), (*on, Lost::Answer)]);
    let failed = join_all(runs.map(|(on, lost)| async move {
        let (table, line) = match on {
            On::Model => near(),
            On::Dynoxide => proxied(emulator.place().await, retries).await,
            On::DynamoDbLocal => proxied(dynamodb_local::place().await, retries).await,
        };
        let failed = AssertUnwindSafe(test(table, line, lost)).catch_unwind().await.is_err();
        failed.then_some((on, lost))
    }));
    let failed: Vec<_> = failed.await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "failed on {failed:?}");
}

fn near() -> (Arc<dyn Table>, Arc<Line>) {
    let line = Line::new(1);
    (Arc::new(Far { table: MemoryTable::new(), line: line.clone() }), line)
}

async fn proxied((address, table): (SocketAddr, String), retries: &RetryConfig) -> (Arc<dyn Table>, Arc<Line>) {
    let line = Line::new(TRANSACTION_ATTEMPTS);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(proxy(listener, address, line.clone()));
    (Arc::new(DynamoTable::new(client_that_retries(&endpoint, retries.clone()), table)), line)
}

async fn proxy(listener: TcpListener, server: SocketAddr, line: Arc<Line>) {
    while let Ok((client, _)) = listener.accept().await {
        let line = line.clone();
        tokio::spawn(async move { relay(client, server, &line).await });
    }
}

/// Carries requests and answers, in turn, until one gets lost.
async fn relay(mut client: TcpStream, server: SocketAddr, line: &Line) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let (mut asking, mut fate) = (false, None);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let bytes = &asked[..read?];
                if !asking {
                    fate = call(bytes).and_then(|call| line.fate(call));
                }
                asking = true;
                if bytes.is_empty() || fate == Some(Lost::Request) {
                    return Ok(());
                }
                server.write_all(bytes).await?;
            }
            read = server.read(&mut answered) => {
                let bytes = &answered[..read?];
                asking = false;
                if bytes.is_empty() || fate == Some(Lost::Answer) {
                    return Ok(());
                }
                client.write_all(bytes).await?;
            }
        }
    }
}

/// Which call a request is, by its head, which comes in one piece.
fn call(request: &[u8]) -> Option<Call> {
    let head = String::from_utf8_lossy(request);
    let (_, target) = head.split_once("DynamoDB_20120810.")?;
    match target.split_once('\r')?.0 {
        "TransactWriteItems" => Some(Call::Transact),
        "PutItem" | "UpdateItem" | "DeleteItem" => Some(Call::Write),
        _ => None,
    }
}
