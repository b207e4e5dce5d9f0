//! What a stack's log says in figures.

use std::sync::{Arc, Mutex, MutexGuard};

use serde::Deserialize;
use tokio::time::Instant;

use super::INVOCATION_MS_MAX;
use crate::world::AnyError;

/// What was read in the log so far.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// DynamoDB's read request units.
    pub read_units: f64,
    /// DynamoDB's write request units; refused writes are not in it.
    pub write_units: f64,
    /// How many invocations ended.
    pub invocations: u64,
    /// The longest of them.
    pub longest_invocation_ms: u64,
    /// Invocations that gave no response.
    pub failed_invocations: Vec<String>,
    /// When the node's limiter refused a call.
    pub refusals: Vec<Instant>,
    /// How often calls were left for later because the budget was spent, or everybody quiet.
    pub kept_back: u64,
}

/// Reads a stack's log.
#[derive(Debug, Clone, Default)]
pub struct LogBook(Arc<Mutex<Figures>>);

#[derive(Deserialize)]
struct Line {
    message: String,
    operation: Option<String>,
    units: Option<f64>,
}

impl LogBook {
    /// Takes note of a line.
    pub fn note(&self, line: &str) {
        let mut figures = self.lock();
        // The functions write JSON, the stack text.
        if let Ok(line) = serde_json::from_str::<Line>(line) {
            match (line.message.as_str(), line.operation.as_deref(), line.units) {
                ("consumed", Some("GetItem" | "Query"), Some(units)) => figures.read_units += units,
                ("consumed", _, Some(units)) => figures.write_units += units,
                ("rate limited by the node: everybody is quiet", ..) => figures.refusals.push(Instant::now()),
                ("calls are left for later", ..) => figures.kept_back += 1,
                _ => {}
            }
        } else if let Some(elapsed_ms) = elapsed_ms(line) {
            figures.invocations += 1;
            figures.longest_invocation_ms = figures.longest_invocation_ms.max(elapsed_ms);
            if line.contains(": failed function=") {
                figures.failed_invocations.push(line.to_owned());
            }
        }
    }

    /// What was read so far.
    pub fn figures(&self) -> Figures {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl Figures {
    /// Every invocation gave a response in time.
    pub(super) fn check_invocations(&self) -> Result<(), AnyError> {
        if self.invocations == 0 {
            return Err("the log tells of no invocation".into());
        }
        if self.failed_invocations.is_empty() && self.longest_invocation_ms < INVOCATION_MS_MAX {
            return Ok(());
        }
        Err(format!("the longest took {} ms; failed: {:#?}", self.longest_invocation_ms, self.failed_invocations)
            .into())
    }
}

fn elapsed_ms(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(" elapsed_ms=")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read() {
        let book = LogBook::default();
        for line in [
            r#"{"timestamp":"t","level":"DEBUG","message":"consumed","operation":"Query","units":1.5,"target":"x"}"#,
            r#"{"level":"DEBUG","message":"consumed","operation":"TransactWriteItems","units":8.0}"#,
            r#"{"level":"WARN","message":"rate limited by the node: everybody is quiet","method":"GetInboxIds"}"#,
            r#"{"level":"INFO","message":"batch handled","facts":3}"#,
            "2030-01-01T00:00:00Z DEBUG usher_localnet::lambda::function: invoked function=\"usher-mint\" elapsed_ms=17",
            "2030-01-01T00:00:00Z WARN usher_localnet::lambda::function: failed function=\"m\" elapsed_ms=31 error=x y",
        ] {
            book.note(line);
        }
        let figures = book.figures();
        assert_eq!((figures.read_units, figures.write_units, figures.refusals.len()), (1.5, 8.0, 1));
        assert_eq!((figures.invocations, figures.longest_invocation_ms, figures.failed_invocations.len()), (2, 31, 1));
        assert!(figures.check_invocations().is_err());
        assert!(Figures::default().check_invocations().is_err());
        let fine = Figures { invocations: 1, longest_invocation_ms: 29_999, ..Figures::default() };
        assert!(fine.check_invocations().is_ok());
    }
}
