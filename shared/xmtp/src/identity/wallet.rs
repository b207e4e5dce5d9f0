//! Wallets that sign identity updates.

use std::error::Error;
use std::fmt;

use alloy_primitives::{Address, Signature, eip191_hash_message};
use async_trait::async_trait;
use k256::ecdsa::SigningKey;

use crate::proto::associations::{self as proto, signature::Signature as Kind};

/// A wallet that can sign texts: a key file, a KMS, a person's wallet app.
#[async_trait]
pub trait WalletSigner: Send + Sync {
    /// The wallet's address.
    fn address(&self) -> Address;

    /// Signs `text` as EIP-191 `personal_sign`: `r`, `s`, `v`, where `v` is 27 or 28 (0 and 1 are understood).
    ///
    /// # Errors
    /// If the wallet cannot or will not sign.
    async fn sign_text(&self, text: &str) -> Result<[u8; 65], SignerError>;
}

/// Why there is no usable wallet signature.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The wallet did not sign.
    #[error("the wallet did not sign")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// What the wallet returned is no ECDSA signature.
    #[error("the wallet returned a malformed signature")]
    Malformed,
    /// The signature is somebody else's.
    #[error("the signature is by {actual}, not by the wallet {expected}")]
    WrongSigner {
        /// The wallet that was asked.
        expected: Address,
        /// The signer that the signature names.
        actual: Address,
    },
}

/// Has `wallet` sign `text`, in the one form that every reader of identity logs accepts: low `s`, `v` 27 or 28.
/// (A signer in hardware or a KMS may return a high `s`.)
pub(super) async fn sign_with_wallet(wallet: &dyn WalletSigner, text: &str) -> Result<proto::Signature, SignerError> {
    let bytes = wallet.sign_text(text).await?;
    let signature = Signature::from_raw_array(&bytes).map_err(|_| SignerError::Malformed)?.normalized_s();
    let actual = signature.recover_address_from_msg(text).map_err(|_| SignerError::Malformed)?;
    let expected = wallet.address();
    if actual != expected {
        return Err(SignerError::WrongSigner { expected, actual });
    }
    let bytes = signature.as_bytes().to_vec();
    Ok(proto::Signature { signature: Some(Kind::Erc191(proto::RecoverableEcdsaSignature { bytes })) })
}

/// A wallet whose secp256k1 key is in this process. The key is wiped when dropped, and never printed.
#[derive(Clone)]
pub struct LocalWallet(SigningKey);

impl LocalWallet {
    /// The wallet with this private key (32 bytes, big-endian).
    ///
    /// # Errors
    /// [`SignerError::Failed`] if the number is zero or not below the order of secp256k1.
    pub fn from_key(private_key: &[u8; 32]) -> Result<Self, SignerError> {
        SigningKey::from_slice(private_key).map(Self).map_err(|error| SignerError::Failed(error.into()))
    }
}

#[async_trait]
impl WalletSigner for LocalWallet {
    fn address(&self) -> Address {
        Address::from_private_key(&self.0)
    }

    async fn sign_text(&self, text: &str) -> Result<[u8; 65], SignerError> {
        let hash = eip191_hash_message(text);
        let signature =
            self.0.sign_prehash_recoverable(hash.as_slice()).map_err(|error| SignerError::Failed(error.into()))?;
        Ok(Signature::from(signature).as_bytes())
    }
}

impl fmt::Debug for LocalWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalWallet(of {})", self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signs like a KMS that does not care for a low `s`.
    struct HighS(LocalWallet);

    #[async_trait]
    impl WalletSigner for HighS {
        fn address(&self) -> Address {
            self.0.address()
        }

        async fn sign_text(&self, text: &str) -> Result<[u8; 65], SignerError> {
            let low = self.0.sign_text(text).await?;
            let (r, s) = k256::ecdsa::Signature::from_slice(&low[..64]).unwrap().split_scalars();
            let mut high = [0; 65];
            high[..64].copy_from_slice(&k256::ecdsa::Signature::from_scalars(r, -s).unwrap().to_bytes());
            high[64] = 55 - low[64];
            Ok(high)
        }
    }

    /// Claims another address than the one it signs for.
    struct Impostor(LocalWallet);

    #[async_trait]
    impl WalletSigner for Impostor {
        fn address(&self) -> Address {
            Address::ZERO
        }

        async fn sign_text(&self, text: &str) -> Result<[u8; 65], SignerError> {
            self.0.sign_text(text).await
        }
    }

    fn wallet() -> LocalWallet {
        LocalWallet::from_key(&[1; 32]).unwrap()
    }

    #[tokio::test]
    async fn a_local_wallet_signs_as_ethereum_wallets_do() {
        // The first account of the well-known test mnemonic, and its personal_sign of "hello".
        let key = hex::decode("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80").unwrap();
        let wallet = LocalWallet::from_key(&key.try_into().unwrap()).unwrap();
        assert_eq!(wallet.address().to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        let signature = wallet.sign_text("hello").await.unwrap();
        assert!(matches!(signature[64], 27 | 28));
        let parsed = Signature::from_raw_array(&signature).unwrap();
        assert_eq!(parsed.normalize_s(), None, "s is low");
        assert_eq!(parsed.recover_address_from_msg("hello").unwrap(), wallet.address());
    }

    #[tokio::test]
    async fn a_high_s_is_lowered_and_v_flipped_with_it() {
        let plain = sign_with_wallet(&wallet(), "text").await.unwrap();
        assert_eq!(sign_with_wallet(&HighS(wallet()), "text").await.unwrap(), plain);
    }

    #[tokio::test]
    async fn somebody_elses_signature_is_refused_before_it_is_published() {
        let error = sign_with_wallet(&Impostor(wallet()), "text").await.unwrap_err();
        assert!(matches!(error, SignerError::WrongSigner { .. }));
    }

    #[test]
    fn zero_is_no_key_and_debug_shows_none() {
        assert!(LocalWallet::from_key(&[0; 32]).is_err());
        assert!(!format!("{:?}", wallet()).contains("010101"));
    }
}
