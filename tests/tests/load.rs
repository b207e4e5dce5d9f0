//! The small form of the load; `cargo run --release -p usher-tests --example load` is the long one.

use std::time::Duration;

use usher_tests::{
    load::{Due, Facts},
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
    Due { events: 9_980, minted: 20, rooms: 10_000, looks: 1 }.run().await?;
    Ok(())
}
