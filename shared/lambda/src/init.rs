//! Initialising a deployment: its id, and usher's own XMTP account. An operator's act, never a function's.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use usher_domain::ports::Randomness;
use usher_doorkeeper::{AccountInfo, InitError, init_account};
use usher_store::{StoreError, Table};
use usher_xmtp::identity::{LocalWallet, SignerError, WalletSigner};
use zeroize::Zeroizing;

use crate::usher::{OpenError, Usher};

/// Why a deployment was not initialised. Trying again takes it up where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The deployment's id was not written.
    #[error("the deployment's id was not written")]
    Deployment(#[from] StoreError),
    /// The data key cannot be used.
    #[error("the data key cannot be used")]
    DataKey(#[from] OpenError),
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

impl<T: Table + Clone> Usher<T> {
    /// Writes the deployment's id and makes its XMTP account, or finds both; after a crash at any point, a repetition
    /// ends with one of each.
    pub async fn init(&self, wallet: &dyn WalletSigner) -> Result<AccountInfo, SetUpError> {
        let snapshots = self.snapshots(self.store.init_deployment().await?)?;
        let (clock, randomness) = (self.adapters.clock.clone(), self.adapters.randomness.clone());
        Ok(init_account(&self.store, &snapshots, &*self.adapters.network, wallet, clock, randomness).await?)
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
