//! Going on from a restored table, or with a new installation: what an operator does, wired. See
//! [`Doorkeeper::recover`](usher_doorkeeper::Doorkeeper::recover).

use futures::future::BoxFuture;
use usher_doorkeeper::{Progress, RecoverError};
use usher_store::StoreError;
use usher_xmtp::identity::WalletSigner;

use crate::{
    current::Doorkeepers,
    settings::SettingsError,
    usher::{OpenError, Usher},
};

/// Why a recovery was not begun, or does not go on. Trying again takes it up where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// There is no deployment to recover.
    #[error("the table has no deployment: is it the right table?")]
    NoDeployment,
    /// There are no settings to work by.
    #[error("there are no settings to work by")]
    Settings(#[from] SettingsError),
    /// Where the deployment is was not read.
    #[error("where the deployment is was not read")]
    Place(#[from] StoreError),
    /// Rooms cannot be worked on.
    #[error("rooms cannot be worked on")]
    Open(#[from] OpenError),
    /// The recovery itself stopped.
    #[error("the recovery stopped")]
    Recover(#[from] RecoverError),
}

impl Usher {
    /// Begins a recovery, unless one is under way: the account gets a new installation, and a table of another name than
    /// before is the deployment's from now on.
    pub fn begin_recovery<'a>(&'a self, wallet: &'a dyn WalletSigner) -> BoxFuture<'a, Result<(), RecoveryError>> {
        Box::pin(async move {
            // On a network of another name there is nothing to recover.
            if let (Some(told), Some(bound)) = (&self.place, self.store.place().await?)
                && told.network != bound.network
            {
                self.check_place(&bound)?;
            }
            Ok(self.anywhere().await?.all.begin_recovery(wallet, self.place.as_ref()).await?)
        })
    }

    /// Takes a recovery as far as it goes now, and tells how far that is; `None` if none is under way. Rooms that have
    /// waited for `give_up_after_ms` get successors.
    pub fn recover<'a>(
        &'a self,
        wallet: &'a dyn WalletSigner,
        give_up_after_ms: Option<u64>,
    ) -> BoxFuture<'a, Result<Option<Progress>, RecoveryError>> {
        Box::pin(async move {
            if let Some(bound) = self.store.place().await? {
                self.check_place(&bound)?;
            }
            Ok(self.anywhere().await?.all.recover(wallet, give_up_after_ms).await?)
        })
    }

    /// Who works on the deployment's rooms, wherever it is bound to be.
    async fn anywhere(&self) -> Result<Doorkeepers, RecoveryError> {
        let current = self.current().await?;
        let deployment = self.store.deployment().await?.ok_or(RecoveryError::NoDeployment)?;
        Ok(self.open(&current, self.snapshots(deployment)?))
    }
}
