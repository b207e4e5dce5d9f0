//! A member with a modified client: openmls with none of XMTP's rules.

use openmls::{
    credentials::{BasicCredential, Credential, CredentialType, CredentialWithKey},
    extensions::{ApplicationIdExtension, Extension, ExtensionType, Extensions, LastResortExtension, UnknownExtension},
    framing::{MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, ProtocolMessage},
    group::{GroupContext, MlsGroup, MlsGroupJoinConfig, StagedWelcome},
    key_packages::{KeyPackage, KeyPackageBundle, Lifetime},
    prelude::{Capabilities, Ciphersuite, LeafNodeIndex, ProposalType},
};
use openmls_memory_storage::MemoryStorage;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;
use prost::Message as _;
use tls_codec::{Deserialize as _, Serialize as _};
use usher_xmtp::{
    GroupId,
    identity::{InboxId, InstallationKey, WalletSigner as _, create_inbox_update},
    network::{GroupMessage, Network},
    proto::{MlsCredential, mls_api::welcome_message},
    wrapper::{self, WrapperAlgorithm},
};

use crate::cast::{NOW_NS, wallet};

/// XMTP's one ciphersuite.
pub const CIPHERSUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
/// XMTP's group context extensions: immutable metadata, mutable metadata, membership, permissions.
pub const GROUP_EXTENSIONS: [u16; 4] = [0xf000, 0xff00, 0xff01, 0xff02];
/// XMTP's key package extensions: the key that welcomes are wrapped to, and whether pointers are followed.
pub const KEY_PACKAGE_EXTENSIONS: [u16; 2] = [0xff03, 0xff04];
/// Three months, in seconds.
const LIFETIME_S: u64 = 90 * 24 * 60 * 60;

/// Crypto, randomness and storage.
#[derive(Default)]
pub struct Provider {
    crypto: RustCrypto,
    storage: MemoryStorage,
}

impl OpenMlsProvider for Provider {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = MemoryStorage;

    fn storage(&self) -> &MemoryStorage {
        &self.storage
    }

    fn crypto(&self) -> &RustCrypto {
        &self.crypto
    }

    fn rand(&self) -> &RustCrypto {
        &self.crypto
    }
}

/// What a key package says. [`Shape::default`] is what XMTP's clients write, with the X25519 wrapper.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The bytes of the leaf's basic credential; `None` for the inbox's.
    pub credential: Option<Vec<u8>>,
    /// What the leaf supports.
    pub capabilities: Capabilities,
    /// Extensions besides last_resort.
    pub extensions: Vec<(u16, Vec<u8>)>,
    /// Extensions of the leaf besides application_id.
    pub leaf_extensions: Vec<(u16, Vec<u8>)>,
    /// From when to when it may be used, in seconds since 1970.
    pub lifetime: Lifetime,
}

impl Default for Shape {
    fn default() -> Self {
        let unknown = GROUP_EXTENSIONS.into_iter().chain(KEY_PACKAGE_EXTENSIONS).map(ExtensionType::Unknown);
        let capabilities = Capabilities::builder()
            .ciphersuites(vec![CIPHERSUITE])
            .extensions(unknown.chain([ExtensionType::LastResort, ExtensionType::ApplicationId]).collect())
            .proposals(vec![ProposalType::GroupContextExtensions])
            .credentials(vec![CredentialType::Basic])
            .build();
        let lifetime = Lifetime::new(LIFETIME_S);
        Self { credential: None, capabilities, extensions: Vec::new(), leaf_extensions: Vec::new(), lifetime }
    }
}

/// An installation that signs whatever it likes.
#[derive(Clone)]
pub struct Device {
    /// Its inbox.
    pub inbox: InboxId,
    /// Its key.
    pub key: InstallationKey,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("inbox", &self.inbox).field("key", &self.key).finish()
    }
}

impl Device {
    /// The first device of person number `number`, in his inbox's log.
    pub async fn publish(number: u8, network: &dyn Network) -> Self {
        let (wallet, key) = (wallet(number), InstallationKey::from_seed(&[number; 32]));
        let update = create_inbox_update(&wallet, usher_xmtp::NONCE, &key, NOW_NS).await.expect("the wallet signs");
        let inbox = InboxId::of_wallet(wallet.address(), usher_xmtp::NONCE);
        network.publish_identity_update(update).await.expect("the network takes everything");
        Self { inbox, key }
    }

    /// Its credential, with these bytes or those that XMTP asks for.
    pub fn credential(&self, bytes: Option<Vec<u8>>) -> CredentialWithKey {
        let ours = MlsCredential { inbox_id: self.inbox.to_string() };
        let credential = BasicCredential::new(bytes.unwrap_or_else(|| ours.encode_to_vec()));
        CredentialWithKey {
            credential: Credential::from(credential),
            signature_key: self.key.public().as_bytes().to_vec().into(),
        }
    }

    /// A key package of this shape, validly signed; `None` if openmls knows that it is not one.
    pub fn key_package(&self, shape: Shape, provider: &Provider) -> Option<KeyPackageBundle> {
        let unknown = |(kind, bytes): (u16, Vec<u8>)| Extension::Unknown(kind, UnknownExtension(bytes));
        let mut extensions = vec![Extension::LastResort(LastResortExtension::default())];
        extensions.extend(shape.extensions.into_iter().map(unknown));
        let application_id = ApplicationIdExtension::new(self.inbox.as_str().as_bytes());
        let mut leaf_extensions = vec![Extension::ApplicationId(application_id)];
        leaf_extensions.extend(shape.leaf_extensions.into_iter().map(unknown));
        KeyPackage::builder()
            .key_package_lifetime(shape.lifetime)
            .leaf_node_capabilities(shape.capabilities)
            .leaf_node_extensions(Extensions::from_vec(leaf_extensions).ok()?)
            .key_package_extensions(Extensions::from_vec(extensions).ok()?)
            .build(CIPHERSUITE, provider, &self.key.mls_signer(), self.credential(shape.credential))
            .ok()
    }
}

/// A member with a modified client.
pub struct Rogue {
    /// Who it is.
    pub device: Device,
    /// Its storage.
    pub provider: Provider,
    /// The group as it sees it.
    pub group: MlsGroup,
}

impl std::fmt::Debug for Rogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rogue").field("device", &self.device).finish_non_exhaustive()
    }
}

/// What is needed to be let in.
#[derive(Debug)]
pub struct Candidate {
    /// Who it is.
    pub device: Device,
    storage: MemoryStorage,
    init_key: Vec<u8>,
}

impl Candidate {
    /// Puts a proper key package on the network.
    pub async fn apply(device: Device, network: &dyn Network) -> Self {
        let provider = Provider::default();
        let bundle = device.key_package(Shape::default(), &provider).expect("the default shape is a key package");
        let bytes = bundle.key_package().tls_serialize_detached().expect("it serializes into memory");
        network.upload_key_package(bytes).await.expect("the network takes key packages");
        Self { device, storage: provider.storage, init_key: bundle.init_private_key().to_vec() }
    }

    /// The MLS Welcomes that were sent, oldest first.
    pub async fn welcomes(&self, network: &dyn Network) -> Vec<Vec<u8>> {
        let sent = network.welcomes(*self.device.key.public().as_bytes(), 0).await.expect("it answers");
        let open = |version| match version {
            Some(welcome_message::Version::V1(v1)) => {
                let curve = WrapperAlgorithm::Curve25519;
                wrapper::unwrap(curve, &self.init_key, &v1.data, &v1.welcome_metadata).ok()
            }
            _ => None,
        };
        sent.into_iter().filter_map(|welcome| open(welcome.version)).map(|opened| opened.data).collect()
    }

    /// Joins a group by the newest welcome to it. A candidate can do so again and again.
    pub async fn join(&self, id: GroupId, network: &dyn Network) -> Option<Rogue> {
        let welcomes = self.welcomes(network).await;
        welcomes
            .iter()
            .rev()
            .find_map(|welcome| self.join_by(welcome).filter(|it| it.group.group_id().as_slice() == id.0))
    }

    fn join_by(&self, welcome: &[u8]) -> Option<Rogue> {
        let MlsMessageBodyIn::Welcome(welcome) = MlsMessageIn::tls_deserialize_exact(welcome).ok()?.extract() else {
            return None;
        };
        let provider = copied(&self.storage);
        let config = MlsGroupJoinConfig::builder().max_past_epochs(3).use_ratchet_tree_extension(true).build();
        let staged = StagedWelcome::new_from_welcome(&provider, &config, welcome, None).ok()?;
        let group = staged.into_group(&provider).ok()?;
        Some(Rogue { device: self.device.clone(), provider, group })
    }
}

/// A provider with a copy of what is stored.
fn copied(storage: &MemoryStorage) -> Provider {
    let provider = Provider::default();
    let stored = storage.values.read().expect("no holder of this lock panics");
    provider.storage.values.write().expect("no holder of this lock panics").clone_from(&stored);
    provider
}

impl Rogue {
    /// A copy that goes its own way.
    pub fn copied(&self) -> Self {
        let provider = copied(&self.provider.storage);
        let group = MlsGroup::load(&provider.storage, self.group.group_id()).ok().flatten();
        Self { device: self.device.clone(), provider, group: group.expect("it is stored") }
    }

    /// Follows a group's log: merges what openmls takes of what counts.
    pub fn follow(&mut self, log: &[GroupMessage], counts: impl Fn(&GroupMessage) -> bool) {
        for message in log.iter().filter(|message| counts(message)) {
            let Ok(message) = MlsMessageIn::tls_deserialize_exact(&message.data) else { continue };
            let Ok(message) = ProtocolMessage::try_from(message) else { continue };
            let Ok(processed) = self.group.process_message(&self.provider, message) else { continue };
            if let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() {
                self.group.merge_staged_commit(&self.provider, *staged).expect("memory takes it");
            }
        }
    }

    /// A commit of whatever openmls lets one propose; not merged. `None` if it does not.
    pub fn commit(
        &mut self,
        adds: Vec<KeyPackage>,
        removes: Vec<LeafNodeIndex>,
        extensions: Extensions<GroupContext>,
    ) -> Option<Vec<u8>> {
        let changed = extensions != *self.group.extensions();
        let mut builder = self.group.commit_builder().propose_adds(adds).propose_removals(removes);
        if changed {
            builder = builder.propose_group_context_extensions(extensions).ok()?;
        }
        let bundle = builder
            .force_self_update(true)
            .load_psks(self.provider.storage())
            .ok()?
            .build(self.provider.rand(), self.provider.crypto(), &self.device.key.mls_signer(), |_| true)
            .ok()?
            .stage_commit(&self.provider)
            .ok()?;
        bundle.into_commit().to_bytes().ok()
    }

    /// Encrypts whatever bytes as application data.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let message = self.group.create_message(&self.provider, &self.device.key.mls_signer(), plaintext);
        message.expect("a member can send").to_bytes().expect("it serializes into memory")
    }
}
