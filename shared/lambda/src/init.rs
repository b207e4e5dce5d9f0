//! Initialising a deployment: its id, and usher's own XMTP account. An operator's act, never a function's.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use futures::future::BoxFuture;
use usher_domain::ports::Randomness;
use usher_doorkeeper::{AccountInfo, InitError, init_account};
use usher_store::{Owner, StoreError};
use usher_xmtp::{
    Account, IDENTITY_UPDATES_MAX, INSTALLATIONS_MAX, Identities, IdentitiesError,
    identity::{InboxId, LocalWallet, SignerError, WalletSigner},
    network::Network,
};
use zeroize::Zeroizing;

use crate::usher::{OpenError, Usher};

/// Why a deployment was not initialised. Trying again takes it up where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The deployment's id was not written.
    #[error("the deployment's id was not written")]
    Deployment(#[from] StoreError),
    /// The deployment is elsewhere, or its data key cannot be used.
    #[error("rooms cannot be worked on")]
    Open(#[from] OpenError),
    /// The XMTP account was not made.
    #[error("the XMTP account was not made")]
    Account(#[from] InitError),
}

/// A wallet file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalletFileError {
    /// It cannot be read or made.
    #[error("the wallet file cannot be read or made")]
    Io(#[from] io::Error),
    /// Others may read it.
    #[error("others may read the wallet file: chmod 600 it")]
    Open,
    /// It does not hold 32 bytes in hex.
    #[error("the wallet file does not hold 32 bytes in hex")]
    NotHex,
    /// What it holds is no private key.
    #[error("the wallet file holds no secp256k1 key")]
    NoKey(#[from] SignerError),
}

impl Usher {
    /// Writes the deployment's id, binds it to its place if that is told, and makes its XMTP account, or finds all of
    /// them; after a crash at any point, a repetition ends with one of each.
    pub fn init<'a>(&'a self, wallet: &'a dyn WalletSigner) -> BoxFuture<'a, Result<AccountInfo, SetUpError>> {
        Box::pin(async move {
            let deployment = self.store.init_deployment().await?;
            if let Some(told) = &self.place {
                self.check_place(&self.store.bind(told).await?)?;
            }
            let snapshots = self.snapshots(deployment)?;
            let (clock, randomness) = (self.adapters.clock.clone(), self.adapters.randomness.clone());
            Ok(init_account(&self.store, &snapshots, &*self.adapters.network, wallet, clock, randomness).await?)
        })
    }

    /// The account as it is stored, for an operator to look at; `None` if there is none. Needs the data key.
    pub async fn account(&self) -> Result<Option<Account>, SetUpError> {
        let Some(deployment) = self.store.deployment().await? else { return Ok(None) };
        let stored = self.snapshots(deployment)?.load(&Owner::Account).await.map_err(InitError::from)?;
        let account = stored.map(|stored| Account::decode(&stored.plaintext)).transpose();
        Ok(account.map_err(InitError::from)?)
    }
}

/// What an inbox has used up of what can never be had again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct InboxUsage {
    /// Installations that it has now; XMTP clients take [`INSTALLATIONS_MAX`].
    pub installations: usize,
    /// Entries of its identity log; nodes take [`IDENTITY_UPDATES_MAX`].
    pub updates: usize,
}

impl InboxUsage {
    /// What the network says of an inbox.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn of(inbox: &InboxId, network: &dyn Network) -> Result<Self, IdentitiesError> {
        let updates = network.identity_updates(&[(inbox.clone(), 0)]).await?.iter().map(Vec::len).sum();
        let mut identities = Identities::default();
        identities.load(network, [inbox]).await?;
        let installations = identities.latest(inbox).map_or(0, |(_, state)| state.installations().len());
        Ok(Self { installations, updates })
    }
}

impl fmt::Display for InboxUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { installations, updates } = self;
        write!(f, "{installations} of {INSTALLATIONS_MAX} installations, ")?;
        write!(f, "{updates} of {IDENTITY_UPDATES_MAX} identity updates used")
    }
}

/// What the XMTP network at an address is called: `production` and `dev` are XMTP's own, `local` is whatever runs on this
/// machine, and any other is called by its host and port.
pub fn network_name(url: &str) -> String {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default().to_ascii_lowercase();
    let host = authority.strip_suffix(":443").unwrap_or(&authority);
    match host.rsplit_once(':').map_or(host, |(host, _)| host) {
        "grpc.production.xmtp.network" => "production".to_owned(),
        "grpc.dev.xmtp.network" => "dev".to_owned(),
        name if name == "localhost" || name == "[::1]" || name.starts_with("127.") => "local".to_owned(),
        _ => host.to_owned(),
    }
}

/// The wallet whose private key is in a file: 32 bytes in hex, readable by its owner only. Makes the file, with a new
/// key, if there is none.
pub fn local_wallet(path: &Path, randomness: &dyn Randomness) -> Result<LocalWallet, WalletFileError> {
    if !path.try_exists()? {
        let mut key = Zeroizing::new([0; 32]);
        randomness.fill(&mut *key);
        // A key that is none (one in 2^128) is not worth a file.
        LocalWallet::from_key(&key)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(Zeroizing::new(hex::encode(*key)).as_bytes())?;
        file.sync_all()?;
    }
    if path.metadata()?.permissions().mode() & 0o077 != 0 {
        return Err(WalletFileError::Open);
    }
    let text = Zeroizing::new(std::fs::read_to_string(path)?);
    let digits = text.trim();
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits.strip_prefix("0x").unwrap_or(digits), &mut *key)
        .map_err(|_| WalletFileError::NotHex)?;
    Ok(LocalWallet::from_key(&key)?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;
    use crate::Machine;

    #[test]
    fn networks_are_told_apart() {
        for (url, name) in [
            ("https://grpc.production.xmtp.network:443", "production"),
            ("https://grpc.production.xmtp.network", "production"),
            ("https://GRPC.dev.xmtp.network:443/", "dev"),
            ("http://127.0.0.1:5556", "local"),
            ("http://localhost:5556", "local"),
            ("http://[::1]:5556", "local"),
            ("https://xmtp.example.org", "xmtp.example.org"),
            ("https://xmtp.example.org:443", "xmtp.example.org"),
            ("https://xmtp.example.org:5050", "xmtp.example.org:5050"),
            // Not XMTP's.
            ("https://grpc.production.xmtp.network.example.org", "grpc.production.xmtp.network.example.org"),
        ] {
            assert_eq!(network_name(url), name, "{url}");
        }
    }

    #[test]
    fn a_wallet_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wallet.key");
        let made = local_wallet(&path, &Machine).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(local_wallet(&path, &Machine).unwrap().address(), made.address());
    }

    #[test]
    fn a_wallet_that_others_may_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wallet.key");
        for (text, mode) in [("11".repeat(32), 0o644), ("11".repeat(31), 0o600), ("00".repeat(32), 0o600)] {
            fs::write(&path, &text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(local_wallet(&path, &Machine).is_err(), "{text} {mode:o}");
        }
        fs::write(&path, format!("0x{}\n", "11".repeat(32))).unwrap();
        assert!(local_wallet(&path, &Machine).is_ok());
    }
}
