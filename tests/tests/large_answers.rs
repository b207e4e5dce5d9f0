//! What anybody may write is larger than what a client reads at once, or longer than an invocation: that keeps nobody
//! from reading the rest.

use std::time::Duration;

use usher_doorkeeper::{Cause, Converged};
use usher_localnet::xmtp_node::{Node, NodeOptions};
use usher_tests::world::{ANVIL_KEYS, AnyError, World, sample_facts};
use usher_xmtp::{
    GroupId, Identities, NONCE, V3,
    identity::{
        InboxId, InstallationKey, LocalWallet, WalletSigner as _, add_installation_update, create_inbox_update,
    },
    network::{Network as _, OutgoingMessage},
    proto::associations::{IdentityUpdate, identity_action::Kind},
};

/// Nodes take no larger requests than 4 MiB.
const LARGE: usize = 3_500_000;
/// So many of them are more than the 25 MiB that libxmtp's and our clients read.
const MANY: u8 = 9;

/// A PrivateMessage of RFC 9420 section 6.3 that nobody can open, and what a node does not look at behind it.
fn junk(group: GroupId, tail: &[u8]) -> OutgoingMessage {
    let header = [&[0, 1, 0, 2, 16][..], &group.0, &[0; 8], &[1, 0, 1, 0, 1, 0]].concat();
    OutgoingMessage { data: [&header, tail].concat(), sender_hmac: Vec::new(), should_push: false }
}

/// Makes an entry large without breaking its signatures.
fn inflated(mut update: IdentityUpdate) -> IdentityUpdate {
    for action in &mut update.actions {
        if let Some(Kind::Add(add)) = &mut action.kind {
            add.relying_party = Some("x".repeat(LARGE));
        }
    }
    update
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_in_a_groups_log_are_read_in_smaller_pages() -> Result<(), AnyError> {
    let node = Node::start(NodeOptions::on_free_ports()).await?;
    let network = V3::new(&node.url(), Duration::from_secs(20))?;
    let group = GroupId([7; 16]);
    for number in 0..MANY {
        network.send_group_messages(vec![junk(group, &vec![number; LARGE])]).await?;
    }
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = network.group_messages(group, after).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        found.extend(page.into_iter().map(|message| message.data.last().copied()));
    }
    assert_eq!(found, (0..MANY).map(Some).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_identity_log_keeps_nobody_elses_from_being_read() -> Result<(), AnyError> {
    let node = Node::start(NodeOptions::on_free_ports()).await?;
    let network = V3::new(&node.url(), Duration::from_secs(20))?;
    let (eve, bob) = (LocalWallet::from_key(&ANVIL_KEYS[1])?, LocalWallet::from_key(&ANVIL_KEYS[2])?);
    let [eves, bobs] = [&eve, &bob].map(|wallet| InboxId::of_wallet(wallet.address(), NONCE));
    for (wallet, seed) in [(&eve, 1), (&bob, 2)] {
        let key = InstallationKey::from_seed(&[seed; 32]);
        network.publish_identity_update(create_inbox_update(wallet, NONCE, &key, 1).await?).await?;
    }
    for number in 0..MANY {
        let key = InstallationKey::from_seed(&[0x10 + number; 32]);
        let update = add_installation_update(&eves, &eve, &key, 2 + u64::from(number)).await?;
        network.publish_identity_update(inflated(update)).await?;
    }
    let mut identities = Identities::default();
    let loaded = identities.load(&network, [&eves, &bobs]).await;
    assert!(loaded.is_err() && !identities.knows(&eves), "eve's log is larger than a client reads");
    let (_, state) = identities.latest(&bobs).ok_or("bob's log was not read")?;
    assert!(state.addresses().contains(&bob.address()));

    let changed = Identities::changed(&network, &[(eves.clone(), 1), (bobs, u64::MAX >> 1)]).await?;
    assert_eq!(changed, [eves].into());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_longer_than_an_invocation_is_read_in_parts() -> Result<(), AnyError> {
    let world = World::start().await?;
    let _creator = world.person(0).await?;
    world.invoke("mint", &sample_facts("01-mint.json")).await?;
    let event = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse()?;
    let group = world.store().event(&event).await?.ok_or("no event")?.rooms[0].group;
    let network = V3::new(&world.node.url(), Duration::from_secs(20))?;
    for number in 0..350_u16 {
        network.send_group_messages(vec![junk(GroupId(group.0), &number.to_be_bytes())]).await?;
    }
    let doorkeeper = world.doorkeeper().await?;
    let mut ends = Vec::new();
    let mut seen = Vec::new();
    for look in 0..4 {
        // Too little time for a commit, so that each look ends after a page.
        let deadline_ms = usher_domain::ports::Clock::now_ms(&*world.clock) + 5_000;
        ends.push(doorkeeper.converge(&event, &format!("look {look}"), deadline_ms, Cause::Nudge).await?);
        seen.push(world.store().event(&event).await?.ok_or("no event")?.rooms[0].seen);
    }
    assert!(matches!(ends[..3], [Converged::Unfinished { .. }, Converged::Unfinished { .. }, _]), "{ends:?}");
    assert!(matches!(ends[2..], [Converged::Unfinished { .. }, Converged::Done { .. }]), "{ends:?}");
    assert_eq!([seen[1] - seen[0], seen[2] - seen[1], seen[3] - seen[2]], [100, 100, 50], "{seen:?}");
    Ok(())
}
