//! Devices that did not get in, or that cannot see their room: when they are tried again.
//!
//! A member's device is left out when it has no usable key package, and cannot open its welcome when it replaced its
//! key package meanwhile. Neither shows in any log when it is mended, so usher looks again by itself: soon at first,
//! then at growing intervals.

use sha2::{Digest, Sha256};
use usher_domain::planner::{MembershipCommit, Purpose};
use usher_store::Healing;
use usher_xmtp::Group;

use crate::{Doorkeeper, room::Room};

/// The wait before the first try, in milliseconds.
const WAIT_MS_MIN: u64 = 60 * 1000;
/// The longest wait between two tries.
const WAIT_MS_MAX: u64 = 24 * 60 * 60 * 1000;

impl Doorkeeper {
    /// Whether the devices that a room lacks are to be tried at this look.
    pub(crate) fn heals_now(&self, room: &Room) -> bool {
        let due = |healing: &Healing| self.parts.clock.now_ms() >= healing.next_try_ms;
        trouble(&room.group).is_some_and(|trouble| {
            room.record.healing.as_ref().is_some_and(|healing| healing.trouble == trouble && due(healing))
        })
    }

    /// Notes what a room at rest lacks, and when that is tried again. Whether its record changed.
    pub(crate) fn note_healing(&self, room: &mut Room) -> bool {
        let now_ms = self.parts.clock.now_ms();
        let before = room.record.healing.take();
        let healing = trouble(&room.group).map(|trouble| {
            let known = before.clone().filter(|healing| healing.trouble == trouble);
            let since_ms = known.as_ref().map_or(now_ms, |healing| healing.since_ms);
            let wait_ms = (now_ms.saturating_sub(since_ms) / 4).clamp(WAIT_MS_MIN, WAIT_MS_MAX);
            let ahead = known.filter(|healing| healing.next_try_ms > now_ms);
            ahead.unwrap_or(Healing { trouble, since_ms, next_try_ms: now_ms + wait_ms })
        });
        room.record.healing = healing;
        room.record.healing != before
    }

    /// Notes whom a commit repairs, so that the next repair keeps its distance.
    pub(crate) fn note_repair(&self, room: &mut Room, purpose: &Purpose, commit: &MembershipCommit) {
        let now_ms = self.parts.clock.now_ms();
        let every_ms = self.parts.policy.limits.repair_every_ms;
        room.record.repaired_ms.retain(|_, at_ms| at_ms.saturating_add(every_ms) > now_ms);
        let repaired = match purpose {
            Purpose::Readmit => commit.remove.iter().cloned().collect(),
            Purpose::Readd => commit.add_installations.values().cloned().collect(),
            _ => Vec::new(),
        };
        room.record.repaired_ms.extend(repaired.into_iter().map(|inbox| (inbox, now_ms)));
    }
}

/// A short name of what a room lacks; none if it lacks nothing.
fn trouble(group: &Group) -> Option<String> {
    let failed = group.membership().failed_installations;
    let stranded = group.stranded();
    let blind = stranded.union(group.damaged());
    let mut digest = Sha256::new();
    let mut any = false;
    for name in failed.iter().map(ToString::to_string).chain(blind.map(ToString::to_string)) {
        any = true;
        digest.update(name);
    }
    any.then(|| hex::encode(&digest.finalize()[..8]))
}
