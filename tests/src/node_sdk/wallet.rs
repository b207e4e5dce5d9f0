use std::fmt;

use alloy_primitives::Address;
use usher_xmtp::identity::{LocalWallet, WalletSigner as _};

/// The private key of an EOA that signs for its inbox.
#[derive(Clone)]
pub struct Wallet {
    key: [u8; 32],
}

impl Wallet {
    /// A wallet with this secp256k1 private key.
    pub fn from_key(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// The wallet whose private key is `number` (1 or more): tests name their people by small numbers.
    pub fn numbered(number: u64) -> Self {
        let mut key = [0; 32];
        key[24..].copy_from_slice(&number.to_be_bytes());
        Self { key }
    }

    /// Its address.
    pub fn address(&self) -> Address {
        LocalWallet::from_key(&self.key).expect("a test's key is a secp256k1 key").address()
    }

    /// The key as the driver takes it: 0x and 64 hex digits.
    pub(super) fn key_hex(&self) -> String {
        format!("0x{}", hex::encode(self.key))
    }
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wallet(..)")
    }
}
