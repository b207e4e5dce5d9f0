//! SQS as it may behave: at least once, in any order, again after a crash, and aside after too many attempts.

use std::{collections::BTreeMap, fmt};

use crate::dice::Dice;

/// A message taken and not deleted is seen again after this long, as in `template.yaml`.
pub(crate) const VISIBILITY_MS: u64 = 180_000;
/// How often a message is received before it goes to the dead-letter queue.
const RECEIVES_MAX: u32 = 5;
/// Nobody's batch is larger.
const BATCH_MAX: usize = 10;
/// So many deleted messages are put back at once at most.
const PUT_BACK_MAX: usize = 3;

#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) body: String,
    visible_at_ms: u64,
    receives: u32,
    /// How often it was received and not deleted.
    pub(crate) mishaps: u32,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "receive {}, {} mishaps", self.receives, self.mishaps)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    messages: BTreeMap<u64, Message>,
    pub(crate) dead: Vec<Message>,
    deleted: Vec<String>,
    next: u64,
}

impl Queue {
    pub(crate) fn send(&mut self, body: String, visible_at_ms: u64) {
        self.messages.insert(self.next, Message { body, visible_at_ms, receives: 0, mishaps: 0 });
        self.next += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn has_visible(&self, now_ms: u64) -> bool {
        self.messages.values().any(|message| message.visible_at_ms <= now_ms)
    }

    pub(crate) fn next_visible_ms(&self) -> Option<u64> {
        self.messages.values().map(|message| message.visible_at_ms).min()
    }

    /// A batch, in any order.
    pub(crate) fn receive(&mut self, now_ms: u64, dice: &mut Dice) -> Vec<(u64, Message)> {
        let mut visible: Vec<u64> =
            self.messages.iter().filter(|(_, it)| it.visible_at_ms <= now_ms).map(|(id, _)| *id).collect();
        dice.shuffle(&mut visible);
        visible.truncate(dice.below(BATCH_MAX) + 1);
        let mut batch = Vec::new();
        for id in visible {
            let message = self.messages.get_mut(&id).expect("listed above");
            message.receives += 1;
            message.visible_at_ms = now_ms + VISIBILITY_MS;
            if message.receives > RECEIVES_MAX {
                self.dead.extend(self.messages.remove(&id));
            } else {
                batch.push((id, message.clone()));
            }
        }
        batch
    }

    /// The poller's delete after a successful invocation.
    pub(crate) fn delete(&mut self, id: u64) {
        self.deleted.extend(self.messages.remove(&id).map(|message| message.body));
    }

    /// Its process died, its function failed, or its delete was lost: it comes again.
    pub(crate) fn fail(&mut self, id: u64) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.mishaps += 1;
        }
    }

    pub(crate) fn mishaps(&self, id: u64) -> u32 {
        self.messages.get(&id).map_or(0, |message| message.mishaps)
    }

    /// Whether any message was dealt with or given up.
    pub(crate) fn has_left(&self) -> bool {
        !self.dead.is_empty() || !self.deleted.is_empty()
    }

    /// An operator's redrive: the dead letters come back. Returns how many.
    pub(crate) fn redrive(&mut self, now_ms: u64) -> usize {
        let dead = std::mem::take(&mut self.dead);
        let count = dead.len();
        dead.into_iter().for_each(|message| self.send(message.body, now_ms));
        count
    }

    /// Messages that were dealt with are sent once more, as by an indexer that starts over. Returns how many.
    pub(crate) fn send_again(&mut self, now_ms: u64, dice: &mut Dice) -> usize {
        let count = dice.below(PUT_BACK_MAX + 1).min(self.deleted.len());
        for _ in 0..count {
            let body = self.deleted[dice.below(self.deleted.len())].clone();
            self.send(body, now_ms);
        }
        count
    }
}
