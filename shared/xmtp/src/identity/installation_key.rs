//! The key pair of an installation.

use std::fmt;

use ed25519_dalek::{Digest, Sha512, Signature, SignatureError, SigningKey, VerifyingKey};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::types::SignatureScheme;
use zeroize::Zeroizing;

use super::InstallationId;
use crate::proto::associations::{self as proto, signature::Signature as Kind};

/// Domain separation of an installation's signatures in identity updates (RFC 8032 context of Ed25519ph).
const IDENTITY_UPDATE_CONTEXT: &[u8] = b"IDENTITY UPDATE SIGNATURE";

/// The Ed25519 key pair of an installation. It signs identity updates (Ed25519ph) and MLS messages (plain Ed25519).
///
/// The seed is wiped from memory when the key is dropped, and never printed.
#[derive(Clone)]
pub struct InstallationKey(SigningKey);

impl InstallationKey {
    /// A new key from 32 bytes of a cryptographic random number generator.
    #[must_use]
    pub fn generate(random_bytes: Zeroizing<[u8; 32]>) -> Self {
        Self::from_seed(&random_bytes)
    }

    /// The key with this RFC 8032 private key (seed).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The RFC 8032 private key, to be stored sealed.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The installation this is the key of.
    #[must_use]
    pub fn public(&self) -> InstallationId {
        InstallationId::new(self.0.verifying_key().to_bytes())
    }

    /// The same key in the shape openmls signs with.
    #[must_use]
    pub fn mls_signer(&self) -> SignatureKeyPair {
        let public = self.public().as_bytes().to_vec();
        SignatureKeyPair::from_raw(SignatureScheme::ED25519, self.0.to_bytes().to_vec(), public)
    }

    /// Signs the text of an identity update.
    #[must_use]
    pub fn sign_identity_update(&self, text: &str) -> proto::Signature {
        let signature = self
            .0
            .sign_prehashed(Sha512::new_with_prefix(text), Some(IDENTITY_UPDATE_CONTEXT))
            .expect("the context is shorter than 256 bytes");
        proto::Signature {
            signature: Some(Kind::InstallationKey(proto::RecoverableEd25519Signature {
                bytes: signature.to_bytes().to_vec(),
                public_key: self.public().as_bytes().to_vec(),
            })),
        }
    }
}

/// Checks an installation's signature of an identity update's text.
pub(super) fn verify_identity_update(
    text: &str,
    public_key: &VerifyingKey,
    signature: &[u8; 64],
) -> Result<(), SignatureError> {
    let signature = Signature::from_bytes(signature);
    public_key.verify_prehashed(Sha512::new_with_prefix(text), Some(IDENTITY_UPDATE_CONTEXT), &signature)
}

impl fmt::Debug for InstallationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstallationKey(of {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use openmls_traits::signatures::Signer as _;

    use super::*;

    fn signature_of(key: &InstallationKey, text: &str) -> [u8; 64] {
        match key.sign_identity_update(text).signature {
            Some(Kind::InstallationKey(signature)) => signature.bytes.try_into().unwrap(),
            other => panic!("not an installation's signature: {other:?}"),
        }
    }

    #[test]
    fn signs_as_libxmtp_signs() {
        let key = InstallationKey::from_seed(&[0x77; 32]);
        assert_eq!(key.public().to_string(), "c853ad0f0cd2b619aea92ceec4fd56a24d6499d584ce79257e45cfd8139b60a7");
        assert_eq!(
            hex::encode(signature_of(&key, "hello-world")),
            "a52d45a2288e89acc026e62beee33e4cb2a720f1c7a535497d3a1af7015950ec\
             188abb93886a5bd716bb585b94127f41f006c20f4e27e32c7268122a9e497308"
        );
    }

    #[test]
    fn verifies_its_own_signature_over_that_text_alone() {
        let key = InstallationKey::from_seed(&[1; 32]);
        let public = VerifyingKey::from_bytes(key.public().as_bytes()).unwrap();
        let signature = signature_of(&key, "text");
        assert!(verify_identity_update("text", &public, &signature).is_ok());
        assert!(verify_identity_update("text ", &public, &signature).is_err());
    }

    #[test]
    fn plain_ed25519_is_not_an_identity_signature() {
        let key = InstallationKey::from_seed(&[1; 32]);
        let plain = key.mls_signer().sign(b"text").unwrap();
        let public = VerifyingKey::from_bytes(key.public().as_bytes()).unwrap();
        assert!(public.verify_strict(b"text", &Signature::from_slice(&plain).unwrap()).is_ok());
        assert!(verify_identity_update("text", &public, &plain.try_into().unwrap()).is_err());
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        let key = InstallationKey::from_seed(&[0x77; 32]);
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.public().to_string()));
        assert!(!shown.contains("7777"));
        assert!(!shown.contains("119"), "the seed's bytes in decimal");
    }

    #[test]
    fn the_seed_restores_the_key() {
        let key = InstallationKey::generate(Zeroizing::new([9; 32]));
        assert_eq!(InstallationKey::from_seed(&key.seed()).public(), key.public());
    }
}
