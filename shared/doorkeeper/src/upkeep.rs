//! What the account needs from time to time: a new key package. (And with it a new data key, as for every save of state
//! that is sealed with an old one.)
//!
//! The new key package is stored before it is uploaded, together with the mark that the node may not have it yet. So
//! whoever comes after a crash uploads it, and until then the node serves one whose private halves are kept.

use futures::future::BoxFuture;
use usher_domain::ports::random;
use usher_store::{AccountLease, Owner, snapshot::Save, table::Write};
use usher_xmtp::{Account, Wrapping};

use crate::{ConvergeError, Doorkeeper, account::LEASE_MS};

/// The account in hand, under its lease.
pub(crate) struct Held {
    pub(crate) account: Account,
    pub(crate) lease: AccountLease,
    pub(crate) version: u64,
}

impl Doorkeeper {
    /// Replaces the account's key package when it is a month old, and receives welcomes while a recovery is under way.
    /// Whether anything was done; nothing is while somebody else holds the account.
    pub fn keep_up(&self) -> BoxFuture<'_, Result<bool, ConvergeError>> {
        Box::pin(async move {
            let renewed = self.renew_key_package().await?;
            Ok(self.receive_welcomes().await? > 0 || renewed)
        })
    }

    async fn renew_key_package(&self) -> Result<bool, ConvergeError> {
        // As it was when this process read it; whether it is still so shows under the lease.
        let Some(account) = self.account().await? else { return Ok(false) };
        if !self.wants_upkeep(&account) {
            return Ok(false);
        }
        let Some(mut held) = self.hold_account().await? else { return Ok(false) };
        let renewed = self.renew(&mut held).await;
        self.parts.store.release_account(&held.lease).await?;
        self.keep_account(held.account);
        renewed
    }

    fn wants_upkeep(&self, account: &Account) -> bool {
        account.awaits_upload() || account.key_package_is_old(&self.surroundings)
    }

    async fn renew(&self, held: &mut Held) -> Result<bool, ConvergeError> {
        if !held.account.is_registered() || !self.wants_upkeep(&held.account) {
            return Ok(false);
        }
        if !held.account.awaits_upload() {
            held.account.rotate_key_package(Wrapping::XWing, &self.surroundings, &self.surroundings)?;
            self.save_account(held, Vec::new()).await?;
        }
        held.account.upload_key_package(&*self.parts.network).await?;
        self.save_account(held, Vec::new()).await?;
        tracing::info!(installation = %held.account.installation(), "key package replaced");
        Ok(true)
    }

    /// Takes the account's lease and reads the account; `None` if there is no account, or somebody else holds it.
    pub(crate) async fn hold_account(&self) -> Result<Option<Held>, ConvergeError> {
        let Some(lease) = self.lease_account().await? else { return Ok(None) };
        let held = match self.parts.snapshots.claim(&Owner::Account, lease.fence).await {
            Ok(Some(snapshot)) => Account::decode(&snapshot.plaintext)
                .map(|account| Some(Held { account, lease: lease.clone(), version: snapshot.version }))
                .map_err(ConvergeError::from),
            Ok(None) => Ok(None),
            Err(error) => Err(error.into()),
        };
        if !matches!(held, Ok(Some(_))) {
            self.parts.store.release_account(&lease).await?;
        }
        held
    }

    /// The account's lease; `None` if somebody else holds it.
    pub(crate) async fn lease_account(&self) -> Result<Option<AccountLease>, ConvergeError> {
        let owner = hex::encode(random::<16>(&*self.parts.randomness));
        let now_ms = self.parts.clock.now_ms();
        Ok(self.parts.store.take_account(&owner, now_ms, now_ms + LEASE_MS).await?)
    }

    /// Stores the account with what belongs to the change, unless a newer lease has it.
    pub(crate) async fn save_account(&self, held: &mut Held, side_writes: Vec<Write>) -> Result<(), ConvergeError> {
        let plaintext = held.account.encode()?;
        let save = Save {
            fence: held.lease.fence,
            expected_version: held.version,
            plaintext: &plaintext,
            status: "",
            side_writes,
        };
        held.version = self.parts.snapshots.save(&Owner::Account, save).await?;
        Ok(())
    }
}
