//! The switches a test turns while the node runs.

use std::sync::Arc;

use super::{
    Core, StreamEnd,
    gate::Fault,
    method::Method,
    rate_limit::{Limiter, RateLimits},
    store::Hold,
};

/// The failure switches of a running node. Clones turn the same switches.
#[derive(Clone)]
pub struct Faults {
    pub(super) core: Arc<Core>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

impl Faults {
    /// Every call of `method` meets `fault` until [`Faults::heal`].
    pub fn fail(&self, method: Method, fault: Fault) {
        self.core.gate.switches().faults.insert(method, (fault, None));
    }

    /// The next `calls` calls of `method` meet `fault`.
    pub fn fail_times(&self, method: Method, fault: Fault, calls: u32) {
        match calls {
            0 => self.heal(method),
            _ => drop(self.core.gate.switches().faults.insert(method, (fault, Some(calls)))),
        }
    }

    /// Takes the fault of `method` away.
    pub fn heal(&self, method: Method) {
        self.core.gate.switches().faults.remove(&method);
    }

    /// Whether publishing is refused as a V3 node does it shortly before the cutover to D14n. Streams go on.
    pub fn disable_publishing(&self, disabled: bool) {
        self.core.gate.switches().publishing_disabled = disabled;
    }

    /// Whether the cutover to D14n is over: publishing and new streams are refused, open streams end, queries work.
    pub fn cut_over(&self, over: bool) {
        self.core.gate.switches().cut_over = over;
        self.core.stream_end.send_replace(if over { StreamEnd::CutOver } else { StreamEnd::Open });
    }

    /// Ends all open streams as if their readers were too slow: group streams with ABORTED, welcome streams with OK.
    /// What was queued for them is still delivered.
    pub fn drop_streams(&self) {
        self.core.store.drop_subscribers();
    }

    /// Hides whatever is stored from now on, until [`Hold::Nothing`] shows it, in order.
    pub fn hold(&self, hold: Hold) {
        self.core.store.hold(hold);
    }

    /// Whether new messages are stored and never pushed to open streams. A hosted node loses pushes so when ids of
    /// different topics become visible out of order.
    pub fn lose_pushes(&self, lose: bool) {
        self.core.store.lose_pushes(lose);
    }

    /// Rate limits from now on, with full buckets; `None` lifts them.
    pub fn limit_rates(&self, limits: Option<RateLimits>) {
        self.core.gate.switches().limiter = limits.map(Limiter::new);
    }
}
