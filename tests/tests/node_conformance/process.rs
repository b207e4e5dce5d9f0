//! `usher-xmtp-node`: our node as a process of its own, over SQLite.

use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};
use usher_tests::dev_stack::binaries;

pub(crate) struct Process {
    child: Child,
    pub(crate) url: String,
    _folder: TempDir,
}

pub(crate) async fn start() -> Process {
    let folder = TempDir::new().unwrap();
    let mut child = Command::new(binaries().unwrap().join("usher-xmtp-node"))
        .args(["--port", "0", "--web-port", "0", "--db"])
        .arg(folder.path().join("node.sqlite"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    let url = ready["xmtp_url"].as_str().unwrap().to_owned();
    Process { child, url, _folder: folder }
}

impl Process {
    /// It stops when its standard input ends.
    pub(crate) async fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().await.unwrap().success());
    }
}
