//! Facts in, tickets and due events out.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::Address;
use futures::future::join_all;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use usher_domain::{Fact, TicketKey, ticket, ticket::Holding};
use usher_store::{
    Kind, Outcome, Store, Table,
    ledger::TICKETS_MAX,
    memory::MemoryTable,
    table::{Attributes, EXPIRES_AT_S, Query},
    waiting::{WAITING_MAX, WAITING_S},
};

use crate::support::{
    ALICE, BOB, Fault, Faulty, KIOSK, Meanwhile, NOW_MS, at, event, kiosk, mint, mint_of, on_each, refunded, retracted,
    sold, store, transfer,
};

const ZERO: Address = Address::ZERO;

pub(crate) fn words(outcomes: &[Outcome]) -> Vec<&'static str> {
    let word = |outcome: &Outcome| match outcome {
        Outcome::New => "new",
        Outcome::Known => "known",
        Outcome::Waiting => "waiting",
        Outcome::NoRoom => "no room",
        Outcome::Failed(_) => "failed",
    };
    outcomes.iter().map(word).collect()
}

pub(crate) async fn holders(store: &Store) -> Vec<(u64, Option<Address>)> {
    let tickets = store.tickets(&kiosk()).await.unwrap();
    tickets.iter().map(|record| (record.ticket.token_id.to(), record.holding.holder)).collect()
}

pub(crate) async fn generation(store: &Store) -> u64 {
    store.event(&event(0)).await.unwrap().unwrap().generation
}

#[tokio::test]
async fn a_purchase_names_its_holder_and_makes_the_event_due() {
    on_each(async |table| {
        let store = store(table);
        let recorded = store.record(&[mint()]).await;
        assert_eq!((words(&recorded.outcomes), recorded.due), (vec!["new"], [event(0)].into()));
        let minted = store.event(&event(0)).await.unwrap().unwrap();
        assert_eq!((minted.generation, minted.due_at_ms, minted.replaying), (1, Some(NOW_MS), false));
        assert_eq!(minted.minted.unwrap().incarnation, mint().incarnation().unwrap());
        assert_eq!(store.events().await.unwrap(), [event(0)]);
        assert_eq!(store.kiosk_owner(&kiosk()).await.unwrap(), Some(event(0)));

        let facts = [
            transfer(7, at(2, 0, 2), ZERO, ALICE),
            sold(7, at(2, 2, 2), ALICE),
            transfer(8, at(2, 3, 2), ZERO, BOB),
            transfer(7, at(2, 0, 2), ZERO, ALICE),
        ];
        let recorded = store.record(&facts).await;
        assert_eq!((words(&recorded.outcomes), recorded.due), (vec!["new", "new", "new", "known"], [event(0)].into()));
        assert_eq!(holders(&store).await, [(7, Some(ALICE)), (8, Some(BOB))]);
        assert_eq!(generation(&store).await, 2, "one step for the batch");
        assert_eq!(store.facts(&facts[0].ticket().unwrap()).await.unwrap(), facts[..2]);
        let due = store.due(NOW_MS, 10).await.unwrap();
        assert_eq!(due.iter().map(|due| (due.event, due.at_ms)).collect::<Vec<_>>(), [(event(0), NOW_MS)]);
    })
    .await;
}

#[tokio::test]
async fn what_changes_no_holding_changes_no_generation() {
    let store = store(MemoryTable::new());
    store.record(&[mint(), transfer(7, at(2, 0, 2), ZERO, ALICE)]).await;
    let recorded = store.record(&[sold(7, at(2, 2, 2), ALICE)]).await;
    assert_eq!((words(&recorded.outcomes), recorded.due.len()), (vec!["new"], 0));
    let recorded = store.record(&[mint(), transfer(7, at(2, 0, 2), ZERO, ALICE)]).await;
    assert_eq!((words(&recorded.outcomes), recorded.due.len()), (vec!["known", "known"], 0));
    assert_eq!(generation(&store).await, 2);
}

#[tokio::test]
async fn a_tombstone_kills_its_fact_whichever_came_first() {
    on_each(async |table| {
        let store = store(table);
        let (issue, resale) = (transfer(7, at(2, 0, 2), ZERO, ALICE), transfer(7, at(3, 0, 3), ALICE, BOB));
        store.record(&[mint(), issue.clone(), retracted(&resale)]).await;
        assert_eq!(holders(&store).await, [(7, Some(ALICE))]);
        assert_eq!(words(&store.record(std::slice::from_ref(&resale)).await.outcomes), ["known"]);
        assert_eq!(holders(&store).await, [(7, Some(ALICE))]);
        let before = generation(&store).await;
        let recorded = store.record(&[retracted(&issue), issue.clone()]).await;
        assert_eq!(words(&recorded.outcomes), ["new", "known"]);
        assert_eq!((holders(&store).await, generation(&store).await), (vec![(7, None)], before + 1));
        assert_eq!(store.facts(&issue.ticket().unwrap()).await.unwrap(), [retracted(&issue), retracted(&resale)]);
        let both_at_once = [transfer(9, at(4, 0, 4), ZERO, BOB), retracted(&transfer(9, at(4, 0, 4), ZERO, BOB))];
        assert_eq!(words(&store.record(&both_at_once).await.outcomes), ["new", "new"]);
        assert_eq!(holders(&store).await, [(7, None), (9, None)]);
    })
    .await;
}

#[tokio::test]
async fn former_holders_are_kept_newest_first() {
    let store = store(MemoryTable::new());
    let carol = Address::repeat_byte(0xca);
    let resale = transfer(7, at(3, 0, 3), ALICE, carol);
    store
        .record(&[
            mint(),
            transfer(7, at(2, 0, 2), ZERO, ALICE),
            retracted(&resale),
            transfer(7, at(4, 0, 4), ALICE, BOB),
        ])
        .await;
    let tickets = store.tickets(&kiosk()).await.unwrap();
    assert_eq!((tickets[0].holding.holder, tickets[0].former.as_slice()), (Some(BOB), [ALICE, carol].as_slice()));
}

#[tokio::test]
async fn a_large_batch_is_cut_into_transactions() {
    on_each(async |table| {
        let store = store(table);
        store.record(&[mint()]).await;
        let issues: Vec<_> = (0..100).map(|token| transfer(token, at(2, token, 2), ZERO, ALICE)).collect();
        let recorded = store.record(&issues).await;
        assert!(words(&recorded.outcomes).iter().all(|word| *word == "new"));
        assert_eq!(store.tickets(&kiosk()).await.unwrap().len(), 100);
        assert_eq!(generation(&store).await, 1 + 100_u64.div_ceil(TICKETS_MAX as u64));
        let moves: Vec<_> = (0..150).map(|n| transfer(1, at(3 + n, 0, 3), ALICE, BOB)).collect();
        assert!(words(&store.record(&moves).await.outcomes).iter().all(|word| *word == "new"));
    })
    .await;
}

#[tokio::test]
async fn facts_wait_for_their_kiosk_and_are_replayed() {
    on_each(async |table| {
        let store = store(table.clone());
        let issue = transfer(7, at(2, 0, 2), ZERO, ALICE);
        let resale = transfer(7, at(3, 0, 3), ALICE, BOB);
        let early = [issue.clone(), issue.clone(), retracted(&resale), resale];
        let recorded = store.record(&early).await;
        assert_eq!((words(&recorded.outcomes), recorded.due.len()), (vec!["waiting"; 4], 0));
        assert_eq!(words(&store.record(&early[..2]).await.outcomes), ["waiting", "waiting"]);
        let rows = table.query(&Query::all(format!("waiting#{}", kiosk()))).await.unwrap();
        assert_eq!(rows.len(), 4, "three facts and their count");
        assert!(rows.iter().all(|row| row.number(EXPIRES_AT_S) == Some(NOW_MS / 1000 + WAITING_S)));
        assert!(holders(&store).await.is_empty());

        let recorded = store.record(&[mint()]).await;
        assert_eq!(words(&recorded.outcomes), ["new"]);
        assert_eq!(holders(&store).await, [(7, Some(ALICE))]);
        assert!(!store.event(&event(0)).await.unwrap().unwrap().replaying);
        assert!(table.query(&Query::all(format!("waiting#{}", kiosk()))).await.unwrap().is_empty());
        assert_eq!(words(&store.record(&early[..1]).await.outcomes), ["known"]);
    })
    .await;
}

#[tokio::test]
async fn many_waiting_facts_are_replayed_to_the_last() {
    let store = store(MemoryTable::new());
    let issues: Vec<_> = (0..250).map(|token| transfer(token, at(2, token, 2), ZERO, ALICE)).collect();
    store.record(&issues).await;
    store.record(&[mint()]).await;
    assert_eq!(store.tickets(&kiosk()).await.unwrap().len(), 250);
}

#[tokio::test]
async fn no_more_wait_than_there_is_room() {
    let table = Arc::new(MemoryTable::new());
    let store = store(table.clone());
    let fact = |n: u64| transfer(n, at(2, n, 2), ZERO, ALICE);
    let facts: Vec<_> = (0..WAITING_MAX + 5).map(fact).collect();
    let recorded = store.record(&facts).await;
    let count = |word: &str| words(&recorded.outcomes).iter().filter(|w| **w == word).count() as u64;
    assert_eq!((count("waiting"), count("no room")), (WAITING_MAX, 5));
    let again = store.record(&[fact(0), fact(WAITING_MAX + 9)]).await;
    assert_eq!(words(&again.outcomes), ["waiting", "no room"]);
    assert_eq!(table.dump().len() as u64, WAITING_MAX + 1);
}

#[tokio::test]
async fn a_mint_and_its_first_sales_may_come_in_one_batch() {
    let store = store(MemoryTable::new());
    let recorded = store.record(&[transfer(7, at(2, 0, 2), ZERO, ALICE), mint()]).await;
    assert_eq!(words(&recorded.outcomes), ["new", "new"]);
    assert_eq!(holders(&store).await, [(7, Some(ALICE))]);
}

#[tokio::test]
async fn a_reorganised_mint_gives_the_event_another_incarnation() {
    on_each(async |table| {
        let store = store(table);
        let (first, second) = (mint(), mint_of(0, at(2, 0, 2), BOB, Address::repeat_byte(0x22)));
        store.record(std::slice::from_ref(&first)).await;
        store.record(std::slice::from_ref(&second)).await;
        let record = store.event(&event(0)).await.unwrap().unwrap();
        assert_eq!((record.generation, record.minted.unwrap().incarnation.creator), (2, BOB));
        assert_eq!(store.kiosk_owner(&kiosk()).await.unwrap(), None);
        let recorded = store.record(&[retracted(&second)]).await;
        assert_eq!(recorded.due, [event(0)].into());
        let record = store.event(&event(0)).await.unwrap().unwrap();
        assert_eq!((record.generation, record.minted.unwrap().incarnation.creator), (3, ALICE));
        assert_eq!(store.kiosk_owner(&kiosk()).await.unwrap(), Some(event(0)));
        store.record(&[retracted(&first)]).await;
        let record = store.event(&event(0)).await.unwrap().unwrap();
        assert_eq!((record.generation, record.minted, record.disputed), (4, None, false));
        assert_eq!(store.mints(&event(0)).await.unwrap(), [retracted(&first), retracted(&second)]);
    })
    .await;
}

#[tokio::test]
async fn events_that_share_a_kiosk_are_all_due_and_the_first_owns_it() {
    let store = store(MemoryTable::new());
    let (late, early) = (mint_of(5, at(9, 0, 9), BOB, KIOSK), mint());
    store.record(std::slice::from_ref(&late)).await;
    assert_eq!(store.kiosk_owner(&kiosk()).await.unwrap(), Some(event(5)));
    assert_eq!(store.record(std::slice::from_ref(&early)).await.due, [event(0), event(5)].into());
    assert_eq!(store.kiosk(&kiosk()).await.unwrap(), Some(vec![event(5), event(0)]));
    assert_eq!(store.kiosk_owner(&kiosk()).await.unwrap(), Some(event(0)));
    assert_eq!(store.record(&[transfer(7, at(10, 0, 10), ZERO, ALICE)]).await.due, [event(0), event(5)].into());
    assert_eq!(store.record(&[retracted(&early)]).await.due, [event(0), event(5)].into());
    assert_eq!(store.kiosk_owner(&kiosk()).await.unwrap(), Some(event(5)));
    for (id, generation) in [(0, 3), (5, 4)] {
        assert_eq!(store.event(&event(id)).await.unwrap().unwrap().generation, generation, "event {id}");
    }
}

#[tokio::test]
async fn an_event_that_announces_the_kiosk_meanwhile_learns_of_the_sale() {
    let table = Arc::new(MemoryTable::new());
    let calm = store(table.clone());
    calm.record(&[mint()]).await;
    let announced = {
        let calm = calm.clone();
        async move { drop(calm.record(&[mint_of(5, at(9, 0, 9), BOB, KIOSK)]).await) }
    };
    let recorded = store(Meanwhile::new(table, announced)).record(&[transfer(7, at(2, 0, 2), ZERO, ALICE)]).await;
    assert_eq!((words(&recorded.outcomes), recorded.due), (vec!["new"], [event(0), event(5)].into()));
    assert_eq!(calm.event(&event(5)).await.unwrap().unwrap().generation, 2, "its mint and the sale");
}

#[tokio::test]
async fn a_fact_does_not_wait_for_a_kiosk_announced_meanwhile() {
    let table = Arc::new(MemoryTable::new());
    let calm = store(table.clone());
    let minted = {
        let calm = calm.clone();
        async move { drop(calm.record(&[mint()]).await) }
    };
    let recorded = store(Meanwhile::new(table, minted)).record(&[transfer(7, at(2, 0, 2), ZERO, ALICE)]).await;
    assert_eq!(words(&recorded.outcomes), ["new"]);
    assert_eq!(holders(&calm).await, [(7, Some(ALICE))]);
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let wallet = || prop::sample::select(vec![ZERO, ALICE, BOB]);
    let position = (2..5_u64, 0..3_u64, 1..3_u8).prop_map(|(number, index, block)| at(number, index, block));
    let ticket =
        (0..4_u8, 0..3_u64, position, wallet(), wallet()).prop_map(|(kind, token, position, from, to)| match kind {
            0 | 1 => transfer(token, position, from, to),
            2 => sold(token, position, to),
            _ => refunded(token, position, to),
        });
    let minted =
        (1..4_u64, 1..3_u8, wallet()).prop_map(|(number, block, by)| mint_of(0, at(number, 9, block), by, KIOSK));
    (prop_oneof![8 => ticket, 1 => minted], prop::bool::weighted(0.25))
        .prop_map(|(fact, dead)| if dead { retracted(&fact) } else { fact })
}

/// A history, and the same facts shuffled, doubled and cut into batches.
fn histories() -> impl Strategy<Value = (Vec<Fact>, Vec<Vec<Fact>>)> {
    prop::collection::vec(any_fact(), 1..24).prop_flat_map(|mut facts| {
        facts.push(mint());
        let doubled = facts.iter().chain(&facts).cloned().collect::<Vec<_>>();
        (Just(facts), Just(doubled).prop_shuffle(), prop::collection::vec(1..6_usize, 48)).prop_map(
            |(facts, mut shuffled, sizes)| {
                let mut batches = Vec::new();
                for size in sizes {
                    let rest = shuffled.split_off(size.min(shuffled.len()));
                    batches.push(std::mem::replace(&mut shuffled, rest));
                }
                batches.retain(|batch: &Vec<Fact>| !batch.is_empty());
                (facts, batches)
            },
        )
    })
}

/// What the facts must add up to, by the domain alone.
fn expected(facts: &[Fact]) -> BTreeMap<TicketKey, Holding> {
    let tickets = facts.iter().filter_map(Fact::ticket);
    let of = |ticket: TicketKey| facts.iter().filter(|f| f.ticket() == Some(ticket)).cloned().collect::<Vec<_>>();
    tickets.map(|ticket| (ticket, ticket::fold(&of(ticket)))).collect()
}

async fn actual(store: &Store) -> BTreeMap<TicketKey, Holding> {
    let tickets = store.tickets(&kiosk()).await.unwrap();
    tickets.into_iter().map(|record| (record.ticket, record.holding)).collect()
}

/// Tells a batch that was not stored: its message would be delivered again.
fn redelivered(outcomes: &[Outcome]) -> bool {
    let again = |outcome: &Outcome| match outcome {
        Outcome::Failed(error) => {
            assert_ne!(error.kind(), Kind::Bug, "{error:?}");
            true
        }
        _ => false,
    };
    outcomes.iter().any(again)
}

#[tokio::test]
async fn any_order_duplication_and_concurrency_end_in_the_same_tickets() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..150 {
        let (facts, batches) = histories().new_tree(&mut runner).unwrap().current();
        let store = store(Faulty::new(MemoryTable::new(), Fault::Interleave));
        let lane = |lane: usize| {
            let (store, batches) = (&store, &batches);
            async move {
                for batch in batches.iter().skip(lane).step_by(4) {
                    while redelivered(&store.record(batch).await.outcomes) {}
                }
            }
        };
        join_all((0..4).map(lane)).await;
        assert_eq!(actual(&store).await, expected(&facts), "{batches:#?}");
        let record = store.event(&event(0)).await.unwrap().unwrap();
        let mints: Vec<_> = facts.iter().filter(|fact| fact.incarnation().is_some()).cloned().collect();
        assert_eq!(record.minted, usher_domain::event::fold(&mints).current);
        assert!(!record.replaying && record.due_at_ms.is_some());
    }
}

#[tokio::test]
async fn the_emulator_ends_in_the_same_tickets_too() {
    let emulator = crate::support::Emulator::start().await;
    let mut runner = TestRunner::deterministic();
    let (facts, batches) = histories().new_tree(&mut runner).unwrap().current();
    let store = store(emulator.table.clone());
    join_all((0..2).map(|lane| {
        let (store, batches) = (&store, &batches);
        async move {
            for batch in batches.iter().skip(lane).step_by(2) {
                while redelivered(&store.record(batch).await.outcomes) {}
            }
        }
    }))
    .await;
    assert_eq!(actual(&store).await, expected(&facts));
}

#[tokio::test]
async fn dying_at_any_call_loses_nothing() {
    let early = [transfer(7, at(2, 0, 2), ZERO, ALICE), transfer(8, at(2, 1, 2), ZERO, BOB)];
    let batch = [mint(), transfer(7, at(3, 0, 3), ALICE, BOB)];
    for first in 0.. {
        let table = Arc::new(MemoryTable::new());
        let well = store(table.clone());
        well.record(&early).await;
        let dying = Arc::new(Faulty::new(table.clone(), Fault::DeadFrom(first)));
        store(dying.clone()).record(&batch).await;

        let event_known = well.event(&event(0)).await.unwrap();
        if let Some(record) = event_known.filter(|record| record.replaying) {
            assert!(record.due_at_ms.is_some(), "an unfinished replay keeps its event due");
        }
        well.replay(&event(0)).await.unwrap();
        assert!(!redelivered(&well.record(&batch).await.outcomes));
        assert_eq!(holders(&well).await, [(7, Some(BOB)), (8, Some(BOB))], "died at call {first}");
        assert!(well.event(&event(0)).await.unwrap().unwrap().due_at_ms.is_some());
        assert!(table.query(&Query::all(format!("waiting#{}", kiosk()))).await.unwrap().is_empty());
        if dying.calls() <= first {
            assert!(first > 10, "the test saw {first} calls");
            return;
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_told_and_a_second_try_finds_it_known() {
    let table = Arc::new(MemoryTable::new());
    store(table.clone()).record(&[mint()]).await;
    let faulty = store(Faulty::new(table, Fault::AnswerLostAt(0)));
    let issue = [transfer(7, at(2, 0, 2), ZERO, ALICE)];
    let lost = faulty.record(&issue).await;
    let [Outcome::Failed(error)] = lost.outcomes.as_slice() else { panic!("{lost:?}") };
    assert_eq!(error.kind(), Kind::RetrySoon);
    assert_eq!(words(&faulty.record(&issue).await.outcomes), ["known"]);
    assert_eq!((holders(&faulty).await, generation(&faulty).await), (vec![(7, Some(ALICE))], 2));
}
