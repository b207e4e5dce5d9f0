//! What the real SDK sees of our DynamoDB.

#![expect(clippy::unwrap_used, reason = "a helper that panics fails its test")]

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType},
};
use usher_localnet::{aws::dynamodb_client, dynamodb::DynamoDb};

async fn create_table(client: &Client) {
    let key = AttributeDefinition::builder().attribute_name("pk").attribute_type(ScalarAttributeType::S);
    client
        .create_table()
        .table_name("things")
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(key.build().unwrap())
        .key_schema(KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash).build().unwrap())
        .send()
        .await
        .unwrap();
}

async fn put_once(client: &Client, key: &str) -> bool {
    let put = client.put_item().table_name("things").item("pk", AttributeValue::S(key.to_owned()));
    match put.condition_expression("attribute_not_exists(pk)").send().await {
        Ok(_) => true,
        Err(error) => {
            assert!(error.into_service_error().is_conditional_check_failed_exception());
            false
        }
    }
}

#[tokio::test]
async fn conditions_hold_in_memory() {
    let dynamodb = DynamoDb::start(0, None).await.unwrap();
    let client = dynamodb_client(&dynamodb.url());
    create_table(&client).await;
    assert!(put_once(&client, "a").await);
    assert!(!put_once(&client, "a").await);
    dynamodb.stop().await;
}

#[tokio::test]
async fn a_file_keeps_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dynamodb.sqlite");
    for first in [true, false] {
        let dynamodb = DynamoDb::start(0, Some(&file)).await.unwrap();
        let client = dynamodb_client(&dynamodb.url());
        if first {
            create_table(&client).await;
        }
        assert_eq!(put_once(&client, "a").await, first);
        dynamodb.stop().await;
    }
}

#[tokio::test]
async fn a_taken_port_is_said() {
    let dynamodb = DynamoDb::start(0, None).await.unwrap();
    let port = dynamodb.url().rsplit(':').next().unwrap().parse().unwrap();
    let error = DynamoDb::start(port, None).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, format!("port {port} on 127.0.0.1 cannot be had"));
}
