//! Protobuf messages and gRPC stubs, generated from `proto/` (the wire shapes of XMTP V3) by `tests/generated.rs`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

mod generated {
    include!("generated/xmtp.rs");
}

/// How this client's state is written down.
pub(crate) use generated::xmtp::client::state;
/// The identity inside a leaf's credential.
pub use generated::xmtp::identity::MlsCredential;
/// The node's IdentityApi.
pub use generated::xmtp::identity::api::v1 as identity_api;
/// Identity log entries and their signatures.
pub use generated::xmtp::identity::associations;
/// The node's MlsApi.
pub use generated::xmtp::mls::api::v1 as mls_api;
/// What travels inside MLS.
pub use generated::xmtp::mls::message_contents as contents;
