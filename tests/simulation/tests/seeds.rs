//! A fixed set of seeds, how much of what can go wrong they must have met, and that a seed repeats.

use std::thread;

use usher_simulation::{Fault, Tally, run};

/// More with `cargo run --release -p usher-simulation -- --seeds 10000 --start 0`.
const SEEDS: u64 = 150;

#[test]
fn the_rooms_end_where_the_chain_says_whatever_happens() {
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let runs = thread::scope(|scope| {
        let run_share = |share: u64| {
            let outcomes = (share..SEEDS).step_by(usize::try_from(threads).expect("few")).map(|seed| {
                let outcome = run(seed, false);
                (seed, outcome.broken, outcome.tally)
            });
            outcomes.collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..threads).map(|share| scope.spawn(move || run_share(share))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a run does not panic")).collect::<Vec<_>>()
    });
    let broken: Vec<_> = runs.iter().filter_map(|(seed, broken, _)| Some((seed, broken.as_ref()?))).collect();
    assert!(broken.is_empty(), "run `usher-simulation --seeds 1 --start SEED` for a trace: {broken:#?}");

    let mut total = Tally::default();
    runs.iter().for_each(|(_, _, tally)| total.add(tally));
    show(&total);
    let met = |fault: Fault, port: &str| total.faults.iter().find(|((f, p), _)| *f == fault && *p == port);
    let rare = Fault::ALL.into_iter().flat_map(|fault| {
        let count = move |port| met(fault, port).map_or(0, |(_, count)| *count);
        meets(fault).into_iter().map(move |port| (fault, port, count(port))).filter(|(.., count)| *count < FAULTS_MIN)
    });
    let rare: Vec<_> = rare.map(|(fault, port, count)| format!("{fault} {port}: {count}")).collect();
    assert!(rare.is_empty(), "less than {FAULTS_MIN} times: {rare:#?}");
    let met = |event| total.events.get(event).copied().unwrap_or_default();
    let rare = EVENTS_MIN.into_iter().map(|(event, at_least)| (event, met(event), at_least));
    let rare: Vec<_> = rare.filter(|(_, met, at_least)| met < at_least).collect();
    assert!(rare.is_empty(), "what, how often, and how often at least: {rare:#?}");
}

/// How often each fault must have met each call that it can meet.
const FAULTS_MIN: u64 = 3;

/// How often anything else must have happened.
const EVENTS_MIN: [(&str, u64); 44] = [
    // What was checked at the end.
    ("rooms read", 100),
    ("hearers", 250),
    ("deaf devices of who was put out", 8),
    ("deaf devices that were given up", 3),
    ("deaf modified clients", 1),
    ("logs in the ledger", 2000),
    ("logs that wait", 15),
    ("secrets", 7000),
    ("epochs compared", 1000),
    ("welcomes of stored commits", 400),
    // Races.
    ("commits of usher's superseded", 10),
    ("commits of usher's superseded by an admin's", 4),
    ("members' commits superseded", 1),
    ("members' commits while usher's was pending", 20),
    ("changes of devices while a commit was pending", 50),
    ("key packages replaced between commit and welcome", 20),
    ("leases taken from somebody alive", 100),
    ("saves before the next holder's claim", 1),
    ("writes behind a lost fence", 80),
    ("a member's commit", 40),
    ("an admin's commit", 40),
    // The chain and the queues.
    ("deep reorganisations", 10),
    ("retractions before their facts", 30),
    ("messages that come twice", 400),
    ("messages sent again after they were deleted", 200),
    ("no JSON", 10),
    ("no envelope", 10),
    ("a wrong number of topics", 10),
    ("data that do not decode", 10),
    ("a malformed field", 10),
    ("another chain", 10),
    ("an unknown factory", 10),
    ("an unknown kiosk", 10),
    ("one bad log among others", 10),
    // The account.
    ("inits that end well", 100),
    ("inits that fail", 40),
    ("months that pass", 15),
    ("key packages of usher's replaced", 15),
    // What is hostile or useless.
    ("a commit that members refuse", 40),
    ("a commit that ends a room", 3),
    ("a key package that is none", 20),
    ("an expired key package", 20),
    ("a key package of another inbox", 20),
    ("reservations of the last that is left", 20),
];

/// The calls that a fault can meet.
fn meets(fault: Fault) -> Vec<&'static str> {
    let table = ["get", "query", "due", "write", "transact"];
    let keys = ["generate_data_key", "unwrap_data_key"];
    let asked = ["identity_updates", "inbox_ids", "key_packages", "group_messages", "newest_group_messages"];
    let told = ["send_group_messages", "send_welcomes", "upload_key_package", "publish_identity_update"];
    match fault {
        Fault::CrashBefore | Fault::CrashAfter | Fault::FreezeBefore | Fault::FreezeAfter | Fault::Unanswered => {
            [&table[..], &keys, &["nudge"], &asked, &told].concat()
        }
        Fault::AnswerLost => [&["write", "transact", "nudge"][..], &keys, &asked, &told].concat(),
        Fault::Throttled => [&table[..], &asked, &told].concat(),
        Fault::Conflict => vec!["write", "transact"],
        Fault::Stale => vec!["due", "inbox_ids", "newest_group_messages", "delete_message"],
        Fault::Down => [&["send_group_messages", "send_welcomes"][..], &asked].concat(),
        Fault::Refused => keys.to_vec(),
    }
}

#[expect(clippy::print_stdout, reason = "the harness keeps it for --nocapture")]
fn show(total: &Tally) {
    total.faults.iter().for_each(|((fault, port), count)| println!("{count:>8}  {fault} {port}"));
    total.events.iter().for_each(|(event, count)| println!("{count:>8}  {event}"));
}

#[test]
fn a_seed_repeats() {
    for seed in [3, 17] {
        let [first, second] = [(); 2].map(|()| run(seed, true).trace);
        let differ = first.iter().zip(&second).position(|(first, second)| first != second);
        assert_eq!(differ, None, "seed {seed}: {:?}", differ.map(|at| (&first[at], &second[at])));
        assert_eq!(first.len(), second.len());
    }
}
