//! KMS as a process meets it.

use std::sync::Arc;

use async_trait::async_trait;
use usher_store::{
    DataKeys, FileDataKeys, Owner,
    keys::{DataKey, KeyError, Plain},
};

use crate::{faults::Fault, process::Process, watch::Watch};

pub(crate) struct SimKeys {
    pub(crate) keys: Arc<FileDataKeys>,
    pub(crate) process: Arc<Process>,
    pub(crate) watch: Arc<Watch>,
}

impl SimKeys {
    async fn call<R>(
        &self,
        port: &'static str,
        effect: impl Future<Output = Result<R, KeyError>>,
    ) -> Result<R, KeyError> {
        self.process.before(port).await;
        let refused = {
            let mut state = self.process.shared.lock();
            let refused = state.now_ms < state.grant_revoked_until_ms;
            if refused {
                state.tally.meet(Fault::Refused, port);
            }
            refused
        };
        if refused {
            return Err(KeyError::Refused("AccessDeniedException: simulated".to_owned()));
        }
        if self.process.meets(Fault::Unanswered, port) {
            return Err(KeyError::Unavailable(Arc::new(std::io::Error::other("simulated"))));
        }
        let key = effect.await;
        if self.process.meets(Fault::AnswerLost, port) {
            return Err(KeyError::Unavailable(Arc::new(std::io::Error::other("simulated"))));
        }
        self.process.after(port).await;
        key
    }
}

#[async_trait]
impl DataKeys for SimKeys {
    async fn generate(&self, owner: &Owner) -> Result<DataKey, KeyError> {
        let made = self.call("generate_data_key", self.keys.generate(owner)).await?;
        self.watch.never_store(made.plain.to_vec());
        Ok(made)
    }

    async fn unwrap(&self, owner: &Owner, wrapped: &[u8]) -> Result<Plain, KeyError> {
        self.call("unwrap_data_key", self.keys.unwrap(owner, wrapped)).await
    }
}
