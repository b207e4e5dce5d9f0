//! Welcome pointers: one big welcome under a symmetric key (the pointee), and for each recipient a small pointer that
//! tells where it is and how to open it.

use std::fmt;

use chacha20poly1305::aead::Aead as _;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use prost::Message as _;
use zeroize::Zeroizing;

use super::{Unwrapped, Wrapped, WrapperAlgorithm, WrapperError, unwrap, wrap};
use crate::identity::InstallationId;
use crate::proto::contents::welcome_pointer::{Version, WelcomeV1Pointer};
use crate::proto::contents::{WelcomePointeeEncryptionAeadType, WelcomePointer};

/// Where a pointee is, and the key and nonces it is encrypted with (ChaCha20-Poly1305).
///
/// A pointer serves one pointee: another one under the same key and nonces would reveal both.
#[derive(Clone, PartialEq, Eq)]
pub struct Pointer {
    destination: InstallationId,
    encryption_key: Zeroizing<[u8; 32]>,
    data_nonce: [u8; 12],
    welcome_metadata_nonce: [u8; 12],
}

impl Pointer {
    /// How many random bytes [`Self::new`] takes.
    pub const RANDOM_BYTES: usize = 32 + 32 + 12 + 12;

    /// A pointer to a pointee that is to be sent, made of bytes from a cryptographic random number generator.
    #[must_use]
    pub fn new(random_bytes: &[u8; Self::RANDOM_BYTES]) -> Self {
        let (destination, rest) = random_bytes.split_first_chunk().expect("32 of 88 bytes");
        let (encryption_key, rest) = rest.split_first_chunk().expect("32 of 56 bytes");
        let (data_nonce, rest) = rest.split_first_chunk().expect("12 of 24 bytes");
        let welcome_metadata_nonce = rest.first_chunk().expect("12 of 12 bytes");
        Self {
            destination: InstallationId::new(*destination),
            encryption_key: Zeroizing::new(*encryption_key),
            data_nonce: *data_nonce,
            welcome_metadata_nonce: *welcome_metadata_nonce,
        }
    }

    /// Whose welcome the pointee pretends to be: a random topic.
    #[must_use]
    pub fn destination(&self) -> InstallationId {
        self.destination
    }

    /// Encrypts the pointee.
    #[must_use]
    pub fn seal(&self, data: &[u8], metadata: &[u8]) -> Wrapped {
        let seal = |nonce: &[u8; 12], plaintext: &[u8]| {
            self.cipher().encrypt(nonce.into(), plaintext).expect("a welcome is shorter than 256 GiB")
        };
        Wrapped { data: seal(&self.data_nonce, data), welcome_metadata: seal(&self.welcome_metadata_nonce, metadata) }
    }

    /// Decrypts the pointee. Its metadata is sealed even when it is empty.
    ///
    /// # Errors
    /// [`WrapperError::DoesNotOpen`]
    pub fn open(&self, data: &[u8], welcome_metadata: &[u8]) -> Result<Unwrapped, WrapperError> {
        let open = |nonce: &[u8; 12], ciphertext: &[u8]| {
            self.cipher().decrypt(nonce.into(), ciphertext).map_err(|_| WrapperError::DoesNotOpen)
        };
        Ok(Unwrapped {
            data: open(&self.data_nonce, data)?,
            metadata: open(&self.welcome_metadata_nonce, welcome_metadata)?,
        })
    }

    /// Encrypts the pointer itself to a recipient's X-Wing key, the only kind there is for pointers.
    ///
    /// # Errors
    /// If the recipient's key is not an X-Wing key (1216 bytes).
    pub fn wrap(&self, recipient_xwing_key: &[u8]) -> Result<Vec<u8>, WrapperError> {
        let pointer = WelcomePointer {
            version: Some(Version::WelcomeV1Pointer(WelcomeV1Pointer {
                destination: self.destination.as_bytes().to_vec(),
                aead_type: WelcomePointeeEncryptionAeadType::Chacha20Poly1305.into(),
                encryption_key: self.encryption_key.to_vec(),
                data_nonce: self.data_nonce.to_vec(),
                welcome_metadata_nonce: self.welcome_metadata_nonce.to_vec(),
            })),
        };
        let plaintext = Zeroizing::new(pointer.encode_to_vec());
        Ok(wrap(WrapperAlgorithm::XWing, recipient_xwing_key, &plaintext, b"")?.data)
    }

    /// Decrypts a pointer that [`Self::wrap`] made.
    ///
    /// # Errors
    /// If it does not open, or names another AEAD than ChaCha20-Poly1305.
    pub fn unwrap(xwing_private_key: &[u8], welcome_pointer: &[u8]) -> Result<Self, WrapperError> {
        let plaintext = Zeroizing::new(unwrap(WrapperAlgorithm::XWing, xwing_private_key, welcome_pointer, b"")?.data);
        let Ok(WelcomePointer { version: Some(Version::WelcomeV1Pointer(pointer)) }) =
            WelcomePointer::decode(plaintext.as_slice())
        else {
            return Err(WrapperError::MalformedPointer);
        };
        if pointer.aead_type() != WelcomePointeeEncryptionAeadType::Chacha20Poly1305 {
            return Err(WrapperError::MalformedPointer);
        }
        let encryption_key = Zeroizing::new(pointer.encryption_key);
        let malformed = |_| WrapperError::MalformedPointer;
        Ok(Self {
            destination: InstallationId::new(pointer.destination.as_slice().try_into().map_err(malformed)?),
            encryption_key: Zeroizing::new(encryption_key.as_slice().try_into().map_err(malformed)?),
            data_nonce: pointer.data_nonce.as_slice().try_into().map_err(malformed)?,
            welcome_metadata_nonce: pointer.welcome_metadata_nonce.as_slice().try_into().map_err(malformed)?,
        })
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(self.encryption_key.as_slice().into())
    }
}

impl fmt::Debug for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pointer(to {})", self.destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrapper::xwing_key_pair;

    fn pointer() -> Pointer {
        Pointer::new(&std::array::from_fn(|index| u8::try_from(index).unwrap()))
    }

    #[test]
    fn pointer_and_pointee_round_trip() {
        let (public, private) = xwing_key_pair(&[1; 32]);
        let wrapped = pointer().wrap(&public).unwrap();
        assert_eq!(wrapped.len(), 1240);
        let received = Pointer::unwrap(&private, &wrapped).unwrap();
        assert_eq!(received, pointer());
        let pointee = pointer().seal(b"welcome", b"metadata");
        let opened = received.open(&pointee.data, &pointee.welcome_metadata).unwrap();
        assert_eq!(opened, Unwrapped { data: b"welcome".to_vec(), metadata: b"metadata".to_vec() });
    }

    #[test]
    fn no_two_secrets_share_bytes() {
        let pointer = pointer();
        assert_eq!(pointer.destination().as_bytes()[0], 0);
        assert_eq!(pointer.encryption_key[0], 32);
        assert_eq!(pointer.data_nonce[0], 64);
        assert_eq!(pointer.welcome_metadata_nonce, std::array::from_fn(|index| 76 + u8::try_from(index).unwrap()));
    }

    #[test]
    fn strangers_open_neither() {
        let (public, _) = xwing_key_pair(&[1; 32]);
        let (_, stranger) = xwing_key_pair(&[2; 32]);
        let wrapped = pointer().wrap(&public).unwrap();
        assert_eq!(Pointer::unwrap(&stranger, &wrapped), Err(WrapperError::DoesNotOpen));
        let pointee = pointer().seal(b"welcome", b"");
        let other = Pointer::new(&[9; Pointer::RANDOM_BYTES]);
        assert_eq!(other.open(&pointee.data, &pointee.welcome_metadata), Err(WrapperError::DoesNotOpen));
    }

    #[test]
    fn a_pointees_metadata_is_sealed_even_if_empty_and_under_its_own_nonce() {
        let pointee = pointer().seal(b"same", b"same");
        assert_eq!(pointer().open(&pointee.data, b""), Err(WrapperError::DoesNotOpen));
        assert_eq!(pointer().open(&pointee.welcome_metadata, &pointee.data), Err(WrapperError::DoesNotOpen));
        let empty = pointer().seal(b"welcome", b"");
        assert_eq!(empty.welcome_metadata.len(), 16);
        assert_eq!(pointer().open(&empty.data, &empty.welcome_metadata).unwrap().metadata, b"");
    }

    #[test]
    fn pointers_are_wrapped_to_xwing_keys_only() {
        let invalid = WrapperError::InvalidPublicKey(WrapperAlgorithm::XWing);
        assert_eq!(pointer().wrap(&[1; 32]), Err(invalid));
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        let (public, private) = xwing_key_pair(&[1; 32]);
        let good = WelcomeV1Pointer {
            destination: vec![1; 32],
            aead_type: WelcomePointeeEncryptionAeadType::Chacha20Poly1305.into(),
            encryption_key: vec![2; 32],
            data_nonce: vec![3; 12],
            welcome_metadata_nonce: vec![4; 12],
        };
        let received = |version: Option<WelcomeV1Pointer>| {
            let plaintext = WelcomePointer { version: version.map(Version::WelcomeV1Pointer) }.encode_to_vec();
            let wrapped = wrap(WrapperAlgorithm::XWing, &public, &plaintext, b"").unwrap();
            Pointer::unwrap(&private, &wrapped.data)
        };
        assert!(received(Some(good.clone())).is_ok());
        for malformed in [
            None,
            Some(WelcomeV1Pointer { aead_type: 0, ..good.clone() }),
            Some(WelcomeV1Pointer { aead_type: 1, ..good.clone() }),
            Some(WelcomeV1Pointer { destination: vec![1; 31], ..good.clone() }),
            Some(WelcomeV1Pointer { encryption_key: vec![], ..good.clone() }),
            Some(WelcomeV1Pointer { data_nonce: vec![3; 24], ..good.clone() }),
            Some(WelcomeV1Pointer { welcome_metadata_nonce: vec![4; 11], ..good }),
        ] {
            assert_eq!(received(malformed), Err(WrapperError::MalformedPointer));
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", Pointer::new(&[0xee; Pointer::RANDOM_BYTES]));
        assert_eq!(shown, format!("Pointer(to {})", "ee".repeat(32)));
    }
}
