//! UploadKeyPackage, RegisterInstallation and FetchKeyPackages.

use openmls::{key_packages::Lifetime, prelude::tls_codec::Serialize};
use tonic::Status;
use usher_xmtp::proto::mls_api::{
    FetchKeyPackagesRequest, KeyPackageUpload, RegisterInstallationRequest, UploadKeyPackageRequest,
};

use crate::{
    material::{credential, inbox_credential, installation, key_package_bytes, key_package_of, random},
    rig::{Rig, assert_invalid},
};

async fn upload(rig: &Rig, key_package: Vec<u8>) -> Result<(), Status> {
    let key_package = Some(KeyPackageUpload { key_package_tls_serialized: key_package });
    let request = UploadKeyPackageRequest { key_package, is_inbox_id_credential: true };
    rig.mls().upload_key_package(request).await.map(tonic::Response::into_inner)
}

async fn fetch(rig: &Rig, installation_keys: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let request = FetchKeyPackagesRequest { installation_keys };
    let answer = rig.mls().fetch_key_packages(request).await.unwrap().into_inner();
    answer.key_packages.into_iter().map(|package| package.key_package_tls_serialized).collect()
}

pub(crate) async fn refused_uploads(rig: Rig) {
    let key = installation();
    let good = key_package_bytes(&key);
    let changed = |position: usize, bits: u8| {
        let mut bytes = good.clone();
        bytes[position] ^= bits;
        bytes
    };
    let of = |credential, lifetime| key_package_of(&key, credential, lifetime).tls_serialize_detached().unwrap();
    let cases = [
        (vec![], "TLS Codec error: EndOfStream"),
        (good[..good.len() - 1].to_vec(), "TLS Codec error: EndOfStream"),
        ([&good[..], &[0]].concat(), "TLS Codec error: TrailingData"),
        (changed(good.len() - 1, 1), "mls validation: The key package signature is not valid."),
        // The ciphersuite, to one of another signature scheme.
        (changed(3, 1), "mls validation: The leaf node signature is not valid."),
        (changed(1, 3), "mls validation: The protocol version is not valid."),
        // How it goes on depends on the release of openmls.
        (of(inbox_credential(&key), Lifetime::init(1, 2)), "mls validation: "),
    ];
    for (bytes, error) in cases {
        let status = upload(&rig, bytes).await.expect_err(error);
        let text = format!("invalid identity: validation failed with error XMTP Key Package failed {error}");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message() == text || (error.ends_with(": ") && status.message().starts_with(&text)), "{status}");
    }
    let not_an_inbox = of(credential(b"\xff".to_vec(), &key), Lifetime::default());
    let status = upload(&rig, not_an_inbox).await.expect_err("the credential holds no inbox id");
    assert!(status.message().starts_with("invalid identity: validation failed with error XMTP Key Package failed "));
    // As large as the validation service's request may be; 12 bytes of it are not the key package.
    let text = "invalid identity: rpc error: code = OutOfRange desc = Error, decoded message length too large: \
                found 4194305 bytes, the limit is: 4194304 bytes";
    assert_invalid(upload(&rig, vec![0; 4_194_293]).await, text);
    let request = UploadKeyPackageRequest { key_package: None, is_inbox_id_credential: true };
    assert_invalid(rig.mls().upload_key_package(request).await, "no key package");
    assert_eq!(fetch(&rig, vec![key.public().as_bytes().to_vec()]).await, [Vec::<u8>::new()]);
}

pub(crate) async fn an_upload_replaces_the_last(rig: Rig) {
    let key = installation();
    let id = key.public().as_bytes().to_vec();
    for bytes in [key_package_bytes(&key), key_package_bytes(&key)] {
        upload(&rig, bytes.clone()).await.unwrap();
        assert_eq!(fetch(&rig, vec![id.clone()]).await, [bytes]);
    }
}

pub(crate) async fn fetching_keeps_positions_and_consumes_nothing(rig: Rig) {
    let (one, other) = (installation(), installation());
    let (one_id, other_id) = (one.public().as_bytes().to_vec(), other.public().as_bytes().to_vec());
    let (one_bytes, other_bytes) = (key_package_bytes(&one), key_package_bytes(&other));
    upload(&rig, one_bytes.clone()).await.unwrap();
    upload(&rig, other_bytes.clone()).await.unwrap();
    for _ in 0..2 {
        let asked = vec![other_id.clone(), random::<32>().to_vec(), one_id.clone()];
        assert_eq!(fetch(&rig, asked).await, [other_bytes.clone(), vec![], one_bytes.clone()]);
    }
    // Of a key asked for twice, only the last position is filled.
    let asked = vec![one_id.clone(), other_id, one_id];
    assert_eq!(fetch(&rig, asked).await, [vec![], other_bytes, one_bytes]);
    assert!(fetch(&rig, vec![]).await.is_empty());
}

pub(crate) async fn registering_answers_the_installation_key(rig: Rig) {
    let key = installation();
    let bytes = key_package_bytes(&key);
    let key_package = Some(KeyPackageUpload { key_package_tls_serialized: bytes.clone() });
    let request = RegisterInstallationRequest { key_package, is_inbox_id_credential: true };
    let answer = rig.mls().register_installation(request).await.unwrap().into_inner();
    assert_eq!(answer.installation_key, key.public().as_bytes());
    assert_eq!(fetch(&rig, vec![answer.installation_key]).await, [bytes]);
    assert_invalid(rig.mls().register_installation(RegisterInstallationRequest::default()).await, "no key package");
}

/// Nor is it asked whether the inbox in the credential exists.
pub(crate) async fn the_credential_kind_flag_is_ignored(rig: Rig) {
    let key = installation();
    let bytes = key_package_bytes(&key);
    let key_package = Some(KeyPackageUpload { key_package_tls_serialized: bytes.clone() });
    let request = UploadKeyPackageRequest { key_package, is_inbox_id_credential: false };
    rig.mls().upload_key_package(request).await.unwrap();
    assert_eq!(fetch(&rig, vec![key.public().as_bytes().to_vec()]).await, [bytes]);
}
