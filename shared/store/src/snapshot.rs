//! Sealed, versioned state of the account and the rooms.
//!
//! One head item names the snapshot: fence, version, write id, chunk count, digest, wrapped data key. A small
//! snapshot lies in the head itself; of a large one the chunks are written first, under names nobody reads yet, and
//! one transaction flips the head together with whatever belongs to the change. The head moves only for the newest
//! fence and from the version the writer knew. Every attribute of the head but the fence is bound into the seal.
//!
//! DynamoDB cannot show that a whole, consistent head is old: that is for the network to show.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use futures::future::try_join_all;
use usher_domain::{
    GroupId,
    ports::{Clock, Randomness, random},
};
use zeroize::Zeroizing;

use crate::{
    DeploymentId, Kind, Store, StoreError, Table, TableError,
    error::Chain,
    keys::{DataKey, DataKeys, KeyError, Plain},
    seal::{self, Broken, Header, Label, Sealed},
    table::{Attributes, Condition, Item, Key, PK, Query, SK, Step, TRANSACTION_WRITES_MAX, Write},
};

/// The most bytes of a sealed snapshot that lies in the head item itself.
pub const INLINE_BYTES_MAX: usize = 300_000;
/// The format that snapshots are written in.
pub const FORMAT: u8 = seal::FORMAT;
/// How long a data key seals new snapshots, in milliseconds; after that the next save takes a new one.
pub const KEY_LIFE_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// The most writes that can ride with a save.
pub const SIDE_WRITES_MAX: usize = TRANSACTION_WRITES_MAX - 1;
/// How often a load starts again because the head moved meanwhile.
const LOAD_ATTEMPTS_MAX: u32 = 4;
/// How often a save is sent again because its outcome is unknown or others were in the way.
const SAVE_ATTEMPTS_MAX: u32 = 3;
/// The most data keys kept in memory.
const KEYS_KEPT_MAX: usize = 64;
/// How many chunks are written or deleted at a time.
const CHUNKS_AT_ONCE: usize = 4;

const HEAD: &str = "head";
const CHUNK: &str = "chunk#";
const FENCE: &str = "fence";
const VERSION: &str = "version";
const WRITE_ID: &str = "write_id";
const CHUNKS: &str = "chunks";
const DIGEST: &str = "digest";
const SEAL: &str = "seal";
const DATA_KEY: &str = "data_key";
const DATA_KEY_AT_MS: &str = "data_key_at_ms";
const STATUS: &str = "status";
const BODY: &str = "body";
/// The one part a snapshot has today; bound into its seal, so that it can be split later.
const PART: &str = "state";

/// Whose state a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// usher's own XMTP state.
    Account,
    /// One XMTP group.
    Room(GroupId),
}

/// Also the partition key, and the `owner` of the KMS encryption context.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Account => f.write_str("account"),
            Owner::Room(group) => write!(f, "room#{group}"),
        }
    }
}

impl Owner {
    fn head(&self) -> Key {
        Key::new(self.to_string(), HEAD)
    }

    fn chunk(&self, version: u64, write_id: &str, number: usize) -> Key {
        Key::new(self.to_string(), format!("{}{number:06}", chunk_prefix(version, write_id)))
    }
}

fn chunk_prefix(version: u64, write_id: &str) -> String {
    format!("{CHUNK}{version:020}#{write_id}#")
}

/// A snapshot as loaded.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its version; the next save expects it.
    pub version: u64,
    /// The state; zeroed when dropped.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// What was saved in the clear with it.
    pub status: String,
    /// When the data key was made that it is sealed with, in milliseconds since 1970.
    pub data_key_at_ms: u64,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, plaintext, status, .. } = self;
        write!(f, "Snapshot {{ version: {version}, plaintext: [{} bytes], status: {status:?} }}", plaintext.len())
    }
}

/// What to save.
pub struct Save<'a> {
    /// The saver's lease number; the head, if there is one, must bear it (see [`Snapshots::claim`]).
    pub fence: u64,
    /// The version this one follows; 0 if there is none yet.
    pub expected_version: u64,
    /// The state.
    pub plaintext: &'a [u8],
    /// What to keep beside it in the clear, for operators; no secrets.
    pub status: &'a str,
    /// What belongs to the change: all of it happens, or none and no save. At most [`SIDE_WRITES_MAX`].
    pub side_writes: Vec<Write>,
}

impl fmt::Debug for Save<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fence, expected_version, plaintext, .. } = self;
        write!(
            f,
            "Save {{ fence: {fence}, expected_version: {expected_version}, plaintext: [{} bytes] }}",
            plaintext.len()
        )
    }
}

/// Why a snapshot was not loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A newer lease claimed the head: drop everything.
    #[error("fenced off by a newer lease ({by})")]
    Fenced {
        /// The head's fence.
        by: u64,
    },
    /// The head is at another version: load again.
    #[error("the head is at version {stored}, not at the expected one")]
    VersionConflict {
        /// The head's version; 0 if there is none.
        stored: u64,
    },
    /// A write that was to ride along was refused: nothing was saved.
    #[error("side write {index} was refused")]
    SideWrite {
        /// Which one.
        index: usize,
        /// The stored item that its condition did not hold of.
        old: Option<Item>,
    },
    /// A chunk is not there, and the head has not moved on.
    #[error("chunk {number} is missing")]
    MissingChunk {
        /// Which one.
        number: usize,
    },
    /// The sealed bytes are not those that were written.
    #[error("the sealed snapshot was altered")]
    Tampered,
    /// The data key is not the one it was sealed with.
    #[error("the snapshot was sealed with another key")]
    WrongKey,
    /// Written by another release.
    #[error("unknown snapshot format {0}")]
    UnknownFormat(u8),
    /// Over 64 MiB in the clear, or it claims to be.
    #[error("the snapshot is too large")]
    TooLarge,
    /// The data key could not be had.
    #[error("no data key")]
    Keys(#[source] KeyError),
    /// The database did not do as asked. After a save, look at the head before anything else is done.
    #[error("snapshot store failed")]
    Store(#[source] StoreError),
}

impl From<TableError> for SnapshotError {
    fn from(error: TableError) -> Self {
        SnapshotError::Store(error.into())
    }
}

impl From<StoreError> for SnapshotError {
    fn from(error: StoreError) -> Self {
        SnapshotError::Store(error)
    }
}

impl From<KeyError> for SnapshotError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::WrongKey => SnapshotError::WrongKey,
            error => SnapshotError::Keys(error),
        }
    }
}

impl From<Broken> for SnapshotError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::UnknownFormat(format) => SnapshotError::UnknownFormat(format),
            Broken::WrongKey => SnapshotError::WrongKey,
            Broken::Tampered => SnapshotError::Tampered,
            Broken::TooLarge => SnapshotError::TooLarge,
        }
    }
}

impl SnapshotError {
    /// A word for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            SnapshotError::Fenced { .. } => "fenced",
            SnapshotError::VersionConflict { .. } => "version_conflict",
            SnapshotError::SideWrite { .. } => "side_write",
            SnapshotError::MissingChunk { .. } => "snapshot_chunk_missing",
            SnapshotError::Tampered => "snapshot_tampered",
            SnapshotError::WrongKey => "snapshot_wrong_key",
            SnapshotError::UnknownFormat(_) => "snapshot_unknown_format",
            SnapshotError::TooLarge => "snapshot_too_large",
            SnapshotError::Keys(KeyError::Unavailable(_)) => "keys_unavailable",
            SnapshotError::Keys(_) => "keys_refused",
            SnapshotError::Store(_) => "snapshot_store",
        }
    }

    /// Whether what is stored can never be read again, by whatever release and with whatever patience.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Tampered | Self::WrongKey | Self::MissingChunk { .. })
    }

    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        match self {
            SnapshotError::Fenced { .. } | SnapshotError::VersionConflict { .. } | SnapshotError::SideWrite { .. } => {
                Kind::ConditionFailed
            }
            SnapshotError::Keys(error) => error.kind(),
            SnapshotError::Store(error) => error.kind(),
            SnapshotError::MissingChunk { .. }
            | SnapshotError::Tampered
            | SnapshotError::WrongKey
            | SnapshotError::UnknownFormat(_)
            | SnapshotError::TooLarge => Kind::Bug,
        }
    }
}

/// A data key and when it was made.
#[derive(Clone)]
struct KeptKey {
    key: DataKey,
    at_ms: u64,
}

/// The sealed state of a deployment.
pub struct Snapshots {
    table: Arc<dyn Table>,
    keys: Arc<dyn DataKeys>,
    deployment: DeploymentId,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    /// Data keys by owner, so that a warm process asks their keeper once.
    kept: Mutex<BTreeMap<Owner, KeptKey>>,
}

impl Store {
    /// What was saved in the clear with an owner's newest snapshot; `None` if there is none. Needs no key.
    pub async fn status(&self, owner: &Owner) -> Result<Option<String>, StoreError> {
        let head = self.table.get(&owner.head()).await?;
        Ok(head.and_then(|head| head.text(STATUS).map(str::to_owned)))
    }

    /// The format of an owner's newest snapshot, see [`FORMAT`]; `None` if there is none. Needs no key.
    pub async fn snapshot_format(&self, owner: &Owner) -> Result<Option<u8>, StoreError> {
        let head = self.table.get(&owner.head()).await?;
        Ok(head.and_then(|head| head.bytes(SEAL)?.first().copied()))
    }
}

impl Snapshots {
    /// The snapshots of `deployment` in `table`, sealed with `keys`.
    pub fn new(
        table: Arc<dyn Table>,
        keys: Arc<dyn DataKeys>,
        deployment: DeploymentId,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
    ) -> Self {
        Self { table, keys, deployment, clock, randomness, kept: Mutex::default() }
    }

    /// Claims an owner's state for the lease numbered `fence`: from now on nobody with a smaller number saves it.
    /// Returns the newest snapshot, if there is one.
    pub fn claim<'a>(&'a self, owner: &'a Owner, fence: u64) -> BoxFuture<'a, Result<Option<Snapshot>, SnapshotError>> {
        Box::pin(async move {
            let head = self.claim_head(owner, fence).await?;
            let snapshot = self.read(owner, head).await?;
            if let Some(snapshot) = &snapshot {
                self.prune(owner, snapshot.version).await;
            }
            Ok(snapshot)
        })
    }

    /// The same for state that cannot or must not be read: returns the newest snapshot's version, 0 if there is none.
    pub async fn claim_unread(&self, owner: &Owner, fence: u64) -> Result<u64, SnapshotError> {
        Ok(self.claim_head(owner, fence).await?.number(VERSION).unwrap_or(0))
    }

    async fn claim_head(&self, owner: &Owner, fence: u64) -> Result<Item, SnapshotError> {
        let smaller = Condition::Absent(FENCE).or(Condition::less_than(FENCE, fence));
        let claim = Write::update(owner.head(), vec![Step::set(FENCE, fence)]).when(smaller);
        match self.table.write(&claim).await {
            Ok(head) => Ok(head),
            Err(error) => match error.failed_condition(0) {
                Some(Some(head)) if head.number(FENCE) == Some(fence) => Ok(head.clone()),
                Some(head) => Err(fenced(head)),
                None => Err(error.into()),
            },
        }
    }

    /// The newest snapshot, without claiming it; `None` if there is none.
    pub fn load<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Option<Snapshot>, SnapshotError>> {
        Box::pin(async move {
            match self.table.get(&owner.head()).await? {
                Some(head) => self.read(owner, head).await,
                None => Ok(None),
            }
        })
    }

    /// Saves the next version, together with its side writes; returns that version. Only a first version needs no claim.
    ///
    /// The saver recognises its own write: an answer that got lost is no failure. After [`SnapshotError::Store`] of
    /// kind [`Kind::RetrySoon`] the outcome stayed unknown: claim again.
    pub async fn save(&self, owner: &Owner, save: Save<'_>) -> Result<u64, SnapshotError> {
        let version = save.expected_version + 1;
        let write_id = hex::encode(random::<16>(&*self.randomness));
        let KeptKey { key, at_ms } = self.sealing_key(owner).await?;
        let label = self.label(owner, version, &write_id, at_ms, save.status);
        let sealed = seal::seal(&key.plain, random(&*self.randomness), &label, save.plaintext)?;

        let mut head = Item::from([
            (FENCE.into(), save.fence.into()),
            (VERSION.into(), version.into()),
            (WRITE_ID.into(), write_id.as_str().into()),
            (CHUNKS.into(), (sealed.chunks.len() as u64).into()),
            (DIGEST.into(), Sealed::digest(&sealed.chunks).into()),
            (SEAL.into(), sealed.header.encode().into()),
            (DATA_KEY.into(), key.wrapped.into()),
            (DATA_KEY_AT_MS.into(), at_ms.into()),
            (STATUS.into(), save.status.into()),
        ]);
        let inline = matches!(sealed.chunks.as_slice(), [only] if only.len() <= INLINE_BYTES_MAX);
        if inline {
            head.extend(sealed.chunks.into_iter().map(|body| (BODY.into(), body.into())));
        } else {
            self.put_chunks(owner, version, &write_id, sealed.chunks).await?;
        }
        let expected = (save.expected_version > 0).then_some(save.expected_version);
        let mut mine = Condition::equals(FENCE, save.fence).and(Condition::is(VERSION, expected));
        if expected.is_none() {
            mine = Condition::ITEM_ABSENT.or(mine);
        }
        let mut writes = vec![Write::put(owner.head(), head).when(mine)];
        writes.extend(save.side_writes);
        self.flip(&writes, save.fence, &write_id).await?;
        if !inline {
            self.prune(owner, version).await;
        }
        Ok(version)
    }

    /// Sends the transaction until its outcome is known.
    async fn flip(&self, writes: &[Write], fence: u64, write_id: &str) -> Result<(), SnapshotError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let Err(error) = self.table.transact(writes).await else { return Ok(()) };
            match error.failed_condition(0) {
                Some(Some(head)) if head.text(WRITE_ID) == Some(write_id) => return Ok(()),
                Some(Some(head)) if head.number(FENCE) == Some(fence) => {
                    return Err(SnapshotError::VersionConflict { stored: head.number(VERSION).unwrap_or(0) });
                }
                Some(head) => return Err(fenced(head)),
                None => {}
            }
            let refused = (1..writes.len()).find_map(|at| Some((at, error.failed_condition(at)?)));
            if let Some((at, old)) = refused {
                return Err(SnapshotError::SideWrite { index: at - 1, old: old.cloned() });
            }
            if error.kind() == Kind::Bug || attempts == SAVE_ATTEMPTS_MAX {
                return Err(error.into());
            }
        }
    }

    async fn put_chunks(
        &self,
        owner: &Owner,
        version: u64,
        write_id: &str,
        chunks: Vec<Vec<u8>>,
    ) -> Result<(), SnapshotError> {
        let puts: Vec<_> = (0..)
            .zip(chunks)
            .map(|(number, body)| {
                Write::put(owner.chunk(version, write_id, number), Item::from([(BODY.into(), body.into())]))
            })
            .collect();
        for puts in puts.chunks(CHUNKS_AT_ONCE) {
            try_join_all(puts.iter().map(|put| self.table.write(put))).await?;
        }
        Ok(())
    }

    /// Opens the snapshot a head names; follows the head if it moves on meanwhile.
    async fn read(&self, owner: &Owner, mut head: Item) -> Result<Option<Snapshot>, SnapshotError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            if head.keys().all(|name| [PK, SK, FENCE].contains(&name.as_str())) {
                return Ok(None);
            }
            let read = self.open(owner, &head).await;
            let Err(SnapshotError::MissingChunk { .. }) = read else { return read.map(Some) };
            let newer = self.table.get(&owner.head()).await?.unwrap_or_default();
            let moved = newer.text(WRITE_ID) != head.text(WRITE_ID);
            if !moved || attempts == LOAD_ATTEMPTS_MAX {
                return read.map(Some);
            }
            head = newer;
        }
    }

    async fn open(&self, owner: &Owner, head: &Item) -> Result<Snapshot, SnapshotError> {
        let text = |name| head.text(name).ok_or(SnapshotError::Tampered);
        let number = |name| head.number(name).ok_or(SnapshotError::Tampered);
        let bytes = |name| head.bytes(name).ok_or(SnapshotError::Tampered);
        let header = Header::decode(bytes(SEAL)?)?;
        let (version, write_id, count) = (number(VERSION)?, text(WRITE_ID)?, number(CHUNKS)?);
        let chunks = match head.bytes(BODY) {
            Some(body) => vec![body.to_vec()],
            None => self.chunks(owner, version, write_id, count).await?,
        };
        if chunks.len() as u64 != count || Sealed::digest(&chunks) != bytes(DIGEST)? {
            return Err(SnapshotError::Tampered);
        }
        let (wrapped, at_ms, status) = (bytes(DATA_KEY)?, number(DATA_KEY_AT_MS)?, text(STATUS)?);
        let plain = self.opening_key(owner, wrapped).await?;
        let plaintext = seal::open(&plain, &self.label(owner, version, write_id, at_ms, status), &header, &chunks)?;
        self.keep(owner, KeptKey { key: DataKey { plain, wrapped: wrapped.to_vec() }, at_ms });
        Ok(Snapshot { version, plaintext, status: status.to_owned(), data_key_at_ms: at_ms })
    }

    async fn chunks(
        &self,
        owner: &Owner,
        version: u64,
        write_id: &str,
        count: u64,
    ) -> Result<Vec<Vec<u8>>, SnapshotError> {
        let prefix = chunk_prefix(version, write_id);
        let found = self.table.query(&Query::prefix(owner.to_string(), &prefix)).await?;
        let names = found.iter().map(|item| item.text(SK).unwrap_or_default());
        let expected = |number: usize| owner.chunk(version, write_id, number).sk;
        let right = names.enumerate().take_while(|(number, name)| *name == expected(*number)).count();
        if found.len() as u64 > count {
            return Err(SnapshotError::Tampered);
        }
        if right as u64 != count {
            return Err(SnapshotError::MissingChunk { number: right });
        }
        found.iter().map(|item| Ok(item.bytes(BODY).ok_or(SnapshotError::Tampered)?.to_vec())).collect()
    }

    /// Removes chunks of versions below the head's: left by earlier saves, or by savers that died. What fails is left
    /// for the next time.
    async fn prune(&self, owner: &Owner, head_version: u64) {
        if let Err(error) = self.try_prune(owner, head_version).await {
            tracing::warn!(%owner, error = %Chain(&error), "old chunks left for later");
        }
    }

    async fn try_prune(&self, owner: &Owner, head_version: u64) -> Result<(), TableError> {
        let below = Query::between(owner.to_string(), CHUNK, format!("{CHUNK}{head_version:020}")).keys_only();
        let old = self.table.query(&below).await?;
        let deletes: Vec<_> = old
            .iter()
            .filter_map(|item| item.text(SK))
            .map(|sk| Write::delete(Key::new(owner.to_string(), sk)))
            .collect();
        for deletes in deletes.chunks(CHUNKS_AT_ONCE) {
            try_join_all(deletes.iter().map(|delete| self.table.write(delete))).await?;
        }
        Ok(())
    }

    /// The key to seal with: the one in use, or a new one if there is none or it is too old.
    async fn sealing_key(&self, owner: &Owner) -> Result<KeptKey, SnapshotError> {
        let now_ms = self.clock.now_ms();
        let kept = self.with_kept(|kept| kept.get(owner).cloned());
        if let Some(kept) = kept.filter(|kept| now_ms.saturating_sub(kept.at_ms) < KEY_LIFE_MS) {
            return Ok(kept);
        }
        let made = KeptKey { key: self.keys.generate(owner).await?, at_ms: now_ms };
        self.keep(owner, made.clone());
        Ok(made)
    }

    async fn opening_key(&self, owner: &Owner, wrapped: &[u8]) -> Result<Plain, SnapshotError> {
        let kept = self.with_kept(|kept| kept.get(owner).cloned());
        match kept.filter(|kept| kept.key.wrapped == wrapped) {
            Some(kept) => Ok(kept.key.plain),
            None => Ok(self.keys.unwrap(owner, wrapped).await?),
        }
    }

    fn keep(&self, owner: &Owner, key: KeptKey) {
        self.with_kept(|kept| {
            if kept.len() >= KEYS_KEPT_MAX && !kept.contains_key(owner) {
                kept.pop_first();
            }
            kept.insert(*owner, key);
        });
    }

    fn with_kept<R>(&self, change: impl FnOnce(&mut BTreeMap<Owner, KeptKey>) -> R) -> R {
        change(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn label(&self, owner: &Owner, version: u64, write_id: &str, data_key_at_ms: u64, status: &str) -> Label {
        Label {
            deployment: self.deployment.to_string(),
            owner: owner.to_string(),
            part: PART,
            version,
            write_id: write_id.to_owned(),
            data_key_at_ms,
            status: status.to_owned(),
        }
    }
}

fn fenced(head: Option<&Item>) -> SnapshotError {
    SnapshotError::Fenced { by: head.and_then(|head| head.number(FENCE)).unwrap_or(0) }
}
