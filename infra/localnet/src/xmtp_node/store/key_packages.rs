//! The key package each installation uploaded last.

use rusqlite::{OptionalExtension, params};

use super::Store;

impl Store {
    pub(in crate::xmtp_node) fn put_key_package(
        &self,
        installation_key: &[u8],
        key_package: &[u8],
    ) -> rusqlite::Result<()> {
        self.lock()
            .db
            .prepare_cached(
                "INSERT INTO installations VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET key_package = ?2",
            )?
            .execute(params![installation_key, key_package])?;
        Ok(())
    }

    pub(in crate::xmtp_node) fn key_package(&self, installation_key: &[u8]) -> rusqlite::Result<Option<Vec<u8>>> {
        self.lock()
            .db
            .prepare_cached("SELECT key_package FROM installations WHERE id = ?1")?
            .query_row(params![installation_key], |row| row.get(0))
            .optional()
    }
}
