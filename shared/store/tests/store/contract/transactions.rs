//! All or nothing, and why nothing.

use futures::future::join_all;
use usher_store::{
    Kind, Table, TableError,
    table::{Attributes, Condition, Item, Key, Query, Reason, Step, Write},
};

use super::{item, key, keys};
use crate::support::on_each;

#[tokio::test]
async fn a_transaction_happens_whole_or_not_and_says_why() {
    on_each(async |table| {
        let stored = table.write(&Write::put(key("b"), item(&[("n", 1.into())]))).await.unwrap();
        let writes = [
            Write::put(key("a"), Item::new()),
            Write::update(key("b"), vec![Step::set("n", 2)]).when(Condition::equals("n", 7)),
            Write::check(key("c"), Condition::ITEM_ABSENT),
            Write::delete(key("d")).when(Condition::ITEM_EXISTS),
        ];
        let error = table.transact(&writes).await.unwrap_err();
        let expected =
            [Reason::None, Reason::ConditionFailed(Some(stored.clone())), Reason::None, Reason::ConditionFailed(None)];
        let TableError::Cancelled { reasons } = &error else { panic!("{error:?}") };
        assert_eq!((error.kind(), reasons.as_slice()), (Kind::ConditionFailed, expected.as_slice()));
        assert_eq!(table.query(&Query::all("p")).await.unwrap(), [stored]);

        let writes = [
            Write::put(key("a"), Item::new()),
            Write::update(key("b"), vec![Step::Add("n", 4), Step::set("x", "y")]),
            Write::check(key("c"), Condition::ITEM_ABSENT),
            Write::update(key("d"), vec![Step::SetIfAbsent("n", 3.into()), Step::Remove("gone")]),
        ];
        table.transact(&writes).await.unwrap();
        let now = table.query(&Query::all("p")).await.unwrap();
        assert_eq!(keys(&now), ["a", "b", "d"]);
        assert_eq!((now[1].number("n"), now[1].text("x"), now[2].number("n")), (Some(5), Some("y"), Some(3)));
    })
    .await;
}

#[tokio::test]
async fn a_transaction_spans_partitions() {
    on_each(async |table| {
        let puts = ["p", "q", "r"].map(|pk| Write::put(Key::new(pk, "a"), Item::new()));
        table.transact(&puts).await.unwrap();
        for put in &puts {
            assert!(table.get(&put.key).await.unwrap().is_some());
        }
    })
    .await;
}

#[tokio::test]
async fn each_of_100_writes_has_its_reason_with_its_own_item() {
    on_each(async |table| {
        let name = |n: u64| key(&format!("{n:03}"));
        let items: Vec<_> = (0..100).map(|n| Write::put(name(n), item(&[("n", n.into())]))).collect();
        table.transact(&items).await.unwrap();
        let refused = |n: u64| n.is_multiple_of(33);
        let writes: Vec<_> = (0..100)
            .map(|n| {
                let condition = Condition::equals("n", n + u64::from(refused(n)));
                match n % 4 {
                    0 => Write::put(name(n), Item::new()).when(condition),
                    1 => Write::update(name(n), vec![Step::Remove("n")]).when(condition),
                    2 => Write::delete(name(n)).when(condition),
                    _ => Write::check(name(n), condition),
                }
            })
            .collect();
        let error = table.transact(&writes).await.unwrap_err();
        let TableError::Cancelled { reasons } = &error else { panic!("{error:?}") };
        assert_eq!(reasons.len(), 100);
        for (n, reason) in (0..).zip(reasons) {
            match reason {
                Reason::ConditionFailed(Some(old)) => assert_eq!((refused(n), old.number("n")), (true, Some(n))),
                reason => assert_eq!((refused(n), reason), (false, &Reason::None)),
            }
            assert_eq!(error.failed_condition(usize::try_from(n).unwrap()).is_some(), refused(n));
        }
        let now = table.query(&Query::all("p")).await.unwrap();
        assert!((0..).zip(&now).all(|(n, item)| item.number("n") == Some(n)) && now.len() == 100);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_has_1_to_100_writes_of_different_items() {
    on_each(async |table| {
        let puts =
            |count: usize| (0..count).map(|n| Write::put(key(&format!("{n:03}")), Item::new())).collect::<Vec<_>>();
        let put = Write::put(key("a"), Item::new());
        for (name, writes) in [
            ("none", vec![]),
            ("101", puts(101)),
            ("the same twice", vec![put.clone(), put.clone()]),
            ("checked and put", vec![Write::check(key("a"), Condition::ITEM_ABSENT), put.clone()]),
            ("put and deleted", vec![put.clone(), Write::put(key("b"), Item::new()), Write::delete(key("a"))]),
            ("put and updated", vec![put, Write::update(key("a"), vec![Step::set("x", 1)])]),
        ] {
            let error = table.transact(&writes).await.unwrap_err();
            assert!(matches!(error, TableError::Bug(_)), "{name}: {error:?}");
        }
        assert!(table.query(&Query::all("p")).await.unwrap().is_empty());
        table.transact(&puts(100)).await.unwrap();
        assert_eq!(table.query(&Query::all("p")).await.unwrap().len(), 100);
    })
    .await;
}

#[tokio::test]
async fn a_check_without_condition_is_refused() {
    on_each(async |table| {
        let check = Write { condition: None, ..Write::check(key("a"), Condition::ITEM_EXISTS) };
        assert_eq!(table.transact(&[check]).await.unwrap_err().kind(), Kind::Bug);
    })
    .await;
}

#[tokio::test]
async fn what_was_written_is_read_by_everybody_at_once() {
    on_each(async |table| {
        for n in 0..20 {
            let named = format!("{n:02}");
            let writes = ["a", "b"].map(|pk| Write::put(Key::new(pk, &named), item(&[("n", n.into())])));
            table.write(&writes[0]).await.unwrap();
            table.transact(&writes[1..]).await.unwrap();
            for write in &writes {
                assert_eq!(table.get(&write.key).await.unwrap().unwrap().number("n"), Some(n));
                let all = table.query(&Query::all(&write.key.pk)).await.unwrap();
                assert_eq!(all.len() as u64, n + 1);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn of_32_that_swap_at_once_one_wins() {
    on_each(async |table| {
        table.write(&Write::put(key("a"), item(&[("n", 0.into())]))).await.unwrap();
        let swap = |by: u64| {
            let table = table.clone();
            async move {
                let swap = Write::update(key("a"), vec![Step::set("n", by)]).when(Condition::equals("n", 0));
                match table.write(&swap).await {
                    Ok(_) => true,
                    Err(error) => {
                        assert!(matches!(error.kind(), Kind::ConditionFailed | Kind::Conflict), "{error:?}");
                        false
                    }
                }
            }
        };
        let won = join_all((1..=32).map(swap)).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
    })
    .await;
}

/// Transactions that overlap by one item, and single writes of that item between them: what is told to have happened
/// has happened, once and whole.
#[tokio::test]
async fn transactions_that_overlap_add_up() {
    on_each(async |table| {
        let add = |n: u64| {
            let table = table.clone();
            async move {
                let shared = Write::update(key("shared"), vec![Step::Add("n", 1)]);
                let done = if n.is_multiple_of(3) {
                    table.write(&shared).await.map(drop)
                } else {
                    let own = Write::update(key(&format!("own {n:02}")), vec![Step::Add("n", 1)]);
                    table.transact(&[own, shared]).await
                };
                match done {
                    Ok(()) => true,
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
                        false
                    }
                }
            }
        };
        let done = join_all((0..48).map(add)).await;
        let count = |transactions: bool| {
            (0_u64..).zip(&done).filter(|(n, done)| **done && (!transactions || !n.is_multiple_of(3))).count() as u64
        };
        let shared = table.get(&key("shared")).await.unwrap().unwrap();
        assert_eq!(shared.number("n"), Some(count(false)));
        let own = table.query(&Query::prefix("p", "own")).await.unwrap();
        assert_eq!(own.len() as u64, count(true));
        assert!(own.iter().all(|item| item.number("n") == Some(1)));
    })
    .await;
}
