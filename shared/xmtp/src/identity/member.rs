//! Members of an inbox.

use std::fmt;

use alloy_primitives::Address;

use super::{AssociationError, InboxId, InstallationId, InvalidAddress};
use crate::proto::associations::{self as proto, IdentifierKind, member_identifier::Kind};

/// Who or what can be a member of an inbox, spelled as in its log.
///
/// A log may spell an address in capitals. That is then another identifier, which no signature ever matches, and so it
/// is kept as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberIdentifier {
    /// A wallet: `0x` and 40 lower-case hex digits.
    Ethereum(String),
    /// An installation's Ed25519 public key.
    Installation(Vec<u8>),
    /// A passkey's SEC1 P-256 public key.
    Passkey(Vec<u8>),
}

/// What kind of member; displayed as in the texts of [`AssociationError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// A wallet.
    Ethereum,
    /// An installation.
    Installation,
    /// A passkey.
    Passkey,
}

/// A member of an inbox and how it became one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub identifier: MemberIdentifier,
    /// Who added it; `None` for the creator of the inbox.
    pub added_by: Option<MemberIdentifier>,
    /// The client's clock when it was added, in nanoseconds since 1970; `None` for the creator of the inbox.
    pub client_timestamp_ns: Option<u64>,
    /// The EIP-155 chain of a smart-contract wallet; `None` for everything else.
    pub chain_id: Option<u64>,
}

impl MemberIdentifier {
    /// What kind of member this is.
    #[must_use]
    pub fn kind(&self) -> MemberKind {
        match self {
            Self::Ethereum(_) => MemberKind::Ethereum,
            Self::Installation(_) => MemberKind::Installation,
            Self::Passkey(_) => MemberKind::Passkey,
        }
    }

    /// The wallet address, if this is a wallet in its canonical spelling.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        let Self::Ethereum(text) = self else { return None };
        let address: Address = text.parse().ok()?;
        (address_text(address) == *text).then_some(address)
    }

    /// The installation, if this is one.
    #[must_use]
    pub fn installation(&self) -> Option<InstallationId> {
        match self {
            Self::Installation(key) => key.as_slice().try_into().ok(),
            Self::Ethereum(_) | Self::Passkey(_) => None,
        }
    }

    /// The inbox this identifier creates with `nonce`.
    pub(super) fn inbox_id(&self, nonce: u64) -> Result<InboxId, InvalidAddress> {
        match self {
            Self::Ethereum(address) => InboxId::derive(address, nonce),
            Self::Installation(_) | Self::Passkey(_) => Ok(InboxId::hash(&self.to_string(), nonce)),
        }
    }

    /// Reads the identifier fields of a CreateInbox or ChangeRecoveryAddress. Unknown kinds count as Ethereum.
    pub(super) fn from_text(text: &str, kind: IdentifierKind) -> Result<Self, AssociationError> {
        match kind {
            IdentifierKind::Unspecified | IdentifierKind::Ethereum => Ok(Self::Ethereum(text.to_owned())),
            IdentifierKind::Passkey => {
                hex::decode(text).map(Self::Passkey).map_err(|_| AssociationError::InvalidPasskey)
            }
        }
    }
}

/// An address as identity logs spell it.
pub(super) fn address_text(address: Address) -> String {
    format!("{address:#x}")
}

impl From<Address> for MemberIdentifier {
    fn from(address: Address) -> Self {
        Self::Ethereum(address_text(address))
    }
}

impl From<InstallationId> for MemberIdentifier {
    fn from(id: InstallationId) -> Self {
        Self::Installation(id.as_bytes().to_vec())
    }
}

impl TryFrom<&proto::MemberIdentifier> for MemberIdentifier {
    type Error = AssociationError;

    fn try_from(identifier: &proto::MemberIdentifier) -> Result<Self, Self::Error> {
        match &identifier.kind {
            Some(Kind::EthereumAddress(address)) => Ok(Self::Ethereum(address.clone())),
            Some(Kind::InstallationPublicKey(key)) => Ok(Self::Installation(key.clone())),
            Some(Kind::Passkey(passkey)) => Ok(Self::Passkey(passkey.key.clone())),
            None => Err(AssociationError::missing("member_identifier", "member_identifier::Kind")),
        }
    }
}

impl From<MemberIdentifier> for proto::MemberIdentifier {
    fn from(identifier: MemberIdentifier) -> Self {
        let kind = match identifier {
            MemberIdentifier::Ethereum(address) => Kind::EthereumAddress(address),
            MemberIdentifier::Installation(key) => Kind::InstallationPublicKey(key),
            MemberIdentifier::Passkey(key) => Kind::Passkey(proto::Passkey { key, relying_party: None }),
        };
        Self { kind: Some(kind) }
    }
}

impl fmt::Display for MemberIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ethereum(address) => f.write_str(address),
            Self::Installation(key) | Self::Passkey(key) => f.write_str(&hex::encode(key)),
        }
    }
}

impl fmt::Debug for MemberIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.kind())
    }
}

impl fmt::Display for MemberKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ethereum => "ethereum",
            Self::Installation => "installation",
            Self::Passkey => "passkey",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";

    #[test]
    fn addresses_are_spelled_in_lower_case() {
        let address: Address = ADDRESS.parse().unwrap();
        let member = MemberIdentifier::from(address);
        assert_eq!(member.to_string(), ADDRESS);
        assert_eq!(member.address(), Some(address));
        for other_spelling in [&address.to_string(), &ADDRESS[2..], "0x", ""] {
            assert_eq!(MemberIdentifier::Ethereum(other_spelling.to_owned()).address(), None);
        }
    }

    #[test]
    fn each_kind_is_read_as_itself_only() {
        let id = InstallationId::new([7; 32]);
        assert_eq!(MemberIdentifier::from(id).installation(), Some(id));
        assert_eq!(MemberIdentifier::from(id).address(), None);
        assert_eq!(MemberIdentifier::Installation(vec![7; 31]).installation(), None);
        assert_eq!(MemberIdentifier::Passkey(vec![7; 32]).installation(), None);
    }

    #[test]
    fn the_protobuf_form_round_trips() {
        for member in [
            MemberIdentifier::Ethereum(ADDRESS.to_owned()),
            MemberIdentifier::Installation(vec![1]),
            MemberIdentifier::Passkey(vec![2]),
        ] {
            let message = proto::MemberIdentifier::from(member.clone());
            assert_eq!(MemberIdentifier::try_from(&message).unwrap(), member);
        }
    }

    #[test]
    fn a_passkey_in_a_log_is_hex() {
        let read = |text| MemberIdentifier::from_text(text, IdentifierKind::Passkey);
        assert_eq!(read("0aFF").unwrap(), MemberIdentifier::Passkey(vec![10, 255]));
        assert_eq!(read("0x").unwrap_err().to_string(), "passkey is invalid: None");
    }
}
