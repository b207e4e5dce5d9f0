//! Which chains and factories are listened to, and how far they are trusted.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use usher_domain::ChainId;

/// What makes a claim about a chain believed. Named for each chain, because one of them is a risk to be chosen knowingly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Whoever may send to the queue is believed.
    Queue,
    /// The chain is asked: see [`verify`](crate::verify).
    Rpc(Rpc),
}

/// How a chain is asked, and when its answer is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rpc {
    /// The ARN of the AWS Secrets Manager secret whose text is the URL of a JSON-RPC node.
    pub secret: String,
    /// A gain is believed once so many blocks, its own among them, are on the chain.
    pub confirmations: u64,
    /// Contracts that create events for others: who calls one is known to the contract, not to us.
    pub wrappers: BTreeSet<Address>,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct ChainConfig {
    /// What makes a claim believed.
    pub trust: Trust,
    /// The contracts whose `EventCreated` announces an event and its kiosk.
    pub factories: BTreeSet<Address>,
    /// What was logged before this block is ignored.
    pub start_block: u64,
}

/// A chain as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    trust: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rpc_secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirmations: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    wrappers: BTreeSet<Address>,
    factories: BTreeSet<Address>,
    #[serde(default, skip_serializing_if = "is_zero")]
    start_block: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Queue,
    #[default]
    Rpc,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TryFrom<Written> for ChainConfig {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let Written { trust, rpc_secret, confirmations, wrappers, factories, start_block } = written;
        let trust = match (trust, rpc_secret) {
            (Mode::Rpc, None) => {
                return Err("trust \"rpc\" needs `rpc_secret`, the ARN of a secret with a node's URL; \
                            trust \"queue\" needs none, and believes whoever may send to the queues");
            }
            (Mode::Rpc, Some(secret)) if !is_secret(&secret) => {
                return Err(
                    "`rpc_secret` is not the ARN of an AWS Secrets Manager secret (never write the URL itself here)",
                );
            }
            (Mode::Rpc, Some(secret)) => {
                Trust::Rpc(Rpc { secret, confirmations: confirmations.unwrap_or(1), wrappers })
            }
            (Mode::Queue, None) if confirmations.is_none() && wrappers.is_empty() => Trust::Queue,
            (Mode::Queue, _) => {
                return Err("with trust \"queue\" nobody would look at `rpc_secret`, `confirmations` or `wrappers`");
            }
        };
        if matches!(&trust, Trust::Rpc(rpc) if rpc.confirmations == 0) {
            return Err("`confirmations` counts a log's own block, so it is 1 at least");
        }
        Ok(Self { trust, factories, start_block })
    }
}

/// `arn:<partition>:secretsmanager:<region>:<account>:secret:<name>`. What else is given may be a URL, and is not quoted.
fn is_secret(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(7, ':').collect();
    matches!(parts[..], ["arn", _, "secretsmanager", region, account, "secret", name]
        if ![region, account, name].contains(&""))
}

impl From<ChainConfig> for Written {
    fn from(chain: ChainConfig) -> Self {
        let ChainConfig { trust, factories, start_block } = chain;
        let (trust, rpc) = match trust {
            Trust::Queue => (Mode::Queue, None),
            Trust::Rpc(rpc) => (Mode::Rpc, Some(rpc)),
        };
        let confirmations = rpc.as_ref().map(|rpc| rpc.confirmations);
        let (rpc_secret, wrappers) = rpc.map(|rpc| (rpc.secret, rpc.wrappers)).unzip();
        Self { trust, rpc_secret, confirmations, wrappers: wrappers.unwrap_or_default(), factories, start_block }
    }
}

/// The configured chains: `{"31337": {"trust": "queue", "factories": ["0x…"]}}`. Checked when made or deserialised.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<ChainId, ChainConfig>", into = "BTreeMap<ChainId, ChainConfig>")]
pub struct Chains(BTreeMap<ChainId, ChainConfig>);

/// A chain that cannot be listened to as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
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
    const WRAPPER: &str = "0x00000000000000000000000000000000000000cc";
    const SECRET: &str = "arn:aws:secretsmanager:us-east-1:123456789012:secret:usher/rpc-AbCdEf";

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
        let text = format!(
            r#"{{"1":{{"trust":"rpc","rpc_secret":"{SECRET}","confirmations":12,"wrappers":["{WRAPPER}"],"factories":["{FACTORY}"],"start_block":7}}}}"#
        );
        let chain = parse(&text).unwrap().get(ChainId(1)).unwrap().clone();
        let rpc = Rpc { secret: SECRET.to_owned(), confirmations: 12, wrappers: [WRAPPER.parse().unwrap()].into() };
        assert_eq!((chain.trust, chain.start_block), (Trust::Rpc(rpc), 7));
        assert_eq!(serde_json::to_string(&parse(&text).unwrap()).unwrap(), text);
    }

    #[test]
    fn a_chain_is_asked_unless_it_is_said_that_it_is_not() {
        let text = format!(r#"{{"1":{{"rpc_secret":"{SECRET}","factories":["{FACTORY}"]}}}}"#);
        let chain = parse(&text).unwrap().get(ChainId(1)).unwrap().clone();
        let rpc = Rpc { secret: SECRET.to_owned(), confirmations: 1, wrappers: [].into() };
        assert_eq!((chain.trust, chain.start_block), (Trust::Rpc(rpc), 0));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        for (chain, reason) in [
            (format!(r#"{{"trust":"rpc","factories":["{FACTORY}"]}}"#), "trust \"rpc\" needs `rpc_secret`"),
            (format!(r#"{{"factories":["{FACTORY}"]}}"#), "trust \"rpc\" needs `rpc_secret`"),
            (
                format!(r#"{{"rpc_secret":"{SECRET}","confirmations":0,"factories":["{FACTORY}"]}}"#),
                "`confirmations` counts",
            ),
            (
                format!(r#"{{"trust":"queue","rpc_secret":"{SECRET}","factories":["{FACTORY}"]}}"#),
                "nobody would look at `rpc_secret`",
            ),
            (
                format!(r#"{{"trust":"queue","confirmations":3,"factories":["{FACTORY}"]}}"#),
                "nobody would look at `rpc_secret`, `confirmations`",
            ),
            (r#"{"trust":"queue","factories":[]}"#.to_owned(), "chain 1: no factory"),
            (format!(r#"{{"trust":"queue","factories":["{}"]}}"#, Address::ZERO), "chain 1: the zero address"),
            (format!(r#"{{"trust":"queue","factories":["{FACTORY}"],"factory":1}}"#), "unknown field `factory`"),
            (format!(r#"{{"trust":"anyone","factories":["{FACTORY}"]}}"#), "unknown variant `anyone`"),
        ] {
            let err = parse(&format!(r#"{{"1":{chain}}}"#)).unwrap_err();
            assert!(err.contains(reason), "{err}");
        }
        for secret in [
            "https://rpc.example/v2/s3cr3t",
            "arn:aws:kms:us-east-1:1:key/s3cr3t",
            "arn:aws:secretsmanager:::secret:s3cr3t",
        ] {
            let err = parse(&format!(r#"{{"1":{{"rpc_secret":"{secret}","factories":["{FACTORY}"]}}}}"#)).unwrap_err();
            assert!(err.contains("not the ARN") && !err.contains("s3cr3t"), "{err}");
        }
        assert!(parse(&format!(r#"{{"sei":{{"trust":"queue","factories":["{FACTORY}"]}}}}"#)).is_err());
    }
}
