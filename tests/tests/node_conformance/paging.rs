//! Pages of QueryGroupMessages and QueryWelcomeMessages, by the same rules.

use tonic::Code;
use usher_xmtp::proto::mls_api::{PagingInfo, QueryWelcomeMessagesRequest, SortDirection};

use crate::{
    material::{Content, private_message, random, random_group},
    rig::{Rig, assert_refused},
    welcomes::{id_of, send, v1},
};

const STORED: usize = 101;

/// A page asked for; cursors are positions in the topic's ids, counted from 0.
struct Case {
    direction: i32,
    limit: u32,
    cursor: Cursor,
    /// The positions answered.
    rows: Vec<usize>,
    /// What the answer's paging info says.
    info: (SortDirection, u32, Option<usize>),
}

#[derive(Clone, Copy)]
enum Cursor {
    None,
    At(usize),
    /// Above all signed numbers: read as none.
    Absurd,
}

fn cases() -> Vec<Case> {
    use SortDirection::{Ascending, Descending};
    let case = |direction, limit, cursor, rows, info| Case { direction, limit, cursor, rows, info };
    vec![
        // Descending unless asked for ascending; a limit of 0 or above 100 is 100.
        case(0, 0, Cursor::None, (1..101).rev().collect(), (Descending, 100, Some(1))),
        case(2, 100, Cursor::None, (1..101).rev().collect(), (Descending, 100, Some(1))),
        case(7, 101, Cursor::None, (1..101).rev().collect(), (Descending, 100, Some(1))),
        case(1, 0, Cursor::None, (0..100).collect(), (Ascending, 100, Some(99))),
        case(1, u32::MAX, Cursor::None, (0..100).collect(), (Ascending, 100, Some(99))),
        // Cursors exclude their row. Only a full page names one.
        case(1, 0, Cursor::At(99), vec![100], (Ascending, 100, None)),
        case(1, 0, Cursor::At(100), vec![], (Ascending, 100, None)),
        case(2, 0, Cursor::At(1), vec![0], (Descending, 100, None)),
        case(2, 0, Cursor::At(0), vec![], (Descending, 100, None)),
        // A full page may be the last: the next is empty.
        case(1, 0, Cursor::At(0), (1..101).collect(), (Ascending, 100, Some(100))),
        case(1, 2, Cursor::At(98), vec![99, 100], (Ascending, 2, Some(100))),
        case(1, 3, Cursor::At(98), vec![99, 100], (Ascending, 3, None)),
        case(2, 1, Cursor::At(50), vec![49], (Descending, 1, Some(49))),
        case(1, 1, Cursor::Absurd, vec![0], (Ascending, 1, Some(0))),
        case(2, 1, Cursor::Absurd, vec![100], (Descending, 1, Some(100))),
    ]
}

/// Asks each case of a topic whose `ids`, in order, are known. `query` answers the ids and the paging info.
async fn check<F>(ids: &[u64], query: F)
where
    F: AsyncFn(PagingInfo) -> (Vec<u64>, Option<PagingInfo>),
{
    assert_eq!(ids.len(), STORED);
    for (number, case) in cases().into_iter().enumerate() {
        let id_cursor = match case.cursor {
            Cursor::None => 0,
            Cursor::At(position) => ids[position],
            Cursor::Absurd => u64::MAX - 1,
        };
        let (rows, info) = query(PagingInfo { direction: case.direction, limit: case.limit, id_cursor }).await;
        assert_eq!(rows, case.rows.iter().map(|position| ids[*position]).collect::<Vec<_>>(), "case {number}");
        let (direction, limit, next) = case.info;
        let id_cursor = next.map_or(0, |position| ids[position]);
        let expected = PagingInfo { direction: direction.into(), limit, id_cursor };
        assert_eq!(info, Some(expected), "case {number}");
    }
}

pub(crate) async fn groups_page(rig: Rig) {
    let group = random_group();
    let messages: Vec<_> = (0..STORED).map(|_| private_message(&group, Content::Application)).collect();
    rig.send(messages).await.unwrap();
    let query = async |info: Option<PagingInfo>| {
        let page = rig.query(&group, info).await.unwrap();
        (page.messages.into_iter().map(|message| crate::rig::v1(message).id).collect::<Vec<_>>(), page.paging_info)
    };
    let mut ids = query(None).await.0;
    ids.extend(query(Some(PagingInfo { direction: 2, limit: 1, id_cursor: ids[99] })).await.0);
    ids.reverse();
    check(&ids, async |info| query(Some(info)).await).await;
}

pub(crate) async fn welcomes_page(rig: Rig) {
    let key = random::<32>().to_vec();
    // One by one: the order within one request is anybody's.
    for number in 0..STORED {
        send(&rig, vec![v1(&key, &number.to_be_bytes())]).await.unwrap();
    }
    let query = async |paging_info: Option<PagingInfo>| {
        let request = QueryWelcomeMessagesRequest { installation_key: key.clone(), paging_info };
        let page = rig.mls().query_welcome_messages(request).await.unwrap().into_inner();
        (page.messages.iter().map(id_of).collect::<Vec<_>>(), page.paging_info)
    };
    let mut ids = query(None).await.0;
    ids.extend(query(Some(PagingInfo { direction: 2, limit: 1, id_cursor: ids[99] })).await.0);
    ids.reverse();
    check(&ids, async |info| query(Some(info)).await).await;
}

pub(crate) async fn an_empty_topic_is_refused(rig: Rig) {
    assert_refused(rig.query(&[], None).await, Code::Unknown, "group is required");
    let welcomes = rig.mls().query_welcome_messages(QueryWelcomeMessagesRequest::default()).await;
    assert_refused(welcomes, Code::Unknown, "installation is required");
}

pub(crate) async fn an_unknown_topic_is_empty(rig: Rig) {
    let page = rig.query(&random_group(), None).await.unwrap();
    assert!(page.messages.is_empty());
    let info = PagingInfo { direction: SortDirection::Descending.into(), limit: 100, id_cursor: 0 };
    assert_eq!(page.paging_info, Some(info));
}
