//! Why an identity update is refused.

use super::{InvalidAddress, MemberKind, VerifierError};

/// Why an identity update is refused. The texts are those of XMTP's validation service, which a node answers with.
#[derive(Debug, thiserror::Error)]
pub enum AssociationError {
    /// A CreateInbox for an inbox that exists.
    #[error("Multiple create operations detected")]
    MultipleCreate,
    /// Any other action for an inbox that does not exist, or no action at all.
    #[error("XID not yet created")]
    NotCreated,
    /// A signature in it does not hold.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// An installation tries to add an installation.
    #[error("Member of kind {0} not allowed to add {1}")]
    MemberNotAllowed(MemberKind, MemberKind),
    /// The signer is not a member, or not the recovery identifier where only that may sign.
    #[error("Missing existing member")]
    MissingExistingMember,
    /// A legacy delegated signature outside the inbox that its wallet creates with nonce 0.
    #[error("Legacy key is only allowed to be associated using a legacy signature with nonce 0")]
    LegacySignatureReuse,
    /// The new member did not sign itself.
    #[error("The new member identifier does not match the signer")]
    NewMemberIdSignatureMismatch,
    /// The log belongs to another inbox than the update names.
    #[error("Wrong inbox_id specified on association")]
    WrongInboxId,
    /// This kind of signature cannot stand for that kind of member.
    #[error("Signature not allowed for role {0:?} {1:?}")]
    SignatureNotAllowed(String, String),
    /// A signature of an earlier update is used again.
    #[error("Replay detected")]
    Replay,
    /// A member tries to add itself.
    #[error("Error creating association tried to add self")]
    AddSelf,
    /// A smart-contract wallet signs from another chain than the one it was added on (0 stands for "no chain").
    #[error("Wrong chain id. Initially added with {0} but now signing from {1}")]
    ChainIdMismatch(u64, u64),
    /// An address that is not `0x` and 40 hex digits.
    #[error(transparent)]
    InvalidAccountAddress(#[from] InvalidAddress),
    /// A passkey identifier that is not hex.
    #[error("passkey is invalid: None")]
    InvalidPasskey,
    /// A protobuf field that has to be there is not.
    #[error(
        "missing field {item} of type xmtp_proto::generated::xmtp::identity::associations::{message} during conversion from protobuf"
    )]
    MissingField {
        /// The field.
        item: &'static str,
        /// The protobuf message or oneof it would hold.
        message: &'static str,
    },
}

/// Why a signature in an identity update does not hold.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// A signature that is malformed or by nobody.
    #[error("Signature validation failed")]
    Invalid,
    /// An installation's signature that is not of this text, or whose key is no Ed25519 key.
    // Not a `source`: the text has to contain it, since nodes answer so.
    #[error("ed25519 Signature failed {0}")]
    Ed25519(ed25519_dalek::SignatureError),
    /// A passkey's key that is no point of P-256.
    #[error("Invalid public key")]
    InvalidPublicKey,
    /// What a passkey's authenticator signed is not this text.
    #[error("client_data is invalid")]
    InvalidClientData,
    /// A smart-contract wallet whose name is no CAIP-10 account id of an EVM chain.
    #[error("Invalid account id")]
    InvalidAccountId,
    /// A smart-contract wallet's signature that could not be checked.
    #[error(transparent)]
    Verifier(#[from] VerifierError),
}

impl AssociationError {
    pub(super) const fn missing(item: &'static str, message: &'static str) -> Self {
        Self::MissingField { item, message }
    }

    /// Whether the update may be found good later: a smart-contract wallet could not be asked now.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Signature(SignatureError::Verifier(VerifierError::Unavailable(_))))
    }
}
