//! What XMTP's validation service checks of the bytes a node is given. The node stands before it and passes its
//! refusals on; both parts' texts are kept.

use openmls::{
    credentials::BasicCredential,
    framing::{ContentType, MlsMessageIn, ProtocolMessage},
    key_packages::KeyPackageIn,
    prelude::tls_codec::Deserialize,
    versions::ProtocolVersion,
};
use openmls_rust_crypto::RustCrypto;
use prost::{
    Message,
    encoding::{encoded_len_varint, key_len},
};
use usher_xmtp::proto::MlsCredential;

/// The validation service decodes no larger request, in bytes.
const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// What a group message says of itself in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) group_id: Vec<u8>,
    /// Commits only: a proposal is none.
    pub(super) is_commit: bool,
}

/// Reads the framing of each message. One bad message, or too much data in all, fails all of them.
pub(super) fn group_messages<'a>(messages: impl Iterator<Item = &'a [u8]> + Clone) -> Result<Vec<Framing>, String> {
    check_request_len(messages.clone().map(|message| field_len(field_len_unless_empty(message))).sum())?;
    messages.map(|message| framing(message).map_err(refused)).collect()
}

/// The MLS message's own framing. Nothing is checked against the group: no signature, epoch or sender. Bytes after the
/// message are let through.
fn framing(mut bytes: &[u8]) -> Result<Framing, String> {
    let message = MlsMessageIn::tls_deserialize(&mut bytes).map_err(|error| error.to_string())?;
    let message: ProtocolMessage = message.try_into_protocol_message().map_err(|error| error.to_string())?;
    Ok(Framing {
        group_id: message.group_id().as_slice().to_vec(),
        is_commit: message.content_type() == ContentType::Commit,
    })
}

/// Checks a key package and returns its installation key, the leaf's signature key. Whether the inbox in its
/// credential has this installation is not asked.
pub(super) fn installation_key(key_package: &[u8]) -> Result<Vec<u8>, String> {
    // The second field of the service's request, `is_inbox_id_credential: true`, is two bytes.
    check_request_len(field_len(field_len_unless_empty(key_package) + 2))?;
    verify_key_package(key_package).map_err(|text| refused(format!("XMTP Key Package failed {text}")))
}

fn verify_key_package(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let key_package = KeyPackageIn::tls_deserialize_exact(bytes)
        .map_err(|error| format!("TLS Codec error: {error}"))?
        .validate(&RustCrypto::default(), ProtocolVersion::Mls10)
        .map_err(|error| format!("mls validation: {error}"))?;
    let leaf = key_package.leaf_node();
    let credential = BasicCredential::try_from(leaf.credential().clone()).map_err(|_| "wrong credential type")?;
    MlsCredential::decode(credential.identity()).map_err(|error| error.to_string())?;
    Ok(leaf.signature_key().as_slice().to_vec())
}

fn refused(text: String) -> String {
    format!("validation failed with error {text}")
}

fn check_request_len(len: usize) -> Result<(), String> {
    if len <= MAX_REQUEST {
        return Ok(());
    }
    Err(format!(
        "rpc error: code = OutOfRange desc = Error, decoded message length too large: \
         found {len} bytes, the limit is: {MAX_REQUEST} bytes"
    ))
}

/// The encoded length of a length-delimited protobuf field whose number is below 16.
fn field_len(content: usize) -> usize {
    key_len(1) + encoded_len_varint(content as u64) + content
}

fn field_len_unless_empty(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { field_len(bytes.len()) }
}
