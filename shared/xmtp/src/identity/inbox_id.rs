//! The id of an inbox.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::member::address_text;

/// An inbox id: 64 lower-case hex characters, the form every XMTP message spells it in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InboxId(String);

/// The text is not 64 lower-case hex characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an inbox id is 64 lower-case hex characters")]
pub struct InvalidInboxId;

/// The text is no wallet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Invalid account address: Must be 42 hex characters, starting with '0x'.")]
pub struct InvalidAddress;

impl InboxId {
    /// The inbox id that `address` (`0x` and 40 hex digits, in any case) makes with `nonce`:
    /// SHA-256 of the lower-case address followed by the nonce in decimal.
    ///
    /// # Errors
    /// If `address` is no such text.
    pub fn derive(address: &str, nonce: u64) -> Result<Self, InvalidAddress> {
        let digits = address.strip_prefix("0x").ok_or(InvalidAddress)?;
        if digits.len() != 40 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidAddress);
        }
        Ok(Self::hash(&address.to_ascii_lowercase(), nonce))
    }

    /// [`Self::derive`] for a parsed address.
    #[must_use]
    pub fn of_wallet(address: Address, nonce: u64) -> Self {
        Self::hash(&address_text(address), nonce)
    }

    /// The inbox id made of an identifier that has its final spelling already.
    pub(super) fn hash(identifier: &str, nonce: u64) -> Self {
        Self(hex::encode(Sha256::digest(format!("{identifier}{nonce}"))))
    }

    /// The 64 hex characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InboxId {
    type Err = InvalidInboxId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for InboxId {
    type Error = InvalidInboxId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let valid = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if valid { Ok(Self(text)) } else { Err(InvalidInboxId) }
    }
}

impl From<InboxId> for String {
    fn from(inbox_id: InboxId) -> Self {
        inbox_id.0
    }
}

impl fmt::Display for InboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InboxId({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "0x1234567890abcdef1234567890abcdef12345678";

    #[test]
    fn derives_what_libxmtp_derives() {
        let derived = |nonce| InboxId::derive(ADDRESS, nonce).unwrap().to_string();
        assert_eq!(derived(0), "fcd18d86276d7a99fe522dba9660c420f03c8648785ada7c5daae232a3df77a9");
        assert_eq!(derived(1), "a38db5b39c536ce8cda4a67ce2a2d2fee6360dd0935875f26138e7899d6c15f7");
    }

    #[test]
    fn the_case_of_the_address_does_not_matter() {
        let checksummed = "0x1234567890AbcdEF1234567890aBcdef12345678";
        assert_eq!(InboxId::derive(checksummed, 1), InboxId::derive(ADDRESS, 1));
        assert_eq!(InboxId::of_wallet(ADDRESS.parse().unwrap(), 1), InboxId::derive(ADDRESS, 1).unwrap());
    }

    #[test]
    fn refuses_what_is_not_an_address() {
        for text in ["", "0x", &ADDRESS[2..], &ADDRESS[..41], "0x1234567890abcdef1234567890abcdef1234567g"] {
            assert_eq!(InboxId::derive(text, 0), Err(InvalidAddress));
        }
    }

    #[test]
    fn only_64_lower_case_hex_characters_are_an_inbox_id() {
        let id = "a38db5b39c536ce8cda4a67ce2a2d2fee6360dd0935875f26138e7899d6c15f7";
        assert_eq!(id.parse::<InboxId>().unwrap().as_str(), id);
        for text in [&id[1..], &id.to_uppercase(), &id.replace('a', "g"), ""] {
            assert_eq!(text.parse::<InboxId>(), Err(InvalidInboxId));
        }
    }

    #[test]
    fn serde_writes_the_text_and_checks_it_when_reading() {
        let id = InboxId::derive(ADDRESS, 1).unwrap();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<InboxId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<InboxId>("\"00\"").is_err());
    }
}
