//! Group messages and welcomes.

use rusqlite::{OptionalExtension, Row, params};
use sha2::{Digest, Sha256};
use usher_xmtp::proto::{
    contents::WelcomeWrapperAlgorithm,
    mls_api::{GroupMessage, WelcomeMessage, WelcomeMessageInput, group_message, group_message_input, welcome_message},
};

use super::{ReadFrom, Sequence, Store, next_id, unsigned};
use crate::xmtp_node::{paging::Page, validation::Framing};

const GROUP_COLUMNS: &str = "id, created_ns, group_id, data, sender_hmac, should_push, is_commit";
const WELCOME_COLUMNS: &str =
    "id, created_ns, installation_key, is_pointer, data, hpke_public_key, algorithm, metadata";

impl Store {
    /// Stores a group message and pushes it; the same data in the same group is stored once.
    pub(in crate::xmtp_node) fn append_group_message(
        &self,
        framing: &Framing,
        input: &group_message_input::V1,
    ) -> rusqlite::Result<()> {
        let inner = &mut *self.lock();
        let created_ns = self.created_ns();
        let tx = inner.db.transaction()?;
        let id = next_id(&tx, Sequence::GroupMessages)?;
        let inserted = tx
            .prepare_cached(
                "INSERT INTO group_messages VALUES (?1,?2,?3,?4,?5,?6,?7,?8) ON CONFLICT (hash) DO NOTHING",
            )?
            .execute(params![
                id,
                created_ns,
                framing.group_id,
                input.data,
                input.sender_hmac,
                input.should_push,
                framing.is_commit,
                hash(&framing.group_id, &input.data),
            ])?;
        tx.commit()?;
        if inserted == 1 {
            inner.groups.publish(GroupMessage {
                version: Some(group_message::Version::V1(group_message::V1 {
                    id: unsigned(id),
                    created_ns: unsigned(created_ns),
                    group_id: framing.group_id.clone(),
                    data: input.data.clone(),
                    sender_hmac: input.sender_hmac.clone(),
                    should_push: input.should_push,
                    is_commit: framing.is_commit,
                })),
            });
        }
        Ok(())
    }

    pub(in crate::xmtp_node) fn group_messages(
        &self,
        group_id: &[u8],
        page: Page,
        from: ReadFrom,
    ) -> rusqlite::Result<Vec<GroupMessage>> {
        let inner = self.lock();
        let (low, high) = page.bounds(inner.horizon(Sequence::GroupMessages, from));
        inner
            .db
            .prepare_cached(&page_sql(GROUP_COLUMNS, "group_messages", "group_id", page))?
            .query_map(params![group_id, low, high, page.limit], group_message)?
            .collect()
    }

    pub(in crate::xmtp_node) fn newest_group_message(&self, group_id: &[u8]) -> rusqlite::Result<Option<GroupMessage>> {
        let inner = self.lock();
        let horizon = inner.horizon(Sequence::GroupMessages, ReadFrom::Replica);
        inner
            .db
            .prepare_cached(&format!(
                "SELECT {GROUP_COLUMNS} FROM group_messages WHERE group_id = ?1 AND id <= ?2 ORDER BY id DESC LIMIT 1"
            ))?
            .query_row(params![group_id, horizon], group_message)
            .optional()
    }

    /// Stores a welcome or a welcome pointer and pushes it; the same data for the same installation is stored once.
    /// An input without a version is not stored.
    pub(in crate::xmtp_node) fn append_welcome(&self, input: &WelcomeMessageInput) -> rusqlite::Result<()> {
        use usher_xmtp::proto::mls_api::welcome_message_input::Version;
        let (installation_key, is_pointer, data, hpke_public_key, algorithm, metadata) = match &input.version {
            None => return Ok(()),
            Some(Version::V1(v1)) => {
                let algorithm = wrapper_algorithm(v1.wrapper_algorithm);
                (&v1.installation_key, false, &v1.data, &v1.hpke_public_key, algorithm, v1.welcome_metadata.as_slice())
            }
            Some(Version::WelcomePointer(pointer)) => (
                &pointer.installation_key,
                true,
                &pointer.welcome_pointer,
                &pointer.hpke_public_key,
                pointer.wrapper_algorithm,
                [].as_slice(),
            ),
        };
        let inner = &mut *self.lock();
        let created_ns = self.created_ns();
        let tx = inner.db.transaction()?;
        let id = next_id(&tx, Sequence::WelcomeMessages)?;
        let hash = hash(installation_key, data);
        let stored = tx
            .prepare_cached(&format!(
                "INSERT INTO welcome_messages VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9) ON CONFLICT (hash) DO NOTHING
                 RETURNING {WELCOME_COLUMNS}"
            ))?
            .query_row(
                params![id, created_ns, installation_key, is_pointer, data, hpke_public_key, algorithm, metadata, hash],
                welcome_message,
            )
            .optional()?;
        tx.commit()?;
        if let Some(message) = stored {
            inner.welcomes.publish(message);
        }
        Ok(())
    }

    pub(in crate::xmtp_node) fn welcome_messages(
        &self,
        installation_key: &[u8],
        page: Page,
        from: ReadFrom,
    ) -> rusqlite::Result<Vec<WelcomeMessage>> {
        let inner = self.lock();
        let (low, high) = page.bounds(inner.horizon(Sequence::WelcomeMessages, from));
        inner
            .db
            .prepare_cached(&page_sql(WELCOME_COLUMNS, "welcome_messages", "installation_key", page))?
            .query_map(params![installation_key, low, high, page.limit], welcome_message)?
            .collect()
    }
}

/// Clients older than the field leave it out, and meant Curve25519.
fn wrapper_algorithm(given: i32) -> i32 {
    match WelcomeWrapperAlgorithm::try_from(given) {
        Ok(WelcomeWrapperAlgorithm::Unspecified) | Err(_) => WelcomeWrapperAlgorithm::Curve25519.into(),
        Ok(known) => known.into(),
    }
}

fn hash(topic: &[u8], data: &[u8]) -> Vec<u8> {
    Sha256::new().chain_update(topic).chain_update(data).finalize().to_vec()
}

fn page_sql(columns: &str, table: &str, topic: &str, page: Page) -> String {
    let order = if page.ascending { "ASC" } else { "DESC" };
    format!("SELECT {columns} FROM {table} WHERE {topic} = ?1 AND id BETWEEN ?2 AND ?3 ORDER BY id {order} LIMIT ?4")
}

fn group_message(row: &Row<'_>) -> rusqlite::Result<GroupMessage> {
    let v1 = group_message::V1 {
        id: unsigned(row.get(0)?),
        created_ns: unsigned(row.get(1)?),
        group_id: row.get(2)?,
        data: row.get(3)?,
        sender_hmac: row.get(4)?,
        should_push: row.get(5)?,
        is_commit: row.get(6)?,
    };
    Ok(GroupMessage { version: Some(group_message::Version::V1(v1)) })
}

fn welcome_message(row: &Row<'_>) -> rusqlite::Result<WelcomeMessage> {
    let version = if row.get(3)? {
        welcome_message::Version::WelcomePointer(welcome_message::WelcomePointer {
            id: unsigned(row.get(0)?),
            created_ns: unsigned(row.get(1)?),
            installation_key: row.get(2)?,
            welcome_pointer: row.get(4)?,
            hpke_public_key: row.get(5)?,
            wrapper_algorithm: row.get(6)?,
        })
    } else {
        welcome_message::Version::V1(welcome_message::V1 {
            id: unsigned(row.get(0)?),
            created_ns: unsigned(row.get(1)?),
            installation_key: row.get(2)?,
            data: row.get(4)?,
            hpke_public_key: row.get(5)?,
            wrapper_algorithm: row.get(6)?,
            welcome_metadata: row.get(7)?,
        })
    };
    Ok(WelcomeMessage { version: Some(version) })
}
