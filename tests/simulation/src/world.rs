//! One run: everything there is, and the scheduler that decides who goes on.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use usher_chain::Chains;
use usher_domain::{
    EventKey,
    ports::{Clock as _, Randomness},
};
use usher_doorkeeper::{NudgeError, Nudges, Policy};
use usher_lambda::{
    Adapters, DataKeySource, Invocation, Usher, handle_queue,
    sweep::{self, Nudge},
};
use usher_store::{FileDataKeys, Snapshots, Store};
use usher_tests::haus;
use usher_xmtp::{
    Account, GroupId,
    identity::{LocalWallet, WalletSigner as _},
};

use crate::{
    chain::Chain,
    faults::{Fault, Rates},
    keys::SimKeys,
    network::UsherNetwork,
    node::Node,
    people::{Deed, People},
    process::{Fate, Process},
    queue::Queue,
    shared::{Shared, Tally},
    table::{Database, SimTable},
    watch::Watch,
};

/// As in `template.yaml`.
const TIMEOUT_MS: u64 = 30_000;
/// How many invocations run at once.
const CONCURRENCY: usize = 4;
const MINUTE_MS: u64 = 60_000;
/// A message is healthy: it kills no process by itself, so that only so many die over it.
const CRASHES_MAX: u32 = 2;
/// No run needs more; one that does goes round in circles.
const STEPS_MAX: usize = 60_000;
/// Once faults stop, so many sweeps put everything right.
const SWEEPS_MAX: usize = 120;
const QUEUES: [&str; 4] = ["mint", "purchase", "refund", "nudge"];
const USHER_KEY: [u8; 32] = [0xee; 32];

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What was wrong, if anything was.
    pub broken: Option<String>,
    /// What happened how often.
    pub tally: Tally,
    /// What happened, line by line, if that was asked for.
    pub trace: Vec<String>,
}

struct Nudged {
    queues: Arc<Mutex<BTreeMap<&'static str, Queue>>>,
    process: Arc<Process>,
}

#[async_trait]
impl Nudges for Nudged {
    async fn nudge(&self, event: &EventKey, delay_s: u32) -> Result<(), NudgeError> {
        self.process.before("nudge").await;
        if self.process.meets(Fault::Unanswered, "nudge") {
            return Err(NudgeError("simulated".into()));
        }
        let visible_at_ms = self.process.shared.now_ms() + u64::from(delay_s) * 1000;
        {
            let mut queues = self.queues.lock().expect("no panic");
            queues.get_mut("nudge").expect("one of the queues").send(Nudge { event: *event }.body(), visible_at_ms);
        }
        self.process.after("nudge").await;
        Ok(())
    }
}

/// A process with its warm memory.
struct Instance {
    usher: Usher<SimTable>,
    process: Arc<Process>,
}

type Work = Pin<Box<dyn Future<Output = Option<Vec<String>>>>>;

/// Something under way.
struct Task {
    name: String,
    work: Work,
    /// None for what members do.
    invocation: Option<Running>,
}

struct Running {
    function: &'static str,
    instance: Arc<Instance>,
    messages: Vec<u64>,
    deadline_ms: u64,
    frozen_until_ms: u64,
    /// How many turns it still has although its time is over.
    grace: u32,
}

pub(crate) struct World {
    pub(crate) shared: Arc<Shared>,
    pub(crate) node: Arc<Node>,
    pub(crate) people: Arc<People>,
    pub(crate) chain: Chain,
    database: Arc<Database>,
    watch: Arc<Watch>,
    queues: Arc<Mutex<BTreeMap<&'static str, Queue>>>,
    keys: Arc<FileDataKeys>,
    pub(crate) snapshots: Arc<Snapshots<Arc<usher_store::memory::MemoryTable>>>,
    pub(crate) store: Store<Arc<usher_store::memory::MemoryTable>>,
    pub(crate) usher: usher_xmtp::identity::InboxId,
    tasks: Vec<Task>,
    idle: BTreeMap<&'static str, Vec<Arc<Instance>>>,
    next_process: u32,
    next_invocation: u32,
    next_schedule_ms: u64,
    _scratch: tempfile::TempDir,
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
    async fn new(seed: u64, traced: bool) -> Self {
        let shared = Arc::new(Shared::new(seed, start_ms(), Rates::default(), traced));
        let (people_count, events) = {
            let mut state = shared.lock();
            (state.dice.between(3, 6), state.dice.weighted(&[(5, 1), (3, 2), (1, 3)]))
        };
        let node = Arc::new(Node::new(shared.clone()));
        let people = People::new(shared.clone(), node.clone(), usize::try_from(people_count).expect("a few"));
        let wallet = |key: &[u8; 32]| LocalWallet::from_key(key).expect("a small number is a key").address();
        let wallets = people.all.lock().expect("no panic").iter().map(|somebody| wallet(&somebody.key)).collect();
        let chain = Chain::new(events, wallets, &mut shared.lock().dice);
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
    fn instance(&mut self, function: &str) -> Arc<Instance> {
        let process = Process::new(format!("{function}-{}", self.next_process), self.shared.clone());
        self.next_process += 1;
        self.shared.count("cold starts");
        let adapters = Adapters {
            table: SimTable { database: self.database.clone(), process: process.clone(), watch: self.watch.clone() },
            network: Arc::new(UsherNetwork {
                node: self.node.clone(),
                process: process.clone(),
                watch: self.watch.clone(),
            }),
            nudges: Arc::new(Nudged { queues: self.queues.clone(), process: process.clone() }),
            data_key: DataKeySource::Other(Arc::new(SimKeys { keys: self.keys.clone(), process: process.clone() })),
            clock: self.shared.clone(),
            randomness: self.shared.clone(),
        };
        Arc::new(Instance { usher: Usher::new(adapters, chains(), Policy::default()), process })
    }

    /// Makes the account, without faults.
    async fn init(&mut self) {
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

    fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    /// Begins an invocation of a function on a queue's messages, or on the schedule.
    fn begin(&mut self, function: &'static str, batch: Vec<(u64, crate::queue::Message)>, scheduled: bool) {
        let warm = {
            let idle = self.idle.entry(function).or_default();
            let cold = self.shared.lock().dice.happens(200);
            if cold { None } else { idle.pop() }
        };
        let instance = warm.unwrap_or_else(|| self.instance(function));
        self.next_invocation += 1;
        let id = format!("{function}#{}", self.next_invocation);
        let mortal = batch.iter().all(|(_, message)| message.crashes < CRASHES_MAX);
        instance.process.begin(&id, mortal);
        let deadline_ms = self.now_ms() + TIMEOUT_MS;
        let invocation = Invocation { id: id.clone(), deadline_ms };
        self.shared.trace(|| format!("{} begins {id} with {} messages", instance.process.name, batch.len()));
        self.shared.count("invocations");
        let messages = batch.iter().map(|(id, _)| *id).collect();
        let mut event = SqsEvent::default();
        for (id, message) in batch {
            let mut record = SqsMessage::default();
            record.message_id = Some(id.to_string());
            record.body = Some(message.body);
            event.records.push(record);
        }
        let at_work = instance.clone();
        let work: Work = Box::pin(async move {
            let usher = &at_work.usher;
            if scheduled {
                return sweep::handle_schedule(usher, &invocation).await.ok().map(|_| Vec::new());
            }
            if function == "sweep" {
                sweep::handle_nudges(usher, event, &invocation).await;
                return Some(Vec::new());
            }
            let response = handle_queue(usher, event, &invocation).await.ok()?;
            Some(response.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect())
        });
        let running = Running { function, instance, messages, deadline_ms, frozen_until_ms: 0, grace: u32::MAX };
        self.tasks.push(Task { name: id, work, invocation: Some(running) });
    }

    fn invocations(&self) -> usize {
        self.tasks.iter().filter(|task| task.invocation.is_some()).count()
    }

    fn deliver(&mut self, queue: &'static str) {
        let now_ms = self.now_ms();
        let batch = {
            let mut queues = self.queues.lock().expect("no panic");
            queues.get_mut(queue).expect("one of the queues").receive(now_ms, &mut self.shared.lock().dice)
        };
        if !batch.is_empty() {
            self.begin(if queue == "nudge" { "sweep" } else { queue }, batch, false);
        }
    }

    /// Starts something that a person does.
    fn deed(&mut self, who: usize, device: usize, room: Option<GroupId>, deed: Deed) {
        self.shared.trace(|| format!("person {who}.{device} {deed:?} in {room:?}"));
        let people = self.people.clone();
        let work = Box::pin(async move {
            people.act(who, device, room, deed).await;
            None
        });
        self.tasks.push(Task { name: format!("person {who}.{device}"), work, invocation: None });
    }

    /// The tasks that can go on.
    fn ready(&self) -> Vec<usize> {
        let now_ms = self.now_ms();
        let down = now_ms < self.shared.lock().node_down_until_ms;
        let ready = |task: &Task| match &task.invocation {
            Some(running) => running.frozen_until_ms <= now_ms,
            None => !down,
        };
        (0..self.tasks.len()).filter(|index| ready(&self.tasks[*index])).collect()
    }

    /// Gives one task one turn.
    fn turn(&mut self, index: usize) {
        let now_ms = self.now_ms();
        let task = &mut self.tasks[index];
        if let Some(running) = &mut task.invocation
            && now_ms > running.deadline_ms
        {
            // A process that slept through its deadline has a few calls left before it is killed.
            if running.grace == u32::MAX {
                running.grace = u32::try_from(self.shared.lock().dice.below(12)).expect("small");
            }
            if running.grace == 0 {
                return self.kill(index, "killed at its deadline");
            }
            running.grace -= 1;
        }
        let mut context = Context::from_waker(Waker::noop());
        match task.work.as_mut().poll(&mut context) {
            Poll::Ready(failures) => self.done(index, failures),
            Poll::Pending => {
                let Some(running) = &mut self.tasks[index].invocation else { return };
                match running.instance.process.take_fate() {
                    Fate::Lives => {}
                    Fate::Frozen { until_ms } => running.frozen_until_ms = until_ms,
                    Fate::Dies => self.kill(index, "dies"),
                }
            }
        }
    }

    fn kill(&mut self, index: usize, how: &'static str) {
        let task = self.tasks.swap_remove(index);
        self.shared.trace(|| format!("{} {how}", task.name));
        self.shared.count(how);
        let Some(running) = task.invocation else { return };
        let mut queues = self.queues.lock().expect("no panic");
        if let Some(queue) = queues.get_mut(source(running.function)) {
            running.messages.iter().for_each(|id| queue.crashed(*id));
        }
    }

    fn done(&mut self, index: usize, failures: Option<Vec<String>>) {
        let task = self.tasks.swap_remove(index);
        let Some(running) = task.invocation else { return };
        self.shared.trace(|| format!("{} ends, failed: {failures:?}", task.name));
        let failed = failures.is_none();
        let failures = failures.unwrap_or_default();
        let mut queues = self.queues.lock().expect("no panic");
        let queue = queues.get_mut(source(running.function)).expect("one of the queues");
        for id in &running.messages {
            if failed || failures.contains(&id.to_string()) {
                self.shared.count("messages that failed");
                // Trouble of the store's is no fault of the message's.
                queue.crashed(*id);
            } else {
                let again = self.shared.strikes(Fault::Stale, "delete_message");
                queue.delete(*id, again);
            }
        }
        drop(queues);
        self.idle.entry(running.function).or_default().push(running.instance);
    }

    /// Lets the time pass to the next moment at which something can happen, if nothing can now.
    fn wait(&mut self) {
        let frozen = self.tasks.iter().filter_map(|task| task.invocation.as_ref()).map(|it| it.frozen_until_ms);
        let queues = self.queues.lock().expect("no panic");
        let visible = queues.values().filter_map(Queue::next_visible_ms);
        let mut state = self.shared.lock();
        let next = frozen.chain(visible).chain([self.next_schedule_ms, state.node_down_until_ms]);
        let next = next.filter(|at_ms| *at_ms > state.now_ms).min();
        if let Some(next) = next {
            state.now_ms = next;
        }
    }

    fn schedule(&mut self) {
        if self.now_ms() >= self.next_schedule_ms {
            self.next_schedule_ms = self.now_ms() + MINUTE_MS;
            self.begin("sweep", Vec::new(), true);
        }
    }

    /// The rooms of the ledger, newest last.
    pub(crate) async fn rooms(&self) -> Vec<usher_store::RoomRecord> {
        let mut rooms = Vec::new();
        for event in self.store.events().await.expect("memory answers") {
            rooms.extend(self.store.event(&event).await.expect("readable").into_iter().flat_map(|it| it.rooms));
        }
        rooms
    }

    fn send(&mut self, sent: Vec<crate::chain::Sent>) {
        for message in sent {
            let (copies, delays) = {
                let mut state = self.shared.lock();
                let copies = if state.dice.happens(150) { 2 } else { 1 };
                let now_ms = state.now_ms;
                let mut delay = || if state.dice.happens(100) { state.dice.between(0, 600_000) } else { 0 };
                (copies, [now_ms + delay(), now_ms + delay()])
            };
            let mut queues = self.queues.lock().expect("no panic");
            let queue = queues.get_mut(message.queue).expect("one of the queues");
            delays.into_iter().take(copies).for_each(|at_ms| queue.send(message.body.clone(), at_ms));
        }
    }

    /// Somebody does something.
    async fn stir(&mut self) {
        let (who, deed) = {
            let mut state = self.shared.lock();
            let people = self.people.all.lock().expect("no panic").len();
            let who = state.dice.below(people);
            let other = state.dice.below(people);
            let deed = state.dice.weighted(&[
                (6, Deed::Register),
                (10, Deed::Sync),
                (8, Deed::Say),
                (5, Deed::UpdateKeys),
                (2, Deed::Leave),
                (4, Deed::RotateKeyPackage),
                (2, Deed::SpoilKeyPackage),
                (3, Deed::MendKeyPackage),
                (3, Deed::Forge),
                (5, Deed::Add(other)),
                (5, Deed::Remove(other)),
                (2, Deed::Revoke(1)),
            ]);
            (who, deed)
        };
        let rooms = self.rooms().await;
        let room = (!rooms.is_empty()).then(|| {
            let room = &rooms[self.shared.lock().dice.below(rooms.len())];
            (GroupId(room.group.0), room.incarnation.creator)
        });
        let (who, deed) = match deed {
            // Admins are creators; who else tries only learns that he may not.
            Deed::Add(other) | Deed::Remove(other) => {
                let creator = room.and_then(|(_, wallet)| {
                    self.chain.mints.iter().find(|mint| mint.event.creator == wallet).map(|mint| mint.creator)
                });
                match creator {
                    Some(creator) if creator != other => (creator, deed),
                    _ => (who, Deed::Sync),
                }
            }
            _ => (who, deed),
        };
        let devices = self.people.all.lock().expect("no panic")[who].devices.len();
        if (devices == 0) != (deed == Deed::Register) && !(deed == Deed::Register && devices == 1) {
            return;
        }
        if matches!(deed, Deed::Revoke(_)) && devices < 2 {
            return;
        }
        let device =
            if devices == 0 || matches!(deed, Deed::Revoke(_)) { 0 } else { self.shared.lock().dice.below(devices) };
        self.deed(who, device, room.map(|(room, _)| room), deed);
    }

    /// An outsider writes what he likes into a room's log.
    async fn intrude(&mut self) {
        let rooms = self.rooms().await;
        if rooms.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        let group = GroupId(rooms[state.dice.below(rooms.len())].group.0);
        let mut junk = vec![0; state.dice.below(300) + 1];
        state.dice.fill(&mut junk);
        drop(state);
        self.shared.count("an outsider's message");
        let log = self.node.group_messages(group, 0);
        let data = if log.is_empty() || junk[0] < 80 {
            junk
        } else {
            // Somebody's message, spoilt behind its framing.
            let mut data = log[usize::from(junk[0]) % log.len()].data.clone();
            let at = data.len() - 1 - usize::from(junk.len() > 1) * (junk.len() % 40).min(data.len() - 1);
            data[at] ^= 1 | junk[0];
            data
        };
        self.node.append(group, data, Vec::new());
    }

    /// The run's troubled part.
    async fn trouble(&mut self) {
        let (mut acts, mut deeds) = {
            let mut state = self.shared.lock();
            let rates = Rates::draw(&mut state.dice);
            state.rates = rates;
            (state.dice.between(6, 24), state.dice.between(10, 60))
        };
        // Most people had XMTP before they bought a ticket.
        let people = self.people.all.lock().expect("no panic").len();
        for who in 0..people {
            if self.shared.lock().dice.happens(700) {
                self.deed(who, 0, None, Deed::Register);
            }
        }
        let mut outages = u32::from(self.shared.lock().dice.happens(250));
        let mut steps = 0;
        // What is under way when nothing new begins any more is cut short by what follows.
        let mut tail = self.shared.lock().dice.between(50, 1500);
        while acts > 0 || deeds > 0 || tail > 0 {
            steps += 1;
            if steps > STEPS_MAX {
                return self.shared.broken("the troubled part does not end");
            }
            if acts == 0 && deeds == 0 {
                tail -= 1;
            }
            self.schedule();
            let ready = self.ready();
            let now_ms = self.now_ms();
            let deliverable: Vec<&'static str> = {
                let queues = self.queues.lock().expect("no panic");
                QUEUES.into_iter().filter(|name| queues[name].has_visible(now_ms)).collect()
            };
            let free = self.invocations() < CONCURRENCY && !deliverable.is_empty();
            let choice = {
                let mut state = self.shared.lock();
                let pass_ms = state.dice.between(0, 30);
                state.now_ms += pass_ms;
                state.dice.weighted(&[
                    (if ready.is_empty() { 0 } else { 60 }, 0),
                    (if free { 12 } else { 0 }, 1),
                    (if acts > 0 { 2 } else { 0 }, 2),
                    (if deeds > 0 { 2 } else { 0 }, 3),
                    (1, 4),
                    (
                        if !ready.is_empty() {
                            0
                        } else if acts + deeds > 0 {
                            2
                        } else {
                            20
                        },
                        5,
                    ),
                    (if outages > 0 { 1 } else { 0 }, 6),
                ])
            };
            match choice {
                0 => {
                    let at = self.shared.lock().dice.below(ready.len());
                    self.turn(ready[at]);
                }
                1 => {
                    let at = self.shared.lock().dice.below(deliverable.len());
                    self.deliver(deliverable[at]);
                }
                2 => {
                    acts -= 1;
                    let (what, sent) = self.chain.advance(&mut self.shared.lock().dice);
                    self.shared.trace(|| format!("chain: {what}"));
                    self.send(sent);
                }
                3 => {
                    deeds -= 1;
                    self.stir().await;
                }
                4 => {
                    if self.shared.lock().dice.happens(100) {
                        self.intrude().await;
                    }
                }
                5 => self.wait(),
                _ => {
                    outages -= 1;
                    let mut state = self.shared.lock();
                    let for_ms = state.dice.between(MINUTE_MS, 60 * MINUTE_MS);
                    state.node_down_until_ms = state.now_ms + for_ms;
                    drop(state);
                    self.shared.trace(|| format!("the node is down for {} s", for_ms / 1000));
                }
            }
            if self.shared.lock().broken.is_some() {
                return;
            }
        }
    }

    /// Runs until nothing is under way and no message is visible.
    fn drain(&mut self) {
        for _ in 0..STEPS_MAX {
            let ready = self.ready();
            if let Some(first) = ready.first() {
                // One after the other is enough now, but not always in the same order.
                let at = self.shared.lock().dice.below(ready.len());
                let _ = first;
                self.turn(ready[at]);
                continue;
            }
            let now_ms = self.now_ms();
            let deliverable = {
                let queues = self.queues.lock().expect("no panic");
                QUEUES.into_iter().find(|name| queues[name].has_visible(now_ms))
            };
            match deliverable {
                Some(queue) => self.deliver(queue),
                None if self.tasks.is_empty() => return,
                None => self.wait(),
            }
            if self.shared.lock().broken.is_some() {
                return;
            }
        }
        self.shared.broken("the quiet part does not end");
    }

    fn dead_letters(&self) -> usize {
        self.queues.lock().expect("no panic").values().map(|queue| queue.dead.len()).sum()
    }

    fn queues_are_empty(&self) -> bool {
        self.queues.lock().expect("no panic").values().all(Queue::is_empty)
    }

    /// Faults stop: within a bounded number of sweeps everything is as it should be.
    async fn settle(&mut self) {
        {
            let mut state = self.shared.lock();
            state.rates = Rates::default();
            state.node_down_until_ms = 0;
        }
        self.shared.trace(|| "faults stop".to_owned());
        // A frozen process is thawed, or was killed long ago.
        for index in (0..self.tasks.len()).rev() {
            if let Some(running) = &mut self.tasks[index].invocation {
                running.frozen_until_ms = 0;
            }
        }
        self.drain();
        let devices: Vec<(usize, usize, bool)> = {
            let all = self.people.all.lock().expect("no panic");
            let devices = all.iter().enumerate().flat_map(|(who, somebody)| {
                let each = somebody.devices.iter().enumerate().filter(|(_, it)| !it.revoked);
                each.map(move |(device, it)| (who, device, it.spoiled))
            });
            devices.collect()
        };
        for (who, device, spoiled) in &devices {
            // Some stay out of reach, which must keep nobody else in or out.
            let mends = *spoiled && self.shared.lock().dice.happens(500);
            self.deed(*who, *device, None, if mends { Deed::MendKeyPackage } else { Deed::Sync });
        }
        let mut wrong = Vec::new();
        for sweep in 0..SWEEPS_MAX {
            {
                let mut state = self.shared.lock();
                state.now_ms = state.now_ms.max(self.next_schedule_ms);
            }
            self.schedule();
            self.drain();
            if self.shared.lock().broken.is_some() {
                return;
            }
            if !self.queues_are_empty() {
                continue;
            }
            wrong = crate::oracle::wrong(self).await;
            if wrong.is_empty() {
                self.shared.trace(|| format!("settled after {sweep} sweeps"));
                break;
            }
        }
        if !wrong.is_empty() {
            return self.shared.broken(format!("not settled after {SWEEPS_MAX} sweeps: {}", wrong.join("; ")));
        }
        if self.dead_letters() > 0 {
            self.shared.broken(format!("{} healthy messages are dead letters", self.dead_letters()));
        }
        crate::oracle::read(self).await;
    }

    /// Does something with a device and everything that follows from it.
    pub(crate) fn now(&mut self, who: usize, device: usize, room: Option<GroupId>, deed: Deed) {
        self.deed(who, device, room, deed);
        self.drain();
    }
}

fn source(function: &'static str) -> &'static str {
    if function == "sweep" { "nudge" } else { function }
}

/// Runs one seed.
pub fn run(seed: u64, traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    // The handlers bound themselves by the machine's time, too, which is never up here.
    let _entered = runtime.enter();
    let mut world = block_on(World::new(seed, traced));
    block_on(world.init());
    block_on(world.trouble());
    if world.shared.lock().broken.is_none() {
        block_on(world.settle());
    }
    for group in world.node.groups() {
        let raced = world.node.commits_by_epoch(group).values().filter(|commits| **commits > 1).count();
        (0..raced).for_each(|_| world.shared.count("epochs with competing commits"));
    }
    let (broken, tally) = {
        let state = world.shared.lock();
        (state.broken.clone(), state.tally.clone())
    };
    Outcome { broken, tally, trace: world.shared.take_trace() }
}

/// What the world does by itself never waits for anybody; pauses are taken at once.
fn block_on<R>(work: impl Future<Output = R>) -> R {
    let mut work = Box::pin(work);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
            return result;
        }
    }
}

/// Runs one seed with a known mistake in usher.
#[cfg(feature = "planted-bugs")]
pub fn run_planted(seed: u64, bug: usher_domain::planted::Bug) -> Outcome {
    usher_domain::planted::Bug::plant(Some(bug));
    let outcome = run(seed, false);
    usher_domain::planted::Bug::plant(None);
    outcome
}
