//! What the steps of an update do.

use usher_store::{
    Kind, Table, TableError,
    table::{Item, PK, Query, Reason, SK, Step, Value, Write},
};

use super::{item, key};
use crate::support::{On, on_all_but, on_each};

fn before() -> Item {
    item(&[("text", "t".into()), ("number", 7.into()), ("bytes", vec![1].into()), ("empty", "".into())])
}

type Attributes = Vec<(&'static str, Value)>;

/// Steps, and the attributes they change: of the item above, and of none.
fn changes() -> Vec<(Vec<Step>, Attributes, Attributes)> {
    use Step::{Add, Remove, Set, SetIfAbsent};
    let gone = Value::from("gone");
    vec![
        (vec![Set("text", "new".into())], vec![("text", "new".into())], vec![("text", "new".into())]),
        (vec![Set("text", 3.into())], vec![("text", 3.into())], vec![("text", 3.into())]),
        (vec![SetIfAbsent("text", "x".into())], vec![], vec![("text", "x".into())]),
        (vec![SetIfAbsent("empty", "x".into())], vec![], vec![("empty", "x".into())]),
        (vec![SetIfAbsent("number", vec![2].into())], vec![], vec![("number", vec![2].into())]),
        (vec![SetIfAbsent("new", 0.into())], vec![("new", 0.into())], vec![("new", 0.into())]),
        (vec![Add("number", 5)], vec![("number", 12.into())], vec![("number", 5.into())]),
        (vec![Add("number", 0)], vec![], vec![("number", 0.into())]),
        (vec![Add("number", u64::MAX - 7)], vec![("number", u64::MAX.into())], vec![("number", (u64::MAX - 7).into())]),
        (vec![Remove("text")], vec![("text", gone.clone())], vec![]),
        (vec![Remove("nothing")], vec![], vec![]),
        (
            vec![Remove("bytes"), Add("number", 1), SetIfAbsent("new", "n".into()), Set("text", "u".into())],
            vec![("bytes", gone), ("number", 8.into()), ("new", "n".into()), ("text", "u".into())],
            vec![("number", 1.into()), ("new", "n".into()), ("text", "u".into())],
        ),
    ]
}

#[tokio::test]
async fn every_step_changes_its_attribute_and_no_other() {
    on_each(async |table| {
        for (number, (steps, of_item, of_none)) in changes().into_iter().enumerate() {
            let (there, absent) = (key(&format!("there {number}")), key(&format!("absent {number}")));
            for (key, before, changed) in [(there, before(), of_item), (absent, Item::new(), of_none)] {
                if !before.is_empty() {
                    table.write(&Write::put(key.clone(), before.clone())).await.unwrap();
                }
                let mut after = before;
                after.extend(item(&[(PK, key.pk.as_str().into()), (SK, key.sk.as_str().into())]));
                after.extend(item(&changed));
                after.retain(|_, value| *value != "gone".into());
                let answer = table.write(&Write::update(key.clone(), steps.clone())).await.unwrap();
                assert_eq!(answer, after, "{steps:?}");
                assert_eq!(table.get(&key).await.unwrap(), Some(after.clone()), "{steps:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_update_that_makes_no_sense_is_refused_and_changes_nothing() {
    on_each(async |table| {
        let stored = table.write(&Write::put(key("a"), before())).await.unwrap();
        for steps in [
            vec![],
            vec![Step::set("text", "a"), Step::set("text", "b")],
            vec![Step::Add("number", 1), Step::Remove("number")],
            vec![Step::Add("text", 1)],
            vec![Step::Add("bytes", 1)],
            vec![Step::set("new", 1), Step::Add("empty", 1)],
        ] {
            let update = Write::update(key("a"), steps);
            let single = table.write(&update).await.unwrap_err();
            assert_eq!(single.kind(), Kind::Bug, "{update:?}: {single:?}");
            let other = Write::put(key("b"), Item::new());
            let both = table.transact(&[other, update.clone()]).await.unwrap_err();
            assert_eq!(both.kind(), Kind::Bug, "{update:?}: {both:?}");
        }
        assert_eq!(table.get(&key("a")).await.unwrap(), Some(stored));
        assert_eq!(table.get(&key("b")).await.unwrap(), None);
    })
    .await;
}

/// dynoxide lets a transaction do it.
#[tokio::test]
async fn no_step_is_for_the_key() {
    on_all_but(On::Dynoxide, async |table| {
        let stored = table.write(&Write::put(key("a"), before())).await.unwrap();
        for step in [Step::set(PK, "p"), Step::set(SK, "other"), Step::SetIfAbsent(PK, "q".into()), Step::Remove(SK)] {
            let update = Write::update(key("a"), vec![Step::set("text", "new"), step]);
            assert_eq!(table.write(&update).await.unwrap_err().kind(), Kind::Bug, "{update:?}");
            assert_eq!(table.transact(&[update]).await.unwrap_err().kind(), Kind::Bug);
        }
        assert_eq!(table.query(&Query::all("p")).await.unwrap(), [stored]);
    })
    .await;
}

/// DynamoDB Local refuses the whole request, without reasons.
#[tokio::test]
async fn what_only_the_stored_item_shows_to_be_wrong_cancels_a_transaction() {
    on_all_but(On::DynamoDbLocal, async |table| {
        table.write(&Write::put(key("a"), before())).await.unwrap();
        let writes = [
            Write::put(key("b"), Item::new()),
            Write::update(key("a"), vec![Step::Add("text", 1)]),
            Write::delete(key("c")),
        ];
        let error = table.transact(&writes).await.unwrap_err();
        let TableError::Cancelled { reasons } = &error else { panic!("{error:?}") };
        assert!(matches!(reasons.as_slice(), [Reason::None, Reason::Other(_), Reason::None]), "{reasons:?}");
        assert_eq!(error.kind(), Kind::Bug);
        assert_eq!(table.get(&key("b")).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_sum_too_great_for_a_number_is_a_bug() {
    on_each(async |table| {
        table.write(&Write::put(key("a"), item(&[("n", u64::MAX.into())]))).await.unwrap();
        let error = table.write(&Write::update(key("a"), vec![Step::Add("n", 1)])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Bug);
    })
    .await;
}
