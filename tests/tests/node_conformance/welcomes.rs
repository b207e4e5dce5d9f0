//! SendWelcomeMessages.

use std::collections::BTreeSet;

use tonic::Status;
use usher_xmtp::proto::{
    contents::{WelcomePointerWrapperAlgorithm, WelcomeWrapperAlgorithm as Algorithm},
    mls_api::{
        PagingInfo, QueryWelcomeMessagesRequest, SendWelcomeMessagesRequest, WelcomeMessage, WelcomeMessageInput,
        welcome_message,
        welcome_message_input::{V1, Version, WelcomePointer},
    },
};

use crate::{
    material::random,
    rig::{Rig, assert_invalid},
};

/// A welcome as libxmtp sends it. The destination is any key: pointees go to random ones.
pub(crate) fn v1(installation_key: &[u8], data: &[u8]) -> WelcomeMessageInput {
    WelcomeMessageInput {
        version: Some(Version::V1(V1 {
            installation_key: installation_key.to_vec(),
            data: data.to_vec(),
            hpke_public_key: vec![1; 32],
            wrapper_algorithm: Algorithm::XwingMlkem768Draft6.into(),
            welcome_metadata: b"metadata".to_vec(),
        })),
    }
}

pub(crate) fn pointer(installation_key: &[u8], welcome_pointer: &[u8]) -> WelcomeMessageInput {
    WelcomeMessageInput {
        version: Some(Version::WelcomePointer(WelcomePointer {
            installation_key: installation_key.to_vec(),
            welcome_pointer: welcome_pointer.to_vec(),
            hpke_public_key: vec![2; 1216],
            wrapper_algorithm: WelcomePointerWrapperAlgorithm::XwingMlkem768Draft6.into(),
        })),
    }
}

fn changed_v1(change: impl FnOnce(&mut V1)) -> WelcomeMessageInput {
    let mut message = v1(&random::<32>(), b"data");
    if let Some(Version::V1(v1)) = &mut message.version {
        change(v1);
    }
    message
}

fn changed_pointer(change: impl FnOnce(&mut WelcomePointer)) -> WelcomeMessageInput {
    let mut message = pointer(&random::<32>(), b"pointer");
    if let Some(Version::WelcomePointer(pointer)) = &mut message.version {
        change(pointer);
    }
    message
}

pub(crate) async fn send(rig: &Rig, messages: Vec<WelcomeMessageInput>) -> Result<(), Status> {
    rig.mls().send_welcome_messages(SendWelcomeMessagesRequest { messages }).await.map(tonic::Response::into_inner)
}

/// The first hundred welcomes for a key, oldest first.
pub(crate) async fn stored(rig: &Rig, installation_key: &[u8]) -> Vec<WelcomeMessage> {
    let paging_info = Some(PagingInfo { direction: 1, ..PagingInfo::default() });
    let request = QueryWelcomeMessagesRequest { installation_key: installation_key.to_vec(), paging_info };
    rig.mls().query_welcome_messages(request).await.unwrap().into_inner().messages
}

pub(crate) fn id_of(message: &WelcomeMessage) -> u64 {
    match message.version.as_ref().expect("every message has a version") {
        welcome_message::Version::V1(v1) => v1.id,
        welcome_message::Version::WelcomePointer(pointer) => pointer.id,
    }
}

/// The message as it was sent, without what the node adds.
fn as_sent(message: WelcomeMessage) -> WelcomeMessageInput {
    let version = match message.version.expect("every message has a version") {
        welcome_message::Version::V1(stored) => Version::V1(V1 {
            installation_key: stored.installation_key,
            data: stored.data,
            hpke_public_key: stored.hpke_public_key,
            wrapper_algorithm: stored.wrapper_algorithm,
            welcome_metadata: stored.welcome_metadata,
        }),
        welcome_message::Version::WelcomePointer(stored) => Version::WelcomePointer(WelcomePointer {
            installation_key: stored.installation_key,
            welcome_pointer: stored.welcome_pointer,
            hpke_public_key: stored.hpke_public_key,
            wrapper_algorithm: stored.wrapper_algorithm,
        }),
    };
    WelcomeMessageInput { version: Some(version) }
}

pub(crate) async fn refused_requests(rig: Rig) {
    let (bad, bad_pointer) = ("invalid welcome message", "invalid welcome pointer message");
    let unsupported =
        |name| format!("invalid welcome pointer wrapper algorithm: invalid welcome pointer wrapper algorithm {name}");
    let cases = [
        (changed_v1(|v1| v1.data.clear()), bad.to_owned()),
        (changed_v1(|v1| v1.installation_key.clear()), bad.to_owned()),
        (changed_v1(|v1| v1.hpke_public_key.clear()), bad.to_owned()),
        (changed_pointer(|pointer| pointer.installation_key.clear()), bad_pointer.to_owned()),
        (changed_pointer(|pointer| pointer.welcome_pointer.clear()), bad_pointer.to_owned()),
        (changed_pointer(|pointer| pointer.hpke_public_key.clear()), bad_pointer.to_owned()),
        (
            changed_pointer(|pointer| pointer.wrapper_algorithm = 0),
            unsupported("WELCOME_POINTER_WRAPPER_ALGORITHM_UNSPECIFIED"),
        ),
        (changed_pointer(|pointer| pointer.wrapper_algorithm = 1), unsupported("1")),
        (WelcomeMessageInput { version: None }, "invalid welcome message: missing version".to_owned()),
    ];
    assert_invalid(send(&rig, vec![]).await, "no welcome messages to send");
    for (message, text) in cases {
        assert_invalid(send(&rig, vec![message]).await, &text);
    }
}

pub(crate) async fn one_bad_welcome_stores_none(rig: Rig) {
    let key = random::<32>();
    send(&rig, vec![v1(&key, b"good"), v1(&key, b"")]).await.expect_err("the second is refused");
    assert!(stored(&rig, &key).await.is_empty());
}

pub(crate) async fn fields_are_kept_and_stamped(rig: Rig) {
    let key = random::<32>();
    let symmetric = WelcomeMessageInput {
        version: Some(Version::V1(V1 {
            installation_key: key.to_vec(),
            data: b"without an HPKE key".to_vec(),
            wrapper_algorithm: Algorithm::SymmetricKey.into(),
            ..V1::default()
        })),
    };
    let sent = [v1(&key, b"welcome"), pointer(&key, b"pointer"), symmetric];
    for message in &sent {
        send(&rig, vec![message.clone()]).await.unwrap();
    }
    let stored = stored(&rig, &key).await;
    assert!(stored.is_sorted_by(|a, b| id_of(a) < id_of(b)), "both kinds share a sequence");
    for message in &stored {
        let created_ns = match message.version.as_ref().unwrap() {
            welcome_message::Version::V1(v1) => v1.created_ns,
            welcome_message::Version::WelcomePointer(pointer) => pointer.created_ns,
        };
        assert!(created_ns > 0 && created_ns.is_multiple_of(1000), "{created_ns} ns");
    }
    assert_eq!(stored.into_iter().map(as_sent).collect::<Vec<_>>(), sent);
}

pub(crate) async fn an_unset_algorithm_is_curve25519(rig: Rig) {
    for given in [0, 1, 77] {
        let key = random::<32>();
        let message = changed_v1(|v1| {
            v1.installation_key = key.to_vec();
            v1.wrapper_algorithm = given;
        });
        send(&rig, vec![message]).await.unwrap();
        let Some(Version::V1(stored)) = as_sent(stored(&rig, &key).await.remove(0)).version else {
            panic!("what was sent is a V1")
        };
        assert_eq!(stored.wrapper_algorithm(), Algorithm::Curve25519);
    }
}

/// A pointer with the bytes of a welcome is the same data too.
pub(crate) async fn the_same_data_is_stored_once(rig: Rig) {
    let (key, other) = (random::<32>(), random::<32>());
    let welcome = v1(&key, b"data");
    send(&rig, vec![welcome.clone()]).await.unwrap();
    send(&rig, vec![welcome, pointer(&key, b"data"), v1(&other, b"data")]).await.unwrap();
    assert_eq!(stored(&rig, &key).await.len(), 1);
    assert_eq!(stored(&rig, &other).await.len(), 1);
}

pub(crate) async fn a_batch_is_stored_whole(rig: Rig) {
    let key = random::<32>();
    let sent: Vec<_> = (0_u8..50).map(|number| v1(&key, &[number])).collect();
    send(&rig, sent.clone()).await.unwrap();
    let stored = stored(&rig, &key).await;
    let ids: BTreeSet<_> = stored.iter().map(id_of).collect();
    assert_eq!(ids.len(), sent.len());
    // In whatever order.
    let stored: Vec<_> = stored.into_iter().map(as_sent).collect();
    assert!(sent.iter().all(|message| stored.contains(message)));
}
