//! Names of things: each kind of id is a type of its own, with one text form that is parsed and printed alike.

use std::{fmt, str::FromStr};

use alloy_primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize, de::Error as _};

/// A text that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind}")]
pub struct ParseError {
    kind: &'static str,
    text: String,
}

impl ParseError {
    fn new(kind: &'static str, text: &str) -> Self {
        Self { kind, text: text.chars().take(120).collect() }
    }
}

/// An EIP-155 chain id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub u64);

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ChainId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self).map_err(|_| ParseError::new("a chain id (decimal)", text))
    }
}

/// An on-chain event: `chain:factory:event id`, e.g. `1328:0x0e228c9522bbe1cdcbecb85adde1b828f671bfd4:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey {
    /// The chain of the factory.
    pub chain: ChainId,
    /// The contract that minted the event.
    pub factory: Address,
    /// The event's ERC-721 token id; ids start at 0.
    pub event_id: U256,
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x}:{}", self.chain, self.factory, self.event_id)
    }
}

impl FromStr for EventKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let err = || ParseError::new("an event (chain:factory:event id)", text);
        let (chain, factory, event_id) = split3(text).ok_or_else(err)?;
        Ok(Self { chain, factory, event_id: event_id.parse().map_err(|_| err())? })
    }
}

/// A ticket contract: `chain:address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KioskKey {
    /// The chain of the contract.
    pub chain: ChainId,
    /// The ERC-721 contract that sells one event's tickets.
    pub address: Address,
}

impl fmt::Display for KioskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x}", self.chain, self.address)
    }
}

impl FromStr for KioskKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let err = || ParseError::new("a contract (chain:address)", text);
        let (chain, address) = text.split_once(':').ok_or_else(err)?;
        Ok(Self { chain: chain.parse().map_err(|_| err())?, address: address.parse().map_err(|_| err())? })
    }
}

/// A ticket: `chain:kiosk:token id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketKey {
    /// The contract that issued it.
    pub kiosk: KioskKey,
    /// Its ERC-721 token id.
    pub token_id: U256,
}

impl fmt::Display for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kiosk, self.token_id)
    }
}

impl FromStr for TicketKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let err = || ParseError::new("a ticket (chain:kiosk:token id)", text);
        let (chain, address, token_id) = split3(text).ok_or_else(err)?;
        Ok(Self { kiosk: KioskKey { chain, address }, token_id: token_id.parse().map_err(|_| err())? })
    }
}

fn split3(text: &str) -> Option<(ChainId, Address, &str)> {
    let (chain, rest) = text.split_once(':')?;
    let (address, id) = rest.split_once(':')?;
    let decimal = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
    Some((chain.parse().ok()?, address.parse().ok()?, decimal.then_some(id)?))
}

/// One minting of an event. A room belongs to an incarnation: if a reorganisation mints the same event id for
/// somebody else, he gets a room of his own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// The event that was minted.
    pub event: EventKey,
    /// Whom the factory named as its creator.
    pub creator: Address,
    /// Its ticket contract, on the event's chain.
    pub kiosk: Address,
    /// The transaction that minted it.
    pub transaction: B256,
}

impl Incarnation {
    /// The ticket contract with its chain.
    pub fn kiosk(&self) -> KioskKey {
        KioskKey { chain: self.event.chain, address: self.kiosk }
    }
}

/// An XMTP inbox: 64 lower-case hex digits (XIP-46).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboxId(String);

impl InboxId {
    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for InboxId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::new("an inbox id (64 lower-case hex digits)", text))
        }
    }
}

/// An XMTP installation: the 32-byte Ed25519 public key of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstallationId(pub [u8; 32]);

impl fmt::Display for InstallationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&alloy_primitives::hex::encode(self.0))
    }
}

impl FromStr for InstallationId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        alloy_primitives::hex::decode_to_array(text)
            .map(Self)
            .map_err(|_| ParseError::new("an installation id (32 bytes in hex)", text))
    }
}

/// An XMTP group: 16 bytes, in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 16]);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&alloy_primitives::hex::encode(self.0))
    }
}

impl FromStr for GroupId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        alloy_primitives::hex::decode_to_array(text)
            .map(Self)
            .map_err(|_| ParseError::new("a group id (16 bytes in hex)", text))
    }
}

/// Somebody whom an operator names, by a wallet (`0x…`) or by an XMTP inbox id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Person {
    /// Whoever's inbox lists the wallet.
    Wallet(Address),
    /// This inbox.
    Inbox(InboxId),
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wallet(wallet) => write!(f, "{wallet:#x}"),
            Self::Inbox(inbox) => inbox.fmt(f),
        }
    }
}

impl FromStr for Person {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wallet = text.starts_with("0x").then(|| text.parse().ok()).flatten();
        let person = wallet.map(Self::Wallet).or_else(|| text.parse().ok().map(Self::Inbox));
        person.ok_or_else(|| ParseError::new("a wallet (0x and 40 hex digits) or an inbox id (64 hex digits)", text))
    }
}

macro_rules! serde_as_text {
    ($($id:ty),*) => {$(
        impl Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

serde_as_text!(EventKey, KioskKey, TicketKey, InboxId, InstallationId, GroupId, Person);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_prints_what_it_parses() {
        let event = "1328:0x0e228c9522bbe1cdcbecb85adde1b828f671bfd4:0";
        assert_eq!(event.parse::<EventKey>().unwrap().to_string(), event);
        let huge = format!("1:0x{}:{}", "ab".repeat(20), U256::MAX);
        assert_eq!(huge.parse::<TicketKey>().unwrap().to_string(), huge);
        let inbox = "a3".repeat(32);
        assert_eq!(inbox.parse::<InboxId>().unwrap().to_string(), inbox);
        let group = "00".repeat(16);
        assert_eq!(serde_json::to_string(&group.parse::<GroupId>().unwrap()).unwrap(), format!("{group:?}"));
    }

    #[test]
    fn a_person_is_a_wallet_or_an_inbox() {
        let (wallet, inbox) = (format!("0x{}", "ab".repeat(20)), "a3".repeat(32));
        assert_eq!(wallet.parse(), Ok(Person::Wallet(Address::repeat_byte(0xab))));
        assert_eq!(inbox.parse(), Ok(Person::Inbox(inbox.parse().unwrap())));
        for text in [&wallet, &inbox] {
            assert_eq!(text.parse::<Person>().unwrap().to_string(), **text);
        }
        for text in [&wallet[2..], &wallet[..41], &inbox[1..], "alice", ""] {
            assert!(text.parse::<Person>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_id_is_refused_with_its_text() {
        for text in ["", "1328", "1328:0x00:0", "x:0x0e228c9522bbe1cdcbecb85adde1b828f671bfd4:0"] {
            assert!(text.parse::<EventKey>().is_err(), "{text:?}");
        }
        for id in ["", "-1", "0x1", "1e3"] {
            assert!(
                format!("1:0x0e228c9522bbe1cdcbecb85adde1b828f671bfd4:{id}").parse::<EventKey>().is_err(),
                "{id:?}"
            );
        }
        let upper = "A3".repeat(32).parse::<InboxId>().unwrap_err();
        assert!(upper.to_string().contains("64 lower-case hex digits"));
    }
}
