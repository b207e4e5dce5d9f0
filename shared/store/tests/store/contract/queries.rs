//! Ranges, pages and the due index.

use usher_store::{
    Kind, Table,
    table::{Attributes, DUE_AT_MS, DUE_SHARD, Item, Key, PK, Query, SK, Step, Write},
};

use super::{item, key, keys};
use crate::support::on_each;

#[tokio::test]
async fn queries_page_to_the_end_or_to_their_limit() {
    on_each(async |table| {
        let sks = ["a#0", "a#1", "a#2", "a#3", "b#0", "c#0"];
        for sk in sks {
            table.write(&Write::put(key(sk), item(&[("body", vec![7_u8; 390_000].into())]))).await.unwrap();
        }
        table.write(&Write::put(Key::new("q", "a#0"), Item::new())).await.unwrap();
        let found = table.query(&Query::all("p")).await.unwrap();
        assert_eq!(keys(&found), sks);
        assert!(found.iter().all(|item| item.bytes("body").unwrap().len() == 390_000));
        assert_eq!(keys(&table.query(&Query::prefix("p", "a#")).await.unwrap()), sks[..4]);
        for limit in 0..=7 {
            let found = table.query(&Query::all("p").limit(limit)).await.unwrap();
            assert_eq!(keys(&found), sks[..limit.min(6)]);
        }
        assert_eq!(keys(&table.query(&Query::between("p", "a#2", "b#0")).await.unwrap()), sks[2..5]);
        let named = table.query(&Query::all("p").keys_only()).await.unwrap();
        assert_eq!(keys(&named), sks);
        assert!(named.iter().all(|item| item.len() == 2));
        assert!(table.query(&Query::prefix("p", "x")).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_range_includes_its_ends_and_is_in_order_of_bytes() {
    on_each(async |table| {
        let sks = ["A", "a", "a!", "a#", "a#\u{ff}", "a#\u{ffff}", "a#\u{10000}", "a$", "aa", "b", "é", "\u{10000}"];
        for sk in sks.iter().rev() {
            table.write(&Write::put(key(sk), Item::new())).await.unwrap();
        }
        assert_eq!(keys(&table.query(&Query::all("p")).await.unwrap()), sks);
        assert_eq!(keys(&table.query(&Query::prefix("p", "a#")).await.unwrap()), sks[3..7]);
        for (from, to) in [(0, 0), (1, 4), (5, 6), (2, 11), (10, 10)] {
            let found = table.query(&Query::between("p", sks[from], sks[to])).await.unwrap();
            assert_eq!(keys(&found), sks[from..=to]);
        }
        let backwards = table.query(&Query::between("p", "b", "a")).await.unwrap_err();
        assert_eq!(backwards.kind(), Kind::Bug);
    })
    .await;
}

fn due(key: Key, shard: &str, at_ms: u64) -> Write {
    Write::put(key, item(&[(DUE_SHARD, shard.into()), (DUE_AT_MS, at_ms.into()), ("x", 1.into())]))
}

#[tokio::test]
async fn the_due_index_has_what_is_due_in_order() {
    on_each(async |table| {
        for (sk, shard, at_ms) in
            [("a", "0", 30), ("b", "0", 9), ("c", "1", 5), ("d", "0", 20), ("e", "0", 31), ("late", "0", u64::MAX)]
        {
            table.write(&due(key(sk), shard, at_ms)).await.unwrap();
        }
        table.write(&Write::put(key("f"), Item::new())).await.unwrap();
        // One of the two attributes alone is no entry.
        table.write(&Write::put(key("g"), item(&[(DUE_AT_MS, 1.into())]))).await.unwrap();
        table.write(&Write::put(key("h"), item(&[(DUE_SHARD, "0".into())]))).await.unwrap();
        let found = table.due("0", 30, 10).await.unwrap();
        assert_eq!(keys(&found), ["b", "d", "a"]);
        assert_eq!(
            found[0],
            item(&[(PK, "p".into()), (SK, "b".into()), (DUE_SHARD, "0".into()), (DUE_AT_MS, 9.into())])
        );
        assert_eq!(keys(&table.due("0", 30, 2).await.unwrap()), ["b", "d"]);
        assert!(table.due("0", 30, 0).await.unwrap().is_empty());
        assert!(table.due("2", u64::MAX, 10).await.unwrap().is_empty());
        assert_eq!(keys(&table.due("0", u64::MAX, 10).await.unwrap()), ["b", "d", "a", "e", "late"]);

        let rest = Write::update(key("b"), vec![Step::Remove(DUE_SHARD), Step::Remove(DUE_AT_MS)]);
        table.write(&rest).await.unwrap();
        table
            .transact(&[Write::update(key("a"), vec![Step::set(DUE_AT_MS, 19)]), Write::delete(key("d"))])
            .await
            .unwrap();
        assert_eq!(keys(&table.due("0", 30, 10).await.unwrap()), ["a"]);
        table.write(&Write::put(key("a"), Item::new())).await.unwrap();
        assert!(table.due("0", 30, 10).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_due_index_pages_to_the_end_or_to_its_limit() {
    on_each(async |table| {
        // 3 KB an entry: 500 are more than a page of 1 MB.
        let named = |n: u64| Key::new(format!("{n:03}{}", "p".repeat(2045)), "s".repeat(1024));
        let writes: Vec<_> = (0..500).map(|n| due(named(n), "0", 1000 - n)).collect();
        for writes in writes.chunks(100) {
            table.transact(writes).await.unwrap();
        }
        let found = table.due("0", 1000, 1000).await.unwrap();
        assert!(found.iter().map(|item| item.number(DUE_AT_MS).unwrap()).eq(501..=1000));
        assert_eq!(found[0].text(PK), Some(named(499).pk.as_str()));
        for limit in [1, 499, 500] {
            assert_eq!(table.due("0", 1000, limit).await.unwrap(), found[..limit]);
        }
    })
    .await;
}
