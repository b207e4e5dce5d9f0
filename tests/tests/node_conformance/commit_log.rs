//! BatchPublishCommitLog and BatchQueryCommitLog.

use tonic::{Code, Status};
use usher_xmtp::proto::{
    associations::RecoverableEd25519Signature,
    mls_api::{
        BatchPublishCommitLogRequest, BatchQueryCommitLogRequest, PagingInfo, PublishCommitLogRequest,
        QueryCommitLogRequest, QueryCommitLogResponse, SortDirection,
    },
};

use crate::{
    material::random_group,
    rig::{Rig, assert_invalid, assert_refused},
};

fn entry(group_id: &[u8], entry: &[u8]) -> PublishCommitLogRequest {
    // Nobody verifies it.
    let signature = RecoverableEd25519Signature { bytes: vec![1; 64], public_key: vec![2; 32] };
    PublishCommitLogRequest {
        group_id: group_id.to_vec(),
        serialized_commit_log_entry: entry.to_vec(),
        signature: Some(signature),
    }
}

async fn publish(rig: &Rig, requests: Vec<PublishCommitLogRequest>) -> Result<(), Status> {
    let answer = rig.mls().batch_publish_commit_log(BatchPublishCommitLogRequest { requests }).await;
    answer.map(tonic::Response::into_inner)
}

async fn query(rig: &Rig, requests: Vec<QueryCommitLogRequest>) -> Result<Vec<QueryCommitLogResponse>, Status> {
    let answer = rig.mls().batch_query_commit_log(BatchQueryCommitLogRequest { requests }).await;
    answer.map(|answer| answer.into_inner().responses)
}

fn of(group_id: &[u8], paging_info: Option<PagingInfo>) -> QueryCommitLogRequest {
    QueryCommitLogRequest { group_id: group_id.to_vec(), paging_info }
}

fn entries(response: &QueryCommitLogResponse) -> Vec<&[u8]> {
    response.commit_log_entries.iter().map(|entry| entry.serialized_commit_log_entry.as_slice()).collect()
}

pub(crate) async fn refused_requests(rig: Rig) {
    let group = random_group();
    assert_invalid(publish(&rig, vec![]).await, "no log entries to publish");
    let eleven = vec![entry(&group, b"entry"); 11];
    assert_invalid(publish(&rig, eleven).await, "cannot exceed 10 inserts in single batch");
    let unsigned = PublishCommitLogRequest { signature: None, ..entry(&group, b"entry") };
    for bad in [entry(&[], b"entry"), entry(&group, b""), unsigned] {
        assert_invalid(publish(&rig, vec![bad]).await, "invalid commit log entry");
    }
    assert_invalid(query(&rig, vec![]).await, "no requests to query");
    assert_invalid(query(&rig, vec![of(&group, None); 21]).await, "cannot exceed 20 queries in single batch");
    assert_invalid(query(&rig, vec![of(&group, None), of(&[], None)]).await, "invalid request");
    assert!(entries(&query(&rig, vec![of(&group, None)]).await.unwrap()[0]).is_empty());
}

pub(crate) async fn a_bad_entry_leaves_the_earlier_ones(rig: Rig) {
    let group = random_group();
    let published = publish(&rig, vec![entry(&group, b"first"), entry(&group, b""), entry(&group, b"third")]).await;
    assert_invalid(published, "invalid commit log entry");
    assert_eq!(entries(&query(&rig, vec![of(&group, None)]).await.unwrap()[0]), [b"first"]);
}

pub(crate) async fn entries_page_oldest_first(rig: Rig) {
    let (group, other) = (random_group(), random_group());
    let names: Vec<_> = (0_u8..101).map(|number| [number]).collect();
    for batch in names.chunks(10) {
        publish(&rig, batch.iter().map(|name| entry(&group, name)).collect()).await.unwrap();
    }
    publish(&rig, vec![entry(&other, b"other")]).await.unwrap();
    let unspecified = PagingInfo { direction: 0, limit: 2, id_cursor: 0 };
    let responses = query(&rig, vec![of(&group, None), of(&other, None), of(&group, Some(unspecified))]).await.unwrap();
    assert_eq!(responses.iter().map(|response| &response.group_id).collect::<Vec<_>>(), [&group, &other, &group]);
    assert_eq!(entries(&responses[0]), names[..100]);
    let log = &responses[0].commit_log_entries;
    assert!(log.is_sorted_by(|a, b| a.sequence_id < b.sequence_id));
    assert_eq!(log[0].signature, entry(&group, b"").signature);
    let info = |limit, id_cursor| Some(PagingInfo { direction: SortDirection::Ascending.into(), limit, id_cursor });
    assert_eq!(responses[0].paging_info, info(100, log[99].sequence_id));
    assert_eq!(entries(&responses[1]), [b"other"]);
    assert_eq!(responses[1].paging_info, info(100, 0));
    assert_eq!(responses[2].paging_info, info(2, log[1].sequence_id));
    let rest = PagingInfo { direction: 1, limit: 1000, id_cursor: log[98].sequence_id };
    let responses = query(&rig, vec![of(&group, Some(rest))]).await.unwrap();
    assert_eq!(entries(&responses[0]), names[99..]);
    assert_eq!(responses[0].paging_info, info(100, 0));
}

pub(crate) async fn nothing_is_unique(rig: Rig) {
    let group = random_group();
    publish(&rig, vec![entry(&group, b"same"), entry(&group, b"same")]).await.unwrap();
    publish(&rig, vec![entry(&group, b"same")]).await.unwrap();
    assert_eq!(entries(&query(&rig, vec![of(&group, None)]).await.unwrap()[0]), [b"same"; 3]);
}

pub(crate) async fn descending_is_refused(rig: Rig) {
    let descending = PagingInfo { direction: SortDirection::Descending.into(), ..PagingInfo::default() };
    let text = "failed to query commit log: descending direction is not supported";
    assert_refused(query(&rig, vec![of(&random_group(), Some(descending))]).await, Code::Internal, text);
}
