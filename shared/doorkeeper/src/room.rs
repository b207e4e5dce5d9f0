//! A room in hand: its group, the version it was read at, and how it is written back.

use usher_domain::GroupId;
use usher_store::{
    Lease, Owner, RoomRecord, RoomState, Table,
    snapshot::{SIDE_WRITES_MAX, Save},
    table::Write,
};
use usher_xmtp::{Group, Lost, attributes};

use crate::{
    ConvergeError, Doorkeeper,
    status::{RoomStatus, SeatStatus},
};

/// A room that the lease's holder has claimed.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) record: RoomRecord,
    pub(crate) group: Group,
    version: u64,
    /// The newest message the stored snapshot knows.
    stored_cursor: u64,
}

impl Room {
    /// A room that is not stored yet.
    pub(crate) fn new(record: RoomRecord, group: Group) -> Self {
        Self { record, group, version: 0, stored_cursor: 0 }
    }

    pub(crate) fn unsaved_messages(&self) -> u64 {
        self.group.cursor().latest().saturating_sub(self.stored_cursor)
    }

    fn status(&self, wallets: &impl Fn(&str) -> Vec<alloy_primitives::Address>) -> RoomStatus {
        let metadata = self.group.metadata();
        let seats = self.group.members().into_iter().map(|(inbox, member)| {
            let role = match (metadata.super_admins.contains(&inbox), metadata.admins.contains(&inbox)) {
                (true, _) => "super_admin",
                (false, true) => "admin",
                (false, false) => "member",
            };
            SeatStatus {
                wallets: wallets(inbox.as_str()),
                inbox: inbox.to_string(),
                installations: member.installations.len(),
                role: role.to_owned(),
            }
        });
        RoomStatus {
            name: metadata.attributes.get(attributes::NAME).cloned().unwrap_or_default(),
            epoch: self.group.epoch(),
            cursor: self.group.cursor().latest(),
            lost: self.group.lost().map(Lost::to_string).unwrap_or_default(),
            seats: seats.collect(),
        }
    }
}

impl<T: Table> Doorkeeper<T> {
    /// Claims a room for the lease and reads it. From here on nobody with an older lease can write it.
    pub(crate) async fn open(&self, lease: &Lease, record: &RoomRecord) -> Result<Room, ConvergeError> {
        let owner = Owner::Room(record.group);
        let snapshot = self.parts.snapshots.claim(&owner, lease.fence).await?;
        let snapshot = snapshot.ok_or_else(|| {
            usher_xmtp::GroupError::Malformed("the ledger names the room, and there is no snapshot of it".to_owned())
        })?;
        let kept = self.rooms.lock().expect("no holder of this lock panics").remove(&record.group);
        let group = match kept {
            Some((version, group)) if version == snapshot.version => group,
            _ => Group::decode(&snapshot.plaintext)?,
        };
        let status: Option<RoomStatus> = serde_json::from_str(&snapshot.status).ok();
        let stored_cursor = status.map_or(0, |status| status.cursor);
        Ok(Room { record: record.clone(), group, version: snapshot.version, stored_cursor })
    }

    /// Saves a room with what belongs to the change.
    pub(crate) async fn save(
        &self,
        lease: &Lease,
        room: &mut Room,
        wallets: &impl Fn(&str) -> Vec<alloy_primitives::Address>,
        mut side_writes: Vec<Write>,
    ) -> Result<(), ConvergeError> {
        let plaintext = room.group.encode()?;
        let status = room.status(wallets);
        room.record.seen = status.cursor;
        if !status.lost.is_empty() {
            room.record.state = RoomState::Lost { reason: status.lost.clone() };
        }
        side_writes.push(room.record.write());
        // Rows that do not fit into the transaction go first: the log is read again if what follows does not happen,
        // and says the same again.
        while side_writes.len() > SIDE_WRITES_MAX {
            let rest = side_writes.split_off(side_writes.len().min(SIDE_WRITES_MAX));
            let first = std::mem::replace(&mut side_writes, rest);
            self.parts.store.table().transact(&first).await.map_err(usher_store::StoreError::from)?;
        }
        let status = serde_json::to_string(&status).expect("a status serializes");
        let save = Save {
            fence: lease.fence,
            expected_version: room.version,
            plaintext: &plaintext,
            status: &status,
            side_writes,
        };
        if room.version == 0 {
            self.parts.snapshots.claim(&Owner::Room(room.record.group), lease.fence).await?;
        }
        room.version = self.parts.snapshots.save(&Owner::Room(room.record.group), save).await?;
        room.stored_cursor = room.group.cursor().latest();
        tracing::info!(
            room = %room.record.group, mls.epoch = room.group.epoch(), lease.fence = lease.fence,
            snapshot.version = room.version, snapshot.bytes = plaintext.len(), "room saved",
        );
        Ok(())
    }

    /// Keeps a room's decoded state for the next time. Only for rooms whose memory is at or ahead of what is stored by
    /// nothing but messages that were read.
    pub(crate) fn keep(&self, room: Room) {
        let entry = (room.version, room.group);
        self.rooms.lock().expect("no holder of this lock panics").insert(room.record.group, entry);
    }
}

/// The domain's name of a group.
pub(crate) fn domain_group(group: &Group) -> GroupId {
    GroupId(group.id().0)
}
