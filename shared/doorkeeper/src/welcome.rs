//! Rooms whose stored state must not be used: how they come back.
//!
//! The state of a room belongs to one installation. When the account has a new one, or the state is lost, nothing is
//! ever committed from what is stored: the room waits until a member's client adds the new installation, as every XMTP
//! client does for members with new devices before it sends, and goes on from that client's welcome.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use futures::future::BoxFuture;
use usher_domain::{EventKey, GroupId, admission::Admission, ports::random};
use usher_store::{Chain, EventRecord, Kind, Lease, Owner, RoomRecord, RoomState, SnapshotError, Take};
use usher_xmtp::{Account, ConversationType, Group, Identities, Invitation, Welcomed};

use crate::{
    ConvergeError, Doorkeeper,
    claims::domain_inbox,
    room::{Room, domain_group},
    upkeep::Held,
    view::wallets_in,
};

/// How long an event is held for one of its rooms, in milliseconds.
const LEASE_MS: u64 = 30_000;
/// A restored table's fences may be of slightly different times: so many leases bring an event's past its rooms'.
const LEASES_MAX: u32 = 64;
/// How many rooms that wait one look takes note of.
const AWAITING_MAX: usize = 20_000;

/// What became of a welcome's group.
enum Reception {
    Received,
    /// Not now: the welcome must be read again.
    Undecided,
    /// It is of no use, and never will be.
    Dropped,
}

impl Doorkeeper {
    /// Has a room wait for a welcome. Whoever had it in hand cannot save it any more.
    pub(crate) async fn await_welcome(&self, lease: &Lease, record: &RoomRecord) -> Result<(), ConvergeError> {
        self.parts.snapshots.claim_unread(&Owner::Room(record.group), lease.fence).await?;
        let state = RoomState::AwaitingWelcome { since_ms: self.parts.clock.now_ms() };
        tracing::warn!(event = %lease.event, room = %record.group, "waits for a member's client to let usher in again");
        self.write_fenced(lease, vec![RoomRecord { state, ..record.clone() }.write()]).await
    }

    /// Accepts welcomes to rooms that wait for one, while a recovery is under way; returns how many came back.
    pub fn receive_welcomes(&self) -> BoxFuture<'_, Result<usize, ConvergeError>> {
        Box::pin(async move {
            if self.parts.store.recovery().await?.is_none() {
                return Ok(0);
            }
            let awaiting = self.parts.store.awaiting_rooms(AWAITING_MAX).await?;
            let Some(mut held) = self.hold_account().await? else { return Ok(0) };
            let received = match held.account.is_registered() {
                true => self.receive(&mut held, &awaiting).await,
                false => Ok(0),
            };
            self.parts.store.release_account(&held.lease).await?;
            self.keep_account(held.account);
            received
        })
    }

    async fn receive(&self, held: &mut Held, awaiting: &BTreeMap<GroupId, EventKey>) -> Result<usize, ConvergeError> {
        let mut welcomed = Welcomed::default();
        let refused = Mutex::new(BTreeSet::new());
        let ours = |invitation: &Invitation| {
            let group = GroupId(invitation.group.0);
            let is_awaited = awaiting.contains_key(&group);
            if !is_awaited {
                refused.lock().expect("no holder of this lock panics").insert(group);
            }
            is_awaited
        };
        let network = &*self.parts.network;
        let read = held.account.receive_welcomes(network, &mut Identities::default(), &mut welcomed, ours).await;
        for dropped in &welcomed.dropped {
            tracing::warn!(welcome.id = dropped.id, reason = dropped.reason, "a welcome was dropped");
        }
        let mut groups: BTreeMap<GroupId, Vec<Group>> = BTreeMap::new();
        for group in welcomed.joined {
            groups.entry(domain_group(&group)).or_default().push(group);
        }
        let (mut received, mut undecided) = (0, false);
        for (id, groups) in groups {
            match self.come_back(&held.account, &awaiting[&id], groups).await? {
                Reception::Received => received += 1,
                Reception::Undecided => undecided = true,
                Reception::Dropped => {}
            }
        }
        read?;
        // The index is of some time ago, and nobody sends another welcome.
        let refused = refused.into_inner().expect("no holder of this lock panics");
        undecided |= !refused.is_empty() && self.awaits_any(&refused).await?;
        // The rooms first: a welcome that was read and not used would be lost. One that is read again for a room that
        // came back does nothing.
        if !undecided {
            self.save_account(held, Vec::new()).await?;
        }
        Ok(received)
    }

    /// Whether the ledger, read strongly, has any of these groups wait.
    async fn awaits_any(&self, groups: &BTreeSet<GroupId>) -> Result<bool, ConvergeError> {
        for event in self.parts.store.events().await? {
            let rooms = self.parts.store.event(&event).await?.into_iter().flat_map(|record| record.rooms);
            let awaited = |room: &RoomRecord| matches!(room.state, RoomState::AwaitingWelcome { .. });
            if rooms.into_iter().any(|room| awaited(&room) && groups.contains(&room.group)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a room from the newest of these welcomes that can be trusted.
    async fn come_back(
        &self,
        account: &Account,
        event: &EventKey,
        mut groups: Vec<Group>,
    ) -> Result<Reception, ConvergeError> {
        groups.sort_by_key(|group| std::cmp::Reverse(group.epoch()));
        let Some((lease, record, version)) = self.hold_awaiting(event, domain_group(&groups[0])).await? else {
            return Ok(Reception::Undecided);
        };
        let taken = match record.state {
            RoomState::AwaitingWelcome { .. } => self.take_first(account, &lease, record, version, groups).await,
            _ => Ok(Reception::Dropped),
        };
        self.parts.store.abandon(&lease).await?;
        taken
    }

    async fn take_first(
        &self,
        account: &Account,
        lease: &Lease,
        record: RoomRecord,
        version: u64,
        groups: Vec<Group>,
    ) -> Result<Reception, ConvergeError> {
        let mut reception = Reception::Dropped;
        for mut group in groups {
            match self.distrust(account, &record, &group).await? {
                None => {
                    if let Some(before) = self.readable_room(&record).await? {
                        group.take_over(&before);
                    }
                    let standing = self.parts.store.standing(&record.incarnation).await?;
                    let active = RoomRecord { state: RoomState::Active, outbox_since_ms: None, ..record };
                    let mut room = Room::in_place_of(active, group, version);
                    let wallets = |inbox: &str| wallets_in(&standing, inbox);
                    self.save(lease, &mut room, &wallets, vec![lease.still_mine()]).await?;
                    tracing::info!(event = %lease.event, room = %room.record.group, "came back by a welcome");
                    return Ok(Reception::Received);
                }
                Some(Distrust::Never(reason)) => {
                    tracing::warn!(event = %lease.event, room = %record.group, reason, "a welcome was refused");
                }
                Some(Distrust::NotYet(reason)) => {
                    tracing::warn!(event = %lease.event, room = %record.group, reason, "a welcome is left for later");
                    reception = Reception::Undecided;
                }
            }
        }
        Ok(reception)
    }

    /// The stored state, to see what it owes and for nothing else. One that cannot be read holds nobody up.
    async fn readable_room(&self, record: &RoomRecord) -> Result<Option<Group>, ConvergeError> {
        let unread = |error: &(dyn std::error::Error + 'static)| {
            tracing::warn!(room = %record.group, error = %Chain(error), "what the old installation owed cannot be read");
            None
        };
        match self.parts.snapshots.load(&Owner::Room(record.group)).await {
            Ok(None) => Ok(None),
            Ok(Some(stored)) => Ok(Group::decode(&stored.plaintext).map_or_else(|error| unread(&error), Some)),
            Err(error) if error.kind() == Kind::Bug => Ok(unread(&error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Why a welcome to a room is not to be followed, if so. Whoever knows a group's id can make another group by that
    /// name; only who belongs may let usher in, and only into what goes on from the room as it was last seen.
    async fn distrust(
        &self,
        account: &Account,
        record: &RoomRecord,
        group: &Group,
    ) -> Result<Option<Distrust>, ConvergeError> {
        let immutable = group.immutable_metadata();
        let usher = account.inbox();
        if immutable.conversation_type != ConversationType::Group || immutable.creator != usher.to_string() {
            return Ok(Some(Distrust::Never("usher did not make that group")));
        }
        if !group.metadata().super_admins.contains(usher) {
            return Ok(Some(Distrust::Never("usher is no super admin of that group")));
        }
        if self.status(record).await?.is_some_and(|status| group.epoch() <= status.epoch) {
            return Ok(Some(Distrust::Never("its epoch is not newer than the one last stored")));
        }
        let Some(added_by) = group.added_by().map(domain_inbox) else {
            return Ok(Some(Distrust::Never("nobody is named who sent it")));
        };
        let minted = self.parts.store.event(&record.incarnation.event).await?.and_then(|event| event.minted);
        let live = minted.is_some_and(|minted| minted.incarnation == record.incarnation);
        let standing = self.parts.store.standing(&record.incarnation).await?;
        let admission = Admission::new(&self.unresolved(account, &record.incarnation, live, &standing).await?);
        // Also somebody who has lost his title since: he still has his seat, and others' clients add nothing twice.
        if admission.seats.contains_key(&added_by) || self.seated(record).await?.contains(&added_by) {
            return self.distrust_place(group).await;
        }
        Ok(Some(match admission.departures.contains_key(&added_by) {
            true => Distrust::Never("who sent it does not belong any more"),
            false => Distrust::NotYet("the ledger does not know yet who sent it"),
        }))
    }

    /// A welcome says itself where in the log it stands. A commit to the epoch that it leads to must be there.
    async fn distrust_place(&self, group: &Group) -> Result<Option<Distrust>, ConvergeError> {
        let id = group.cursor().latest();
        let page = self.parts.network.group_messages(group.id(), id.saturating_sub(1)).await?;
        let stands = page.first().is_some_and(|message| message.id == id && group.begins_with(&message.data));
        Ok((!stands).then_some(Distrust::Never("the log has no such commit where it says")))
    }

    /// The lease of a room's event, with the room's head claimed: its record, and the version of what is stored of it.
    /// `None` if somebody else holds the event, or it has no such room.
    pub(crate) async fn hold_awaiting(
        &self,
        event: &EventKey,
        group: GroupId,
    ) -> Result<Option<(Lease, RoomRecord, u64)>, ConvergeError> {
        for _ in 0..LEASES_MAX {
            let Some((lease, record)) = self.hold_event(event).await? else { return Ok(None) };
            let Some(room) = record.rooms.into_iter().find(|room| room.group == group) else {
                self.parts.store.abandon(&lease).await?;
                return Ok(None);
            };
            match self.parts.snapshots.claim_unread(&Owner::Room(group), lease.fence).await {
                Ok(version) => return Ok(Some((lease, room, version))),
                Err(SnapshotError::Fenced { .. }) => self.parts.store.abandon(&lease).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(ConvergeError::Fenced)
    }

    /// The lease of an event and what it is the lease of; `None` if there is no such event or somebody else holds it.
    pub(crate) async fn hold_event(&self, event: &EventKey) -> Result<Option<(Lease, EventRecord)>, ConvergeError> {
        let owner = hex::encode(random::<16>(&*self.parts.randomness));
        let now_ms = self.parts.clock.now_ms();
        let Take::Taken(lease) = self.parts.store.take(event, &owner, now_ms, now_ms + LEASE_MS).await? else {
            return Ok(None);
        };
        Ok(self.parts.store.event(event).await?.map(|record| (lease, record)))
    }
}

/// Why a welcome is not followed.
enum Distrust {
    Never(&'static str),
    NotYet(&'static str),
}
