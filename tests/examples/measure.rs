//! How large a room's state is, how long changing it takes, and what a cold function takes:
//! `cargo build --release --bins && cargo run --release -p usher-tests --example measure`.
//!
//! One process and one local node; every change is stage, store (encode, seal, write to the in-memory table), publish,
//! walk, store, welcomes, store: what a function does to the room, without the ledger. A cold purchase is the
//! function's binary as `usher dev` runs it: from the start of its process to the answer, by when its one buyer is in
//! the room. Times and memory are medians of five.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::{Body, to_bytes};
use futures::future::try_join_all;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use usher_localnet::{
    ambient::{Ambient, SystemClock},
    person::Person,
    xmtp_node::{Node, NodeOptions},
};
use usher_store::{FileDataKeys, Owner, Snapshots, Store, memory::MemoryTable, snapshot::Save, table::Value};
use usher_tests::{
    dev_stack::{DevStack, binaries},
    world::{ANVIL_KEYS, AnyError, TestClock, TestRandomness},
};
use usher_xmtp::{
    Account, Group, Identities, NewGroup, V3,
    identity::{InboxId, LocalWallet, WalletSigner},
    inbox_of,
    network::Network,
    policy::Policies,
};

const SIZES: [usize; 4] = [2, 10, 100, 250];
const REPEATS: usize = 5;
const TEN: usize = 10;
const PURCHASE: &str = "usher-purchase";

struct Room {
    account: Account,
    group: Group,
    network: V3,
    snapshots: Snapshots,
    table: Arc<MemoryTable>,
    version: u64,
}

impl Room {
    fn owner(&self) -> Owner {
        Owner::Room(usher_domain::GroupId(self.group.id().0))
    }

    async fn store(&mut self) -> Result<(), AnyError> {
        let plaintext = self.group.encode()?;
        let save =
            Save { fence: 1, expected_version: self.version, plaintext: &plaintext, status: "", side_writes: vec![] };
        self.version = self.snapshots.save(&self.owner(), save).await?;
        Ok(())
    }

    async fn change(&mut self, add: &[InboxId], remove: &[InboxId]) -> Result<Duration, AnyError> {
        let began = Instant::now();
        let mut identities = Identities::default();
        let (add, remove): (BTreeSet<_>, BTreeSet<_>) =
            (add.iter().cloned().collect(), remove.iter().cloned().collect());
        let change = self.group.membership_change(&self.account, &self.network, &mut identities, &add, &remove).await?;
        self.group.stage_membership(&self.account, &self.network, &mut identities, change).await?;
        self.store().await?;
        let commit = self.group.pending_commit(&self.account, &SystemClock).ok_or("a commit is pending")?;
        self.network.send_group_messages(vec![commit]).await?;
        self.group.sync(&self.account, &self.network, &mut identities, &mut Vec::new()).await?;
        self.store().await?;
        if self.group.has_welcomes() {
            let sent = self.group.send_welcomes(&self.network, &Ambient, |_| true).await?;
            self.group.clear_welcomes(&sent);
            self.store().await?;
        }
        Ok(began.elapsed())
    }

    /// The stored bytes of the newest snapshot, sealed.
    fn sealed_bytes(&self) -> usize {
        let bytes = |value: &Value| match value {
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        let mine = self.table.dump();
        let mine = mine.iter().filter(|(key, _)| key.pk == self.owner().to_string());
        mine.map(|(_, item)| item.values().map(bytes).sum::<usize>()).sum()
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "this is a measurement's result")]
async fn main() -> Result<(), AnyError> {
    let node = Node::start(NodeOptions::on_free_ports()).await?;
    let url = node.url();
    let people = try_join_all((0..SIZES[3] + TEN).map(|number| {
        let mut key = [2; 32];
        key[24..].copy_from_slice(&(number as u64).to_be_bytes());
        let url = url.clone();
        async move { Person::register(&key, &url).await }
    }))
    .await?;
    let inboxes: Vec<InboxId> = people.iter().map(Person::inbox).collect::<Result<_, _>>()?;
    println!("| inboxes | sealed snapshot | one add | one remove | ten adds in one commit |");
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for size in SIZES {
        let mut room = room(&url).await?;
        room.change(&inboxes[..size - 1], &[]).await?;
        // A claim prunes the chunks of older versions.
        room.snapshots.claim(&room.owner(), 1).await?;
        let sealed = room.sealed_bytes();
        let (mut adds, mut removes, mut tens) = (vec![], vec![], vec![]);
        let (newcomer, newcomers) = (&inboxes[size..=size], &inboxes[size..size + TEN]);
        for _ in 0..REPEATS {
            adds.push(room.change(newcomer, &[]).await?);
            removes.push(room.change(&[], newcomer).await?);
            tens.push(room.change(newcomers, &[]).await?);
            room.change(&[], newcomers).await?;
        }
        let ms = |times: Vec<Duration>| median(times).as_secs_f64() * 1e3;
        println!(
            "| {size} | {:.1} KB | {:.1} ms | {:.1} ms | {:.1} ms |",
            sealed as f64 / 1e3,
            ms(adds),
            ms(removes),
            ms(tens),
        );
    }
    let (mut times, mut peaks) = (vec![], vec![]);
    for _ in 0..REPEATS {
        let (time, peak) = cold_purchase().await?;
        times.push(time);
        peaks.push(peak);
    }
    println!("\n| cold purchase | peak memory | binary |");
    println!("| ---: | ---: | ---: |");
    println!(
        "| {:.1} ms | {:.1} MB | {:.1} MB |",
        median(times).as_secs_f64() * 1e3,
        median(peaks) as f64 / 1e6,
        fs::metadata(binaries()?.join(PURCHASE))?.len() as f64 / 1e6,
    );
    Ok(())
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort();
    values[values.len() / 2]
}

/// From the start of the purchase function's process to its answer, and the most memory it took, in bytes.
async fn cold_purchase() -> Result<(Duration, u64), AnyError> {
    let stack = DevStack::start_logged(&["--no-schedule"], "error", drop).await?;
    let mut inboxes = Vec::new();
    for key in &ANVIL_KEYS[..2] {
        inboxes.push(Person::register(key, &stack.ready.xmtp_url).await?.inbox()?.to_string());
    }
    stack.send_sample("logs/01-mint.json").await?;
    stack.until_handled().await?;

    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events/purchase.issue.json");
    let url = format!("{}/2015-03-31/functions/purchase/invocations", stack.ready.lambda_url);
    let request = axum::http::Request::post(url).body(Body::from(fs::read(sample)?))?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    // The stack starts each function once, to see that it can, and again where two messages come at once.
    assert!(stack.kill(PURCHASE)? > 0);
    stack.until("no process is left", async || Ok((stack.living(PURCHASE)? == 0).then_some(()))).await?;
    let began = Instant::now();
    let answer = client.request(request).await?;
    let answer = to_bytes(Body::new(answer.into_body()), usize::MAX).await?;
    let took = began.elapsed();
    assert_eq!(&answer[..], br#"{"batchItemFailures":[]}"#);
    let report = stack.rooms().await?;
    let rooms = report.events[0].current().map(|incarnation| &incarnation.rooms[..]);
    let Some([room]) = rooms else { return Err(format!("no room: {report:?}").into()) };
    let seats = &room.status.as_ref().ok_or("the room was saved")?.seats;
    assert!(inboxes.iter().all(|inbox| seats.iter().any(|seat| seat.inbox == *inbox)), "{seats:?}");
    Ok((took, stack.peak_memory(PURCHASE)?.ok_or("it is kept for the next invocation")?))
}

async fn room(url: &str) -> Result<Room, AnyError> {
    let network = V3::new(url, Duration::from_secs(10))?;
    let mut key = [3; 32];
    usher_xmtp::ports::Randomness::fill(&Ambient, &mut key[16..]);
    let wallet = LocalWallet::from_key(&key)?;
    let mut account = Account::new(inbox_of(wallet.address(), &network).await?, &SystemClock, &Ambient)?;
    account.register(&wallet, &network, &SystemClock).await?;
    let new = NewGroup { name: "measured".to_owned(), description: String::new(), policies: Policies::admin_only() };
    let group = Group::create(&account, new, &Ambient)?;
    let table = Arc::new(MemoryTable::new());
    let (clock, randomness) = (Arc::new(TestClock::default()), Arc::new(TestRandomness));
    let deployment = Store::new(table.clone(), clock.clone(), randomness.clone()).init_deployment().await?;
    let scratch = tempfile::tempdir()?;
    let keys = FileDataKeys::open(&scratch.path().join("data.key"), deployment.clone(), randomness.clone())?;
    let snapshots = Snapshots::new(table.clone(), Arc::new(keys), deployment, clock, randomness);
    let mut room = Room { account, group, network, snapshots, table, version: 0 };
    room.snapshots.claim(&room.owner(), 1).await?;
    room.store().await?;
    Ok(room)
}
