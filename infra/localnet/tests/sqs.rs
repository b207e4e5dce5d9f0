//! What the real SDK sees of our SQS.

#![expect(clippy::unwrap_used, reason = "a helper that panics fails its test")]

use std::collections::HashMap;

use aws_sdk_sqs::{
    Client,
    error::ProvideErrorMetadata,
    types::{
        DeleteMessageBatchRequestEntry, Message, MessageAttributeValue, MessageSystemAttributeName,
        QueueAttributeName as Attribute, SendMessageBatchRequestEntry,
    },
};
use usher_localnet::{aws::sqs_client, sqs::Sqs};

struct Local {
    sqs: Sqs,
    client: Client,
}

async fn local() -> Local {
    let sqs = Sqs::start(0, None).await.unwrap();
    let client = sqs_client(&sqs.url());
    Local { sqs, client }
}

async fn create(client: &Client, name: &str, attributes: &[(Attribute, &str)]) -> String {
    let attributes: HashMap<_, _> = attributes.iter().map(|(key, value)| (key.clone(), (*value).to_owned())).collect();
    let created = client.create_queue().queue_name(name).set_attributes(Some(attributes)).send().await.unwrap();
    created.queue_url.unwrap()
}

async fn send(client: &Client, queue: &str, body: &str) {
    client.send_message().queue_url(queue).message_body(body).send().await.unwrap();
}

/// Long-polls until there is something.
async fn receive(client: &Client, queue: &str) -> Vec<Message> {
    let request = client.receive_message().queue_url(queue).max_number_of_messages(10).wait_time_seconds(20);
    let received = request
        .message_system_attribute_names(MessageSystemAttributeName::All)
        .message_attribute_names("All")
        .send()
        .await
        .unwrap();
    received.messages.unwrap_or_default()
}

async fn receive_now(client: &Client, queue: &str) -> Vec<Message> {
    client.receive_message().queue_url(queue).send().await.unwrap().messages.unwrap_or_default()
}

async fn attribute(client: &Client, queue: &str, name: Attribute) -> String {
    let all = client.get_queue_attributes().queue_url(queue).attribute_names(Attribute::All).send().await.unwrap();
    all.attributes.unwrap()[&name].clone()
}

fn receive_count(message: &Message) -> &str {
    &message.attributes().unwrap()[&MessageSystemAttributeName::ApproximateReceiveCount]
}

#[tokio::test]
async fn a_message_is_hidden_while_received_and_comes_back() {
    let Local { client, sqs: _sqs } = local().await;
    let queue = create(&client, "q", &[(Attribute::VisibilityTimeout, "1")]).await;
    let trace = MessageAttributeValue::builder().data_type("String").string_value("00-ab-cd-01").build().unwrap();
    client
        .send_message()
        .queue_url(&queue)
        .message_body("hello")
        .message_attributes("traceparent", trace)
        .send()
        .await
        .unwrap();

    let first = receive(&client, &queue).await;
    assert_eq!(first[0].body(), Some("hello"));
    assert_eq!(first[0].md5_of_body(), Some("5d41402abc4b2a76b9719d911017c592"));
    assert_eq!(first[0].message_attributes().unwrap()["traceparent"].string_value(), Some("00-ab-cd-01"));
    assert_eq!(receive_count(&first[0]), "1");
    assert!(receive_now(&client, &queue).await.is_empty());
    assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessagesNotVisible).await, "1");

    let second = receive(&client, &queue).await;
    assert_eq!(second[0].message_id(), first[0].message_id());
    assert_eq!(receive_count(&second[0]), "2");
    assert_ne!(second[0].receipt_handle(), first[0].receipt_handle());

    // The older handle no longer deletes, the newest does.
    for (handle, left) in [(&first[0], "1"), (&second[0], "0")] {
        client
            .delete_message()
            .queue_url(&queue)
            .receipt_handle(handle.receipt_handle().unwrap())
            .send()
            .await
            .unwrap();
        assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessagesNotVisible).await, left);
    }
}

#[tokio::test]
async fn visibility_can_be_changed() {
    let Local { client, sqs: _sqs } = local().await;
    let queue = create(&client, "q", &[(Attribute::VisibilityTimeout, "600")]).await;
    send(&client, &queue, "a").await;
    let message = receive(&client, &queue).await.remove(0);
    let handle = message.receipt_handle().unwrap();
    client
        .change_message_visibility()
        .queue_url(&queue)
        .receipt_handle(handle)
        .visibility_timeout(0)
        .send()
        .await
        .unwrap();
    assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessages).await, "1");
    assert_eq!(receive(&client, &queue).await[0].message_id(), message.message_id());
}

#[tokio::test]
async fn a_delayed_message_arrives_late() {
    let Local { client, sqs: _sqs } = local().await;
    let queue = create(&client, "q", &[]).await;
    client.send_message().queue_url(&queue).message_body("later").delay_seconds(1).send().await.unwrap();
    assert!(receive_now(&client, &queue).await.is_empty());
    assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessagesDelayed).await, "1");
    assert_eq!(receive(&client, &queue).await[0].body(), Some("later"));
}

#[tokio::test]
async fn batches_of_ten_are_sent_received_and_deleted() {
    let Local { client, sqs: _sqs } = local().await;
    let queue = create(&client, "q", &[]).await;
    let entry = |index: usize| {
        SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(format!("{index}")).build().unwrap()
    };
    let batch = client.send_message_batch().queue_url(&queue).set_entries(Some((0..10).map(entry).collect()));
    assert_eq!(batch.send().await.unwrap().successful().len(), 10);
    let messages = receive(&client, &queue).await;
    assert_eq!(messages.len(), 10);
    let delete = messages.iter().enumerate().map(|(index, message)| {
        let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
        entry.receipt_handle(message.receipt_handle().unwrap()).build().unwrap()
    });
    let deleted =
        client.delete_message_batch().queue_url(&queue).set_entries(Some(delete.collect())).send().await.unwrap();
    assert_eq!(deleted.successful().len(), 10);
    assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessagesNotVisible).await, "0");

    let eleven = client.send_message_batch().queue_url(&queue).set_entries(Some((0..11).map(entry).collect()));
    assert!(eleven.send().await.unwrap_err().into_service_error().is_too_many_entries_in_batch_request());
    let twice = client.send_message_batch().queue_url(&queue).set_entries(Some(vec![entry(1), entry(1)]));
    assert!(twice.send().await.unwrap_err().into_service_error().is_batch_entry_ids_not_distinct());
    let too_many = client.receive_message().queue_url(&queue).max_number_of_messages(11).send().await;
    assert_eq!(too_many.unwrap_err().code(), Some("InvalidParameterValue"));
}

#[tokio::test]
async fn what_sqs_refuses_is_refused() {
    let Local { client, sqs: _sqs } = local().await;
    let queue = create(&client, "q", &[]).await;
    let too_long = "m".repeat(1024 * 1024 + 1);
    for (body, delay_s, code) in [
        ("", 0, "MissingParameter"),
        (&*too_long, 0, "InvalidParameterValue"),
        ("\u{8}", 0, "InvalidMessageContents"),
        ("a", 901, "InvalidParameterValue"),
        ("a", -1, "InvalidParameterValue"),
    ] {
        let sent = client.send_message().queue_url(&queue).message_body(body).delay_seconds(delay_s).send().await;
        assert_eq!(sent.unwrap_err().code(), Some(code), "{delay_s}");
    }
    let entry =
        |id: &str, body: &str| SendMessageBatchRequestEntry::builder().id(id).message_body(body).build().unwrap();
    let half = &too_long[..600_000];
    for (entries, code) in [
        (vec![], "AWS.SimpleQueueService.EmptyBatchRequest"),
        (vec![entry("a", half), entry("b", half)], "AWS.SimpleQueueService.BatchRequestTooLong"),
    ] {
        let sent = client.send_message_batch().queue_url(&queue).set_entries(Some(entries)).send().await;
        assert_eq!(sent.unwrap_err().code(), Some(code));
    }
    assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessages).await, "0");

    // One that is refused leaves the others of its batch alone.
    let batch = vec![entry("good", "a"), entry("bad", "\u{8}")];
    let sent = client.send_message_batch().queue_url(&queue).set_entries(Some(batch)).send().await.unwrap();
    assert_eq!(sent.successful().iter().map(|it| it.id()).collect::<Vec<_>>(), ["good"]);
    let failed: Vec<_> = sent.failed().iter().map(|it| (it.id(), it.code(), it.sender_fault())).collect();
    assert_eq!(failed, [("bad", "InvalidMessageContents", true)]);
    let unknown = client.tag_queue().queue_url(&queue).tags("a", "b").send().await;
    assert_eq!(unknown.unwrap_err().code(), Some("AWS.SimpleQueueService.UnsupportedOperation"));
}

#[tokio::test]
async fn attributes_are_told_to_who_asks_for_them() {
    let Local { client, sqs: _sqs } = local().await;
    let queue = create(&client, "q", &[(Attribute::VisibilityTimeout, "0")]).await;
    let value = || MessageAttributeValue::builder().data_type("String").string_value("v").build().unwrap();
    let sent = client.send_message().queue_url(&queue).message_body("a");
    sent.message_attributes("x", value()).message_attributes("y", value()).send().await.unwrap();
    let unasked = receive_now(&client, &queue).await.remove(0);
    assert_eq!((unasked.attributes(), unasked.message_attributes()), (None, None));
    let asked = client.receive_message().queue_url(&queue).message_attribute_names("y");
    let asked = asked.message_system_attribute_names(MessageSystemAttributeName::SentTimestamp).send().await.unwrap();
    let asked = asked.messages.unwrap().remove(0);
    assert_eq!(asked.message_attributes().unwrap().keys().collect::<Vec<_>>(), ["y"]);
    assert_eq!(asked.attributes().unwrap().keys().collect::<Vec<_>>(), [&MessageSystemAttributeName::SentTimestamp]);
    let some = client.get_queue_attributes().queue_url(&queue).attribute_names(Attribute::QueueArn).send().await;
    assert_eq!(some.unwrap().attributes.unwrap().keys().collect::<Vec<_>>(), [&Attribute::QueueArn]);
}

#[tokio::test]
async fn who_waits_hears_of_a_message_at_once() {
    let Local { client, sqs: _sqs } = local().await;
    let queue = create(&client, "q", &[(Attribute::ReceiveMessageWaitTimeSeconds, "20")]).await;
    let (waiting, url) = (client.clone(), queue.clone());
    // It waits as long as the queue says, and asks before these have their answers.
    let poll = tokio::spawn(async move { receive_now(&waiting, &url).await });
    for _ in 0..10 {
        assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessages).await, "0");
    }
    send(&client, &queue, "news").await;
    let heard = tokio::time::timeout(std::time::Duration::from_secs(10), poll).await.unwrap();
    assert_eq!(heard.unwrap()[0].body(), Some("news"));
}

#[tokio::test]
async fn what_is_received_too_often_goes_to_the_dead_letter_queue() {
    let Local { client, sqs: _sqs } = local().await;
    let dead = create(&client, "dead", &[]).await;
    let arn = attribute(&client, &dead, Attribute::QueueArn).await;
    let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":2}}"#);
    let queue = create(&client, "q", &[(Attribute::RedrivePolicy, &policy), (Attribute::VisibilityTimeout, "1")]).await;
    send(&client, &queue, "poison").await;
    let id = receive(&client, &queue).await[0].message_id().unwrap().to_owned();
    assert_eq!(receive_count(&receive(&client, &queue).await[0]), "2");
    while attribute(&client, &dead, Attribute::ApproximateNumberOfMessages).await == "0" {
        assert!(receive_now(&client, &queue).await.is_empty(), "received a third time");
    }
    assert_eq!(receive(&client, &dead).await[0].message_id(), Some(&*id));
    assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessages).await, "0");
}

#[tokio::test]
async fn a_dead_letter_queue_must_exist() {
    let Local { client, sqs: _sqs } = local().await;
    let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:nowhere","maxReceiveCount":"2"}"#;
    let created = client.create_queue().queue_name("q").attributes(Attribute::RedrivePolicy, policy).send().await;
    assert!(created.unwrap_err().message().unwrap().contains("nowhere"));
}

#[tokio::test]
async fn messages_expire_and_are_purged() {
    let Local { client, sqs: _sqs } = local().await;
    let queue = create(&client, "q", &[(Attribute::MessageRetentionPeriod, "1")]).await;
    send(&client, &queue, "short-lived").await;
    while attribute(&client, &queue, Attribute::ApproximateNumberOfMessages).await != "0" {}

    let queue = create(&client, "r", &[]).await;
    send(&client, &queue, "a").await;
    client.purge_queue().queue_url(&queue).send().await.unwrap();
    assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessages).await, "0");
}

#[tokio::test]
async fn queues_are_found_by_name_and_made_once() {
    let Local { client, sqs } = local().await;
    let queue = create(&client, "q", &[(Attribute::VisibilityTimeout, "180")]).await;
    assert_eq!(queue, format!("{}/000000000000/q", sqs.url()));
    assert_eq!(create(&client, "q", &[(Attribute::VisibilityTimeout, "180")]).await, queue);
    assert_eq!(client.get_queue_url().queue_name("q").send().await.unwrap().queue_url, Some(queue.clone()));
    let missing = client.get_queue_url().queue_name("p").send().await;
    assert!(missing.unwrap_err().into_service_error().is_queue_does_not_exist());
    let other = client.create_queue().queue_name("q").attributes(Attribute::VisibilityTimeout, "30").send().await;
    assert!(other.is_err());

    client.set_queue_attributes().queue_url(&queue).attributes(Attribute::DelaySeconds, "7").send().await.unwrap();
    assert_eq!(attribute(&client, &queue, Attribute::DelaySeconds).await, "7");
    assert_eq!(attribute(&client, &queue, Attribute::VisibilityTimeout).await, "180");
    assert_eq!(client.list_queues().send().await.unwrap().queue_urls(), std::slice::from_ref(&queue));
    client.delete_queue().queue_url(&queue).send().await.unwrap();
    assert!(client.list_queues().send().await.unwrap().queue_urls().is_empty());
}

#[tokio::test]
async fn a_file_keeps_what_waits_and_what_was_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sqs.sqlite");
    let sqs = Sqs::start(0, Some(&file)).await.unwrap();
    let client = sqs_client(&sqs.url());
    let queue = create(&client, "q", &[(Attribute::VisibilityTimeout, "600")]).await;
    send(&client, &queue, "in flight").await;
    assert_eq!(receive(&client, &queue).await.len(), 1);
    send(&client, &queue, "waiting").await;
    client.send_message().queue_url(&queue).message_body("delayed").delay_seconds(600).send().await.unwrap();
    sqs.stop().await;

    let sqs = Sqs::start(0, Some(&file)).await.unwrap();
    let client = sqs_client(&sqs.url());
    let queue = client.get_queue_url().queue_name("q").send().await.unwrap().queue_url.unwrap();
    assert!(queue.starts_with(&sqs.url()), "the URL is that of the new port");
    let bodies: Vec<_> = receive(&client, &queue).await.into_iter().map(|message| message.body.unwrap()).collect();
    assert_eq!(bodies, ["in flight", "waiting"]);
    assert_eq!(attribute(&client, &queue, Attribute::ApproximateNumberOfMessagesDelayed).await, "1");
}

#[tokio::test]
async fn a_stop_ends_long_polls() {
    let Local { client, sqs } = local().await;
    let queue = create(&client, "q", &[]).await;
    let poll =
        tokio::spawn(async move { client.receive_message().queue_url(queue).wait_time_seconds(20).send().await });
    tokio::task::yield_now().await;
    tokio::time::timeout(std::time::Duration::from_secs(10), sqs.stop()).await.unwrap();
    assert!(poll.await.unwrap().is_err());
}
