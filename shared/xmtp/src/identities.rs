//! Verified identity logs: who belonged to an inbox after which entry.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use crate::{
    identity::{AssociationError, AssociationState, InboxId, InstallationId, SmartWalletVerifier, VerifierError},
    network::{FailureKind, LoggedUpdate, Network, NetworkError},
};

/// Identity logs that were read from the network and verified, entry by entry.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    logs: BTreeMap<InboxId, BTreeMap<u64, AssociationState>>,
    refused: BTreeMap<InboxId, String>,
}

/// Why an inbox's identity log could not be read. That a log breaks the rules is no error: such an inbox simply has no
/// state.
#[derive(Debug, thiserror::Error)]
pub enum IdentitiesError {
    /// The network did not answer.
    #[error("identity logs cannot be read")]
    Network(#[from] NetworkError),
    /// A smart-contract wallet's signature could not be checked now.
    #[error("the identity log of inbox {inbox} cannot be verified now")]
    Unverifiable {
        /// Whose log.
        inbox: InboxId,
        /// Why.
        source: AssociationError,
    },
}

impl Identities {
    /// Reads and verifies the whole logs of `inboxes` that are not known yet. That one cannot be read or verified now
    /// does not keep the others from being known.
    pub async fn load(
        &mut self,
        network: &dyn Network,
        inboxes: impl IntoIterator<Item = &InboxId>,
    ) -> Result<(), IdentitiesError> {
        let unknown: BTreeSet<&InboxId> = inboxes.into_iter().filter(|inbox| !self.logs.contains_key(*inbox)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let wanted: Vec<(InboxId, u64)> = unknown.into_iter().map(|inbox| (inbox.clone(), 0)).collect();
        let mut loaded = Ok(());
        for (inbox, log) in read(network, wanted).await? {
            let log = match log {
                Ok(log) => log,
                Err(too_large) => {
                    loaded = Err(too_large.into());
                    continue;
                }
            };
            let (states, refusal) = verify(&log, &inbox, network).await;
            match refusal {
                Some(source) if source.is_retryable() => {
                    loaded = Err(IdentitiesError::Unverifiable { inbox, source });
                    continue;
                }
                Some(refused) => _ = self.refused.insert(inbox.clone(), refused.to_string()),
                None => {}
            }
            self.logs.insert(inbox, states);
        }
        loaded
    }

    /// Of these inboxes, those whose logs have entries after the given ones. Nothing is verified or kept.
    pub async fn changed(
        network: &dyn Network,
        known: &[(InboxId, u64)],
    ) -> Result<BTreeSet<InboxId>, IdentitiesError> {
        if known.is_empty() {
            return Ok(BTreeSet::new());
        }
        let news = read(network, known.to_vec()).await?;
        let changed = news.into_iter().filter(|(_, news)| news.as_ref().map_or(true, |news| !news.is_empty()));
        Ok(changed.map(|(inbox, _)| inbox).collect())
    }

    /// Whether the log of an inbox was loaded, be it good or not.
    pub fn knows(&self, inbox: &InboxId) -> bool {
        self.logs.contains_key(inbox)
    }

    /// The inboxes that were loaded and have a state, with each entry of their logs.
    pub fn iter(&self) -> impl Iterator<Item = (&InboxId, impl Iterator<Item = (u64, &AssociationState)>)> {
        self.logs.iter().map(|(inbox, log)| (inbox, log.iter().map(|(sequence_id, state)| (*sequence_id, state))))
    }

    /// The state of an inbox after exactly this entry of its log. (libxmtp resolves no other number.)
    pub fn at(&self, inbox: &InboxId, sequence_id: u64) -> Option<&AssociationState> {
        self.logs.get(inbox)?.get(&sequence_id)
    }

    /// The newest state of an inbox, and its entry.
    pub fn latest(&self, inbox: &InboxId) -> Option<(u64, &AssociationState)> {
        if self.refused.contains_key(inbox) {
            return None;
        }
        self.logs.get(inbox)?.last_key_value().map(|(sequence_id, state)| (*sequence_id, state))
    }

    /// Why a loaded inbox has no state, if its log breaks the rules.
    pub fn refusal(&self, inbox: &InboxId) -> Option<&str> {
        self.refused.get(inbox).map(String::as_str)
    }

    /// Whether the log has entries after `old`, up to `new`.
    pub(crate) fn has_entries_between(&self, inbox: &InboxId, old: u64, new: u64) -> bool {
        self.logs.get(inbox).is_some_and(|log| old < new && log.range(old + 1..=new).next().is_some())
    }

    /// Loads the logs of `inboxes`, again if `needed` names an entry that is newer than what was loaded.
    pub(crate) async fn load_up_to(
        &mut self,
        network: &dyn Network,
        inboxes: &BTreeSet<InboxId>,
        needed: &BTreeMap<InboxId, u64>,
    ) -> Result<(), IdentitiesError> {
        for inbox in inboxes {
            let newest = self.logs.get(inbox).and_then(|log| log.last_key_value()).map_or(0, |(newest, _)| *newest);
            if needed.get(inbox).is_some_and(|needed| *needed > newest) {
                self.logs.remove(inbox);
                self.refused.remove(inbox);
            }
        }
        self.load(network, inboxes).await
    }

    pub(crate) fn installations_at(&self, inbox: &InboxId, sequence_id: u64) -> Option<BTreeSet<InstallationId>> {
        self.at(inbox, sequence_id).map(AssociationState::installations)
    }
}

/// The log entries of each inbox after the given one. Logs that are too large to be read together are read apart: only
/// one that is too large by itself is not read. (A log may have 256 entries of 4 MB.)
async fn read(
    network: &dyn Network,
    wanted: Vec<(InboxId, u64)>,
) -> Result<Vec<(InboxId, Result<Vec<LoggedUpdate>, NetworkError>)>, NetworkError> {
    let mut logs = Vec::with_capacity(wanted.len());
    let mut parts = vec![wanted];
    while let Some(mut part) = parts.pop() {
        match network.identity_updates(&part).await {
            Ok(found) => logs.extend(part.into_iter().map(|(inbox, _)| inbox).zip(found.into_iter().map(Ok))),
            Err(error) if error.kind == FailureKind::TooLarge => match part.as_slice() {
                [(inbox, _)] => logs.push((inbox.clone(), Err(error))),
                _ => {
                    let half = part.split_off(part.len() / 2);
                    parts.extend([part, half]);
                }
            },
            Err(error) => return Err(error),
        }
    }
    Ok(logs)
}

/// The state after each entry, up to the first that breaks a rule: what came before it stays true.
async fn verify(
    log: &[LoggedUpdate],
    inbox: &InboxId,
    network: &dyn Network,
) -> (BTreeMap<u64, AssociationState>, Option<AssociationError>) {
    let wallets = NodeVerifier(network);
    let mut states = BTreeMap::new();
    let mut state = None;
    for entry in log {
        let next = match AssociationState::apply(state, &entry.update, &wallets).await {
            Ok(next) if next.inbox_id() == inbox => next,
            Ok(_) => return (states, Some(AssociationError::WrongInboxId)),
            Err(error) => return (states, Some(error)),
        };
        states.insert(entry.sequence_id, next.clone());
        state = Some(next);
    }
    (states, None)
}

/// Smart-contract wallets are checked by the node, as libxmtp's bindings do.
struct NodeVerifier<'a>(&'a dyn Network);

#[async_trait]
impl SmartWalletVerifier for NodeVerifier<'_> {
    async fn verify(
        &self,
        account_id: &str,
        block_number: Option<u64>,
        hash: [u8; 32],
        signature: &[u8],
    ) -> Result<bool, VerifierError> {
        self.0
            .verify_smart_wallet_signature(account_id, block_number, hash, signature)
            .await
            .map_err(|error| VerifierError::Unavailable(Box::new(error)))
    }
}
