//! One run of one seed.

use std::task::{Context, Poll, Waker};

use crate::{shared::Tally, world::World};

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

/// Runs one seed.
pub fn run(seed: u64, traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    // The handlers bound themselves by the machine's time, too, which is never up here.
    let _entered = runtime.enter();
    let mut world = block_on(World::new(seed, traced));
    block_on(world.init());
    block_on(world.trouble());
    if world.shared.lock().broken.is_none() {
        block_on(world.settle());
    }
    for group in world.node.groups() {
        let raced = world.node.commits_by_epoch(group).values().filter(|commits| **commits > 1).count();
        (0..raced).for_each(|_| world.shared.count("epochs with competing commits"));
    }
    let (broken, tally) = {
        let state = world.shared.lock();
        (state.broken.clone(), state.tally.clone())
    };
    Outcome { broken, tally, trace: world.shared.take_trace() }
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
