//! What usher is seen to do, at its adapters: whether an invocation opens its state anew, or works from memory.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use usher_store::{
    DataKeys, FileDataKeys, Owner,
    keys::{DataKey, KeyError, Plain},
};

/// Data keys that remember who asked for them. Whoever has state in memory does not ask: each state that is read from
/// the table needs its key.
pub(super) struct Witness {
    keys: FileDataKeys,
    asked: Mutex<BTreeSet<Owner>>,
}

impl Witness {
    pub(super) fn new(keys: FileDataKeys) -> Self {
        Self { keys, asked: Mutex::default() }
    }

    /// Whose keys were asked for since the last time.
    pub(super) fn take(&self) -> BTreeSet<Owner> {
        std::mem::take(&mut self.asked())
    }

    fn asked(&self) -> MutexGuard<'_, BTreeSet<Owner>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl DataKeys for Witness {
    async fn generate(&self, owner: &Owner) -> Result<DataKey, KeyError> {
        self.asked().insert(*owner);
        self.keys.generate(owner).await
    }

    async fn unwrap(&self, owner: &Owner, wrapped: &[u8]) -> Result<Plain, KeyError> {
        self.asked().insert(*owner);
        self.keys.unwrap(owner, wrapped).await
    }
}

/// What the invocations of the story did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Invocations {
    /// How many there were.
    pub(super) all: usize,
    /// How many sent something to a room.
    pub(super) sent: usize,
    /// How many of those had opened account and room, or made the room.
    pub(super) opened: usize,
}

impl Invocations {
    /// Takes note of one: how many messages it sent, and whose state it opened.
    pub(super) fn note(&mut self, sent: u64, opened: &BTreeSet<Owner>) {
        self.all += 1;
        if sent == 0 {
            return;
        }
        self.sent += 1;
        let room = opened.iter().any(|owner| matches!(owner, Owner::Room(_)));
        self.opened += usize::from(room && opened.contains(&Owner::Account));
    }
}

#[cfg(test)]
mod tests {
    use usher_domain::GroupId;

    use super::*;

    #[test]
    fn only_who_opens_account_and_room_begins_cold() {
        let (account, room) = (Owner::Account, Owner::Room(GroupId([1; 16])));
        let mut invocations = Invocations::default();
        invocations.note(0, &[].into());
        invocations.note(1, &[account, room].into());
        assert_eq!((invocations.all, invocations.sent, invocations.opened), (2, 1, 1));
        for half in [[account], [room]] {
            invocations.note(1, &half.into());
        }
        assert_eq!((invocations.all, invocations.sent, invocations.opened), (4, 3, 1));
    }
}
