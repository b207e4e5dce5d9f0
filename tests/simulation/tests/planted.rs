//! Known mistakes in usher, each found within so many seeds. Needs the feature `planted-bugs`.
#![cfg(feature = "planted-bugs")]

use usher_domain::planted::Bug;
use usher_simulation::{run, run_planted};

#[expect(clippy::print_stdout, reason = "the harness keeps it for --nocapture")]
fn found_within(bug: Bug, seeds: u64) {
    let found = (0..seeds).find_map(|seed| Some((seed, run_planted(seed, bug).broken?)));
    let (seed, broken) = found.unwrap_or_else(|| panic!("{bug:?} was not found in {seeds} seeds"));
    println!("{bug:?}: seed {seed}: {broken}");
    // It is the mistake that is found, and nothing else.
    assert_eq!(run(seed, false).broken, None, "{bug:?}: seed {seed} fails without the mistake");
}

macro_rules! planted {
    ($($name:ident: $bug:ident within $seeds:literal;)*) => {
        $(#[test] fn $name() { found_within(Bug::$bug, $seeds); })*
    };
}

planted! {
    release_unchecked: ReleaseUnchecked within 50;
    publish_before_store: PublishBeforeStore within 50;
    skip_read_back: SkipReadBack within 50;
    second_commit: SecondCommit within 50;
    retired_by_invalid: RetiredByInvalid within 50;
    removal_bound_to_addition: RemovalBoundToAddition within 50;
    welcome_not_stored: WelcomeNotStored within 50;
    older_snapshot: OlderSnapshot within 50;
    ban_apart: BanApart within 50;
    early_retraction: EarlyRetraction within 50;
}
