//! Logs: one JSON object per line on standard output, where Lambda collects them.

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};
#[doc(no_inline)]
pub use usher_store::Chain;

/// Begins logging. Like `lambda_runtime`, it heeds Lambda's logging controls: the level is `AWS_LAMBDA_LOG_LEVEL`, or
/// else what `RUST_LOG` says of targets (`warn,usher_lambda=trace`), or else `INFO`; lines are JSON unless
/// `AWS_LAMBDA_LOG_FORMAT` is `Text`.
pub fn init() {
    let variable = |name| std::env::var(name).ok();
    let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
    let filter = filter(variable);
    if variable("AWS_LAMBDA_LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("text")) {
        lines.finish().with(filter).init();
    } else {
        lines.json().flatten_event(true).with_current_span(false).finish().with(filter).init();
    }
}

/// openmls tells of every message that it cannot open as an error, and members may send what they like: what matters of
/// that, usher says itself.
const QUIET: &str = "openmls";
/// Clients of chains' nodes, whose URLs are secret, write them into spans and messages.
const SECRETIVE: [&str; 2] = ["alloy_transport_http", "reqwest"];

fn filter(variable: impl Fn(&'static str) -> Option<String>) -> Targets {
    discreet(levels(variable).with_target(QUIET, LevelFilter::OFF))
}

/// The same filter, which lets nothing through that quotes a secret URL.
pub fn discreet(filter: Targets) -> Targets {
    filter.with_targets(SECRETIVE.map(|target| (target, LevelFilter::OFF)))
}

fn levels(variable: impl Fn(&'static str) -> Option<String>) -> Targets {
    let info = Targets::new().with_default(LevelFilter::INFO);
    if let Some(level) = variable("AWS_LAMBDA_LOG_LEVEL") {
        // Lambda has a level that tracing has not.
        let level = if level.eq_ignore_ascii_case("fatal") { "error" } else { &level };
        return level.parse().map_or(info, |level: LevelFilter| Targets::new().with_default(level));
    }
    variable("RUST_LOG").and_then(|said| said.parse().ok()).unwrap_or(info)
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn lambda_decides_the_level_before_rust_log_does() {
        let finest = |lambda: Option<&str>, rust: Option<&str>, target: &str| {
            let value = |name| if name == "RUST_LOG" { rust } else { lambda };
            let filter = filter(|name| value(name).map(str::to_owned));
            [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR]
                .into_iter()
                .find(|level| filter.would_enable(target, level))
        };
        let of_usher = |lambda, rust| finest(lambda, rust, "usher_lambda::batch");
        assert_eq!(of_usher(Some("DEBUG"), Some("error")), Some(Level::DEBUG));
        assert_eq!(of_usher(Some("FATAL"), None), Some(Level::ERROR));
        assert_eq!(of_usher(Some("OFF"), None), None);
        assert_eq!(of_usher(None, Some("warn,usher_lambda=trace")), Some(Level::TRACE));
        assert_eq!(finest(None, Some("warn,usher_lambda=trace"), "tonic"), Some(Level::WARN));
        assert_eq!(of_usher(None, Some("[span]=trace=no")), Some(Level::INFO));
        assert_eq!(of_usher(None, None), Some(Level::INFO));
        for silent in ["openmls::group", "alloy_transport_http", "reqwest::connect"] {
            assert_eq!(finest(Some("TRACE"), Some("trace"), silent), None, "{silent}");
        }
    }

    #[test]
    fn a_panic_is_quoted() {
        let said = |f: fn()| panic_text(&*std::panic::catch_unwind(f).unwrap_err()).to_owned();
        assert_eq!(said(|| panic!("so")), "so");
        assert_eq!(said(|| panic!("so {}", 1)), "so 1");
        assert_eq!(said(|| std::panic::panic_any(7)), "no text");
    }
}
