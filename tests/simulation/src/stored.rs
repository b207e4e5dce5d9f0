//! What is written down of the account and of rooms (shared/xmtp/proto/state.proto), as far as it is looked at here.

use std::collections::BTreeSet;

/// Of the account.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AccountState {
    #[prost(bytes, tag = "2")]
    installation_seed: Vec<u8>,
    /// 0 before it is registered.
    #[prost(uint64, tag = "3")]
    pub(crate) sequence_id: u64,
    /// Newest first.
    #[prost(message, repeated, tag = "5")]
    key_packages: Vec<KeyPackageState>,
    #[prost(bytes, tag = "7")]
    hmac_root: Vec<u8>,
    #[prost(message, repeated, tag = "8")]
    mls: Vec<MlsValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyPackageState {
    #[prost(bytes, tag = "1")]
    key_package: Vec<u8>,
    #[prost(bytes, tag = "4")]
    xwing_private_key: Vec<u8>,
}

/// Of a room.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RoomState {
    #[prost(message, repeated, tag = "2")]
    mls: Vec<MlsValue>,
    #[prost(message, optional, tag = "4")]
    pub(crate) pending: Option<PendingCommit>,
    #[prost(message, repeated, tag = "5")]
    welcomes: Vec<Welcome>,
    #[prost(message, repeated, tag = "11")]
    stranded: Vec<Stranded>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PendingCommit {
    #[prost(bytes, tag = "2")]
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Welcome {
    #[prost(message, repeated, tag = "2")]
    recipients: Vec<Recipient>,
    /// 0 before the commit is merged.
    #[prost(uint64, tag = "3")]
    commit_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Recipient {
    #[prost(bytes, tag = "1")]
    installation: Vec<u8>,
    #[prost(bytes, tag = "2")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stranded {
    #[prost(bytes, tag = "2")]
    installation: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MlsValue {
    #[prost(bytes, tag = "1")]
    key: Vec<u8>,
    #[prost(bytes, tag = "2")]
    value: Vec<u8>,
}

impl MlsValue {
    fn is(&self, name: &str) -> bool {
        self.key.windows(name.len()).any(|window| window == name.as_bytes())
    }
}

/// openmls's values that hold secrets and nothing that may be told.
const SECRET: [&str; 3] = ["EpochSecrets", "EpochKeyPairs", "EncryptionKeyPair"];

impl AccountState {
    /// Private keys.
    pub(crate) fn secrets(&self) -> Vec<Vec<u8>> {
        let public = |key: &[u8]| {
            let packages = self.key_packages.iter().map(|package| &package.key_package);
            packages.into_iter().any(|package| package.windows(key.len()).any(|window| window == key))
        };
        let of_packages = self.mls.iter().flat_map(|value| arrays_of_32(&value.value)).filter(|key| !public(key));
        let wrapping = self.key_packages.iter().map(|package| package.xwing_private_key.clone());
        let mut secrets: Vec<Vec<u8>> = wrapping.filter(|key| !key.is_empty()).chain(of_packages).collect();
        secrets.extend([self.installation_seed.clone(), self.hmac_root.clone()]);
        secrets
    }

    /// The key package that the node is to serve.
    pub(crate) fn newest_key_package(&self) -> &[u8] {
        self.key_packages.first().map(|package| package.key_package.as_slice()).unwrap_or_default()
    }

    /// Whether a welcome to this key package can be opened.
    pub(crate) fn keeps(&self, key_package: &[u8]) -> bool {
        self.key_packages.iter().any(|package| package.key_package == key_package)
    }
}

/// An installation and the key that its welcome is wrapped to.
pub(crate) type Invited = (Vec<u8>, Vec<u8>);

impl RoomState {
    /// The epoch's secrets, and the private keys of leaf and path.
    pub(crate) fn secrets(&self) -> Vec<Vec<u8>> {
        let secret = self.mls.iter().filter(|value| SECRET.iter().any(|name| value.is(name)));
        secret.flat_map(|value| arrays_of_32(&value.value)).collect()
    }

    /// MLS's group context: it covers every commit that led to the epoch.
    pub(crate) fn context(&self) -> &[u8] {
        self.mls.iter().find(|value| value.is("GroupContext")).map(|value| value.value.as_slice()).unwrap_or_default()
    }

    /// Who has yet to be sent a welcome of a merged commit.
    pub(crate) fn invited(&self) -> BTreeSet<Invited> {
        let merged = self.welcomes.iter().filter(|welcome| welcome.commit_id != 0);
        let recipients = merged.flat_map(|welcome| &welcome.recipients);
        recipients.map(|recipient| (recipient.installation.clone(), recipient.key.clone())).collect()
    }

    /// Installations that had replaced their key packages before their welcome went out.
    pub(crate) fn stranded(&self) -> BTreeSet<Vec<u8>> {
        self.stranded.iter().map(|stranded| stranded.installation.clone()).collect()
    }
}

/// The 32-byte values in an openmls value: MessagePack arrays of 32 small numbers.
fn arrays_of_32(packed: &[u8]) -> Vec<Vec<u8>> {
    let starts = (0..packed.len()).filter_map(|at| packed[at..].strip_prefix(&[0xdc, 0, 32]));
    let array = |mut numbers: &[u8]| {
        let next = || {
            let (byte, rest) = match numbers {
                [0xcc, byte, rest @ ..] => (*byte, rest),
                [byte @ ..0x80, rest @ ..] => (*byte, rest),
                _ => return None,
            };
            numbers = rest;
            Some(byte)
        };
        let array: Vec<u8> = std::iter::from_fn(next).take(32).collect();
        (array.len() == 32 && array.iter().any(|byte| *byte != 0)).then_some(array)
    };
    starts.filter_map(array).collect()
}
