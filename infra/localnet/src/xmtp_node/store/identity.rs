//! Inbox logs, and which inbox an address belongs to.

use rusqlite::{OptionalExtension, params};

use super::{ReadFrom, Sequence, Store, next_id, signed, unsigned};

/// One entry of an inbox's log, as stored.
#[derive(Debug, Clone)]
pub(in crate::xmtp_node) struct LoggedUpdate {
    pub(in crate::xmtp_node) sequence_id: u64,
    pub(in crate::xmtp_node) server_timestamp_ns: u64,
    /// The encoded IdentityUpdate.
    pub(in crate::xmtp_node) update: Vec<u8>,
}

impl Store {
    /// The log of an inbox after `sequence_id`, in order, without limit.
    pub(in crate::xmtp_node) fn inbox_log(&self, inbox_id: &[u8], after: u64) -> rusqlite::Result<Vec<LoggedUpdate>> {
        self.lock()
            .db
            .prepare_cached(
                "SELECT sequence_id, server_timestamp_ns, identity_update FROM inbox_log
                 WHERE inbox_id = ?1 AND sequence_id > ?2 ORDER BY sequence_id",
            )?
            .query_map(params![inbox_id, signed(after)], |row| {
                Ok(LoggedUpdate {
                    sequence_id: unsigned(row.get(0)?),
                    server_timestamp_ns: unsigned(row.get(1)?),
                    update: row.get(2)?,
                })
            })?
            .collect()
    }

    /// Appends an update and what it did to addresses, all or nothing.
    pub(in crate::xmtp_node) fn append_identity_update(
        &self,
        inbox_id: &[u8],
        update: &[u8],
        added: &[String],
        removed: &[String],
    ) -> rusqlite::Result<()> {
        let inner = &mut *self.lock();
        let tx = inner.db.transaction()?;
        let sequence_id = next_id(&tx, Sequence::InboxLog)?;
        tx.execute(
            "INSERT INTO inbox_log VALUES (?1, ?2, ?3, ?4)",
            params![sequence_id, inbox_id, signed(self.clock.now_ns()), update],
        )?;
        for address in added {
            tx.execute("INSERT INTO address_log VALUES (?1, ?2, ?3, NULL)", params![address, inbox_id, sequence_id])?;
        }
        for address in removed {
            tx.execute(
                "UPDATE address_log SET revocation_sequence_id = ?3 WHERE rowid = (
                   SELECT rowid FROM address_log WHERE address = ?1 AND inbox_id = ?2
                   ORDER BY association_sequence_id DESC LIMIT 1)",
                params![address, inbox_id, sequence_id],
            )?;
        }
        tx.commit()
    }

    /// The inbox that took an address last and still has it. The address is compared letter by letter.
    pub(in crate::xmtp_node) fn inbox_of(&self, address: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        let inner = self.lock();
        let horizon = inner.horizon(Sequence::InboxLog, ReadFrom::Replica);
        inner
            .db
            .prepare_cached(
                "SELECT inbox_id FROM address_log WHERE address = ?1 AND association_sequence_id <= ?2
                 AND (revocation_sequence_id IS NULL OR revocation_sequence_id > ?2)
                 ORDER BY association_sequence_id DESC LIMIT 1",
            )?
            .query_row(params![address, horizon], |row| row.get(0))
            .optional()
    }
}
