//! usher's wallet: a KMS key that never leaves KMS, or a file.
//!
//! alloy-signer-aws would do the former, but pins the AWS SDK's parts to one exact version and brings all of alloy's
//! transactions along.

use std::path::{Path, PathBuf};

use alloy_primitives::{Address, Signature, eip191_hash_message};
use async_trait::async_trait;
use aws_sdk_kms::{
    Client,
    primitives::Blob,
    types::{MessageType, SigningAlgorithmSpec},
};
use k256::{
    PublicKey,
    ecdsa::{RecoveryId, VerifyingKey},
    pkcs8::DecodePublicKey as _,
};
use usher_lambda::{Machine, local_wallet};
use usher_xmtp::identity::{SignerError, WalletSigner};

use crate::{Failure, stack::Deployment};

/// Which wallet is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct WalletArgs {
    /// The wallet's key, 32 bytes in hex, instead of the stack's KMS key; made if there is no such file
    #[arg(long, value_name = "FILE", env = "USHER_WALLET_KEY_FILE")]
    wallet_key_file: Option<PathBuf>,
}

impl WalletArgs {
    /// The wallet that is meant: the file's, else the stack's.
    pub(crate) async fn open(&self, deployment: &Deployment) -> Result<Box<dyn WalletSigner>, Failure> {
        match (&self.wallet_key_file, deployment.keys()) {
            (Some(file), _) => Ok(Box::new(local(file)?)),
            (None, Some((kms, outputs))) => Ok(Box::new(KmsWallet::open(kms.clone(), &outputs.wallet_key).await?)),
            (None, None) => Err("name the wallet's file: --wallet-key-file FILE".into()),
        }
    }
}

fn local(file: &Path) -> Result<usher_xmtp::identity::LocalWallet, Failure> {
    let opened = local_wallet(file, &Machine);
    Ok(opened.map_err(|error| format!("{}: {}", file.display(), usher_lambda::telemetry::Chain(&error)))?)
}

/// A wallet whose secp256k1 key is in AWS KMS (`ECC_SECG_P256K1`).
pub(crate) struct KmsWallet {
    client: Client,
    key_id: String,
    key: VerifyingKey,
}

impl KmsWallet {
    /// Asks KMS for the key's public half.
    pub(crate) async fn open(client: Client, key_id: &str) -> Result<Self, Failure> {
        let found = client.get_public_key().key_id(key_id).send().await.map_err(aws_sdk_kms::Error::from)?;
        let der = found.public_key.ok_or("KMS told no public key")?;
        let key = PublicKey::from_public_key_der(der.as_ref())
            .map_err(|_| format!("KMS key {key_id} is no secp256k1 key (ECC_SECG_P256K1)"))?;
        Ok(Self { client, key_id: key_id.to_owned(), key: key.into() })
    }
}

#[async_trait]
impl WalletSigner for KmsWallet {
    fn address(&self) -> Address {
        Address::from_public_key(&self.key)
    }

    async fn sign_text(&self, text: &str) -> Result<[u8; 65], SignerError> {
        let digest = eip191_hash_message(text);
        let request = self.client.sign().key_id(&self.key_id).message(Blob::new(digest.to_vec()));
        // KMS hashes nothing: it signs the 32 bytes, whatever hash they are of.
        let request = request.message_type(MessageType::Digest).signing_algorithm(SigningAlgorithmSpec::EcdsaSha256);
        let signed = request.send().await.map_err(aws_sdk_kms::Error::from);
        let der = signed.map_err(|error| SignerError::Failed(error.into()))?.signature.ok_or(SignerError::Malformed)?;
        let signature = k256::ecdsa::Signature::from_der(der.as_ref()).map_err(|_| SignerError::Malformed)?;
        // KMS does not care which of two s it returns; Ethereum takes the low one.
        let signature = signature.normalize_s().unwrap_or(signature);
        let id = RecoveryId::trial_recovery_from_prehash(&self.key, digest.as_slice(), &signature);
        let id = id.map_err(|_| SignerError::Malformed)?;
        Ok(Signature::from((signature, id)).as_bytes())
    }
}

#[cfg(test)]
mod tests;
