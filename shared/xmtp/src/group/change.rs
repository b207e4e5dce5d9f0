//! Changing a group: one commit, built and checked, then stored before it is published.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;
use openmls::{framing::Sender, prelude::LeafNodeIndex};
use openmls_traits::OpenMlsProvider;
use sha2::{Digest, Sha256};

use super::{
    Group, InvalidCommit, Lost, SENT_MAX,
    validate::{CommitView, leaves},
};
use crate::{
    Account,
    content::Outgoing,
    extensions::{ExtensionError, GroupExtensions},
    identities::{Identities, IdentitiesError},
    identity::{InboxId, InstallationId},
    key_package::{KeyPackageError, MemberKeyPackage},
    network::{Network, NetworkError, OutgoingMessage},
    policy::Policies,
    ports::Clock,
    proto::state,
};

/// A change of who is in a group, as one commit.
#[derive(Debug, Clone, Default)]
pub struct MembershipChange {
    /// Inboxes to add or to take note of a later identity log entry of, with that entry.
    pub set: BTreeMap<InboxId, u64>,
    /// Inboxes to remove.
    pub remove: BTreeSet<InboxId>,
    /// Installations to add; each belongs to an inbox that is a member afterwards.
    pub add_installations: Vec<MemberKeyPackage>,
    /// Installations to remove.
    pub remove_installations: BTreeSet<InstallationId>,
    /// Installations of members that cannot be added, as the whole new list.
    pub failed_installations: BTreeSet<InstallationId>,
}

/// A change of names, texts and roles, as one commit. What is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataChange {
    /// Attributes and their new values.
    pub attributes: BTreeMap<String, String>,
    /// Inboxes to append to the admin list.
    pub add_admins: BTreeSet<InboxId>,
    /// Inboxes to delete from the admin list.
    pub remove_admins: BTreeSet<InboxId>,
    /// Inboxes to append to the super admin list.
    pub add_super_admins: BTreeSet<InboxId>,
    /// Inboxes to delete from the super admin list.
    pub remove_super_admins: BTreeSet<InboxId>,
}

/// Why a group cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A stored commit waits for the log's decision: publish it again and sync.
    #[error("a stored commit is still pending")]
    Pending,
    /// The group can never be written again.
    #[error("the group is lost: {0}")]
    Lost(Lost),
    /// Members would refuse the commit, so it was not made.
    #[error("members would refuse the commit")]
    Invalid(#[from] InvalidCommit),
    /// The commit would keep others from joining, so it was not made.
    #[error("nobody could join after the commit because of inbox {0}")]
    Damaging(InboxId),
    /// The commit would add a leaf whose inbox is no member, so it was not made.
    #[error("installation {0} would have a leaf without being a member's")]
    Planting(InstallationId),
    /// Too many messages were sent without reading the log: sync first.
    #[error("too many messages were sent since the log was read")]
    Unread,
    /// Removes would name somebody without a leaf.
    #[error("installation {0} has no leaf")]
    NoLeaf(InstallationId),
    /// The own extensions cannot be written.
    #[error("the group's extensions cannot be used")]
    Extensions(#[from] ExtensionError),
    /// Identity logs could not be read.
    #[error("identity logs cannot be read")]
    Identities(#[from] IdentitiesError),
    /// Nothing of an inbox that is to be added can be added.
    #[error("inbox {inbox} has no usable installation")]
    NoUsableInstallation {
        /// Which inbox.
        inbox: InboxId,
        /// Why each of its installations cannot be used.
        reasons: Vec<(InstallationId, KeyPackageError)>,
    },
    /// The network failed.
    #[error("the network failed")]
    Network(#[from] NetworkError),
    /// openmls refused.
    #[error("openmls refused: {0}")]
    Mls(String),
}

fn mls(error: impl std::fmt::Debug) -> ChangeError {
    ChangeError::Mls(format!("{error:?}"))
}

impl Group {
    /// The change that adds and removes these inboxes with all their installations and takes note of new devices of
    /// those who stay, computed from the newest identity logs and key packages as libxmtp computes it. An installation
    /// without a usable key package is listed as failed; an inbox without any is refused.
    pub fn membership_change<'a>(
        &'a self,
        account: &'a Account,
        network: &'a dyn Network,
        identities: &'a mut Identities,
        add: &'a BTreeSet<InboxId>,
        remove: &'a BTreeSet<InboxId>,
    ) -> BoxFuture<'a, Result<MembershipChange, ChangeError>> {
        Box::pin(async move {
            let membership = self.membership();
            // A log that has not moved on since the group took note of it has nothing to say, and need not be verified.
            let known: Vec<(InboxId, u64)> =
                membership.members.iter().map(|(inbox, sequence_id)| (inbox.clone(), *sequence_id)).collect();
            let mut concerned = Identities::changed(network, &known).await?;
            concerned.extend(add.iter().filter(|inbox| !membership.members.contains_key(*inbox)).cloned());
            identities.load(network, concerned.iter().chain(remove)).await?;
            let mut change = MembershipChange { remove: remove.clone(), ..MembershipChange::default() };
            let mut wanted: Vec<(InboxId, InstallationId)> = Vec::new();
            let mut gone: BTreeSet<InstallationId> = BTreeSet::new();
            for inbox in concerned.difference(remove) {
                let Some((latest, state)) = identities.latest(inbox) else {
                    return Err(InvalidCommit::MissingIdentityUpdate(inbox.clone(), 0).into());
                };
                let stored = membership.members.get(inbox).copied();
                if stored.is_some_and(|stored| stored >= latest) {
                    continue;
                }
                let before = stored.and_then(|id| identities.installations_at(inbox, id)).unwrap_or_default();
                let after = state.installations();
                wanted.extend(after.difference(&before).map(|id| (inbox.clone(), *id)));
                gone.extend(before.difference(&after));
                change.set.insert(inbox.clone(), latest);
            }
            for inbox in remove.iter().filter(|inbox| membership.members.contains_key(*inbox)) {
                let stored = membership.members[inbox];
                gone.extend(identities.installations_at(inbox, stored).unwrap_or_default());
            }
            wanted.retain(|(_, installation)| *installation != account.installation());
            let mut failed = membership.failed_installations.clone();
            let reasons = self.fetch(network, wanted, &mut change, &mut failed).await?;
            if let Some(inbox) = change.set.keys().find(|inbox| {
                add.contains(*inbox)
                    && !change.add_installations.iter().any(|package| package.inbox() == **inbox)
                    && *inbox != account.inbox()
            }) {
                let reasons = reasons.get(inbox).cloned().unwrap_or_default();
                return Err(ChangeError::NoUsableInstallation { inbox: inbox.clone(), reasons });
            }
            // Every installation that leaves is either removed from the tree or listed as failed, never neither or both.
            let present: BTreeSet<InstallationId> = leaves(&self.mls).iter().map(|leaf| leaf.installation).collect();
            for installation in gone {
                if present.contains(&installation) {
                    failed.remove(&installation);
                    change.remove_installations.insert(installation);
                } else {
                    failed.insert(installation);
                }
            }
            for package in &change.add_installations {
                failed.remove(&package.installation());
            }
            change.failed_installations = failed;
            Ok(change)
        })
    }

    /// Fetches and checks the key packages of `wanted`: usable ones go into the change, others into `failed`.
    async fn fetch(
        &self,
        network: &dyn Network,
        wanted: Vec<(InboxId, InstallationId)>,
        change: &mut MembershipChange,
        failed: &mut BTreeSet<InstallationId>,
    ) -> Result<BTreeMap<InboxId, Vec<(InstallationId, KeyPackageError)>>, ChangeError> {
        let mut reasons: BTreeMap<InboxId, Vec<(InstallationId, KeyPackageError)>> = BTreeMap::new();
        if wanted.is_empty() {
            return Ok(reasons);
        }
        let ids: Vec<InstallationId> = wanted.iter().map(|(_, installation)| *installation).collect();
        let packages = network.key_packages(&ids).await?;
        for ((inbox, installation), bytes) in wanted.into_iter().zip(packages) {
            let verified = bytes
                .ok_or(KeyPackageError::Missing)
                .and_then(|bytes| MemberKeyPackage::verify(&bytes, &inbox, installation));
            match verified {
                Ok(package) => change.add_installations.push(package),
                Err(reason) => {
                    failed.insert(installation);
                    reasons.entry(inbox).or_default().push((installation, reason));
                }
            }
        }
        Ok(reasons)
    }

    /// Makes a membership change's commit. Store the group, then publish.
    pub async fn stage_membership(
        &mut self,
        account: &Account,
        network: &dyn Network,
        identities: &mut Identities,
        change: MembershipChange,
    ) -> Result<(), ChangeError> {
        let mut extensions = self.extensions();
        extensions.membership.members.retain(|inbox, _| !change.remove.contains(inbox));
        extensions.membership.members.extend(change.set);
        extensions.membership.failed_installations = change.failed_installations;
        self.stage(account, network, identities, extensions, change.add_installations, &change.remove_installations)
            .await
    }

    /// Makes the commit of a change of names, texts or roles. Store the group, then publish.
    pub async fn stage_metadata(
        &mut self,
        account: &Account,
        network: &dyn Network,
        identities: &mut Identities,
        change: MetadataChange,
    ) -> Result<(), ChangeError> {
        let mut extensions = self.extensions();
        let metadata = &mut extensions.mutable;
        metadata.attributes.extend(change.attributes);
        metadata.admins.extend(change.add_admins);
        metadata.admins.retain(|inbox| !change.remove_admins.contains(inbox));
        metadata.super_admins.extend(change.add_super_admins);
        metadata.super_admins.retain(|inbox| !change.remove_super_admins.contains(inbox));
        self.stage(account, network, identities, extensions, Vec::new(), &BTreeSet::new()).await
    }

    /// Makes the commit that replaces the policies. Store the group, then publish.
    pub async fn stage_policies(
        &mut self,
        account: &Account,
        network: &dyn Network,
        identities: &mut Identities,
        policies: Policies,
    ) -> Result<(), ChangeError> {
        let mut extensions = self.extensions();
        extensions.policies = policies;
        self.stage(account, network, identities, extensions, Vec::new(), &BTreeSet::new()).await
    }

    /// Makes a commit that only renews this member's keys. Store the group, then publish.
    pub async fn stage_key_update(
        &mut self,
        account: &Account,
        network: &dyn Network,
        identities: &mut Identities,
    ) -> Result<(), ChangeError> {
        let extensions = self.extensions();
        self.stage(account, network, identities, extensions, Vec::new(), &BTreeSet::new()).await
    }

    fn check_writable(&self) -> Result<(), ChangeError> {
        match &self.lost {
            Some(lost) => Err(ChangeError::Lost(lost.clone())),
            None if !self.mls.is_active() => Err(ChangeError::Lost(Lost::Ejected)),
            None => Ok(()),
        }
    }

    fn stage<'a>(
        &'a mut self,
        account: &'a Account,
        network: &'a dyn Network,
        identities: &'a mut Identities,
        extensions: GroupExtensions,
        add: Vec<MemberKeyPackage>,
        remove: &'a BTreeSet<InstallationId>,
    ) -> BoxFuture<'a, Result<(), ChangeError>> {
        Box::pin(async move {
            self.check_writable()?;
            if self.pending.is_some() {
                return Err(ChangeError::Pending);
            }
            let before = self.provider.values();
            let staged = match self.build(account, &extensions, &add, remove) {
                Ok(staged) => self.check_own(network, identities).await.map(|()| staged),
                Err(error) => Err(error),
            };
            match staged {
                Ok((commit, welcome)) => {
                    let recipients = add.into_iter().map(|package| package.recipient).collect();
                    let welcome = welcome.map(|data| state::Welcome { data, recipients, commit_id: 0 });
                    self.remember_sent(Sha256::digest(&commit).into());
                    self.pending = Some(state::PendingCommit { epoch: self.epoch(), data: commit, welcome });
                    Ok(())
                }
                Err(error) => {
                    self.restore(before);
                    Err(error)
                }
            }
        })
    }

    /// The commit and the welcome, as TLS-serialized MLSMessages; the group is left with the commit pending.
    fn build(
        &mut self,
        account: &Account,
        extensions: &GroupExtensions,
        add: &[MemberKeyPackage],
        remove: &BTreeSet<InstallationId>,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), ChangeError> {
        let updated = extensions.update(self.mls.extensions())?;
        let leaves = self.leaf_indices(remove)?;
        let changed = &updated != self.mls.extensions();
        let key_packages: Vec<_> = add.iter().map(|package| package.key_package.clone()).collect();
        let mut builder =
            self.mls.commit_builder().consume_proposal_store(false).propose_adds(key_packages).propose_removals(leaves);
        if changed {
            builder = builder.propose_group_context_extensions(updated).map_err(mls)?;
        }
        let bundle = builder
            .force_self_update(true)
            .load_psks(self.provider.storage())
            .map_err(mls)?
            .build(self.provider.rand(), self.provider.crypto(), &account.key().mls_signer(), |_| true)
            .map_err(mls)?
            .stage_commit(&self.provider)
            .map_err(mls)?;
        let commit = bundle.commit().to_bytes().map_err(mls)?;
        let welcome = bundle.to_welcome_msg().map(|welcome| welcome.to_bytes()).transpose().map_err(mls)?;
        Ok((commit, welcome))
    }

    fn leaf_indices(&self, installations: &BTreeSet<InstallationId>) -> Result<Vec<LeafNodeIndex>, ChangeError> {
        let by_key: BTreeMap<Vec<u8>, LeafNodeIndex> =
            self.mls.members().map(|member| (member.signature_key, member.index)).collect();
        let index = |id: &InstallationId| by_key.get(id.as_bytes().as_slice()).copied().ok_or(ChangeError::NoLeaf(*id));
        installations.iter().map(index).collect()
    }

    /// Our own commit must pass every rule that members have, and those of who joins afterwards.
    async fn check_own(&self, network: &dyn Network, identities: &mut Identities) -> Result<(), ChangeError> {
        let staged = self.mls.pending_commit().expect("just staged");
        let view = CommitView::new(&self.mls, staged, &Sender::Member(self.mls.own_leaf_index()))?;
        identities.load(network, &view.inboxes_to_verify()).await?;
        view.check(identities)?;
        // Damage that was there before is mended in commits of its own; it must not stop a removal.
        if let Some(inbox) = view.damage(identities).into_iter().find(|inbox| !self.damaged.contains(inbox)) {
            return Err(ChangeError::Damaging(inbox));
        }
        match view.planted().into_iter().next() {
            Some(installation) => Err(ChangeError::Planting(installation)),
            None => Ok(()),
        }
    }

    /// The bytes of the stored commit. The same bytes are sent again and again until the log has decided.
    pub fn pending_commit(&self, account: &Account, clock: &dyn Clock) -> Option<OutgoingMessage> {
        let pending = self.pending.as_ref()?;
        let sender_hmac = account.sender_hmac(self.id, &pending.data, clock.now_ns());
        Some(OutgoingMessage { data: pending.data.clone(), sender_hmac, should_push: false })
    }

    /// Encrypts a message. Store the group before sending it: a ratchet generation used twice gives its key away.
    pub fn encrypt(
        &mut self,
        account: &Account,
        message: &Outgoing,
        clock: &dyn Clock,
    ) -> Result<OutgoingMessage, ChangeError> {
        self.check_writable()?;
        if self.sent.len() >= SENT_MAX {
            return Err(ChangeError::Unread);
        }
        let data = self
            .mls
            .create_message(&self.provider, &account.key().mls_signer(), &message.plaintext)
            .map_err(mls)?
            .to_bytes()
            .map_err(mls)?;
        self.remember_sent(Sha256::digest(&data).into());
        let sender_hmac = account.sender_hmac(self.id, &data, clock.now_ns());
        Ok(OutgoingMessage { data, sender_hmac, should_push: message.should_push })
    }

    /// Puts the MLS state back to `before`.
    pub(super) fn restore(&mut self, before: crate::provider::Values) {
        self.provider = crate::provider::Provider::with_values(before);
        self.mls = Self::load(self.id, &self.provider).ok().flatten().expect("this state was loaded before");
    }
}
