//! What is logged where a failure is nobody's answer.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tracing::subscriber::DefaultGuard;
use usher_store::memory::MemoryTable;

use crate::{
    snapshots::{ROOM, folder, noise, save, snapshots},
    support::{ALICE, BOB, Fault, Faulty, at, mint, store, transfer},
};

/// The lines logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn listen() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The error that was logged with these words.
    fn error(&self, words: &str) -> Option<String> {
        let lines = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let mut lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let line = lines.find(|line| line["fields"]["message"] == words)?;
        Some(line["fields"]["error"].as_str().unwrap().to_owned())
    }
}

/// A table that dies at its call `first`.
fn dying(table: &Arc<MemoryTable>, first: u64) -> Faulty<Arc<MemoryTable>> {
    Faulty::new(table.clone(), Fault::DeadFrom(first))
}

#[tokio::test]
async fn a_replay_left_for_later_says_why_to_the_last_cause() {
    let (log, _listening) = Log::listen();
    let mut error = None;
    for first in 0..20 {
        let table = Arc::new(MemoryTable::new());
        let well = store(table.clone());
        well.record(&[transfer(7, at(2, 0, 2), ALICE, BOB)]).await;
        store(dying(&table, first)).record(&[mint()]).await;
        error = error.or(log.error("replay of waiting facts left for later"));
    }
    assert_eq!(error.unwrap(), "database request failed: the database did not answer: injected");
}

#[tokio::test]
async fn chunks_left_for_later_say_why_to_the_last_cause() {
    let (log, _listening) = Log::listen();
    let mut error = None;
    for first in 0..20 {
        let (folder, table) = (folder(), Arc::new(MemoryTable::new()));
        snapshots(table.clone(), folder.path()).claim(&ROOM, 1).await.unwrap();
        let dying = snapshots(dying(&table, first), folder.path());
        drop(dying.save(&ROOM, save(1, 0, &noise(1, 400_000))).await);
        error = error.or(log.error("old chunks left for later"));
    }
    assert_eq!(error.unwrap(), "the database did not answer: injected");
}
