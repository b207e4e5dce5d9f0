//! Application data of members, after MLS has decrypted it.

use std::{io::Write as _, sync::OnceLock};

use flate2::{Compression, write::ZlibEncoder};
use prost::Message as _;
use usher_xmtp::{
    content,
    proto::contents::{self, ContentTypeId, EncodedContent, PlaintextEnvelope, plaintext_envelope},
};

use crate::Target;

/// Reads application data.
pub const TARGET: Target = Target { name: "contents", run, seeds, smoke: 20_000 };

fn run(data: &[u8]) {
    // What cannot be read is an error or some other content.
    let _ = content::decode(data);
}

/// A text, a leave request, text that decompresses to far more than is read, and what is no envelope of a chat.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(make_seeds).clone()
}

fn make_seeds() -> Vec<Vec<u8>> {
    let mut bomb = ZlibEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b'a'; 64 << 20]).expect("memory takes it");
    let bomb = EncodedContent {
        r#type: Some(ContentTypeId { authority_id: "xmtp.org".into(), type_id: "text".into(), ..Default::default() }),
        compression: Some(contents::Compression::Deflate.into()),
        content: bomb.finish().expect("memory takes it"),
        ..Default::default()
    };
    let v1 = plaintext_envelope::V1 { content: bomb.encode_to_vec(), idempotency_key: "1".into() };
    let bomb = PlaintextEnvelope { content: Some(plaintext_envelope::Content::V1(v1)) };
    let v2 = plaintext_envelope::V2::default();
    let v2 = PlaintextEnvelope { content: Some(plaintext_envelope::Content::V2(v2)) };
    vec![
        content::encode_text("hello", "1").plaintext,
        content::encode_leave_request("1").plaintext,
        bomb.encode_to_vec(),
        v2.encode_to_vec(),
    ]
}
