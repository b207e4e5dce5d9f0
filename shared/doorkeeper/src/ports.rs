//! What the doorkeeper asks of its surroundings besides the store and XMTP.

use async_trait::async_trait;
use usher_domain::EventKey;

/// A reminder could not be left.
#[derive(Debug, thiserror::Error)]
#[error("a nudge could not be sent")]
pub struct NudgeError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Reminders that an event may have unfinished work.
#[async_trait]
pub trait Nudges: Send + Sync {
    /// Has the event looked at again after `delay_s` seconds (at most 900, SQS's limit).
    async fn nudge(&self, event: &EventKey, delay_s: u32) -> Result<(), NudgeError>;
}
