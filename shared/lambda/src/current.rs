//! What is in force: the settings, and who works by them. An invocation works by one revision from its beginning to
//! its end.

use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;
use usher_doorkeeper::{Doorkeeper, Paced, Parts};
use usher_store::{DataKeys, DeploymentId, FileDataKeys, KmsDataKeys, Place, Snapshots};
use usher_xmtp::network::Network;

use crate::{
    settings::{Document, Settings, SettingsError},
    usher::{DataKeySource, OpenError, Usher},
};

/// Settings and who works by them.
pub(crate) struct Current {
    /// The revision of the settings; `None` of such as are in no table.
    revision: Option<u64>,
    pub(crate) settings: Settings,
    /// Opened at first use: the deployment's id is in the table, once somebody wrote it.
    doorkeepers: OnceCell<Doorkeepers>,
}

/// Who works on rooms.
pub(crate) struct Doorkeepers {
    /// Does everything.
    pub(crate) all: Arc<Doorkeeper>,
    /// Does nothing but removals once what all may spend of the node's limits is spent.
    removals: Option<(Arc<Paced>, Doorkeeper)>,
}

/// Where the settings come from.
pub(crate) enum Source {
    /// They are what they are.
    Fixed(Arc<Current>),
    /// The table; what was read last is kept for as long as its revision stands.
    Table(Mutex<Option<Arc<Current>>>),
}

impl Current {
    pub(crate) fn fixed(settings: Settings) -> Self {
        Self { revision: None, settings, doorkeepers: OnceCell::new() }
    }

    /// Who still works on removals when nothing is left for the others; `None` as long as there is.
    pub(crate) fn removals(&self) -> Option<&Doorkeeper> {
        let (paced, doorkeeper) = self.doorkeepers.get()?.removals.as_ref()?;
        paced.is_spent().then_some(doorkeeper)
    }
}

impl Usher {
    /// What is in force now: one read of one item, which is parsed only if it is new.
    pub(crate) async fn current(&self) -> Result<Arc<Current>, SettingsError> {
        let kept = match &self.source {
            Source::Fixed(current) => return Ok(current.clone()),
            Source::Table(kept) => kept,
        };
        let lock = || kept.lock().expect("no holder of this lock panics");
        let stored = self.store.configuration().await?.ok_or(SettingsError::Missing)?;
        if let Some(current) = lock().as_ref().filter(|current| current.revision == Some(stored.revision)) {
            return Ok(current.clone());
        }
        let revision = stored.revision;
        let document = Document::parse(&stored.document);
        let document = document.map_err(|source| SettingsError::Unusable { revision, source })?;
        let current = Arc::new(Current { revision: Some(revision), ..Current::fixed(document.into()) });
        tracing::info!(revision, "configuration read");
        *lock() = Some(current.clone());
        Ok(current)
    }

    /// Who works on rooms by what is in force now; `None` before the deployment was initialised. Functions never
    /// initialise it.
    pub async fn doorkeeper(&self) -> Result<Option<Arc<Doorkeeper>>, OpenError> {
        let current = self.current().await?;
        Ok(self.doorkeepers(&current).await?.map(|doorkeepers| doorkeepers.all.clone()))
    }

    /// Who works on rooms by these settings; `None` before the deployment was initialised.
    pub(crate) async fn doorkeeper_of<'a>(&self, current: &'a Current) -> Result<Option<&'a Doorkeeper>, OpenError> {
        Ok(self.doorkeepers(current).await?.map(|doorkeepers| &*doorkeepers.all))
    }

    async fn doorkeepers<'a>(&self, current: &'a Current) -> Result<Option<&'a Doorkeepers>, OpenError> {
        if let Some(opened) = current.doorkeepers.get() {
            return Ok(Some(opened));
        }
        let Some(deployment) = self.store.deployment().await? else { return Ok(None) };
        if let Some(bound) = self.store.place().await? {
            self.check_place(&bound)?;
        }
        let open = async || Ok::<_, OpenError>(self.open(current, self.snapshots(deployment)?));
        Ok(Some(current.doorkeepers.get_or_try_init(open).await?))
    }

    /// Whether this is where the deployment is bound to be.
    pub(crate) fn check_place(&self, bound: &Place) -> Result<(), OpenError> {
        let Some(told) = &self.place else { return Ok(()) };
        if bound.network != told.network {
            return Err(OpenError::OtherNetwork { bound: bound.network.clone(), told: told.network.clone() });
        }
        if bound.table != told.table {
            return Err(OpenError::OtherTable { bound: bound.table.clone(), told: told.table.clone() });
        }
        Ok(())
    }

    pub(crate) fn open(&self, current: &Current, snapshots: Snapshots) -> Doorkeepers {
        let (settings, snapshots) = (&current.settings, Arc::new(snapshots));
        let doorkeeper = |network: Arc<dyn Network>| {
            Doorkeeper::new(Parts {
                store: self.store.clone(),
                snapshots: snapshots.clone(),
                network,
                nudges: self.adapters.nudges.clone(),
                clock: self.adapters.clock.clone(),
                randomness: self.adapters.randomness.clone(),
                policy: settings.policy.clone(),
                policy_revision: current.revision,
            })
        };
        let (network, clock) = (&self.adapters.network, &self.adapters.clock);
        let Some(limits) = settings.rate_limits else {
            return Doorkeepers { all: Arc::new(doorkeeper(network.clone())), removals: None };
        };
        let paced = Arc::new(Paced::new(network.clone(), self.store.clone(), clock.clone(), limits));
        let last = doorkeeper(Arc::new(paced.for_removals()));
        Doorkeepers { all: Arc::new(doorkeeper(paced.clone())), removals: Some((paced, last)) }
    }

    /// The deployment's snapshots.
    pub(crate) fn snapshots(&self, deployment: DeploymentId) -> Result<Snapshots, OpenError> {
        let (table, clock, randomness) = (&self.adapters.table, &self.adapters.clock, &self.adapters.randomness);
        let keys: Arc<dyn DataKeys> = match &self.adapters.data_key {
            DataKeySource::Kms(client, id) => Arc::new(KmsDataKeys::new(client.clone(), id, deployment.clone())),
            DataKeySource::File(path) => {
                let opened = FileDataKeys::open(path, deployment.clone(), randomness.clone());
                Arc::new(opened.map_err(|source| OpenError::KeyFile { path: path.clone(), source })?)
            }
            DataKeySource::Other(keys) => keys.clone(),
        };
        Ok(Snapshots::new(table.clone(), keys, deployment, clock.clone(), randomness.clone()))
    }
}

#[cfg(test)]
mod tests;
