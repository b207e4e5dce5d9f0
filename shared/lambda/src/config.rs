//! What a process is told by its environment: where things are. What to do there is in the table: [`Settings`].
//!
//! [`Settings`]: crate::Settings

use std::path::PathBuf;

const TABLE: &str = "USHER_TABLE";
const XMTP_URL: &str = "USHER_XMTP_URL";
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
    /// Not exactly one data key is named.
    #[error("set one of the environment variables {DATA_KEY_ID} (KMS) and {DATA_KEY_FILE} (one machine), not both")]
    DataKey,
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
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn variables() -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            (TABLE, "usher".to_owned()),
            (XMTP_URL, "http://127.0.0.1:5556".to_owned()),
            (NUDGE_QUEUE_URL, "http://127.0.0.1:9324/000000000000/usher-nudge".to_owned()),
            (DATA_KEY_FILE, "/keys/data.key".to_owned()),
        ])
    }

    fn read(variables: &BTreeMap<&'static str, String>) -> Result<Config, ConfigError> {
        Config::read(|name| variables.get(name).cloned())
    }

    #[test]
    fn an_environment_is_read() {
        let config = read(&variables()).unwrap();
        assert_eq!(config.table, "usher");
        assert_eq!(config.data_key, DataKeyConfig::File("/keys/data.key".into()));
    }

    #[test]
    fn what_is_missing_is_named() {
        for name in [TABLE, XMTP_URL, NUDGE_QUEUE_URL] {
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
}
