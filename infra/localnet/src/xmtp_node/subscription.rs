//! One open stream: history first, then what is stored while it lasts.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use usher_xmtp::proto::mls_api::{GroupMessage, WelcomeMessage};

use super::{
    feed::Stored,
    gate::STREAMING_ENDED,
    paging::{MAX_PAGE, Page},
    store::{ReadFrom, Store},
};

/// What a subscription yields.
pub(super) type Messages<M> = ReceiverStream<Result<M, Status>>;

/// Why all streams end, if they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    Open,
    CutOver,
    ShuttingDown,
}

/// A topic and the last id its reader has.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) topic: Vec<u8>,
    pub(super) id_cursor: u64,
}

/// What can be subscribed to.
pub(super) trait Subscribable: Stored {
    fn subscribe(store: &Store, topics: HashSet<Vec<u8>>) -> mpsc::Receiver<Self>;
    fn history(store: &Store, topic: &[u8], page: Page) -> Result<Vec<Self>, Status>;
    /// How the stream of a reader that fell behind ends.
    fn fell_behind() -> Option<Status>;
}

impl Subscribable for GroupMessage {
    fn subscribe(store: &Store, topics: HashSet<Vec<u8>>) -> mpsc::Receiver<Self> {
        store.subscribe_groups(topics)
    }

    fn history(store: &Store, topic: &[u8], page: Page) -> Result<Vec<Self>, Status> {
        if topic.is_empty() {
            return Err(Status::unknown("group is required"));
        }
        store.group_messages(topic, page, ReadFrom::Replica).map_err(|error| Status::unknown(error.to_string()))
    }

    fn fell_behind() -> Option<Status> {
        Some(Status::aborted("caller did not read all messages fast enough"))
    }
}

impl Subscribable for WelcomeMessage {
    fn subscribe(store: &Store, topics: HashSet<Vec<u8>>) -> mpsc::Receiver<Self> {
        store.subscribe_welcomes(topics)
    }

    fn history(store: &Store, topic: &[u8], page: Page) -> Result<Vec<Self>, Status> {
        store.welcome_messages(topic, page, ReadFrom::Replica).map_err(|error| Status::unknown(error.to_string()))
    }

    fn fell_behind() -> Option<Status> {
        None
    }
}

/// Opens a stream. Its header goes out at once, so that a client need not wait for a first message to know it is open.
pub(super) fn open<M: Subscribable>(
    store: Arc<Store>,
    filters: Vec<Filter>,
    mut end: watch::Receiver<StreamEnd>,
) -> Response<Messages<M>> {
    // Before history is read, so that nothing falls between the two.
    let live = M::subscribe(&store, filters.iter().map(|filter| filter.topic.clone()).collect());
    let (out, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut delivery = Delivery { out: out.clone(), high_water_marks: HashMap::new() };
        let last = tokio::select! {
            last = delivery.run(&store, filters, live) => last,
            status = ended(&mut end) => Some(status),
            () = out.closed() => None,
        };
        if let Some(status) = last {
            // Fails only if the reader has gone.
            let _ = out.send(Err(status)).await;
        }
    });
    let mut response = Response::new(ReceiverStream::new(stream));
    response.metadata_mut().insert("subscribed", tonic::metadata::MetadataValue::from_static("true"));
    response
}

/// Waits until the node ends all streams.
async fn ended(end: &mut watch::Receiver<StreamEnd>) -> Status {
    let end = end.wait_for(|end| *end != StreamEnd::Open).await.map(|end| *end);
    match end {
        Ok(StreamEnd::CutOver) => Status::unavailable(STREAMING_ENDED),
        // The node is gone, or going.
        Ok(StreamEnd::Open | StreamEnd::ShuttingDown) | Err(_) => Status::unavailable("service is shutting down"),
    }
}

/// The reader has hung up.
struct Gone;

struct Delivery<M> {
    out: mpsc::Sender<Result<M, Status>>,
    /// The highest id sent per topic: from 0, not from the reader's cursor.
    high_water_marks: HashMap<Vec<u8>, u64>,
}

impl<M: Subscribable> Delivery<M> {
    /// The status the stream ends with, unless it just ends.
    async fn run(&mut self, store: &Store, filters: Vec<Filter>, mut live: mpsc::Receiver<M>) -> Option<Status> {
        if let Err(status) = self.replay(store, filters).await {
            return status;
        }
        while let Some(message) = live.recv().await {
            self.send(message).await.ok()?;
        }
        M::fell_behind()
    }

    /// Sends the history of all filters, a page of each in turn.
    async fn replay(&mut self, store: &Store, mut filters: Vec<Filter>) -> Result<(), Option<Status>> {
        while !filters.is_empty() {
            let mut unfinished = Vec::new();
            for mut filter in filters {
                let page = M::history(store, &filter.topic, Page::after(filter.id_cursor)).map_err(Some)?;
                let full = page.len() == MAX_PAGE as usize;
                for message in page {
                    filter.id_cursor = message.id();
                    self.send(message).await.map_err(|Gone| None)?;
                }
                if full {
                    unfinished.push(filter);
                }
            }
            filters = unfinished;
        }
        Ok(())
    }

    async fn send(&mut self, message: M) -> Result<(), Gone> {
        let mark = self.high_water_marks.entry(message.topic().to_vec()).or_default();
        if message.id() <= *mark {
            return Ok(());
        }
        *mark = message.id();
        self.out.send(Ok(message)).await.map_err(|_| Gone)
    }
}
