//! One run of one seed.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use sha2::{Digest as _, Sha256};

use crate::{
    panics,
    shared::{Shared, Tally},
    world::World,
};

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What was wrong, if anything was.
    pub broken: Option<String>,
    /// What happened how often.
    pub tally: Tally,
    /// What happened, line by line, if that was asked for.
    pub trace: Vec<String>,
}

/// Runs one seed. A panic is an outcome like any other.
pub fn run(seed: u64, traced: bool) -> Outcome {
    witnessed(&World::shared(seed, traced), live)
}

fn witnessed(shared: &Arc<Shared>, life: impl FnOnce(Arc<Shared>)) -> Outcome {
    panics::note();
    let lived = panics::caught(|| life(shared.clone()));
    panics::take().iter().for_each(|panic| shared.broken(panic));
    if lived.is_err() {
        shared.broken("the run was cut short by a panic");
    }
    let (broken, tally) = {
        let state = shared.lock();
        (state.broken.clone(), state.tally.clone())
    };
    Outcome { broken, tally, trace: shared.take_trace() }
}

fn live(shared: Arc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    // The handlers bound themselves by the machine's time, too, which is never up here.
    let _entered = runtime.enter();
    let mut world = block_on(World::new(shared));
    block_on(world.trouble());
    if world.shared.lock().broken.is_none() {
        block_on(world.settle());
    }
    count_races(&world);
}

/// How often another valid commit was faster than usher's stored one.
fn count_races(world: &World) {
    let commits = world.people.commits.lock().expect("no panic");
    let mut digests = BTreeMap::new();
    for ((room, epoch), staged) in world.watch.staged() {
        let Some(winner) = commits.get(&(room, epoch + 1)) else { continue };
        let ids = digests.entry(room).or_insert_with(|| {
            let log = world.node.log(room).into_iter();
            log.map(|message| (message.id, Sha256::digest(&message.data).into())).collect::<BTreeMap<u64, [u8; 32]>>()
        });
        if ids.get(&winner.id) != Some(&staged) {
            world.shared.count("commits of usher's superseded");
            if winner.actor_is_admin && winner.actor != world.usher {
                world.shared.count("commits of usher's superseded by an admin's");
            }
        }
    }
}

/// What the world does by itself never waits for anybody; pauses are taken at once.
fn block_on<R>(work: impl Future<Output = R>) -> R {
    let mut work = Box::pin(work);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
            return result;
        }
    }
}

/// Runs one seed with a known mistake in usher.
#[cfg(feature = "planted-bugs")]
pub fn run_planted(seed: u64, bug: usher_domain::planted::Bug) -> Outcome {
    usher_domain::planted::Bug::plant(Some(bug));
    let outcome = run(seed, false);
    usher_domain::planted::Bug::plant(None);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_what_led_to_it() {
        let outcome = witnessed(&World::shared(0, true), |shared| {
            shared.trace(|| "something happens".to_owned());
            let _held = shared.lock();
            panic!("by intent");
        });
        assert!(outcome.broken.is_some_and(|broken| broken.contains("by intent")));
        assert!(outcome.trace[0].contains("something happens"), "{:?}", outcome.trace);
    }

    #[test]
    fn a_panic_that_is_survived_is_told() {
        let outcome = witnessed(&World::shared(0, false), |_| {
            let caught = panics::caught(|| panic!("by intent"));
            assert!(caught.is_err());
        });
        assert!(outcome.broken.is_some_and(|broken| broken.contains("by intent")));
    }
}
