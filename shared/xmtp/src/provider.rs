//! The openmls provider of one account or one group: RustCrypto, and a storage that is a value.

use std::collections::BTreeMap;

use openmls_memory_storage::MemoryStorage;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;

/// A stored openmls value that is not what openmls wrote.
#[derive(Debug, thiserror::Error)]
pub enum StorageCodecError {
    /// openmls writes JSON, and it was not written or cannot be had from a snapshot's MessagePack.
    #[error("an openmls value is no JSON")]
    Json(#[from] serde_json::Error),
    /// In snapshots the same values are MessagePack.
    #[error("an openmls value cannot be packed")]
    Pack(#[from] rmp_serde::encode::Error),
}

/// Crypto, randomness and the storage that openmls works on. Nothing reaches a disk.
#[derive(Default)]
pub(crate) struct Provider {
    crypto: RustCrypto,
    storage: MemoryStorage,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").finish_non_exhaustive()
    }
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

/// What openmls stored, by its own keys.
pub(crate) type Values = BTreeMap<Vec<u8>, Vec<u8>>;

impl Provider {
    pub(crate) fn with_values(values: Values) -> Self {
        let provider = Self::default();
        *provider.storage.values.write().expect("no holder of this lock panics") = values.into_iter().collect();
        provider
    }

    pub(crate) fn values(&self) -> Values {
        let values = self.storage.values.read().expect("no holder of this lock panics");
        values.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The values in a snapshot's form. openmls writes byte strings as JSON arrays of decimal numbers;
    /// MessagePack says the same in a third of the bytes and a tenth of the time to read.
    pub(crate) fn encode(&self) -> Result<Values, StorageCodecError> {
        let pack = |value: Vec<u8>| -> Result<Vec<u8>, StorageCodecError> {
            let mut packed = Vec::with_capacity(value.len() / 2);
            let mut json = serde_json::Deserializer::from_slice(&value);
            serde_transcode::transcode(&mut json, &mut rmp_serde::Serializer::new(&mut packed))?;
            json.end()?;
            Ok(packed)
        };
        self.values().into_iter().map(|(key, value)| Ok((key, pack(value)?))).collect()
    }

    pub(crate) fn decode(packed: Values) -> Result<Self, StorageCodecError> {
        let unpack = |value: Vec<u8>| -> Result<Vec<u8>, StorageCodecError> {
            let mut json = Vec::with_capacity(value.len() * 3);
            let mut packed = rmp_serde::Deserializer::from_read_ref(&value);
            serde_transcode::transcode(&mut packed, &mut serde_json::Serializer::new(&mut json))?;
            Ok(json)
        };
        let values = packed.into_iter().map(|(key, value)| Ok((key, unpack(value)?)));
        Ok(Self::with_values(values.collect::<Result<_, StorageCodecError>>()?))
    }
}
