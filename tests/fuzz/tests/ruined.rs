//! Commits that spoil 0xf000, which no member looks at: they cost a room only if members accept the rest of them.

use openmls::{
    extensions::{Extension, UnknownExtension},
    prelude::LeafNodeIndex,
};
use openmls_traits::OpenMlsProvider as _;
use usher_fuzz::{
    cast,
    rogue::{GROUP_EXTENSIONS, Rogue},
    room::Room,
};

/// A commit of mallory's with a broken 0xf000, which also removes these leaves.
fn spoil(mallory: &mut Rogue, removes: Vec<LeafNodeIndex>) -> Vec<u8> {
    let Rogue { device, provider, group } = mallory;
    let mut extensions = group.extensions().clone();
    let broken = Extension::Unknown(GROUP_EXTENSIONS[0], UnknownExtension(vec![0xff; 3]));
    extensions.add_or_replace(broken).expect("unknown extensions are legal in a group context");
    let builder = group.commit_builder().propose_removals(removes).propose_group_context_extensions(extensions);
    let builder = builder.expect("the extensions are legal").load_psks(provider.storage()).expect("no PSKs");
    let built = builder.build(provider.rand(), provider.crypto(), &device.key.mls_signer(), |_| true);
    let bundle = built.expect("MLS allows it").stage_commit(provider).expect("memory takes it");
    let commit = bundle.into_commit().to_bytes().expect("a commit is bytes");
    group.clear_pending_commit(provider.storage()).expect("memory takes it");
    commit
}

#[test]
fn a_refused_commit_with_a_broken_0xf000_costs_nothing() {
    let mut room = Room::open();
    cast::run(async {
        // Mallory is no admin: every member refuses that he removes somebody.
        let commit = spoil(&mut room.mallory, vec![LeafNodeIndex::new(0)]);
        room.network.post(room.id, commit, Vec::new());
        room.usher.sync(&room.network).await;
        room.assert_alive().await;
    });
}

#[test]
fn a_room_whose_members_accept_a_broken_0xf000_is_lost() {
    let mut room = Room::open();
    cast::run(async {
        let commit = spoil(&mut room.mallory, Vec::new());
        room.network.post(room.id, commit, Vec::new());
        room.usher.sync(&room.network).await;
        let lost = room.usher.group.lost().map(ToString::to_string).unwrap_or_default();
        assert!(lost.contains("0xf000"), "{lost:?}");
    });
}
