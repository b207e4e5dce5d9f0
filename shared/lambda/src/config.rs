//! The configuration: read once, from environment variables.

use std::path::PathBuf;

use serde::Deserialize;
use usher_chain::Chains;
use usher_domain::{
    admission::CreatorRole,
    planner::{Limits, MAX_INBOXES},
};
use usher_doorkeeper::Policy;
use usher_store::budget::RateLimits;

const TABLE: &str = "USHER_TABLE";
const XMTP_URL: &str = "USHER_XMTP_URL";
const CONFIG: &str = "USHER_CONFIG";
const NUDGE_QUEUE_URL: &str = "USHER_NUDGE_QUEUE_URL";
const DATA_KEY_FILE: &str = "USHER_DATA_KEY_FILE";
const DATA_KEY_ID: &str = "USHER_DATA_KEY_ID";

/// What a deployment is told from outside. Where AWS is, the AWS SDK reads by itself (`AWS_REGION`,
/// `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_ENDPOINT_URL_SQS`, `AWS_ENDPOINT_URL_KMS`).
#[derive(Debug, Clone)]
pub struct Config {
    /// `USHER_TABLE`: the name of the DynamoDB table.
    pub table: String,
    /// `USHER_XMTP_URL`: the XMTP V3 node, `http://…` or `https://…`.
    pub xmtp_url: String,
    /// `USHER_NUDGE_QUEUE_URL`: the SQS queue that the sweep reads.
    pub nudge_queue_url: String,
    /// `USHER_DATA_KEY_ID` or `USHER_DATA_KEY_FILE`: what seals the snapshots.
    pub data_key: DataKeyConfig,
    /// `USHER_CONFIG`, `chains`: which contracts are listened to.
    pub chains: Chains,
    /// `USHER_CONFIG`, `policy`: what the deployment decides about rooms.
    pub policy: Policy,
    /// `USHER_CONFIG`, `rate_limits`: what the XMTP node takes from one address; those of the hosted networks unless
    /// it says otherwise, and none if it is `null`.
    pub rate_limits: Option<RateLimits>,
}

/// What wraps the data keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataKeyConfig {
    /// A KMS key, by id, ARN or alias.
    Kms(String),
    /// A file with 32 bytes in hex, readable by its owner only; made if there is none. For one machine.
    File(PathBuf),
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable is not set, or empty.
    #[error("the environment variable {0} is not set")]
    Missing(&'static str),
    /// A variable holds something else than it should.
    #[error("the environment variable {name} is malformed")]
    Malformed {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Rooms must have seats, and libxmtp takes no more.
    #[error("{CONFIG}: policy.seats_per_room is {0}; it must lie between 2 and {MAX_INBOXES}")]
    Seats(usize),
    /// Not exactly one data key is named.
    #[error("set one of the environment variables {DATA_KEY_ID} (KMS) and {DATA_KEY_FILE} (one machine), not both")]
    DataKey,
}

/// `USHER_CONFIG`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    chains: Chains,
    #[serde(default)]
    policy: PolicyDocument,
    #[serde(default = "hosted")]
    rate_limits: Option<RateLimits>,
}

fn hosted() -> Option<RateLimits> {
    Some(RateLimits::default())
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PolicyDocument {
    #[serde(default)]
    creator_role: CreatorRole,
    seats_per_room: Option<usize>,
}

impl Config {
    /// Reads the process's environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Reads variables from wherever they are.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let optional = |name| variable(name).filter(|value| !value.is_empty());
        let required = |name| optional(name).ok_or(ConfigError::Missing(name));
        let document: Document = serde_json::from_str(&required(CONFIG)?)
            .map_err(|source| ConfigError::Malformed { name: CONFIG, source })?;
        let data_key = match (optional(DATA_KEY_ID), optional(DATA_KEY_FILE)) {
            (Some(id), None) => DataKeyConfig::Kms(id),
            (None, Some(path)) => DataKeyConfig::File(path.into()),
            (Some(_), Some(_)) | (None, None) => return Err(ConfigError::DataKey),
        };
        Ok(Self {
            table: required(TABLE)?,
            xmtp_url: required(XMTP_URL)?,
            nudge_queue_url: required(NUDGE_QUEUE_URL)?,
            data_key,
            chains: document.chains,
            policy: document.policy.read()?,
            rate_limits: document.rate_limits,
        })
    }
}

impl PolicyDocument {
    fn read(self) -> Result<Policy, ConfigError> {
        let mut limits = Limits::default();
        if let Some(seats) = self.seats_per_room {
            // usher itself sits in every room.
            if !(2..=MAX_INBOXES).contains(&seats) {
                return Err(ConfigError::Seats(seats));
            }
            limits.seats_per_room = seats;
        }
        Ok(Policy { creator_role: self.creator_role, limits })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use usher_domain::ChainId;

    use super::*;
    use crate::telemetry::Chain;

    const CHAINS: &str =
        r#""chains":{"31337":{"trust":"queue","factories":["0x5fbdb2315678afecb367f032d93f642f64180aa3"]}}"#;

    fn variables() -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            (TABLE, "usher".to_owned()),
            (XMTP_URL, "http://127.0.0.1:5556".to_owned()),
            (CONFIG, format!("{{{CHAINS}}}")),
            (NUDGE_QUEUE_URL, "http://127.0.0.1:9324/000000000000/usher-nudge".to_owned()),
            (DATA_KEY_FILE, "/keys/data.key".to_owned()),
        ])
    }

    fn read(variables: &BTreeMap<&'static str, String>) -> Result<Config, ConfigError> {
        Config::read(|name| variables.get(name).cloned())
    }

    #[test]
    fn a_configuration_is_read() {
        let config = read(&variables()).unwrap();
        assert_eq!(config.table, "usher");
        assert_eq!(config.data_key, DataKeyConfig::File("/keys/data.key".into()));
        assert!(config.chains.get(ChainId(31337)).is_some());
        assert_eq!(config.policy.creator_role, CreatorRole::Admin);
        assert_eq!(config.policy.limits, Limits::default());
    }

    #[test]
    fn a_policy_is_read() {
        let mut variables = variables();
        let policy = r#""policy":{"creator_role":"super_admin","seats_per_room":50}"#;
        variables.insert(CONFIG, format!("{{{CHAINS},{policy}}}"));
        let config = read(&variables).unwrap();
        assert_eq!(config.policy.creator_role, CreatorRole::SuperAdmin);
        assert_eq!(config.policy.limits.seats_per_room, 50);
    }

    #[test]
    fn rate_limits_are_those_of_the_hosted_networks_unless_said_otherwise() {
        let mut variables = variables();
        assert_eq!(read(&variables).unwrap().rate_limits, Some(RateLimits::default()));
        variables.insert(CONFIG, format!("{{{CHAINS},\"rate_limits\":null}}"));
        assert_eq!(read(&variables).unwrap().rate_limits, None);
        let buckets = r#"{"publish":{"max_tokens":30,"per_minute":6},"default":{"max_tokens":200,"per_minute":40}}"#;
        variables.insert(CONFIG, format!("{{{CHAINS},\"rate_limits\":{buckets}}}"));
        assert_eq!(read(&variables).unwrap().rate_limits.unwrap().publish.per_minute, 6);
    }

    #[test]
    fn what_is_missing_is_named() {
        for name in [TABLE, XMTP_URL, CONFIG, NUDGE_QUEUE_URL] {
            let mut without = variables();
            without.remove(name);
            assert!(read(&without).unwrap_err().to_string().contains(name));
            without.insert(name, String::new());
            assert!(read(&without).unwrap_err().to_string().contains(name), "empty is missing");
        }
    }

    #[test]
    fn exactly_one_data_key_is_wanted() {
        let mut variables = variables();
        variables.insert(DATA_KEY_ID, "alias/usher".to_owned());
        assert!(matches!(read(&variables), Err(ConfigError::DataKey)));
        variables.remove(DATA_KEY_FILE);
        assert_eq!(read(&variables).unwrap().data_key, DataKeyConfig::Kms("alias/usher".into()));
        variables.remove(DATA_KEY_ID);
        assert!(matches!(read(&variables), Err(ConfigError::DataKey)));
    }

    #[test]
    fn a_malformed_document_says_where() {
        for (document, problem) in [
            ("{}".to_owned(), "missing field `chains`"),
            (format!("{{{CHAINS},\"rooms\":1}}"), "unknown field `rooms`"),
            (format!("{{{CHAINS},\"policy\":{{\"creator_role\":\"owner\"}}}}"), "unknown variant `owner`"),
            (format!("{{{CHAINS},\"policy\":{{\"seats_per_room\":251}}}}"), "between 2 and 250"),
        ] {
            let mut variables = variables();
            variables.insert(CONFIG, document);
            let error = read(&variables).unwrap_err();
            let text = Chain(&error).to_string();
            assert!(text.contains(CONFIG) && text.contains(problem), "{text}");
        }
    }
}
