//! What is true of the node whatever is called.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, codec::CompressionEncoding, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_prost::ProstCodec;
use usher_localnet::xmtp_node::NodeOptions;
use usher_xmtp::{
    identity::add_installation_update,
    proto::mls_api::{
        QueryGroupMessagesRequest, SendGroupMessagesRequest, SubscribeGroupMessagesRequest,
        mls_api_client::MlsApiClient, subscribe_group_messages_request::Filter,
    },
};

use crate::{
    identity,
    material::{CLIENT_NS, Content, Person, SECOND_NS, installation, private_message, random, random_group},
    rig::{ManualClock, Ours, Rig, assert_invalid, assert_refused, assert_silent, end, input, next, v1},
    welcomes,
};

pub(crate) async fn the_node_is_healthy(rig: Rig) {
    let mut health = HealthClient::new(rig.channel.clone());
    let answer = health.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

pub(crate) async fn unknown_methods_are_unimplemented(rig: Rig) {
    for path in [
        "/xmtp.mls.api.v1.MlsApi/RevokeInstallation",
        "/xmtp.mls.api.v1.MlsApi/GetIdentityUpdates",
        "/xmtp.mls.api.v1.MlsApi/Subscribe",
        "/xmtp.migration.api.v1.D14nMigrationApi/FetchD14nCutover",
    ] {
        let mut client = tonic::client::Grpc::new(rig.channel.clone());
        client.ready().await.unwrap();
        let codec = ProstCodec::<(), ()>::default();
        let answer = client.unary(Request::new(()), PathAndQuery::from_static(path), codec).await;
        assert_eq!(answer.expect_err(path).code(), Code::Unimplemented, "{path}");
    }
}

pub(crate) async fn gzip_is_understood(rig: Rig) {
    let group = random_group();
    let data = [&private_message(&group, Content::Application)[..], &[0; 10_000]].concat();
    let messages = vec![input(data.clone())];
    let request = SendGroupMessagesRequest { messages };
    rig.mls().send_compressed(CompressionEncoding::Gzip).send_group_messages(request).await.unwrap();
    assert_eq!(rig.stored(&group).await[0].data, data);
}

/// Welcomes are not validated, so only gRPC's own limit (50 MiB) holds for them.
pub(crate) async fn large_messages_pass(rig: Rig) {
    let key = random::<32>();
    for _ in 0..2 {
        let data = [&random::<16>()[..], &vec![0; 8 * 1024 * 1024]].concat();
        welcomes::send(&rig, vec![welcomes::v1(&key, &data)]).await.unwrap();
    }
    assert_eq!(welcomes::stored(&rig, &key).await.len(), 2);
}

/// libxmtp pings every 16 seconds, idle or not, and gives up on a node that does not answer.
pub(crate) async fn pings_are_answered(rig: Rig) {
    let endpoint = Endpoint::from_shared(rig.ours().node.url()).unwrap();
    let pinging = endpoint
        .http2_keep_alive_interval(Duration::from_millis(10))
        .keep_alive_timeout(Duration::from_secs(1))
        .keep_alive_while_idle(true);
    let group = random_group();
    let filters = vec![Filter { group_id: group.clone(), id_cursor: 0 }];
    let mut client = MlsApiClient::new(pinging.connect().await.unwrap());
    let mut stream =
        client.subscribe_group_messages(SubscribeGroupMessagesRequest { filters }).await.unwrap().into_inner();
    assert_silent(&mut stream).await;
    rig.send([private_message(&group, Content::Application)]).await.unwrap();
    next(&mut stream).await;
}

/// One HTTP/1.1 exchange on a connection of its own.
async fn http(url: &str, head: &str, body: &[u8]) -> String {
    let authority = url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(authority).await.unwrap();
    let length = body.len();
    let head = format!("{head}Host: {authority}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    connection.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).to_ascii_lowercase()
}

pub(crate) async fn browsers_are_served(rig: Rig) {
    let url = rig.ours().node.web_url();
    let path = "/xmtp.mls.api.v1.MlsApi/QueryGroupMessages";
    let preflight = http(
        &url,
        &format!(
            "OPTIONS {path} HTTP/1.1\r\nOrigin: https://example.org\r\n\
             Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-grpc-web,content-type\r\n"
        ),
        &[],
    )
    .await;
    assert!(preflight.starts_with("http/1.1 200"), "{preflight}");
    assert!(preflight.contains("access-control-allow-origin: *"), "{preflight}");
    let group = random_group();
    rig.send([private_message(&group, Content::Application)]).await.unwrap();
    let message = prost::Message::encode_to_vec(&QueryGroupMessagesRequest { group_id: group, paging_info: None });
    let frame = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let call = format!(
        "POST {path} HTTP/1.1\r\nOrigin: https://example.org\r\nContent-Type: application/grpc-web+proto\r\n\
         X-Grpc-Web: 1\r\n"
    );
    let answer = http(&url, &call, &frame).await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(answer.contains("access-control-allow-origin: *"), "{answer}");
    assert!(answer.contains("access-control-expose-headers: *"), "{answer}");
    // The trailers come in the body.
    assert!(answer.contains("grpc-status:0"), "{answer}");
}

pub(crate) async fn sequences_start_at_one_and_survive_a_restart(_: Rig) {
    let folder = tempfile::tempdir().unwrap();
    let options = NodeOptions { database: Some(folder.path().join("node.db")), ..NodeOptions::on_free_ports() };
    let (group, key, person) = (random_group(), random::<32>(), Person::new().await);
    let data = private_message(&group, Content::Application);
    let before = Rig::with(Ours::start(options.clone()).await).await;
    before.send([data.clone()]).await.unwrap();
    // Stored before: it draws an id and does not use it.
    before.send([data]).await.unwrap();
    welcomes::send(&before, vec![welcomes::v1(&key, b"first")]).await.unwrap();
    identity::publish(&before, person.creation.clone()).await.unwrap();
    before.into_node().shutdown().await.unwrap();

    let after = Rig::with(Ours::start(options).await).await;
    after.send([private_message(&group, Content::Commit)]).await.unwrap();
    welcomes::send(&after, vec![welcomes::v1(&key, b"second")]).await.unwrap();
    let ids: Vec<_> = after.stored(&group).await.iter().map(|message| message.id).collect();
    assert_eq!(ids, [1, 3]);
    let ids: Vec<_> = welcomes::stored(&after, &key).await.iter().map(welcomes::id_of).collect();
    assert_eq!(ids, [1, 2]);
    // What was verified before the restart is verified again from the log.
    let at = CLIENT_NS + SECOND_NS;
    let addition = add_installation_update(&person.inbox, &person.wallet, &installation(), at).await.unwrap();
    identity::publish(&after, addition.clone()).await.unwrap();
    assert_invalid(identity::publish(&after, addition).await, "Replay detected");
    let ids: Vec<_> = identity::log(&after, &person.inbox).await.iter().map(|row| row.sequence_id).collect();
    assert_eq!(ids, [1, 2]);
}

pub(crate) async fn stored_times_are_the_clocks_microseconds(rig: Rig) {
    let (group, person) = (random_group(), Person::new().await);
    rig.send([private_message(&group, Content::Application)]).await.unwrap();
    assert_eq!(rig.stored(&group).await[0].created_ns, ManualClock::START_NS / 1000 * 1000);
    // The identity log is stamped by the process, not by the database.
    identity::publish(&rig, person.creation.clone()).await.unwrap();
    assert_eq!(identity::log(&rig, &person.inbox).await[0].server_timestamp_ns, ManualClock::START_NS);
}

pub(crate) async fn shutting_down_ends_streams(rig: Rig) {
    let group = random_group();
    let mut stream = rig.subscribe(&[(&group, 0)]).await.unwrap();
    rig.send([private_message(&group, Content::Application)]).await.unwrap();
    assert_eq!(v1(next(&mut stream).await).group_id, group);
    let (ended, stopped) = futures::future::join(end(&mut stream), rig.into_node().shutdown()).await;
    assert_refused(ended, Code::Unavailable, "service is shutting down");
    stopped.unwrap();
}
