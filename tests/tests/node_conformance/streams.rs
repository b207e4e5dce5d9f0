//! SubscribeGroupMessages and SubscribeWelcomeMessages.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status, Streaming, transport::Endpoint};
use usher_xmtp::proto::mls_api::{
    SubscribeGroupMessagesRequest, SubscribeWelcomeMessagesRequest, WelcomeMessage, mls_api_client::MlsApiClient,
    subscribe_group_messages_request, subscribe_welcome_messages_request::Filter, welcome_message,
};

use crate::{
    material::{Content, private_message, private_message_of_len, random, random_group},
    rig::{Rig, assert_invalid, assert_refused, assert_silent, end, next, v1},
    welcomes::{self, id_of},
};

async fn subscribe_welcomes(rig: &Rig, filters: &[(&[u8], u64)]) -> Result<Streaming<WelcomeMessage>, Status> {
    let filter = |(key, id_cursor): &(&[u8], u64)| Filter { installation_key: key.to_vec(), id_cursor: *id_cursor };
    let request = SubscribeWelcomeMessagesRequest { filters: filters.iter().map(filter).collect() };
    rig.mls().subscribe_welcome_messages(request).await.map(tonic::Response::into_inner)
}

/// Sends one new message and answers its data.
async fn send_one(rig: &Rig, group: &[u8]) -> Vec<u8> {
    let data = private_message(group, Content::Application);
    rig.send([data.clone()]).await.unwrap();
    data
}

/// A client waits for the header before it takes a stream for open: no message may be needed to bring it.
pub(crate) async fn the_header_comes_at_once(rig: Rig) {
    let (group, key) = (random_group(), random::<32>());
    let filters = vec![subscribe_group_messages_request::Filter { group_id: group, id_cursor: 0 }];
    let groups = rig.mls().subscribe_group_messages(SubscribeGroupMessagesRequest { filters }).await.unwrap();
    assert_eq!(groups.metadata().get("subscribed").unwrap(), "true");
    let filters = vec![Filter { installation_key: key.to_vec(), id_cursor: 0 }];
    let welcomes = rig.mls().subscribe_welcome_messages(SubscribeWelcomeMessagesRequest { filters }).await.unwrap();
    assert_eq!(welcomes.metadata().get("subscribed").unwrap(), "true");
}

pub(crate) async fn refused_welcome_streams(rig: Rig) {
    // Whether the refusal comes instead of the header or after it is the server's choice.
    let refusal = async |filters: &[(&[u8], u64)]| match subscribe_welcomes(&rig, filters).await {
        Ok(mut stream) => end(&mut stream).await,
        Err(status) => Err(status),
    };
    assert_invalid(refusal(&[]).await, "no valid filters provided");
    let key = random::<32>();
    assert_invalid(refusal(&[(&key, 0), (&[], 0)]).await, "a filter is nil or installation key is empty");
}

pub(crate) async fn no_group_filter_is_a_silent_stream(rig: Rig) {
    let mut stream = rig.subscribe(&[]).await.unwrap();
    send_one(&rig, &random_group()).await;
    assert_silent(&mut stream).await;
}

pub(crate) async fn an_empty_group_id_ends_the_open_stream(rig: Rig) {
    let mut stream = rig.subscribe(&[(&[], 0)]).await.expect("the header comes first");
    assert_refused(end(&mut stream).await, Code::Unknown, "group is required");
}

pub(crate) async fn history_then_live(rig: Rig) {
    let group = random_group();
    let before = [send_one(&rig, &group).await, send_one(&rig, &group).await];
    rig.send([private_message(&group, Content::Commit)]).await.unwrap();
    let mut stream = rig.subscribe(&[(&group, 0)]).await.unwrap();
    for data in before {
        assert_eq!(v1(next(&mut stream).await).data, data);
    }
    assert!(v1(next(&mut stream).await).is_commit);
    for _ in 0..3 {
        send_one(&rig, &group).await;
        // All fields, as a query gives them.
        assert_eq!(Some(v1(next(&mut stream).await)), rig.stored(&group).await.pop());
    }
    assert_silent(&mut stream).await;
}

/// Each group's history is in order; between groups there is none.
pub(crate) async fn long_history_of_several_groups(rig: Rig) {
    let groups = [random_group(), random_group(), random_group()];
    let sizes = [250, 100, 1];
    for (group, size) in groups.iter().zip(sizes) {
        let messages: Vec<_> = (0..size).map(|_| private_message(group, Content::Application)).collect();
        rig.send(messages).await.unwrap();
    }
    let filters: Vec<_> = groups.iter().map(|group| (group.as_slice(), 0)).collect();
    let mut stream = rig.subscribe(&filters).await.unwrap();
    let mut ids: HashMap<Vec<u8>, Vec<u64>> = HashMap::new();
    for _ in 0..sizes.iter().sum() {
        let message = v1(next(&mut stream).await);
        ids.entry(message.group_id).or_default().push(message.id);
    }
    for (group, size) in groups.iter().zip(sizes) {
        assert_eq!(ids[group].len(), size);
        assert!(ids[group].is_sorted_by(|a, b| a < b));
    }
    assert_silent(&mut stream).await;
}

pub(crate) async fn the_cursor_is_exclusive(rig: Rig) {
    let group = random_group();
    send_one(&rig, &group).await;
    let last = send_one(&rig, &group).await;
    let first_id = rig.stored(&group).await[0].id;
    let mut stream = rig.subscribe(&[(&group, first_id)]).await.unwrap();
    assert_eq!(v1(next(&mut stream).await).data, last);
    assert_silent(&mut stream).await;
}

/// The mark below which ids are dropped starts at 0, not at the cursor.
pub(crate) async fn a_cursor_ahead_does_not_hide_live_messages(rig: Rig) {
    let group = random_group();
    send_one(&rig, &group).await;
    let far = rig.stored(&group).await[0].id + 1_000_000;
    let mut stream = rig.subscribe(&[(&group, far)]).await.unwrap();
    assert_silent(&mut stream).await;
    let live = send_one(&rig, &group).await;
    assert_eq!(v1(next(&mut stream).await).data, live);
}

pub(crate) async fn a_group_named_twice_is_delivered_once(rig: Rig) {
    let group = random_group();
    let old = send_one(&rig, &group).await;
    let mut stream = rig.subscribe(&[(&group, 0), (&group, 0)]).await.unwrap();
    assert_eq!(v1(next(&mut stream).await).data, old);
    assert_silent(&mut stream).await;
    let live = send_one(&rig, &group).await;
    assert_eq!(v1(next(&mut stream).await).data, live);
    assert_silent(&mut stream).await;
}

pub(crate) async fn nothing_is_lost_or_doubled_between_history_and_live(rig: Rig) {
    const MESSAGES: usize = 400;
    let group = random_group();
    let sending = async {
        for _ in 0..MESSAGES {
            send_one(&rig, &group).await;
        }
    };
    let reading = async {
        // Opened at some moment while messages come in.
        while rig.stored(&group).await.len() < 50 {}
        let mut stream = rig.subscribe(&[(&group, 0)]).await.unwrap();
        let mut ids = Vec::new();
        while ids.len() < MESSAGES {
            ids.push(v1(next(&mut stream).await).id);
        }
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert_silent(&mut stream).await;
    };
    futures::future::join(sending, reading).await;
}

pub(crate) async fn other_groups_are_not_delivered(rig: Rig) {
    let group = random_group();
    let mut stream = rig.subscribe(&[(&group, 0)]).await.unwrap();
    send_one(&rig, &random_group()).await;
    let live = send_one(&rig, &group).await;
    assert_eq!(v1(next(&mut stream).await).data, live);
}

pub(crate) async fn welcomes_and_pointers(rig: Rig) {
    let key = random::<32>();
    welcomes::send(&rig, vec![welcomes::v1(&key, b"first")]).await.unwrap();
    welcomes::send(&rig, vec![welcomes::pointer(&key, b"second")]).await.unwrap();
    let stored = welcomes::stored(&rig, &key).await;
    let mut stream = subscribe_welcomes(&rig, &[(&key, id_of(&stored[0]))]).await.unwrap();
    assert_eq!(next(&mut stream).await, stored[1]);
    welcomes::send(&rig, vec![welcomes::v1(&random::<32>(), b"somebody else's")]).await.unwrap();
    welcomes::send(&rig, vec![welcomes::pointer(&key, b"third")]).await.unwrap();
    let live = next(&mut stream).await;
    assert!(matches!(live.version, Some(welcome_message::Version::WelcomePointer(_))));
    assert_eq!(Some(live), welcomes::stored(&rig, &key).await.pop());
    assert_silent(&mut stream).await;
}

/// More than the node queues for a reader (1024) and the connection holds (windows of 64 KiB) together.
const TOO_MANY: usize = 1300;
const MESSAGE_BYTES: usize = 4096;

/// A client on a connection of its own that takes 64 KiB and no more until it reads.
async fn slow_client(rig: &Rig) -> MlsApiClient<tonic::transport::Channel> {
    let url = rig.ours().node.url();
    let endpoint = Endpoint::from_shared(url).unwrap();
    let small = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    MlsApiClient::new(small.connect().await.unwrap())
}

/// Reads to the end of a stream: how much came, and the status.
async fn drain<M>(stream: &mut Streaming<M>) -> (usize, Result<(), Status>) {
    let mut messages = 0;
    loop {
        match tokio::time::timeout(Duration::from_secs(20), stream.message()).await.expect("the stream ends") {
            Ok(Some(_)) => messages += 1,
            Ok(None) => return (messages, Ok(())),
            Err(status) => return (messages, Err(status)),
        }
    }
}

pub(crate) async fn a_slow_group_reader_is_aborted(rig: Rig) {
    let group = random_group();
    let filters = vec![subscribe_group_messages_request::Filter { group_id: group.clone(), id_cursor: 0 }];
    let mut client = slow_client(&rig).await;
    let mut stream =
        client.subscribe_group_messages(SubscribeGroupMessagesRequest { filters }).await.unwrap().into_inner();
    for _ in 0..TOO_MANY / 50 {
        rig.send((0..50).map(|_| private_message_of_len(&group, MESSAGE_BYTES))).await.unwrap();
    }
    let (messages, status) = drain(&mut stream).await;
    assert!((1024..TOO_MANY).contains(&messages), "{messages} messages");
    assert_refused(status, Code::Aborted, "caller did not read all messages fast enough");
}

pub(crate) async fn a_slow_welcome_reader_just_ends(rig: Rig) {
    let key = random::<32>();
    let filters = vec![Filter { installation_key: key.to_vec(), id_cursor: 0 }];
    let mut client = slow_client(&rig).await;
    let request = SubscribeWelcomeMessagesRequest { filters };
    let mut stream = client.subscribe_welcome_messages(request).await.unwrap().into_inner();
    for _ in 0..TOO_MANY / 50 {
        let data = || [&random::<16>()[..], &[0xcc; MESSAGE_BYTES]].concat();
        welcomes::send(&rig, (0..50).map(|_| welcomes::v1(&key, &data())).collect()).await.unwrap();
    }
    let (messages, status) = drain(&mut stream).await;
    assert!((1024..TOO_MANY).contains(&messages), "{messages} messages");
    assert!(status.is_ok());
}
