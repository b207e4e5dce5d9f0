//! The id of an installation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An installation: one device or server of an inbox. Its id is its Ed25519 public key, which is also its MLS leaf's
/// signature key and the topic its welcomes are sent to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstallationId([u8; 32]);

/// The bytes or the text are not those of a 32-byte key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an installation id is 32 bytes, or 64 hex characters as text")]
pub struct InvalidInstallationId;

impl InstallationId {
    /// The installation with this Ed25519 public key.
    #[must_use]
    pub const fn new(public_key: [u8; 32]) -> Self {
        Self(public_key)
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for InstallationId {
    fn from(public_key: [u8; 32]) -> Self {
        Self(public_key)
    }
}

impl TryFrom<&[u8]> for InstallationId {
    type Error = InvalidInstallationId;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self).map_err(|_| InvalidInstallationId)
    }
}

impl AsRef<[u8]> for InstallationId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for InstallationId {
    type Err = InvalidInstallationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidInstallationId)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for InstallationId {
    type Error = InvalidInstallationId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<InstallationId> for String {
    fn from(id: InstallationId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for InstallationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for InstallationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstallationId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let id = InstallationId::new([0xab; 32]);
        assert_eq!(id.to_string(), "ab".repeat(32));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.as_bytes().as_slice().try_into(), Ok(id));
        assert_eq!(serde_json::from_str::<InstallationId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }

    #[test]
    fn other_lengths_are_refused() {
        assert_eq!("ab".repeat(31).parse::<InstallationId>(), Err(InvalidInstallationId));
        assert_eq!(InstallationId::try_from([0; 33].as_slice()), Err(InvalidInstallationId));
    }
}
