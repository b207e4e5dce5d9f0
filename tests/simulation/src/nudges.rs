//! The nudge queue as a process meets it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use usher_domain::{EventKey, ports::Clock as _};
use usher_doorkeeper::{NudgeError, Nudges};
use usher_lambda::sweep::Nudge;

use crate::{faults::Fault, process::Process, queue::Queue};

pub(crate) struct Nudged {
    pub(crate) queues: Arc<Mutex<BTreeMap<&'static str, Queue>>>,
    pub(crate) process: Arc<Process>,
}

#[async_trait]
impl Nudges for Nudged {
    async fn nudge(&self, event: &EventKey, delay_s: u32) -> Result<(), NudgeError> {
        self.process.before("nudge").await;
        if self.process.meets(Fault::Unanswered, "nudge") {
            return Err(NudgeError("simulated".into()));
        }
        let visible_at_ms = self.process.shared.now_ms() + u64::from(delay_s) * 1000;
        {
            let mut queues = self.queues.lock().expect("no panic");
            queues.get_mut("nudge").expect("one of the queues").send(Nudge { event: *event }.body(), visible_at_ms);
        }
        if self.process.meets(Fault::AnswerLost, "nudge") {
            return Err(NudgeError("simulated".into()));
        }
        self.process.after("nudge").await;
        Ok(())
    }
}
