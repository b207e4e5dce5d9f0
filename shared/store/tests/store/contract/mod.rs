//! What every [`Table`] does alike: the memory model, the emulator, and DynamoDB Local.

mod conditions;
mod histories;
mod limits;
mod queries;
mod transactions;
mod updates;

use std::sync::Arc;

use usher_store::{
    Kind, Table,
    memory::MemoryTable,
    table::{Attributes, Condition, Item, Key, PK, SK, Step, Value, Write},
};

use crate::support::on_each;

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
    on_each(async |table| {
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
    on_each(async |table| {
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

/// A shared table is a table.
#[tokio::test]
async fn a_table_can_be_shared() {
    let table = Arc::new(MemoryTable::new());
    Arc::clone(&table).write(&Write::put(key("a"), Item::new())).await.unwrap();
    assert_eq!(table.dump().len(), 1);
}
