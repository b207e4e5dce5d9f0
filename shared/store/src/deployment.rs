//! The deployment's id and network. The id: drawn once, bound into everything sealed, so that one deployment's snapshots are useless to
//! another, while a table restored under another name can still be read.

use std::{fmt, str::FromStr};

use usher_domain::ports::random;

use crate::{
    Store, StoreError,
    item::{text, unreadable},
    table::{Attributes, Condition, Item, Key, Step, Table, Write},
};

const ID: &str = "id";
const NETWORK: &str = "network";

/// Names a deployment: 16 random bytes, in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentId(String);

impl DeploymentId {
    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is no deployment id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a deployment id (16 bytes in hex)")]
pub struct NoDeploymentId;

impl FromStr for DeploymentId {
    type Err = NoDeploymentId;

    fn from_str(text: &str) -> Result<Self, NoDeploymentId> {
        let bytes: Vec<u8> = hex::decode(text).map_err(|_| NoDeploymentId)?;
        if bytes.len() == 16 { Ok(Self(hex::encode(bytes))) } else { Err(NoDeploymentId) }
    }
}

fn key() -> Key {
    Key::new("deployment", "deployment")
}

impl<T: Table> Store<T> {
    /// The deployment's id; `None` before it was initialised.
    pub async fn deployment(&self) -> Result<Option<DeploymentId>, StoreError> {
        self.table.get(&key()).await?.map(|item| read(&item)).transpose()
    }

    /// The deployment's id, drawn and written now if there is none. Of any number of callers, all get the same.
    pub async fn init_deployment(&self) -> Result<DeploymentId, StoreError> {
        let id = DeploymentId(hex::encode(random::<16>(&*self.randomness)));
        let write = Write::put(key(), Item::from([(ID.into(), id.0.clone().into())])).when(Condition::ITEM_ABSENT);
        match self.table.write(&write).await {
            Ok(_) => Ok(id),
            Err(error) => match error.failed_condition(0) {
                Some(Some(stored)) => read(stored),
                _ => Err(error.into()),
            },
        }
    }

    /// The name of the XMTP network that the deployment is bound to; `None` before it was initialised.
    pub async fn network(&self) -> Result<Option<String>, StoreError> {
        Ok(self.table.get(&key()).await?.and_then(|item| item.text(NETWORK).map(str::to_owned)))
    }

    /// Binds the deployment to an XMTP network for good; returns the name of the one that it is bound to, which is
    /// another if somebody else was first. To be called once the deployment has an id.
    pub async fn bind_network(&self, network: &str) -> Result<String, StoreError> {
        let bind = Write::update(key(), vec![Step::SetIfAbsent(NETWORK, network.into())]);
        let item = self.table.write(&bind.when(Condition::ITEM_EXISTS)).await?;
        Ok(text(&item, NETWORK)?.to_owned())
    }
}

fn read(item: &Item) -> Result<DeploymentId, StoreError> {
    text(item, ID)?.parse().map_err(|error: NoDeploymentId| unreadable(item, error.to_string()))
}
