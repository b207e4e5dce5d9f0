//! Key packages: our own with their private halves, and those of the installations we add.

use openmls::{
    ciphersuite::hash_ref::{KeyPackageRef, make_key_package_ref},
    extensions::{ApplicationIdExtension, Extension, ExtensionType, Extensions, LastResortExtension, UnknownExtension},
    key_packages::{KeyPackage, KeyPackageIn},
    prelude::{
        BasicCredential, Capabilities, Credential, CredentialType, CredentialWithKey, ProposalType, ProtocolVersion,
    },
};
use openmls_traits::{OpenMlsProvider, types::Ciphersuite};
use prost::Message;
use sha2::{Digest, Sha256};
use tls_codec::{Deserialize, Serialize};

use crate::{
    extensions::{WELCOME_POINTEE, WELCOME_WRAPPER, required_extension_types},
    identity::{InboxId, InstallationId, InstallationKey},
    ports::{Randomness, random},
    proto::{MlsCredential, contents, state},
    provider::Provider,
    wrapper::{self, WrapperAlgorithm},
};

/// The only ciphersuite of XMTP groups (0x0003).
pub(crate) const CIPHERSUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

/// A key package with an X-Wing key is 1.7 kB; nobody's may bloat a room's tree.
const KEY_PACKAGE_BYTES_MAX: usize = 8 * 1024;

/// X25519 and ML-KEM-768 together.
const XWING_PUBLIC_KEY_BYTES: usize = 1216;

/// Why an installation cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyPackageError {
    /// The node has none.
    #[error("the installation has no key package")]
    Missing,
    /// Not a key package, or one with a wrong signature or an expired lifetime.
    #[error("the key package is not valid: {0}")]
    Invalid(String),
    /// Its credential names another inbox, or its signature key is another installation's.
    #[error("the key package belongs to somebody else")]
    Foreign,
    /// It does not support what every XMTP group requires.
    #[error("the key package lacks the capability {0}")]
    Incapable(String),
    /// It has extensions that no XMTP client writes, or is too large.
    #[error("the key package is not of XMTP's shape: {0}")]
    Unusual(String),
}

/// The credential of an inbox, as in every XMTP leaf.
pub(crate) fn credential(inbox: &InboxId) -> Credential {
    BasicCredential::new(MlsCredential { inbox_id: inbox.to_string() }.encode_to_vec()).into()
}

/// The inbox that a leaf's credential names.
pub(crate) fn credential_inbox(credential: &Credential) -> Option<InboxId> {
    let basic = BasicCredential::try_from(credential.clone()).ok()?;
    MlsCredential::decode(basic.identity()).ok()?.inbox_id.parse().ok()
}

pub(crate) fn credential_with_key(inbox: &InboxId, key: &InstallationKey) -> CredentialWithKey {
    CredentialWithKey { credential: credential(inbox), signature_key: key.public().as_bytes().to_vec().into() }
}

/// What our own leaves support.
pub(crate) fn capabilities() -> Capabilities {
    let mut extensions = required_extension_types().to_vec();
    extensions.extend([ExtensionType::Unknown(WELCOME_WRAPPER), ExtensionType::Unknown(WELCOME_POINTEE)]);
    Capabilities::builder()
        .versions(vec![ProtocolVersion::Mls10])
        .ciphersuites(vec![CIPHERSUITE])
        .extensions(extensions)
        .proposals(vec![ProposalType::GroupContextExtensions])
        .credentials(vec![CredentialType::Basic])
        .build()
}

/// To which key others wrap welcomes for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// To an X-Wing key in an extension, by pointers where there are many recipients. What libxmtp's clients offer.
    XWing,
    /// To the init key (X25519), a copy for each. Smaller key packages, no protection against quantum computers.
    InitKey,
}

/// Makes a last-resort key package; its MLS private halves go into `provider`'s storage.
pub(crate) fn generate(
    provider: &Provider,
    inbox: &InboxId,
    key: &InstallationKey,
    wrapping: Wrapping,
    now_ns: u64,
    randomness: &dyn Randomness,
) -> Result<state::KeyPackage, openmls::key_packages::errors::KeyPackageNewError> {
    let mut extensions = vec![Extension::LastResort(LastResortExtension::default())];
    let (xwing_public_key, xwing_private_key) = match wrapping {
        Wrapping::XWing => wrapper::xwing_key_pair(&random::<32>(randomness)),
        Wrapping::InitKey => Default::default(),
    };
    if wrapping == Wrapping::XWing {
        extensions.extend(xwing_extensions(&xwing_public_key));
    }
    let extensions = Extensions::from_vec(extensions).expect("these are legal in a key package");
    let application_id = Extension::ApplicationId(ApplicationIdExtension::new(inbox.as_str().as_bytes()));
    let bundle = KeyPackage::builder()
        .leaf_node_capabilities(capabilities())
        .leaf_node_extensions(Extensions::single(application_id).expect("an application id is legal in a leaf"))
        .key_package_extensions(extensions)
        .build(CIPHERSUITE, provider, &key.mls_signer(), credential_with_key(inbox, key))?;
    let key_package = bundle.key_package();
    Ok(state::KeyPackage {
        key_package: key_package.tls_serialize_detached().expect("a key package serializes into memory"),
        init_key: key_package.hpke_init_key().as_slice().to_vec(),
        xwing_public_key,
        xwing_private_key: xwing_private_key.to_vec(),
        created_ns: now_ns,
    })
}

/// Tells others to wrap to this key, and that we follow pointers. A pointer without an X-Wing key is refused by nodes.
fn xwing_extensions(public_key: &[u8]) -> [Extension; 2] {
    let wrapper = contents::WelcomeWrapperEncryption {
        pub_key: public_key.to_vec(),
        algorithm: contents::WelcomeWrapperAlgorithm::XwingMlkem768Draft6.into(),
    };
    let pointee = contents::WelcomePointeeEncryptionAeadTypesExtension {
        supported_aead_types: vec![contents::WelcomePointeeEncryptionAeadType::Chacha20Poly1305.into()],
    };
    let unknown = |kind, bytes| Extension::Unknown(kind, UnknownExtension(bytes));
    [unknown(WELCOME_POINTEE, pointee.encode_to_vec()), unknown(WELCOME_WRAPPER, wrapper.encode_to_vec())]
}

/// Forgets the MLS private halves of an own key package.
pub(crate) fn forget(provider: &Provider, package: &state::KeyPackage) {
    use openmls_traits::storage::StorageProvider;
    let reference = make_key_package_ref(&package.key_package, CIPHERSUITE, provider.crypto());
    if let Ok(reference) = reference {
        let deleted: Result<(), _> =
            StorageProvider::<1>::delete_key_package::<KeyPackageRef>(provider.storage(), &reference);
        deleted.expect("the storage is memory");
    }
}

/// A key package that an installation of an inbox can be added with.
#[derive(Debug, Clone)]
pub struct MemberKeyPackage {
    pub(crate) key_package: KeyPackage,
    pub(crate) recipient: state::Recipient,
}

impl MemberKeyPackage {
    /// Checks a fetched key package by libxmtp's rules and, more strictly, that it is of the shape XMTP clients write
    /// and belongs to this installation of this inbox. A package with a foreign credential would pass every member's
    /// check of the commit and then stop everybody who joins later.
    pub fn verify(bytes: &[u8], inbox: &InboxId, installation: InstallationId) -> Result<Self, KeyPackageError> {
        if bytes.len() > KEY_PACKAGE_BYTES_MAX {
            return Err(KeyPackageError::Unusual(format!("{} bytes", bytes.len())));
        }
        let invalid = |error: &dyn std::fmt::Display| KeyPackageError::Invalid(error.to_string());
        let key_package = KeyPackageIn::tls_deserialize_exact(bytes)
            .map_err(|error| invalid(&error))?
            .validate(Provider::default().crypto(), ProtocolVersion::Mls10)
            .map_err(|error| invalid(&error))?;
        let leaf = key_package.leaf_node();
        let ours = credential_inbox(leaf.credential()).as_ref() == Some(inbox)
            && leaf.signature_key().as_slice() == installation.as_bytes();
        if !ours {
            return Err(KeyPackageError::Foreign);
        }
        check_capabilities(&key_package)?;
        check_shape(&key_package)?;
        let recipient = recipient(&key_package, bytes, inbox, installation)?;
        check_keys(&key_package, &recipient)?;
        Ok(Self { key_package, recipient })
    }

    /// The installation it belongs to.
    pub fn installation(&self) -> InstallationId {
        InstallationId::try_from(self.recipient.installation.as_slice()).expect("made from an installation id")
    }

    /// The inbox it belongs to.
    pub fn inbox(&self) -> InboxId {
        self.recipient.inbox_id.parse().expect("made from an inbox id")
    }
}

/// A key that cannot be encrypted to would stop the commit that adds it, its welcome, or every commit after it.
fn check_keys(key_package: &KeyPackage, recipient: &state::Recipient) -> Result<(), KeyPackageError> {
    let leaf_key = key_package.leaf_node().encryption_key().tls_serialize_detached();
    let leaf_key = leaf_key.map_err(|error| KeyPackageError::Unusual(error.to_string()))?;
    // The serialization is the key behind its length, one byte for 32.
    let leaf_key = leaf_key.get(1..).unwrap_or_default();
    let curve = [key_package.hpke_init_key().as_slice(), leaf_key].map(|key| (WrapperAlgorithm::Curve25519, key));
    let wrapper = if recipient.xwing { WrapperAlgorithm::XWing } else { WrapperAlgorithm::Curve25519 };
    for (algorithm, key) in curve.into_iter().chain([(wrapper, recipient.key.as_slice())]) {
        wrapper::wrap(algorithm, key, b"", b"").map_err(|error| KeyPackageError::Unusual(error.to_string()))?;
    }
    Ok(())
}

fn check_capabilities(key_package: &KeyPackage) -> Result<(), KeyPackageError> {
    let leaf = key_package.leaf_node();
    let capabilities = leaf.capabilities();
    let lacks = |what: String| Err(KeyPackageError::Incapable(what));
    if key_package.ciphersuite() != CIPHERSUITE || !capabilities.ciphersuites().contains(&CIPHERSUITE.into()) {
        return lacks("ciphersuite 0x0003".to_owned());
    }
    if !capabilities.versions().contains(&ProtocolVersion::Mls10) {
        return lacks("mls10".to_owned());
    }
    // application_id and last_resort are default types that MLS lets one leave out of the list, XMTP's groups not.
    if let Some(missing) = required_extension_types().iter().find(|kind| !capabilities.extensions().contains(kind)) {
        return lacks(format!("extension {missing:?}"));
    }
    if !capabilities.proposals().contains(&ProposalType::GroupContextExtensions) {
        return lacks("proposal group_context_extensions".to_owned());
    }
    if !capabilities.credentials().contains(&CredentialType::Basic) {
        return lacks("basic credential".to_owned());
    }
    Ok(())
}

fn check_shape(key_package: &KeyPackage) -> Result<(), KeyPackageError> {
    let in_package = |kind: &ExtensionType| {
        matches!(kind, ExtensionType::LastResort | ExtensionType::Unknown(WELCOME_WRAPPER | WELCOME_POINTEE))
    };
    let in_leaf = |kind: &ExtensionType| matches!(kind, ExtensionType::ApplicationId);
    let odd = |kind: ExtensionType| Err(KeyPackageError::Unusual(format!("extension {kind:?}")));
    for extension in key_package.extensions().iter() {
        if !in_package(&extension.extension_type()) {
            return odd(extension.extension_type());
        }
    }
    for extension in key_package.leaf_node().extensions().iter() {
        if !in_leaf(&extension.extension_type()) {
            return odd(extension.extension_type());
        }
    }
    Ok(())
}

/// How a welcome for this package has to be wrapped: to its X-Wing key if it names one, else to its init key.
fn recipient(
    key_package: &KeyPackage,
    bytes: &[u8],
    inbox: &InboxId,
    installation: InstallationId,
) -> Result<state::Recipient, KeyPackageError> {
    let extension = |kind| key_package.extensions().unknown(kind).map(|extension| extension.0.as_slice());
    let unusual = |error: prost::DecodeError| KeyPackageError::Unusual(error.to_string());
    let mut recipient = state::Recipient {
        installation: installation.as_bytes().to_vec(),
        key: key_package.hpke_init_key().as_slice().to_vec(),
        inbox_id: inbox.to_string(),
        key_package_digest: Sha256::digest(bytes).to_vec(),
        ..Default::default()
    };
    if let Some(bytes) = extension(WELCOME_WRAPPER) {
        let wrapper = contents::WelcomeWrapperEncryption::decode(bytes).map_err(unusual)?;
        recipient.key = wrapper.pub_key;
        match contents::WelcomeWrapperAlgorithm::try_from(wrapper.algorithm) {
            Ok(contents::WelcomeWrapperAlgorithm::XwingMlkem768Draft6) => recipient.xwing = true,
            Ok(contents::WelcomeWrapperAlgorithm::SymmetricKey) => {
                return Err(KeyPackageError::Unusual("a symmetric welcome wrapper".to_owned()));
            }
            _ => {}
        }
    }
    let length = if recipient.xwing { XWING_PUBLIC_KEY_BYTES } else { 32 };
    if recipient.key.len() != length {
        return Err(KeyPackageError::Unusual(format!("a welcome wrapper key of {} bytes", recipient.key.len())));
    }
    if let Some(bytes) = extension(WELCOME_POINTEE) {
        let types = contents::WelcomePointeeEncryptionAeadTypesExtension::decode(bytes).map_err(unusual)?;
        let chacha = i32::from(contents::WelcomePointeeEncryptionAeadType::Chacha20Poly1305);
        // Nodes refuse a pointer that is not wrapped with X-Wing, and the whole request with it.
        recipient.pointer_capable = recipient.xwing && types.supported_aead_types.contains(&chacha);
    }
    Ok(recipient)
}
