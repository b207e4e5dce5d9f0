//! Message contents: what MLS carries as application data.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};

use flate2::read::{GzDecoder, ZlibDecoder};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::proto::contents::plaintext_envelope::{Content as Version, V1};
use crate::proto::contents::{Compression, ContentTypeId, EncodedContent, LeaveRequest, PlaintextEnvelope};

/// Who defines XMTP's own content types.
const AUTHORITY: &str = "xmtp.org";
const TEXT: &str = "text";
const LEAVE_REQUEST: &str = "leave_request";

/// Content that decompresses to more is not read.
const DECOMPRESSED_MAX: u64 = 1 << 20;

/// A message to be encrypted for a group.
#[derive(Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The MLS application data.
    pub plaintext: Vec<u8>,
    /// Whether the members' devices should be woken up.
    pub should_push: bool,
}

/// What a message says. Its `Debug` form keeps that to itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// The sender asks to be removed from the group.
    LeaveRequest {
        /// What XMTP calls the authenticated note.
        note: Option<Vec<u8>>,
    },
    /// A type that this crate does not read, or content that is not what its type says.
    Other {
        /// Who defines the type; empty if the message does not name one.
        authority_id: String,
        /// The type.
        type_id: String,
    },
    /// A message between the installations of one inbox, which is no chat.
    Ignored,
}

/// The application data is not an XMTP message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ContentError {
    /// It is no `PlaintextEnvelope`.
    #[error("the message is no plaintext envelope")]
    Malformed(#[from] prost::DecodeError),
    /// It is an envelope of a version this crate does not know, or of none.
    #[error("the message's envelope is empty")]
    Empty,
}

/// A text message. Sending the same text with the same `idempotency_key` again makes the same message.
#[must_use]
pub fn encode_text(text: &str, idempotency_key: &str) -> Outgoing {
    let parameters = BTreeMap::from([("encoding".to_owned(), "UTF-8".to_owned())]);
    let content = EncodedContent { parameters, content: text.as_bytes().to_vec(), ..of_type(TEXT) };
    Outgoing { plaintext: envelope(&content, idempotency_key), should_push: true }
}

/// The request to be removed from the group.
#[must_use]
pub fn encode_leave_request(idempotency_key: &str) -> Outgoing {
    let request = LeaveRequest { authenticated_note: None };
    let content = EncodedContent { content: request.encode_to_vec(), ..of_type(LEAVE_REQUEST) };
    Outgoing { plaintext: envelope(&content, idempotency_key), should_push: false }
}

/// Reads a message. Content that cannot be read is [`Content::Other`], as for XMTP's clients.
///
/// # Errors
/// If the application data is no envelope.
pub fn decode(plaintext: &[u8]) -> Result<Content, ContentError> {
    match PlaintextEnvelope::decode(plaintext)?.content.ok_or(ContentError::Empty)? {
        Version::V1(v1) => Ok(read(&v1.content)),
        Version::V2(_) => Ok(Content::Ignored),
    }
}

/// The id by which clients know a message: SHA-256 of the group id, the idempotency key and the encoded content.
#[must_use]
pub fn message_id(group_id: &[u8], idempotency_key: &str, content: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(group_id)
        .chain_update("\t")
        .chain_update(idempotency_key)
        .chain_update("\t")
        .chain_update(content)
        .finalize()
        .into()
}

/// Version 1.0 of one of XMTP's own types, without content.
fn of_type(type_id: &str) -> EncodedContent {
    let content_type = ContentTypeId {
        authority_id: AUTHORITY.to_owned(),
        type_id: type_id.to_owned(),
        version_major: 1,
        version_minor: 0,
    };
    EncodedContent { r#type: Some(content_type), ..Default::default() }
}

fn envelope(content: &EncodedContent, idempotency_key: &str) -> Vec<u8> {
    let v1 = V1 { content: content.encode_to_vec(), idempotency_key: idempotency_key.to_owned() };
    PlaintextEnvelope { content: Some(Version::V1(v1)) }.encode_to_vec()
}

fn read(encoded: &[u8]) -> Content {
    let encoded = EncodedContent::decode(encoded).unwrap_or_default();
    let content = match encoded.r#type.as_ref().map(|id| (id.authority_id.as_str(), id.type_id.as_str())) {
        Some((AUTHORITY, TEXT)) => read_text(&encoded),
        Some((AUTHORITY, LEAVE_REQUEST)) => read_leave_request(&encoded),
        Some(_) | None => None,
    };
    content.unwrap_or_else(|| {
        let ContentTypeId { authority_id, type_id, .. } = encoded.r#type.unwrap_or_default();
        Content::Other { authority_id, type_id }
    })
}

fn read_text(encoded: &EncodedContent) -> Option<Content> {
    if encoded.parameters.get("encoding").is_some_and(|encoding| encoding != "UTF-8") {
        return None;
    }
    String::from_utf8(decompressed(encoded).ok()?).ok().map(Content::Text)
}

fn read_leave_request(encoded: &EncodedContent) -> Option<Content> {
    let request = LeaveRequest::decode(decompressed(encoded).ok()?.as_slice()).ok()?;
    Some(Content::LeaveRequest { note: request.authenticated_note })
}

fn decompressed(encoded: &EncodedContent) -> io::Result<Vec<u8>> {
    let compressed = encoded.content.as_slice();
    match encoded.compression.map(Compression::try_from) {
        None => Ok(compressed.to_vec()),
        Some(Ok(Compression::Deflate)) => read_limited(ZlibDecoder::new(compressed)),
        Some(Ok(Compression::Gzip)) => read_limited(GzDecoder::new(compressed)),
        Some(Err(unknown)) => Err(io::Error::other(unknown)),
    }
}

fn read_limited(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut limited = reader.take(DECOMPRESSED_MAX + 1);
    let length = limited.read_to_end(&mut content)?;
    if length as u64 > DECOMPRESSED_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(content) }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing({} bytes, push: {})", self.plaintext.len(), self.should_push)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::LeaveRequest { .. } => f.write_str("LeaveRequest"),
            Self::Other { authority_id, type_id } => write!(f, "Other({authority_id:?}/{type_id:?})"),
            Self::Ignored => f.write_str("Ignored"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;
    use crate::proto::contents::plaintext_envelope::V2;

    fn text_with(change: impl FnOnce(&mut EncodedContent)) -> Content {
        let parameters = BTreeMap::from([("encoding".to_owned(), "UTF-8".to_owned())]);
        let mut content = EncodedContent { parameters, content: b"hello".to_vec(), ..of_type(TEXT) };
        change(&mut content);
        decode(&envelope(&content, "key")).unwrap()
    }

    fn other(authority_id: &str, type_id: &str) -> Content {
        Content::Other { authority_id: authority_id.to_owned(), type_id: type_id.to_owned() }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn text_has_libxmtps_bytes() {
        let encoded = b"\x0a\x12\x0a\x08xmtp.org\x12\x04text\x18\x01\x12\x11\x0a\x08encoding\x12\x05UTF-8\x22\x02hi";
        let v1 = [b"\x0a\x2b".as_slice(), encoded, b"\x12\x01k"].concat();
        let envelope = [b"\x0a\x30".as_slice(), &v1].concat();
        assert_eq!(encode_text("hi", "k"), Outgoing { plaintext: envelope, should_push: true });
    }

    #[test]
    fn text_round_trips() {
        assert_eq!(decode(&encode_text("hello \u{1f39f}", "1").plaintext), Ok(Content::Text("hello \u{1f39f}".into())));
        let without_encoding = text_with(|content| content.parameters.clear());
        assert_eq!(without_encoding, Content::Text("hello".into()), "UTF-8 is what text is in if it does not say");
    }

    #[test]
    fn leave_requests_round_trip_and_wake_nobody() {
        let request = encode_leave_request("1");
        assert!(!request.should_push);
        assert_eq!(decode(&request.plaintext), Ok(Content::LeaveRequest { note: None }));
        let with_note = LeaveRequest { authenticated_note: Some(vec![1, 2]) }.encode_to_vec();
        let content = EncodedContent { content: with_note, ..of_type(LEAVE_REQUEST) };
        assert_eq!(decode(&envelope(&content, "1")), Ok(Content::LeaveRequest { note: Some(vec![1, 2]) }));
    }

    #[test]
    fn compressed_content_is_read_to_a_limit() {
        let compressed = |compression: Compression, bytes| {
            text_with(|content| {
                content.compression = Some(compression.into());
                content.content = bytes;
            })
        };
        let hello = Content::Text("hello".into());
        assert_eq!(compressed(Compression::Gzip, gzip(b"hello")), hello);
        assert_eq!(compressed(Compression::Deflate, deflate(b"hello")), hello);
        assert_eq!(compressed(Compression::Gzip, b"hello".to_vec()), other("xmtp.org", "text"));
        let limit = usize::try_from(DECOMPRESSED_MAX).unwrap();
        let (full, bomb) = (vec![b'a'; limit], vec![b'a'; limit + 1]);
        assert!(matches!(compressed(Compression::Gzip, gzip(&full)), Content::Text(text) if text.len() == limit));
        assert_eq!(compressed(Compression::Gzip, gzip(&bomb)), other("xmtp.org", "text"));
        assert_eq!(text_with(|content| content.compression = Some(7)), other("xmtp.org", "text"));
    }

    #[test]
    fn what_cannot_be_read_is_other() {
        assert_eq!(text_with(|content| content.content = vec![0xff]), other("xmtp.org", "text"));
        let utf16 = text_with(|content| {
            content.parameters.insert("encoding".to_owned(), "UTF-16".to_owned());
        });
        assert_eq!(utf16, other("xmtp.org", "text"));
        let foreign = text_with(|content| content.r#type.as_mut().unwrap().authority_id = "example.org".to_owned());
        assert_eq!(foreign, other("example.org", "text"));
        assert_eq!(decode(&envelope(&of_type("reaction"), "1")), Ok(other("xmtp.org", "reaction")));
        assert_eq!(text_with(|content| content.r#type = None), other("", ""));
        let junk = PlaintextEnvelope {
            content: Some(Version::V1(V1 { content: vec![0xff], idempotency_key: String::new() })),
        };
        assert_eq!(decode(&junk.encode_to_vec()), Ok(other("", "")));
        let bad_request = EncodedContent { content: vec![0xff], ..of_type(LEAVE_REQUEST) };
        assert_eq!(decode(&envelope(&bad_request, "1")), Ok(other("xmtp.org", "leave_request")));
    }

    #[test]
    fn device_sync_is_ignored() {
        let envelope = PlaintextEnvelope { content: Some(Version::V2(V2::default())) };
        assert_eq!(decode(&envelope.encode_to_vec()), Ok(Content::Ignored));
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        assert_eq!(decode(b""), Err(ContentError::Empty));
        assert!(matches!(decode(b"\xff"), Err(ContentError::Malformed(_))));
    }

    #[test]
    fn a_message_id_is_the_hash_of_group_key_and_content() {
        let id = message_id(&[1, 2], "key", b"content");
        assert_eq!(id, <[u8; 32]>::from(Sha256::digest(b"\x01\x02\tkey\tcontent")));
        assert_ne!(id, message_id(&[1, 2], "kez", b"content"));
    }

    #[test]
    fn debug_shows_no_message() {
        assert_eq!(format!("{:?}", Content::Text("secret".into())), "Text(6 bytes)");
        assert!(!format!("{:?}", encode_text("A", "")).contains("65"));
    }
}
