//! Live delivery: what was just stored, to whoever listens to its topic.

use std::collections::HashSet;

use tokio::sync::mpsc;
use usher_xmtp::proto::mls_api::{GroupMessage, WelcomeMessage, group_message, welcome_message};

/// How many undelivered messages a subscriber may have before it is dropped.
const BACKLOG: usize = 1024;

/// A stored message with its place.
pub(super) trait Stored: Clone + Send + Sync + 'static {
    /// The group id, or the installation key a welcome is for.
    fn topic(&self) -> &[u8];
    /// The message's id in its sequence.
    fn id(&self) -> u64;
}

impl Stored for GroupMessage {
    fn topic(&self) -> &[u8] {
        match &self.version {
            Some(group_message::Version::V1(v1)) => &v1.group_id,
            None => &[],
        }
    }

    fn id(&self) -> u64 {
        match &self.version {
            Some(group_message::Version::V1(v1)) => v1.id,
            None => 0,
        }
    }
}

impl Stored for WelcomeMessage {
    fn topic(&self) -> &[u8] {
        match &self.version {
            Some(welcome_message::Version::V1(v1)) => &v1.installation_key,
            Some(welcome_message::Version::WelcomePointer(pointer)) => &pointer.installation_key,
            None => &[],
        }
    }

    fn id(&self) -> u64 {
        match &self.version {
            Some(welcome_message::Version::V1(v1)) => v1.id,
            Some(welcome_message::Version::WelcomePointer(pointer)) => pointer.id,
            None => 0,
        }
    }
}

struct Subscriber<M> {
    topics: HashSet<Vec<u8>>,
    queue: mpsc::Sender<M>,
}

/// The subscribers of one sequence. Not shared: it lives under the lock that assigns ids, so that each subscriber
/// sees ids grow.
pub(super) struct Feed<M> {
    subscribers: Vec<Subscriber<M>>,
    /// What waits to be shown, while the feed is held.
    held: Option<Vec<M>>,
    pub(super) losing: bool,
}

impl<M> Default for Feed<M> {
    fn default() -> Self {
        Self { subscribers: Vec::new(), held: None, losing: false }
    }
}

impl<M: Stored> Feed<M> {
    pub(super) fn subscribe(&mut self, topics: HashSet<Vec<u8>>) -> mpsc::Receiver<M> {
        let (queue, live) = mpsc::channel(BACKLOG);
        self.subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        self.subscribers.push(Subscriber { topics, queue });
        live
    }

    pub(super) fn publish(&mut self, message: M) {
        match &mut self.held {
            Some(held) => held.push(message),
            None if self.losing => {}
            None => self.deliver(&message),
        }
    }

    /// A subscriber whose queue is full is dropped; its queue ends after what it still holds.
    fn deliver(&mut self, message: &M) {
        self.subscribers.retain(|subscriber| {
            !subscriber.topics.contains(message.topic()) || subscriber.queue.try_send(message.clone()).is_ok()
        });
    }

    pub(super) fn hold(&mut self, held: bool) {
        if held {
            self.held.get_or_insert_default();
        } else {
            for message in self.held.take().unwrap_or_default() {
                self.publish(message);
            }
        }
    }

    pub(super) fn drop_subscribers(&mut self) {
        self.subscribers.clear();
    }
}
