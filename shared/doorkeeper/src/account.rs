//! usher's own XMTP account: made once, read by every function.

use std::sync::Arc;

use futures::future::BoxFuture;
use usher_domain::ports::{Clock, Randomness, random};
use usher_store::{Owner, SnapshotError, Snapshots, Store, StoreError, snapshot::Save};
use usher_xmtp::{Account, AccountError, identity::WalletSigner, inbox_of, network::Network};

use crate::{ConvergeError, Doorkeeper, surroundings::Surroundings};

/// The account as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AccountInfo {
    /// The inbox.
    pub inbox: String,
    /// The one installation.
    pub installation: String,
    /// The wallet that the inbox belongs to, in lower case.
    pub wallet: String,
}

/// Why the account was not made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The account cannot be made or registered.
    #[error("the account cannot be registered")]
    Account(#[from] AccountError),
    /// The account cannot be stored: it was not registered either.
    #[error("the account cannot be stored")]
    Snapshot(#[from] SnapshotError),
    /// The ledger did not do as asked.
    #[error("the account's lease was not taken")]
    Store(#[from] StoreError),
    /// Somebody else is making the account.
    #[error("somebody else is making the account: try again in a minute")]
    Held,
    /// The account is being replaced, and finishing that is the recovery's business.
    #[error("a recovery is under way: continue it with `usher recover`")]
    Recovering,
    /// The stored account belongs to another wallet's inbox.
    #[error("the stored account is inbox {stored}, and the wallet's is {wallet}: use the wallet it was made with")]
    OtherWallet {
        /// The stored inbox.
        stored: String,
        /// The wallet's inbox.
        wallet: String,
    },
}

/// How long one attempt to make the account holds it.
pub(crate) const LEASE_MS: u64 = 60_000;

/// Makes the account, or finishes making it: keys are stored before anything is published, so that a repetition after
/// a crash at any point ends with one installation. Does nothing if the account is there.
pub fn init_account<'a>(
    store: &'a Store,
    snapshots: &'a Snapshots,
    network: &'a dyn Network,
    wallet: &'a dyn WalletSigner,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
) -> BoxFuture<'a, Result<AccountInfo, InitError>> {
    Box::pin(async move {
        let surroundings = Surroundings { clock, randomness };
        let info = |account: &Account| AccountInfo {
            inbox: account.inbox().to_string(),
            installation: account.installation().to_string(),
            wallet: format!("{:#x}", wallet.address()),
        };
        if let Some(stored) = snapshots.load(&Owner::Account).await? {
            let account = Account::decode(&stored.plaintext)?;
            if account.is_registered() {
                return Ok(info(&account));
            }
        }
        let owner = hex::encode(random::<16>(&*surroundings.randomness));
        let now_ms = surroundings.clock.now_ms();
        let lease = store.take_account(&owner, now_ms, now_ms + LEASE_MS).await?.ok_or(InitError::Held)?;
        // A recovery begins under the same lease, and registers the account only when all rooms are marked.
        let account = match store.recovery().await? {
            Some(_) => Err(InitError::Recovering),
            None => make(snapshots, network, wallet, lease.fence, &surroundings).await,
        };
        store.release_account(&lease).await?;
        Ok(info(&account?))
    })
}

async fn make(
    snapshots: &Snapshots,
    network: &dyn Network,
    wallet: &dyn WalletSigner,
    fence: u64,
    surroundings: &Surroundings,
) -> Result<Account, InitError> {
    let stored = snapshots.claim(&Owner::Account, fence).await?;
    let inbox = inbox_of(wallet.address(), network).await?;
    let save = async |account: &Account, expected_version| {
        let plaintext = account.encode()?;
        let save = Save { fence, expected_version, plaintext: &plaintext, status: "", side_writes: Vec::new() };
        Ok::<u64, InitError>(snapshots.save(&Owner::Account, save).await?)
    };
    let (mut account, version) = match stored {
        Some(stored) => (Account::decode(&stored.plaintext)?, stored.version),
        None => {
            let account = Account::new(inbox.clone(), surroundings, surroundings)?;
            let version = save(&account, 0).await?;
            (account, version)
        }
    };
    if *account.inbox() != inbox {
        return Err(InitError::OtherWallet { stored: account.inbox().to_string(), wallet: inbox.to_string() });
    }
    account.register(wallet, network, surroundings).await?;
    save(&account, version).await?;
    Ok(account)
}

impl Doorkeeper {
    /// The account, if it was made.
    pub(crate) async fn account(&self) -> Result<Option<Arc<Account>>, ConvergeError> {
        if let Some(account) = &*self.account.lock().expect("no holder of this lock panics") {
            return Ok(Some(account.clone()));
        }
        self.newest_account().await
    }

    /// Whether there is an account that is registered, so that rooms can be worked on.
    pub async fn has_account(&self) -> Result<bool, ConvergeError> {
        Ok(self.account().await?.is_some())
    }

    /// The account as it is stored, if it was made.
    pub(crate) async fn newest_account(&self) -> Result<Option<Arc<Account>>, ConvergeError> {
        let Some(stored) = self.parts.snapshots.load(&Owner::Account).await? else { return Ok(None) };
        Ok(self.keep_account(Account::decode(&stored.plaintext)?))
    }

    /// Whether the stored account has another installation than this one by now, or none that is registered.
    pub(crate) async fn is_replaced(&self, account: &Account) -> Result<bool, ConvergeError> {
        let newest = self.newest_account().await?;
        Ok(newest.is_none_or(|newest| newest.installation() != account.installation()))
    }

    /// Keeps the newest account for the next time. One that is not registered is none yet.
    pub(crate) fn keep_account(&self, account: Account) -> Option<Arc<Account>> {
        let account = account.is_registered().then(|| Arc::new(account));
        self.account.lock().expect("no holder of this lock panics").clone_from(&account);
        account
    }
}
