//! Logs: one JSON object per line on standard output, where Lambda collects them.

use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};
#[doc(no_inline)]
pub use usher_store::Chain;

/// Begins logging. Like `lambda_runtime`'s own subscriber, it heeds Lambda's logging controls: the level is
/// `AWS_LAMBDA_LOG_LEVEL`, or else what `RUST_LOG` says of targets (`warn,usher_lambda=trace`), or else `INFO`; lines are
/// JSON unless `AWS_LAMBDA_LOG_FORMAT` is `Text`.
pub fn init() {
    let variable = |name| std::env::var(name).ok();
    let lines = fmt::layer().with_ansi(false);
    let filtered = Registry::default().with(filter(variable));
    if variable("AWS_LAMBDA_LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("text")) {
        filtered.with(lines).init();
    } else {
        filtered.with(lines.json().flatten_event(true).with_current_span(false)).init();
    }
}

/// openmls tells of every message that it cannot open as an error, and members may send what they like: what matters of
/// that, usher says itself.
const QUIET: &str = "openmls";
/// Clients of chains' nodes, whose URLs are secret, write them into spans and messages.
const SECRETIVE: [&str; 2] = ["alloy_transport_http", "reqwest"];

fn filter(variable: impl Fn(&'static str) -> Option<String>) -> Targets {
    discreet(without(levels(variable), &[QUIET]))
}

/// The same filter, which lets nothing through that quotes a secret URL.
pub fn discreet(filter: Targets) -> Targets {
    without(filter, &SECRETIVE)
}

/// The same filter, with these targets and all below them switched off.
fn without(filter: Targets, silent: &[&str]) -> Targets {
    let default = filter.default_level().unwrap_or(LevelFilter::OFF);
    // The longest target that fits decides.
    let others = filter.into_iter().filter(|(target, _)| !silent.iter().any(|it| target.starts_with(it)));
    others.collect::<Targets>().with_default(default).with_targets(silent.iter().map(|it| (*it, LevelFilter::OFF)))
}

fn levels(variable: impl Fn(&'static str) -> Option<String>) -> Targets {
    let info = Targets::new().with_default(LevelFilter::INFO);
    if let Some(level) = variable("AWS_LAMBDA_LOG_LEVEL") {
        // Lambda has a level that tracing has not.
        let level = if level.eq_ignore_ascii_case("fatal") { "error" } else { &level };
        return level.parse().map_or(info, |level: LevelFilter| Targets::new().with_default(level));
    }
    variable("RUST_LOG").and_then(|said| targets(&said)).unwrap_or(info)
}

/// What `RUST_LOG` says of targets; `None` if it says nothing. Directives of other kinds are told on standard error.
pub fn targets(said: &str) -> Option<Targets> {
    let directives = said.split(',').filter(|directive| !directive.trim().is_empty());
    let (understood, other): (Vec<_>, Vec<_>) = directives.partition(|directive| directive.parse::<Targets>().is_ok());
    for directive in other {
        tell(&format!("RUST_LOG: {directive:?} is neither a level nor TARGET=LEVEL"));
    }
    if understood.is_empty() { None } else { understood.join(",").parse().ok() }
}

#[expect(clippy::print_stderr, reason = "the log has not begun")]
fn tell(line: &str) {
    eprintln!("{line}");
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
        assert_eq!(of_usher(None, None), Some(Level::INFO));
        for nothing in ["", " ", "[span]=trace=no"] {
            assert_eq!(of_usher(None, Some(nothing)), Some(Level::INFO), "{nothing:?}");
        }
        assert_eq!(of_usher(None, Some("debug,")), Some(Level::DEBUG));
    }

    #[test]
    fn no_directive_makes_secret_urls_and_other_peoples_messages_heard() {
        let said =
            "trace,reqwest=trace,alloy_transport_http::reqwest_transport=trace,openmls::group=trace,usher_lambda=info";
        for (lambda, rust) in [(Some("TRACE"), None), (None, Some(said))] {
            let value = |name| if name == "RUST_LOG" { rust } else { lambda };
            let filter = filter(|name| value(name).map(str::to_owned));
            assert!(filter.would_enable("tonic", &Level::TRACE));
            for silent in ["openmls::group", "alloy_transport_http::reqwest_transport", "reqwest::connect"] {
                assert!(!filter.would_enable(silent, &Level::ERROR), "{silent}");
            }
        }
    }

    #[test]
    fn nobody_makes_lines_that_nobody_reads() {
        use tracing::Subscriber as _;
        let filtered = Registry::default().with(filter(|_| None)).with(fmt::layer());
        assert_eq!(filtered.max_level_hint(), Some(LevelFilter::INFO));
    }

    #[test]
    fn a_panic_is_quoted() {
        let said = |f: fn()| panic_text(&*std::panic::catch_unwind(f).unwrap_err()).to_owned();
        assert_eq!(said(|| panic!("so")), "so");
        assert_eq!(said(|| panic!("so {}", 1)), "so 1");
        assert_eq!(said(|| std::panic::panic_any(7)), "no text");
    }
}
