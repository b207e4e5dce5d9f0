//! Logs: one JSON object per line on standard output, where Lambda collects them.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};
#[doc(no_inline)]
pub use usher_store::Chain;

/// Begins logging. Like `lambda_runtime`, it heeds Lambda's logging controls: the level is `AWS_LAMBDA_LOG_LEVEL`, or
/// else the directives of `RUST_LOG`, or else `INFO`; lines are JSON unless `AWS_LAMBDA_LOG_FORMAT` is `Text`.
pub fn init() {
    let variable = |name| std::env::var(name).ok();
    let lines = tracing_subscriber::fmt().with_env_filter(filter(variable)).with_ansi(false);
    if variable("AWS_LAMBDA_LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("text")) {
        lines.init();
    } else {
        lines.json().flatten_event(true).with_current_span(false).init();
    }
}

/// openmls tells of every message that it cannot open as an error, and members may send what they like: what matters of
/// that, usher says itself.
const QUIET: &str = "openmls=off";
/// Clients of chains' nodes, whose URLs are secret, write them into spans and messages.
const SECRETIVE: [&str; 2] = ["alloy_transport_http=off", "reqwest=off"];

fn filter(variable: impl Fn(&'static str) -> Option<String>) -> EnvFilter {
    discreet(levels(variable).add_directive(QUIET.parse().expect("a directive")))
}

/// The same filter, which lets nothing through that quotes a secret URL.
pub fn discreet(filter: EnvFilter) -> EnvFilter {
    let silent = SECRETIVE.iter().map(|directive| directive.parse().expect("a directive"));
    silent.fold(filter, EnvFilter::add_directive)
}

fn levels(variable: impl Fn(&'static str) -> Option<String>) -> EnvFilter {
    if let Some(level) = variable("AWS_LAMBDA_LOG_LEVEL") {
        // Lambda has a level that tracing has not.
        let level = if level.eq_ignore_ascii_case("fatal") { "error" } else { &level };
        return EnvFilter::default().add_directive(level.parse().unwrap_or(LevelFilter::INFO).into());
    }
    let default = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    default.parse_lossy(variable("RUST_LOG").unwrap_or_default())
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lambda_decides_the_level_before_rust_log_does() {
        let level = |lambda: Option<&str>, rust: Option<&str>| {
            let value = |name| if name == "RUST_LOG" { rust } else { lambda };
            filter(|name| value(name).map(str::to_owned)).max_level_hint().unwrap()
        };
        assert_eq!(level(Some("DEBUG"), Some("error")), LevelFilter::DEBUG);
        assert_eq!(level(Some("FATAL"), None), LevelFilter::ERROR);
        assert_eq!(level(Some("OFF"), None), LevelFilter::OFF);
        assert_eq!(level(None, Some("warn,usher_lambda=trace")), LevelFilter::TRACE);
        assert_eq!(level(None, None), LevelFilter::INFO);
    }

    #[test]
    fn a_panic_is_quoted() {
        let said = |f: fn()| panic_text(&*std::panic::catch_unwind(f).unwrap_err()).to_owned();
        assert_eq!(said(|| panic!("so")), "so");
        assert_eq!(said(|| panic!("so {}", 1)), "so 1");
        assert_eq!(said(|| std::panic::panic_any(7)), "no text");
    }
}
