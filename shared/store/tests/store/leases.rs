//! Leases and due marks.

use std::sync::Arc;

use alloy_primitives::Address;
use futures::future::join_all;
use usher_domain::{Fact, ports::Clock as _};
use usher_store::{
    Lease, Release, Store, Table, Take,
    event::event_key,
    memory::MemoryTable,
    table::{Step, Write},
};

use crate::support::{ALICE, BOB, at};
use crate::support::{Fault, Faulty, NOW_MS, Seeded, TestClock, event, mint, mint_of, on_each, store, transfer};

async fn minted(table: impl Table) -> Store {
    let store = store(table);
    store.record(&[mint()]).await;
    store
}

async fn taken(store: &Store, owner: &str, now_ms: u64) -> Lease {
    match store.take(&event(0), owner, now_ms, now_ms + 35_000).await.unwrap() {
        Take::Taken(lease) => lease,
        other => panic!("{other:?}"),
    }
}

async fn due(store: &Store) -> Option<u64> {
    store.event(&event(0)).await.unwrap().unwrap().due_at_ms
}

#[tokio::test]
async fn of_32_takers_one_wins() {
    on_each(async |table| {
        let store = minted(table).await;
        let take = |n: u32| {
            let store = &store;
            async move { store.take(&event(0), &format!("invocation {n}"), NOW_MS, NOW_MS + 35_000).await.unwrap() }
        };
        let answers = join_all((0..32).map(take)).await;
        let won: Vec<_> =
            answers.iter().filter_map(|a| if let Take::Taken(lease) = a { Some(lease) } else { None }).collect();
        assert_eq!(won.len(), 1);
        assert_eq!((won[0].fence, won[0].generation), (1, 1));
        let held = |answer: &&Take| matches!(answer, Take::HeldByOther(held) if held.owner == won[0].owner);
        assert_eq!(answers.iter().filter(held).count(), 31);
    })
    .await;
}

#[tokio::test]
async fn a_lease_ends_by_itself_and_the_next_has_a_greater_fence() {
    let store = minted(MemoryTable::new()).await;
    let first = taken(&store, "first", NOW_MS).await;
    let held = store.take(&event(0), "second", first.until_ms, first.until_ms + 1).await.unwrap();
    assert!(matches!(held, Take::HeldByOther(held) if held.owner == "first" && held.until_ms == first.until_ms));
    let second = taken(&store, "second", first.until_ms + 1).await;
    assert_eq!(second.fence, first.fence + 1);
    assert_eq!(store.release(&first, None).await.unwrap(), Release::Fenced);
    store.abandon(&first).await.unwrap();
    assert_eq!(store.event(&event(0)).await.unwrap().unwrap().held.unwrap().owner, "second");
    assert_eq!(store.take(&event(9), "third", NOW_MS, NOW_MS + 1).await.unwrap(), Take::NoSuchEvent);
}

#[tokio::test]
async fn an_event_is_behind_from_its_oldest_change_to_its_release() {
    on_each(async |table| {
        let clock = TestClock::at(NOW_MS);
        let store = Store::new(table, clock.clone(), Seeded::new(7));
        store.record(&[mint()]).await;
        clock.set(NOW_MS + 5_000);
        store.record(&[transfer(7, at(2, 0, 2), ALICE, ALICE)]).await;
        let behind = async || store.event(&event(0)).await.unwrap().unwrap().behind_since_ms;
        // Not since the newest, as the due mark says.
        assert_eq!((behind().await, due(&store).await), (Some(NOW_MS), Some(NOW_MS + 5_000)));
        let lease = taken(&store, "me", NOW_MS + 6_000).await;
        assert_eq!(lease.behind_chain_since_ms, Some(NOW_MS));
        store.abandon(&lease).await.unwrap();
        assert_eq!(behind().await, Some(NOW_MS));
        let lease = taken(&store, "me again", NOW_MS + 7_000).await;
        assert_eq!(store.release(&lease, Some(NOW_MS + 8_000)).await.unwrap(), Release::Released);
        assert_eq!(behind().await, None);
        assert_eq!(taken(&store, "a day later", NOW_MS + 9_000).await.behind_chain_since_ms, None);
    })
    .await;
}

/// A convergence is timed from the chain's block where that is known.
#[tokio::test]
async fn an_event_is_behind_the_chain_since_the_block_of_its_first_change_that_says_when() {
    on_each(async |table| {
        let clock = TestClock::at(NOW_MS);
        let store = Store::new(table, clock.clone(), Seeded::new(7));
        let timed = |token: u64, ago_s: u64| Fact {
            block_time_s: Some(NOW_MS / 1000 - ago_s),
            ..transfer(token, at(2, token, 2), Address::ZERO, ALICE)
        };
        let behind = async |store: &Store, owner: &str| taken(store, owner, clock.now_ms()).await;
        store.record(&[mint()]).await;
        // The mint does not say when. A later change that does is no reason to forget how long the mint has waited.
        clock.set(NOW_MS + 60_000);
        store.record(&[Fact { block_time_s: Some(NOW_MS / 1000 + 58), ..transfer(9, at(3, 9, 3), ALICE, BOB) }]).await;
        let lease = behind(&store, "mint").await;
        assert_eq!(lease.behind_chain_since_ms, Some(NOW_MS));
        store.release(&lease, None).await.unwrap();

        store.record(&[timed(1, 7), timed(2, 9)]).await;
        store.record(&[timed(3, 8)]).await;
        let lease = behind(&store, "tickets").await;
        assert_eq!(lease.behind_chain_since_ms, Some(NOW_MS - 9_000));
        // What an operator is told of is since when usher knows.
        assert_eq!(store.event(&event(0)).await.unwrap().unwrap().behind_since_ms, Some(NOW_MS + 60_000));
        store.release(&lease, None).await.unwrap();

        // A retraction does not say when, and what changes nobody's place is no change.
        let superseded = Fact { block_time_s: Some(1), ..transfer(1, at(1, 0, 1), Address::ZERO, BOB) };
        store.record(&[Fact { retracted: true, ..timed(3, 8) }, superseded]).await;
        let lease = behind(&store, "retraction").await;
        assert_eq!(lease.behind_chain_since_ms, Some(NOW_MS + 60_000));
        store.release(&lease, None).await.unwrap();
        assert_eq!(behind(&store, "later").await.behind_chain_since_ms, None);
    })
    .await;
}

#[tokio::test]
async fn writes_sent_twice_are_recognised() {
    on_each(async |table| {
        minted(table.clone()).await;
        let twice = store(Faulty::new(table, Fault::SentTwice));
        let lease = taken(&twice, "me", NOW_MS).await;
        assert_eq!(lease.fence, 1);
        assert_eq!(twice.release(&lease, None).await.unwrap(), Release::Released);
        assert_eq!(due(&twice).await, None);
    })
    .await;
}

#[tokio::test]
async fn a_release_leaves_what_is_new() {
    on_each(async |table| {
        let store = minted(table).await;
        let lease = taken(&store, "me", NOW_MS).await;
        store.record(&[transfer(7, at(2, 0, 2), ALICE, ALICE)]).await;
        let Release::NewWork(lease) = store.release(&lease, None).await.unwrap() else { panic!("not released") };
        assert_eq!((lease.generation, lease.fence), (2, 1));
        assert_eq!(store.release(&lease, None).await.unwrap(), Release::Released);
        let record = store.event(&event(0)).await.unwrap().unwrap();
        assert_eq!((record.converged_generation, record.due_at_ms, record.held), (Some(2), None, None));
        assert!(store.due(u64::MAX >> 1, 10).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_release_does_not_wipe_a_mark_it_has_not_seen() {
    let store = minted(MemoryTable::new()).await;
    let lease = taken(&store, "me", NOW_MS).await;
    assert!(store.mark_due(&event(0), NOW_MS + 5).await.unwrap());
    let Release::NewWork(lease) = store.release(&lease, None).await.unwrap() else { panic!("not released") };
    assert_eq!(store.release(&lease, Some(NOW_MS + 60_000)).await.unwrap(), Release::Released);
    assert_eq!(due(&store).await, Some(NOW_MS + 60_000));
}

#[tokio::test]
async fn a_release_waits_for_the_replay() {
    let table = Arc::new(MemoryTable::new());
    let store = minted(table.clone()).await;
    let unfinished = format!("[\"{}\"]", crate::support::kiosk());
    table.write(&Write::update(event_key(&event(0)), vec![Step::set("replay", unfinished)])).await.unwrap();
    let lease = taken(&store, "me", NOW_MS).await;
    assert!(store.event(&event(0)).await.unwrap().unwrap().replaying);
    assert!(matches!(store.release(&lease, None).await.unwrap(), Release::NewWork(_)));
    store.replay(&event(0)).await.unwrap();
    assert_eq!(store.release(&lease, None).await.unwrap(), Release::Released);
}

#[tokio::test]
async fn an_abandoned_event_stays_due_and_free() {
    let store = minted(MemoryTable::new()).await;
    let lease = taken(&store, "me", NOW_MS).await;
    store.abandon(&lease).await.unwrap();
    assert_eq!(due(&store).await, Some(NOW_MS));
    assert_eq!(taken(&store, "you", NOW_MS + 1).await.fence, 2);
}

#[tokio::test]
async fn whoever_takes_an_event_at_rest_makes_it_due() {
    let store = minted(MemoryTable::new()).await;
    let lease = taken(&store, "me", NOW_MS).await;
    store.release(&lease, None).await.unwrap();
    assert_eq!(due(&store).await, None);
    taken(&store, "you", NOW_MS + 7).await;
    assert_eq!(due(&store).await, Some(NOW_MS + 7), "if this holder dies, somebody else will come");
}

#[tokio::test]
async fn whoever_takes_an_event_that_was_due_later_makes_it_due_now() {
    let store = minted(MemoryTable::new()).await;
    let lease = taken(&store, "me", NOW_MS).await;
    store.release(&lease, Some(NOW_MS + 86_400_000)).await.unwrap();
    let lease = taken(&store, "you", NOW_MS + 7).await;
    assert_eq!(due(&store).await, Some(NOW_MS + 7), "if this holder dies, nobody waits until tomorrow");
    store.abandon(&lease).await.unwrap();
    assert_eq!(due(&store).await, Some(NOW_MS + 7));
}

#[tokio::test]
async fn a_due_mark_moves_earlier_only() {
    on_each(async |table| {
        let store = minted(table).await;
        store.mark_due(&event(0), NOW_MS + 1).await.unwrap();
        assert_eq!(due(&store).await, Some(NOW_MS));
        store.mark_due(&event(0), NOW_MS - 1).await.unwrap();
        assert_eq!(due(&store).await, Some(NOW_MS - 1));
        assert!(!store.mark_due(&event(9), NOW_MS).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn due_events_come_longest_due_first_from_all_shards() {
    on_each(async |table| {
        let store = store(table);
        for id in 0..20 {
            store
                .record(&[mint_of(
                    id,
                    at(1, id, 1),
                    ALICE,
                    Address::left_padding_from(&[1, u8::try_from(id).unwrap()]),
                )])
                .await;
            store.mark_due(&event(id), NOW_MS - 100 + (id * 7) % 20).await.unwrap();
        }
        let found = store.due(NOW_MS - 90, 100).await.unwrap();
        assert_eq!(
            found.iter().map(|due| due.at_ms).collect::<Vec<_>>(),
            (NOW_MS - 100..=NOW_MS - 90).collect::<Vec<_>>()
        );
        assert_eq!(store.due(NOW_MS, 5).await.unwrap(), found[..5]);
    })
    .await;
}

#[tokio::test]
async fn the_account_has_a_lease_of_its_own() {
    on_each(async |table| {
        let twice = store(Faulty::new(table.clone(), Fault::SentTwice));
        let first = twice.take_account("first", NOW_MS, NOW_MS + 10).await.unwrap().unwrap();
        let store = store(table);
        assert_eq!(store.take_account("second", NOW_MS + 10, NOW_MS + 20).await.unwrap(), None);
        let second = store.take_account("second", NOW_MS + 11, NOW_MS + 20).await.unwrap().unwrap();
        assert_eq!((first.fence, second.fence, second.until_ms), (1, 2, NOW_MS + 20));
        store.release_account(&first).await.unwrap();
        assert_eq!(store.take_account("third", NOW_MS + 12, NOW_MS + 20).await.unwrap(), None);
        store.release_account(&second).await.unwrap();
        assert_eq!(store.take_account("third", NOW_MS + 12, NOW_MS + 20).await.unwrap().unwrap().fence, 3);
    })
    .await;
}
