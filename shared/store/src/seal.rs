//! Seals a snapshot: compressed, cut into chunks, each encrypted under a key of this one snapshot.
//!
//! Format 1, from a data key, a random salt and a [`Label`]:
//!
//! - HKDF-SHA256 derives two values of the data key, the salt and whose state it is: the AES-256-GCM key, and a
//!   commitment. AES-GCM commits to no key by itself: the commitment tells a wrong key from an altered chunk, and leaves
//!   no second key under which a chunk opens.
//! - The sealed text is the plaintext's length (8 bytes, little-endian) and its zstd frame. Each chunk's nonce is its
//!   number: no key seals twice. Its associated data are format, label, chunk number and chunk count: no chunk opens
//!   in another place, snapshot, owner or deployment, none can be left out, and what lies beside them in the clear
//!   cannot be altered.

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

/// The format written.
pub(crate) const FORMAT: u8 = 1;
/// The most bytes of a sealed chunk; leaves room below DynamoDB's 400 KB for the item's other attributes.
pub(crate) const CHUNK_BYTES_MAX: usize = 350_000;
/// The most bytes of a snapshot in the clear.
pub(crate) const PLAIN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What AES-GCM adds to each chunk, in bytes.
const TAG_BYTES: usize = 16;
/// zstd's own default: state of MLS is mostly keys and hashes, which no level compresses.
const ZSTD_LEVEL: i32 = 3;

/// What a snapshot is bound to.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    pub(crate) deployment: String,
    pub(crate) owner: String,
    pub(crate) part: &'static str,
    pub(crate) version: u64,
    pub(crate) write_id: String,
    /// When the data key was made, in milliseconds since 1970.
    pub(crate) data_key_at_ms: u64,
    /// What lies beside the snapshot in the clear.
    pub(crate) status: String,
}

impl Label {
    /// Whose state it is.
    fn owner(&self) -> Vec<u8> {
        framed(&[self.deployment.as_bytes(), self.owner.as_bytes(), self.part.as_bytes()])
    }

    /// The associated data of a chunk.
    fn chunk(&self, number: u32, count: u32) -> Vec<u8> {
        let snapshot = framed(&[
            &self.version.to_be_bytes(),
            self.write_id.as_bytes(),
            &self.data_key_at_ms.to_be_bytes(),
            self.status.as_bytes(),
        ]);
        [&[FORMAT][..], &self.owner(), &snapshot, &number.to_be_bytes(), &count.to_be_bytes()].concat()
    }
}

/// The fields, each preceded by its length.
fn framed(fields: &[&[u8]]) -> Vec<u8> {
    fields.iter().flat_map(|field| [&(field.len() as u64).to_be_bytes(), *field].concat()).collect()
}

/// What the head item holds of the seal: format, salt, commitment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    salt: [u8; 32],
    commitment: [u8; 32],
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&[FORMAT][..], &self.salt, &self.commitment].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Broken> {
        let (format, rest) = bytes.split_first().ok_or(Broken::Tampered)?;
        if *format != FORMAT {
            return Err(Broken::UnknownFormat(*format));
        }
        let (salt, commitment) = rest.split_at_checked(32).ok_or(Broken::Tampered)?;
        let commitment = commitment.try_into().map_err(|_| Broken::Tampered)?;
        Ok(Self { salt: salt.try_into().expect("is 32 bytes long"), commitment })
    }
}

/// Why a sealed snapshot does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    UnknownFormat(u8),
    WrongKey,
    Tampered,
    TooLarge,
}

/// A sealed snapshot.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) header: Header,
    pub(crate) chunks: Vec<Vec<u8>>,
}

impl Sealed {
    /// The hash of all chunks: names the sealed bytes, and tells an incomplete read before any key is asked for.
    pub(crate) fn digest(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut digest = Sha256::new();
        chunks.iter().for_each(|chunk| digest.update(chunk));
        digest.finalize().to_vec()
    }
}

fn derive(key: &[u8; 32], salt: &[u8; 32], label: &Label) -> (Aes256Gcm, [u8; 32]) {
    let owner = label.owner();
    let hkdf = Hkdf::<Sha256>::new(Some(salt), key);
    let expand = |purpose: &[u8], into: &mut [u8; 32]| {
        hkdf.expand_multi_info(&[b"usher snapshot 1 ", purpose, b" ", &owner], into)
            .expect("32 bytes are within what HKDF can expand to");
    };
    let (mut sealing, mut commitment) = (Zeroizing::new([0; 32]), [0; 32]);
    expand(b"seal", &mut sealing);
    expand(b"commit", &mut commitment);
    (Aes256Gcm::new((&*sealing).into()), commitment)
}

fn nonce(number: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    nonce
}

/// Seals `plaintext` into chunks of at most [`CHUNK_BYTES_MAX`]. `salt` must be fresh.
pub(crate) fn seal(key: &[u8; 32], salt: [u8; 32], label: &Label, plaintext: &[u8]) -> Result<Sealed, Broken> {
    if plaintext.len() > PLAIN_BYTES_MAX {
        return Err(Broken::TooLarge);
    }
    let (cipher, commitment) = derive(key, &salt, label);
    let frame = Zeroizing::new(zstd::bulk::compress(plaintext, ZSTD_LEVEL).map_err(|_| Broken::TooLarge)?);
    let length = (plaintext.len() as u64).to_le_bytes();
    let text = Zeroizing::new([length.as_slice(), &frame].concat());
    let pieces: Vec<_> = text.chunks(CHUNK_BYTES_MAX - TAG_BYTES).collect();
    let count = u32::try_from(pieces.len()).map_err(|_| Broken::TooLarge)?;
    let chunks = (0..count).zip(pieces).map(|(number, piece)| {
        let payload = Payload { msg: piece, aad: &label.chunk(number, count) };
        cipher.encrypt(Nonce::from_slice(&nonce(number)), payload).map_err(|_| Broken::TooLarge)
    });
    Ok(Sealed { chunks: chunks.collect::<Result<_, _>>()?, header: Header { salt, commitment } })
}

/// Opens what [`seal`] made of the same key and label.
pub(crate) fn open(
    key: &[u8; 32],
    label: &Label,
    header: &Header,
    chunks: &[Vec<u8>],
) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let (cipher, commitment) = derive(key, &header.salt, label);
    if commitment != header.commitment {
        return Err(Broken::WrongKey);
    }
    let count = u32::try_from(chunks.len()).map_err(|_| Broken::TooLarge)?;
    // Of full size from the start: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(chunks.iter().map(Vec::len).sum()));
    for (number, chunk) in (0..count).zip(chunks) {
        let payload = Payload { msg: chunk, aad: &label.chunk(number, count) };
        let mut piece = cipher.decrypt(Nonce::from_slice(&nonce(number)), payload).map_err(|_| Broken::Tampered)?;
        text.extend_from_slice(&piece);
        piece.zeroize();
    }
    let (length, frame) = text.split_first_chunk::<8>().ok_or(Broken::Tampered)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| Broken::TooLarge)?;
    if length > PLAIN_BYTES_MAX {
        return Err(Broken::TooLarge);
    }
    let mut plaintext = Zeroizing::new(vec![0; length]);
    let written = zstd::bulk::decompress_to_buffer(frame, plaintext.as_mut_slice()).map_err(|_| Broken::Tampered)?;
    if written == length { Ok(plaintext) } else { Err(Broken::Tampered) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn any_label() -> Label {
        Label {
            deployment: "d".into(),
            owner: "o".into(),
            part: "state",
            version: 1,
            write_id: "w".into(),
            data_key_at_ms: 7,
            status: String::new(),
        }
    }

    #[test]
    fn a_chunk_is_bound_to_every_field_of_its_label_and_its_place() {
        let label = |deployment: &str, owner: &str, version, write_id: &str| Label {
            deployment: deployment.into(),
            owner: owner.into(),
            version,
            write_id: write_id.into(),
            ..any_label()
        };
        let bound = [
            label("d", "o", 1, "w").chunk(0, 2),
            label("d", "o", 1, "w").chunk(0, 1),
            label("d", "o", 1, "w").chunk(1, 2),
            label("e", "o", 1, "w").chunk(0, 2),
            label("d", "p", 1, "w").chunk(0, 2),
            label("d", "o", 2, "w").chunk(0, 2),
            label("d", "o", 1, "x").chunk(0, 2),
            label("do", "", 1, "w").chunk(0, 2),
            Label { part: "other", ..label("d", "o", 1, "w") }.chunk(0, 2),
            Label { data_key_at_ms: 8, ..label("d", "o", 1, "w") }.chunk(0, 2),
            Label { status: "lost".into(), ..label("d", "o", 1, "w") }.chunk(0, 2),
        ];
        assert_eq!(bound.iter().collect::<BTreeSet<_>>().len(), bound.len());
    }

    #[test]
    fn a_frame_longer_than_it_claims_is_refused() {
        let (key, label) = ([1; 32], any_label());
        let sealed = seal(&key, [2; 32], &label, &[7; 100]).unwrap();
        assert_eq!(*open(&key, &label, &sealed.header, &sealed.chunks).unwrap(), [7; 100]);
        // Somebody with the key seals a frame of 100 bytes under another length.
        for (length, refusal) in [(99_u64, Broken::Tampered), (101, Broken::Tampered), (u64::MAX, Broken::TooLarge)] {
            let (cipher, _) = derive(&key, &sealed.header.salt, &label);
            let frame = zstd::bulk::compress(&[7; 100], ZSTD_LEVEL).unwrap();
            let text = [length.to_le_bytes().as_slice(), &frame].concat();
            let payload = Payload { msg: &text, aad: &label.chunk(0, 1) };
            let chunk = cipher.encrypt(Nonce::from_slice(&nonce(0)), payload).unwrap();
            assert_eq!(open(&key, &label, &sealed.header, &[chunk]).unwrap_err(), refusal, "{length}");
        }
    }
}
