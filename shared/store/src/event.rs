//! Events: who minted them, what state they are in, which rooms they have.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use usher_domain::{
    EventKey, EventMint, Fact, GroupId, InboxId, Incarnation, KioskKey, Position,
    event::{self, Minted, Minting, owner_of},
};

use crate::{
    Store, StoreError,
    error::Chain,
    fact::{Subject, event_pk},
    item::{from_json, from_json_if_any, json, named, number, text, unreadable},
    lease::{BEHIND_BLOCK_MS, BEHIND_SINCE_MS, CONVERGED, DUE_SHARDS, FENCE, GENERATION, Held, due_at},
    ledger::{ANNOUNCERS_MAX, ATTEMPTS_MAX, Numbered, Recorded, kiosk_announced, kiosk_unchanged, settled},
    table::{Attributes, Condition, DUE_AT_MS, DUE_SHARD, Item, Key, PK, Query, SK, Step, Table, Write},
};

const MINTED: &str = "minted";
const DISPUTED: &str = "disputed";
const MINT_VERSION: &str = "mint_version";
/// The kiosks whose waiting facts are not all recorded yet.
pub(crate) const REPLAY: &str = "replay";
const ROOM: &str = "room";
const EVENT: &str = "event";
const ROOM_PREFIX: &str = "event#room#";
const DIRECTORY: &str = "events";
/// How many mints of one event go into one transaction.
const MINTS_MAX: usize = 20;

/// An event, as far as it is stored in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// Which event.
    pub event: EventKey,
    /// The minting that counts: incarnation, creator, kiosk, metadata. None if all were retracted or are in dispute.
    pub minted: Option<Minted>,
    /// Live mints contradict each other.
    pub disputed: bool,
    /// Counts the changes of what should be.
    pub generation: u64,
    /// The newest generation that the rooms were equal to.
    pub converged_generation: Option<u64>,
    /// Since when the rooms have been behind the ledger, in milliseconds since 1970; `None` if they are not.
    pub behind_since_ms: Option<u64>,
    /// The number of the newest lease.
    pub fence: u64,
    /// Who holds the event, if anybody does.
    pub held: Option<Held>,
    /// When the event is to be looked at, in milliseconds since 1970.
    pub due_at_ms: Option<u64>,
    /// Facts that waited for its kiosk are not all recorded yet; see [`Store::replay`].
    pub replaying: bool,
    /// Its rooms, of every incarnation, in order of their numbers.
    pub rooms: Vec<RoomRecord>,
}

/// A room of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomRecord {
    /// Counts the event's rooms, lost ones included.
    pub number: u32,
    /// The XMTP group.
    pub group: GroupId,
    /// The incarnation it belongs to.
    pub incarnation: Incarnation,
    /// Whether it can be used.
    pub state: RoomState,
    /// The lost room whose seats it took.
    pub succeeds: Option<GroupId>,
    /// The newest message of its log that was looked at.
    pub seen: u64,
    /// How many members were ever removed without a fact, ban, leave or log entry that explains it.
    #[serde(default)]
    pub unexplained_removals: usize,
    /// When members were last repaired, in milliseconds since 1970; long ago is forgotten.
    #[serde(default)]
    pub repaired_ms: BTreeMap<InboxId, u64>,
    /// Members' devices that it lacks, if it lacks any.
    #[serde(default)]
    pub healing: Option<Healing>,
    /// Since when a commit or welcomes have been stored that the network may not have, in milliseconds since 1970.
    #[serde(default)]
    pub outbox_since_ms: Option<u64>,
}

/// Members' devices that a room lacks, and when they are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healing {
    /// Names what is lacking; another name is another trouble.
    pub trouble: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// When it is tried again, in milliseconds since 1970.
    pub next_try_ms: u64,
}

/// Whether a room can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RoomState {
    /// It is kept in step.
    Active,
    /// What is stored of it must not be used. It is kept in step again when a member's client has let the account's
    /// new installation in; see [`Recovery`](crate::Recovery).
    AwaitingWelcome {
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
    },
    /// It is never written again.
    Lost {
        /// Why, for an operator.
        reason: String,
    },
}

impl RoomRecord {
    /// The write that stores this record, to ride in a snapshot's transaction. While the room is active it is in the
    /// index, too, at the newest message seen: see [`Store::active_rooms`]. While it waits for a welcome it is there at
    /// the time since when: see [`Store::awaiting_rooms`].
    pub fn write(&self) -> Write {
        let sk = format!("{ROOM_PREFIX}{:06}#{}", self.number, self.group);
        let mut item = Item::from([(ROOM.into(), json(self))]);
        let indexed = match self.state {
            RoomState::Active => Some((ACTIVE, self.seen)),
            RoomState::AwaitingWelcome { since_ms } => Some((AWAITING, since_ms)),
            RoomState::Lost { .. } => None,
        };
        if let Some((index, at)) = indexed {
            item.insert(DUE_SHARD.into(), rooms_shard(index, self.group.0[0] % DUE_SHARDS).into());
            item.insert(DUE_AT_MS.into(), at.into());
        }
        Write::put(Key::new(event_pk(&self.incarnation.event), sk), item)
    }
}

/// Shards of the index with active rooms.
const ACTIVE: &str = "rooms";
/// Shards of the index with rooms that wait for a welcome.
const AWAITING: &str = "awaiting";

/// A shard of the index with rooms; none of those with due events.
fn rooms_shard(index: &str, number: u8) -> String {
    format!("{index}-{number}")
}

/// A room that is kept in step, as the index has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveRoom {
    /// The XMTP group.
    pub group: GroupId,
    /// Whose room it is.
    pub event: EventKey,
    /// The newest message of its log that was looked at.
    pub seen: u64,
}

fn read_active(item: &Item) -> Result<ActiveRoom, StoreError> {
    let group = text(item, SK)?.rsplit('#').next().and_then(|group| group.parse().ok());
    let group = group.ok_or_else(|| unreadable(item, "its sort key names no group"))?;
    Ok(ActiveRoom { group, event: named(item, PK, "event#")?, seen: number(item, DUE_AT_MS)? })
}

/// [`Minted`] as stored.
#[derive(Serialize, Deserialize)]
struct StoredMinted {
    incarnation: Incarnation,
    mint: EventMint,
    position: Position,
}

impl Store {
    /// The event with its rooms.
    pub async fn event(&self, event: &EventKey) -> Result<Option<EventRecord>, StoreError> {
        let rows = self.table.query(&Query::prefix(event_pk(event), EVENT)).await?;
        // The event's own item sorts before its rooms.
        let Some((item, rooms)) = rows.split_first() else { return Ok(None) };
        let mut record = read(event, item)?;
        record.rooms = rooms.iter().map(|room| from_json(room, ROOM)).collect::<Result<_, _>>()?;
        Ok(Some(record))
    }

    /// Every event ever minted, for an operator.
    pub async fn events(&self) -> Result<Vec<EventKey>, StoreError> {
        self.table.query(&Query::all(DIRECTORY)).await?.iter().map(|item| named(item, SK, "")).collect()
    }

    /// The active rooms of all events, at most `limit`. Eventually consistent: a room made just now may be missing, and
    /// more may have been seen of one.
    pub async fn active_rooms(&self, limit: usize) -> Result<Vec<ActiveRoom>, StoreError> {
        self.indexed_rooms(ACTIVE, limit).await?.iter().map(read_active).collect()
    }

    /// The rooms of all events that wait for a welcome, at most `limit`, and whose they are. Eventually consistent.
    pub async fn awaiting_rooms(&self, limit: usize) -> Result<BTreeMap<GroupId, EventKey>, StoreError> {
        let found = self.indexed_rooms(AWAITING, limit).await?;
        found.iter().map(|item| read_active(item).map(|room| (room.group, room.event))).collect()
    }

    async fn indexed_rooms(&self, index: &str, limit: usize) -> Result<Vec<Item>, StoreError> {
        let shards: Vec<_> = (0..DUE_SHARDS).map(|number| rooms_shard(index, number)).collect();
        let found = try_join_all(shards.iter().map(|shard| self.table.due(shard, u64::MAX, limit))).await?;
        Ok(found.into_iter().flatten().take(limit).collect())
    }

    /// The event whose tickets a kiosk's are: of all that announced it, the first whose minting counts.
    pub async fn kiosk_owner(&self, kiosk: &KioskKey) -> Result<Option<EventKey>, StoreError> {
        let mut minted = Vec::new();
        for event in self.kiosk(kiosk).await?.unwrap_or_default() {
            let item = self.table.get(&event_key(&event)).await?;
            minted.extend(item.map(|item| read_minted(&item)).transpose()?.flatten());
        }
        Ok(owner_of(*kiosk, &minted).map(|minted| minted.incarnation.event))
    }

    /// Every known mint of an event, retracted ones included, in order of position.
    pub async fn mints(&self, event: &EventKey) -> Result<Vec<Fact>, StoreError> {
        Ok(Subject::Event(*event).facts(&self.table).await?.into_values().collect())
    }

    /// Stores mints of one event, announces their kiosks, and replays what waited for them.
    pub(crate) async fn record_mints(
        &self,
        event: &EventKey,
        facts: &[Numbered<'_>],
        recorded: &mut Recorded,
    ) -> Result<(), StoreError> {
        for facts in facts.chunks(MINTS_MAX) {
            let mut attempts = 0;
            while !self.try_record_mints(event, facts, recorded).await? {
                attempts += 1;
                if attempts == ATTEMPTS_MAX {
                    return Err(StoreError::Contended { attempts });
                }
            }
        }
        // The mint is stored and its event due: that the replay failed is not the mint's failure.
        if let Err(error) = self.replay(event).await {
            tracing::warn!(%event, error = %Chain(&error), "replay of waiting facts left for later");
        }
        Ok(())
    }

    /// Whether it is done; if not, somebody else was faster and it must be planned anew.
    async fn try_record_mints(
        &self,
        event: &EventKey,
        facts: &[Numbered<'_>],
        recorded: &mut Recorded,
    ) -> Result<bool, StoreError> {
        // The version first, as with tickets.
        let item = self.table.get(&event_key(event)).await?.unwrap_or_default();
        let mut known = Subject::Event(*event).facts(&self.table).await?;
        let (mut writes, news) = Subject::Event(*event).learn(facts, &mut known);
        if writes.is_empty() {
            recorded.learned(news);
            return Ok(true);
        }
        let minting = event::fold(&known.into_values().collect::<Vec<_>>());
        let announced: BTreeSet<_> = facts
            .iter()
            .filter(|(_, fact)| !fact.retracted)
            .filter_map(|(_, fact)| Some(fact.incarnation()?.kiosk()))
            .collect();
        // Whoever else announced a kiosk that this event had or has must look who owns it now.
        let had_or_has = [read_minted(&item)?, minting.current.clone()].into_iter().flatten();
        let mut kiosks = BTreeMap::new();
        for kiosk in announced.iter().copied().chain(had_or_has.map(|minted| minted.incarnation.kiosk())) {
            kiosks.insert(kiosk, self.kiosk(&kiosk).await?);
        }
        let others: BTreeSet<_> = kiosks.values().flatten().flatten().copied().filter(|other| other != event).collect();
        if others.len() >= ANNOUNCERS_MAX {
            let (kiosk, _) = kiosks.pop_first().expect("somebody announced one");
            return Err(StoreError::KioskCrowded(kiosk));
        }

        let since = Since { now_ms: self.clock.now_ms(), block_s: oldest_block_s(facts, &news) };
        let mut replay = from_json_if_any::<BTreeSet<KioskKey>>(&item, REPLAY)?.unwrap_or_default();
        for (kiosk, events) in &kiosks {
            let known = events.as_ref().is_some_and(|events| events.contains(event));
            if known || !announced.contains(kiosk) {
                writes.push(kiosk_unchanged(kiosk, events.as_deref()));
                continue;
            }
            if events.is_none() {
                replay.insert(*kiosk);
            }
            let mut all = events.clone().unwrap_or_default();
            all.push(*event);
            writes.push(kiosk_announced(kiosk, events.as_deref(), &all));
        }
        writes.push(mint_event(event, &item, &minting, &replay, since));
        writes.push(Write::put(Key::new(DIRECTORY, event.to_string()), Item::new()));
        writes.extend(others.iter().map(|other| mark_changed(other, since)));
        if !settled(self.table.transact(&writes).await)? {
            return Ok(false);
        }
        recorded.learned(news);
        recorded.due.insert(*event);
        recorded.due.extend(others);
        Ok(true)
    }
}

/// Stores what an event's mints add up to.
fn mint_event(event: &EventKey, before: &Item, minting: &Minting, replay: &BTreeSet<KioskKey>, since: Since) -> Write {
    let version = before.number(MINT_VERSION);
    let mut steps = due_now(event, since);
    steps.push(Step::set(MINT_VERSION, version.unwrap_or(0) + 1));
    steps.push(match &minting.current {
        Some(Minted { incarnation, mint, position }) => Step::set(
            MINTED,
            json(&StoredMinted { incarnation: *incarnation, mint: mint.clone(), position: *position }),
        ),
        None => Step::Remove(MINTED),
    });
    steps.push(if minting.disputed { Step::set(DISPUTED, 1) } else { Step::Remove(DISPUTED) });
    if !replay.is_empty() {
        steps.push(Step::set(REPLAY, json(replay)));
    }
    Write::update(event_key(event), steps).when(Condition::is(MINT_VERSION, version))
}

/// Since when something is to be that is not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    /// When the ledger takes it, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// When its block was made, in seconds since 1970, if that was said.
    pub(crate) block_s: Option<u64>,
}

/// When the oldest block was made that has something new, as far as that was said; `news` is in the order of the facts.
/// When something was taken back is not said: a retraction names the block of what it retracts.
pub(crate) fn oldest_block_s(facts: &[Numbered<'_>], news: &[(usize, bool)]) -> Option<u64> {
    let new = facts.iter().zip(news).filter(|((_, fact), (_, new))| *new && !fact.retracted);
    new.filter_map(|((_, fact), _)| fact.block_time_s).min()
}

/// Says that what should be has changed: one step of the generation, and the event is due.
pub(crate) fn mark_changed(event: &EventKey, since: Since) -> Write {
    Write::update(event_key(event), due_now(event, since)).when(Condition::ITEM_EXISTS)
}

fn due_now(event: &EventKey, Since { now_ms, block_s }: Since) -> Vec<Step> {
    let [at, shard] = due_at(event, Some(now_ms));
    let mut steps = vec![Step::Add(GENERATION, 1), at, shard, Step::SetIfAbsent(BEHIND_SINCE_MS, now_ms.into())];
    steps.extend(block_s.map(|block_s| Step::SetIfAbsent(BEHIND_BLOCK_MS, block_s.saturating_mul(1000).into())));
    steps
}

/// The key of an event's item, for writes of others' attributes to it.
pub fn event_key(event: &EventKey) -> Key {
    Key::new(event_pk(event), EVENT)
}

fn read(event: &EventKey, item: &Item) -> Result<EventRecord, StoreError> {
    Ok(EventRecord {
        event: *event,
        minted: read_minted(item)?,
        disputed: item.contains_key(DISPUTED),
        generation: item.number(GENERATION).unwrap_or(0),
        converged_generation: item.number(CONVERGED),
        behind_since_ms: item.number(BEHIND_SINCE_MS),
        fence: item.number(FENCE).unwrap_or(0),
        held: Held::read(item),
        due_at_ms: item.number(DUE_AT_MS),
        replaying: item.contains_key(REPLAY),
        rooms: Vec::new(),
    })
}

fn read_minted(item: &Item) -> Result<Option<Minted>, StoreError> {
    let stored: Option<StoredMinted> = from_json_if_any(item, MINTED)?;
    Ok(stored.map(|StoredMinted { incarnation, mint, position }| Minted { incarnation, mint, position }))
}
