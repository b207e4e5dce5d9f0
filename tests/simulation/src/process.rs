//! A process of a function: what lets the scheduler kill it, freeze it, and fail its calls.

use std::sync::{Arc, Mutex};

use crate::{
    faults::Fault,
    shared::{Shared, pause},
};

/// What is to become of a process after its next stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fate {
    #[default]
    Lives,
    Dies,
    /// It stands still until then.
    Frozen {
        until_ms: u64,
    },
}

/// One process, as its port adapters know it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) shared: Arc<Shared>,
    fate: Mutex<Fate>,
    /// Whether faults meet it: a message that met too many is spared.
    mortal: Mutex<bool>,
    /// The name of the invocation at work.
    invocation: Mutex<String>,
}

impl Process {
    pub(crate) fn new(name: String, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { name, shared, fate: Mutex::default(), mortal: Mutex::new(false), invocation: Mutex::default() })
    }

    pub(crate) fn begin(&self, invocation: &str, mortal: bool) {
        *self.fate.lock().expect("no panic") = Fate::Lives;
        *self.mortal.lock().expect("no panic") = mortal;
        *self.invocation.lock().expect("no panic") = invocation.to_owned();
    }

    pub(crate) fn invocation(&self) -> String {
        self.invocation.lock().expect("no panic").clone()
    }

    pub(crate) fn take_fate(&self) -> Fate {
        std::mem::take(&mut *self.fate.lock().expect("no panic"))
    }

    /// A stop before or after a call's effect, where the process may end or freeze.
    pub(crate) async fn stop(&self, port: &'static str, crash: Fault, freeze: Fault) {
        let mortal = self.is_mortal();
        let fate = if mortal && self.shared.strikes(crash, port) {
            self.shared.trace(|| format!("{} {crash} {port}", self.name));
            Some(Fate::Dies)
        } else if mortal && self.shared.strikes(freeze, port) {
            let mut state = self.shared.lock();
            let for_ms = match state.dice.below(3) {
                0 => state.dice.between(100, 5_000),
                1 => state.dice.between(5_000, 40_000),
                _ => state.dice.between(40_000, 300_000),
            };
            let until_ms = state.now_ms + for_ms;
            drop(state);
            self.shared.trace(|| format!("{} {freeze} {port} for {for_ms} ms", self.name));
            Some(Fate::Frozen { until_ms })
        } else {
            None
        };
        if let Some(fate) = fate {
            let mut at = self.fate.lock().expect("no panic");
            if *at != Fate::Dies {
                *at = fate;
            }
        }
        pause().await;
    }

    pub(crate) async fn before(&self, port: &'static str) {
        self.shared.count(port);
        self.stop(port, Fault::CrashBefore, Fault::FreezeBefore).await;
    }

    pub(crate) async fn after(&self, port: &'static str) {
        self.stop(port, Fault::CrashAfter, Fault::FreezeAfter).await;
    }

    fn is_mortal(&self) -> bool {
        *self.mortal.lock().expect("no panic")
    }

    pub(crate) fn meets(&self, fault: Fault, port: &'static str) -> bool {
        let strikes = self.is_mortal() && self.shared.strikes(fault, port);
        if strikes {
            self.shared.trace(|| format!("{} {port} {fault}", self.name));
        }
        strikes
    }
}
