//! Key packages that a node serves: changed bytes, and whatever an installation signs.

use openmls::{
    key_packages::Lifetime,
    prelude::{Capabilities, CredentialType, ExtensionType, ProposalType},
};
use prost::Message as _;
use tls_codec::Serialize as _;
use usher_xmtp::{
    MemberKeyPackage,
    identity::{InboxId, WalletSigner as _},
    proto::{MlsCredential, contents},
};

use crate::{
    Target, cast,
    mutate::{Choices, hostile, mutate},
    rogue::{CIPHERSUITE, Device, KEY_PACKAGE_EXTENSIONS, Provider, Shape},
    room::{Room, join, number},
};

/// One key package of a buyer is hostile: either it is refused, or the room and he can live with it.
pub const TARGET: Target = Target { name: "key_packages", run, seeds, smoke: 80 };

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let device = device();
    let bytes = match choices.below(2) {
        0 => hostile(&[genuine(&device)], &mut choices),
        _ => match signed(&device, &mut choices) {
            Some(bytes) => bytes,
            None => return,
        },
    };
    if MemberKeyPackage::verify(&bytes, &device.inbox, device.key.public()).is_err() {
        return;
    }
    // What is taken must be addable: by all members, with a welcome for everybody else who comes along.
    let mut room = Room::open();
    cast::run(async {
        let published = Device::publish(number::BOB + 1, &room.network).await;
        assert_eq!(published.key.public(), device.key.public());
        room.network.replace_key_package(device.key.public(), bytes);
        let Room { network, usher, bob, .. } = &mut room;
        usher.admit(&[&device.inbox, bob.inbox()], network).await;
        let mut bob = join(cast::copied(bob), network).await;
        usher.say("all are in", network).await;
        bob.sync(network).await;
        assert!(bob.heard("all are in"), "bob hears usher: {:?}", bob.events);
        room.assert_alive().await;
    });
}

/// The hostile buyer's device.
fn device() -> Device {
    let key = usher_xmtp::identity::InstallationKey::from_seed(&[number::BOB + 1; 32]);
    let wallet = cast::wallet(number::BOB + 1);
    Device { inbox: InboxId::of_wallet(wallet.address(), usher_xmtp::NONCE), key }
}

fn genuine(device: &Device) -> Vec<u8> {
    signed(device, &mut Choices::new(&[])).expect("XMTP's shape is a key package")
}

/// A key package of the device, with a valid signature over whatever was chosen.
fn signed(device: &Device, choices: &mut Choices<'_>) -> Option<Vec<u8>> {
    let mut shape = Shape::default();
    let (key, _) = usher_xmtp::wrapper::xwing_key_pair(&[7; 32]);
    let wrapper = contents::WelcomeWrapperEncryption {
        pub_key: key,
        algorithm: contents::WelcomeWrapperAlgorithm::XwingMlkem768Draft6.into(),
    };
    let pointee = contents::WelcomePointeeEncryptionAeadTypesExtension {
        supported_aead_types: vec![contents::WelcomePointeeEncryptionAeadType::Chacha20Poly1305.into()],
    };
    shape.extensions =
        KEY_PACKAGE_EXTENSIONS.into_iter().zip([wrapper.encode_to_vec(), pointee.encode_to_vec()]).collect();
    match choices.below(7) {
        1 => {
            let at = choices.below(2);
            shape.extensions[at].1 = mutate(&shape.extensions[at].1, &[], choices);
        }
        2 => _ = shape.extensions.pop(),
        3 => {
            let named = MlsCredential { inbox_id: device.inbox.to_string() }.encode_to_vec();
            shape.credential = Some(mutate(&named, &[], choices));
        }
        4 => shape.lifetime = lifetime(choices),
        5 => shape.capabilities = capabilities(choices),
        6 => {
            let odd = (u16::from_be_bytes([choices.byte(), choices.byte()]), vec![choices.byte(); choices.below(4096)]);
            if choices.yes() { shape.extensions.push(odd) } else { shape.leaf_extensions.push(odd) }
        }
        _ => {}
    }
    let bundle = device.key_package(shape, &Provider::default())?;
    bundle.key_package().tls_serialize_detached().ok()
}

/// Lifetimes that ended, have not begun, never end, or end before they begin.
pub(crate) fn lifetime(choices: &mut Choices<'_>) -> Lifetime {
    let ends = [0, 1, 1_600_000_000, 4_000_000_000, u64::MAX - 1, u64::MAX];
    let mut end = || *choices.pick(&ends).expect("there are some");
    Lifetime::init(end(), end())
}

/// What a client supports that supports too little, or what nobody has heard of.
fn capabilities(choices: &mut Choices<'_>) -> Capabilities {
    let mut extensions = Shape::default().capabilities.extensions().to_vec();
    extensions.remove(choices.below(extensions.len()));
    if choices.yes() {
        extensions.extend((0..choices.below(512)).map(|kind| ExtensionType::from(u16::try_from(kind).expect("small"))));
    }
    let proposals = if choices.yes() { vec![ProposalType::GroupContextExtensions] } else { Vec::new() };
    let credentials = if choices.yes() { vec![CredentialType::Basic] } else { vec![CredentialType::X509] };
    Capabilities::builder()
        .ciphersuites(vec![CIPHERSUITE])
        .extensions(extensions)
        .proposals(proposals)
        .credentials(credentials)
        .build()
}

fn seeds() -> Vec<Vec<u8>> {
    let shapes = (0..7).map(|kind| vec![1, kind]);
    [crate::unchanged(&[0], 1), shapes.collect()].concat()
}
