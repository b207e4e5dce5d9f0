//! A node to ask and the clients to ask it with.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};
use usher_localnet::xmtp_node::{Faults, Node, NodeOptions, RunningNode};
use usher_xmtp::{
    ports::Clock,
    proto::{
        identity_api::identity_api_client::IdentityApiClient,
        mls_api::{
            GroupMessage, GroupMessageInput, PagingInfo, QueryGroupMessagesRequest, QueryGroupMessagesResponse,
            SendGroupMessagesRequest, SubscribeGroupMessagesRequest, group_message, group_message_input,
            mls_api_client::MlsApiClient, subscribe_group_messages_request::Filter,
        },
    },
};

/// How long to watch that nothing comes.
const SILENCE: Duration = Duration::from_millis(200);

/// A clock that stands still until it is moved.
pub(crate) struct ManualClock(AtomicU64);

impl ManualClock {
    /// 2026-01-02, with nanoseconds that the node has to cut off.
    pub(crate) const START_NS: u64 = 1_767_323_045_123_456_789;

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A node in this process.
pub(crate) struct Ours {
    pub(crate) node: RunningNode,
    pub(crate) clock: Arc<ManualClock>,
}

impl Ours {
    pub(crate) async fn start(options: NodeOptions) -> Self {
        let clock = Arc::new(ManualClock(AtomicU64::new(ManualClock::START_NS)));
        let node = Node::start(NodeOptions { clock: clock.clone(), ..options }).await.unwrap();
        Self { node, clock }
    }

    pub(crate) fn faults(&self) -> Faults {
        self.node.faults()
    }
}

/// The node a rule is asked of.
pub(crate) struct Rig {
    ours: Option<Ours>,
    pub(crate) channel: Channel,
}

impl Rig {
    /// The node at `url`, or one of its own.
    pub(crate) async fn new(url: Option<String>) -> Self {
        match url {
            Some(url) => Self { ours: None, channel: connect(&url).await },
            None => Self::with(Ours::start(NodeOptions::on_free_ports()).await).await,
        }
    }

    pub(crate) async fn with(ours: Ours) -> Self {
        let channel = connect(&ours.node.url()).await;
        Self { ours: Some(ours), channel }
    }

    /// The node, which is in this process.
    pub(crate) fn ours(&self) -> &Ours {
        self.ours.as_ref().expect("this rule is only asked of a node in this process")
    }

    pub(crate) fn into_node(self) -> RunningNode {
        self.ours.expect("this rule is only asked of a node in this process").node
    }

    pub(crate) fn mls(&self) -> MlsApiClient<Channel> {
        MlsApiClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn identity(&self) -> IdentityApiClient<Channel> {
        IdentityApiClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Sends group messages in one request.
    pub(crate) async fn send(&self, messages: impl IntoIterator<Item = Vec<u8>>) -> Result<(), Status> {
        let messages = messages.into_iter().map(input).collect();
        self.mls().send_group_messages(SendGroupMessagesRequest { messages }).await.map(Response::into_inner)
    }

    pub(crate) async fn query(
        &self,
        group_id: &[u8],
        paging_info: Option<PagingInfo>,
    ) -> Result<QueryGroupMessagesResponse, Status> {
        let request = QueryGroupMessagesRequest { group_id: group_id.to_vec(), paging_info };
        self.mls().query_group_messages(request).await.map(Response::into_inner)
    }

    /// The first hundred messages of a group, oldest first.
    pub(crate) async fn stored(&self, group_id: &[u8]) -> Vec<group_message::V1> {
        let ascending = PagingInfo { direction: 1, ..PagingInfo::default() };
        self.query(group_id, Some(ascending)).await.unwrap().messages.into_iter().map(v1).collect()
    }

    pub(crate) async fn subscribe(&self, filters: &[(&[u8], u64)]) -> Result<Streaming<GroupMessage>, Status> {
        let filters =
            filters.iter().map(|(group_id, id_cursor)| Filter { group_id: group_id.to_vec(), id_cursor: *id_cursor });
        let request = SubscribeGroupMessagesRequest { filters: filters.collect() };
        self.mls().subscribe_group_messages(request).await.map(Response::into_inner)
    }
}

pub(crate) async fn connect(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

pub(crate) fn input(data: Vec<u8>) -> GroupMessageInput {
    let v1 = group_message_input::V1 { data, ..Default::default() };
    GroupMessageInput { version: Some(group_message_input::Version::V1(v1)) }
}

pub(crate) fn v1(message: GroupMessage) -> group_message::V1 {
    let group_message::Version::V1(v1) = message.version.expect("every message has a version");
    v1
}

/// The next message of a stream that has to bring one.
pub(crate) async fn next<M>(stream: &mut Streaming<M>) -> M {
    stream.message().await.unwrap().expect("the stream goes on")
}

/// The status a stream ends with, without a message before.
pub(crate) async fn end<M: Debug>(stream: &mut Streaming<M>) -> Result<(), Status> {
    match stream.message().await {
        Ok(None) => Ok(()),
        Ok(Some(message)) => panic!("the stream goes on with {message:?}"),
        Err(status) => Err(status),
    }
}

/// Watches that a stream stays open and brings nothing.
pub(crate) async fn assert_silent<M: Debug>(stream: &mut Streaming<M>) {
    if let Ok(outcome) = tokio::time::timeout(SILENCE, stream.message()).await {
        panic!("the stream is not silent: {outcome:?}");
    }
}

/// A request that claims to come from `ip` by way of a proxy.
pub(crate) fn forwarded_for<T>(ip: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-forwarded-for", ip.parse().unwrap());
    request
}

#[track_caller]
pub(crate) fn assert_refused<T: Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("this is refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

#[track_caller]
pub(crate) fn assert_invalid<T: Debug>(result: Result<T, Status>, text: &str) {
    assert_refused(result, Code::InvalidArgument, text);
}
