//! No answer: what it means, and how each caller knows its own write again.

use alloy_primitives::{Address, B256};
use usher_store::{
    Kind, Owner, Release, Store, Table, TableError, Take,
    parked::ParkedId,
    table::{Attributes, Condition, EXPIRES_AT_S, Item, Key, Query, Step, Write},
    waiting::WAITING_S,
};

use crate::{
    ledger::{generation, holders, words},
    line::{Call, Line, Lost, on_each_line, on_each_retried_line},
    snapshots::{ROOM, folder, noise, save, snapshots},
    support::{ALICE, BOB, NOW_MS, at, event, kiosk, mint, store, transfer},
};

const ZERO: Address = Address::ZERO;

#[tokio::test]
async fn without_an_answer_a_write_may_have_happened() {
    on_each_line(async |table, line, lost| {
        let happened = lost == Lost::Answer;
        let [a, b, c] =
            ["a", "b", "c"].map(|sk| Write::put(Key::new("p", sk), Item::new()).when(Condition::ITEM_ABSENT));
        line.lose(Call::Write, lost);
        let error = table.write(&a).await.unwrap_err();
        assert!(matches!(error, TableError::Unavailable(_)), "{error:?}");
        assert_eq!((error.kind(), error.failed_condition(0)), (Kind::RetrySoon, None));
        assert_eq!(table.get(&a.key).await.unwrap().is_some(), happened);

        line.lose(Call::Transact, lost);
        let error = table.transact(&[b.clone(), c.clone()]).await.unwrap_err();
        assert!(matches!(error, TableError::Unavailable(_)), "{error:?}");
        assert_eq!(error.kind(), Kind::RetrySoon);
        assert_eq!(table.query(&Query::prefix("p", "a")).await.unwrap().len(), usize::from(happened));
        for put in [&b, &c] {
            assert_eq!(table.get(&put.key).await.unwrap().is_some(), happened, "whole or not");
        }

        // The second time it meets itself.
        let again = table.write(&a).await;
        assert_eq!(again.is_err_and(|error| error.failed_condition(0).is_some()), happened);
        let again = table.transact(&[b, c]).await;
        assert_eq!(again.is_err_and(|error| error.kind() == Kind::ConditionFailed), happened);
        assert!(line.lost_all());
    })
    .await;
}

#[tokio::test]
async fn what_the_sdk_sends_again_happens_once() {
    on_each_retried_line(async |table, line, lost| {
        let count = |name: &'static str| Write::update(Key::new("p", name), vec![Step::Add("n", 1)]);
        line.lose_once(Call::Transact, lost);
        table.transact(&[count("a"), count("b").when(Condition::Absent("n"))]).await.unwrap();
        assert!(line.lost_all());
        for name in ["a", "b"] {
            let counted = table.get(&Key::new("p", name)).await.unwrap().unwrap();
            assert_eq!(counted.number("n"), Some(1), "one client request token");
        }

        // A single write has no token: it meets itself, and shows what it met.
        line.lose_once(Call::Write, lost);
        match table.write(&count("c").when(Condition::ITEM_ABSENT)).await {
            Ok(_) => assert_eq!(lost, Lost::Request),
            Err(error) => {
                assert_eq!(lost, Lost::Answer);
                assert_eq!(error.failed_condition(0).unwrap().unwrap().number("n"), Some(1));
            }
        }
        assert!(line.lost_all());
    })
    .await;
}

#[tokio::test]
async fn callers_do_not_notice_that_the_sdk_sent_again() {
    on_each_retried_line(async |table, line, lost| {
        let store = store(table.clone());
        line.lose_once(Call::Transact, lost);
        assert_eq!(words(&store.record(&[mint()]).await.outcomes), ["new"]);
        line.lose_once(Call::Write, lost);
        let Take::Taken(lease) = store.take(&event(0), "me", NOW_MS, NOW_MS + 9).await.unwrap() else {
            panic!("not taken")
        };
        assert_eq!(lease.fence, 1);
        line.lose_once(Call::Write, lost);
        let folder = folder();
        let snapshots = snapshots(table, folder.path());
        assert_eq!(snapshots.claim(&ROOM, 1).await.unwrap(), None);
        line.lose_once(Call::Transact, lost);
        assert_eq!(snapshots.save(&ROOM, save(1, 0, b"state")).await.unwrap(), 1);
        line.lose_once(Call::Write, lost);
        assert_eq!(store.release(&lease, None).await.unwrap(), Release::Released);
        assert!(line.lost_all());
    })
    .await;
}

/// Does it while the line loses it, then again.
async fn twice<R, E, F: Future<Output = Result<R, E>>>(line: &Line, call: Call, lost: Lost, act: impl Fn() -> F) -> R
where
    R: std::fmt::Debug,
    E: std::fmt::Debug,
{
    line.lose(call, lost);
    act().await.expect_err("got an answer");
    assert!(line.lost_all());
    act().await.unwrap()
}

async fn minted(table: impl Table) -> Store {
    let store = store(table);
    store.record(&[mint()]).await;
    store
}

#[tokio::test]
async fn a_lease_taken_unawares_is_ones_own() {
    on_each_line(async |table, line, lost| {
        let (store, event) = (minted(table).await, event(0));
        let take = twice(&line, Call::Write, lost, || store.take(&event, "me", NOW_MS, NOW_MS + 9)).await;
        let Take::Taken(lease) = take else { panic!("{take:?}") };
        assert_eq!((lease.fence, lease.until_ms), (1, NOW_MS + 9), "one lease was taken, not two");
        let other = store.take(&event, "you", NOW_MS, NOW_MS + 9).await.unwrap();
        assert!(matches!(other, Take::HeldByOther(held) if held.owner == "me"));

        let released = twice(&line, Call::Write, lost, || store.release(&lease, None)).await;
        assert_eq!(released, Release::Released);
        let record = store.event(&event).await.unwrap().unwrap();
        assert_eq!((record.held, record.due_at_ms, record.converged_generation), (None, None, Some(1)));

        let account = twice(&line, Call::Write, lost, || store.take_account("me", NOW_MS, NOW_MS + 9)).await.unwrap();
        assert_eq!(account.fence, 1);
        twice(&line, Call::Write, lost, || store.release_account(&account)).await;
        assert_eq!(store.take_account("you", NOW_MS, NOW_MS + 9).await.unwrap().unwrap().fence, 2);
    })
    .await;
}

/// Somebody else took the lease while the holder did not know whether it had released it.
#[tokio::test]
async fn a_release_repeated_too_late_takes_nothing_from_the_next_holder() {
    on_each_line(async |table, line, lost| {
        let store = minted(table).await;
        let take = async |owner, now_ms| store.take(&event(0), owner, now_ms, now_ms + 9).await.unwrap();
        let Take::Taken(mine) = take("me", NOW_MS).await else { panic!("not taken") };
        line.lose(Call::Write, lost);
        store.release(&mine, None).await.unwrap_err();
        let Take::Taken(yours) = take("you", NOW_MS + 10).await else { panic!("not taken") };
        assert_eq!(store.release(&mine, None).await.unwrap(), Release::Fenced);
        assert_eq!(store.event(&event(0)).await.unwrap().unwrap().held.unwrap().owner, "you");
        assert_eq!(store.release(&yours, None).await.unwrap(), Release::Released);
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_saved_unawares_is_ones_own() {
    on_each_line(async |table, line, lost| {
        let folder = folder();
        let snapshots = snapshots(table, folder.path());
        let large = noise(2, 1_200_000);
        assert_eq!(twice(&line, Call::Write, lost, || snapshots.claim(&ROOM, 1)).await, None);
        // The save itself asks again, under a new request token.
        line.lose(Call::Transact, lost);
        assert_eq!(snapshots.save(&ROOM, save(1, 0, b"small")).await.unwrap(), 1);
        assert!(line.lost_all());
        line.lose(Call::Transact, lost);
        assert_eq!(snapshots.save(&ROOM, save(1, 1, &large)).await.unwrap(), 2);
        assert!(*snapshots.load(&ROOM).await.unwrap().unwrap().plaintext == large);

        // A chunk: nothing was flipped, and what was written is nobody's.
        line.lose(Call::Write, lost);
        let chunk = snapshots.save(&ROOM, save(1, 2, &noise(3, 1_200_000))).await.unwrap_err();
        assert_eq!(chunk.kind(), Kind::RetrySoon);
        assert_eq!(snapshots.load(&ROOM).await.unwrap().unwrap().version, 2);
        for version in [2, 3] {
            assert_eq!(snapshots.save(&ROOM, save(1, version, &large)).await.unwrap(), version + 1);
        }
        assert!(*snapshots.load(&ROOM).await.unwrap().unwrap().plaintext == large);
    })
    .await;
}

/// What rode with the save may have changed since: it is recognised by the head alone.
#[tokio::test]
async fn a_save_is_recognised_though_its_side_writes_would_now_be_refused() {
    on_each_line(async |table, line, lost| {
        let folder = folder();
        let snapshots = snapshots(table.clone(), folder.path());
        snapshots.claim(&ROOM, 1).await.unwrap();
        let side = Write::put(Key::new("side", "a"), Item::new()).when(Condition::ITEM_ABSENT);
        line.lose(Call::Transact, lost);
        let saved = snapshots.save(&ROOM, usher_store::Save { side_writes: vec![side], ..save(1, 0, b"one") }).await;
        assert_eq!(saved.unwrap(), 1);
        assert_eq!(table.query(&Query::all("side")).await.unwrap().len(), 1);
        assert_eq!(snapshots.load(&Owner::Account).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn facts_recorded_unawares_are_known() {
    on_each_line(async |table, line, lost| {
        let store = store(table.clone());
        let after = if lost == Lost::Answer { "known" } else { "new" };
        let record = async |facts: &[_]| {
            line.lose(Call::Transact, lost);
            let first = store.record(facts).await;
            assert!(words(&first.outcomes).iter().all(|word| *word == "failed") && first.due.is_empty(), "{first:?}");
            assert!(line.lost_all());
            let second = store.record(facts).await;
            assert!(words(&second.outcomes).iter().all(|word| *word != "failed"), "{second:?}");
            second
        };

        // Before their kiosk is known, the count of what waits counts each once.
        let early = [transfer(7, at(2, 0, 2), ZERO, ALICE), transfer(8, at(2, 1, 2), ZERO, BOB)];
        assert_eq!(words(&record(&early).await.outcomes), ["waiting", "waiting"]);
        let waiting = table.query(&Query::all(format!("waiting#{}", kiosk()))).await.unwrap();
        let count = waiting.iter().find_map(|row| row.number("count"));
        assert_eq!((waiting.len(), count), (3, Some(2)));
        assert!(waiting.iter().all(|row| row.number(EXPIRES_AT_S) == Some(NOW_MS / 1000 + WAITING_S)));

        // What waited is replayed by the second try, whoever's the mint is.
        assert_eq!(words(&record(&[mint()]).await.outcomes), [after]);
        assert_eq!(holders(&store).await, [(7, Some(ALICE)), (8, Some(BOB))]);
        let before = generation(&store).await;
        let sale = [transfer(7, at(3, 0, 3), ALICE, BOB)];
        assert_eq!(words(&record(&sale).await.outcomes), [after]);
        assert_eq!(holders(&store).await, [(7, Some(BOB)), (8, Some(BOB))]);
        assert_eq!(generation(&store).await, before + 1, "one step, not two");
        assert_eq!(store.due(NOW_MS, 9).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_was_parked_unawares_is_parked_once() {
    on_each_line(async |table, line, lost| {
        let store = store(table);
        let body = ParkedId::Body { digest: B256::repeat_byte(2) };
        let new = twice(&line, Call::Write, lost, || store.park(body, "not JSON", "?")).await;
        assert_eq!(new, lost == Lost::Request);
        assert_eq!(store.parked_count(9).await.unwrap(), 1);
        twice(&line, Call::Write, lost, || store.unpark(body)).await;
        assert_eq!(store.parked_count(9).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_deployment_id_drawn_unawares_is_the_deployments() {
    on_each_line(async |table, line, lost| {
        let store = store(table);
        let id = twice(&line, Call::Write, lost, || store.init_deployment()).await;
        assert_eq!(store.deployment().await.unwrap(), Some(id));
    })
    .await;
}
