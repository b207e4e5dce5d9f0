//! Random operations on the model and beside it.

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use usher_store::{
    Kind, Table, TableError,
    memory::MemoryTable,
    table::{Change, Condition, Item, Query, Reason, Step, Value, Write},
};

use super::key;
use crate::{dynamodb_local, support::Emulator};

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

fn write(sk: &'static str) -> impl Strategy<Value = Write> {
    (change(), prop::option::weighted(0.7, condition())).prop_map(move |(change, condition)| {
        let condition = condition.or((change == Change::Check).then_some(Condition::ITEM_EXISTS));
        Write { key: key(sk), change, condition }
    })
}

/// One write, or several of different items.
fn writes() -> impl Strategy<Value = Vec<Write>> {
    let all = (write("a"), write("b"), write("c")).prop_map(|(a, b, c)| vec![a, b, c]);
    all.prop_flat_map(|all| prop::sample::subsequence(all, 1..=3)).prop_shuffle()
}

/// Errors compared by what callers act on: a bug's words and place are not.
fn shape(error: TableError) -> (Kind, Vec<Reason>) {
    match (error.kind(), error) {
        (Kind::Bug, _) => (Kind::Bug, Vec::new()),
        (kind, TableError::ConditionFailed { old }) => (kind, vec![Reason::ConditionFailed(old)]),
        (kind, TableError::Cancelled { reasons }) => (kind, reasons),
        (kind, _) => (kind, Vec::new()),
    }
}

/// Does the same on the model and on another table, and compares every answer and all that is stored.
async fn compare(other: impl Table) {
    let mut runner = TestRunner::deterministic();
    let histories = prop::collection::vec(writes(), 1..12);
    for history in 0..60 {
        let model = MemoryTable::new();
        let partition = format!("history {history}");
        for mut writes in histories.new_tree(&mut runner).unwrap().current() {
            writes.iter_mut().for_each(|write| write.key.pk.clone_from(&partition));
            let (ours, theirs) = if let ([write], true) = (writes.as_slice(), writes[0].change != Change::Check) {
                (model.write(write).await, other.write(write).await)
            } else {
                let (ours, theirs) = (model.transact(&writes).await, other.transact(&writes).await);
                (ours.map(|()| Item::new()), theirs.map(|()| Item::new()))
            };
            assert_eq!(ours.map_err(shape), theirs.map_err(shape), "{writes:#?}");
            let all = Query::all(&partition);
            assert_eq!(model.query(&all).await.unwrap(), other.query(&all).await.unwrap(), "{writes:#?}");
        }
    }
}

#[tokio::test]
async fn the_memory_model_does_whatever_the_emulator_does() {
    compare(Emulator::start().await.table.clone()).await;
}

#[tokio::test]
async fn the_memory_model_does_whatever_dynamodb_local_does() {
    compare(dynamodb_local::table().await).await;
}
