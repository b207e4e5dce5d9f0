//! What every [`Table`] does alike: the memory model is held to what the emulator does.

use std::sync::Arc;

use futures::future::join_all;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use usher_store::{
    Kind, Table, TableError,
    memory::MemoryTable,
    table::{
        Attributes, Change, Condition, DUE_AT_MS, DUE_SHARD, Item, Key, PK, Query, Reason, SK, Step, Value, Write,
    },
};

use crate::support::{Emulator, on_both};

fn item(attributes: &[(&str, Value)]) -> Item {
    attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn key(sk: &str) -> Key {
    Key::new("p", sk)
}

fn keys(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| item.text(SK).unwrap()).collect()
}

#[tokio::test]
async fn what_is_put_is_read_and_deleted() {
    on_both(async |table| {
        let stored =
            item(&[("t", "text".into()), ("n", u64::MAX.into()), ("b", vec![0, 255].into()), ("e", "".into())]);
        assert_eq!(table.get(&key("a")).await.unwrap(), None);
        let put = table.write(&Write::put(key("a"), stored.clone())).await.unwrap();
        let read = table.get(&key("a")).await.unwrap().unwrap();
        assert_eq!(put, read);
        assert_eq!((read.text(PK), read.text(SK)), (Some("p"), Some("a")));
        assert!(stored.iter().all(|(name, value)| read.get(name) == Some(value)));

        let replaced = table.write(&Write::put(key("a"), item(&[("x", 1.into())]))).await.unwrap();
        assert_eq!(replaced.text("t"), None);
        assert!(table.write(&Write::delete(key("a"))).await.unwrap().is_empty());
        assert_eq!(table.get(&key("a")).await.unwrap(), None);
        table.write(&Write::delete(key("a"))).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_refused_write_shows_the_stored_item_and_changes_nothing() {
    on_both(async |table| {
        let absent = table.write(&Write::put(key("a"), Item::new()).when(Condition::ITEM_EXISTS)).await.unwrap_err();
        assert_eq!((absent.kind(), absent.failed_condition(0)), (Kind::ConditionFailed, Some(None)));
        let stored = table.write(&Write::put(key("a"), item(&[("n", 5.into())]))).await.unwrap();
        for write in [
            Write::put(key("a"), Item::new()).when(Condition::ITEM_ABSENT),
            Write::update(key("a"), vec![Step::set("n", 6)]).when(Condition::less_than("n", 5)),
            Write::delete(key("a")).when(Condition::equals("n", "5")),
        ] {
            let error = table.write(&write).await.unwrap_err();
            assert_eq!(error.failed_condition(0), Some(Some(&stored)), "{write:?}");
        }
        assert_eq!(table.get(&key("a")).await.unwrap(), Some(stored));
        let check = table.write(&Write::check(key("a"), Condition::ITEM_EXISTS)).await.unwrap_err();
        assert_eq!(check.kind(), Kind::Bug);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_and_says_why() {
    on_both(async |table| {
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
async fn a_transaction_has_1_to_100_writes_of_different_items() {
    on_both(async |table| {
        let puts =
            |count: usize| (0..count).map(|n| Write::put(key(&format!("{n:03}")), Item::new())).collect::<Vec<_>>();
        for writes in [puts(0), puts(101), [puts(1), puts(1)].concat()] {
            assert_eq!(table.transact(&writes).await.unwrap_err().kind(), Kind::Bug, "{}", writes.len());
        }
        assert!(table.query(&Query::all("p")).await.unwrap().is_empty());
        table.transact(&puts(100)).await.unwrap();
        assert_eq!(table.query(&Query::all("p")).await.unwrap().len(), 100);
    })
    .await;
}

#[tokio::test]
async fn an_item_over_400_kb_is_refused() {
    on_both(async |table| {
        let big = |bytes: usize| Write::put(key("a"), item(&[("body", vec![1_u8; bytes].into())]));
        table.write(&big(409_000)).await.unwrap();
        for error in [
            table.write(&big(410_000)).await.unwrap_err(),
            table.write(&Write::update(key("a"), vec![Step::set("more", vec![1; 2_000])])).await.unwrap_err(),
            table.transact(&[big(410_000)]).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::Bug, "{error:?}");
        }
        let stored = table.get(&key("a")).await.unwrap().unwrap();
        assert_eq!(stored.bytes("body").unwrap().len(), 409_000);
    })
    .await;
}

#[tokio::test]
async fn queries_page_to_the_end_or_to_their_limit() {
    on_both(async |table| {
        let sks = ["a#0", "a#1", "a#2", "a#3", "b#0", "c#0"];
        for sk in sks {
            table.write(&Write::put(key(sk), item(&[("body", vec![7_u8; 390_000].into())]))).await.unwrap();
        }
        table.write(&Write::put(Key::new("q", "a#0"), Item::new())).await.unwrap();
        let found = table.query(&Query::all("p")).await.unwrap();
        assert_eq!(keys(&found), sks);
        assert!(found.iter().all(|item| item.bytes("body").unwrap().len() == 390_000));
        assert_eq!(keys(&table.query(&Query::prefix("p", "a#")).await.unwrap()), sks[..4]);
        assert_eq!(keys(&table.query(&Query::all("p").limit(4)).await.unwrap()), sks[..4]);
        assert_eq!(keys(&table.query(&Query::between("p", "a#2", "b#0")).await.unwrap()), sks[2..5]);
        let named = table.query(&Query::all("p").keys_only()).await.unwrap();
        assert_eq!(keys(&named), sks);
        assert!(named.iter().all(|item| item.len() == 2));
        assert!(table.query(&Query::prefix("p", "x")).await.unwrap().is_empty());
        assert!(table.query(&Query::all("p").limit(0)).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_due_index_has_what_is_due_in_order() {
    on_both(async |table| {
        let due = |sk: &str, shard: &str, at_ms: u64| {
            Write::put(key(sk), item(&[(DUE_SHARD, shard.into()), (DUE_AT_MS, at_ms.into()), ("x", 1.into())]))
        };
        for write in [due("a", "0", 30), due("b", "0", 10), due("c", "1", 5), due("d", "0", 20), due("e", "0", 31)] {
            table.write(&write).await.unwrap();
        }
        table.write(&Write::put(key("f"), Item::new())).await.unwrap();
        let found = table.due("0", 30, 10).await.unwrap();
        assert_eq!(keys(&found), ["b", "d", "a"]);
        assert_eq!(
            found[0],
            item(&[(PK, "p".into()), (SK, "b".into()), (DUE_SHARD, "0".into()), (DUE_AT_MS, 10.into())])
        );
        assert_eq!(keys(&table.due("0", 30, 2).await.unwrap()), ["b", "d"]);
        let rest = Write::update(key("b"), vec![Step::Remove(DUE_SHARD), Step::Remove(DUE_AT_MS)]);
        table.write(&rest).await.unwrap();
        assert_eq!(keys(&table.due("0", 30, 10).await.unwrap()), ["d", "a"]);
    })
    .await;
}

#[tokio::test]
async fn of_32_that_swap_at_once_one_wins() {
    on_both(async |table| {
        table.write(&Write::put(key("a"), item(&[("n", 0.into())]))).await.unwrap();
        let swap = |by: u64| {
            let table = table.clone();
            async move {
                let swap = Write::update(key("a"), vec![Step::set("n", by)]).when(Condition::equals("n", 0));
                table.write(&swap).await.is_ok()
            }
        };
        let won = join_all((1..=32).map(swap)).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
    })
    .await;
}

const NAMES: [&str; 3] = ["x", "y", "z"];

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMES[..])
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..4_u64).prop_map(Value::Number),
        prop::sample::select(vec!["", "a", "b"]).prop_map(Value::from),
        prop::collection::vec(0..2_u8, 0..2).prop_map(Value::Bytes),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        Just(Condition::ITEM_EXISTS),
        Just(Condition::ITEM_ABSENT),
        name().prop_map(Condition::Exists),
        name().prop_map(Condition::Absent),
        (name(), value()).prop_map(|(name, value)| Condition::Equals(name, value)),
        (name(), value()).prop_map(|(name, value)| Condition::LessThan(name, value)),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..3).prop_map(Condition::And),
            prop::collection::vec(inner, 1..3).prop_map(Condition::Or),
        ]
    })
}

fn change() -> impl Strategy<Value = Change> {
    let step = |name: &'static str| {
        prop_oneof![
            value().prop_map(move |value| Step::Set(name, value)),
            value().prop_map(move |value| Step::SetIfAbsent(name, value)),
            (0..3_u64).prop_map(move |by| Step::Add(name, by)),
            Just(Step::Remove(name)),
        ]
    };
    prop_oneof![
        prop::collection::btree_map(name().prop_map(str::to_owned), value(), 0..3).prop_map(Change::Put),
        (step("x"), step("y"), value()).prop_map(|(x, y, z)| Change::Update(vec![x, y, Step::Set("z", z)])),
        Just(Change::Delete),
        Just(Change::Check),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    (prop::sample::select(vec!["a", "b", "c"]), change(), prop::option::weighted(0.7, condition())).prop_map(
        |(sk, change, condition)| {
            let condition = condition.or((change == Change::Check).then_some(Condition::ITEM_EXISTS));
            Write { key: key(sk), change, condition }
        },
    )
}

/// Errors compared by what callers act on, not by their words.
fn shape(error: &TableError) -> (Kind, Vec<Reason>) {
    match error {
        TableError::ConditionFailed { old } => (error.kind(), vec![Reason::ConditionFailed(old.clone())]),
        TableError::Cancelled { reasons } => {
            let wordless = |reason: &Reason| match reason {
                Reason::Other(_) => Reason::Other(String::new()),
                reason => reason.clone(),
            };
            (error.kind(), reasons.iter().map(wordless).collect())
        }
        _ => (error.kind(), Vec::new()),
    }
}

#[tokio::test]
async fn the_memory_model_does_whatever_the_emulator_does() {
    let emulator = Emulator::start().await;
    let mut runner = TestRunner::deterministic();
    let histories = prop::collection::vec(prop::collection::vec(write(), 1..4), 1..12);
    for history in 0..60 {
        let model = MemoryTable::new();
        let partition = format!("history {history}");
        for mut writes in histories.new_tree(&mut runner).unwrap().current() {
            writes.iter_mut().for_each(|write| write.key.pk.clone_from(&partition));
            let (ours, theirs) = if let ([write], true) = (writes.as_slice(), writes[0].change != Change::Check) {
                (model.write(write).await, emulator.table.write(write).await)
            } else {
                let (ours, theirs) = (model.transact(&writes).await, emulator.table.transact(&writes).await);
                (ours.map(|()| Item::new()), theirs.map(|()| Item::new()))
            };
            assert_eq!(ours.map_err(|e| shape(&e)), theirs.map_err(|e| shape(&e)), "{writes:#?}");
            let all = Query::all(&partition);
            assert_eq!(model.query(&all).await.unwrap(), emulator.table.query(&all).await.unwrap(), "{writes:#?}");
        }
    }
}

/// A shared table is a table.
#[tokio::test]
async fn a_table_can_be_shared() {
    let table = Arc::new(MemoryTable::new());
    Arc::clone(&table).write(&Write::put(key("a"), Item::new())).await.unwrap();
    assert_eq!(table.dump().len(), 1);
}
