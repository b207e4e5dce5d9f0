//! Which chains and factories are listened to, and how far they are trusted.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use usher_domain::ChainId;

/// What makes a claim about a chain believed. Named for each chain, because one of them is a risk to be chosen knowingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Whoever may send to the queue is believed.
    Queue,
    /// A gain is believed once its log is found in the transaction's receipt. Not built yet: configuring it is refused.
    Rpc,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainConfig {
    /// What makes a claim believed.
    pub trust: Trust,
    /// The contracts whose `EventCreated` announces an event and its kiosk.
    pub factories: BTreeSet<Address>,
}

/// The configured chains: `{"31337": {"trust": "queue", "factories": ["0x…"]}}`. Checked when made or deserialised.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<ChainId, ChainConfig>", into = "BTreeMap<ChainId, ChainConfig>")]
pub struct Chains(BTreeMap<ChainId, ChainConfig>);

/// A chain that cannot be listened to as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `trust: rpc` is designed, not built.
    #[error("chain {0}: trust \"rpc\" is not available yet; \"queue\" is, and believes whoever may send to the queue")]
    RpcTrust(ChainId),
    /// Without a factory no event of the chain could ever become known.
    #[error("chain {0}: no factory is configured, so no event of it could ever become known")]
    NoFactory(ChainId),
    /// The zero address is no contract.
    #[error("chain {0}: the zero address is not a factory")]
    ZeroFactory(ChainId),
}

impl Chains {
    /// The configuration of `chain`, if it has one.
    pub fn get(&self, chain: ChainId) -> Option<&ChainConfig> {
        self.0.get(&chain)
    }

    /// All configured chains, by id.
    pub fn iter(&self) -> impl Iterator<Item = (ChainId, &ChainConfig)> {
        self.0.iter().map(|(id, chain)| (*id, chain))
    }
}

impl TryFrom<BTreeMap<ChainId, ChainConfig>> for Chains {
    type Error = ConfigError;

    fn try_from(chains: BTreeMap<ChainId, ChainConfig>) -> Result<Self, ConfigError> {
        for (id, chain) in &chains {
            if chain.trust == Trust::Rpc {
                return Err(ConfigError::RpcTrust(*id));
            }
            if chain.factories.is_empty() {
                return Err(ConfigError::NoFactory(*id));
            }
            if chain.factories.contains(&Address::ZERO) {
                return Err(ConfigError::ZeroFactory(*id));
            }
        }
        Ok(Self(chains))
    }
}

impl From<Chains> for BTreeMap<ChainId, ChainConfig> {
    fn from(chains: Chains) -> Self {
        chains.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTORY: &str = "0x5fbdb2315678afecb367f032d93f642f64180aa3";

    fn parse(text: &str) -> Result<Chains, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_configuration_is_read_and_written_alike() {
        let text = format!(r#"{{"1328":{{"trust":"queue","factories":["{FACTORY}"]}}}}"#);
        let chains = parse(&text).unwrap();
        assert!(chains.get(ChainId(1328)).unwrap().factories.contains(&FACTORY.parse::<Address>().unwrap()));
        assert_eq!(chains.get(ChainId(1329)), None);
        assert_eq!(serde_json::to_string(&chains).unwrap(), text);
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        for (chain, reason) in [
            (format!(r#"{{"trust":"rpc","factories":["{FACTORY}"]}}"#), "chain 1: trust \"rpc\" is not available yet"),
            (r#"{"trust":"queue","factories":[]}"#.to_owned(), "chain 1: no factory"),
            (format!(r#"{{"trust":"queue","factories":["{}"]}}"#, Address::ZERO), "chain 1: the zero address"),
            (format!(r#"{{"factories":["{FACTORY}"]}}"#), "missing field `trust`"),
            (format!(r#"{{"trust":"queue","factories":["{FACTORY}"],"factory":1}}"#), "unknown field `factory`"),
            (format!(r#"{{"trust":"anyone","factories":["{FACTORY}"]}}"#), "unknown variant `anyone`"),
        ] {
            let err = parse(&format!(r#"{{"1":{chain}}}"#)).unwrap_err();
            assert!(err.contains(reason), "{err}");
        }
        assert!(parse(&format!(r#"{{"sei":{{"trust":"queue","factories":["{FACTORY}"]}}}}"#)).is_err());
    }
}
