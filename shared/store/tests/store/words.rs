//! The rows in the clear: rooms, standing, parked things, the deployment's id.

use std::collections::BTreeMap;

use alloy_primitives::B256;
use futures::future::join_all;
use usher_domain::{GroupId, InboxId, Incarnation};
use usher_store::{
    ActiveRoom, RoomRecord, RoomState, Standing, Table,
    parked::{EXCERPT_BYTES_MAX, ParkedId},
    standing::{Link, Mark, Marked, Waiting},
};

use crate::support::{ALICE, BOB, CHAIN, NOW_MS, Seeded, TestClock, event, incarnation, mint, on_each, store};

fn inbox(byte: u8) -> InboxId {
    hex::encode([byte; 32]).parse().unwrap()
}

#[tokio::test]
async fn an_event_has_its_rooms_in_order() {
    on_each(async |table| {
        let store = store(table);
        assert_eq!(store.event(&event(0)).await.unwrap(), None);
        store.record(&[mint()]).await;
        let room = |number: u32, state: RoomState| RoomRecord {
            number,
            group: GroupId([u8::try_from(20 - number).unwrap(); 16]),
            incarnation: incarnation(),
            state,
            succeeds: (number == 2).then_some(GroupId([19; 16])),
            seen: u64::from(number) * 100,
            unexplained_removals: 0,
            repaired_ms: BTreeMap::new(),
            healing: None,
            outbox_since_ms: (number == 2).then_some(7),
        };
        let rooms = [
            room(1, RoomState::Lost { reason: "ejected".into() }),
            room(2, RoomState::Active),
            room(10, RoomState::Active),
        ];
        let writes: Vec<_> = rooms.iter().rev().map(RoomRecord::write).collect();
        store.table().transact(&writes).await.unwrap();
        let record = store.event(&event(0)).await.unwrap().unwrap();
        assert_eq!((record.rooms.as_slice(), record.generation), (rooms.as_slice(), 1));

        // The clock finds those that are kept in step, and they are no due events.
        let active = |room: &RoomRecord| ActiveRoom { group: room.group, event: event(0), seen: room.seen };
        let found = |rooms: Vec<ActiveRoom>| rooms.into_iter().map(|room| (room.group, room)).collect();
        let wanted: BTreeMap<_, _> = found(rooms[1..].iter().map(active).collect());
        assert_eq!(found(store.active_rooms(10).await.unwrap()), wanted);
        assert_eq!(store.active_rooms(1).await.unwrap().len(), 1);
        assert_eq!(store.due(NOW_MS, 10).await.unwrap().len(), 1);
        let (seen, lost) = (RoomRecord { seen: 7000, ..rooms[1].clone() }, RoomState::Lost { reason: "torn".into() });
        let lost = RoomRecord { state: lost, ..rooms[2].clone() };
        store.table().transact(&[seen.write(), lost.write()]).await.unwrap();
        assert_eq!(store.active_rooms(10).await.unwrap(), [active(&seen)]);
    })
    .await;
}

#[tokio::test]
async fn standing_is_read_as_written_and_belongs_to_one_incarnation() {
    on_each(async |table| {
        let store = store(table);
        let (mine, other) = (incarnation(), Incarnation { creator: BOB, ..incarnation() });
        assert_eq!(store.standing(&mine).await.unwrap(), Standing::default());
        let marked = |byte: u8, mark: Mark| Marked { inbox: inbox(byte), mark, since_ms: NOW_MS };
        let standing = Standing {
            marked: vec![
                marked(1, Mark::Banned { by: inbox(9) }),
                marked(2, Mark::Left),
                marked(3, Mark::Guest { by: inbox(9) }),
            ],
            waiting: vec![Waiting { wallet: ALICE, reason: "no inbox".into(), since_ms: 1, next_try_ms: 2 }],
            links: vec![Link { wallet: BOB, inbox: inbox(4), verified_ms: 3 }],
        };
        let mut writes: Vec<_> = standing.marked.iter().map(|row| row.write(&mine)).collect();
        writes.extend(standing.waiting.iter().map(|row| row.write(&mine)));
        writes.extend(standing.links.iter().map(|row| row.write(&mine)));
        store.table().transact(&writes).await.unwrap();
        assert_eq!(store.standing(&mine).await.unwrap(), standing);
        assert_eq!(store.standing(&other).await.unwrap(), Standing::default());

        let removed = [Marked::remove(&mine, &inbox(1)), Waiting::remove(&mine, &ALICE), Link::remove(&mine, &BOB)];
        store.table().transact(&removed).await.unwrap();
        let left = Standing { marked: standing.marked[1..].to_vec(), ..Standing::default() };
        assert_eq!(store.standing(&mine).await.unwrap(), left);
    })
    .await;
}

#[tokio::test]
async fn things_are_parked_once_with_their_first_reason() {
    on_each(async |table| {
        let store = store(table);
        let named = |block_hash, retracted| ParkedId::Log {
            chain: CHAIN,
            transaction: B256::repeat_byte(1),
            log_index: 3,
            block_hash,
            retracted,
        };
        let log = named(None, false);
        let body = ParkedId::Body { digest: B256::repeat_byte(2) };
        assert!(store.park(log, "wrong topic count", "{}").await.unwrap());
        assert!(!store.park(log, "another reason", "other").await.unwrap());
        assert!(store.park(body, "not JSON", &"ä".repeat(EXCERPT_BYTES_MAX)).await.unwrap());
        assert_eq!((store.parked_count(10).await.unwrap(), store.parked_count(1).await.unwrap()), (2, 1));
        let parked = store.parked(10).await.unwrap();
        assert_eq!((parked[0].id, parked[0].excerpt.len()), (body, EXCERPT_BYTES_MAX));
        assert_eq!(
            (parked[1].id, parked[1].reason.as_str(), parked[1].excerpt.as_str(), parked[1].at_ms),
            (log, "wrong topic count", "{}", NOW_MS)
        );
        assert_eq!(store.parked_named(&log.to_string()).await.unwrap().as_ref(), Some(&parked[1]));
        assert_eq!(store.parked_named("log#1").await.unwrap(), None);
        assert_eq!(store.parked_named("").await.unwrap(), None);
        store.unpark(log).await.unwrap();
        store.unpark(log).await.unwrap();
        assert_eq!(store.parked(10).await.unwrap().len(), 1);
        // The log in two sister blocks, and its retraction, are three things.
        let sister = Some(B256::repeat_byte(4));
        for id in [log, named(sister, false), named(sister, true)] {
            assert!(store.park(id, "chain 1 is not configured", "{}").await.unwrap());
        }
    })
    .await;
}

#[tokio::test]
async fn a_deployment_draws_its_id_once() {
    on_each(async |table| {
        let stores: Vec<_> = (0..8)
            .map(|seed| usher_store::Store::new(table.clone(), TestClock::at(NOW_MS), Seeded::new(seed)))
            .collect();
        assert_eq!(stores[0].deployment().await.unwrap(), None);
        let ids = join_all(stores.iter().map(|store| store.init_deployment())).await;
        let first = stores[0].deployment().await.unwrap().unwrap();
        assert!(ids.into_iter().all(|id| id.unwrap() == first));
        assert_eq!(first.as_str().len(), 32);
    })
    .await;
}
