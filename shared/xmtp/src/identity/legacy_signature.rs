//! Signatures by an XMTP V2 identity key, which a wallet once made its delegate. Only met in logs of inboxes created
//! with nonce 0.

use alloy_primitives::Address;
use k256::ecdsa::VerifyingKey;
use prost::Message as _;

use super::signature::{SignatureKind, VerifiedSignature, verify_ecdsa};
use super::{MemberIdentifier, SignatureError};
use crate::proto::associations::legacy_key_signature::Union as SignatureUnion;
use crate::proto::associations::legacy_unsigned_public_key::Union as KeyUnion;
use crate::proto::associations::{LegacySignedPublicKey, LegacyUnsignedPublicKey};

/// Checks that `key` signed `text` and that a wallet had made `key` its delegate; that wallet is the signer.
///
/// The wallet's signature is what counts as seen, so that one delegation serves only once.
pub(super) fn verify_legacy(
    text: &str,
    signature: &[u8],
    key: &LegacySignedPublicKey,
) -> Result<VerifiedSignature, SignatureError> {
    let delegate = verify_ecdsa(text, signature)?.signer;
    let wallet = verify_ecdsa(&delegation_text(&key.key_bytes), &delegation_signature(key)?)?;
    if delegate != delegate_address(&key.key_bytes)? {
        return Err(SignatureError::Invalid);
    }
    Ok(VerifiedSignature { kind: SignatureKind::LegacyDelegated, ..wallet })
}

/// What the wallet signed to make the key its delegate.
pub(super) fn delegation_text(key_bytes: &[u8]) -> String {
    format!("XMTP : Create Identity\n{}\n\nFor more info: https://xmtp.org/signatures/", hex::encode(key_bytes))
}

fn delegation_signature(key: &LegacySignedPublicKey) -> Result<Vec<u8>, SignatureError> {
    let union = key.signature.as_ref().and_then(|signature| signature.union.as_ref());
    let (SignatureUnion::EcdsaCompact(compact) | SignatureUnion::WalletEcdsaCompact(compact)) =
        union.ok_or(SignatureError::Invalid)?;
    let recovery = u8::try_from(compact.recovery).map_err(|_| SignatureError::Invalid)?;
    Ok([compact.bytes.as_slice(), &[recovery]].concat())
}

fn delegate_address(key_bytes: &[u8]) -> Result<MemberIdentifier, SignatureError> {
    let key = LegacyUnsignedPublicKey::decode(key_bytes).map_err(|_| SignatureError::Invalid)?;
    let KeyUnion::Secp256k1Uncompressed(point) = key.union.ok_or(SignatureError::Invalid)?;
    let key = VerifyingKey::from_sec1_bytes(&point.bytes).map_err(|_| SignatureError::Invalid)?;
    Ok(Address::from_public_key(&key).into())
}
