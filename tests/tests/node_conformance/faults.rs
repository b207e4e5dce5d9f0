//! The failure switches of the node in this process.

use std::time::Duration;

use tonic::Code;
use usher_localnet::xmtp_node::{Bucket, Fault, Hold, Method, RateLimits};
use usher_xmtp::proto::{
    identity_api::PublishIdentityUpdateRequest,
    mls_api::{
        BatchPublishCommitLogRequest, QueryGroupMessagesRequest, RegisterInstallationRequest, SendGroupMessagesRequest,
        SendWelcomeMessagesRequest, SubscribeGroupMessagesRequest, SubscribeWelcomeMessagesRequest,
        UploadKeyPackageRequest, subscribe_welcome_messages_request::Filter,
    },
};

use crate::{
    identity,
    material::{Content, Person, address, private_message, random, random_group},
    newest::newest,
    rig::{Rig, assert_refused, assert_silent, end, forwarded_for, input, next, v1},
    welcomes,
};

const PUBLISHING_ENDED: &str = "publishing to XMTP V3 is no longer available. Please upgrade your client to XMTP D14N.";
const STREAMING_ENDED: &str = "XMTP V3 streaming is no longer available. Please upgrade your client to XMTP D14N.";

fn one_of(group: &[u8]) -> [Vec<u8>; 1] {
    [private_message(group, Content::Application)]
}

pub(crate) async fn calls_are_counted(rig: Rig) {
    let group = random_group();
    rig.send(one_of(&group)).await.unwrap();
    rig.send([]).await.expect_err("refused calls count too");
    rig.query(&group, None).await.unwrap();
    let node = &rig.ours().node;
    let counted: Vec<_> = Method::ALL.into_iter().filter(|method| node.calls(*method) > 0).collect();
    assert_eq!(counted, [Method::SendGroupMessages, Method::QueryGroupMessages]);
    assert_eq!(node.calls("SendGroupMessages".parse().unwrap()), 2);
    assert_eq!(node.calls(Method::QueryGroupMessages), 1);
}

pub(crate) async fn refusals_do_nothing(rig: Rig) {
    let group = random_group();
    let faults = rig.ours().faults();
    let cases = [
        (Fault::Unimplemented, Code::Unimplemented, "method SendGroupMessages not implemented"),
        (Fault::Unavailable, Code::Unavailable, "injected: SendGroupMessages is unavailable"),
        (Fault::ResourceExhausted, Code::ResourceExhausted, "2 exceeds rate limit R127.0.0.1PUB"),
    ];
    for (fault, code, text) in cases {
        faults.fail(Method::SendGroupMessages, fault);
        for _ in 0..2 {
            let messages = [one_of(&group), one_of(&group)].concat();
            assert_refused(rig.send(messages).await, code, text);
        }
        // Other calls go on.
        assert!(rig.stored(&group).await.is_empty());
    }
    faults.fail(Method::QueryGroupMessages, Fault::ResourceExhausted);
    let text = "1 exceeds rate limit R127.0.0.1DEF";
    assert_refused(rig.query(&group, None).await, Code::ResourceExhausted, text);
    faults.heal(Method::SendGroupMessages);
    faults.heal(Method::QueryGroupMessages);
    rig.send(one_of(&group)).await.unwrap();
    assert_eq!(rig.stored(&group).await.len(), 1);
}

pub(crate) async fn a_lost_answer_was_carried_out(rig: Rig) {
    let (group, person) = (random_group(), Person::new().await);
    let faults = rig.ours().faults();
    for code in [Code::DeadlineExceeded, Code::Unavailable] {
        faults.fail(Method::SendGroupMessages, Fault::AnswerLost(code));
        assert_eq!(rig.send(one_of(&group)).await.expect_err("the answer is lost").code(), code);
    }
    assert_eq!(rig.stored(&group).await.len(), 2);
    // A refusal is not lost.
    assert_eq!(rig.send([]).await.expect_err("no messages").code(), Code::InvalidArgument);
    faults.fail(Method::PublishIdentityUpdate, Fault::AnswerLost(Code::DeadlineExceeded));
    let status = identity::publish(&rig, person.creation.clone()).await.expect_err("the answer is lost");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(identity::log(&rig, &person.inbox).await.len(), 1);
}

pub(crate) async fn a_fault_hits_as_many_calls_as_told(rig: Rig) {
    let group = random_group();
    let faults = rig.ours().faults();
    faults.fail_times(Method::SendGroupMessages, Fault::Unavailable, 2);
    for _ in 0..2 {
        assert_eq!(rig.send(one_of(&group)).await.expect_err("two calls fail").code(), Code::Unavailable);
    }
    rig.send(one_of(&group)).await.unwrap();
    faults.fail(Method::SendGroupMessages, Fault::Unavailable);
    faults.fail_times(Method::SendGroupMessages, Fault::Unavailable, 0);
    rig.send(one_of(&group)).await.unwrap();
}

/// Calls everything that publishes; what is sent does not matter.
async fn assert_publishing_ended(rig: &Rig) {
    let (mut mls, mut identity) = (rig.mls(), rig.identity());
    let answers = [
        mls.send_group_messages(SendGroupMessagesRequest::default()).await.map(|_| ()),
        mls.send_welcome_messages(SendWelcomeMessagesRequest::default()).await.map(|_| ()),
        mls.register_installation(RegisterInstallationRequest::default()).await.map(|_| ()),
        mls.upload_key_package(UploadKeyPackageRequest::default()).await.map(|_| ()),
        mls.batch_publish_commit_log(BatchPublishCommitLogRequest::default()).await.map(|_| ()),
        identity.publish_identity_update(PublishIdentityUpdateRequest::default()).await.map(|_| ()),
    ];
    for answer in answers {
        assert_refused(answer, Code::Unavailable, PUBLISHING_ENDED);
    }
}

pub(crate) async fn disabled_publishing(rig: Rig) {
    let group = random_group();
    rig.send(one_of(&group)).await.unwrap();
    let mut open = rig.subscribe(&[(&group, 0)]).await.unwrap();
    next(&mut open).await;
    rig.ours().faults().disable_publishing(true);
    assert_publishing_ended(&rig).await;
    assert_silent(&mut open).await;
    next(&mut rig.subscribe(&[(&group, 0)]).await.unwrap()).await;
    rig.ours().faults().disable_publishing(false);
    rig.send(one_of(&group)).await.unwrap();
    next(&mut open).await;
}

pub(crate) async fn the_cutover(rig: Rig) {
    let (group, key) = (random_group(), random::<32>().to_vec());
    rig.send(one_of(&group)).await.unwrap();
    let mut groups = rig.subscribe(&[(&group, 0)]).await.unwrap();
    next(&mut groups).await;
    let filters = SubscribeWelcomeMessagesRequest { filters: vec![Filter { installation_key: key, id_cursor: 0 }] };
    let mut welcomes = rig.mls().subscribe_welcome_messages(filters.clone()).await.unwrap().into_inner();
    rig.ours().faults().cut_over(true);
    assert_publishing_ended(&rig).await;
    assert_refused(end(&mut groups).await, Code::Unavailable, STREAMING_ENDED);
    assert_refused(end(&mut welcomes).await, Code::Unavailable, STREAMING_ENDED);
    let refused = rig.mls().subscribe_group_messages(SubscribeGroupMessagesRequest::default()).await;
    assert_refused(refused.map(|_| ()), Code::Unavailable, STREAMING_ENDED);
    let refused = rig.mls().subscribe_welcome_messages(filters).await;
    assert_refused(refused.map(|_| ()), Code::Unavailable, STREAMING_ENDED);
    assert_eq!(rig.stored(&group).await.len(), 1);
    rig.ours().faults().cut_over(false);
    next(&mut rig.subscribe(&[(&group, 0)]).await.unwrap()).await;
}

pub(crate) async fn dropped_streams(rig: Rig) {
    let (group, key) = (random_group(), random::<32>().to_vec());
    rig.send(one_of(&group)).await.unwrap();
    let mut groups = rig.subscribe(&[(&group, 0)]).await.unwrap();
    next(&mut groups).await;
    let filters = SubscribeWelcomeMessagesRequest { filters: vec![Filter { installation_key: key, id_cursor: 0 }] };
    let mut welcomes = rig.mls().subscribe_welcome_messages(filters).await.unwrap().into_inner();
    rig.ours().faults().drop_streams();
    assert_refused(end(&mut groups).await, Code::Aborted, "caller did not read all messages fast enough");
    assert!(end(&mut welcomes).await.is_ok());
    next(&mut rig.subscribe(&[(&group, 0)]).await.unwrap()).await;
}

/// What a hosted node reads from its replica lags; the rest is read from the primary.
pub(crate) async fn a_held_replica(rig: Rig) {
    let (group, person) = (random_group(), Person::new().await);
    rig.send(one_of(&group)).await.unwrap();
    let before = rig.stored(&group).await;
    let mut open = rig.subscribe(&[(&group, 0)]).await.unwrap();
    next(&mut open).await;

    rig.ours().faults().hold(Hold::Replica);
    rig.send([one_of(&group), one_of(&group)].concat()).await.unwrap();
    identity::publish(&rig, person.creation.clone()).await.unwrap();
    assert_silent(&mut open).await;
    assert_eq!(newest(&rig, vec![group.clone()], true).await, [before.last().cloned()]);
    assert_eq!(identity::inbox_of(&rig, &address(&person.wallet)).await, None);
    let mut late = rig.subscribe(&[(&group, 0)]).await.unwrap();
    assert_eq!(v1(next(&mut late).await), before[0]);
    assert_silent(&mut late).await;
    // The primary knows.
    let stored = rig.stored(&group).await;
    assert_eq!(stored.len(), 3);
    assert_eq!(identity::log(&rig, &person.inbox).await.len(), 1);

    rig.ours().faults().hold(Hold::Nothing);
    for stream in [&mut open, &mut late] {
        assert_eq!(v1(next(stream).await), stored[1]);
        assert_eq!(v1(next(stream).await), stored[2]);
    }
    assert_eq!(newest(&rig, vec![group.clone()], true).await, [stored.last().cloned()]);
    assert!(identity::inbox_of(&rig, &address(&person.wallet)).await.is_some());
}

pub(crate) async fn everything_held(rig: Rig) {
    let (group, key) = (random_group(), random::<32>());
    rig.send(one_of(&group)).await.unwrap();
    rig.ours().faults().hold(Hold::Everything);
    let data = private_message(&group, Content::Commit);
    rig.send([data.clone()]).await.unwrap();
    welcomes::send(&rig, vec![welcomes::v1(&key, b"held")]).await.unwrap();
    assert_eq!(rig.stored(&group).await.len(), 1);
    assert_eq!(rig.query(&group, None).await.unwrap().messages.len(), 1);
    assert!(welcomes::stored(&rig, &key).await.is_empty());
    rig.ours().faults().hold(Hold::Nothing);
    assert_eq!(rig.stored(&group).await[1].data, data);
    assert_eq!(welcomes::stored(&rig, &key).await.len(), 1);
}

pub(crate) async fn lost_pushes(rig: Rig) {
    let group = random_group();
    let mut stream = rig.subscribe(&[(&group, 0)]).await.unwrap();
    rig.ours().faults().lose_pushes(true);
    rig.send(one_of(&group)).await.unwrap();
    assert_silent(&mut stream).await;
    rig.ours().faults().lose_pushes(false);
    rig.send(one_of(&group)).await.unwrap();
    // The lost one never comes on this stream.
    assert_eq!(v1(next(&mut stream).await), rig.stored(&group).await[1]);
    assert_eq!(rig.stored(&group).await.len(), 2);
}

fn small_limits() -> RateLimits {
    let bucket = |max_tokens, per_minute| Bucket { max_tokens, per_minute };
    RateLimits { publish: bucket(5, 2), default: bucket(3, 1) }
}

pub(crate) async fn the_rate_limit_is_by_address_and_kind(rig: Rig) {
    let group = random_group();
    rig.ours().faults().limit_rates(Some(small_limits()));
    let send = async |ip, count: usize| {
        let messages = (0..count).map(|_| input(private_message(&group, Content::Application))).collect();
        rig.mls().send_group_messages(forwarded_for(ip, SendGroupMessagesRequest { messages })).await.map(|_| ())
    };
    let query = async |ip| {
        let request = QueryGroupMessagesRequest { group_id: group.clone(), paging_info: None };
        rig.mls().query_group_messages(forwarded_for(ip, request)).await.map(|_| ())
    };
    // A message costs a token, stored or not; what is refused costs none.
    send("198.51.100.1, 10.0.0.1", 4).await.unwrap();
    let text = "2 exceeds rate limit R198.51.100.1PUB";
    assert_refused(send("198.51.100.1", 2).await, Code::ResourceExhausted, text);
    send("198.51.100.1", 1).await.unwrap();
    let text = "1 exceeds rate limit R198.51.100.1PUB";
    assert_refused(send("198.51.100.1", 1).await, Code::ResourceExhausted, text);
    // Other addresses and other calls have buckets of their own.
    send("198.51.100.2", 5).await.unwrap();
    for _ in 0..3 {
        query("198.51.100.1").await.unwrap();
    }
    let text = "1 exceeds rate limit R198.51.100.1DEF";
    assert_refused(query("198.51.100.1").await, Code::ResourceExhausted, text);
    // Without a proxy it is the peer's.
    let messages = (0..6).flat_map(|_| one_of(&group));
    assert_refused(rig.send(messages).await, Code::ResourceExhausted, "6 exceeds rate limit R127.0.0.1PUB");
    // The commit log is no publishing to the limiter.
    let request = forwarded_for("198.51.100.1", BatchPublishCommitLogRequest::default());
    let text = "1 exceeds rate limit R198.51.100.1DEF";
    assert_refused(rig.mls().batch_publish_commit_log(request).await, Code::ResourceExhausted, text);
    rig.ours().faults().limit_rates(None);
    send("198.51.100.1", 9).await.unwrap();
}

pub(crate) async fn the_rate_limit_refills_after_a_silent_minute_only(rig: Rig) {
    let group = random_group();
    let ours = rig.ours();
    ours.faults().limit_rates(Some(small_limits()));
    let send = async |count: usize| rig.send((0..count).flat_map(|_| one_of(&group))).await;
    send(5).await.unwrap();
    // Every call, a refused one too, starts the minute anew.
    for _ in 0..5 {
        ours.clock.advance(Duration::from_secs(59));
        assert_eq!(send(1).await.expect_err("no whole minute was silent").code(), Code::ResourceExhausted);
    }
    // Calls of the other kind do not.
    ours.clock.advance(Duration::from_secs(30));
    rig.query(&group, None).await.unwrap();
    ours.clock.advance(Duration::from_secs(30));
    send(2).await.unwrap();
    send(1).await.expect_err("one minute gives two tokens");
    ours.clock.advance(Duration::from_secs(179));
    send(4).await.unwrap();
    send(1).await.expect_err("only whole minutes count");
    ours.clock.advance(Duration::from_secs(3600));
    send(6).await.expect_err("a bucket does not overflow");
    send(5).await.unwrap();
}
