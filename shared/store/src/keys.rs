//! Data keys: what snapshots are sealed with, themselves sealed ("wrapped") by a key that never leaves its keeper.

use std::{
    fmt,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use async_trait::async_trait;
use aws_sdk_kms::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::decrypt::DecryptError,
    primitives::Blob,
    types::DataKeySpec,
};
use usher_domain::ports::{Randomness, random};
use zeroize::Zeroizing;

use crate::{DeploymentId, Kind, Owner};

/// The length of a key, in bytes.
pub const KEY_BYTES: usize = 32;

/// A key in the clear; zeroed when dropped.
pub type Plain = Zeroizing<[u8; KEY_BYTES]>;

/// A data key, in the clear and wrapped.
#[derive(Clone)]
pub struct DataKey {
    /// The key itself.
    pub plain: Plain,
    /// What is stored of it.
    pub wrapped: Vec<u8>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey([redacted], wrapped: {} bytes)", self.wrapped.len())
    }
}

/// Why there is no data key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It was wrapped by another key, for another owner or another deployment, or it was altered.
    #[error("the wrapped key does not belong to this key, deployment and owner")]
    WrongKey,
    /// The keeper did not answer. Says nothing about what is stored.
    #[error("the key service did not answer")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The keeper refused: a revoked grant, a disabled key, another key, a bad request. Says nothing about what is
    /// stored: it may come back.
    #[error("the key service refused: {0}")]
    Refused(String),
}

impl KeyError {
    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        match self {
            KeyError::Unavailable(_) => Kind::RetrySoon,
            KeyError::WrongKey | KeyError::Refused(_) => Kind::Bug,
        }
    }
}

/// Makes data keys and unwraps them. A wrapped key is bound to its deployment and its owner.
#[async_trait]
pub trait DataKeys: Send + Sync {
    /// A new data key for `owner`.
    async fn generate(&self, owner: &Owner) -> Result<DataKey, KeyError>;

    /// The key that was wrapped for `owner`.
    async fn unwrap(&self, owner: &Owner, wrapped: &[u8]) -> Result<Plain, KeyError>;
}

/// Data keys from AWS KMS: `GenerateDataKey` and `Decrypt`, with the encryption context `deployment` and `owner`.
#[derive(Debug, Clone)]
pub struct KmsDataKeys {
    client: Client,
    key_id: String,
    deployment: DeploymentId,
}

impl KmsDataKeys {
    /// Data keys wrapped by the symmetric KMS key `key_id` (an id, ARN or alias).
    pub fn new(client: Client, key_id: impl Into<String>, deployment: DeploymentId) -> Self {
        Self { client, key_id: key_id.into(), deployment }
    }
}

#[async_trait]
impl DataKeys for KmsDataKeys {
    async fn generate(&self, owner: &Owner) -> Result<DataKey, KeyError> {
        let made = self
            .client
            .generate_data_key()
            .key_id(&self.key_id)
            .key_spec(DataKeySpec::Aes256)
            .encryption_context("deployment", self.deployment.as_str())
            .encryption_context("owner", owner.to_string())
            .send()
            .await
            .map_err(kms_error)?;
        let wrapped = made.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
        Ok(DataKey { plain: plain(made.plaintext)?, wrapped })
    }

    async fn unwrap(&self, owner: &Owner, wrapped: &[u8]) -> Result<Plain, KeyError> {
        let opened = self
            .client
            .decrypt()
            .key_id(&self.key_id)
            .ciphertext_blob(Blob::new(wrapped))
            .encryption_context("deployment", self.deployment.as_str())
            .encryption_context("owner", owner.to_string())
            .send()
            .await
            .map_err(|error| match error.as_service_error() {
                Some(DecryptError::InvalidCiphertextException(_)) => KeyError::WrongKey,
                // Among them IncorrectKeyException: an alias that points elsewhere says nothing about what is stored.
                _ => kms_error(error),
            })?;
        plain(opened.plaintext)
    }
}

fn plain(blob: Option<Blob>) -> Result<Plain, KeyError> {
    let bytes = Zeroizing::new(blob.map(Blob::into_inner).unwrap_or_default());
    let key = bytes.as_slice().try_into().map_err(|_| KeyError::Refused("not a 256-bit key".into()))?;
    Ok(Zeroizing::new(key))
}

fn kms_error<E>(error: SdkError<E>) -> KeyError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let server_fault = error.raw_response().is_some_and(|response| response.status().is_server_error());
    let code = error.as_service_error().and_then(|e| e.code()).unwrap_or_default();
    let throttled = matches!(code, "ThrottlingException" | "LimitExceededException");
    match &error {
        SdkError::ServiceError(service) if !server_fault && !throttled => {
            KeyError::Refused(format!("{code}: {}", service.err().message().unwrap_or_default()))
        }
        SdkError::ConstructionFailure(_) => KeyError::Refused("the request could not be built".into()),
        // Without the raw answer, which may hold a key.
        _ => error.into_source().map_or_else(
            |_| KeyError::Refused("an error of no known kind".into()),
            |source| KeyError::Unavailable(Arc::from(source)),
        ),
    }
}

/// Data keys wrapped by a key in a local file.
pub struct FileDataKeys {
    key: Aes256Gcm,
    deployment: DeploymentId,
    randomness: Arc<dyn Randomness>,
}

impl fmt::Debug for FileDataKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileDataKeys([redacted], {})", self.deployment)
    }
}

const NONCE_BYTES: usize = 12;

impl FileDataKeys {
    /// Reads the key (32 bytes in hex) from `path`; makes one, readable by its owner alone, if there is no such file.
    /// Of several that make it at once, all use the same. Refuses a file that others may read.
    pub fn open(path: &Path, deployment: DeploymentId, randomness: Arc<dyn Randomness>) -> io::Result<Self> {
        if !path.try_exists()? {
            create_key_file(path, &*randomness)?;
        }
        if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may read the key file: chmod 600 it"));
        }
        let text = Zeroizing::new(fs::read_to_string(path)?);
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim(), &mut *key)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the key file does not hold 32 bytes in hex"))?;
        Ok(Self { key: Aes256Gcm::new((&*key).into()), deployment, randomness })
    }

    fn context(&self, owner: &Owner) -> Vec<u8> {
        format!("usher data key 1\n{}\n{owner}", self.deployment).into_bytes()
    }
}

/// Writes the file whole under another name first: nobody sees half a key, and who comes second keeps the first's.
fn create_key_file(path: &Path, randomness: &dyn Randomness) -> io::Result<()> {
    let key = Zeroizing::new(random::<KEY_BYTES>(randomness));
    let draft = path.with_added_extension(hex::encode(random::<8>(randomness)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(Zeroizing::new(hex::encode(*key)).as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[async_trait]
impl DataKeys for FileDataKeys {
    async fn generate(&self, owner: &Owner) -> Result<DataKey, KeyError> {
        let plain = Zeroizing::new(random::<KEY_BYTES>(&*self.randomness));
        let nonce = random::<NONCE_BYTES>(&*self.randomness);
        let payload = Payload { msg: &*plain, aad: &self.context(owner) };
        let sealed = self
            .key
            .encrypt(Nonce::from_slice(&nonce), payload)
            .map_err(|_| KeyError::Refused("the key could not be wrapped".into()))?;
        Ok(DataKey { plain, wrapped: [nonce.as_slice(), &sealed].concat() })
    }

    async fn unwrap(&self, owner: &Owner, wrapped: &[u8]) -> Result<Plain, KeyError> {
        let (nonce, sealed) = wrapped.split_at_checked(NONCE_BYTES).ok_or(KeyError::WrongKey)?;
        let payload = Payload { msg: sealed, aad: &self.context(owner) };
        let opened = self.key.decrypt(Nonce::from_slice(nonce), payload).map_err(|_| KeyError::WrongKey)?;
        plain(Some(Blob::new(opened)))
    }
}
