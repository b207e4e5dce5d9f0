//! A room in hand: its group, the version it was read at, and how it is written back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::MutexGuard,
};

use usher_domain::{GroupId, InboxId, planted::Bug};
use usher_store::{
    Lease, Owner, RoomRecord, RoomState, SnapshotError, StoreError,
    snapshot::{SIDE_WRITES_MAX, Save},
    table::Write,
};
use usher_xmtp::{Account, Group, Lost, attributes};

use crate::{
    ConvergeError, Doorkeeper,
    kept::{KeptRoom, Recent},
    status::{RoomStatus, SeatStatus},
    work::count,
};

/// A room that changes has a new data key every 30 days, see [`usher_store::snapshot::KEY_LIFE_MS`]; one at rest is saved
/// for it at this age, in milliseconds.
const DATA_KEY_AGE_MS_MAX: u64 = 90 * 24 * 60 * 60 * 1000;

/// A room that the lease's holder has claimed.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) record: RoomRecord,
    pub(crate) group: Group,
    version: u64,
    /// How many messages the group had read when it was stored.
    read_when_stored: u64,
    /// When the data key of the stored snapshot was made, in milliseconds since 1970.
    data_key_at_ms: u64,
}

impl Room {
    /// A room that is not stored yet.
    pub(crate) fn new(record: RoomRecord, group: Group) -> Self {
        Self::in_place_of(record, group, 0)
    }

    /// A room instead of whatever is stored at this version.
    pub(crate) fn in_place_of(record: RoomRecord, group: Group, version: u64) -> Self {
        Self { record, group, version, read_when_stored: 0, data_key_at_ms: 0 }
    }

    /// Whether the stored state is sealed with a key that has served for too long.
    pub(crate) fn wants_new_data_key(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.data_key_at_ms) > DATA_KEY_AGE_MS_MAX
    }

    /// How many messages the stored snapshot does not know.
    pub(crate) fn unsaved_messages(&self) -> u64 {
        self.group.messages_read().saturating_sub(self.read_when_stored)
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
            seats: seats.collect(),
        }
    }
}

impl Doorkeeper {
    /// Claims a room for the lease and reads it. From here on nobody with an older lease can write it.
    pub(crate) async fn open(
        &self,
        account: &Account,
        lease: &Lease,
        record: &RoomRecord,
    ) -> Result<Room, ConvergeError> {
        let owner = Owner::Room(record.group);
        let snapshot = match self.parts.snapshots.claim(&owner, lease.fence).await {
            Err(SnapshotError::Fenced { by }) => return Err(self.overtaken(lease, &owner, by).await?),
            claimed => claimed?.ok_or(ConvergeError::NoSnapshot)?,
        };
        let (group, read_when_stored) = match self.kept().take(&record.group) {
            Some(kept) if kept.version == snapshot.version || Bug::OlderSnapshot.is_planted() => {
                (kept.group, kept.read_when_stored)
            }
            _ => (Group::decode(&snapshot.plaintext)?, 0),
        };
        #[cfg(feature = "planted-bugs")]
        let group = crate::planted::opened(group);
        if group.installation().is_some_and(|installation| installation != account.installation()) {
            return Err(ConvergeError::OtherInstallation);
        }
        let (version, data_key_at_ms) = (snapshot.version, snapshot.data_key_at_ms);
        Ok(Room { record: record.clone(), group, version, read_when_stored, data_key_at_ms })
    }

    /// Why a room's fence is ahead of the lease: a newer lease, or a head that somebody else has put there.
    async fn overtaken(&self, lease: &Lease, owner: &Owner, by: u64) -> Result<ConvergeError, ConvergeError> {
        let newest = self.parts.store.event(&lease.event).await?.map_or(0, |event| event.fence);
        if by <= newest {
            return Ok(ConvergeError::Fenced);
        }
        // If it is not the room's own, that is the reason to tell.
        self.parts.snapshots.load(owner).await?;
        Ok(ConvergeError::FenceAhead { fence: by, newest })
    }

    /// Saves a room with what belongs to the change. One that is lost is never written again: its record says so.
    pub(crate) async fn save(
        &self,
        lease: &Lease,
        room: &mut Room,
        wallets: &impl Fn(&str) -> Vec<alloy_primitives::Address>,
        mut side_writes: Vec<Write>,
    ) -> Result<(), ConvergeError> {
        if let Some(lost) = room.group.lost() {
            return self.declare_lost(lease, &room.record, lost_code(lost), &lost.to_string(), side_writes).await;
        }
        #[cfg(not(feature = "planted-bugs"))]
        let plaintext = room.group.encode()?;
        #[cfg(feature = "planted-bugs")]
        let plaintext = crate::planted::encoded(&mut room.group)?;
        let apart = if Bug::BanApart.is_planted() { std::mem::take(&mut side_writes) } else { Vec::new() };
        let status = room.status(wallets);
        room.record.seen = status.cursor;
        let has_outbox = room.group.has_pending_commit() || room.group.has_welcomes();
        let since_ms = room.record.outbox_since_ms.unwrap_or_else(|| self.parts.clock.now_ms());
        room.record.outbox_since_ms = has_outbox.then_some(since_ms);
        self.note(|work| work.snapshot_bytes = work.snapshot_bytes.max(count(plaintext.len())));
        side_writes.push(room.record.write());
        // Rows that do not fit into the transaction go first: the log is read again if what follows does not happen,
        // and says the same again.
        let fitting = side_writes.split_off(side_writes.len().saturating_sub(SIDE_WRITES_MAX));
        self.write_fenced(lease, side_writes).await?;
        let side_writes = fitting;
        let status = serde_json::to_string(&status).expect("a status serializes");
        let save = Save {
            fence: lease.fence,
            expected_version: room.version,
            plaintext: &plaintext,
            status: &status,
            side_writes,
        };
        room.version = self.parts.snapshots.save(&Owner::Room(room.record.group), save).await?;
        room.read_when_stored = room.group.messages_read();
        if !apart.is_empty() {
            self.write_fenced(lease, apart).await?;
        }
        tracing::info!(
            room = %room.record.group, mls.epoch = room.group.epoch(), lease.fence = lease.fence,
            snapshot.version = room.version, snapshot.bytes = plaintext.len(), "room saved",
        );
        Ok(())
    }

    /// Says that a room cannot go on, with what was still learned from its log. It gets a successor.
    pub(crate) async fn declare_lost(
        &self,
        lease: &Lease,
        record: &RoomRecord,
        code: &'static str,
        reason: &str,
        mut rows: Vec<Write>,
    ) -> Result<(), ConvergeError> {
        tracing::error!(event = %lease.event, room = %record.group, error.code = code, reason, "room lost");
        self.note(|work| work.rooms_lost += 1);
        let lost = RoomRecord { state: RoomState::Lost { reason: reason.to_owned() }, ..record.clone() };
        rows.push(lost.write());
        self.write_fenced(lease, rows).await
    }

    /// Writes rows, the last one last, unless a newer lease has the event.
    pub(crate) async fn write_fenced(&self, lease: &Lease, rows: Vec<Write>) -> Result<(), ConvergeError> {
        for rows in rows.chunks(SIDE_WRITES_MAX) {
            let writes = [&[lease.still_mine()], rows].concat();
            match self.parts.store.table().transact(&writes).await {
                Err(error) if error.failed_condition(0).is_some() => return Err(ConvergeError::Fenced),
                done => done.map_err(StoreError::from)?,
            }
        }
        Ok(())
    }

    /// Who sat in lost rooms, as far as was stored in the clear: they come into the room's own successor, not into
    /// whichever has a seat. Where there is only one room to come into, nobody is asked.
    pub(crate) async fn last_seated(
        &self,
        records: &[&RoomRecord],
    ) -> Result<BTreeMap<GroupId, BTreeSet<InboxId>>, ConvergeError> {
        let succeeded: BTreeSet<GroupId> = records.iter().filter_map(|record| record.succeeds).collect();
        let mut seated = BTreeMap::new();
        if records.iter().filter(|record| !succeeded.contains(&record.group)).count() < 2 {
            return Ok(seated);
        }
        for record in records.iter().filter(|record| record.state != RoomState::Active) {
            seated.insert(record.group, self.seated(record).await?);
        }
        Ok(seated)
    }

    /// Who sat in a room when it was last saved, as far as was stored in the clear.
    pub(crate) async fn seated(&self, record: &RoomRecord) -> Result<BTreeSet<InboxId>, ConvergeError> {
        let status = self.status(record).await?;
        let seats = status.into_iter().flat_map(|status| status.seats);
        Ok(seats.filter_map(|seat| seat.inbox.parse().ok()).collect())
    }

    /// What was stored in the clear when a room was last saved.
    pub(crate) async fn status(&self, record: &RoomRecord) -> Result<Option<RoomStatus>, ConvergeError> {
        let status = self.parts.store.status(&Owner::Room(record.group)).await?;
        Ok(status.and_then(|status| serde_json::from_str(&status).ok()))
    }

    /// Keeps a room's decoded state for the next time. Only for rooms whose memory is at or ahead of what is stored by
    /// nothing but messages that were read.
    pub(crate) fn keep(&self, room: Room) {
        let Room { record, group, version, read_when_stored, .. } = room;
        self.kept().put(record.group, KeptRoom { version, group, read_when_stored });
    }

    fn kept(&self) -> MutexGuard<'_, Recent<KeptRoom>> {
        self.rooms.lock().expect("no holder of this lock panics")
    }
}

/// A word for logs and metrics.
fn lost_code(lost: &Lost) -> &'static str {
    match lost {
        Lost::RolledBack => "room_rolled_back",
        Lost::Ejected => "room_ejected",
        Lost::Refused => "room_refused",
        Lost::Unfollowable(_) => "room_unfollowable",
    }
}

/// The domain's name of a group.
pub(crate) fn domain_group(group: &Group) -> GroupId {
    GroupId(group.id().0)
}
