//! What the rules are asked with: random names, MLS messages, key packages, wallets.

use openmls::{
    credentials::{BasicCredential, CredentialWithKey},
    group::{GroupId, MlsGroup, MlsGroupCreateConfig, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY},
    key_packages::{KeyPackage, Lifetime},
    prelude::tls_codec::Serialize,
    prelude::{Ciphersuite, LeafNodeParameters, WireFormatPolicy},
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use prost::Message;
use usher_localnet::ambient::Ambient;
use usher_xmtp::{
    identity::{InboxId, InstallationKey, LocalWallet, WalletSigner, create_inbox_update},
    ports::Randomness,
    proto::{MlsCredential, associations::IdentityUpdate},
};

pub(crate) const CIPHERSUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

/// 2026-01-01. Clients' clocks mean nothing to a node.
pub(crate) const CLIENT_NS: u64 = 1_767_225_600_000_000_000;
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    Ambient.fill(&mut bytes);
    bytes
}

/// A topic that no other rule uses.
pub(crate) fn random_group() -> Vec<u8> {
    random::<16>().to_vec()
}

/// The content types of an MLSMessage (RFC 9420, section 6).
#[derive(Clone, Copy)]
pub(crate) enum Content {
    Application = 1,
    Proposal = 2,
    Commit = 3,
}

/// The length that stands before a vector (RFC 9420, section 2.1.2): as few bytes as do, or it is refused.
fn length(bytes: usize) -> Vec<u8> {
    match u32::try_from(bytes).unwrap() {
        short @ 0..0x40 => short.to_be_bytes()[3..].to_vec(),
        medium @ 0x40..0x4000 => (0x4000 | medium).to_be_bytes()[2..].to_vec(),
        long => (0x8000_0000 | long).to_be_bytes().to_vec(),
    }
}

fn vector(bytes: &[u8]) -> Vec<u8> {
    [&length(bytes.len()), bytes].concat()
}

/// The head of an MLSMessage up to and with the epoch.
pub(crate) fn head(version: u16, wire_format: u16, group_id: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes()[..], &wire_format.to_be_bytes(), &vector(group_id), &7_u64.to_be_bytes()].concat()
}

/// A well-formed PrivateMessage of a group nobody has, with a random ciphertext.
pub(crate) fn private_message(group_id: &[u8], content: Content) -> Vec<u8> {
    private_message_of_type(group_id, content as u8)
}

pub(crate) fn private_message_of_type(group_id: &[u8], content_type: u8) -> Vec<u8> {
    let ciphertext = random::<48>();
    [&head(1, 2, group_id)[..], &[content_type], &vector(&[]), &vector(&random::<16>()), &vector(&ciphertext)].concat()
}

/// A PrivateMessage of `len` bytes.
pub(crate) fn private_message_of_len(group_id: &[u8], len: usize) -> Vec<u8> {
    let before = [&head(1, 2, group_id)[..], &[1], &vector(&[]), &vector(&random::<16>())].concat();
    let left = len - before.len();
    let ciphertext = left - length(left).len();
    let mut message = [before, length(ciphertext)].concat();
    message.resize(len, 0xcc);
    message
}

/// An installation that was never registered.
pub(crate) fn installation() -> InstallationKey {
    InstallationKey::from_seed(&random())
}

pub(crate) fn wallet() -> LocalWallet {
    LocalWallet::from_key(&random()).unwrap()
}

/// The wallet's address as identity logs spell it.
pub(crate) fn address(wallet: &LocalWallet) -> String {
    format!("{:#x}", wallet.address())
}

/// A new inbox of a new wallet with one installation, and the update that makes it.
pub(crate) struct Person {
    pub(crate) wallet: LocalWallet,
    pub(crate) key: InstallationKey,
    pub(crate) inbox: InboxId,
    pub(crate) creation: IdentityUpdate,
}

impl Person {
    pub(crate) async fn new() -> Self {
        let (wallet, key) = (wallet(), installation());
        let creation = create_inbox_update(&wallet, 1, &key, CLIENT_NS).await.unwrap();
        let inbox = creation.inbox_id.parse().unwrap();
        Self { wallet, key, inbox, creation }
    }
}

pub(crate) fn credential(identity: Vec<u8>, key: &InstallationKey) -> CredentialWithKey {
    CredentialWithKey {
        credential: BasicCredential::new(identity).into(),
        signature_key: key.public().as_bytes().to_vec().into(),
    }
}

/// A credential of an inbox that need not exist.
pub(crate) fn inbox_credential(key: &InstallationKey) -> CredentialWithKey {
    credential(MlsCredential { inbox_id: hex::encode(random::<32>()) }.encode_to_vec(), key)
}

pub(crate) fn key_package(key: &InstallationKey) -> KeyPackage {
    key_package_of(key, inbox_credential(key), Lifetime::default())
}

pub(crate) fn key_package_of(key: &InstallationKey, credential: CredentialWithKey, lifetime: Lifetime) -> KeyPackage {
    KeyPackage::builder()
        .key_package_lifetime(lifetime)
        .build(CIPHERSUITE, &OpenMlsRustCrypto::default(), &key.mls_signer(), credential)
        .unwrap()
        .key_package()
        .clone()
}

pub(crate) fn key_package_bytes(key: &InstallationKey) -> Vec<u8> {
    key_package(key).tls_serialize_detached().unwrap()
}

/// A real MLS group of one, whose messages openmls encrypts and signs.
pub(crate) struct RealGroup {
    provider: OpenMlsRustCrypto,
    key: InstallationKey,
    group: MlsGroup,
}

impl RealGroup {
    pub(crate) fn new(group_id: &[u8], policy: WireFormatPolicy) -> Self {
        let (provider, key) = (OpenMlsRustCrypto::default(), installation());
        let config = MlsGroupCreateConfig::builder().ciphersuite(CIPHERSUITE).wire_format_policy(policy).build();
        let id = GroupId::from_slice(group_id);
        let group =
            MlsGroup::new_with_group_id(&provider, &key.mls_signer(), &config, id, inbox_credential(&key)).unwrap();
        Self { provider, key, group }
    }

    pub(crate) fn encrypted(group_id: &[u8]) -> Self {
        Self::new(group_id, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
    }

    pub(crate) fn application(&mut self) -> Vec<u8> {
        self.group.create_message(&self.provider, &self.key.mls_signer(), b"hello").unwrap().to_bytes().unwrap()
    }

    pub(crate) fn proposal(&mut self) -> Vec<u8> {
        let (proposal, _) = self
            .group
            .propose_self_update(&self.provider, &self.key.mls_signer(), LeafNodeParameters::default())
            .unwrap();
        self.group.clear_pending_proposals(openmls_traits::OpenMlsProvider::storage(&self.provider)).unwrap();
        proposal.to_bytes().unwrap()
    }

    pub(crate) fn commit(&mut self) -> Vec<u8> {
        let bundle =
            self.group.self_update(&self.provider, &self.key.mls_signer(), LeafNodeParameters::default()).unwrap();
        let commit = bundle.into_commit().to_bytes().unwrap();
        self.group.clear_pending_commit(openmls_traits::OpenMlsProvider::storage(&self.provider)).unwrap();
        commit
    }
}
