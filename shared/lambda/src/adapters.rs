//! The real adapters: this machine's clock and randomness, and nudges by SQS.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use usher_domain::EventKey;
use usher_doorkeeper::{NudgeError, Nudges};

use crate::sweep::Nudge;

/// The longest delay SQS gives a message, in seconds.
pub const NUDGE_DELAY_S_MAX: u32 = 900;

/// This machine's clock and randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

#[expect(clippy::disallowed_methods, reason = "this is the adapter behind the Clock ports")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("without the system's randomness nothing can be kept secret");
}

impl usher_domain::ports::Clock for Machine {
    fn now_ms(&self) -> u64 {
        u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
    }
}

impl usher_domain::ports::Randomness for Machine {
    fn fill(&self, bytes: &mut [u8]) {
        fill(bytes);
    }
}

impl usher_xmtp::ports::Clock for Machine {
    fn now_ns(&self) -> u64 {
        u64::try_from(since_1970().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl usher_xmtp::ports::Randomness for Machine {
    fn fill(&self, bytes: &mut [u8]) {
        fill(bytes);
    }
}

/// Nudges as messages of an SQS queue.
#[derive(Debug, Clone)]
pub struct SqsNudges {
    client: aws_sdk_sqs::Client,
    queue_url: String,
}

impl SqsNudges {
    /// Nudges by the queue at `queue_url`.
    pub fn new(client: aws_sdk_sqs::Client, queue_url: impl Into<String>) -> Self {
        Self { client, queue_url: queue_url.into() }
    }
}

#[async_trait]
impl Nudges for SqsNudges {
    async fn nudge(&self, event: &EventKey, delay_s: u32) -> Result<(), NudgeError> {
        let delay_s = i32::try_from(delay_s.min(NUDGE_DELAY_S_MAX)).expect("900 fits");
        let message = self.client.send_message().queue_url(&self.queue_url).delay_seconds(delay_s);
        let sent = message.message_body(Nudge { event: *event }.body()).send().await;
        sent.map(drop).map_err(|error| NudgeError(error.into()))
    }
}
