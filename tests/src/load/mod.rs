//! Load: many facts, many due events, a killed holder, and the node's rate limiter, on real dev stacks.

mod book;
mod due;
mod facts;
mod limiter;
mod story;

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use book::{Figures, LogBook};
pub use due::{Due, DueFigures};
pub use facts::{Facts, FactsFigures, KilledFigures};
pub use limiter::{Limiter, LimiterFigures};

use crate::world::AnyError;

/// What a stack must say for the figures: what requests cost, how long invocations took.
const VERBOSITY: &str = "info,usher_store=debug,usher_localnet=debug,openmls=off";
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Lambda ends an invocation then.
const INVOCATION_MS_MAX: u64 = 30_000;

/// Looks every second until `look` finds something.
async fn within<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>, AnyError>,
) -> Result<T, AnyError> {
    let deadline = Instant::now() + patience;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < deadline {
        ticks.tick().await;
        if let Some(found) = look().await? {
            return Ok(found);
        }
    }
    Err(format!("not within {patience:?}: {what}").into())
}

/// `part / whole`, for a figure.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per(part: u64, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// Figures as rows of a Markdown table.
pub fn rows(figures: &impl Serialize) -> Result<String, AnyError> {
    let serde_json::Value::Object(figures) = serde_json::to_value(figures)? else { return Err("no figures".into()) };
    let row = |(name, figure): (&String, &serde_json::Value)| match figure.as_f64() {
        Some(figure) if figure.fract() != 0.0 => format!("| {} | {figure:.2} |\n", name.replace('_', " ")),
        _ => format!("| {} | {figure} |\n", name.replace('_', " ")),
    };
    Ok(figures.iter().map(row).collect())
}
