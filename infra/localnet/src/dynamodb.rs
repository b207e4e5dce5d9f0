//! DynamoDB on a loopback port: the dynoxide emulator, in memory or in an SQLite file.
//!
//! It does not emulate stale reads, `TransactionConflictException` and `TransactionInProgressException`; tests that
//! need those inject them at the store's port.

use std::{net::SocketAddr, path::Path, time::Duration};

use dynoxide::Database;
use futures::future::BoxFuture;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::loopback::{ListenError, listen};

/// How long a stop waits for requests that somebody began and never finished.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A running DynamoDB.
#[derive(Debug)]
pub struct DynamoDb {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), String>>,
}

/// DynamoDB could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port cannot be had.
    #[error("DynamoDB has no port")]
    Port(#[from] ListenError),
    /// The database cannot be opened.
    #[error("DynamoDB's database cannot be opened")]
    Database(#[source] dynoxide::DynoxideError),
    /// The path of the database is not UTF-8, which the emulator asks for.
    #[error("DynamoDB's database has a path that is not UTF-8")]
    Path,
}

impl DynamoDb {
    /// Serves `port` of 127.0.0.1 (0 takes any free one) from the SQLite file `state`, or from memory.
    ///
    /// # Errors
    /// The port is taken or the file cannot be opened.
    pub fn start(port: u16, state: Option<&Path>) -> BoxFuture<'_, Result<Self, StartError>> {
        Box::pin(async move {
            let database = match state {
                Some(path) => Database::new(path.to_str().ok_or(StartError::Path)?),
                None => Database::memory(),
            }
            .map_err(StartError::Database)?;
            let listener = listen(port).await?;
            let address = listener.local_addr().map_err(|source| ListenError::new(port, source))?;
            let (stop, stopped) = oneshot::channel::<()>();
            let stopped = async move { stopped.await.unwrap_or_default() };
            let task = tokio::spawn(dynoxide::server::serve_with_shutdown(listener, database, stopped));
            Ok(Self { address, stop, task })
        })
    }

    /// What the SDK takes as endpoint.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets running requests finish and closes the database.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        match tokio::time::timeout(STOP_PATIENCE, self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "DynamoDB ended badly"),
            Ok(Err(error)) => tracing::warn!(%error, "DynamoDB ended badly"),
            Err(_) => tracing::warn!("DynamoDB was left with a request that never ends"),
        }
    }
}
