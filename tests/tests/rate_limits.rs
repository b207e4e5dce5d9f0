//! Many processes under the node's limiter, in virtual time: nobody is refused while the deployment calls alone, one
//! refusal quiets everybody, and removals get through when nothing else does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::join_all;
use serde_json::{Value, json};
use usher_domain::{EventKey, ports::Clock};
use usher_doorkeeper::{NudgeError, Nudges, Paced, Policy};
use usher_lambda::{Adapters, DataKeySource, Invocation, Machine, Usher, handle_queue, local_wallet};
use usher_localnet::{
    person::Person,
    xmtp_node::{self, Method, Node, NodeOptions, RunningNode},
};
use usher_store::{
    Store, TableError,
    budget::{Bucket, RateLimits},
    memory::MemoryTable,
    table::{Item, Key, Query, Table, Write},
};
use usher_tests::{
    haus::{CHAIN, Chain, Event, FACTORY, Transaction},
    world::{AnyError, TestRandomness},
};
use usher_xmtp::{
    GroupId, V3,
    identity::InboxId,
    network::{FailureKind, Network, NetworkError, OutgoingMessage},
};

const NOW_MS: u64 = 1_900_000_000_000;
const STEP_MS: u64 = 500;
const MINUTE_MS: u64 = 60_000;
/// As the dev stack may have them running.
const PROCESSES: usize = 10;

/// Stands still until it is moved.
struct Standing(AtomicU64);

impl Standing {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(NOW_MS)))
    }

    fn advance(&self, by_ms: u64) {
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for Standing {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The same time for the node.
struct NodeClock(Arc<Standing>);

impl usher_xmtp::ports::Clock for NodeClock {
    fn now_ns(&self) -> u64 {
        self.0.now_ms() * 1_000_000
    }
}

/// A table that counts its requests.
#[derive(Clone, Default)]
struct Counted {
    inner: Arc<MemoryTable>,
    requests: Arc<AtomicU64>,
}

impl Counted {
    fn count(&self) -> &MemoryTable {
        self.requests.fetch_add(1, Ordering::SeqCst);
        &self.inner
    }
}

#[async_trait]
impl Table for Counted {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.count().get(key).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        self.count().query(query).await
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        self.count().due(shard, until_ms, limit).await
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        self.count().write(write).await
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        self.count().transact(writes).await
    }
}

const fn limits(publish: (u64, u64), default: (u64, u64)) -> RateLimits {
    RateLimits {
        publish: Bucket { max_tokens: publish.0, per_minute: publish.1 },
        default: Bucket { max_tokens: default.0, per_minute: default.1 },
    }
}

struct World {
    node: RunningNode,
    clock: Arc<Standing>,
    table: Counted,
    limits: RateLimits,
}

impl World {
    async fn start(limits: RateLimits) -> Result<Self, AnyError> {
        let clock = Standing::new();
        let options = NodeOptions { clock: Arc::new(NodeClock(clock.clone())), ..NodeOptions::on_free_ports() };
        let world = Self { node: Node::start(options).await?, clock, table: Counted::default(), limits };
        world.limit();
        Ok(world)
    }

    /// Full buckets.
    fn limit(&self) {
        let tokens = |tokens: u64| u32::try_from(tokens).expect("small");
        let bucket = |bucket: Bucket| xmtp_node::Bucket {
            max_tokens: tokens(bucket.max_tokens),
            per_minute: tokens(bucket.per_minute),
        };
        let limits =
            xmtp_node::RateLimits { publish: bucket(self.limits.publish), default: bucket(self.limits.default) };
        self.node.faults().limit_rates(Some(limits));
    }

    fn v3(&self) -> Result<Arc<V3>, AnyError> {
        Ok(Arc::new(V3::new(&self.node.url(), Duration::from_secs(4))?))
    }

    /// What a process makes its calls through.
    fn process(&self) -> Result<Paced, AnyError> {
        let store = Store::new(Arc::new(self.table.clone()), self.clock.clone(), Arc::new(TestRandomness));
        Ok(Paced::new(self.v3()?, Arc::new(store), self.clock.clone(), self.limits))
    }

    /// Calls that reached the node.
    fn calls(&self) -> u64 {
        [Method::SendGroupMessages, Method::GetInboxIds].map(|method| self.node.calls(method)).iter().sum()
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It passed the limiter.
    Passed,
    /// The node's limiter refused it.
    Refused,
    /// It never left the process.
    Kept,
}

fn fate(answer: Result<(), NetworkError>) -> Fate {
    match answer {
        // The node's own words for its limit.
        Err(error) if error.message.contains("exceeds rate limit") => Fate::Refused,
        Err(NetworkError { kind: FailureKind::RateLimited, .. }) => Fate::Kept,
        _ => Fate::Passed,
    }
}

/// A message that costs a token and that the node then throws away.
fn junk(messages: usize) -> Vec<OutgoingMessage> {
    vec![OutgoingMessage { data: vec![1, 2, 3], sender_hmac: vec![], should_push: false }; messages]
}

async fn publish(network: &dyn Network) -> Fate {
    fate(network.send_group_messages(junk(1)).await)
}

async fn read(network: &dyn Network) -> Fate {
    fate(network.inbox_ids(&[FACTORY]).await.map(drop))
}

/// Every process publishes and reads in every step, as fast as it may.
async fn run(world: &World, processes: &[Paced], minutes: u64) -> BTreeMap<Fate, u64> {
    let mut fates = BTreeMap::new();
    for _ in 0..minutes * MINUTE_MS / STEP_MS {
        let calls = processes.iter().map(|process| async move { [read(process).await, publish(process).await] });
        for fate in join_all(calls).await.into_iter().flatten() {
            *fates.entry(fate).or_default() += 1;
        }
        world.clock.advance(STEP_MS);
    }
    fates
}

#[tokio::test]
async fn ten_processes_are_never_refused_and_never_stop_for_good() -> Result<(), AnyError> {
    let world = World::start(limits((300, 60), (2000, 400))).await?;
    let processes = (0..PROCESSES).map(|_| world.process()).collect::<Result<Vec<_>, _>>()?;
    let fates = run(&world, &processes, 12).await;
    assert_eq!(fates.get(&Fate::Refused), None, "{fates:?}");
    // The shares at first, and then nearly a minute's worth every 70 s.
    let passed = fates[&Fate::Passed];
    assert!(passed > (240 + 1600) + 6 * (60 + 400), "{fates:?}");
    assert_eq!(passed, world.calls());
    Ok(())
}

#[tokio::test]
async fn after_one_refusal_everybody_is_quiet_until_the_node_has_refilled() -> Result<(), AnyError> {
    let world = World::start(limits((300, 100), (2000, 400))).await?;
    let processes = (0..PROCESSES).map(|_| world.process()).collect::<Result<Vec<_>, _>>()?;
    // Somebody else at the same address takes nearly all.
    fate(world.v3()?.send_group_messages(junk(295)).await);
    let first = run(&world, &processes, 1).await;
    let refused = first[&Fate::Refused];
    // Those that were under way, and those that had not heard of it within the second.
    assert!((1..=PROCESSES as u64).contains(&refused), "{first:?}");
    let before = world.calls();
    assert_eq!(publish(&processes[0]).await, Fate::Kept);
    assert_eq!(world.calls(), before, "it never left the process");
    let later = run(&world, &processes, 6).await;
    assert_eq!(later.get(&Fate::Refused), None, "{later:?}");
    assert!(later[&Fate::Passed] > 300, "{later:?}");
    Ok(())
}

#[tokio::test]
async fn few_calls_wait_for_the_table() -> Result<(), AnyError> {
    let world = World::start(RateLimits::default()).await?;
    let process = world.process()?;
    for _ in 0..200 {
        assert_eq!(read(&process).await, Fate::Passed);
        world.clock.advance(10);
    }
    // Two seconds of calls: two looks at the item, and portions of 10, 20, 40, 80 and 100.
    let requests = world.table.requests.load(Ordering::SeqCst);
    assert!(requests <= 2 + 5 * 2, "{requests} requests of the table for 200 calls");
    Ok(())
}

#[tokio::test]
async fn what_is_left_for_removals_goes_to_nothing_else() -> Result<(), AnyError> {
    let world = World::start(limits((50, 10), (500, 100))).await?;
    let process = world.process()?;
    let removals = process.for_removals();
    assert!(!process.is_spent());
    let mut passed = 0;
    while publish(&process).await == Fate::Passed {
        passed += 1;
    }
    assert_eq!(passed, 40);
    assert!(process.is_spent());
    assert_eq!(publish(&removals).await, Fate::Passed);
    assert_eq!(fate(removals.group_messages(GroupId([1; 16]), 0).await.map(drop)), Fate::Passed);
    let before = world.node.calls(Method::FetchKeyPackages) + world.node.calls(Method::SendWelcomeMessages);
    assert_eq!(fate(removals.key_packages(&[]).await.map(drop)), Fate::Kept);
    assert_eq!(fate(removals.send_welcomes(Vec::new()).await), Fate::Kept);
    assert_eq!(world.node.calls(Method::FetchKeyPackages) + world.node.calls(Method::SendWelcomeMessages), before);
    Ok(())
}

struct NoNudges;

#[async_trait]
impl Nudges for NoNudges {
    async fn nudge(&self, _event: &EventKey, _delay_s: u32) -> Result<(), NudgeError> {
        Ok(())
    }
}

async fn deliver(usher: &Usher, clock: &Standing, transaction: Transaction) -> Result<(), AnyError> {
    let body = json!({ "chainId": CHAIN, "logs": transaction.logs }).to_string();
    let batch: Value = json!({ "Records": [{ "messageId": "m", "body": body }] });
    let invocation = Invocation { id: "i".to_owned(), deadline_ms: clock.now_ms() + 30_000 };
    handle_queue(usher, serde_json::from_value(batch)?, &invocation).await?;
    Ok(())
}

/// The inboxes that sit in the event's room.
async fn seated(usher: &Usher, event: &EventKey) -> Result<Vec<InboxId>, AnyError> {
    let record = usher.store().event(event).await?.ok_or("the event is known")?;
    let [room] = &record.rooms[..] else { return Err("one room".into()) };
    let status = usher.store().status(&usher_store::Owner::Room(room.group)).await?.ok_or("it was saved")?;
    let status: usher_doorkeeper::RoomStatus = serde_json::from_str(&status)?;
    Ok(status.seats.iter().map(|seat| seat.inbox.parse()).collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn who_lost_his_ticket_is_out_although_nobody_gets_in_any_more() -> Result<(), AnyError> {
    let world = World::start(limits((100, 10), (2000, 10))).await?;
    let person = async |number: u8| Person::register(&[number; 32], &world.node.url()).await;
    let (creator, alice, bob) = (person(1).await?, person(2).await?, person(3).await?);
    let folder = tempfile::tempdir()?;
    let adapters = Adapters {
        table: Arc::new(world.table.clone()),
        network: world.v3()?,
        nudges: Arc::new(NoNudges),
        data_key: DataKeySource::File(folder.path().join("data.key")),
        clock: world.clock.clone(),
        randomness: Arc::new(Machine),
    };
    let chains = json!({ CHAIN.to_string(): { "trust": "queue", "factories": [FACTORY] } });
    let usher = Usher::new(adapters, serde_json::from_value(chains)?, Policy::default());
    usher.init(&local_wallet(&folder.path().join("wallet.key"), &Machine)?).await?;
    world.limit();
    let usher = usher.with_rate_limits(Some(world.limits));

    let (mut chain, event) = (Chain::default(), Event::new(0, creator.address()));
    deliver(&usher, &world.clock, chain.mint(&event)).await?;
    deliver(&usher, &world.clock, chain.purchase(&event, 1, alice.address())).await?;
    assert!(seated(&usher, &event.key()).await?.contains(&alice.inbox()?));

    // Others spend what all may spend.
    let other = world.process()?;
    while publish(&other).await == Fate::Passed {}
    world.clock.advance(11_000);
    let published = world.node.calls(Method::SendGroupMessages);
    deliver(&usher, &world.clock, chain.purchase(&event, 2, bob.address())).await?;
    assert!(!seated(&usher, &event.key()).await?.contains(&bob.inbox()?));
    deliver(&usher, &world.clock, chain.refund(&event, 1, alice.address())).await?;
    let now_in = seated(&usher, &event.key()).await?;
    assert!(!now_in.contains(&alice.inbox()?) && now_in.contains(&creator.inbox()?), "{now_in:?}");
    assert!(world.node.calls(Method::SendGroupMessages) > published);

    // After a silence Bob is in.
    world.clock.advance(10 * MINUTE_MS);
    let doorkeeper = usher.doorkeeper().await?.ok_or("initialised")?;
    assert!(doorkeeper.due().await?.contains(&event.key()), "it is still due");
    deliver(&usher, &world.clock, chain.purchase(&event, 3, bob.address())).await?;
    assert!(seated(&usher, &event.key()).await?.contains(&bob.inbox()?));
    Ok(())
}
