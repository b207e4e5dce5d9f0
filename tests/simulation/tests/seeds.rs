//! A fixed set of seeds, how much of what can go wrong they must have met, and that a seed repeats.

use std::{collections::BTreeMap, thread};

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
    let mut faults = BTreeMap::<Fault, u64>::new();
    total.faults.iter().for_each(|((fault, _), count)| *faults.entry(*fault).or_default() += count);
    let rare: Vec<_> =
        Fault::ALL.into_iter().filter(|fault| faults.get(fault).is_none_or(|count| *count < 50)).collect();
    assert!(rare.is_empty(), "hardly met: {rare:?} of {faults:?}");
    for (event, at_least) in
        [("epochs with competing commits", 40), ("a member's commit", 40), ("an admin's commit", 40)]
    {
        let met = total.events.get(event).copied().unwrap_or_default();
        assert!(met >= at_least, "{event}: {met} of at least {at_least}");
    }
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
