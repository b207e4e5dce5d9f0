//! A member with a modified client: openmls with none of XMTP's rules.

use openmls::{
    credentials::{BasicCredential, Credential, CredentialType, CredentialWithKey},
    extensions::{ApplicationIdExtension, Extension, ExtensionType, Extensions, LastResortExtension, UnknownExtension},
    framing::{MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, ProtocolMessage},
    group::{MlsGroup, MlsGroupJoinConfig, StagedWelcome},
    key_packages::{KeyPackage, KeyPackageBundle, Lifetime},
    prelude::{Capabilities, Ciphersuite, ProposalType},
};
use openmls_memory_storage::MemoryStorage;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;
use prost::Message as _;
use tls_codec::{Deserialize as _, Serialize as _};
use usher_xmtp::{
    GroupId,
    identity::{InboxId, InstallationKey, WalletSigner as _, create_inbox_update},
    network::Network as _,
    proto::{MlsCredential, mls_api::welcome_message},
    wrapper::{self, WrapperAlgorithm},
};

use crate::{
    cast::{NOW_NS, wallet},
    network::MemoryNetwork,
};

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
    pub async fn publish(number: u8, network: &MemoryNetwork) -> Self {
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
    pub async fn apply(device: Device, network: &MemoryNetwork) -> Self {
        let provider = Provider::default();
        let bundle = device.key_package(Shape::default(), &provider).expect("the default shape is a key package");
        let bytes = bundle.key_package().tls_serialize_detached().expect("it serializes into memory");
        network.upload_key_package(bytes).await.expect("the network takes key packages");
        Self { device, storage: provider.storage, init_key: bundle.init_private_key().to_vec() }
    }

    /// The MLS Welcome that was sent.
    pub async fn welcome(&self, network: &MemoryNetwork) -> Vec<u8> {
        let welcomes = network.welcomes(*self.device.key.public().as_bytes(), 0).await.expect("it answers");
        let Some(welcome_message::Version::V1(v1)) = welcomes.into_iter().find_map(|welcome| welcome.version) else {
            panic!("no welcome came");
        };
        let opened = wrapper::unwrap(WrapperAlgorithm::Curve25519, &self.init_key, &v1.data, &v1.welcome_metadata);
        opened.expect("it was wrapped for us").data
    }

    /// Joins by the welcome that was sent.
    pub async fn join(self, network: &MemoryNetwork) -> Rogue {
        let welcome = self.welcome(network).await;
        let MlsMessageBodyIn::Welcome(welcome) =
            MlsMessageIn::tls_deserialize_exact(&welcome).expect("it is a message").extract()
        else {
            panic!("not a welcome");
        };
        let provider = Provider { storage: self.storage, ..Provider::default() };
        let config = MlsGroupJoinConfig::builder().max_past_epochs(3).use_ratchet_tree_extension(true).build();
        let group = StagedWelcome::new_from_welcome(&provider, &config, welcome, None)
            .and_then(|staged| staged.into_group(&provider))
            .expect("the welcome is good");
        Rogue { device: self.device, provider, group }
    }
}

impl Rogue {
    /// A copy that goes its own way.
    pub fn copied(&self) -> Self {
        let provider = Provider::default();
        let stored = self.provider.storage.values.read().expect("no holder of this lock panics");
        provider.storage.values.write().expect("no holder of this lock panics").clone_from(&stored);
        let group = MlsGroup::load(&provider.storage, self.group.group_id()).ok().flatten();
        Self { device: self.device.clone(), provider, group: group.expect("it is stored") }
    }

    /// Follows the log from its start: merges what openmls takes.
    pub fn follow(&mut self, group: GroupId, network: &MemoryNetwork) {
        for message in network.log(group) {
            let Ok(message) = MlsMessageIn::tls_deserialize_exact(&message.data) else { continue };
            let Ok(message) = ProtocolMessage::try_from(message) else { continue };
            let Ok(processed) = self.group.process_message(&self.provider, message) else { continue };
            if let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() {
                self.group.merge_staged_commit(&self.provider, *staged).expect("memory takes it");
            }
        }
    }

    /// Encrypts whatever bytes as application data.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let message = self.group.create_message(&self.provider, &self.device.key.mls_signer(), plaintext);
        message.expect("a member can send").to_bytes().expect("it serializes into memory")
    }
}
