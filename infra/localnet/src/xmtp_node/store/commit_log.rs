//! The commit log: what clients say became of each commit. Nothing in it is verified, and nothing is unique.

use prost::Message;
use rusqlite::params;
use usher_xmtp::proto::{associations::RecoverableEd25519Signature, mls_api::CommitLogEntry};

use super::{ReadFrom, Sequence, Store, next_id, unsigned};
use crate::xmtp_node::paging::Page;

impl Store {
    pub(in crate::xmtp_node) fn append_commit_log_entry(
        &self,
        group_id: &[u8],
        entry: &[u8],
        signature: &RecoverableEd25519Signature,
    ) -> rusqlite::Result<()> {
        let inner = &mut *self.lock();
        let tx = inner.db.transaction()?;
        let id = next_id(&tx, Sequence::CommitLog)?;
        tx.prepare_cached("INSERT INTO commit_log VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            id,
            group_id,
            entry,
            signature.encode_to_vec()
        ])?;
        tx.commit()
    }

    pub(in crate::xmtp_node) fn commit_log_entries(
        &self,
        group_id: &[u8],
        page: Page,
    ) -> rusqlite::Result<Vec<CommitLogEntry>> {
        let inner = self.lock();
        let (low, high) = page.bounds(inner.horizon(Sequence::CommitLog, ReadFrom::Primary));
        inner
            .db
            .prepare_cached(
                "SELECT id, entry, signature FROM commit_log WHERE group_id = ?1 AND id BETWEEN ?2 AND ?3
                 ORDER BY id LIMIT ?4",
            )?
            .query_map(params![group_id, low, high, page.limit], |row| {
                let signature: Vec<u8> = row.get(2)?;
                Ok(CommitLogEntry {
                    sequence_id: unsigned(row.get(0)?),
                    serialized_commit_log_entry: row.get(1)?,
                    signature: RecoverableEd25519Signature::decode(signature.as_slice()).ok(),
                })
            })?
            .collect()
    }
}
