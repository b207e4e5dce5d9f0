//! `usher doctor`: looks at everything a deployment needs, and says how to mend what is wrong. Changes nothing.

mod chains;
mod keys;
mod ledger;
mod network;
mod policies;
mod queues;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;
use serde_json::json;

use crate::{
    Failure, print,
    stack::{Machinery, Stack},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stack: Stack,
    #[command(flatten)]
    machinery: Machinery,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// A person should look at it; all works.
    Warn,
    /// Something does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    check: String,
    status: Status,
    seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn ok(check: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { check: check.into(), status: Status::Ok, seen: seen.into(), fix: None }
    }

    fn warn(check: impl Into<String>, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check: check.into(), status: Status::Warn, seen: seen.into(), fix: Some(fix.into()) }
    }

    fn fail(check: impl Into<String>, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check: check.into(), status: Status::Fail, seen: seen.into(), fix: Some(fix.into()) }
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let deployment = args.stack.reach().await?;
    let store = deployment.store();
    let mut checks = queues::look(&deployment).await;
    match store.parked_count(1).await {
        Ok(_) => {
            checks.push(Check::ok("table", "it answers"));
            checks.extend(ledger::look(&store).await);
            checks.extend(chains::look(&deployment).await);
            checks.extend(keys::look(&deployment, &args.machinery).await);
            checks.extend(network::look(&deployment, &args.machinery).await);
        }
        Err(error) => {
            let fix = "start `usher dev`, or name the stack and have its operator's credentials";
            checks.push(Check::fail("table", deployment.unreachable(error).to_string(), fix));
        }
    }
    print(&if args.json { json!({ "checks": checks }).to_string() } else { table(&checks) });
    match checks.iter().filter(|check| check.status == Status::Fail).count() {
        0 => Ok(()),
        failed => Err(format!("{failed} of {} checks failed", checks.len()).into()),
    }
}

fn table(checks: &[Check]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["check", "", "seen", "what to do"]);
    for Check { check, status, seen, fix } in checks {
        let status = match status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        table.add_row([check, status, seen, fix.as_deref().unwrap_or_default()]);
    }
    table.to_string()
}
