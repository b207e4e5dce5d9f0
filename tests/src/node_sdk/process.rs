use std::{
    collections::HashMap,
    io,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{ClientStorage, SdkClient, Wallet};

/// The longest an answer may take. libxmtp gives up on a steady error after some seconds; a room of 250 takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Why a call through the SDK gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum SdkError {
    /// The npm packages are missing.
    #[error("the node SDK is not installed: run `npm ci` in {0} (tests/run does)")]
    NotInstalled(String),
    /// `node` could not be run, or no folder could be made for it.
    #[error("the driver could not be started: is node 20 or later installed?")]
    Start(#[source] io::Error),
    /// The SDK refused; the text is its own.
    #[error("{method}: {message}")]
    Refused {
        /// The driver's command.
        method: String,
        /// The SDK's text.
        message: String,
    },
    /// The process ended.
    #[error("{0}: the driver process is gone")]
    Gone(String),
    /// No answer in time.
    #[error("{0}: nothing came for {PATIENCE:?}")]
    Late(String),
    /// The answer has another shape than expected.
    #[error("{method} answered what cannot be read")]
    Unreadable {
        /// The driver's command.
        method: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// A `node` process with libxmtp clients in it; killed when it and all its clients are dropped.
pub struct NodeSdk {
    driver: Arc<Driver>,
}

impl NodeSdk {
    /// Starts a driver whose clients use the XMTP node at `node_url` (`http://host:port`).
    pub fn start(node_url: &str) -> Result<Self, SdkError> {
        Ok(Self { driver: Arc::new(Driver::start(node_url)?) })
    }

    /// A new installation of the wallet's inbox (which is made if need be), its database in a file.
    pub async fn client(&self, wallet: &Wallet) -> Result<SdkClient, SdkError> {
        self.client_stored(wallet, ClientStorage::File).await
    }

    /// The same, with a choice of storage.
    pub async fn client_stored(&self, wallet: &Wallet, storage: ClientStorage) -> Result<SdkClient, SdkError> {
        SdkClient::create(self.driver.clone(), wallet, storage).await
    }
}

/// What a stream delivers: a value, or the text of what ended it.
pub(super) type Delivery = Result<Value, String>;

/// The process, and who waits for what from it.
pub(super) struct Driver {
    stdin: tokio::sync::Mutex<ChildStdin>,
    desk: Arc<Mutex<Desk>>,
    next_id: AtomicU64,
    // Killed when dropped, and before its databases go.
    _child: Child,
    _databases: TempDir,
}

#[derive(Default)]
struct Desk {
    gone: bool,
    answers: HashMap<u64, oneshot::Sender<Delivery>>,
    streams: HashMap<(u64, String), mpsc::UnboundedSender<Delivery>>,
}

impl Driver {
    fn start(node_url: &str) -> Result<Self, SdkError> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("node-sdk");
        if !home.join("node_modules/@xmtp/node-sdk/package.json").is_file() {
            return Err(SdkError::NotInstalled(home.display().to_string()));
        }
        let databases = tempfile::tempdir().map_err(SdkError::Start)?;
        let mut child = Command::new("node")
            .arg(home.join("driver.mjs"))
            .arg(node_url)
            .arg(databases.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(SdkError::Start)?;
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let desk = Arc::<Mutex<Desk>>::default();
        tokio::spawn(read_lines(stdout, desk.clone()));
        Ok(Self { stdin: stdin.into(), desk, next_id: AtomicU64::new(1), _child: child, _databases: databases })
    }

    /// A number not given before.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends `params` (an object) to the command `method` for `client` and awaits its answer.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        client: u64,
        method: &str,
        mut params: Value,
    ) -> Result<T, SdkError> {
        let gone = || SdkError::Gone(method.to_owned());
        let id = self.next_id();
        params["id"] = json!(id);
        params["client"] = json!(client);
        params["method"] = json!(method);
        let (sender, answer) = oneshot::channel();
        with(&self.desk, |desk| if desk.gone { None } else { Some(desk.answers.insert(id, sender)) })
            .ok_or_else(gone)?;
        let line = format!("{params}\n");
        self.stdin.lock().await.write_all(line.as_bytes()).await.map_err(|_| gone())?;
        let answer = timeout(PATIENCE, answer).await.map_err(|_| SdkError::Late(method.to_owned()))?;
        let value =
            answer.map_err(|_| gone())?.map_err(|message| SdkError::Refused { method: method.to_owned(), message })?;
        serde_json::from_value(value).map_err(|source| SdkError::Unreadable { method: method.to_owned(), source })
    }

    /// From now on, what `client`'s stream of this kind delivers goes to the receiver.
    pub(super) fn route(&self, client: u64, kind: &str) -> mpsc::UnboundedReceiver<Delivery> {
        let (sender, receiver) = mpsc::unbounded_channel();
        with(&self.desk, |desk| {
            if !desk.gone {
                desk.streams.insert((client, kind.to_owned()), sender);
            }
        });
        receiver
    }
}

fn with<T>(desk: &Mutex<Desk>, act: impl FnOnce(&mut Desk) -> T) -> T {
    act(&mut desk.lock().unwrap_or_else(PoisonError::into_inner))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Event { event: Event },
    Refusal { id: u64, error: Refusal },
    Answer { id: u64, ok: Value },
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

#[derive(Deserialize)]
struct Event {
    client: u64,
    kind: String,
    #[serde(default)]
    value: Value,
    error: Option<String>,
}

async fn read_lines(stdout: ChildStdout, desk: Arc<Mutex<Desk>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(line) => with(&desk, |desk| desk.deliver(line)),
            Err(_) => tracing::warn!(line, "the driver wrote what is no answer"),
        }
    }
    // Dropping the senders tells all who wait.
    with(&desk, |desk| *desk = Desk { gone: true, ..Desk::default() });
}

impl Desk {
    // Nobody waiting is no error: a call may have been given up, a stream dropped.
    fn deliver(&mut self, line: Line) {
        match line {
            Line::Answer { id, ok } => self.answer(id, Ok(ok)),
            Line::Refusal { id, error } => self.answer(id, Err(error.message)),
            Line::Event { event } => {
                let delivery = event.error.map_or(Ok(event.value), Err);
                if let Some(stream) = self.streams.get(&(event.client, event.kind)) {
                    stream.send(delivery).ok();
                }
            }
        }
    }

    fn answer(&mut self, id: u64, answer: Delivery) {
        if let Some(waiting) = self.answers.remove(&id) {
            waiting.send(answer).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_process_leaves_nobody_waiting() {
        let mut driver = Driver::start("http://127.0.0.1:1").unwrap();
        let refused = driver.call::<()>(1, "dance", json!({})).await;
        assert!(matches!(refused, Err(SdkError::Refused { .. })), "{refused:?}");

        let mut stream = driver.route(1, "messages");
        driver._child.start_kill().unwrap();
        let gone = driver.call::<()>(1, "sync", json!({})).await;
        assert!(matches!(gone, Err(SdkError::Gone(_))), "{gone:?}");
        assert!(stream.recv().await.is_none());
        let gone = driver.call::<()>(1, "sync", json!({})).await;
        assert!(matches!(gone, Err(SdkError::Gone(_))), "{gone:?}");
    }
}
