//! The deployment's id, and where it is. The id is drawn once and bound into everything sealed, so that one deployment's
//! snapshots are useless to another, while a table restored under another name can still be read.

use std::{fmt, str::FromStr};

use usher_domain::ports::random;

use crate::{
    Store, StoreError,
    item::{text, unreadable},
    table::{Attributes, Condition, Item, Key, Step, Table, Write},
};

const ID: &str = "id";
const NETWORK: &str = "network";
const TABLE: &str = "table";

/// Where a deployment is. Rooms live on one network; and a table of another name is a restored one, whose rooms are of
/// another time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The XMTP network's name.
    pub network: String,
    /// The table's name.
    pub table: String,
}

impl Place {
    fn read(item: &Item) -> Option<Self> {
        Some(Self { network: item.text(NETWORK)?.to_owned(), table: item.text(TABLE)?.to_owned() })
    }

    /// The write that makes this table the deployment's, whatever was.
    pub fn adopt_table(&self) -> Write {
        Write::update(key(), vec![Step::set(TABLE, self.table.as_str())]).when(Condition::ITEM_EXISTS)
    }
}

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

impl Store {
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

    /// Where the deployment is bound to be; `None` before it was initialised.
    pub async fn place(&self) -> Result<Option<Place>, StoreError> {
        Ok(self.table.get(&key()).await?.as_ref().and_then(Place::read))
    }

    /// Binds the deployment to a network and a table; returns where it is bound to be, which is elsewhere if it was bound
    /// before. To be called once the deployment has an id.
    pub async fn bind(&self, place: &Place) -> Result<Place, StoreError> {
        let set = |name, value: &str| Step::SetIfAbsent(name, value.into());
        let steps = vec![set(NETWORK, &place.network), set(TABLE, &place.table)];
        let item = self.table.write(&Write::update(key(), steps).when(Condition::ITEM_EXISTS)).await?;
        Place::read(&item).ok_or_else(|| unreadable(&item, "it is nowhere"))
    }
}

fn read(item: &Item) -> Result<DeploymentId, StoreError> {
    text(item, ID)?.parse().map_err(|error: NoDeploymentId| unreadable(item, error.to_string()))
}
