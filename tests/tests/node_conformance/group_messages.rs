//! SendGroupMessages.

use openmls::{
    group::{MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY},
    prelude::tls_codec::Serialize,
};
use usher_xmtp::proto::mls_api::{
    GroupMessageInput, SendGroupMessagesRequest, group_message_input::V1, group_message_input::Version,
};

use crate::{
    material::{
        Content, RealGroup, head, installation, key_package, private_message, private_message_of_len,
        private_message_of_type, random_group,
    },
    rig::{Rig, assert_invalid, input},
};

/// What the validation service decodes at most, in bytes.
const MAX_REQUEST: usize = 4 * 1024 * 1024;

pub(crate) async fn refused_requests(rig: Rig) {
    let cases = [
        (vec![], "no group messages to send"),
        (vec![GroupMessageInput { version: None }], "invalid group message"),
        (
            vec![input(private_message(&random_group(), Content::Commit)), GroupMessageInput { version: None }],
            "invalid group message",
        ),
    ];
    for (messages, text) in cases {
        assert_invalid(rig.mls().send_group_messages(SendGroupMessagesRequest { messages }).await, text);
    }
}

pub(crate) async fn refused_framings(rig: Rig) {
    let group = random_group();
    let good = private_message(&group, Content::Application);
    let key_package = [&[0, 1, 0, 5][..], &key_package(&installation()).tls_serialize_detached().unwrap()].concat();
    let cases = [
        (vec![], "EndOfStream"),
        (good[..good.len() - 1].to_vec(), "EndOfStream"),
        (head(1, 2, &group), "EndOfStream"),
        ([&[0, 2], &good[2..]].concat(), r#"DecodingError("MlsMessage protocol version is not 1.0")"#),
        (private_message_of_type(&group, 0), "UnknownValue(0)"),
        (private_message_of_type(&group, 4), "UnknownValue(4)"),
        (head(1, 99, &group), "UnknownValue(99)"),
        (key_package, "Wrong wire format"),
    ];
    for (data, error) in cases {
        let text = format!("invalid group message: validation failed with error {error}");
        assert_invalid(rig.send([data]).await, &text);
    }
    let junk = rig.send([vec![0xff; 64]]).await.expect_err("junk is refused");
    assert!(junk.message().starts_with("invalid group message: validation failed with error "), "{junk:?}");
    assert!(rig.stored(&group).await.is_empty());
}

pub(crate) async fn one_bad_message_stores_none(rig: Rig) {
    let group = random_group();
    let good = || private_message(&group, Content::Application);
    rig.send([good(), good()[..20].to_vec(), good()]).await.expect_err("the second is refused");
    assert!(rig.stored(&group).await.is_empty());
}

/// Unlike a bad framing, this is seen only when the message's turn has come.
pub(crate) async fn an_empty_group_id_stops_after_what_is_stored(rig: Rig) {
    let group = random_group();
    let good = || private_message(&group, Content::Application);
    let sent = rig.send([good(), private_message(&[], Content::Application), good()]).await;
    assert_invalid(sent, "group id is empty");
    assert_eq!(rig.stored(&group).await.len(), 1);
}

pub(crate) async fn the_same_data_is_stored_once(rig: Rig) {
    let group = random_group();
    let (twice, once) = (private_message(&group, Content::Commit), private_message(&group, Content::Application));
    rig.send([twice.clone()]).await.unwrap();
    rig.send([twice.clone(), once.clone(), twice.clone()]).await.unwrap();
    let stored: Vec<_> = rig.stored(&group).await.into_iter().map(|message| message.data).collect();
    assert_eq!(stored, [twice, once]);
}

pub(crate) async fn trailing_bytes_make_another_message(rig: Rig) {
    let group = random_group();
    let message = private_message(&group, Content::Application);
    let longer = [&message[..], b"more"].concat();
    rig.send([message.clone(), longer.clone()]).await.unwrap();
    let stored: Vec<_> = rig.stored(&group).await.into_iter().map(|message| message.data).collect();
    assert_eq!(stored, [message, longer]);
}

pub(crate) async fn group_and_commit_are_read_from_the_bytes(rig: Rig) {
    for (content, is_commit) in [(Content::Application, false), (Content::Proposal, false), (Content::Commit, true)] {
        // A group id of any length, here one whose length takes two bytes to write.
        for group in
            [random_group(), [random_group(), random_group(), random_group(), random_group(), vec![1]].concat()]
        {
            rig.send([private_message(&group, content)]).await.unwrap();
            let [stored] = &rig.stored(&group).await[..] else { panic!("one message is stored") };
            assert_eq!((&stored.group_id, stored.is_commit), (&group, is_commit));
        }
    }
}

pub(crate) async fn real_mls_messages_are_understood(rig: Rig) {
    for policy in [PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY] {
        let id = random_group();
        let mut group = RealGroup::new(&id, policy);
        let messages = [group.application(), group.proposal(), group.commit()];
        rig.send(messages.clone()).await.unwrap();
        let stored = rig.stored(&id).await;
        assert_eq!(stored.iter().map(|message| message.data.clone()).collect::<Vec<_>>(), messages);
        assert_eq!(stored.iter().map(|message| message.is_commit).collect::<Vec<_>>(), [false, false, true]);
    }
}

pub(crate) async fn fields_are_kept_and_stamped(rig: Rig) {
    let group = random_group();
    let given = [(true, vec![9; 32]), (false, vec![])];
    let messages = given.clone().map(|(should_push, sender_hmac)| {
        let data = private_message(&group, Content::Application);
        GroupMessageInput { version: Some(Version::V1(V1 { data, sender_hmac, should_push })) }
    });
    rig.mls().send_group_messages(SendGroupMessagesRequest { messages: messages.to_vec() }).await.unwrap();
    let stored = rig.stored(&group).await;
    assert_eq!(stored.len(), 2);
    for (stored, (should_push, sender_hmac)) in stored.iter().zip(given) {
        assert_eq!((stored.should_push, &stored.sender_hmac), (should_push, &sender_hmac));
        assert!(stored.id >= 1);
        assert!(stored.created_ns > 0 && stored.created_ns.is_multiple_of(1000), "{} ns", stored.created_ns);
    }
}

pub(crate) async fn one_sequence_over_all_groups(rig: Rig) {
    let (one, other) = (random_group(), random_group());
    for group in [&one, &other, &one, &other] {
        rig.send([private_message(group, Content::Application), private_message(group, Content::Commit)])
            .await
            .unwrap();
    }
    let ids = async |group| rig.stored(group).await.iter().map(|message| message.id).collect::<Vec<_>>();
    let (one, other) = (ids(&one).await, ids(&other).await);
    let in_order = [one[0], one[1], other[0], other[1], one[2], one[3], other[2], other[3]];
    assert!(in_order.is_sorted_by(|a, b| a < b), "{in_order:?}");
}

pub(crate) async fn two_commits_of_one_epoch_are_both_stored(rig: Rig) {
    let id = random_group();
    let mut group = RealGroup::encrypted(&id);
    let (first, second) = (group.commit(), group.commit());
    rig.send([first]).await.unwrap();
    rig.send([second]).await.unwrap();
    assert_eq!(rig.stored(&id).await.len(), 2);
}

/// The messages of one request go to the validation service together: each as a field of a field.
pub(crate) async fn more_than_4_mib_is_refused(rig: Rig) {
    let group = random_group();
    let half = MAX_REQUEST / 2;
    let sent = rig.send([private_message_of_len(&group, half), private_message_of_len(&group, half)]).await;
    // A tag and four bytes of length, twice, for each of the two.
    let found = MAX_REQUEST + 2 * (2 * 5);
    let text = format!(
        "invalid group message: rpc error: code = OutOfRange desc = Error, decoded message length too large: \
         found {found} bytes, the limit is: 4194304 bytes"
    );
    assert_invalid(sent, &text);
    assert!(rig.stored(&group).await.is_empty());
}

pub(crate) async fn nearly_4_mib_is_stored(rig: Rig) {
    let group = random_group();
    rig.send([private_message_of_len(&group, MAX_REQUEST - 10)]).await.unwrap();
    assert_eq!(rig.stored(&group).await[0].data.len(), MAX_REQUEST - 10);
    rig.send([private_message_of_len(&group, MAX_REQUEST - 9)]).await.expect_err("one byte more is too much");
}
