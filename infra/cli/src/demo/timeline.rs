//! What happened, as it happens.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::print;

pub(super) struct Timeline {
    json: bool,
    began: Instant,
}

impl Timeline {
    pub(super) fn new(json: bool) -> Self {
        Self { json, began: Instant::now() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Tells of a step that is done.
    pub(super) fn step(&mut self, name: &str, text: &str) {
        let ms = self.elapsed().as_millis();
        print(&if self.json {
            json!({ "step": name, "at_ms": u64::try_from(ms).unwrap_or(u64::MAX), "text": text }).to_string()
        } else {
            format!("{:>6.2} s  {name:<9} {text}", self.elapsed().as_secs_f64())
        });
    }
}
