//! usher in one process over the in-memory table and a real local XMTP node, with switches to kill it at any port call.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::Address;
use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use usher_chain::{Chains, Reading};
use usher_domain::{
    EventKey, Fact,
    ports::{Clock, Randomness},
};
use usher_doorkeeper::{
    AccountInfo, Cause, ConvergeError, Converged, Doorkeeper, NudgeError, Nudges, Parts, Policy, init_account,
};
use usher_lambda::{Adapters, DataKeySource, Place, Usher};
use usher_localnet::{
    ambient::Ambient,
    person::Person,
    xmtp_node::{Node, NodeOptions, RunningNode},
};
use usher_store::{
    DataKeys, DeploymentId, FileDataKeys, Owner, Snapshots, Store,
    keys::{DataKey, KeyError, Plain},
    memory::MemoryTable,
    table::{Item, Query, Table, TableError, Write},
};
use usher_xmtp::{
    GroupId, V3,
    identity::{InboxId, InstallationId, LocalWallet},
    network::{GroupMessage, LoggedUpdate, Network, NetworkError, Newest, OutgoingMessage},
    ports::{Clock as _, Randomness as _},
    proto::{associations::IdentityUpdate, mls_api},
};

/// Anything that can go wrong in a test's scenery.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The wall clock, and how far the test has moved it.
#[derive(Debug, Default)]
pub struct TestClock {
    ahead_ms: AtomicU64,
}

impl TestClock {
    /// Moves time forward.
    pub fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(u64::try_from(by.as_millis()).expect("a short time"), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        usher_localnet::ambient::SystemClock.now_ns() / 1_000_000 + self.ahead_ms.load(Ordering::SeqCst)
    }
}

/// The machine's randomness for the domain's port.
#[derive(Debug)]
pub struct TestRandomness;

impl Randomness for TestRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        Ambient.fill(bytes);
    }
}

/// When to die: at which port call, and whether before or after its effect.
#[derive(Default)]
pub struct Killer {
    state: Mutex<KillerState>,
    killed: Notify,
}

impl fmt::Debug for Killer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Killer").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct KillerState {
    calls: Vec<String>,
    /// The call to die at, and whether its effect still happens.
    at: Option<(Call, bool)>,
    /// What somebody else does just before the next call of this name.
    meanwhile: Option<(&'static str, BoxFuture<'static, ()>)>,
}

#[derive(Clone, Copy)]
enum Call {
    /// Counted from 0.
    Number(usize),
    /// The first of this name.
    Named(&'static str),
}

impl Killer {
    /// Dies at port call number `call` (from 0), before its effect or after it.
    pub fn arm(&self, call: usize, after_effect: bool) {
        self.set(Some((Call::Number(call), after_effect)));
    }

    /// Dies at the first port call of this name, before its effect or after it.
    pub fn arm_named(&self, call: &'static str, after_effect: bool) {
        self.set(Some((Call::Named(call), after_effect)));
    }

    /// Only counts from now on.
    pub fn disarm(&self) {
        self.set(None);
    }

    fn set(&self, at: Option<(Call, bool)>) {
        *self.lock() = KillerState { at, ..KillerState::default() };
    }

    fn lock(&self) -> MutexGuard<'_, KillerState> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Has somebody else do something just before the next port call of this name, also if that one dies.
    pub fn meanwhile(&self, call: &'static str, other: impl Future<Output = ()> + Send + 'static) {
        self.lock().meanwhile = Some((call, Box::pin(other)));
    }

    /// The port calls since the last arming, by name.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// Whether a port call of this name changes anything. Dying after one that does not is dying before the next.
    pub fn has_effect(call: &str) -> bool {
        const READING: [&str; 12] = [
            "get",
            "query",
            "due",
            "generate_data_key",
            "unwrap_data_key",
            "identity_updates",
            "inbox_ids",
            "key_packages",
            "group_messages",
            "newest_group_messages",
            "welcomes",
            "verify_smart_wallet_signature",
        ];
        !READING.contains(&call)
    }

    /// Resolves when the armed call was reached.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    async fn pass<R>(&self, name: &'static str, effect: impl Future<Output = R>) -> R {
        let other = {
            let mut state = self.lock();
            let is_next = state.meanwhile.as_ref().is_some_and(|(call, _)| *call == name);
            if is_next { state.meanwhile.take() } else { None }
        };
        if let Some((_, other)) = other {
            other.await;
        }
        let verdict = {
            let mut state = self.lock();
            let seen = state.calls.iter().any(|call| call == name);
            state.calls.push(name.to_owned());
            let number = state.calls.len() - 1;
            let is_it = |call: Call| match call {
                Call::Number(wanted) => wanted == number,
                Call::Named(wanted) => wanted == name && !seen,
            };
            state.at.filter(|(call, _)| is_it(*call)).map(|(_, after)| after)
        };
        match verdict {
            None => effect.await,
            Some(after_effect) => {
                if after_effect {
                    effect.await;
                }
                self.killed.notify_one();
                std::future::pending().await
            }
        }
    }
}

/// A table that can kill whoever uses it.
#[derive(Clone)]
pub struct Mortal<T> {
    inner: T,
    killer: Arc<Killer>,
}

#[async_trait]
impl Table for Mortal<Arc<MemoryTable>> {
    async fn get(&self, key: &usher_store::table::Key) -> Result<Option<Item>, TableError> {
        self.killer.pass("get", self.inner.get(key)).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<Item>, TableError> {
        self.killer.pass("query", self.inner.query(query)).await
    }

    async fn due(&self, shard: &str, until_ms: u64, limit: usize) -> Result<Vec<Item>, TableError> {
        self.killer.pass("due", self.inner.due(shard, until_ms, limit)).await
    }

    async fn write(&self, write: &Write) -> Result<Item, TableError> {
        self.killer.pass("write", self.inner.write(write)).await
    }

    async fn transact(&self, writes: &[Write]) -> Result<(), TableError> {
        self.killer.pass("transact", self.inner.transact(writes)).await
    }
}

#[async_trait]
impl Network for Mortal<V3> {
    async fn publish_identity_update(&self, update: IdentityUpdate) -> Result<(), NetworkError> {
        self.killer.pass("publish_identity_update", self.inner.publish_identity_update(update)).await
    }

    async fn identity_updates(&self, after: &[(InboxId, u64)]) -> Result<Vec<Vec<LoggedUpdate>>, NetworkError> {
        self.killer.pass("identity_updates", self.inner.identity_updates(after)).await
    }

    async fn inbox_ids(&self, wallets: &[Address]) -> Result<Vec<Option<InboxId>>, NetworkError> {
        self.killer.pass("inbox_ids", self.inner.inbox_ids(wallets)).await
    }

    async fn verify_smart_wallet_signature(
        &self,
        account_id: &str,
        block_number: Option<u64>,
        hash: [u8; 32],
        signature: &[u8],
    ) -> Result<bool, NetworkError> {
        let verified = self.inner.verify_smart_wallet_signature(account_id, block_number, hash, signature);
        self.killer.pass("verify_smart_wallet_signature", verified).await
    }

    async fn upload_key_package(&self, key_package: Vec<u8>) -> Result<(), NetworkError> {
        self.killer.pass("upload_key_package", self.inner.upload_key_package(key_package)).await
    }

    async fn key_packages(&self, installations: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError> {
        self.killer.pass("key_packages", self.inner.key_packages(installations)).await
    }

    async fn send_group_messages(&self, messages: Vec<OutgoingMessage>) -> Result<(), NetworkError> {
        self.killer.pass("send_group_messages", self.inner.send_group_messages(messages)).await
    }

    async fn group_messages(&self, group: GroupId, after: u64) -> Result<Vec<GroupMessage>, NetworkError> {
        self.killer.pass("group_messages", self.inner.group_messages(group, after)).await
    }

    async fn newest_group_messages(&self, groups: &[GroupId]) -> Result<Vec<Option<Newest>>, NetworkError> {
        self.killer.pass("newest_group_messages", self.inner.newest_group_messages(groups)).await
    }

    async fn send_welcomes(&self, welcomes: Vec<mls_api::WelcomeMessageInput>) -> Result<(), NetworkError> {
        self.killer.pass("send_welcomes", self.inner.send_welcomes(welcomes)).await
    }

    async fn welcomes(&self, installation: [u8; 32], after: u64) -> Result<Vec<mls_api::WelcomeMessage>, NetworkError> {
        self.killer.pass("welcomes", self.inner.welcomes(installation, after)).await
    }
}

/// A keeper of data keys that can kill whoever uses it: a key file, for whatever deployment the table is of by then.
struct MortalKeys {
    path: PathBuf,
    table: Arc<MemoryTable>,
    killer: Arc<Killer>,
}

impl MortalKeys {
    async fn open(&self) -> Result<FileDataKeys, KeyError> {
        let unusable = |error: &dyn fmt::Display| KeyError::Refused(error.to_string());
        let store = Store::new(self.table.clone(), Arc::new(TestClock::default()), Arc::new(TestRandomness));
        let deployment = store.deployment().await.map_err(|error| unusable(&error))?;
        let deployment = deployment.ok_or_else(|| unusable(&"the deployment has no id"))?;
        FileDataKeys::open(&self.path, deployment, Arc::new(TestRandomness)).map_err(|error| unusable(&error))
    }
}

#[async_trait]
impl DataKeys for MortalKeys {
    async fn generate(&self, owner: &Owner) -> Result<DataKey, KeyError> {
        self.killer.pass("generate_data_key", async { self.open().await?.generate(owner).await }).await
    }

    async fn unwrap(&self, owner: &Owner, wrapped: &[u8]) -> Result<Plain, KeyError> {
        self.killer.pass("unwrap_data_key", async { self.open().await?.unwrap(owner, wrapped).await }).await
    }
}

struct MortalNudges(Arc<Killer>);

#[async_trait]
impl Nudges for MortalNudges {
    async fn nudge(&self, _event: &EventKey, _delay_s: u32) -> Result<(), NudgeError> {
        self.0.pass("nudge", async { Ok(()) }).await
    }
}

/// A deployment in one process.
pub struct World {
    /// The XMTP node.
    pub node: Arc<RunningNode>,
    /// Everything usher has stored.
    pub table: Arc<MemoryTable>,
    /// Time.
    pub clock: Arc<TestClock>,
    /// Death.
    pub killer: Arc<Killer>,
    /// usher's wallet.
    pub wallet: LocalWallet,
    keys: PathBuf,
    _scratch: Arc<tempfile::TempDir>,
}

impl World {
    /// The private key of usher's wallet, unless it is a world [beside](World::beside) another.
    pub const WALLET_KEY: [u8; 32] = [0xee; 32];

    /// A deployment with its account made.
    pub async fn start() -> Result<Self, AnyError> {
        Self::start_on(NodeOptions::on_free_ports()).await
    }

    /// The same, on a node with these options.
    pub fn start_on(node: NodeOptions) -> BoxFuture<'static, Result<Self, AnyError>> {
        Box::pin(async move {
            let world = Self::bare(Arc::new(Node::start(node).await?), &Self::WALLET_KEY)?;
            world.init().await?;
            Ok(world)
        })
    }

    /// Another deployment on the same node that has nothing yet, and a wallet of its own.
    pub fn beside(&self) -> Result<Self, AnyError> {
        static WALLETS: AtomicU64 = AtomicU64::new(1);
        let mut key = [0xdd; 32];
        key[24..].copy_from_slice(&WALLETS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Self::bare(self.node.clone(), &key)
    }

    fn bare(node: Arc<RunningNode>, wallet_key: &[u8; 32]) -> Result<Self, AnyError> {
        let scratch = tempfile::tempdir()?;
        Ok(Self {
            node,
            table: Arc::default(),
            clock: Arc::default(),
            killer: Arc::default(),
            wallet: LocalWallet::from_key(wallet_key)?,
            keys: scratch.path().join("data.key"),
            _scratch: Arc::new(scratch),
        })
    }

    /// Makes the deployment's id and its account.
    pub fn init(&self) -> BoxFuture<'_, Result<AccountInfo, AnyError>> {
        Box::pin(async move {
            let store = self.store();
            store.init_deployment().await?;
            let snapshots = self.snapshots().await?;
            let (clock, randomness) = (self.clock.clone(), Arc::new(TestRandomness));
            let made = init_account(&store, &snapshots, &self.network(), &self.wallet, clock, randomness).await?;
            self.killer.disarm();
            Ok(made)
        })
    }

    /// Another deployment's memory as this one's is now, on the same XMTP node and with the same keys.
    pub fn fork(&self) -> BoxFuture<'_, Result<Self, AnyError>> {
        Box::pin(async move {
            let table = Arc::new(MemoryTable::new());
            for (key, item) in self.table.dump() {
                table.write(&Write::put(key, item)).await?;
            }
            Ok(Self {
                node: self.node.clone(),
                table,
                clock: Arc::default(),
                killer: Arc::default(),
                wallet: self.wallet.clone(),
                keys: self.keys.clone(),
                _scratch: self._scratch.clone(),
            })
        })
    }

    /// The ledger.
    pub fn store(&self) -> Store {
        Store::new(self.mortal_table(), self.clock.clone(), Arc::new(TestRandomness))
    }

    async fn deployment(&self) -> Result<DeploymentId, AnyError> {
        Ok(self.store().deployment().await?.ok_or("the deployment has no id")?)
    }

    /// What the data keys are wrapped with.
    pub fn key_file(&self) -> &Path {
        &self.keys
    }

    /// The keeper of the data keys.
    pub async fn data_keys(&self) -> Result<FileDataKeys, AnyError> {
        Ok(FileDataKeys::open(&self.keys, self.deployment().await?, Arc::new(TestRandomness))?)
    }

    fn mortal_table(&self) -> Arc<dyn Table> {
        Arc::new(Mortal { inner: self.table.clone(), killer: self.killer.clone() })
    }

    fn mortal_keys(&self) -> MortalKeys {
        MortalKeys { path: self.keys.clone(), table: self.table.clone(), killer: self.killer.clone() }
    }

    async fn snapshots(&self) -> Result<Snapshots, AnyError> {
        self.snapshots_with(Arc::new(self.mortal_keys())).await
    }

    /// The sealed state, with a keeper of the caller's.
    pub async fn snapshots_with(&self, keys: Arc<dyn DataKeys>) -> Result<Snapshots, AnyError> {
        let table = self.mortal_table();
        Ok(Snapshots::new(table, keys, self.deployment().await?, self.clock.clone(), Arc::new(TestRandomness)))
    }

    fn network(&self) -> Mortal<V3> {
        let inner = V3::new(&self.node.url(), Duration::from_secs(4)).expect("a node's own address");
        Mortal { inner, killer: self.killer.clone() }
    }

    /// What an operator's command and a function are, cold: it finds all it needs in the table.
    pub fn usher(&self) -> Usher {
        let adapters = Adapters {
            table: self.mortal_table(),
            network: Arc::new(self.network()),
            nudges: Arc::new(MortalNudges(self.killer.clone())),
            data_key: DataKeySource::Other(Arc::new(self.mortal_keys())),
            clock: self.clock.clone(),
            randomness: Arc::new(TestRandomness),
        };
        let place = Place { network: "local".to_owned(), table: "usher".to_owned() };
        Usher::new(adapters, sample_chains(), Policy::default()).at(place)
    }

    /// A cold start: nothing decoded, nothing kept.
    pub async fn doorkeeper(&self) -> Result<Doorkeeper, AnyError> {
        Ok(Doorkeeper::new(self.parts().await?))
    }

    /// What a cold doorkeeper works with.
    pub fn parts(&self) -> BoxFuture<'_, Result<Parts, AnyError>> {
        Box::pin(async move {
            Ok(Parts {
                store: Arc::new(self.store()),
                snapshots: Arc::new(self.snapshots().await?),
                network: Arc::new(self.network()),
                nudges: Arc::new(MortalNudges(self.killer.clone())),
                clock: self.clock.clone(),
                randomness: Arc::new(TestRandomness),
                policy: Policy::default(),
                policy_revision: None,
            })
        })
    }

    /// A person with our client, by the private key of one of anvil's accounts.
    pub async fn person(&self, account: usize) -> Result<Person, AnyError> {
        Ok(Person::register(&ANVIL_KEYS[account], &self.node.url()).await?)
    }

    /// Records facts and converges the events they touch with a cold doorkeeper, as an invocation does.
    pub async fn invoke(&self, owner: &str, facts: &[Fact]) -> Result<Vec<Converged>, InvokeError> {
        let recorded = self.store().record(facts).await;
        let doorkeeper = self.doorkeeper().await.map_err(InvokeError::Scenery)?;
        let mut ends = Vec::new();
        for event in recorded.due {
            let deadline_ms = self.clock.now_ms() + 25_000;
            ends.push(doorkeeper.converge(&event, owner, deadline_ms, Cause::Fact).await?);
        }
        Ok(ends)
    }

    /// What the sweep does: converges whatever is due or has news.
    pub async fn sweep(&self, owner: &str) -> Result<Vec<Converged>, InvokeError> {
        let doorkeeper = self.doorkeeper().await.map_err(InvokeError::Scenery)?;
        let mut ends = Vec::new();
        let mut events = doorkeeper.due().await?;
        events.extend(doorkeeper.with_news().await?);
        for event in events {
            let deadline_ms = self.clock.now_ms() + 25_000;
            ends.push(doorkeeper.converge(&event, owner, deadline_ms, Cause::Nudge).await?);
        }
        Ok(ends)
    }
}

/// Why an invocation failed.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The doorkeeper failed.
    #[error(transparent)]
    Converge(#[from] ConvergeError),
    /// The test's scenery failed.
    #[error("the scenery failed")]
    Scenery(#[source] AnyError),
}

/// The private keys of anvil's first accounts (mnemonic `test test … junk`), who are the people of `events/`.
pub const ANVIL_KEYS: [[u8; 32]; 6] = [
    alloy_primitives::hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    alloy_primitives::hex!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    alloy_primitives::hex!("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    alloy_primitives::hex!("7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
    alloy_primitives::hex!("47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a"),
    alloy_primitives::hex!("8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba"),
];

/// The facts of a sample in `events/logs/`.
pub fn sample_facts(file: &str) -> Vec<Fact> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events/logs").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let facts = usher_chain::read(&text, &sample_chains()).into_iter().filter_map(|reading| match reading {
        Reading::Fact(fact) => Some(fact),
        _ => None,
    });
    facts.collect()
}

/// The chain of the samples.
fn sample_chains() -> Chains {
    serde_json::from_str(
        r#"{"31337": {"trust": "queue", "factories": ["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}}"#,
    )
    .expect("a configuration")
}
