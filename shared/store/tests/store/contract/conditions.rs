//! What holds of which item.

use usher_store::{
    Kind, Table, TableError,
    table::{Condition, Reason, Value, Write},
};

use super::{item, key};
use crate::support::on_each;

/// Each condition, whether it holds of the item below, and whether it holds where there is no item.
fn truths() -> Vec<(Condition, bool, bool)> {
    use Condition::{Absent, And, Equals, Exists, LessThan, Or};
    let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
    let (yes, no) = (Exists("text"), Exists("nothing"));
    vec![
        (Condition::ITEM_EXISTS, true, false),
        (Condition::ITEM_ABSENT, false, true),
        (Exists("text"), true, false),
        (Exists("empty"), true, false),
        (Exists("nothing"), false, false),
        (Absent("number"), false, true),
        (Absent("nothing"), true, true),
        // Equal in type and value.
        (Equals("text", "m".into()), true, false),
        (Equals("text", "M".into()), false, false),
        (Equals("number", 5.into()), true, false),
        (Equals("number", 50.into()), false, false),
        (Equals("number", "5".into()), false, false),
        (Equals("zero", 0.into()), true, false),
        (Equals("bytes", bytes(&[1, 200])), true, false),
        (Equals("bytes", bytes(&[1])), false, false),
        (Equals("bytes", "m".into()), false, false),
        (Equals("empty", "".into()), true, false),
        (Equals("none", bytes(&[])), true, false),
        (Equals("empty", bytes(&[])), false, false),
        (Equals("nothing", "".into()), false, false),
        (Equals("nothing", 0.into()), false, false),
        // Less, within one type: strings and binary by unsigned bytes, numbers by value.
        (LessThan("text", "n".into()), true, false),
        (LessThan("text", "ma".into()), true, false),
        (LessThan("text", "é".into()), true, false),
        (LessThan("text", "m".into()), false, false),
        (LessThan("text", "a".into()), false, false),
        (LessThan("text", "Z".into()), false, false),
        (LessThan("text", 9.into()), false, false),
        (LessThan("plane", "\u{10000}".into()), true, false),
        (LessThan("number", 6.into()), true, false),
        (LessThan("number", 10.into()), true, false),
        (LessThan("number", u64::MAX.into()), true, false),
        (LessThan("number", 5.into()), false, false),
        (LessThan("number", "6".into()), false, false),
        (LessThan("bytes", bytes(&[1, 201])), true, false),
        (LessThan("bytes", bytes(&[2])), true, false),
        (LessThan("bytes", bytes(&[1, 200, 0])), true, false),
        (LessThan("bytes", bytes(&[1, 200])), false, false),
        (LessThan("bytes", bytes(&[1, 100])), false, false),
        (LessThan("bytes", bytes(&[])), false, false),
        (LessThan("empty", "a".into()), true, false),
        (LessThan("nothing", u64::MAX.into()), false, false),
        // Together.
        (And(vec![yes.clone()]), true, false),
        (And(vec![yes.clone(), yes.clone()]), true, false),
        (And(vec![yes.clone(), no.clone(), yes.clone()]), false, false),
        (Or(vec![no.clone()]), false, false),
        (Or(vec![no.clone(), no.clone()]), false, false),
        (Or(vec![no.clone(), no.clone(), yes.clone()]), true, false),
        (no.clone().and(no.clone()).or(yes.clone()), true, false),
        (yes.clone().or(yes.clone()).and(no.clone()), false, false),
        (yes.or(no.clone().and(no)), true, false),
        (Absent("nothing").and(Absent("text").or(Equals("number", 5.into()))), true, true),
        (Condition::is("number", Some(5)), true, false),
        (Condition::is("number", None::<u64>), false, true),
    ]
}

#[tokio::test]
async fn every_condition_holds_where_it_should() {
    on_each(async |table| {
        let attributes = [
            ("text", "m".into()),
            ("number", 5.into()),
            ("zero", 0.into()),
            ("bytes", vec![1, 200].into()),
            ("empty", "".into()),
            ("none", vec![].into()),
            // Before U+10000 in UTF-8, after it in UTF-16.
            ("plane", "\u{ffff}".into()),
        ];
        let stored = table.write(&Write::put(key("there"), item(&attributes))).await.unwrap();
        let mut wrong = Vec::new();
        for (condition, there, absent) in truths() {
            for (sk, old, holds) in [("there", Some(&stored), there), ("absent", None, absent)] {
                let checked = match table.transact(&[Write::check(key(sk), condition.clone())]).await {
                    Ok(()) => true,
                    Err(TableError::Cancelled { reasons }) => {
                        assert_eq!(reasons, [Reason::ConditionFailed(old.cloned())], "{condition:?}");
                        false
                    }
                    Err(error) => panic!("{condition:?}: {error:?}"),
                };
                if checked != holds {
                    wrong.push(format!("{condition:?} of {sk}: {checked}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    })
    .await;
}

#[tokio::test]
async fn a_condition_of_no_conditions_is_refused() {
    on_each(async |table| {
        for condition in
            [Condition::And(vec![]), Condition::Or(vec![]), Condition::ITEM_ABSENT.or(Condition::Or(vec![]))]
        {
            let put = Write::put(key("a"), item(&[])).when(condition);
            assert_eq!(table.write(&put).await.unwrap_err().kind(), Kind::Bug, "{put:?}");
            assert_eq!(table.transact(&[put]).await.unwrap_err().kind(), Kind::Bug);
        }
        assert_eq!(table.get(&key("a")).await.unwrap(), None);
    })
    .await;
}
