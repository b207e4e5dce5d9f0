//! Checking one signature of an identity update: who signed, and with what.

use std::fmt;

use alloy_primitives::{Signature as EcdsaSignature, eip191_hash_message};
use ed25519_dalek::VerifyingKey;

use super::installation_key::verify_identity_update;
use super::legacy_signature::verify_legacy;
use super::passkey::verify_passkey;
use super::{AccountId, AssociationError, MemberIdentifier, MemberKind, SignatureError, SmartWalletVerifier};
use crate::proto::associations::{self as proto, signature::Signature as Kind};

/// How a member signed; displayed as in the texts of [`AssociationError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureKind {
    Erc191,
    Erc1271,
    InstallationKey,
    LegacyDelegated,
    P256,
}

/// A signature that holds.
#[derive(Debug, Clone)]
pub(super) struct VerifiedSignature {
    pub(super) signer: MemberIdentifier,
    pub(super) kind: SignatureKind,
    /// What a later update may not contain again.
    pub(super) replay_bytes: Vec<u8>,
    /// The EIP-155 chain of a smart-contract wallet.
    pub(super) chain_id: Option<u64>,
}

impl VerifiedSignature {
    pub(super) fn is_legacy(&self) -> bool {
        self.kind == SignatureKind::LegacyDelegated
    }
}

impl SignatureKind {
    /// Whether this kind of signature may stand for that kind of member.
    pub(super) fn fits(self, role: MemberKind) -> Result<(), AssociationError> {
        let fits = match role {
            MemberKind::Ethereum => matches!(self, Self::Erc191 | Self::Erc1271 | Self::LegacyDelegated),
            MemberKind::Installation => self == Self::InstallationKey,
            MemberKind::Passkey => self == Self::P256,
        };
        if fits { Ok(()) } else { Err(AssociationError::SignatureNotAllowed(role.to_string(), self.to_string())) }
    }
}

/// Finds out who signed `text`.
pub(super) async fn verify(
    signature: Option<&proto::Signature>,
    text: &str,
    wallets: &dyn SmartWalletVerifier,
) -> Result<VerifiedSignature, AssociationError> {
    let signature = signature.ok_or(AssociationError::missing("signature", "Signature"))?;
    let kind = signature.signature.as_ref().ok_or(AssociationError::missing("signature", "signature::Signature"))?;
    Ok(match kind {
        Kind::Erc191(ecdsa) => verify_ecdsa(text, &ecdsa.bytes)?,
        Kind::Erc6492(wallet) => verify_smart_wallet(text, wallet, wallets).await?,
        Kind::InstallationKey(ed25519) => verify_installation(text, ed25519)?,
        Kind::DelegatedErc191(legacy) => {
            let ecdsa = legacy.signature.as_ref();
            let ecdsa = ecdsa.ok_or(AssociationError::missing("signature", "RecoverableEcdsaSignature"))?;
            let key = legacy.delegated_key.as_ref();
            let key = key.ok_or(AssociationError::missing("delegated_key", "SignedPublicKey"))?;
            verify_legacy(text, &ecdsa.bytes, key)?
        }
        Kind::Passkey(passkey) => verify_passkey(text, passkey)?,
    })
}

/// Recovers the wallet of an EIP-191 signature (`r`, `s`, `v`).
///
/// A high `s` is lowered and `v` left as it is, as every other reader of the log does: so a signature with a high `s`
/// is somebody else's.
pub(super) fn verify_ecdsa(text: &str, bytes: &[u8]) -> Result<VerifiedSignature, SignatureError> {
    let invalid = |_| SignatureError::Invalid;
    let signature = EcdsaSignature::from_raw(bytes).map_err(invalid)?;
    signature.to_k256().map_err(|_| SignatureError::Invalid)?;
    let lowered = signature.normalized_s().with_parity(signature.v());
    let address = lowered.recover_address_from_msg(text).map_err(invalid)?;
    let mut replay_bytes = lowered.as_bytes();
    replay_bytes[64] = bytes[64];
    Ok(VerifiedSignature {
        signer: address.into(),
        kind: SignatureKind::Erc191,
        replay_bytes: replay_bytes.to_vec(),
        chain_id: None,
    })
}

fn verify_installation(
    text: &str,
    signature: &proto::RecoverableEd25519Signature,
) -> Result<VerifiedSignature, SignatureError> {
    let key = VerifyingKey::try_from(signature.public_key.as_slice()).map_err(SignatureError::Ed25519)?;
    let bytes = signature.bytes.as_slice().try_into().map_err(|_| SignatureError::Invalid)?;
    verify_identity_update(text, &key, bytes).map_err(SignatureError::Ed25519)?;
    Ok(VerifiedSignature {
        signer: MemberIdentifier::Installation(signature.public_key.clone()),
        kind: SignatureKind::InstallationKey,
        replay_bytes: signature.bytes.clone(),
        chain_id: None,
    })
}

async fn verify_smart_wallet(
    text: &str,
    signature: &proto::SmartContractWalletSignature,
    wallets: &dyn SmartWalletVerifier,
) -> Result<VerifiedSignature, SignatureError> {
    let account: AccountId = signature.account_id.parse()?;
    let hash = eip191_hash_message(text).0;
    let valid = wallets.verify(&signature.account_id, Some(signature.block_number), hash, &signature.signature).await?;
    if !valid {
        return Err(SignatureError::Invalid);
    }
    Ok(VerifiedSignature {
        signer: MemberIdentifier::Ethereum(account.address),
        kind: SignatureKind::Erc1271,
        replay_bytes: signature.signature.clone(),
        chain_id: Some(account.chain_id),
    })
}

impl fmt::Display for SignatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Erc191 => "erc-191",
            Self::Erc1271 => "erc-1271",
            Self::InstallationKey => "installation-key",
            Self::LegacyDelegated => "legacy-delegated",
            Self::P256 => "p256",
        })
    }
}
