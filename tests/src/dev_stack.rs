//! `usher dev` as its users run it: the built binaries in processes of their own, fed with `usher send` and read with
//! `usher rooms`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use alloy_primitives::Address;
use aws_sdk_sqs::types::QueueAttributeName;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use usher_domain::EventKey;
use usher_localnet::aws::{dynamodb_client, sqs_client};
use usher_store::{
    Store,
    dynamo::DynamoTable,
    table::{PK, SK},
};

use crate::{
    haus::{CHAIN, Transaction},
    node_sdk::{NodeSdk, SdkClient, Wallet},
    world::{AnyError, TestClock, TestRandomness},
};

/// The functions, which the stack runs.
const FUNCTIONS: [&str; 4] = ["usher-mint", "usher-purchase", "usher-refund", "usher-sweep"];
/// What tests run themselves.
const COMMANDS: [&str; 2] = ["usher", "usher-xmtp-node"];
/// The stack's table.
const TABLE: &str = "usher";
/// The longest a condition may take to come true, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// Which field of `/proc/PID/stat` after the name counts the threads (field 20 of proc(5)).
const THREADS_FIELD: usize = 17;
const POLL_EVERY: Duration = Duration::from_millis(250);
/// A nudge that meets a held lease does nothing, so it is repeated.
const NUDGE_EVERY: Duration = Duration::from_secs(2);
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A running stack with real clients; stopped when dropped. What it and its functions log is shown if the test fails.
pub struct DevStack {
    /// The published client, bound to the stack's XMTP node.
    pub sdk: NodeSdk,
    /// What the stack said when it was ready.
    pub ready: Ready,
    usher: PathBuf,
    sqs: aws_sdk_sqs::Client,
    process: Option<Child>,
}

/// The line that `usher dev --json` prints.
#[derive(Debug, Deserialize)]
pub struct Ready {
    /// The XMTP node's gRPC address.
    pub xmtp_url: String,
    /// usher's inbox.
    pub inbox_id: String,
    /// usher's wallet.
    pub wallet: Address,
    /// Where the functions can be invoked.
    pub lambda_url: String,
    /// The queues' URLs; a dead-letter queue's name ends in `-dlq`.
    pub queues: BTreeMap<String, String>,
    /// The file with the key that wraps data keys.
    pub data_key_file: PathBuf,
    /// The file with the private key of usher's wallet.
    pub wallet_key_file: PathBuf,
    /// The address of DynamoDB.
    pub dynamodb_url: String,
    sqs_url: String,
    secrets_url: String,
}

/// What `usher rooms --json` prints.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// What is known of events.
    pub events: Vec<EventReport>,
    /// How much lies parked.
    pub parked: usize,
}

/// One event.
#[derive(Debug, Deserialize)]
pub struct EventReport {
    /// Which.
    pub event: EventKey,
    /// How often what should be has changed.
    pub generation: u64,
    /// The newest generation that the rooms were equal to.
    pub converged_generation: Option<u64>,
    /// Who minted it; more than one after a reorganisation.
    pub incarnations: Vec<IncarnationReport>,
}

/// One incarnation of an event.
#[derive(Debug, Deserialize)]
pub struct IncarnationReport {
    /// It is the one that counts.
    pub current: bool,
    /// Its rooms.
    pub rooms: Vec<RoomReport>,
    /// Its holders who are in none.
    pub waiting: Vec<WaitingReport>,
}

/// One room.
#[derive(Debug, Deserialize)]
pub struct RoomReport {
    /// The XMTP group's id.
    pub group: String,
    /// `active` or `lost`.
    pub state: String,
    /// As it was when last saved.
    pub status: Option<StatusReport>,
}

/// A room's contents.
#[derive(Debug, Deserialize)]
pub struct StatusReport {
    /// Who sits in it, usher included.
    pub seats: Vec<SeatReport>,
}

/// A seat.
#[derive(Debug, Deserialize)]
pub struct SeatReport {
    /// Whose.
    pub inbox: String,
    /// How many devices are in.
    pub installations: usize,
}

/// A wallet that waits.
#[derive(Debug, Deserialize)]
pub struct WaitingReport {
    /// In lower-case hex.
    pub wallet: String,
    /// For what.
    pub reason: String,
}

impl Report {
    /// What is known of this event.
    pub fn event(&self, event: &EventKey) -> Option<&EventReport> {
        self.events.iter().find(|report| report.event == *event)
    }
}

impl EventReport {
    /// The incarnation that counts.
    pub fn current(&self) -> Option<&IncarnationReport> {
        self.incarnations.iter().find(|incarnation| incarnation.current)
    }

    /// The rooms are equal to what should be.
    pub fn is_converged(&self) -> bool {
        self.converged_generation == Some(self.generation)
    }
}

impl DevStack {
    /// Starts a stack of its own on free ports.
    pub async fn start() -> Result<Self, AnyError> {
        Self::start_with(&[]).await
    }

    /// The same with more arguments for `usher dev`.
    pub async fn start_with(arguments: &[&str]) -> Result<Self, AnyError> {
        Self::launch(arguments, &[], show).await
    }

    /// The same, saying as much as `verbosity` (a `RUST_LOG`) asks for; each line goes to `log`.
    pub async fn start_logged(
        arguments: &[&str],
        verbosity: &str,
        log: impl FnMut(String) + Send + 'static,
    ) -> Result<Self, AnyError> {
        Self::launch(arguments, &[("RUST_LOG", verbosity), ("NO_COLOR", "1")], log).await
    }

    /// The same, with metrics of this stage among the lines.
    pub async fn start_metered(
        arguments: &[&str],
        verbosity: &str,
        stage: &str,
        log: impl FnMut(String) + Send + 'static,
    ) -> Result<Self, AnyError> {
        let env = [("RUST_LOG", verbosity), ("NO_COLOR", "1"), ("USHER_STAGE", stage)];
        Self::launch(arguments, &env, log).await
    }

    async fn launch(
        arguments: &[&str],
        env: &[(&str, &str)],
        mut log: impl FnMut(String) + Send + 'static,
    ) -> Result<Self, AnyError> {
        let binaries = binaries()?;
        let usher = binaries.join("usher");
        let mut process = Command::new(&usher)
            .envs(env.iter().copied())
            .args(["dev", "--json", "--functions"])
            .arg(&binaries)
            .args(["--xmtp-port", "0", "--xmtp-web-port", "0", "--dynamodb-port", "0"])
            .args(["--sqs-port", "0", "--secrets-port", "0", "--lambda-port", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().ok_or("standard output is piped")?;
        let stderr = process.stderr.take().ok_or("standard error is piped")?;
        thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).for_each(&mut log));
        // From here on it is stopped whatever happens.
        let mut stopped = Stopped(Some(process));
        let first_line = tokio::task::spawn_blocking(|| BufReader::new(stdout).lines().next());
        let line = timeout(PATIENCE, first_line).await.map_err(|_| "`usher dev` was not ready in time")??;
        let line = line.ok_or("`usher dev` ended before it was ready")??;
        let ready: Ready = serde_json::from_str(&line)?;
        let (sdk, sqs) = (NodeSdk::start(&ready.xmtp_url)?, sqs_client(&ready.sqs_url));
        Ok(Self { sdk, ready, usher, sqs, process: stopped.0.take() })
    }

    /// The person whose wallet has this number, on a new device.
    pub async fn person(&self, number: u64) -> Result<SdkClient, AnyError> {
        Ok(self.sdk.client(&Wallet::numbered(number)).await?)
    }

    /// Sends the logs of these transactions, in this order.
    pub async fn send(&self, transactions: &[Transaction]) -> Result<(), AnyError> {
        let logs: Vec<&Value> = transactions.iter().flat_map(|transaction| &transaction.logs).collect();
        self.send_file(&json!({"chainId": CHAIN, "logs": logs})).await
    }

    /// Sends a file of `events/`, by its path there.
    pub async fn send_sample(&self, sample: &str) -> Result<(), AnyError> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events").join(sample);
        self.run::<Value>(&["send", path.to_str().ok_or("the checkout's path is no UTF-8")?]).await?;
        Ok(())
    }

    /// Sends message bodies as they are to `mint`, `purchase`, `refund` or `nudge`.
    pub async fn send_bodies(&self, queue: &str, bodies: &[String]) -> Result<(), AnyError> {
        let source = format!("arn:aws:sqs:us-east-1:000000000000:usher-{queue}");
        let records: Vec<_> = bodies.iter().map(|body| json!({"eventSourceARN": source, "body": body})).collect();
        self.send_file(&json!({"Records": records})).await
    }

    /// Asks the sweep to look at an event, as the clock does every minute.
    pub async fn nudge(&self, event: &EventKey) -> Result<(), AnyError> {
        self.send_bodies("nudge", &[json!({"event": event}).to_string()]).await
    }

    /// Throws away the nudges that were left for later: an invocation leaves one behind in case it is killed.
    pub async fn forget_nudges(&self) -> Result<(), AnyError> {
        let url = self.ready.queues.get("nudge").ok_or("there is no such queue")?;
        self.sqs.purge_queue().queue_url(url).send().await?;
        Ok(())
    }

    async fn send_file(&self, content: &Value) -> Result<(), AnyError> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), content.to_string())?;
        let path = file.path().to_str().ok_or("the temporary folder's name is no UTF-8")?;
        self.run::<Value>(&["send", path]).await?;
        Ok(())
    }

    /// The stack's ledger.
    pub fn store(&self) -> Store {
        let table = DynamoTable::new(dynamodb_client(&self.ready.dynamodb_url), TABLE);
        Store::new(Arc::new(table), Arc::new(TestClock::default()), Arc::new(TestRandomness))
    }

    /// Restores the ledger as another table, and nothing of any snapshot. The stack's own table is gone afterwards, so
    /// that its functions can do nothing.
    pub async fn restore_ledger(&self, name: &str) -> Result<DynamoTable, AnyError> {
        let client = dynamodb_client(&self.ready.dynamodb_url);
        let restored = DynamoTable::new(client.clone(), name);
        restored.create_table().await?;
        let mut items = client.scan().table_name(TABLE).consistent_read(true).into_paginator().items().send();
        while let Some(item) = items.try_next().await? {
            let text = |name| item.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str);
            let (pk, sk) = (text(PK), text(SK));
            let of_snapshot = pk == "account" || pk.starts_with("room#");
            if !of_snapshot || !(sk == "head" || sk.starts_with("chunk#")) {
                client.put_item().table_name(name).set_item(Some(item)).send().await?;
            }
        }
        client.delete_table().table_name(TABLE).send().await?;
        Ok(restored)
    }

    /// Kills all processes of a function, as a machine that fails does; returns how many there were.
    pub fn kill(&self, function: &str) -> Result<usize, AnyError> {
        let processes = self.children(|name, _| name == function)?;
        for pid in &processes {
            kill_process(*pid, Signal::KILL)?;
        }
        Ok(processes.len())
    }

    /// How many processes of functions there are.
    pub fn processes(&self) -> Result<usize, AnyError> {
        Ok(self.children(|name, _| FUNCTIONS.contains(&name))?.len())
    }

    /// How many processes of a function have not ended. (One that has ended is a process until the stack asks about it.)
    pub fn living(&self, function: &str) -> Result<usize, AnyError> {
        Ok(self.children(|name, has_ended| name == function && !has_ended)?.len())
    }

    /// The most memory that a process of a function has taken so far, in bytes; `None` if there is no living process.
    pub fn peak_memory(&self, function: &str) -> Result<Option<u64>, AnyError> {
        for pid in self.children(|name, _| name == function)? {
            let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
            // A dead process that nobody has asked about yet has none.
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
            if let Some(kilobytes) = peak {
                return Ok(Some(kilobytes.parse::<u64>()? * 1024));
            }
        }
        Ok(None)
    }

    /// The stack's processes of these names, and of those that have ended or have not.
    fn children(&self, is_wanted: impl Fn(&str, bool) -> bool) -> Result<Vec<Pid>, AnyError> {
        let stack = self.process.as_ref().ok_or("the stack runs")?.id().to_string();
        let mut children = Vec::new();
        for entry in fs::read_dir("/proc")?.map_while(Result::ok) {
            // `pid (name) state parent …`; a process may be gone by now.
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let Some((pid, rest)) = stat.split_once(" (") else { continue };
            let Some((name, rest)) = rest.split_once(") ") else { continue };
            let rest: Vec<&str> = rest.split(' ').collect();
            let [state, parent, ..] = rest[..] else { continue };
            // The first thread may end before the others: then nobody can wait for the process yet.
            let is_alone = rest.get(THREADS_FIELD).is_some_and(|threads| matches!(*threads, "0" | "1"));
            if is_wanted(name, state == "Z" && is_alone) && parent == stack {
                children.extend(pid.parse().ok().and_then(Pid::from_raw));
            }
        }
        Ok(children)
    }

    /// The command `usher`, told by its environment where the stack is.
    pub fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.usher);
        command.env("AWS_ENDPOINT_URL_DYNAMODB", &self.ready.dynamodb_url);
        command.env("AWS_ENDPOINT_URL_SQS", &self.ready.sqs_url);
        command.env("AWS_ENDPOINT_URL_SECRETS_MANAGER", &self.ready.secrets_url);
        command.env("USHER_XMTP_URL", &self.ready.xmtp_url);
        command.env("USHER_DATA_KEY_FILE", &self.ready.data_key_file);
        command.env("USHER_WALLET_KEY_FILE", &self.ready.wallet_key_file);
        command.kill_on_drop(true);
        command
    }

    /// Shows the rooms.
    pub async fn rooms(&self) -> Result<Report, AnyError> {
        self.run(&["rooms"]).await
    }

    /// Runs a command of `usher`'s against the stack and reads its JSON.
    async fn run<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, AnyError> {
        let mut command = tokio::process::Command::new(&self.usher);
        command.args(arguments).args(["--json", "--table", TABLE]);
        command.args(["--dynamodb-url", &self.ready.dynamodb_url, "--sqs-url", &self.ready.sqs_url]);
        let output = timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
        if !output.status.success() {
            return Err(format!("usher {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Awaits that every fact sent so far was handled.
    pub async fn until_handled(&self) -> Result<(), AnyError> {
        self.until("the queues of facts empty", async || {
            for queue in ["mint", "purchase", "refund"] {
                if self.messages_in(queue).await? > 0 {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }

    /// How many messages of a queue are not handled yet, those in flight included.
    pub async fn messages_in(&self, queue: &str) -> Result<u64, AnyError> {
        let url = self.ready.queues.get(queue).ok_or("there is no such queue")?;
        let counts = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let request = self.sqs.get_queue_attributes().queue_url(url).set_attribute_names(Some(counts.to_vec()));
        let answer = request.send().await?.attributes.ok_or("the queue has no attributes")?;
        let mut messages = 0;
        for count in counts {
            messages += answer.get(&count).ok_or("a count is missing")?.parse::<u64>()?;
        }
        Ok(messages)
    }

    /// Awaits the moment from which `look` finds something.
    pub async fn until<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<Option<T>, AnyError>,
    ) -> Result<T, AnyError> {
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < deadline {
            ticks.tick().await;
            if let Some(found) = look().await? {
                return Ok(found);
            }
        }
        let report: Value = self.run(&["rooms"]).await?;
        Err(format!("not within {PATIENCE:?}: {what}; the rooms: {report:#}").into())
    }

    /// The same, with the event nudged all the while.
    pub async fn nudged_until<T>(
        &self,
        event: &EventKey,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<Option<T>, AnyError>,
    ) -> Result<T, AnyError> {
        let mut nudge_at = Instant::now();
        self.until(what, async || {
            if Instant::now() >= nudge_at {
                self.nudge(event).await?;
                nudge_at = Instant::now() + NUDGE_EVERY;
            }
            look().await
        })
        .await
    }

    /// Awaits that the event has one room and exactly these people sit in it beside usher, each with so many devices;
    /// returns the room's id.
    pub async fn until_seated(&self, event: &EventKey, people: &[(&SdkClient, usize)]) -> Result<String, AnyError> {
        self.until_seated_inboxes(event, &inboxes(people)).await
    }

    /// The same, by inbox ids.
    pub async fn until_seated_inboxes(&self, event: &EventKey, inboxes: &[(&str, usize)]) -> Result<String, AnyError> {
        let wanted = self.seats(inboxes);
        self.until(&format!("{wanted:?} seated"), async || self.is_seated(event, &wanted).await).await
    }

    /// The same as [`until_seated`](Self::until_seated), with the event nudged all the while.
    pub async fn nudged_until_seated(
        &self,
        event: &EventKey,
        people: &[(&SdkClient, usize)],
    ) -> Result<String, AnyError> {
        let wanted = self.seats(&inboxes(people));
        self.nudged_until(event, &format!("{wanted:?} seated"), async || self.is_seated(event, &wanted).await).await
    }

    fn seats(&self, inboxes: &[(&str, usize)]) -> BTreeMap<String, usize> {
        let usher = (self.ready.inbox_id.clone(), 1);
        inboxes.iter().map(|(inbox, devices)| ((*inbox).to_owned(), *devices)).chain([usher]).collect()
    }

    async fn is_seated(&self, event: &EventKey, wanted: &BTreeMap<String, usize>) -> Result<Option<String>, AnyError> {
        let report = self.rooms().await?;
        let Some(event) = report.event(event).filter(|event| event.is_converged()) else { return Ok(None) };
        let Some([room]) = event.current().map(|incarnation| &incarnation.rooms[..]) else { return Ok(None) };
        let Some(status) = &room.status else { return Ok(None) };
        let seats = status.seats.iter().map(|seat| (seat.inbox.clone(), seat.installations));
        Ok((seats.collect::<BTreeMap<_, _>>() == *wanted).then(|| room.group.clone()))
    }

    /// Why each wallet of the event waits.
    pub async fn waiting(&self, event: &EventKey) -> Result<BTreeMap<String, String>, AnyError> {
        let report = self.rooms().await?;
        let waiting = report.event(event).and_then(EventReport::current).map(|incarnation| &incarnation.waiting);
        let rows = waiting.into_iter().flatten();
        Ok(rows.map(|waiting| (waiting.wallet.clone(), waiting.reason.clone())).collect())
    }
}

impl Drop for DevStack {
    fn drop(&mut self) {
        drop(Stopped(self.process.take()));
    }
}

fn inboxes<'a>(people: &[(&'a SdkClient, usize)]) -> Vec<(&'a str, usize)> {
    people.iter().map(|(person, devices)| (person.inbox_id(), *devices)).collect()
}

/// Stops the stack in its own time: its functions are its children.
struct Stopped(Option<Child>);

impl Drop for Stopped {
    fn drop(&mut self) {
        let Some(mut process) = self.0.take() else { return };
        let pid = Pid::from_child(&process);
        kill_process(pid, Signal::TERM).ok();
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || sender.send(process.wait()));
        if ended.recv_timeout(STOP_PATIENCE).is_err() {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// Prints a line of the stack's log from a thread, whose output the test harness keeps for failures like the test's
/// own.
#[expect(clippy::print_stderr, reason = "the harness shows it when the test fails")]
fn show(line: String) {
    eprintln!("{line}");
}

/// The folder of the binaries of the profile that this test was built with.
pub fn binaries() -> Result<PathBuf, AnyError> {
    let test = env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).ok_or("the test lies in no target folder")?;
    let missing: BTreeSet<_> =
        FUNCTIONS.into_iter().chain(COMMANDS).filter(|name| !folder.join(name).is_file()).collect();
    if missing.is_empty() {
        return Ok(folder.to_owned());
    }
    let release = if folder.ends_with("release") { " --release" } else { "" };
    Err(format!("{} has no {missing:?}: run `cargo build --bins{release}` first", folder.display()).into())
}
