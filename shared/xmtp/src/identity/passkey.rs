//! Passkey (WebAuthn) signatures in identity updates.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::signature::{SignatureKind, VerifiedSignature};
use super::{MemberIdentifier, SignatureError};
use crate::proto::associations::RecoverablePasskeySignature;

/// What the authenticator signed about the page that asked. A client data without an origin is malformed.
#[derive(Deserialize)]
struct ClientData {
    #[serde(rename = "origin")]
    _origin: String,
    challenge: String,
}

/// Checks that a passkey signed `text`: its challenge is the text, and the key signed the challenge.
pub(super) fn verify_passkey(
    text: &str,
    passkey: &RecoverablePasskeySignature,
) -> Result<VerifiedSignature, SignatureError> {
    let client_data: ClientData =
        serde_json::from_slice(&passkey.client_data_json).map_err(|_| SignatureError::InvalidClientData)?;
    if client_data.challenge != BASE64_URL_SAFE_NO_PAD.encode(text) {
        return Err(SignatureError::InvalidClientData);
    }
    let key = VerifyingKey::from_sec1_bytes(&passkey.public_key).map_err(|_| SignatureError::InvalidPublicKey)?;
    let signature = Signature::from_der(&passkey.signature).map_err(|_| SignatureError::Invalid)?;
    let mut signed = passkey.authenticator_data.clone();
    signed.extend(Sha256::digest(&passkey.client_data_json));
    key.verify(&signed, &signature).map_err(|_| SignatureError::Invalid)?;
    Ok(VerifiedSignature {
        signer: MemberIdentifier::Passkey(passkey.public_key.clone()),
        kind: SignatureKind::P256,
        replay_bytes: signature.to_bytes().to_vec(),
        chain_id: None,
    })
}
