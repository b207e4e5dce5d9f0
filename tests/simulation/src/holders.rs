//! Who holds which lease, and whose was taken over.

use std::collections::{BTreeMap, BTreeSet};

use usher_store::table::{Attributes as _, Item, Key};

/// The newest lease of an item.
struct Lease {
    fence: u64,
    invocation: String,
}

/// All leases, as their items were written.
#[derive(Default)]
pub(crate) struct Holders {
    newest: BTreeMap<Key, Lease>,
    /// The number of the newest lease that an invocation had of an item.
    had: BTreeMap<(String, Key), u64>,
    alive: BTreeSet<String>,
}

impl Holders {
    pub(crate) fn begins(&mut self, invocation: &str) {
        self.alive.insert(invocation.to_owned());
    }

    pub(crate) fn ends(&mut self, invocation: &str) {
        self.alive.remove(invocation);
    }

    /// Takes note of a write to an item that bears a lease. Whether the lease was taken from somebody who is alive.
    pub(crate) fn written(&mut self, key: &Key, invocation: &str, old: &Item, new: &Item) -> bool {
        let Some(fence) = new.number("fence").filter(|fence| Some(*fence) != old.number("fence")) else { return false };
        self.had.insert((invocation.to_owned(), key.clone()), fence);
        let before = self.newest.insert(key.clone(), Lease { fence, invocation: invocation.to_owned() });
        let stolen = before.filter(|_| old.contains_key("lease_owner")).map(|lease| lease.invocation);
        stolen.is_some_and(|holder| holder != invocation && self.alive.contains(&holder))
    }

    /// The number of the newest lease that an invocation had.
    pub(crate) fn fence_of(&self, invocation: &str, key: &Key) -> Option<u64> {
        self.had.get(&(invocation.to_owned(), key.clone())).copied()
    }

    /// Whether an invocation has the newest lease, or had it last.
    pub(crate) fn holds(&self, invocation: &str, key: &Key) -> bool {
        self.newest.get(key).is_some_and(|lease| lease.invocation == invocation)
    }

    /// Whether somebody took over any of an invocation's leases.
    pub(crate) fn was_overtaken(&self, invocation: &str) -> bool {
        let mine = self.had.iter().filter(|((holder, _), _)| holder == invocation);
        mine.into_iter().any(|((_, key), fence)| self.newest.get(key).is_some_and(|newest| newest.fence > *fence))
    }
}
