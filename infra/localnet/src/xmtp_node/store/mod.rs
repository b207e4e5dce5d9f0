//! What the node keeps, in SQLite. One lock covers the drawing of an id, the insert and the push to subscribers, so
//! the order in which rows become visible is the order of their ids.

mod commit_log;
mod identity;
mod key_packages;
mod messages;

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, params};
use tokio::sync::mpsc;
use usher_xmtp::{
    ports::Clock,
    proto::mls_api::{GroupMessage, WelcomeMessage},
};

use super::feed::Feed;

pub(super) use identity::LoggedUpdate;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS sequence (name TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS group_messages (
  id INTEGER PRIMARY KEY, created_ns INTEGER NOT NULL, group_id BLOB NOT NULL, data BLOB NOT NULL,
  sender_hmac BLOB NOT NULL, should_push INTEGER NOT NULL, is_commit INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE);
CREATE INDEX IF NOT EXISTS group_messages_by_group ON group_messages (group_id, id);
CREATE TABLE IF NOT EXISTS welcome_messages (
  id INTEGER PRIMARY KEY, created_ns INTEGER NOT NULL, installation_key BLOB NOT NULL, is_pointer INTEGER NOT NULL,
  data BLOB NOT NULL, hpke_public_key BLOB NOT NULL, algorithm INTEGER NOT NULL, metadata BLOB NOT NULL,
  hash BLOB NOT NULL UNIQUE);
CREATE INDEX IF NOT EXISTS welcome_messages_by_installation ON welcome_messages (installation_key, id);
CREATE TABLE IF NOT EXISTS inbox_log (
  sequence_id INTEGER PRIMARY KEY, inbox_id BLOB NOT NULL, server_timestamp_ns INTEGER NOT NULL,
  identity_update BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS inbox_log_by_inbox ON inbox_log (inbox_id, sequence_id);
CREATE TABLE IF NOT EXISTS address_log (
  address TEXT NOT NULL, inbox_id BLOB NOT NULL, association_sequence_id INTEGER NOT NULL,
  revocation_sequence_id INTEGER);
CREATE INDEX IF NOT EXISTS address_log_by_address ON address_log (address, association_sequence_id);
CREATE TABLE IF NOT EXISTS commit_log (
  id INTEGER PRIMARY KEY, group_id BLOB NOT NULL, entry BLOB NOT NULL, signature BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS commit_log_by_group ON commit_log (group_id, id);
CREATE TABLE IF NOT EXISTS installations (id BLOB PRIMARY KEY, key_package BLOB NOT NULL) WITHOUT ROWID;
";

/// A table whose rows are numbered from 1 by a sequence of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sequence {
    GroupMessages,
    WelcomeMessages,
    InboxLog,
    CommitLog,
}

impl Sequence {
    const ALL: [Self; 4] = [Self::GroupMessages, Self::WelcomeMessages, Self::InboxLog, Self::CommitLog];

    fn name(self) -> &'static str {
        match self {
            Self::GroupMessages => "group_messages",
            Self::WelcomeMessages => "welcome_messages",
            Self::InboxLog => "inbox_log",
            Self::CommitLog => "commit_log",
        }
    }
}

/// Which reads do not see what is stored from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    /// None: everything is visible at once.
    #[default]
    Nothing,
    /// Those a hosted node serves from its replica: GetInboxIds, GetNewestGroupMessage and all streams.
    Replica,
    /// These, and the queries for messages, welcomes and commit log entries.
    Everything,
}

/// Where a read is served from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadFrom {
    Primary,
    Replica,
}

struct Inner {
    db: Connection,
    groups: Feed<GroupMessage>,
    welcomes: Feed<WelcomeMessage>,
    hold: Hold,
    /// The last id of each sequence when the hold began.
    held_at: [i64; Sequence::ALL.len()],
}

impl Inner {
    /// The highest visible id of a sequence.
    fn horizon(&self, sequence: Sequence, from: ReadFrom) -> i64 {
        match (self.hold, from) {
            (Hold::Everything, _) | (Hold::Replica, ReadFrom::Replica) => self.held_at[sequence as usize],
            (Hold::Nothing, _) | (Hold::Replica, ReadFrom::Primary) => i64::MAX,
        }
    }
}

/// The node's database and its live feeds.
pub(super) struct Store {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

impl Store {
    /// Opens or makes the database file, or one in memory.
    pub(super) fn open(file: Option<&Path>, clock: Arc<dyn Clock>) -> rusqlite::Result<Self> {
        let db = match file {
            Some(file) => Connection::open(file)?,
            None => Connection::open_in_memory()?,
        };
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.execute_batch(SCHEMA)?;
        for sequence in Sequence::ALL {
            db.execute("INSERT INTO sequence VALUES (?1, 0) ON CONFLICT DO NOTHING", [sequence.name()])?;
        }
        let inner = Inner {
            db,
            groups: Feed::default(),
            welcomes: Feed::default(),
            hold: Hold::Nothing,
            held_at: [0; Sequence::ALL.len()],
        };
        Ok(Self { clock, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Database time has microseconds.
    fn created_ns(&self) -> i64 {
        signed(self.clock.now_ns() / 1000 * 1000)
    }

    pub(super) fn subscribe_groups(&self, topics: HashSet<Vec<u8>>) -> mpsc::Receiver<GroupMessage> {
        self.lock().groups.subscribe(topics)
    }

    pub(super) fn subscribe_welcomes(&self, topics: HashSet<Vec<u8>>) -> mpsc::Receiver<WelcomeMessage> {
        self.lock().welcomes.subscribe(topics)
    }

    pub(super) fn drop_subscribers(&self) {
        let mut inner = self.lock();
        inner.groups.drop_subscribers();
        inner.welcomes.drop_subscribers();
    }

    pub(super) fn lose_pushes(&self, lose: bool) {
        let mut inner = self.lock();
        inner.groups.losing = lose;
        inner.welcomes.losing = lose;
    }

    pub(super) fn hold(&self, hold: Hold) {
        let mut inner = self.lock();
        if inner.hold == Hold::Nothing {
            for sequence in Sequence::ALL {
                inner.held_at[sequence as usize] = last_id(&inner.db, sequence);
            }
        }
        inner.hold = hold;
        inner.groups.hold(hold != Hold::Nothing);
        inner.welcomes.hold(hold != Hold::Nothing);
    }
}

/// Draws the next id. As with the sequences of a hosted node, an id drawn for a row that is not inserted is gone.
fn next_id(db: &Connection, sequence: Sequence) -> rusqlite::Result<i64> {
    db.prepare_cached("UPDATE sequence SET last = last + 1 WHERE name = ?1 RETURNING last")?
        .query_row(params![sequence.name()], |row| row.get(0))
}

fn last_id(db: &Connection, sequence: Sequence) -> i64 {
    db.query_row("SELECT last FROM sequence WHERE name = ?1", params![sequence.name()], |row| row.get(0))
        .expect("the row is made when the store is opened")
}

/// SQLite's integers are signed; ids and times stay far below the limit.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
