//! Commits and proposals of a member who is no admin and whose client obeys MLS alone.

use openmls::{
    framing::MlsMessageOut,
    group::{MlsGroup, MlsGroupJoinConfig, PURE_PLAINTEXT_WIRE_FORMAT_POLICY},
    key_packages::{KeyPackage, KeyPackageIn},
    prelude::{LeafNodeIndex, LeafNodeParameters, ProtocolVersion},
};
use openmls_traits::OpenMlsProvider as _;
use prost::Message as _;
use tls_codec::Deserialize as _;
use usher_xmtp::{identity::InstallationId, proto::contents::GroupMembership};

use super::{key_packages, welcomes::changed_extensions};
use crate::{
    Target, cast,
    mutate::{Choices, mutate},
    network::MemoryNetwork,
    rogue::{Device, GROUP_EXTENSIONS, Provider, Rogue, Shape},
    room::{Room, number},
};

/// Puts up to two such commits into the log; the room must live.
pub const TARGET: Target = Target { name: "commits", run, seeds, smoke: 60 };

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut room = Room::open();
    cast::run(async {
        if choices.yes() {
            room.usher.stage_description("in a race", &room.network).await;
        }
        for _ in 0..=choices.below(2) {
            let bob = room.bob.installation();
            if let Some(message) = message(&mut room.mallory, bob, &room.network, &mut choices) {
                room.network.post(room.id, message, Vec::new());
            }
        }
        room.usher.sync(&room.network).await;
        // No client looks at the new 0xf000 of a commit, and none can use the group after a broken one: such a room is
        // lost for everybody, and usher says so.
        if room.usher.group.lost().is_some_and(|lost| lost.to_string().contains("0xf000")) {
            return;
        }
        room.assert_alive().await;
        // A leaf that was planted is in the way of joiners until usher has removed it.
        if room.usher.group.damaged().is_empty() && room.usher.group.strangers().is_empty() {
            room.assert_bob_can_join().await;
        }
    });
}

fn message(
    mallory: &mut Rogue,
    bob: InstallationId,
    network: &MemoryNetwork,
    choices: &mut Choices<'_>,
) -> Option<Vec<u8>> {
    let Rogue { device, provider, group } = mallory;
    if choices.byte() == 1 {
        let config = MlsGroupJoinConfig::builder().wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY).build();
        group.set_configuration(provider.storage(), &config).expect("memory takes it");
    }
    group.set_aad(vec![choices.byte(); choices.below(64)]);
    let message = match choices.below(4) {
        0 => proposal(device, provider, group, choices),
        _ => commit(device, provider, group, bob, network, choices),
    };
    // What was made is not merged: next comes another one for the same epoch.
    group.clear_pending_commit(provider.storage()).expect("memory takes it");
    group.clear_pending_proposals(provider.storage()).expect("memory takes it");
    message?.to_bytes().ok()
}

fn proposal(
    device: &Device,
    provider: &Provider,
    group: &mut MlsGroup,
    choices: &mut Choices<'_>,
) -> Option<MlsMessageOut> {
    let signer = device.key.mls_signer();
    match choices.below(4) {
        0 => group.propose_self_update(provider, &signer, LeafNodeParameters::default()).map(|made| made.0).ok(),
        1 => {
            let leaf = LeafNodeIndex::new(u32::from(choices.byte()) % 4);
            group.propose_remove_member(provider, &signer, leaf).map(|made| made.0).ok()
        }
        2 => group.leave_group(provider, &signer).ok(),
        _ => {
            let extensions = changed_extensions(group.extensions(), choices);
            group.propose_group_context_extensions(provider, extensions, &signer).map(|made| made.0).ok()
        }
    }
}

fn commit(
    device: &Device,
    provider: &Provider,
    group: &mut MlsGroup,
    bob: InstallationId,
    network: &MemoryNetwork,
    choices: &mut Choices<'_>,
) -> Option<MlsMessageOut> {
    let bobs = key_package(&network.key_package(bob).expect("bob is registered"), provider);
    let mut extensions = group.extensions().clone();
    let mut adds = Vec::new();
    match choices.below(6) {
        1 => extensions = changed_extensions(&extensions, choices),
        // As an admin would add bob, or nearly so.
        2 => {
            let bytes = extensions.unknown(GROUP_EXTENSIONS[2]).map(|membership| membership.0.clone());
            let mut membership = GroupMembership::decode(bytes.unwrap_or_default().as_slice()).expect("it was read");
            let named = if choices.yes() { wallet_inbox(number::BOB) } else { device.inbox.to_string() };
            membership.members.insert(named, u64::from(choices.byte()));
            let bytes = mutate(&membership.encode_to_vec(), &[], choices);
            let extension = openmls::extensions::UnknownExtension(bytes);
            let extension = openmls::extensions::Extension::Unknown(GROUP_EXTENSIONS[2], extension);
            extensions.add_or_replace(extension).expect("unknown extensions are legal in a group context");
            adds.extend(bobs);
        }
        3 => adds.extend(bobs),
        // A device whose key package has expired, or is not valid yet.
        4 => {
            let shape = Shape { lifetime: key_packages::lifetime(choices), ..Shape::default() };
            let second = second_device(device);
            adds.extend(second.key_package(shape, &Provider::default()).map(|bundle| bundle.key_package().clone()));
        }
        // A leaf that names somebody else.
        5 => {
            let credential = (0..choices.below(128)).map(|_| choices.byte()).collect();
            let shape = Shape { credential: Some(credential), ..Shape::default() };
            let second = second_device(device);
            adds.extend(second.key_package(shape, &Provider::default()).map(|bundle| bundle.key_package().clone()));
        }
        _ => {}
    }
    let removes: Vec<_> = (0..choices.below(3)).map(|_| LeafNodeIndex::new(u32::from(choices.byte()) % 4)).collect();
    let leaf = if choices.byte() == 1 {
        let credential = (0..choices.below(128)).map(|_| choices.byte()).collect();
        LeafNodeParameters::builder().with_credential_with_key(device.credential(Some(credential))).build()
    } else {
        LeafNodeParameters::default()
    };
    let changed = extensions != *group.extensions();
    let mut builder = group
        .commit_builder()
        .consume_proposal_store(choices.yes())
        .force_self_update(choices.byte() != 1)
        .leaf_node_parameters(leaf)
        .propose_adds(adds)
        .propose_removals(removes);
    if changed {
        builder = builder.propose_group_context_extensions(extensions).ok()?;
    }
    let bundle = builder
        .load_psks(provider.storage())
        .ok()?
        .build(provider.rand(), provider.crypto(), &device.key.mls_signer(), |_| true)
        .ok()?
        .stage_commit(provider)
        .ok()?;
    Some(bundle.into_commit())
}

fn wallet_inbox(person: u8) -> String {
    use usher_xmtp::identity::{InboxId, WalletSigner as _};
    InboxId::of_wallet(cast::wallet(person).address(), usher_xmtp::NONCE).to_string()
}

fn second_device(device: &Device) -> Device {
    let key = usher_xmtp::identity::InstallationKey::from_seed(&[0xdd; 32]);
    Device { inbox: device.inbox.clone(), key }
}

fn key_package(bytes: &[u8], provider: &Provider) -> Option<KeyPackage> {
    KeyPackageIn::tls_deserialize_exact(bytes).ok()?.validate(provider.crypto(), ProtocolVersion::Mls10).ok()
}

fn seeds() -> Vec<Vec<u8>> {
    let race = [0, 1];
    let of_a_kind = |race: u8| {
        let proposals = (0..4).map(move |kind| vec![race, 0, 0, 0, 0, 0, kind]);
        let commits = (0..6).map(move |kind| vec![race, 0, 0, 0, 0, 1, kind]);
        proposals.chain(commits)
    };
    race.into_iter().flat_map(of_a_kind).collect()
}
