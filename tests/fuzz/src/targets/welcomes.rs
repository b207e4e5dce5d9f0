//! Welcomes that anybody may send: changed copies of real ones, proper wrappers around anything, and invitations to
//! groups that are none of XMTP's. Behind them comes the real one.

use std::sync::OnceLock;

use openmls::{
    extensions::{Extension, ExtensionType, Extensions, UnknownExtension},
    group::{GroupContext, MlsGroup},
    key_packages::KeyPackageIn,
    prelude::ProtocolVersion,
};
use openmls_traits::OpenMlsProvider as _;
use prost::Message as _;
use tls_codec::Deserialize as _;
use usher_xmtp::{
    Account, GroupId, Identities, Welcomed, Wrapping,
    content::encode_text,
    network::Network as _,
    proto::{
        contents::{WelcomePointerWrapperAlgorithm, WelcomeWrapperAlgorithm},
        mls_api::{WelcomeMessage, WelcomeMetadata, welcome_message},
    },
    wrapper::{self, Pointer, WrapperAlgorithm},
};

use crate::{
    Target, cast,
    cast::{Seat, register},
    mutate::{Choices, hostile, mutate},
    network::{MemoryNetwork, Stored},
    rogue::{CIPHERSUITE, Candidate, Device, GROUP_EXTENSIONS, Provider, Shape},
    room::{Room, number},
};

/// Sends bob up to three hostile welcomes before the real one; he must get into the room.
pub const TARGET: Target = Target { name: "welcomes", run, seeds, smoke: 100 };

/// Two more buyers, so that bob gets a pointer; and somebody added with him who knows the MLS Welcome.
const OTHERS: [u8; 2] = [number::BOB + 2, number::BOB + 3];
const SPY: u8 = number::BOB + 4;

/// The moment after bob was added.
struct Added {
    stored: Stored,
    id: GroupId,
    bob: Vec<u8>,
    /// Still to be delivered.
    genuine: WelcomeMessage,
    /// Of bob's key package.
    xwing_key: Vec<u8>,
    /// What travels inside the wrapper.
    mls_welcome: Vec<u8>,
    metadata: Vec<u8>,
    /// Encoded welcomes to copy from.
    copies: Vec<Vec<u8>>,
    spy: Device,
    extensions: Extensions<GroupContext>,
}

static ADDED: OnceLock<Added> = OnceLock::new();

async fn add_bob(room: Room) -> Added {
    let Room { network, mut usher, bob, mallory, .. } = room;
    let others =
        [register(OTHERS[0], Wrapping::XWing, &network).await, register(OTHERS[1], Wrapping::XWing, &network).await];
    let spy = Candidate::apply(Device::publish(SPY, &network).await, &network).await;
    usher.admit(&[bob.inbox(), others[0].inbox(), others[1].inbox(), &spy.device.inbox], &network).await;
    usher.say("welcome, bob", &network).await;

    let mls_welcome = spy.welcomes(&network).await.pop().expect("the spy was sent one");
    let spys = network.welcomes(*spy.device.key.public().as_bytes(), 0).await.expect("it answers").remove(0);
    let genuine = network.take_welcomes(bob.installation()).pop().expect("bob was sent one");
    let Some(welcome_message::Version::WelcomePointer(pointer)) = genuine.version.clone() else {
        panic!("three recipients with X-Wing keys are sent pointers");
    };
    Added {
        stored: network.stored(),
        id: usher.group.id(),
        bob: bob.encode().expect("an account encodes").to_vec(),
        copies: vec![genuine.encode_to_vec(), spys.encode_to_vec()],
        genuine,
        xwing_key: pointer.hpke_public_key,
        mls_welcome,
        metadata: WelcomeMetadata { message_cursor: usher.group.cursor().latest() }.encode_to_vec(),
        spy: spy.device,
        extensions: mallory.group.extensions().clone(),
    }
}

fn run(data: &[u8]) {
    let added = ADDED.get_or_init(|| {
        let room = Room::open();
        cast::run(add_bob(room))
    });
    let mut choices = Choices::new(data);
    let network = MemoryNetwork::with(added.stored.clone());
    let mut bob = Account::decode(&added.bob).expect("what was encoded decodes");
    cast::run(async {
        let topic = *bob.installation().as_bytes();
        for _ in 0..=choices.below(3) {
            if let Some(welcome) = added.welcome(&network, &mut choices) {
                network.post_welcome(&topic, welcome);
            }
        }
        network.post_welcome(&topic, added.genuine.clone());
        let mut welcomed = Welcomed::default();
        let received = bob.receive_welcomes(&network, &mut Identities::default(), &mut welcomed, |_| true).await;
        received.expect("no welcome stops those behind it");
        let dropped = &welcomed.dropped;
        let group = welcomed.joined.pop().unwrap_or_else(|| panic!("bob was not let in: {dropped:?}"));
        assert_eq!(group.id(), added.id, "the real welcome came last");
        let mut bob = Seat::new(bob, group);
        bob.sync(&network).await;
        assert!(bob.heard("welcome, bob"), "bob hears usher: {:?}", bob.events);
        bob.send(&encode_text("thanks", "thanks"), &network).await;
    });
}

impl Added {
    fn welcome(&self, network: &MemoryNetwork, choices: &mut Choices<'_>) -> Option<WelcomeMessage> {
        let kind = choices.below(5);
        if kind == 0 {
            return WelcomeMessage::decode(hostile(&self.copies, choices).as_slice()).ok();
        }
        let mls_welcome = match kind {
            1 | 2 => hostile(std::slice::from_ref(&self.mls_welcome), choices),
            _ => self.invitation(network, choices)?,
        };
        let metadata = mutate(&self.metadata, &[], choices);
        Some(if kind == 1 || kind == 3 {
            self.direct(&mls_welcome, &metadata)
        } else {
            self.pointed(&mls_welcome, &metadata, network, choices)
        })
    }

    /// Wrapped to bob's key, as anybody can.
    fn direct(&self, mls_welcome: &[u8], metadata: &[u8]) -> WelcomeMessage {
        let wrapped = wrapper::wrap(WrapperAlgorithm::XWing, &self.xwing_key, mls_welcome, metadata);
        let wrapped = wrapped.expect("bob's key is one");
        v1(welcome_message::V1 {
            data: wrapped.data,
            hpke_public_key: self.xwing_key.clone(),
            wrapper_algorithm: WelcomeWrapperAlgorithm::XwingMlkem768Draft6.into(),
            welcome_metadata: wrapped.welcome_metadata,
            ..Default::default()
        })
    }

    /// A pointer for bob, and at its end a changed copy of what it promises.
    fn pointed(
        &self,
        mls_welcome: &[u8],
        metadata: &[u8],
        network: &MemoryNetwork,
        choices: &mut Choices<'_>,
    ) -> WelcomeMessage {
        let mut random = [0; Pointer::RANDOM_BYTES];
        usher_xmtp::ports::Randomness::fill(&cast::Machine, &mut random);
        let pointer = Pointer::new(&random);
        let pointee = pointer.seal(mls_welcome, metadata);
        let pointee = v1(welcome_message::V1 {
            data: pointee.data,
            wrapper_algorithm: WelcomeWrapperAlgorithm::SymmetricKey.into(),
            welcome_metadata: pointee.welcome_metadata,
            ..Default::default()
        });
        let pointee = mutate(&pointee.encode_to_vec(), &self.copies, choices);
        if let Ok(pointee) = WelcomeMessage::decode(pointee.as_slice()) {
            network.post_welcome(pointer.destination().as_bytes(), pointee);
        }
        let version = welcome_message::Version::WelcomePointer(welcome_message::WelcomePointer {
            welcome_pointer: pointer.wrap(&self.xwing_key).expect("bob's key is one"),
            hpke_public_key: self.xwing_key.clone(),
            wrapper_algorithm: WelcomePointerWrapperAlgorithm::XwingMlkem768Draft6.into(),
            ..Default::default()
        });
        WelcomeMessage { version: Some(version) }
    }

    /// The MLS Welcome to a group of the spy's own, under any id and with any extensions.
    fn invitation(&self, network: &MemoryNetwork, choices: &mut Choices<'_>) -> Option<Vec<u8>> {
        let provider = Provider::default();
        let bob = Account::decode(&self.bob).expect("what was encoded decodes");
        let key_package = network.key_package(bob.installation()).expect("bob is registered");
        let key_package = KeyPackageIn::tls_deserialize_exact(&key_package).expect("it is a key package");
        let key_package = key_package.validate(provider.crypto(), ProtocolVersion::Mls10).expect("it is valid");

        let id = if choices.yes() { self.id.0.to_vec() } else { vec![choices.byte(); choices.below(64)] };
        let extensions = changed_extensions(&self.extensions, choices);
        let signer = self.spy.key.mls_signer();
        let mut group = MlsGroup::builder()
            .with_group_id(openmls::group::GroupId::from_slice(&id))
            .ciphersuite(CIPHERSUITE)
            .with_capabilities(Shape::default().capabilities)
            .with_group_context_extensions(extensions)
            .use_ratchet_tree_extension(choices.byte() != 1)
            .build(&provider, &signer, self.spy.credential(None))
            .ok()?;
        let (_, welcome, _) = group.add_members(&provider, &signer, &[key_package]).ok()?;
        welcome.to_bytes().ok()
    }
}

fn v1(v1: welcome_message::V1) -> WelcomeMessage {
    WelcomeMessage { version: Some(welcome_message::Version::V1(v1)) }
}

/// A group's extensions with one of XMTP's changed or left out.
pub(crate) fn changed_extensions(
    extensions: &Extensions<GroupContext>,
    choices: &mut Choices<'_>,
) -> Extensions<GroupContext> {
    let kind = *choices.pick(&GROUP_EXTENSIONS).expect("there are some");
    let mut changed = extensions.clone();
    if choices.byte() == 1 {
        changed.remove(ExtensionType::Unknown(kind));
        return changed;
    }
    let bytes = extensions.unknown(kind).map(|extension| extension.0.clone()).unwrap_or_default();
    let extension = Extension::Unknown(kind, UnknownExtension(mutate(&bytes, &[], choices)));
    changed.add_or_replace(extension).expect("unknown extensions are legal in a group context");
    changed
}

fn seeds() -> Vec<Vec<u8>> {
    let kinds = (1..5).map(|kind| vec![0, kind]);
    [crate::unchanged(&[0, 0], 2), kinds.collect()].concat()
}
