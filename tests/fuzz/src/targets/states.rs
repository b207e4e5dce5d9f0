//! The account's and a room's state, as it is once a snapshot was opened.
//!
//! Only who has the data key can write it. But formats change, and a state that was half understood must not be worked
//! with, nor bring down the function that reads it.

use std::sync::OnceLock;

use usher_xmtp::{Account, Group};

use crate::{
    Target, cast,
    mutate::{Choices, contents_of, hostile},
    network::MemoryNetwork,
    room::Room,
};

/// Decodes states, looks at what was decoded and encodes it again.
pub const TARGET: Target = Target { name: "states", run, seeds, smoke: 1_500 };

/// The field of a room's state that holds what openmls stored. openmls's storage panics on what it has not written
/// itself, so this much is left as it is.
const MLS_VALUES: u64 = 2;

static STATES: OnceLock<[Vec<Vec<u8>>; 2]> = OnceLock::new();

/// Encoded accounts and encoded rooms, one with a pending commit and one with welcomes to be sent.
fn states() -> &'static [Vec<Vec<u8>>; 2] {
    STATES.get_or_init(|| {
        let mut room = Room::open();
        let encoded = |group: &Group| group.encode().expect("a group encodes").to_vec();
        let accounts = [&room.usher.account, &room.alice.account];
        let accounts = accounts.map(|account| account.encode().expect("an account encodes").to_vec()).to_vec();
        let mut groups = vec![encoded(&room.usher.group), encoded(&room.alice.group)];
        cast::run(async {
            let Room { network, usher, bob, .. } = &mut room;
            usher.stage_addition(&[bob.inbox()], network).await;
            groups.push(encoded(&usher.group));
            usher.publish_commit(network).await;
            groups.push(encoded(&usher.group));
        });
        [accounts, groups]
    })
}

fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let [accounts, groups] = states();
    if choices.yes() {
        let Ok(account) = Account::decode(&hostile(accounts, &mut choices)) else { return };
        let _ = (account.inbox(), account.installation(), account.siblings(), account.is_registered());
        let again = account.encode().expect("what was decoded encodes");
        Account::decode(&again).expect("and decodes again");
    } else {
        let state = hostile(groups, &mut choices);
        let mls = contents_of(&state, MLS_VALUES);
        if !groups.iter().any(|group| contents_of(group, MLS_VALUES) == mls) {
            return;
        }
        let Ok(mut group) = Group::decode(&state) else { return };
        let _ = (group.members(), group.metadata(), group.policies(), group.strangers(), group.welcome_recipients());
        let again = group.encode().expect("what was decoded encodes");
        Group::decode(&again).expect("and decodes again");
        let account = Account::decode(&accounts[0]).expect("it was not changed");
        let network = MemoryNetwork::default();
        let mut identities = usher_xmtp::Identities::default();
        let mut events = Vec::new();
        let synced = cast::run(group.sync(&account, &network, &mut identities, &mut events));
        synced.expect("an empty log is no trouble");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let [accounts, groups] = states();
    [crate::unchanged(&[1], accounts.len()), crate::unchanged(&[0], groups.len())].concat()
}
