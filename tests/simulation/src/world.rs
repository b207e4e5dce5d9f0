//! Everything that there is in one run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use usher_chain::Chains;
use usher_domain::ports::{Clock as _, Randomness};
use usher_doorkeeper::Policy;
use usher_lambda::{Adapters, DataKeySource, Usher};
use usher_localnet::xmtp_node::{self, Limiter};
use usher_store::{
    FileDataKeys, Snapshots, Store,
    budget::{Bucket, RateLimits},
};
use usher_tests::haus;
use usher_xmtp::identity::{LocalWallet, WalletSigner as _};

use crate::{
    chain::Chain,
    faults::Rates,
    invocations::{Instance, Task},
    keys::SimKeys,
    network::UsherNetwork,
    node::Node,
    nudges::Nudged,
    people::{CHAT, People},
    process::Process,
    queue::Queue,
    shared::Shared,
    table::{Database, SimTable},
    taken::Taken,
    watch::Watch,
};

/// No run needs more; one that does goes round in circles.
pub(crate) const STEPS_MAX: usize = 60_000;
pub(crate) const QUEUES: [&str; 4] = ["mint", "purchase", "refund", "nudge"];
pub(crate) const USHER_KEY: [u8; 32] = [0xee; 32];
/// What is said in each room in the end.
pub(crate) const NEWEST: &str = "the newest words in this room";

pub(crate) struct World {
    pub(crate) shared: Arc<Shared>,
    pub(crate) node: Arc<Node>,
    pub(crate) people: Arc<People>,
    pub(crate) chain: Chain,
    /// What the node lets usher's address do, if it counts.
    pub(crate) limits: Option<RateLimits>,
    pub(crate) limiter: Arc<Mutex<Option<Limiter>>>,
    pub(crate) database: Arc<Database>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) queues: Arc<Mutex<BTreeMap<&'static str, Queue>>>,
    pub(crate) taken: Taken,
    /// The newest body of several logs that an indexer sent.
    pub(crate) newest_logs: Option<String>,
    pub(crate) junk: usize,
    /// Whether so few processes die over a message that it never becomes a dead letter.
    pub(crate) spares: bool,
    pub(crate) keys: Arc<FileDataKeys>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) store: Store,
    /// usher's inbox.
    pub(crate) usher: usher_xmtp::identity::InboxId,
    pub(crate) tasks: Vec<Task>,
    pub(crate) idle: BTreeMap<&'static str, Vec<Arc<Instance>>>,
    pub(crate) next_process: u32,
    pub(crate) next_invocation: u32,
    pub(crate) next_schedule_ms: u64,
    /// When an operator whose `usher init` has failed tries again.
    pub(crate) next_init_ms: u64,
    _scratch: tempfile::TempDir,
}

/// So little that a busy run uses it up.
pub(crate) fn limits() -> RateLimits {
    RateLimits {
        publish: Bucket { max_tokens: 30, per_minute: 15 },
        default: Bucket { max_tokens: 120, per_minute: 60 },
    }
}

/// The same in the local node's words.
fn node_limits(limits: RateLimits) -> xmtp_node::RateLimits {
    let tokens = |tokens: u64| u32::try_from(tokens).expect("a few");
    let bucket = |bucket: Bucket| xmtp_node::Bucket {
        max_tokens: tokens(bucket.max_tokens),
        per_minute: tokens(bucket.per_minute),
    };
    xmtp_node::RateLimits { publish: bucket(limits.publish), default: bucket(limits.default) }
}

fn chains() -> Chains {
    let chains = format!(r#"{{"{}":{{"trust":"queue","factories":["{}"]}}}}"#, haus::CHAIN.0, haus::FACTORY);
    serde_json::from_str(&chains).expect("a configuration")
}

/// The wallets' times are openmls's, which reads the machine's clock: the run begins now.
#[expect(clippy::disallowed_methods, reason = "openmls checks lifetimes against the machine's clock")]
fn start_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 584556019") / 1000 * 1000
}

impl World {
    /// What everybody in a run shares.
    pub(crate) fn shared(seed: u64, traced: bool) -> Arc<Shared> {
        Arc::new(Shared::new(seed, start_ms(), Rates::default(), traced))
    }

    pub(crate) async fn new(shared: Arc<Shared>) -> Self {
        let (people_count, events) = {
            let mut state = shared.lock();
            (state.dice.between(3, 6), state.dice.weighted(&[(5, 1), (3, 2), (1, 3)]))
        };
        let node = Arc::new(Node::new(shared.clone()));
        let people_count = usize::try_from(people_count).expect("a few");
        let mut people = People::new(shared.clone(), node.clone(), people_count);
        let wallet = |key: &[u8; 32]| LocalWallet::from_key(key).expect("a small number is a key").address();
        let wallets = people.all.lock().expect("no panic").iter().map(|somebody| wallet(&somebody.key)).collect();
        let chain = Chain::new(events, wallets, &mut shared.lock().dice);
        people.rogue = {
            let dice = &mut shared.lock().dice;
            // A creator has a room before all others.
            let candidates = [chain.mints[0].creator, dice.below(people_count)];
            dice.happens(500).then(|| candidates[dice.below(2)])
        };
        let limits = shared.lock().dice.happens(300).then(limits);
        let spares = shared.lock().dice.happens(850);
        let limiter = Mutex::new(limits.map(|limits| Limiter::new(node_limits(limits))));
        let database = Arc::new(Database::default());
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let randomness: Arc<dyn Randomness> = shared.clone();
        let store = Store::new(database.items.clone(), shared.clone(), randomness.clone());
        let deployment = store.init_deployment().await.expect("memory answers");
        let key_file = scratch.path().join("data.key");
        let keys = FileDataKeys::open(&key_file, deployment.clone(), randomness.clone());
        let keys = Arc::new(keys.expect("a key file can be made"));
        let wrapping_key = std::fs::read_to_string(&key_file).expect("it was just made");
        let snapshots = || {
            Snapshots::new(database.items.clone(), keys.clone(), deployment.clone(), shared.clone(), randomness.clone())
        };
        let watch = Arc::new(Watch::new(shared.clone(), database.items.clone()));
        watch.open(snapshots());
        let wrapping_key = hex::decode(wrapping_key.trim()).expect("a key file is hex");
        for secret in [wrapping_key, USHER_KEY.to_vec(), CHAT.into(), NEWEST.into()] {
            watch.never_store(secret);
        }
        let snapshots = Arc::new(snapshots());
        let next_schedule_ms = shared.now_ms();
        Self {
            people: Arc::new(people),
            node,
            chain,
            limits,
            limiter: Arc::new(limiter),
            watch,
            taken: Taken::default(),
            newest_logs: None,
            junk: 0,
            spares,
            queues: Arc::new(Mutex::new(QUEUES.into_iter().map(|name| (name, Queue::default())).collect())),
            snapshots,
            store,
            usher: usher_xmtp::identity::InboxId::of_wallet(
                LocalWallet::from_key(&USHER_KEY).expect("a key").address(),
                1,
            ),
            keys,
            database,
            shared,
            tasks: Vec::new(),
            idle: BTreeMap::new(),
            next_process: 0,
            next_invocation: 0,
            next_schedule_ms,
            next_init_ms: 0,
            _scratch: scratch,
        }
    }

    /// A cold start.
    pub(crate) fn instance(&mut self, function: &str) -> Arc<Instance> {
        let process = Process::new(format!("{function}-{}", self.next_process), self.shared.clone());
        self.next_process += 1;
        self.shared.count("cold starts");
        let adapters = Adapters {
            table: Arc::new(SimTable {
                database: self.database.clone(),
                process: process.clone(),
                watch: self.watch.clone(),
            }),
            network: Arc::new(UsherNetwork {
                node: self.node.clone(),
                process: process.clone(),
                watch: self.watch.clone(),
                limiter: self.limiter.clone(),
            }),
            nudges: Arc::new(Nudged { queues: self.queues.clone(), process: process.clone() }),
            data_key: DataKeySource::Other(Arc::new(SimKeys {
                keys: self.keys.clone(),
                process: process.clone(),
                watch: self.watch.clone(),
            })),
            clock: self.shared.clone(),
            randomness: self.shared.clone(),
        };
        let usher = Usher::new(adapters, chains(), Policy::default()).with_rate_limits(self.limits);
        Arc::new(Instance { usher, process })
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    /// The rooms of the ledger, newest last.
    pub(crate) async fn rooms(&self) -> Vec<usher_store::RoomRecord> {
        let mut rooms = Vec::new();
        for event in self.store.events().await.expect("memory answers") {
            rooms.extend(self.store.event(&event).await.expect("readable").into_iter().flat_map(|it| it.rooms));
        }
        rooms
    }
}
