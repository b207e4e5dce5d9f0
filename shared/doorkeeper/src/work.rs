//! What a doorkeeper has done, counted for metrics.

use usher_xmtp::group::{Committed, Event};

use crate::Doorkeeper;

/// What was done since somebody last asked; see [`Doorkeeper::take_work`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Commits of our own that the log shows.
    pub commits: u64,
    /// Inboxes that these commits added.
    pub adds: u64,
    /// Inboxes that these commits removed.
    pub removes: u64,
    /// The size of the largest room state that was saved, in bytes before compression.
    pub snapshot_bytes: u64,
    /// Rooms that were declared lost.
    pub rooms_lost: u64,
    /// Troubles that do not pass by themselves: the most that one look told of.
    pub troubles: u64,
    /// Since when the event looked at last had been behind the chain, in milliseconds since 1970; `None` if it was not.
    /// See [`usher_store::Lease::behind_chain_since_ms`].
    pub behind_chain_since_ms: Option<u64>,
}

impl Work {
    pub(crate) fn read(&mut self, events: &[Event]) {
        for event in events {
            let Event::Committed(Committed { own: true, change, .. }) = event else { continue };
            self.commits += 1;
            self.adds += count(change.added_inboxes.len());
            self.removes += count(change.removed_inboxes.len() + change.left_inboxes.len());
        }
    }
}

impl Doorkeeper {
    /// What was done since this was last called, by whatever ended however: also by what was cut short.
    pub fn take_work(&self) -> Work {
        std::mem::take(&mut *self.work.lock().expect("no holder of this lock panics"))
    }

    pub(crate) fn note(&self, what: impl FnOnce(&mut Work)) {
        what(&mut self.work.lock().expect("no holder of this lock panics"));
    }
}

pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
