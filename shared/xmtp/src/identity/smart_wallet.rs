//! Smart-contract wallets (ERC-1271, ERC-6492): somebody who can read the chain has to check their signatures.

use std::error::Error;
use std::str::FromStr;

use async_trait::async_trait;

use super::SignatureError;

/// Checks signatures of smart-contract wallets, with an RPC node of the chain or through an XMTP node.
#[async_trait]
pub trait SmartWalletVerifier: Send + Sync {
    /// Whether `signature` (ERC-1271 or ERC-6492) of the EIP-191 `hash` is valid for `account_id`
    /// (CAIP-10, `eip155:<chain id>:<address>`) at `block_number`, or at the newest block.
    ///
    /// # Errors
    /// If that cannot be found out.
    async fn verify(
        &self,
        account_id: &str,
        block_number: Option<u64>,
        hash: [u8; 32],
        signature: &[u8],
    ) -> Result<bool, VerifierError>;
}

/// Why a smart-contract wallet's signature could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// This chain's wallets are not checked here.
    #[error("verifier not present for chain ID {0}")]
    NoVerifier(String),
    /// Whoever checks could not be reached; later may be better.
    #[error("the smart-contract wallet verifier is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

/// Refuses every smart-contract wallet.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSmartWallets;

#[async_trait]
impl SmartWalletVerifier for NoSmartWallets {
    async fn verify(
        &self,
        account_id: &str,
        _block_number: Option<u64>,
        _hash: [u8; 32],
        _signature: &[u8],
    ) -> Result<bool, VerifierError> {
        let chain = account_id.rsplit_once(':').map_or(account_id, |(chain, _address)| chain);
        Err(VerifierError::NoVerifier(chain.to_owned()))
    }
}

/// A CAIP-10 account id on an EVM chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountId {
    /// The EIP-155 chain id.
    pub chain_id: u64,
    /// The wallet's address in lower case.
    pub address: String,
}

impl FromStr for AccountId {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = SignatureError::InvalidAccountId;
        let Some((chain_id, address)) = text.strip_prefix("eip155:").and_then(|rest| rest.split_once(':')) else {
            return Err(invalid);
        };
        let digits = address.strip_prefix("0x").unwrap_or(address);
        if digits.len() != 40 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid);
        }
        if chain_id.len() > 32 || chain_id.starts_with('+') {
            return Err(invalid);
        }
        let chain_id = chain_id.parse().map_err(|_| invalid)?;
        Ok(Self { chain_id, address: address.to_ascii_lowercase() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "0xABCDEF7890abcdef1234567890abcdef12345678";

    #[test]
    fn reads_caip_10() {
        let account: AccountId = format!("eip155:8453:{ADDRESS}").parse().unwrap();
        assert_eq!(account, AccountId { chain_id: 8453, address: ADDRESS.to_lowercase() });
    }

    #[test]
    fn refuses_anything_else() {
        for text in [
            String::new(),
            ADDRESS.to_owned(),
            format!("8453:{ADDRESS}"),
            format!("solana:1:{ADDRESS}"),
            format!("eip155:+1:{ADDRESS}"),
            format!("eip155::{ADDRESS}"),
            format!("eip155:1:{ADDRESS}:x"),
            format!("eip155:1:{}", &ADDRESS[..41]),
            format!("eip155:18446744073709551616:{ADDRESS}"),
        ] {
            let error = text.parse::<AccountId>().unwrap_err();
            assert!(matches!(error, SignatureError::InvalidAccountId), "{text}");
        }
    }
}
