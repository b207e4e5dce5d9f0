//! The machine's clock and randomness, for the store's ports.

use std::time::{SystemTime, UNIX_EPOCH};

use usher_domain::ports::{Clock, Randomness};

/// The machine's.
#[derive(Debug)]
pub(crate) struct Ambient;

impl Clock for Ambient {
    #[expect(clippy::disallowed_methods, reason = "this is the adapter that the others ask")]
    fn now_ms(&self) -> u64 {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Randomness for Ambient {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the machine has randomness");
    }
}
