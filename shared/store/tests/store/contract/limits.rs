//! How large things may be, to the byte.

use std::sync::Arc;

use usher_store::{
    Kind, Table,
    table::{
        Attributes, Condition, DUE_AT_MS, DUE_SHARD, EXPIRES_AT_S, ITEM_BYTES_MAX, Item, Key, Query, Step,
        TRANSACTION_BYTES_MAX, Value, Write,
    },
};

use super::{item, key};
use crate::support::{On, on_all_but, on_each};

/// What an item of [`key`] with a one-letter sort key and an attribute named `body` has besides the body.
const REST: usize = "pk".len() + "p".len() + "sk".len() + "a".len() + "body".len();

/// A put that makes an item of so many bytes.
fn of_size(sk: &str, bytes: usize) -> Write {
    Write::put(key(sk), item(&[("body", vec![1_u8; bytes - REST].into())]))
}

#[tokio::test]
async fn an_item_has_at_most_400_kb() {
    on_each(async |table| {
        let over = of_size("a", ITEM_BYTES_MAX + 1);
        refused(&table, over.clone()).await;
        refused(&table, over.when(Condition::ITEM_EXISTS)).await;
        assert!(table.query(&Query::all("p")).await.unwrap().is_empty());

        table.write(&of_size("a", ITEM_BYTES_MAX)).await.unwrap();
        table.transact(&[of_size("b", ITEM_BYTES_MAX)]).await.unwrap();
        for step in [Step::set("x", ""), Step::SetIfAbsent("x", "".into()), Step::Add("x", 1)] {
            refused(&table, Write::update(key("a"), vec![step])).await;
        }
        let stored = table.query(&Query::all("p")).await.unwrap();
        assert_eq!(stored.len(), 2);
        assert!(
            stored.iter().all(|item| item.len() == 3 && item.bytes("body").unwrap().len() == ITEM_BYTES_MAX - REST)
        );
    })
    .await;
}

#[tokio::test]
async fn a_transaction_has_at_most_4_mb() {
    on_each(async |table| {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
        let sizes = |last: usize| [[ITEM_BYTES_MAX; 10].as_slice(), &[last]].concat();
        let puts = |last| names.iter().zip(sizes(last)).map(|(sk, bytes)| of_size(sk, bytes)).collect::<Vec<_>>();
        let rest = TRANSACTION_BYTES_MAX - 10 * ITEM_BYTES_MAX;
        let error = table.transact(&puts(rest + 1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Bug, "{error:?}");
        assert!(table.query(&Query::all("p").keys_only()).await.unwrap().is_empty());
        table.transact(&puts(rest)).await.unwrap();

        // What is stored does not count, only what the request brings.
        let each = |change: fn(Key) -> Write| names.map(|sk| change(key(sk)));
        let much = |key| Write::update(key, vec![Step::set("body", vec![2; 390_000])]);
        assert_eq!(table.transact(&each(much)).await.unwrap_err().kind(), Kind::Bug);
        table.transact(&each(|key| Write::check(key, Condition::Exists("body")))).await.unwrap();
        table.transact(&each(|key| Write::update(key, vec![Step::Remove("body"), Step::Add("n", 1)]))).await.unwrap();
        table.transact(&each(Write::delete)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn keys_have_1_to_2048_and_1024_bytes() {
    on_each(async |table| {
        let long = |bytes: usize| "é".repeat(bytes / 2) + &"k".repeat(bytes % 2);
        let longest = Key::new(long(2048), long(1024));
        table.write(&Write::put(longest.clone(), Item::new())).await.unwrap();
        assert!(table.get(&longest).await.unwrap().is_some());
        assert_eq!(table.query(&Query::all(long(2048))).await.unwrap().len(), 1);
        table.transact(&[Write::delete(longest)]).await.unwrap();
        for wrong in [Key::new("", "a"), Key::new("p", ""), Key::new(long(2049), "a"), Key::new("p", long(1025))] {
            let named = format!("{} / {} bytes", wrong.pk.len(), wrong.sk.len());
            assert_eq!(table.get(&wrong).await.unwrap_err().kind(), Kind::Bug, "get {named}");
            for write in [
                Write::put(wrong.clone(), Item::new()),
                Write::update(wrong.clone(), vec![Step::set("x", 1)]),
                Write::delete(wrong.clone()),
            ] {
                refused(&table, write).await;
            }
            let check = Write::check(wrong.clone(), Condition::ITEM_ABSENT);
            assert_eq!(table.transact(&[check]).await.unwrap_err().kind(), Kind::Bug, "{named}");
        }
        assert!(table.query(&Query::all("p")).await.unwrap().is_empty());
    })
    .await;
}

/// dynoxide finds nothing instead.
#[tokio::test]
async fn keys_that_cannot_be_are_not_asked_for() {
    on_all_but(On::Dynoxide, async |table| {
        for query in [
            Query::all(""),
            Query::between("p", "", "a"),
            Query::between("p", "a", ""),
            Query::between("p", "a", "b".repeat(1025)),
        ] {
            assert_eq!(table.query(&query).await.unwrap_err().kind(), Kind::Bug, "{query:?}");
        }
        assert_eq!(table.due("", 1, 1).await.unwrap_err().kind(), Kind::Bug);
    })
    .await;
}

/// Refused alone and in a transaction.
async fn refused(table: &Arc<dyn Table>, write: Write) {
    assert_eq!(table.write(&write).await.unwrap_err().kind(), Kind::Bug, "{write:?}");
    let both = [Write::put(key("other"), Item::new()), write];
    assert_eq!(table.transact(&both).await.unwrap_err().kind(), Kind::Bug, "{both:?}");
}

fn not_for_the_index() -> [(&'static str, Value); 5] {
    [
        (DUE_SHARD, 1.into()),
        (DUE_SHARD, "".into()),
        (DUE_SHARD, vec![1].into()),
        (DUE_AT_MS, "1".into()),
        (DUE_AT_MS, vec![1].into()),
    ]
}

#[tokio::test]
async fn an_item_put_has_the_types_of_the_index() {
    on_each(async |table| {
        for (name, value) in not_for_the_index() {
            refused(&table, Write::put(key("a"), item(&[(name, value.clone())]))).await;
            let refused = Write::put(key("a"), item(&[(name, value)])).when(Condition::ITEM_EXISTS);
            assert_eq!(table.write(&refused).await.unwrap_err().kind(), Kind::Bug, "whatever its condition");
        }
        assert!(table.query(&Query::all("p")).await.unwrap().is_empty());
    })
    .await;
}

/// DynamoDB Local stores them.
#[tokio::test]
async fn an_updated_item_has_the_types_of_the_index() {
    on_all_but(On::DynamoDbLocal, async |table| {
        let stored = table.write(&Write::put(key("stored"), Item::new())).await.unwrap();
        for (name, value) in not_for_the_index() {
            refused(&table, Write::update(key("stored"), vec![Step::Set(name, value.clone())])).await;
            refused(&table, Write::update(key("absent"), vec![Step::SetIfAbsent(name, value)])).await;
        }
        assert_eq!(table.query(&Query::all("p")).await.unwrap(), [stored]);
    })
    .await;
}

/// dynoxide stores it.
#[tokio::test]
async fn a_partition_key_of_the_index_has_at_most_2048_bytes() {
    on_all_but(On::Dynoxide, async |table| {
        let of = |bytes| Write::put(key("a"), item(&[(DUE_SHARD, "s".repeat(bytes).into()), (DUE_AT_MS, 1.into())]));
        refused(&table, of(2049)).await;
        table.write(&of(2048)).await.unwrap();
        assert_eq!(table.due(&"s".repeat(2048), 1, 1).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_time_to_live_is_an_attribute_like_others() {
    on_each(async |table| {
        let mortal = item(&[(EXPIRES_AT_S, 1.into()), ("n", 1.into())]);
        table.write(&Write::put(key("a"), mortal)).await.unwrap();
        let kept = table.write(&Write::update(key("a"), vec![Step::Add("n", 1)])).await.unwrap();
        assert_eq!((kept.number(EXPIRES_AT_S), kept.number("n")), (Some(1), Some(2)));
        // DynamoDB deletes it within days; until then everybody sees it.
        assert_eq!(table.get(&key("a")).await.unwrap(), Some(kept.clone()));
        assert_eq!(table.query(&Query::all("p")).await.unwrap(), [kept]);
        table.write(&Write::put(key("a"), Item::new()).when(Condition::ITEM_ABSENT)).await.unwrap_err();
        let immortal = table.write(&Write::update(key("a"), vec![Step::Remove(EXPIRES_AT_S)])).await.unwrap();
        assert_eq!(immortal.number(EXPIRES_AT_S), None);
    })
    .await;
}
