//! The configuration's document, and the network that a deployment is bound to.

use usher_store::{
    Place, Store,
    configuration::{Put, StoredConfiguration},
};

use crate::support::{NOW_MS, Seeded, TestClock, on_each};

#[tokio::test]
async fn a_document_is_replaced_by_whoever_saw_the_one_before() {
    on_each(|table| async move {
        let store = Store::new(table, TestClock::at(NOW_MS), Seeded::new(1));
        assert_eq!(store.configuration().await.unwrap(), None);
        assert_eq!(store.put_configuration("one", Some(1)).await.unwrap(), Put::Overtaken, "there is none");
        assert_eq!(store.put_configuration("one", None).await.unwrap(), Put::Stored(1));
        assert_eq!(store.put_configuration("other", None).await.unwrap(), Put::Overtaken);
        assert_eq!(store.put_configuration("one", None).await.unwrap(), Put::Stored(1), "the same, sent twice");
        assert_eq!(store.put_configuration("two", Some(1)).await.unwrap(), Put::Stored(2));
        assert_eq!(store.put_configuration("three", Some(1)).await.unwrap(), Put::Overtaken);
        let stored = StoredConfiguration { revision: 2, document: "two".to_owned() };
        assert_eq!(store.configuration().await.unwrap(), Some(stored));
    })
    .await;
}

fn place(network: &str) -> Place {
    Place { network: network.to_owned(), table: "usher".to_owned() }
}

#[tokio::test]
async fn a_deployment_is_bound_to_the_first_place() {
    on_each(|table| async move {
        let store = Store::new(table, TestClock::at(NOW_MS), Seeded::new(1));
        assert!(store.bind(&place("dev")).await.is_err(), "there is no deployment yet");
        assert_eq!(store.place().await.unwrap(), None);
        let id = store.init_deployment().await.unwrap();
        assert_eq!(store.place().await.unwrap(), None);
        assert_eq!(store.bind(&place("dev")).await.unwrap(), place("dev"));
        assert_eq!(store.bind(&place("production")).await.unwrap(), place("dev"));
        assert_eq!(store.place().await.unwrap(), Some(place("dev")));
        let restored = Place { table: "restored".to_owned(), ..place("dev") };
        store.table().write(&restored.adopt_table()).await.unwrap();
        assert_eq!(store.bind(&place("dev")).await.unwrap(), restored);
        assert_eq!(store.deployment().await.unwrap(), Some(id), "the id stays");
    })
    .await;
}
