//! The rules of an XMTP V3 node, each a named row, asked over raw gRPC.
//!
//! Without arguments each rule has a node of its own, started in this process; and those that can be asked of any node
//! are asked of `usher-xmtp-node`, a process that keeps everything in SQLite. With `--xmtp-url <URL>` or
//! `USHER_XMTP_URL` the rules are asked of that node instead, except those that need its failure switches, clock or
//! second port. Any other argument selects the rules whose name contains it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a broken rule")]

mod commit_log;
mod faults;
mod group_messages;
mod identity;
mod key_packages;
mod material;
mod newest;
mod paging;
mod process;
mod rig;
mod streams;
mod transport;
mod welcomes;

use std::{any::Any, io::Write, panic::AssertUnwindSafe, process::ExitCode, time::Duration};

use futures::{FutureExt, future::LocalBoxFuture};
use rig::Rig;

/// No rule takes longer.
const RULE_TIMEOUT: Duration = Duration::from_secs(60);

/// Which nodes a rule can be asked of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Any node.
    Any,
    /// One in this process: the rule turns switches or sets the clock.
    Ours,
}

/// One rule. It holds if its function returns.
struct Rule {
    name: &'static str,
    of: Of,
    check: fn(Rig) -> LocalBoxFuture<'static, ()>,
}

macro_rules! rules {
    ($($of:ident $module:ident { $($name:ident),* $(,)? })*) => {
        &[$($(Rule {
            name: concat!(stringify!($module), "::", stringify!($name)),
            of: Of::$of,
            check: |rig| Box::pin($module::$name(rig)),
        }),*),*]
    };
}

const RULES: &[Rule] = rules! {
    Any group_messages {
        refused_requests,
        refused_framings,
        one_bad_message_stores_none,
        an_empty_group_id_stops_after_what_is_stored,
        the_same_data_is_stored_once,
        trailing_bytes_make_another_message,
        group_and_commit_are_read_from_the_bytes,
        real_mls_messages_are_understood,
        fields_are_kept_and_stamped,
        one_sequence_over_all_groups,
        two_commits_of_one_epoch_are_both_stored,
        more_than_4_mib_is_refused,
        nearly_4_mib_is_stored,
    }
    Any paging {
        groups_page,
        welcomes_page,
        an_empty_topic_is_refused,
        an_unknown_topic_is_empty,
    }
    Any welcomes {
        refused_requests,
        one_bad_welcome_stores_none,
        fields_are_kept_and_stamped,
        an_unset_algorithm_is_curve25519,
        the_same_data_is_stored_once,
        a_batch_is_stored_whole,
    }
    Any key_packages {
        refused_uploads,
        an_upload_replaces_the_last,
        fetching_keeps_positions_and_consumes_nothing,
        registering_answers_the_installation_key,
        the_credential_kind_flag_is_ignored,
    }
    Any commit_log {
        refused_requests,
        a_bad_entry_leaves_the_earlier_ones,
        entries_page_oldest_first,
        nothing_is_unique,
        descending_is_refused,
    }
    Any newest {
        refused_requests,
        one_answer_per_group_in_order,
        content_only_on_request,
    }
    Any streams {
        the_header_comes_at_once,
        refused_welcome_streams,
        no_group_filter_is_a_silent_stream,
        an_empty_group_id_ends_the_open_stream,
        history_then_live,
        long_history_of_several_groups,
        the_cursor_is_exclusive,
        a_cursor_ahead_does_not_hide_live_messages,
        a_group_named_twice_is_delivered_once,
        nothing_is_lost_or_doubled_between_history_and_live,
        other_groups_are_not_delivered,
        welcomes_and_pointers,
    }
    Ours streams {
        a_slow_group_reader_is_aborted,
        a_slow_welcome_reader_just_ends,
    }
    Any identity {
        a_missing_update_is_refused,
        an_inbox_is_created_and_found,
        addresses_match_letter_by_letter,
        refused_first_updates,
        refused_later_updates,
        a_refused_update_leaves_no_trace,
        an_installation_may_link_a_wallet,
        updates_after_a_sequence_id,
        an_inbox_asked_twice_gets_rows_twice,
        inbox_ids_that_are_not_lower_case_hex,
        the_newest_unrevoked_inbox_has_the_address,
        concurrent_updates_are_serialised,
        the_log_is_full_at_256,
        smart_wallet_signatures_answer_one_by_one,
    }
    Any transport {
        the_node_is_healthy,
        unknown_methods_are_unimplemented,
        gzip_is_understood,
        large_messages_pass,
    }
    Ours transport {
        pings_are_answered,
        browsers_are_served,
        sequences_start_at_one_and_survive_a_restart,
        stored_times_are_the_clocks_microseconds,
        shutting_down_ends_streams,
    }
    Ours faults {
        calls_are_counted,
        refusals_do_nothing,
        a_lost_answer_was_carried_out,
        a_fault_hits_as_many_calls_as_told,
        disabled_publishing,
        the_cutover,
        dropped_streams,
        a_held_replica,
        everything_held,
        lost_pushes,
        the_rate_limit_is_by_address_and_kind,
        the_rate_limit_refills_after_a_silent_minute_only,
    }
};

/// libtest's flags that have a value. They mean nothing here, like all of its flags: `cargo test` hands them to every test
/// binary.
const FLAGS_WITH_VALUES: [&str; 7] =
    ["--test-threads", "--skip", "--color", "--format", "--logfile", "--shuffle-seed", "-Z"];

struct Options {
    url: Option<String>,
    filter: Option<String>,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { url: std::env::var("USHER_XMTP_URL").ok(), filter: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--xmtp-url" => options.url = Some(arguments.next().expect("--xmtp-url needs a URL")),
                flag if FLAGS_WITH_VALUES.contains(&flag) => drop(arguments.next()),
                flag if flag.starts_with('-') => {}
                _ => options.filter = Some(argument),
            }
        }
        options
    }

    fn selects(&self, rule: &Rule) -> bool {
        self.filter.as_ref().is_none_or(|filter| rule.name.contains(filter))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::read();
    // A broken rule is told with its name; here only where it broke.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        say(&format!("       at {place}"));
    }));
    let selected: Vec<&Rule> = RULES.iter().filter(|rule| options.selects(rule)).collect();
    let of_any = || selected.iter().copied().filter(|rule| rule.of == Of::Any);
    let mut counts = Counts::default();
    // A filter that is meant for another test binary selects none.
    let may_select_none = options.filter.is_some() && options.url.is_none();
    if let Some(url) = options.url {
        counts.ask_all(of_any(), Some(&url)).await;
    } else {
        counts.ask_all(selected.iter().copied(), None).await;
        if of_any().next().is_some() {
            let process = process::start().await;
            say(&format!("usher-xmtp-node, over SQLite, at {}", process.url));
            counts.ask_all(of_any(), Some(&process.url)).await;
            process.stop().await;
        }
    }
    say(&format!("{} passed, {} failed", counts.passed, counts.failed));
    if counts.failed == 0 && (counts.passed > 0 || may_select_none) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    async fn ask_all(&mut self, rules: impl Iterator<Item = &Rule>, url: Option<&str>) {
        for rule in rules {
            let result = ask(rule, url.map(str::to_owned)).await;
            let verdict = if result.is_ok() { "ok" } else { "FAILED" };
            say(&format!("{verdict:6} {}", rule.name));
            match result {
                Ok(()) => self.passed += 1,
                Err(reason) => {
                    self.failed += 1;
                    say(&format!("       {reason}"));
                }
            }
        }
    }
}

async fn ask(rule: &Rule, url: Option<String>) -> Result<(), String> {
    let checking = AssertUnwindSafe(async { (rule.check)(Rig::new(url).await).await }).catch_unwind();
    match tokio::time::timeout(RULE_TIMEOUT, checking).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(panic)) => Err(reason(&*panic)),
        Err(_) => Err(format!("no answer in {RULE_TIMEOUT:?}")),
    }
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".to_owned())
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}
