//! An account: one installation of one inbox, with all that it must keep between calls.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use futures::future::BoxFuture;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use openmls::key_packages::errors::KeyPackageNewError;
use prost::Message;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    GroupId,
    identities::{Identities, IdentitiesError},
    identity::{
        InboxId, InstallationId, InstallationKey, SignerError, WalletSigner, add_installation_update,
        create_inbox_update, revoke_update,
    },
    key_package::{self, Wrapping},
    network::{Cursor, GroupMessage, Network, NetworkError},
    ports::{Clock, Randomness, random},
    proto::state,
    provider::{Provider, StorageCodecError, Values},
};

/// libxmtp refuses to register more installations in one inbox.
pub const INSTALLATIONS_MAX: usize = 10;
/// Nodes refuse to make an inbox's log longer.
pub const IDENTITY_UPDATES_MAX: usize = 256;
/// The nonce SDKs derive an inbox id with.
pub const NONCE: u64 = 1;

const DAY_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
/// libxmtp's rotation interval.
const KEY_PACKAGE_AGE_MAX_NS: u64 = 30 * DAY_NS;
/// How long a welcome for a replaced package can still be opened. libxmtp keeps one day; a sleeping service, longer.
const REPLACED_KEY_PACKAGE_KEPT_NS: u64 = 7 * DAY_NS;

/// One installation of one inbox. Dropping it loses nothing that [`Account::encode`] wrote.
pub struct Account {
    inbox: InboxId,
    key: InstallationKey,
    sequence_id: u64,
    siblings: Vec<InstallationId>,
    pub(crate) key_packages: Vec<state::KeyPackage>,
    /// The node may not have the newest key package yet.
    awaiting_upload: bool,
    pub(crate) provider: Provider,
    pub(crate) welcomes: Cursor,
    hmac_root: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("inbox", &self.inbox).field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why an account cannot be made, registered or read.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The network failed; the step can be repeated.
    #[error("the network did not take the account")]
    Network(#[from] NetworkError),
    /// The inbox's log could not be read.
    #[error("the inbox's log cannot be read")]
    Identities(#[from] IdentitiesError),
    /// The wallet did not sign.
    #[error("the wallet did not sign")]
    Wallet(#[from] SignerError),
    /// The inbox has as many installations as XMTP clients allow.
    #[error("inbox {0} has {INSTALLATIONS_MAX} installations: revoke one first")]
    TooManyInstallations(InboxId),
    /// The inbox's log is full.
    #[error("inbox {0} has used its {IDENTITY_UPDATES_MAX} identity updates: use another wallet")]
    LogFull(InboxId),
    /// The wallet is not a member of the inbox.
    #[error("wallet {wallet} does not belong to inbox {inbox}")]
    ForeignWallet {
        /// The wallet that would sign.
        wallet: Address,
        /// The account's inbox.
        inbox: InboxId,
    },
    /// The identity log does not show the installation after publishing it.
    #[error("the network does not show the installation yet")]
    NotVisible,
    /// openmls did not make a key package.
    #[error("a key package cannot be made")]
    KeyPackage(#[from] KeyPackageNewError),
    /// What is to be decoded is not an account.
    #[error("this is no encoded account: {0}")]
    Malformed(String),
    /// A stored MLS value cannot be read.
    #[error("an MLS value of the account cannot be read")]
    Storage(#[from] StorageCodecError),
}

/// The inbox of a wallet: the one the network knows and the wallet really belongs to, else the one that
/// [`Account::register`] would create.
pub async fn inbox_of(wallet: Address, network: &dyn Network) -> Result<InboxId, AccountError> {
    if let Some(inbox) = network.inbox_ids(&[wallet]).await?.into_iter().flatten().next() {
        let mut identities = Identities::default();
        identities.load(network, [&inbox]).await?;
        if identities.latest(&inbox).is_some_and(|(_, state)| state.addresses().contains(&wallet)) {
            return Ok(inbox);
        }
    }
    Ok(InboxId::of_wallet(wallet, NONCE))
}

impl Account {
    /// Keys for a new installation. Nothing is published; store the account before [`Account::register`].
    pub fn new(inbox: InboxId, clock: &dyn Clock, randomness: &dyn Randomness) -> Result<Self, AccountError> {
        let mut account = Self {
            inbox,
            key: InstallationKey::generate(Zeroizing::new(random(randomness))),
            sequence_id: 0,
            siblings: Vec::new(),
            key_packages: Vec::new(),
            awaiting_upload: true,
            provider: Provider::default(),
            welcomes: Cursor::default(),
            hmac_root: Zeroizing::new(random::<42>(randomness).to_vec()),
        };
        account.rotate_key_package(Wrapping::XWing, clock, randomness)?;
        Ok(account)
    }

    /// Uploads the key package, publishes the installation with the wallet's signature and reads the log back. May be
    /// repeated after a failure at any point: what is there is not published again.
    pub fn register<'a>(
        &'a mut self,
        wallet: &'a dyn WalletSigner,
        network: &'a dyn Network,
        clock: &'a dyn Clock,
    ) -> BoxFuture<'a, Result<(), AccountError>> {
        Box::pin(async move {
            // Peers that find an installation without a key package list it as failed and do not look again.
            self.upload_key_package(network).await?;
            if !self.read_back(network).await? {
                let update = self.registration(wallet, network, clock).await?;
                network.publish_identity_update(update).await?;
                if !self.read_back(network).await? {
                    return Err(AccountError::NotVisible);
                }
            }
            Ok(())
        })
    }

    async fn registration(
        &self,
        wallet: &dyn WalletSigner,
        network: &dyn Network,
        clock: &dyn Clock,
    ) -> Result<crate::proto::associations::IdentityUpdate, AccountError> {
        self.check_log(network, 1).await?;
        let mut identities = Identities::default();
        identities.load(network, [&self.inbox]).await?;
        let foreign = || AccountError::ForeignWallet { wallet: wallet.address(), inbox: self.inbox.clone() };
        let Some((_, state)) = identities.latest(&self.inbox) else {
            if InboxId::of_wallet(wallet.address(), NONCE) != self.inbox {
                return Err(foreign());
            }
            return Ok(create_inbox_update(wallet, NONCE, &self.key, clock.now_ns()).await?);
        };
        if !state.addresses().contains(&wallet.address()) {
            return Err(foreign());
        }
        if state.installations().len() >= INSTALLATIONS_MAX {
            return Err(AccountError::TooManyInstallations(self.inbox.clone()));
        }
        Ok(add_installation_update(&self.inbox, wallet, &self.key, clock.now_ns()).await?)
    }

    /// Whether the log lists this installation; remembers the newest entry.
    async fn read_back(&mut self, network: &dyn Network) -> Result<bool, AccountError> {
        let mut identities = Identities::default();
        identities.load(network, [&self.inbox]).await?;
        let Some((sequence_id, state)) = identities.latest(&self.inbox) else { return Ok(false) };
        let mut installations = state.installations();
        if !installations.remove(&self.key.public()) {
            return Ok(false);
        }
        self.sequence_id = sequence_id;
        self.siblings = installations.into_iter().collect();
        Ok(true)
    }

    /// Takes installations out of the inbox's log, with the wallet's signature, and reads the log back. May be repeated
    /// after a failure at any point: what is out is not revoked again. The wallet has to be the inbox's recovery
    /// identifier, as the one that created it is.
    pub fn revoke<'a>(
        &'a mut self,
        installations: &'a BTreeSet<InstallationId>,
        wallet: &'a dyn WalletSigner,
        network: &'a dyn Network,
        clock: &'a dyn Clock,
    ) -> BoxFuture<'a, Result<(), AccountError>> {
        Box::pin(async move {
            let listed = |account: &Self| -> BTreeSet<InstallationId> {
                account.siblings.iter().filter(|id| installations.contains(*id)).copied().collect()
            };
            if !self.read_back(network).await? {
                return Err(AccountError::NotVisible);
            }
            let listed_before = listed(self);
            if listed_before.is_empty() {
                return Ok(());
            }
            self.check_log(network, 1).await?;
            let revoked = listed_before.into_iter().map(Into::into);
            let update = revoke_update(&self.inbox, wallet, revoked, clock.now_ns()).await?;
            network.publish_identity_update(update).await?;
            if self.read_back(network).await? && listed(self).is_empty() {
                Ok(())
            } else {
                Err(AccountError::NotVisible)
            }
        })
    }

    /// Fails if the inbox's log does not take so many more entries.
    async fn check_log(&self, network: &dyn Network, entries: usize) -> Result<(), AccountError> {
        let log = network.identity_updates(&[(self.inbox.clone(), 0)]).await?;
        let full = log.iter().any(|log| log.len() + entries > IDENTITY_UPDATES_MAX);
        if full { Err(AccountError::LogFull(self.inbox.clone())) } else { Ok(()) }
    }

    /// Makes the current key package the one the node serves. Store the account afterwards, lest it be uploaded again.
    pub fn upload_key_package<'a>(&'a mut self, network: &'a dyn Network) -> BoxFuture<'a, Result<(), AccountError>> {
        Box::pin(async move {
            network.upload_key_package(self.key_packages[0].key_package.clone()).await?;
            self.awaiting_upload = false;
            Ok(())
        })
    }

    /// Whether the node may not have the current key package yet.
    pub fn awaits_upload(&self) -> bool {
        self.awaiting_upload
    }

    /// Whether the key package should be replaced: it is a month old.
    pub fn key_package_is_old(&self, clock: &dyn Clock) -> bool {
        clock.now_ns().saturating_sub(self.key_packages[0].created_ns) > KEY_PACKAGE_AGE_MAX_NS
    }

    /// Makes a new key package and forgets those replaced long ago. Store the account, then upload.
    pub fn rotate_key_package(
        &mut self,
        wrapping: Wrapping,
        clock: &dyn Clock,
        randomness: &dyn Randomness,
    ) -> Result<(), AccountError> {
        let now_ns = clock.now_ns();
        let package = key_package::generate(&self.provider, &self.inbox, &self.key, wrapping, now_ns, randomness)?;
        self.key_packages.insert(0, package);
        self.awaiting_upload = true;
        // Newest first: a package was replaced when the one before it was made.
        let kept = 1 + self
            .key_packages
            .iter()
            .take_while(|successor| now_ns.saturating_sub(successor.created_ns) <= REPLACED_KEY_PACKAGE_KEPT_NS)
            .count();
        for package in self.key_packages.split_off(kept.min(self.key_packages.len())) {
            key_package::forget(&self.provider, &package);
        }
        Ok(())
    }

    /// The inbox this installation belongs to.
    pub fn inbox(&self) -> &InboxId {
        &self.inbox
    }

    /// This installation.
    pub fn installation(&self) -> InstallationId {
        self.key.public()
    }

    /// Whether the network showed this installation in its inbox's log.
    pub fn is_registered(&self) -> bool {
        self.sequence_id != 0
    }

    /// The newest known entry of the inbox's identity log; 0 before registration.
    pub fn sequence_id(&self) -> u64 {
        self.sequence_id
    }

    /// The inbox's other installations at that entry.
    pub fn siblings(&self) -> &[InstallationId] {
        &self.siblings
    }

    pub(crate) fn key(&self) -> &InstallationKey {
        &self.key
    }

    /// The HMAC by which a push server recognises our own messages (libxmtp's derivation, 30-day epochs).
    pub(crate) fn sender_hmac(&self, group: GroupId, message: &[u8], now_ns: u64) -> Vec<u8> {
        let epoch = i64::try_from(now_ns / (30 * DAY_NS)).unwrap_or(i64::MAX);
        let input = [self.hmac_root.as_slice(), &group.0].concat();
        let info = [group.0.as_slice(), &epoch.to_le_bytes()].concat();
        let mut key = Zeroizing::new([0; 42]);
        Hkdf::<Sha256>::new(Some(b"libXMTP HKDF salt!"), &input)
            .expand(&info, key.as_mut_slice())
            .expect("42 bytes are within HKDF's bound");
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).expect("HMAC takes keys of any length");
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    }

    /// Whether this account sent a message that it does not remember. MLS cannot tell: any member can make a message
    /// that claims our leaf. But only the account's secret makes the HMAC that went with it.
    pub(crate) fn sent(&self, group: GroupId, message: &GroupMessage) -> bool {
        // The node's clock and ours may stand on two sides of an epoch's end.
        let epochs = [message.created_ns.saturating_sub(DAY_NS), message.created_ns.saturating_add(DAY_NS)];
        epochs.iter().any(|now_ns| self.sender_hmac(group, &message.data, *now_ns) == message.sender_hmac)
    }

    /// The account as bytes: private keys in clear. Seal them before storing them.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, AccountError> {
        let mut account = state::Account {
            inbox_id: self.inbox.to_string(),
            installation_seed: self.key.seed().to_vec(),
            sequence_id: self.sequence_id,
            siblings: self.siblings.iter().map(|id| id.as_bytes().to_vec()).collect(),
            key_packages: self.key_packages.clone(),
            welcomes: Some(encode_cursor(&self.welcomes)),
            hmac_root: self.hmac_root.to_vec(),
            mls: encode_values(self.provider.encode()?),
            awaiting_upload: self.awaiting_upload,
        };
        let bytes = Zeroizing::new(account.encode_to_vec());
        account.installation_seed.zeroize();
        account.hmac_root.zeroize();
        account.key_packages.iter_mut().for_each(|package| package.xwing_private_key.zeroize());
        wipe(&mut account.mls);
        Ok(bytes)
    }

    /// The account that [`Account::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, AccountError> {
        let malformed = |what: &str| AccountError::Malformed(what.to_owned());
        let account = state::Account::decode(bytes).map_err(|error| malformed(&error.to_string()))?;
        let seed = Zeroizing::new(account.installation_seed);
        let seed: Zeroizing<[u8; 32]> =
            Zeroizing::new(seed.as_slice().try_into().map_err(|_| malformed("the seed is not 32 bytes"))?);
        if account.key_packages.is_empty() {
            return Err(malformed("no key package"));
        }
        let sibling = |id: Vec<u8>| id.as_slice().try_into().map_err(|_| malformed("a sibling's id"));
        Ok(Self {
            inbox: account.inbox_id.parse().map_err(|_| malformed("the inbox id"))?,
            key: InstallationKey::from_seed(&seed),
            sequence_id: account.sequence_id,
            siblings: account.siblings.into_iter().map(sibling).collect::<Result<_, _>>()?,
            key_packages: account.key_packages,
            awaiting_upload: account.awaiting_upload,
            provider: Provider::decode(decode_values(account.mls))?,
            welcomes: decode_cursor(account.welcomes),
            hmac_root: Zeroizing::new(account.hmac_root),
        })
    }
}

/// Overwrites values that were copied to be encoded.
pub(crate) fn wipe(values: &mut [state::MlsValue]) {
    values.iter_mut().for_each(|entry| entry.value.zeroize());
}

pub(crate) fn encode_values(values: Values) -> Vec<state::MlsValue> {
    values.into_iter().map(|(key, value)| state::MlsValue { key, value }).collect()
}

pub(crate) fn decode_values(values: Vec<state::MlsValue>) -> Values {
    values.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

pub(crate) fn encode_cursor(cursor: &Cursor) -> state::Cursor {
    state::Cursor { sequence_ids: cursor.0.clone() }
}

pub(crate) fn decode_cursor(cursor: Option<state::Cursor>) -> Cursor {
    Cursor(cursor.unwrap_or_default().sequence_ids)
}
