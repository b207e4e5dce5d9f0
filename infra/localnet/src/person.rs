//! A person with an XMTP client of our own, for demonstrations and tests.
//!
//! Between calls a person keeps nothing but encoded state: every call decodes it, works and encodes it again, as a
//! function does on a cold start.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::Address;
use futures::future::LocalBoxFuture;
use usher_xmtp::{
    Account, AccountError, Group, GroupError, GroupId, Identities, Invitation, NewGroup, V3, WelcomeError, Welcomed,
    Wrapping,
    content::{self, Content, Outgoing},
    group::{ChangeError, Event, MetadataChange, WalkError},
    identity::{InboxId, InstallationId, LocalWallet, SignerError, WalletSigner, revoke_update},
    network::{Network, NetworkError},
    policy::Policies,
    ports::{Clock, Randomness},
};
use zeroize::Zeroizing;

use crate::ambient::{Ambient, SystemClock};

/// How often a change is tried again when another member's commit came first.
const ATTEMPTS_MAX: usize = 10;

/// What can go wrong for a person.
#[derive(Debug, thiserror::Error)]
pub enum PersonError {
    /// The node's address is wrong.
    #[error(transparent)]
    Address(#[from] usher_xmtp::AddressError),
    /// See the source.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// See the source.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// See the source.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// See the source.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// See the source.
    #[error(transparent)]
    Welcome(#[from] WelcomeError),
    /// See the source.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// See the source.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The person is not in that group.
    #[error("not in group {0}")]
    NotIn(GroupId),
    /// Others were always faster.
    #[error("group {0}: {ATTEMPTS_MAX} commits in a row came too late")]
    TooBusy(GroupId),
}

/// A person, his wallet and the encoded state of his XMTP client.
pub struct Person {
    wallet: LocalWallet,
    network: Arc<dyn Network>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    account: Zeroizing<Vec<u8>>,
    groups: BTreeMap<GroupId, Zeroizing<Vec<u8>>>,
    /// The last state in which the person was a member: what somebody who does not play fair would keep.
    hoarded: BTreeMap<GroupId, Zeroizing<Vec<u8>>>,
    events: BTreeMap<GroupId, Vec<Event>>,
    dropped: Vec<String>,
}

impl std::fmt::Debug for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Person").field("wallet", &self.wallet.address()).finish_non_exhaustive()
    }
}

impl Person {
    /// Registers an installation for the wallet with this private key.
    pub async fn register(private_key: &[u8; 32], xmtp_url: &str) -> Result<Self, PersonError> {
        let network = Arc::new(V3::new(xmtp_url, Duration::from_secs(10))?);
        Self::register_on(network, private_key, Arc::new(SystemClock), Arc::new(Ambient)).await
    }

    /// The same, on any network and with surroundings of the caller's.
    pub fn register_on(
        network: Arc<dyn Network>,
        private_key: &[u8; 32],
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
    ) -> LocalBoxFuture<'_, Result<Self, PersonError>> {
        Box::pin(async move {
            let wallet = LocalWallet::from_key(private_key).expect("the caller's key is a secp256k1 key");
            let inbox = usher_xmtp::inbox_of(wallet.address(), &*network).await?;
            let mut account = Account::new(inbox, &*clock, &*randomness)?;
            account.register(&wallet, &*network, &*clock).await?;
            let account = account.encode()?;
            Ok(Self {
                wallet,
                network,
                clock,
                randomness,
                account,
                groups: BTreeMap::new(),
                hoarded: BTreeMap::new(),
                events: BTreeMap::new(),
                dropped: Vec::new(),
            })
        })
    }

    /// The wallet's address.
    pub fn address(&self) -> Address {
        self.wallet.address()
    }

    /// The person's inbox.
    pub fn inbox(&self) -> Result<InboxId, PersonError> {
        Ok(self.account()?.inbox().clone())
    }

    /// The person's installation.
    pub fn installation(&self) -> Result<InstallationId, PersonError> {
        Ok(self.account()?.installation())
    }

    fn account(&self) -> Result<Account, PersonError> {
        Ok(Account::decode(&self.account)?)
    }

    /// A group as the person last saw it.
    pub fn group(&self, id: GroupId) -> Result<Group, PersonError> {
        Ok(Group::decode(self.groups.get(&id).ok_or(PersonError::NotIn(id))?)?)
    }

    /// The groups the person is or was in.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied()
    }

    /// What the person can still read of a group with the keys from when he was last a member.
    pub async fn overhear(&self, id: GroupId) -> Result<Vec<String>, PersonError> {
        let group = Group::decode(self.hoarded.get(&id).ok_or(PersonError::NotIn(id))?)?;
        let heard = group.overhear(&*self.network).await?;
        let text = |content| match content {
            Content::Text(text) => Some(text),
            _ => None,
        };
        Ok(heard.into_iter().filter_map(text).collect())
    }

    /// Throws the state of all groups away. The person stays a member and cannot read any more.
    pub fn forget_groups(&mut self) {
        self.groups.clear();
        self.events.clear();
    }

    /// Why welcomes were dropped.
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// All that the person has met in a group's log.
    pub fn events(&self, id: GroupId) -> &[Event] {
        self.events.get(&id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The texts the person has read in a group, oldest first.
    pub fn texts(&self, id: GroupId) -> Vec<String> {
        let text = |event: &Event| match event {
            Event::Received(received) => match &received.content {
                Content::Text(text) => Some(text.clone()),
                _ => None,
            },
            _ => None,
        };
        self.events(id).iter().filter_map(text).collect()
    }

    fn keep(&mut self, group: &Group) -> Result<(), PersonError> {
        let encoded = group.encode()?;
        if group.lost().is_none() {
            self.hoarded.insert(group.id(), encoded.clone());
        }
        self.groups.insert(group.id(), encoded);
        Ok(())
    }

    /// Reads welcomes and the logs of all groups.
    pub fn sync(&mut self) -> LocalBoxFuture<'_, Result<(), PersonError>> {
        Box::pin(async move {
            let mut account = self.account()?;
            let mut identities = Identities::default();
            let mut welcomed = Welcomed::default();
            account.receive_welcomes(&*self.network, &mut identities, &mut welcomed, |_: &Invitation| true).await?;
            self.account = account.encode()?;
            self.dropped.extend(welcomed.dropped.into_iter().map(|dropped| dropped.reason));
            for group in welcomed.joined {
                // A second welcome to a group that still works is an echo of the first.
                let working =
                    self.group(group.id()).is_ok_and(|known| known.lost().is_none() && known.epoch() >= group.epoch());
                if !working {
                    self.keep(&group)?;
                }
            }
            for id in self.groups.keys().copied().collect::<Vec<_>>() {
                self.sync_group(id).await?;
            }
            Ok(())
        })
    }

    async fn sync_group(&mut self, id: GroupId) -> Result<Group, PersonError> {
        let mut group = self.group(id)?;
        let mut events = Vec::new();
        let result = group.sync(&self.account()?, &*self.network, &mut Identities::default(), &mut events).await;
        self.events.entry(id).or_default().extend(events);
        self.keep(&group)?;
        result?;
        if group.has_welcomes() {
            let sent = group.send_welcomes_unchecked(&*self.network, &*self.randomness).await?;
            group.clear_welcomes(&sent);
            self.keep(&group)?;
        }
        Ok(group)
    }

    /// Makes a group with these members.
    pub fn create_group<'a>(
        &'a mut self,
        name: &'a str,
        policies: Policies,
        members: &'a BTreeSet<InboxId>,
    ) -> LocalBoxFuture<'a, Result<GroupId, PersonError>> {
        Box::pin(async move {
            let new = NewGroup { name: name.to_owned(), description: String::new(), policies };
            let group = Group::create(&self.account()?, new, &*self.randomness)?;
            let id = group.id();
            self.keep(&group)?;
            self.change_members(id, members, &BTreeSet::new()).await?;
            Ok(id)
        })
    }

    /// Adds and removes members in one commit.
    pub fn change_members<'a>(
        &'a mut self,
        id: GroupId,
        add: &'a BTreeSet<InboxId>,
        remove: &'a BTreeSet<InboxId>,
    ) -> LocalBoxFuture<'a, Result<(), PersonError>> {
        Box::pin(async move {
            self.commit(id, async |group, account, network, identities| {
                let change = group.membership_change(account, network, identities, add, remove).await?;
                group.stage_membership(account, network, identities, change).await
            })
            .await
        })
    }

    /// Changes names, texts or roles.
    pub fn change_metadata<'a>(
        &'a mut self,
        id: GroupId,
        change: &'a MetadataChange,
    ) -> LocalBoxFuture<'a, Result<(), PersonError>> {
        Box::pin(async move {
            self.commit(id, async |group, account, network, identities| {
                group.stage_metadata(account, network, identities, change.clone()).await
            })
            .await
        })
    }

    /// Renews the person's keys in a group.
    pub fn update_keys(&mut self, id: GroupId) -> LocalBoxFuture<'_, Result<(), PersonError>> {
        Box::pin(async move {
            self.commit(id, async |group, account, network, identities| {
                group.stage_key_update(account, network, identities).await
            })
            .await
        })
    }

    /// Syncs, stages, stores, publishes, syncs; again if somebody else's commit came first.
    async fn commit(
        &mut self,
        id: GroupId,
        stage: impl AsyncFn(&mut Group, &Account, &dyn Network, &mut Identities) -> Result<(), ChangeError>,
    ) -> Result<(), PersonError> {
        let account = self.account()?;
        let network = self.network.clone();
        for _ in 0..ATTEMPTS_MAX {
            let mut group = self.sync_group(id).await?;
            stage(&mut group, &account, &*network, &mut Identities::default()).await?;
            self.keep(&group)?;
            let epoch = group.epoch();
            let commit = self.group(id)?.pending_commit(&account, &*self.clock).expect("just staged");
            network.send_group_messages(vec![commit]).await?;
            let before = self.events(id).len();
            group = self.sync_group(id).await?;
            let superseded = self.events(id)[before..].contains(&Event::Superseded);
            if !superseded && group.epoch() > epoch {
                return Ok(());
            }
        }
        Err(PersonError::TooBusy(id))
    }

    /// What libxmtp's clients do before they send something: takes note of members' new and given-up devices, and adds
    /// and removes their leaves.
    pub fn update_installations(&mut self, id: GroupId) -> LocalBoxFuture<'_, Result<(), PersonError>> {
        Box::pin(async move {
            let group = self.sync_group(id).await?;
            let (account, none) = (self.account()?, BTreeSet::new());
            let mut identities = Identities::default();
            let change = group.membership_change(&account, &*self.network, &mut identities, &none, &none).await?;
            if change.set.is_empty() { Ok(()) } else { self.change_members(id, &none, &none).await }
        })
    }

    /// Says something in a group.
    pub async fn send_text(&mut self, id: GroupId, text: &str) -> Result<(), PersonError> {
        self.send(id, &content::encode_text(text, &self.idempotency_key())).await
    }

    /// Asks to be removed from a group.
    pub fn leave(&mut self, id: GroupId) -> LocalBoxFuture<'_, Result<(), PersonError>> {
        Box::pin(async move { self.send(id, &content::encode_leave_request(&self.idempotency_key())).await })
    }

    /// Sends a message of the person's own with its last bit turned: what another member can forge in his name.
    pub async fn send_forgery(&mut self, id: GroupId) -> Result<(), PersonError> {
        let mut group = self.group(id)?;
        let message = content::encode_text("never said", &self.idempotency_key());
        let mut forgery = group.encrypt(&self.account()?, &message, &*self.clock)?;
        *forgery.data.last_mut().expect("a message has bytes") ^= 1;
        Ok(self.network.send_group_messages(vec![forgery]).await?)
    }

    /// The encoded state of all groups.
    pub fn snapshot(&self) -> BTreeMap<GroupId, Zeroizing<Vec<u8>>> {
        self.groups.clone()
    }

    /// Puts the state of all groups back to what it was: what must not happen.
    pub fn restore(&mut self, groups: BTreeMap<GroupId, Zeroizing<Vec<u8>>>) {
        self.groups = groups;
    }

    /// Asks to leave, behind a forgery: the same message with its last bit turned, as a member can send to spoil it.
    pub async fn leave_behind_forgery(&mut self, id: GroupId) -> Result<(), PersonError> {
        let mut group = self.group(id)?;
        let request = content::encode_leave_request(&self.idempotency_key());
        let message = group.encrypt(&self.account()?, &request, &*self.clock)?;
        self.keep(&group)?;
        let mut forgery = message.clone();
        *forgery.data.last_mut().expect("a message has bytes") ^= 1;
        for message in [forgery, message] {
            self.network.send_group_messages(vec![message]).await?;
        }
        Ok(())
    }

    /// Says something with the keys the person has, as a client that has not heard of the newest commits does.
    pub async fn send_text_unsynced(&mut self, id: GroupId, text: &str) -> Result<(), PersonError> {
        let group = self.group(id)?;
        self.publish(group, &content::encode_text(text, &self.idempotency_key())).await
    }

    fn send<'a>(&'a mut self, id: GroupId, message: &'a Outgoing) -> LocalBoxFuture<'a, Result<(), PersonError>> {
        Box::pin(async move {
            let group = self.sync_group(id).await?;
            self.publish(group, message).await
        })
    }

    async fn publish(&mut self, mut group: Group, message: &Outgoing) -> Result<(), PersonError> {
        let message = group.encrypt(&self.account()?, message, &*self.clock)?;
        self.keep(&group)?;
        Ok(self.network.send_group_messages(vec![message]).await?)
    }

    /// Revokes another installation of the person's inbox.
    pub fn revoke(&self, installation: InstallationId) -> LocalBoxFuture<'_, Result<(), PersonError>> {
        Box::pin(async move {
            let inbox = self.inbox()?;
            let update = revoke_update(&inbox, &self.wallet, [installation.into()], self.clock.now_ns()).await?;
            Ok(self.network.publish_identity_update(update).await?)
        })
    }

    /// Replaces the key package, as libxmtp's clients do after joining.
    pub fn rotate_key_package(&mut self, wrapping: Wrapping) -> LocalBoxFuture<'_, Result<(), PersonError>> {
        Box::pin(async move {
            let mut account = self.account()?;
            account.rotate_key_package(wrapping, &*self.clock, &*self.randomness)?;
            self.account = account.encode()?;
            account.upload_key_package(&*self.network).await?;
            self.account = account.encode()?;
            Ok(())
        })
    }

    /// SDKs use the time of day, too.
    fn idempotency_key(&self) -> String {
        let mut salt = [0; 8];
        self.randomness.fill(&mut salt);
        format!("{}-{}", self.clock.now_ns(), u64::from_le_bytes(salt))
    }
}
