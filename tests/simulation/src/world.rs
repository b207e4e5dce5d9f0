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
use usher_xmtp::{
    Account,
    identity::{LocalWallet, WalletSigner as _},
};

use crate::{
    chain::Chain,
    faults::Rates,
    invocations::{Instance, Task},
    keys::SimKeys,
    network::UsherNetwork,
    node::Node,
    nudges::Nudged,
    people::People,
    process::Process,
    queue::Queue,
    shared::Shared,
    table::{Database, SimTable},
    watch::Watch,
};

/// No run needs more; one that does goes round in circles.
pub(crate) const STEPS_MAX: usize = 60_000;
pub(crate) const QUEUES: [&str; 4] = ["mint", "purchase", "refund", "nudge"];
const USHER_KEY: [u8; 32] = [0xee; 32];

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
    pub(crate) keys: Arc<FileDataKeys>,
    pub(crate) snapshots: Arc<Snapshots<Arc<usher_store::memory::MemoryTable>>>,
    pub(crate) store: Store<Arc<usher_store::memory::MemoryTable>>,
    /// usher's inbox.
    pub(crate) usher: usher_xmtp::identity::InboxId,
    pub(crate) tasks: Vec<Task>,
    pub(crate) idle: BTreeMap<&'static str, Vec<Arc<Instance>>>,
    pub(crate) next_process: u32,
    pub(crate) next_invocation: u32,
    pub(crate) next_schedule_ms: u64,
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
    pub(crate) async fn new(seed: u64, traced: bool) -> Self {
        let shared = Arc::new(Shared::new(seed, start_ms(), Rates::default(), traced));
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
        let limiter = Mutex::new(limits.map(|limits| Limiter::new(node_limits(limits))));
        let database = Arc::new(Database::default());
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let randomness: Arc<dyn Randomness> = shared.clone();
        let store = Store::new(database.items.clone(), shared.clone(), randomness.clone());
        let deployment = store.init_deployment().await.expect("memory answers");
        let keys = FileDataKeys::open(&scratch.path().join("data.key"), deployment.clone(), randomness.clone());
        let keys = Arc::new(keys.expect("a key file can be made"));
        let snapshots = || {
            Snapshots::new(database.items.clone(), keys.clone(), deployment.clone(), shared.clone(), randomness.clone())
        };
        let watch = Arc::new(Watch::new(shared.clone(), database.items.clone()));
        watch.open(snapshots());
        let snapshots = Arc::new(snapshots());
        let next_schedule_ms = shared.now_ms();
        Self {
            people: Arc::new(people),
            node,
            chain,
            limits,
            limiter: Arc::new(limiter),
            watch,
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
            _scratch: scratch,
        }
    }

    /// A cold start.
    pub(crate) fn instance(&mut self, function: &str) -> Arc<Instance> {
        let process = Process::new(format!("{function}-{}", self.next_process), self.shared.clone());
        self.next_process += 1;
        self.shared.count("cold starts");
        let adapters = Adapters {
            table: SimTable { database: self.database.clone(), process: process.clone(), watch: self.watch.clone() },
            network: Arc::new(UsherNetwork {
                node: self.node.clone(),
                process: process.clone(),
                watch: self.watch.clone(),
                limiter: self.limiter.clone(),
            }),
            nudges: Arc::new(Nudged { queues: self.queues.clone(), process: process.clone() }),
            data_key: DataKeySource::Other(Arc::new(SimKeys { keys: self.keys.clone(), process: process.clone() })),
            clock: self.shared.clone(),
            randomness: self.shared.clone(),
        };
        let usher = Usher::new(adapters, chains(), Policy::default()).with_rate_limits(self.limits);
        Arc::new(Instance { usher, process })
    }

    /// Makes the account, without faults.
    pub(crate) async fn init(&mut self) {
        let instance = self.instance("init");
        let wallet = LocalWallet::from_key(&USHER_KEY).expect("a key");
        let account = instance.usher.init(&wallet).await.expect("nothing fails yet");
        assert_eq!(account.inbox, self.usher.as_str());
        let stored = self.snapshots.load(&usher_store::Owner::Account).await.expect("readable").expect("just made");
        self.watch.never_store(stored.plaintext[stored.plaintext.len() - 40..].to_vec());
        self.watch.never_store(USHER_KEY.to_vec());
        self.watch.never_store(b"hello".to_vec());
        self.watch.know_account(Account::decode(&stored.plaintext).expect("just encoded"));
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
