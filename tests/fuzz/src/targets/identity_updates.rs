//! Identity logs of a hostile inbox: changed copies of real entries, in any order, under any inbox.

use std::sync::OnceLock;

use prost::Message as _;
use usher_xmtp::{
    Identities,
    identity::{
        InstallationKey, WalletSigner as _, add_installation_update, add_wallet_update, create_inbox_update,
        revoke_update,
    },
    inbox_of,
    proto::associations::{IdentityUpdate, Signature, SmartContractWalletSignature, identity_action, signature},
};

use crate::{
    Target, cast,
    cast::{NOW_NS, wallet},
    mutate::{Choices, hostile},
    rogue::{Candidate, Device},
    room::{Room, number},
};

/// A buyer's or a member's log gets hostile entries; others are added all the same.
pub const TARGET: Target = Target { name: "identity_updates", run, seeds, smoke: 60 };

const EVE: u8 = number::BOB + 5;
const EVES_SECOND_WALLET: u8 = number::BOB + 6;

static UPDATES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();

/// Encoded entries of eve's log, each valid at its place.
fn updates() -> &'static Vec<Vec<u8>> {
    UPDATES.get_or_init(|| {
        cast::run(async {
            let (first, second) = (wallet(EVE), wallet(EVES_SECOND_WALLET));
            let key = InstallationKey::from_seed(&[EVE; 32]);
            let second_key = InstallationKey::from_seed(&[EVES_SECOND_WALLET; 32]);
            let create = create_inbox_update(&first, usher_xmtp::NONCE, &key, NOW_NS).await.expect("it signs");
            let inbox = create.inbox_id.parse().expect("it is an inbox id");
            let device = add_installation_update(&inbox, &first, &second_key, NOW_NS + 1).await.expect("it signs");
            let wallet = add_wallet_update(&inbox, &key, &second, NOW_NS + 2).await.expect("it signs");
            let members = [second_key.public().into()];
            let revoke = revoke_update(&inbox, &first, members, NOW_NS + 3).await.expect("it signs");
            let smart = [0, 1].map(|verdict| signed_by_contract(&wallet, verdict));
            let all = [create, device, wallet, revoke].into_iter().chain(smart);
            all.map(|update| update.encode_to_vec()).collect()
        })
    })
}

/// The addition of a wallet that is a contract, with a signature that is valid (1) or not.
fn signed_by_contract(update: &IdentityUpdate, verdict: u8) -> IdentityUpdate {
    let mut update = update.clone();
    let contract = SmartContractWalletSignature {
        account_id: format!("eip155:1:{:#x}", wallet(EVES_SECOND_WALLET).address()),
        block_number: 1,
        signature: vec![verdict],
    };
    for action in &mut update.actions {
        if let Some(identity_action::Kind::Add(add)) = &mut action.kind {
            let signature = Some(signature::Signature::Erc6492(contract.clone()));
            add.new_member_signature = Some(Signature { signature });
        }
    }
    update
}

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (mut room, updates) = (Room::open(), updates());
    cast::run(async {
        let member = choices.yes();
        let eve = Device { inbox: eves_inbox(), key: InstallationKey::from_seed(&[EVE; 32]) };
        if member {
            let eve = Candidate::apply(Device::publish(EVE, &room.network).await, &room.network).await;
            room.usher.admit(&[&eve.device.inbox], &room.network).await;
        }
        while !choices.used_up() {
            if let Ok(update) = IdentityUpdate::decode(hostile(updates, &mut choices).as_slice()) {
                room.network.append_update(&eve.inbox, update);
            }
        }
        let mut identities = Identities::default();
        let bob = room.bob.inbox().clone();
        room.network.make_wallets_unverifiable(true);
        // An error says that a contract cannot be asked now: eve's state is not known then, and bob's is.
        let _ = identities.load(&room.network, [&eve.inbox, &bob]).await;
        assert!(identities.latest(&bob).is_some(), "eve's log is no part of bob's");
        room.network.make_wallets_unverifiable(false);
        let loaded = identities.load(&room.network, [&eve.inbox, &bob]).await;
        loaded.expect("every log is good or bad");
        if let Some((_, state)) = identities.latest(&eve.inbox) {
            let wallets = [EVE, EVES_SECOND_WALLET].map(|number| wallet(number).address());
            let stranger = state.addresses().into_iter().find(|address| !wallets.contains(address));
            assert_eq!(stranger, None, "nobody becomes a member without having signed");
        }
        let found = inbox_of(wallet(number::BOB).address(), &room.network).await;
        assert_eq!(found.expect("bob's own log is good"), bob);
        room.assert_alive().await;
        room.assert_bob_can_join().await;
    });
}

fn eves_inbox() -> usher_xmtp::identity::InboxId {
    usher_xmtp::identity::InboxId::of_wallet(wallet(EVE).address(), usher_xmtp::NONCE)
}

fn seeds() -> Vec<Vec<u8>> {
    let entry = |number: u8| vec![0, number, 0];
    let logs: [&[u8]; 7] = [&[0], &[0, 1], &[0, 1, 2, 3], &[0, 4], &[0, 5], &[1, 0], &[0, 0]];
    let log = |member: u8| {
        logs.map(|numbers| [vec![member], numbers.iter().flat_map(|number| entry(*number)).collect()].concat())
    };
    [log(0), log(1)].concat()
}
