//! Standard queues in SQLite. A file outlives the process; without one they live in memory.

use std::{collections::HashMap, path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::clock::now_ms;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS queue (
        name       TEXT PRIMARY KEY,
        attributes TEXT NOT NULL, -- JSON: what CreateQueue and SetQueueAttributes said
        created_ms INTEGER NOT NULL,
        changed_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS message (
        number        INTEGER PRIMARY KEY,
        id            TEXT NOT NULL,
        queue         TEXT NOT NULL REFERENCES queue (name) ON DELETE CASCADE,
        body          TEXT NOT NULL,
        attributes    TEXT NOT NULL, -- JSON
        sent_ms       INTEGER NOT NULL,
        visible_ms    INTEGER NOT NULL,
        first_ms      INTEGER,
        receive_count INTEGER NOT NULL DEFAULT 0,
        receipt       TEXT
    ) STRICT;
    CREATE INDEX IF NOT EXISTS message_by_visibility ON message (queue, visible_ms);
    CREATE INDEX IF NOT EXISTS message_by_receives ON message (queue, receive_count);
    CREATE INDEX IF NOT EXISTS message_by_age ON message (queue, sent_ms);
    CREATE UNIQUE INDEX IF NOT EXISTS message_by_receipt ON message (receipt);
";

/// All queues of the account.
#[derive(Debug)]
pub(super) struct Queues {
    connection: Connection,
}

/// A request the queues refuse.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the queue does not exist")]
    NoSuchQueue,
    #[error("the dead-letter queue {0} does not exist")]
    NoSuchDeadLetterQueue(String),
    #[error("a queue of that name has other attributes")]
    OtherAttributes,
    #[error("no message has that receipt handle now")]
    NoSuchReceipt,
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
}

/// One message as a receiver sees it.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) id: String,
    pub(super) body: String,
    pub(super) attributes: String,
    pub(super) receipt: String,
    pub(super) sent_ms: i64,
    pub(super) first_ms: i64,
    pub(super) receive_count: u32,
}

/// The number of messages by state, as GetQueueAttributes tells them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Depth {
    pub(super) visible: u64,
    pub(super) in_flight: u64,
    pub(super) delayed: u64,
}

/// A queue's settings, with SQS's defaults.
#[derive(Debug, Default)]
pub(super) struct Attributes(pub(super) HashMap<String, String>);

/// Where messages go that were received too often.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: String,
    // The console and CloudFormation write a number, the CLI's users often a text.
    max_receive_count: Value,
}

impl Attributes {
    fn seconds(&self, name: &str, default: u32) -> Duration {
        let seconds = self.0.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        Duration::from_secs(u64::from(seconds))
    }

    pub(super) fn visibility(&self) -> Duration {
        self.seconds("VisibilityTimeout", 30)
    }

    pub(super) fn delay(&self) -> Duration {
        self.seconds("DelaySeconds", 0)
    }

    pub(super) fn retention(&self) -> Duration {
        self.seconds("MessageRetentionPeriod", 4 * 24 * 3600)
    }

    /// How long a receiver waits who does not say it.
    pub(super) fn wait(&self) -> Duration {
        self.seconds("ReceiveMessageWaitTimeSeconds", 0)
    }

    /// The dead-letter queue's name, and how many receives a message has before it goes there.
    fn redrive(&self) -> Option<(String, i64)> {
        let policy: RedrivePolicy = serde_json::from_str(self.0.get("RedrivePolicy")?).ok()?;
        let count = &policy.max_receive_count;
        let count = count.as_i64().or_else(|| count.as_str()?.parse().ok())?;
        let name = policy.dead_letter_target_arn.rsplit(':').next()?.to_owned();
        Some((name, count))
    }
}

impl Queues {
    /// Opens the queues in the file `path`, or new ones in memory.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, rusqlite::Error> {
        let connection = match path {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        // A crash of the machine may lose the last moments; a crash of the process loses nothing.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.execute_batch(SCHEMA)?;
        // Whoever received these is gone with the process that served him.
        connection.execute("UPDATE message SET visible_ms = 0 WHERE receive_count > 0", [])?;
        Ok(Self { connection })
    }

    pub(super) fn create(&mut self, name: &str, wanted: HashMap<String, String>) -> Result<(), Refused> {
        if let Ok((existing, ..)) = self.attributes(name) {
            let same = wanted.iter().all(|(key, value)| existing.0.get(key) == Some(value));
            return if same { Ok(()) } else { Err(Refused::OtherAttributes) };
        }
        self.check_redrive(&Attributes(wanted.clone()))?;
        self.connection.execute(
            "INSERT INTO queue (name, attributes, created_ms, changed_ms) VALUES (?1, ?2, ?3, ?3)",
            params![name, to_json(&wanted), now_ms()],
        )?;
        Ok(())
    }

    pub(super) fn delete_queue(&mut self, name: &str) -> Result<(), Refused> {
        let deleted = self.connection.execute("DELETE FROM queue WHERE name = ?1", [name])?;
        if deleted == 0 { Err(Refused::NoSuchQueue) } else { Ok(()) }
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<String>, Refused> {
        let mut names = self.connection.prepare_cached("SELECT name FROM queue ORDER BY name")?;
        let names = names.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        Ok(names.into_iter().filter(|name| name.starts_with(prefix)).collect())
    }

    /// The attributes, and when the queue was created and last changed (ms since 1970).
    pub(super) fn attributes(&self, name: &str) -> Result<(Attributes, i64, i64), Refused> {
        let sql = "SELECT attributes, created_ms, changed_ms FROM queue WHERE name = ?1";
        let found = self
            .connection
            .prepare_cached(sql)?
            .query_row([name], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let (json, created, changed) = found.ok_or(Refused::NoSuchQueue)?;
        Ok((Attributes(serde_json::from_str(&json).unwrap_or_default()), created, changed))
    }

    pub(super) fn set_attributes(&mut self, name: &str, new: HashMap<String, String>) -> Result<(), Refused> {
        let (mut attributes, ..) = self.attributes(name)?;
        attributes.0.extend(new);
        self.check_redrive(&attributes)?;
        self.connection.execute(
            "UPDATE queue SET attributes = ?2, changed_ms = ?3 WHERE name = ?1",
            params![name, to_json(&attributes.0), now_ms()],
        )?;
        Ok(())
    }

    fn check_redrive(&self, attributes: &Attributes) -> Result<(), Refused> {
        let Some((target, _)) = attributes.redrive() else { return Ok(()) };
        match self.attributes(&target) {
            Err(Refused::NoSuchQueue) => Err(Refused::NoSuchDeadLetterQueue(target)),
            other => other.map(drop),
        }
    }

    pub(super) fn depth(&mut self, name: &str) -> Result<Depth, Refused> {
        let (attributes, ..) = self.attributes(name)?;
        let transaction = self.connection.transaction()?;
        expire(&transaction, name, &attributes)?;
        let depth = transaction
            .prepare_cached(
                "SELECT count(*) FILTER (WHERE visible_ms <= ?2),
                        count(*) FILTER (WHERE visible_ms > ?2 AND receive_count > 0),
                        count(*) FILTER (WHERE visible_ms > ?2 AND receive_count = 0)
                 FROM message WHERE queue = ?1",
            )?
            .query_row(params![name, now_ms()], |row| {
                Ok(Depth { visible: row.get(0)?, in_flight: row.get(1)?, delayed: row.get(2)? })
            })?;
        transaction.commit()?;
        Ok(depth)
    }

    /// Stores a message and returns its id. `attributes` is JSON, handed back as it came.
    pub(super) fn send(
        &mut self,
        name: &str,
        body: &str,
        delay: Option<Duration>,
        attributes: &str,
    ) -> Result<String, Refused> {
        let (settings, ..) = self.attributes(name)?;
        let (id, now) = (Uuid::new_v4().to_string(), now_ms());
        let visible = now + ms(delay.unwrap_or_else(|| settings.delay()));
        self.connection
            .prepare_cached(
                "INSERT INTO message (id, queue, body, attributes, sent_ms, visible_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![id, name, body, attributes, now, visible])?;
        Ok(id)
    }

    /// Moves what was received `maxReceiveCount` times and is visible at `now` to the dead-letter queue; whether there
    /// was any.
    pub(super) fn bury(&mut self, name: &str, now: i64) -> Result<bool, Refused> {
        let (settings, ..) = self.attributes(name)?;
        let Some((target, max_receives)) = settings.redrive() else { return Ok(false) };
        let moved = self
            .connection
            .prepare_cached(
                "UPDATE message SET queue = ?2, receive_count = 0, first_ms = NULL, receipt = NULL
                 WHERE queue = ?1 AND visible_ms <= ?3 AND receive_count >= ?4
                   AND EXISTS (SELECT 1 FROM queue WHERE name = ?2)",
            )?
            .execute(params![name, target, now, max_receives])?;
        Ok(moved > 0)
    }

    /// When the first message that is hidden at `now` becomes visible (ms since 1970).
    pub(super) fn next_visible_ms(&self, name: &str, now: i64) -> Result<Option<i64>, Refused> {
        let sql = "SELECT min(visible_ms) FROM message WHERE queue = ?1 AND visible_ms > ?2";
        Ok(self.connection.prepare_cached(sql)?.query_row(params![name, now], |row| row.get(0))?)
    }

    /// Takes up to `max` messages visible at `now`, the longest visible first, and hides them for `visibility` (the queue's
    /// by default).
    pub(super) fn receive(
        &mut self,
        name: &str,
        now: i64,
        max: usize,
        visibility: Option<Duration>,
    ) -> Result<Vec<Received>, Refused> {
        let (settings, ..) = self.attributes(name)?;
        let hidden_until = now + ms(visibility.unwrap_or_else(|| settings.visibility()));
        let transaction = self.connection.transaction()?;
        expire(&transaction, name, &settings)?;
        let visible: Vec<i64> = transaction
            .prepare_cached(
                "SELECT number FROM message WHERE queue = ?1 AND visible_ms <= ?2 ORDER BY visible_ms LIMIT ?3",
            )?
            .query_map(params![name, now, max], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let received = visible
            .into_iter()
            .map(|number| {
                transaction
                    .prepare_cached(
                        "UPDATE message SET receipt = ?2, visible_ms = ?3, receive_count = receive_count + 1,
                                first_ms = coalesce(first_ms, ?4)
                         WHERE number = ?1
                         RETURNING id, body, attributes, receipt, sent_ms, first_ms, receive_count",
                    )?
                    .query_row(params![number, Uuid::new_v4().to_string(), hidden_until, now], read)
            })
            .collect::<Result<Vec<_>, _>>()?;
        transaction.commit()?;
        Ok(received)
    }

    /// Deletes by the newest receipt handle; an older one succeeds without effect, as SQS allows itself.
    pub(super) fn delete(&mut self, name: &str, receipt: &str) -> Result<(), Refused> {
        self.attributes(name)?;
        let sql = "DELETE FROM message WHERE queue = ?1 AND receipt = ?2";
        self.connection.prepare_cached(sql)?.execute([name, receipt])?;
        Ok(())
    }

    /// Hides a message in flight for another `visibility` from now; zero shows it at once.
    pub(super) fn change_visibility(&mut self, name: &str, receipt: &str, visibility: Duration) -> Result<(), Refused> {
        self.attributes(name)?;
        let now = now_ms();
        let changed = self.connection.execute(
            "UPDATE message SET visible_ms = ?3 WHERE queue = ?1 AND receipt = ?2 AND visible_ms > ?4",
            params![name, receipt, now + ms(visibility), now],
        )?;
        if changed == 0 { Err(Refused::NoSuchReceipt) } else { Ok(()) }
    }

    pub(super) fn purge(&mut self, name: &str) -> Result<(), Refused> {
        self.attributes(name)?;
        self.connection.execute("DELETE FROM message WHERE queue = ?1", [name])?;
        Ok(())
    }
}

/// Forgets what was sent longer ago than the queue keeps messages.
fn expire(transaction: &Transaction<'_>, name: &str, attributes: &Attributes) -> rusqlite::Result<()> {
    let oldest = now_ms() - ms(attributes.retention());
    let sql = "DELETE FROM message WHERE queue = ?1 AND sent_ms < ?2";
    transaction.prepare_cached(sql)?.execute(params![name, oldest]).map(drop)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Received> {
    Ok(Received {
        id: row.get(0)?,
        body: row.get(1)?,
        attributes: row.get(2)?,
        receipt: row.get(3)?,
        sent_ms: row.get(4)?,
        first_ms: row.get(5)?,
        receive_count: row.get(6)?,
    })
}

fn to_json(attributes: &HashMap<String, String>) -> String {
    Value::from_iter(attributes.iter().map(|(key, value)| (key.clone(), Value::from(value.clone())))).to_string()
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}
