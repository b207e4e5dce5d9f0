//! Going on from a restored table, or with an installation that is to be replaced: an operator's act.
//!
//! A restored ledger is right, but a restored room state is old, and whoever commits from an old state uses keys twice.
//! So the account gets a new installation, all rooms wait for a welcome to it (see [`crate::welcome`]), and when the
//! last room has come back or was given up the old installations are revoked. The order that survives a crash anywhere:
//!
//! 1. the new installation's keys are stored, with the note that a recovery is under way. Whoever reads the account from
//!    here on finds none that is registered, and makes no room;
//! 2. the lease of every event is taken once, so that whoever was at it can write no more, and its rooms are marked as
//!    waiting;
//! 3. the installation is registered. So whoever sees it registered sees no room in use from before;
//! 4. welcomes are received, by this and by the sweep;
//! 5. the old installations are revoked, and the note is deleted with the account's save.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use serde::Serialize;
use usher_domain::{EventKey, GroupId, InstallationId};
use usher_store::{AccountLease, Owner, Place, Recovery, RoomState, SnapshotError, StoreError, table::Write};
use usher_xmtp::{
    Account, AccountError, IDENTITY_UPDATES_MAX, INSTALLATIONS_MAX, Identities, IdentitiesError,
    identity::{self, WalletSigner},
    inbox_of,
    network::NetworkError,
};

use crate::{ConvergeError, Doorkeeper, upkeep::Held};

/// Entries of the identity log that a recovery needs: the new installation, and the revocation of the old ones.
const ENTRIES_NEEDED: usize = 2;

/// Why a recovery does not go on. Trying again takes it up where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The wallet's inbox has no installation on this network.
    #[error("inbox {0} has no installation on this network: there is nothing to recover; is it the right wallet?")]
    NothingToRecover(String),
    /// The stored account belongs to another wallet's inbox.
    #[error("the stored account is inbox {stored}, and the wallet's is {wallet}: use the wallet it was made with")]
    OtherWallet {
        /// The stored inbox.
        stored: String,
        /// The wallet's inbox.
        wallet: String,
    },
    /// Somebody else has the account in hand.
    #[error("somebody else has the account in hand: try again in a minute")]
    Held,
    /// The account cannot be made, registered or rid of its old installations.
    #[error("the account cannot be replaced")]
    Account(#[from] AccountError),
    /// XMTP did not answer.
    #[error("XMTP did not answer")]
    Network(#[from] NetworkError),
    /// The inbox's identity log was not read.
    #[error("the inbox's identity log was not read")]
    Identities(#[from] IdentitiesError),
    /// The ledger did not do as asked.
    #[error("the ledger did not do as asked")]
    Store(#[from] StoreError),
    /// The account was not stored.
    #[error("the account was not stored")]
    Snapshot(#[from] SnapshotError),
    /// A room was not worked on.
    #[error("a room was not worked on")]
    Room(#[from] ConvergeError),
}

/// How far a recovery has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// usher's inbox.
    pub inbox: String,
    /// The new installation.
    pub installation: String,
    /// The installations that are revoked in the end.
    pub replaced: Vec<String>,
    /// How many installations the inbox has, of [`INSTALLATIONS_MAX`].
    pub installations: usize,
    /// How many entries the inbox's identity log has, of [`IDENTITY_UPDATES_MAX`].
    pub identity_updates: usize,
    /// Events that somebody else works on, so that their rooms are not marked yet; until they are, no welcome can come.
    pub held: Vec<EventKey>,
    /// All rooms, also those that were lost before.
    pub rooms: Vec<RoomProgress>,
    /// Nothing is left to do.
    pub finished: bool,
}

/// How far a room has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoomProgress {
    /// Whose room it is.
    pub event: EventKey,
    /// The XMTP group.
    pub group: GroupId,
    /// Active again, waiting, or given up and lost.
    #[serde(flatten)]
    pub state: RoomState,
}

impl Doorkeeper {
    /// Begins a recovery, unless one is under way. Nothing is published yet. `place` is where the deployment is from now
    /// on, if it is told.
    pub fn begin_recovery<'a>(
        &'a self,
        wallet: &'a dyn WalletSigner,
        place: Option<&'a Place>,
    ) -> BoxFuture<'a, Result<(), RecoverError>> {
        Box::pin(async move {
            let adopted = place.map(Place::adopt_table);
            if self.parts.store.recovery().await?.is_some() {
                // One that was under way when the backup was made.
                if let Some(adopt) = adopted {
                    self.parts.store.table().write(&adopt).await.map_err(StoreError::from)?;
                }
                return Ok(());
            }
            let lease = self.lease_account().await?.ok_or(RecoverError::Held)?;
            let began = self.replace_account(wallet, lease.clone(), adopted).await;
            self.parts.store.release_account(&lease).await?;
            began
        })
    }

    async fn replace_account(
        &self,
        wallet: &dyn WalletSigner,
        lease: AccountLease,
        adopted: Option<Write>,
    ) -> Result<(), RecoverError> {
        let network = &*self.parts.network;
        let inbox = inbox_of(wallet.address(), network).await?;
        let replaced = installations(&inbox, network).await?;
        if replaced.is_empty() {
            return Err(RecoverError::NothingToRecover(inbox.to_string()));
        }
        if replaced.len() >= INSTALLATIONS_MAX {
            return Err(AccountError::TooManyInstallations(inbox).into());
        }
        if updates(&inbox, network).await? + ENTRIES_NEEDED > IDENTITY_UPDATES_MAX {
            return Err(AccountError::LogFull(inbox).into());
        }
        if let Some(stored) = self.readable_account().await?
            && *stored.inbox() != inbox
        {
            let (stored, wallet) = (stored.inbox().to_string(), inbox.to_string());
            return Err(RecoverError::OtherWallet { stored, wallet });
        }
        let version = self.parts.snapshots.claim_unread(&Owner::Account, lease.fence).await?;
        let account = Account::new(inbox, &self.surroundings, &self.surroundings)?;
        let replaced = replaced.into_iter().map(|id| InstallationId(*id.as_bytes())).collect();
        let recovery = Recovery { since_ms: self.parts.clock.now_ms(), replaced };
        let mut held = Held { account, lease, version };
        let writes = adopted.into_iter().chain([recovery.begin()]).collect();
        self.save_account(&mut held, writes).await?;
        tracing::warn!(installation = %held.account.installation(), "a recovery has begun");
        self.keep_account(held.account);
        Ok(())
    }

    /// The stored account; `None` also if it can never be read again, which is what recoveries are for.
    async fn readable_account(&self) -> Result<Option<Account>, RecoverError> {
        match self.parts.snapshots.load(&Owner::Account).await {
            Ok(stored) => Ok(stored.and_then(|stored| Account::decode(&stored.plaintext).ok())),
            Err(error) if error.is_final() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a recovery as far as it goes now, and tells how far that is; `None` if none is under way. Rooms that have
    /// waited for `give_up_after_ms` are declared lost, so that they get successors.
    pub fn recover<'a>(
        &'a self,
        wallet: &'a dyn WalletSigner,
        give_up_after_ms: Option<u64>,
    ) -> BoxFuture<'a, Result<Option<Progress>, RecoverError>> {
        Box::pin(async move {
            let Some(recovery) = self.parts.store.recovery().await? else { return Ok(None) };
            let busy = self.register_replacement(&recovery, wallet).await?;
            self.receive_welcomes().await?;
            if let Some(after_ms) = give_up_after_ms {
                self.give_up(after_ms).await?;
            }
            let mut progress = self.progress(&recovery, busy).await?;
            let awaited = |room: &RoomProgress| matches!(room.state, RoomState::AwaitingWelcome { .. });
            if progress.held.is_empty() && !progress.rooms.iter().any(awaited) {
                self.end_recovery(&recovery, wallet).await?;
                progress = Progress { finished: true, ..self.progress(&recovery, Vec::new()).await? };
            }
            Ok(Some(progress))
        })
    }

    /// Registers the new installation once all rooms wait; returns the events that somebody else works on until then.
    async fn register_replacement(
        &self,
        recovery: &Recovery,
        wallet: &dyn WalletSigner,
    ) -> Result<Vec<EventKey>, RecoverError> {
        let inbox = inbox_of(wallet.address(), &*self.parts.network).await?;
        let stored = self.parts.snapshots.load(&Owner::Account).await?.ok_or(RecoverError::Held)?;
        let stored = Account::decode(&stored.plaintext)?;
        if *stored.inbox() != inbox {
            let stored = stored.inbox().to_string();
            return Err(RecoverError::OtherWallet { stored, wallet: inbox.to_string() });
        }
        if stored.is_registered() {
            return Ok(Vec::new());
        }
        // Without the account's lease, which is shorter than this may take. What is marked stays so.
        let mut busy = Vec::new();
        for event in self.parts.store.events().await? {
            if !self.mark_rooms(&event).await? {
                busy.push(event);
            }
        }
        if busy.is_empty() {
            let mut held = self.hold_account().await?.ok_or(RecoverError::Held)?;
            let registered = self.register(&mut held, wallet).await;
            self.parts.store.release_account(&held.lease).await?;
            registered?;
            let replaced = recovery.replaced.len();
            tracing::info!(installation = %held.account.installation(), replaced, "the new installation is registered");
            self.keep_account(held.account);
        }
        Ok(busy)
    }

    async fn register(&self, held: &mut Held, wallet: &dyn WalletSigner) -> Result<(), RecoverError> {
        if !held.account.is_registered() {
            held.account.register(wallet, &*self.parts.network, &self.surroundings).await?;
            self.save_account(held, Vec::new()).await?;
        }
        Ok(())
    }

    /// Has all rooms of an event wait. Whether that was possible: not while somebody else holds the event, who may be
    /// making a room.
    async fn mark_rooms(&self, event: &EventKey) -> Result<bool, RecoverError> {
        let Some((lease, record)) = self.hold_event(event).await? else {
            return Ok(self.parts.store.event(event).await?.is_none());
        };
        self.parts.store.abandon(&lease).await?;
        for room in record.rooms.iter().filter(|room| room.state == RoomState::Active) {
            let Some((lease, room, _)) = self.hold_awaiting(event, room.group).await? else { return Ok(false) };
            let marked = match room.state {
                RoomState::Active => self.await_welcome(&lease, &room).await,
                _ => Ok(()),
            };
            self.parts.store.abandon(&lease).await?;
            marked?;
        }
        Ok(true)
    }

    /// Declares rooms lost that have waited for so long. They get successors.
    async fn give_up(&self, after_ms: u64) -> Result<(), RecoverError> {
        for event in self.parts.store.events().await? {
            let Some(record) = self.parts.store.event(&event).await? else { continue };
            for room in record.rooms {
                let now_ms = self.parts.clock.now_ms();
                let overdue = |state: &RoomState| matches!(state, RoomState::AwaitingWelcome { since_ms } if since_ms + after_ms <= now_ms);
                if !overdue(&room.state) {
                    continue;
                }
                let Some((lease, room, _)) = self.hold_awaiting(&event, room.group).await? else { continue };
                let reason = "no member's client let the new installation in in time";
                let given_up = match overdue(&room.state) {
                    true => self.declare_lost(&lease, &room, "room_given_up", reason, Vec::new()).await,
                    false => Ok(()),
                };
                self.parts.store.abandon(&lease).await?;
                given_up?;
            }
        }
        Ok(())
    }

    /// Revokes the old installations. What remains is the rooms' own business: at their next look they take out the
    /// leaves of installations that are revoked.
    async fn end_recovery(&self, recovery: &Recovery, wallet: &dyn WalletSigner) -> Result<(), RecoverError> {
        let mut held = self.hold_account().await?.ok_or(RecoverError::Held)?;
        let ended = async {
            let replaced: BTreeSet<_> =
                recovery.replaced.iter().map(|id| identity::InstallationId::new(id.0)).collect();
            held.account.revoke(&replaced, wallet, &*self.parts.network, &self.surroundings).await?;
            for event in self.parts.store.events().await? {
                self.parts.store.mark_due(&event, self.parts.clock.now_ms()).await?;
            }
            self.save_account(&mut held, vec![Recovery::end()]).await?;
            Ok::<(), RecoverError>(())
        };
        let ended = ended.await;
        self.parts.store.release_account(&held.lease).await?;
        ended?;
        tracing::info!(installation = %held.account.installation(), "the recovery is finished");
        self.keep_account(held.account);
        Ok(())
    }

    async fn progress(&self, recovery: &Recovery, held: Vec<EventKey>) -> Result<Progress, RecoverError> {
        let stored = self.parts.snapshots.load(&Owner::Account).await?.ok_or(RecoverError::Held)?;
        let account = Account::decode(&stored.plaintext)?;
        let network = &*self.parts.network;
        let mut rooms = Vec::new();
        for event in self.parts.store.events().await? {
            for room in self.parts.store.event(&event).await?.into_iter().flat_map(|record| record.rooms) {
                rooms.push(RoomProgress { event, group: room.group, state: room.state });
            }
        }
        Ok(Progress {
            since_ms: recovery.since_ms,
            inbox: account.inbox().to_string(),
            installation: account.installation().to_string(),
            replaced: recovery.replaced.iter().map(ToString::to_string).collect(),
            installations: installations(account.inbox(), network).await?.len(),
            identity_updates: updates(account.inbox(), network).await?,
            held,
            rooms,
            finished: false,
        })
    }
}

/// The installations that an inbox has now.
async fn installations(
    inbox: &identity::InboxId,
    network: &dyn usher_xmtp::network::Network,
) -> Result<BTreeSet<identity::InstallationId>, RecoverError> {
    let mut identities = Identities::default();
    identities.load(network, [inbox]).await?;
    Ok(identities.latest(inbox).map(|(_, state)| state.installations()).unwrap_or_default())
}

/// How many entries an inbox's log has.
async fn updates(inbox: &identity::InboxId, network: &dyn usher_xmtp::network::Network) -> Result<usize, RecoverError> {
    Ok(network.identity_updates(&[(inbox.clone(), 0)]).await?.first().map_or(0, Vec::len))
}
