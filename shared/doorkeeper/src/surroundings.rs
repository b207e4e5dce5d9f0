//! The domain's clock and randomness, as the XMTP client asks for them.

use std::sync::Arc;

use usher_domain::ports::{Clock, Randomness};

#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) randomness: Arc<dyn Randomness>,
}

impl usher_xmtp::ports::Clock for Surroundings {
    fn now_ns(&self) -> u64 {
        self.clock.now_ms().saturating_mul(1_000_000)
    }
}

impl usher_xmtp::ports::Randomness for Surroundings {
    fn fill(&self, bytes: &mut [u8]) {
        self.randomness.fill(bytes);
    }
}
