//! The small form of the load; `cargo run --release -p usher-tests --example load` is the long one.

use std::time::Duration;

use usher_tests::{
    load::{Due, Facts, Limiter},
    world::AnyError,
};

#[tokio::test(flavor = "multi_thread")]
async fn shuffled_tripled_facts_end_in_the_right_rooms_and_so_does_a_killed_holders_work() -> Result<(), AnyError> {
    let facts = Facts { events: 12, facts: 300, people: 8, seed: 1, patience: Duration::from_secs(240) };
    facts.run().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_looks_at_ten_thousand_due_events_and_as_many_rooms() -> Result<(), AnyError> {
    Due { events: 9_980, minted: 20, people: 0, rooms: 10_000, looks: 1 }.run().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_brings_due_events_to_rest_and_their_makers_into_their_rooms() -> Result<(), AnyError> {
    Due { events: 180, minted: 20, people: 5, rooms: 200, looks: 5 }.run().await?;
    Ok(())
}

/// The people register at the stack's address, so that the node's bucket is emptier than usher knows: that is why the
/// first call is refused.
#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_are_refused_at_first_and_never_after_they_heard_of_it() -> Result<(), AnyError> {
    let limiter = Limiter {
        purchases: 120,
        events: 8,
        people: 40,
        rate_limits: "100/100,4000/2000".to_owned(),
        seed: 1,
        patience: Duration::from_secs(420),
    };
    limiter.run().await?;
    Ok(())
}
