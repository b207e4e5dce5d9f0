//! The outer encryption of welcomes (HPKE, RFC 9180), which hides the MLS Welcome and the group from the node.

use hpke_rs::hpke_types::{AeadAlgorithm, KdfAlgorithm, KemAlgorithm};
use hpke_rs::{Hpke, HpkeError, HpkePrivateKey, HpkePublicKey, Mode};
use hpke_rs_rust_crypto::HpkeRustCrypto;
use openmls_traits::types::HpkeCiphertext;
use tls_codec::{Deserialize as _, Serialize as _};
use zeroize::Zeroizing;

use crate::proto::contents::WelcomeWrapperAlgorithm;

mod pointer;

pub use pointer::Pointer;

/// RFC 9420's EncryptContext with the label `MLS 1.0 MLS_WELCOME` and an empty context: two opaque vectors.
const INFO: &[u8; 21] = b"\x13MLS 1.0 MLS_WELCOME\x00";

/// How a welcome is wrapped for its recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrapperAlgorithm {
    /// DHKEM(X25519), to the init key of the recipient's key package.
    Curve25519,
    /// X-Wing (X25519 and ML-KEM-768), to the key in the key package's wrapper extension (0xff03).
    XWing,
}

/// A wrapped welcome, as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// The encrypted MLS Welcome.
    pub data: Vec<u8>,
    /// The encrypted `WelcomeMetadata`; a sender may leave it out.
    pub welcome_metadata: Vec<u8>,
}

/// What was in a wrapped welcome.
#[derive(Clone, PartialEq, Eq)]
pub struct Unwrapped {
    /// The MLS Welcome, as a TLS-serialized MLSMessage.
    pub data: Vec<u8>,
    /// The serialized `WelcomeMetadata`, empty if there is none.
    pub metadata: Vec<u8>,
}

/// Why a welcome cannot be wrapped or unwrapped.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WrapperError {
    /// The recipient's public key is not one of the algorithm.
    #[error("the recipient's key is no key of {0:?}")]
    InvalidPublicKey(WrapperAlgorithm),
    /// The ciphertext is not framed as TLS `HPKECiphertext`.
    #[error("the welcome is no HPKE ciphertext")]
    Malformed(#[source] tls_codec::Error),
    /// The ciphertext does not open with this key, or its two halves do not belong together.
    #[error("the welcome does not open with this key")]
    DoesNotOpen,
    /// A decrypted welcome pointer is not one.
    #[error("the decrypted welcome pointer is malformed")]
    MalformedPointer,
}

/// Encrypts a Welcome and its metadata to a recipient's public key (32 bytes for Curve25519, 1216 for X-Wing).
///
/// Both are sealed by one HPKE context, one after the other: recipients open them so.
///
/// # Errors
/// If `recipient_public_key` is not a key of `algorithm`.
pub fn wrap(
    algorithm: WrapperAlgorithm,
    recipient_public_key: &[u8],
    data: &[u8],
    metadata: &[u8],
) -> Result<Wrapped, WrapperError> {
    // An HPKE context seals 2^96 messages: after the set-up, only the key can have been wrong.
    let invalid = |_: HpkeError| WrapperError::InvalidPublicKey(algorithm);
    let key = HpkePublicKey::new(recipient_public_key.to_vec());
    let (kem_output, mut context) = algorithm.hpke().setup_sender(&key, INFO, None, None, None).map_err(invalid)?;
    let ciphertext = context.seal(b"", data).map_err(invalid)?;
    let welcome_metadata = context.seal(b"", metadata).map_err(invalid)?;
    let data = HpkeCiphertext { kem_output: kem_output.into(), ciphertext: ciphertext.into() };
    let data = data.tls_serialize_detached().expect("a welcome is shorter than 2^30 bytes");
    Ok(Wrapped { data, welcome_metadata })
}

/// Decrypts what [`wrap`] made. Empty metadata is tolerated, metadata of another welcome is not.
///
/// # Errors
/// If `data` is no HPKE ciphertext, or one of the two does not open.
pub fn unwrap(
    algorithm: WrapperAlgorithm,
    private_key: &[u8],
    data: &[u8],
    welcome_metadata: &[u8],
) -> Result<Unwrapped, WrapperError> {
    let does_not_open = |_: HpkeError| WrapperError::DoesNotOpen;
    // Not `tls_deserialize_exact_bytes`, which panics in debug builds when bytes are missing.
    let framed = HpkeCiphertext::tls_deserialize_exact(data).map_err(WrapperError::Malformed)?;
    let key = HpkePrivateKey::new(private_key.to_vec());
    let mut context = algorithm
        .hpke()
        .setup_receiver(framed.kem_output.as_slice(), &key, INFO, None, None, None)
        .map_err(does_not_open)?;
    let data = context.open(b"", framed.ciphertext.as_slice()).map_err(does_not_open)?;
    let metadata = match welcome_metadata {
        [] => Vec::new(),
        sealed => context.open(b"", sealed).map_err(does_not_open)?,
    };
    Ok(Unwrapped { data, metadata })
}

/// Makes an X-Wing key pair of 32 random bytes: the public key (1216 bytes) and the private key (32 bytes).
#[must_use]
pub fn xwing_key_pair(random_bytes: &[u8; 32]) -> (Vec<u8>, Zeroizing<Vec<u8>>) {
    let pair = WrapperAlgorithm::XWing.hpke().derive_key_pair(random_bytes).expect("any 32 bytes are key material");
    let (private, public) = pair.into_keys();
    (public.as_slice().to_vec(), Zeroizing::new(private.as_slice().to_vec()))
}

impl WrapperAlgorithm {
    fn hpke(self) -> Hpke<HpkeRustCrypto> {
        let kem = match self {
            Self::Curve25519 => KemAlgorithm::DhKem25519,
            // XMTP puts 0x004D into the HPKE suite id, the code point of X-Wing before it was assigned 0x647a.
            #[expect(deprecated, reason = "XMTP's clients use the former code point")]
            Self::XWing => KemAlgorithm::XWingDraft06Obsolete,
        };
        Hpke::new(Mode::Base, kem, KdfAlgorithm::HkdfSha256, AeadAlgorithm::ChaCha20Poly1305)
    }
}

impl From<WrapperAlgorithm> for WelcomeWrapperAlgorithm {
    fn from(algorithm: WrapperAlgorithm) -> Self {
        match algorithm {
            WrapperAlgorithm::Curve25519 => Self::Curve25519,
            WrapperAlgorithm::XWing => Self::XwingMlkem768Draft6,
        }
    }
}

/// A symmetric key wraps pointees only, see [`Pointer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the welcome is wrapped with a symmetric key, not for a recipient")]
pub struct NotForRecipient;

impl TryFrom<WelcomeWrapperAlgorithm> for WrapperAlgorithm {
    type Error = NotForRecipient;

    /// An unspecified algorithm is Curve25519, the only one there was before the field.
    fn try_from(algorithm: WelcomeWrapperAlgorithm) -> Result<Self, Self::Error> {
        match algorithm {
            WelcomeWrapperAlgorithm::Unspecified | WelcomeWrapperAlgorithm::Curve25519 => Ok(Self::Curve25519),
            WelcomeWrapperAlgorithm::XwingMlkem768Draft6 => Ok(Self::XWing),
            WelcomeWrapperAlgorithm::SymmetricKey => Err(NotForRecipient),
        }
    }
}

impl std::fmt::Debug for Unwrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unwrapped({} bytes, metadata {} bytes)", self.data.len(), self.metadata.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [WrapperAlgorithm; 2] = [WrapperAlgorithm::Curve25519, WrapperAlgorithm::XWing];

    fn key_pair(algorithm: WrapperAlgorithm, seed: u8) -> (Vec<u8>, Vec<u8>) {
        let (private, public) = algorithm.hpke().derive_key_pair(&[seed; 32]).unwrap().into_keys();
        (public.as_slice().to_vec(), private.as_slice().to_vec())
    }

    fn opened(algorithm: WrapperAlgorithm, private: &[u8], wrapped: &Wrapped) -> Result<Unwrapped, WrapperError> {
        unwrap(algorithm, private, &wrapped.data, &wrapped.welcome_metadata)
    }

    #[test]
    fn what_is_wrapped_unwraps() {
        for algorithm in BOTH {
            let (public, private) = key_pair(algorithm, 1);
            for metadata in [b"".as_slice(), b"\x08\x01"] {
                let wrapped = wrap(algorithm, &public, b"welcome", metadata).unwrap();
                let unwrapped = opened(algorithm, &private, &wrapped).unwrap();
                assert_eq!(unwrapped, Unwrapped { data: b"welcome".to_vec(), metadata: metadata.to_vec() });
            }
        }
    }

    #[test]
    fn only_the_recipients_key_opens_it() {
        for algorithm in BOTH {
            let (public, _) = key_pair(algorithm, 1);
            let (_, stranger) = key_pair(algorithm, 2);
            let wrapped = wrap(algorithm, &public, b"welcome", b"").unwrap();
            assert_eq!(opened(algorithm, &stranger, &wrapped), Err(WrapperError::DoesNotOpen));
        }
    }

    #[test]
    fn metadata_belongs_to_its_welcome() {
        for algorithm in BOTH {
            let (public, private) = key_pair(algorithm, 1);
            let mut wrapped = wrap(algorithm, &public, b"welcome", b"metadata").unwrap();
            wrapped.welcome_metadata = wrap(algorithm, &public, b"welcome", b"metadata").unwrap().welcome_metadata;
            assert_eq!(opened(algorithm, &private, &wrapped), Err(WrapperError::DoesNotOpen));
        }
    }

    #[test]
    fn a_sender_may_leave_the_metadata_out() {
        let (public, private) = key_pair(WrapperAlgorithm::Curve25519, 1);
        let wrapped = wrap(WrapperAlgorithm::Curve25519, &public, b"welcome", b"metadata").unwrap();
        let unwrapped = unwrap(WrapperAlgorithm::Curve25519, &private, &wrapped.data, b"").unwrap();
        assert_eq!(unwrapped, Unwrapped { data: b"welcome".to_vec(), metadata: Vec::new() });
    }

    #[test]
    fn the_framing_is_that_of_tls() {
        const TAG: usize = 16;
        let (public, _) = key_pair(WrapperAlgorithm::Curve25519, 1);
        let wrapped = wrap(WrapperAlgorithm::Curve25519, &public, &[0; 10], b"").unwrap();
        assert_eq!(wrapped.data[0], 32);
        assert_eq!(usize::from(wrapped.data[33]), 10 + TAG);
        assert_eq!(wrapped.data.len(), 1 + 32 + 1 + 10 + TAG);
        assert_eq!(wrapped.welcome_metadata.len(), TAG, "no key, no length");

        let (public, private) = xwing_key_pair(&[1; 32]);
        assert_eq!((public.len(), private.len()), (1216, 32));
        let wrapped = wrap(WrapperAlgorithm::XWing, &public, &[0; 100], b"\x08\x01").unwrap();
        assert_eq!(wrapped.data[..2], [0x44, 0x60]);
        assert_eq!(wrapped.data[1122..1124], [0x40, 116]);
        assert_eq!(wrapped.data.len(), 2 + 1120 + 2 + 100 + TAG);
        assert_eq!(wrapped.welcome_metadata.len(), 2 + TAG);
    }

    #[test]
    fn the_first_seal_is_rfc_9420s_encrypt_with_label() {
        use openmls_traits::OpenMlsProvider as _;
        use openmls_traits::crypto::OpenMlsCrypto as _;
        use openmls_traits::types::Ciphersuite;

        let suite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
        let info = [b"\x13".as_slice(), b"MLS 1.0 MLS_WELCOME", b"\x00"].concat();
        let (public, private) = key_pair(WrapperAlgorithm::Curve25519, 1);
        let wrapped = wrap(WrapperAlgorithm::Curve25519, &public, b"welcome", b"").unwrap();
        let framed = HpkeCiphertext::tls_deserialize_exact(&wrapped.data).unwrap();
        let provider = openmls_rust_crypto::OpenMlsRustCrypto::default();
        let opened = provider.crypto().hpke_open(suite.hpke_config(), &framed, &private, &info, b"").unwrap();
        assert_eq!(opened, b"welcome");
    }

    #[test]
    fn xwing_keeps_xmtps_code_point() {
        let (public, private) = xwing_key_pair(&[1; 32]);
        let wrapped = wrap(WrapperAlgorithm::XWing, &public, b"welcome", b"").unwrap();
        let framed = HpkeCiphertext::tls_deserialize_exact(&wrapped.data).unwrap();
        let open_as = |kem: u16| {
            let kem = KemAlgorithm::try_from(kem).unwrap();
            let hpke: Hpke<HpkeRustCrypto> =
                Hpke::new(Mode::Base, kem, KdfAlgorithm::HkdfSha256, AeadAlgorithm::ChaCha20Poly1305);
            let key = HpkePrivateKey::new(private.to_vec());
            let (kem_output, ciphertext) = (framed.kem_output.as_slice(), framed.ciphertext.as_slice());
            hpke.open(kem_output, &key, INFO, b"", ciphertext, None, None, None)
        };
        assert_eq!(open_as(0x004D).unwrap(), b"welcome");
        assert!(open_as(0x647a).is_err());
    }

    #[test]
    fn junk_is_refused() {
        for algorithm in BOTH {
            let (public, private) = key_pair(algorithm, 1);
            assert_eq!(wrap(algorithm, &public[1..], b"", b""), Err(WrapperError::InvalidPublicKey(algorithm)));
            assert!(matches!(unwrap(algorithm, &private, b"junk", b""), Err(WrapperError::Malformed(_))));
            let mut wrapped = wrap(algorithm, &public, b"welcome", b"").unwrap();
            wrapped.data.push(0);
            assert!(matches!(opened(algorithm, &private, &wrapped), Err(WrapperError::Malformed(_))), "trailing bytes");
            assert_eq!(unwrap(algorithm, &private, &[0, 0], b""), Err(WrapperError::DoesNotOpen));
        }
        let (public, _) = key_pair(WrapperAlgorithm::Curve25519, 1);
        let wrapped = wrap(WrapperAlgorithm::Curve25519, &public, b"welcome", b"").unwrap();
        assert_eq!(opened(WrapperAlgorithm::Curve25519, b"short", &wrapped), Err(WrapperError::DoesNotOpen));
    }

    #[test]
    fn the_wire_names_round_trip() {
        for algorithm in BOTH {
            assert_eq!(WelcomeWrapperAlgorithm::from(algorithm).try_into(), Ok(algorithm));
        }
        assert_eq!(WelcomeWrapperAlgorithm::Unspecified.try_into(), Ok(WrapperAlgorithm::Curve25519));
        assert_eq!(WrapperAlgorithm::try_from(WelcomeWrapperAlgorithm::SymmetricKey), Err(NotForRecipient));
    }

    #[test]
    fn debug_shows_no_plaintext() {
        let unwrapped = Unwrapped { data: vec![111; 4], metadata: Vec::new() };
        assert_eq!(format!("{unwrapped:?}"), "Unwrapped(4 bytes, metadata 0 bytes)");
    }
}
