//! GetNewestGroupMessage.

use usher_xmtp::proto::mls_api::{
    GetNewestGroupMessageRequest, GroupMessageInput, SendGroupMessagesRequest, group_message, group_message_input,
};

use crate::{
    material::{Content, private_message, random_group},
    rig::{Rig, assert_invalid, v1},
};

pub(crate) async fn newest(
    rig: &Rig,
    group_ids: Vec<Vec<u8>>,
    include_content: bool,
) -> Vec<Option<group_message::V1>> {
    let request = GetNewestGroupMessageRequest { group_ids, include_content };
    let answer = rig.mls().get_newest_group_message(request).await.unwrap().into_inner();
    answer.responses.into_iter().map(|response| response.group_message.map(v1)).collect()
}

pub(crate) async fn refused_requests(rig: Rig) {
    let answer = rig.mls().get_newest_group_message(GetNewestGroupMessageRequest::default()).await;
    assert_invalid(answer, "no group ids provided");
}

pub(crate) async fn one_answer_per_group_in_order(rig: Rig) {
    let (one, other) = (random_group(), random_group());
    for group in [&one, &other, &one] {
        rig.send([private_message(group, Content::Application)]).await.unwrap();
    }
    let last = async |group| Some(rig.stored(group).await.pop().unwrap());
    let asked = vec![other.clone(), random_group(), one.clone(), vec![], other.clone()];
    let expected = [last(&other).await, None, last(&one).await, None, last(&other).await];
    assert_eq!(newest(&rig, asked, true).await, expected);
}

pub(crate) async fn content_only_on_request(rig: Rig) {
    let group = random_group();
    let data = private_message(&group, Content::Commit);
    let input = group_message_input::V1 { data, sender_hmac: vec![7; 32], should_push: true };
    let messages = vec![GroupMessageInput { version: Some(group_message_input::Version::V1(input)) }];
    rig.mls().send_group_messages(SendGroupMessagesRequest { messages }).await.unwrap();
    let whole = rig.stored(&group).await.remove(0);
    assert!(whole.is_commit && whole.should_push);
    assert_eq!(newest(&rig, vec![group.clone()], true).await, [Some(whole.clone())]);
    let bare = group_message::V1 { data: vec![], sender_hmac: vec![], should_push: false, ..whole };
    assert_eq!(newest(&rig, vec![group], false).await, [Some(bare)]);
}
