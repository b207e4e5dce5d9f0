//! A room with three members, made once: usher, alice and a member with a modified client.

use std::sync::OnceLock;

use usher_xmtp::{Account, Group, GroupId, Identities, NewGroup, Welcomed, Wrapping, policy::Policies};

use crate::{
    cast::{Machine, Seat, copied, register, run},
    network::{MemoryNetwork, Stored},
    rogue::{Candidate, Device, Rogue},
};

/// People's numbers, by which their wallets are made.
pub mod number {
    /// usher.
    pub const USHER: u8 = 1;
    /// A member.
    pub const ALICE: u8 = 2;
    /// The member with the modified client.
    pub const MALLORY: u8 = 3;
    /// Not in the room yet.
    pub const BOB: u8 = 4;
}

/// The room and everybody's state.
#[derive(Debug)]
pub struct Room {
    /// The network.
    pub network: MemoryNetwork,
    /// The group's id.
    pub id: GroupId,
    /// Super admin.
    pub usher: Seat,
    /// A member.
    pub alice: Seat,
    /// The member with the modified client; no admin.
    pub mallory: Rogue,
    /// Registered, and not in the room.
    pub bob: Account,
}

struct Made {
    stored: Stored,
    room: Room,
}

/// One room for the whole process. Members are copied out of it, and nothing is written back.
static MADE: OnceLock<Made> = OnceLock::new();

impl Room {
    /// The room, as if nobody had used it before.
    pub fn open() -> Self {
        let made = MADE.get_or_init(|| {
            let room = run(Self::make());
            Made { stored: room.network.stored(), room }
        });
        let Room { id, usher, alice, mallory, bob, .. } = &made.room;
        Self {
            network: MemoryNetwork::with(made.stored.clone()),
            id: *id,
            usher: usher.copied(),
            alice: alice.copied(),
            mallory: mallory.copied(),
            bob: copied(bob),
        }
    }

    async fn make() -> Self {
        let network = MemoryNetwork::default();
        let usher = register(number::USHER, Wrapping::XWing, &network).await;
        let alice = register(number::ALICE, Wrapping::XWing, &network).await;
        let bob = register(number::BOB, Wrapping::XWing, &network).await;
        let mallory = Device::publish(number::MALLORY, &network).await;
        let candidate = Candidate::apply(mallory, &network).await;

        let new = NewGroup { name: "room".into(), description: String::new(), policies: Policies::admin_only() };
        let group = Group::create(&usher, new, &Machine).expect("usher is registered");
        let id = group.id();
        let mut usher = Seat::new(usher, group);
        usher.admit(&[alice.inbox(), &candidate.device.inbox], &network).await;
        let mut alice = join(alice, &network).await;
        let mut mallory = candidate.join(id, &network).await.expect("the welcome is good");

        // Messages of two epochs, for the log to hold something of each kind.
        alice.say("alice in the first epoch", &network).await;
        usher.sync(&network).await;
        usher.stage_description("described", &network).await;
        usher.publish(&network).await;
        mallory.follow(&network.log(id), |_| true);
        alice.sync(&network).await;
        alice.say("alice in the second epoch", &network).await;
        usher.say("usher in the second epoch", &network).await;
        let text = usher_xmtp::content::encode_text("mallory in the second epoch", "1");
        network.post(id, mallory.encrypt(&text.plaintext), Vec::new());
        usher.sync(&network).await;
        alice.sync(&network).await;
        assert!(alice.heard("usher in the second epoch") && usher.heard("mallory in the second epoch"));
        Self { network, id, usher, alice, mallory, bob }
    }

    /// The messages in the log.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        self.network.log(self.id).into_iter().map(|message| message.data).collect()
    }

    /// Asserts that the room lives: both see the same, hear each other, follow the next commit, and somebody can join.
    pub async fn assert_alive(&mut self) {
        let Self { network, usher, alice, .. } = self;
        alice.sync(network).await;
        usher.sync(network).await;
        assert_eq!(usher.group.lost(), None, "usher's room is lost: {:?}", usher.events);
        assert_eq!(alice.group.lost(), None, "alice's room is lost: {:?}", alice.events);
        assert_eq!(usher.group.epoch(), alice.group.epoch(), "usher {:?}, alice {:?}", usher.events, alice.events);
        alice.say("alice afterwards", network).await;
        usher.sync(network).await;
        assert!(usher.heard("alice afterwards"), "usher hears alice: {:?}", usher.events);
        if !usher.group.has_pending_commit() {
            usher.stage_description("described afterwards", network).await;
        }
        usher.publish(network).await;
        alice.sync(network).await;
        assert_eq!(usher.group.epoch(), alice.group.epoch(), "alice follows usher's commit: {:?}", alice.events);
        usher.say("usher afterwards", network).await;
        alice.sync(network).await;
        assert!(alice.heard("usher afterwards"), "alice hears usher: {:?}", alice.events);
    }

    /// Asserts that bob can be let in, joins, and reads what is said then.
    pub async fn assert_bob_can_join(&mut self) {
        let Self { network, usher, bob, .. } = self;
        usher.admit(&[bob.inbox()], network).await;
        let mut bob = join(copied(bob), network).await;
        usher.say("welcome, bob", network).await;
        bob.sync(network).await;
        assert!(bob.heard("welcome, bob"), "bob hears usher: {:?}", bob.events);
    }
}

/// Joins by the newest welcome and reads the log.
pub async fn join(mut account: Account, network: &MemoryNetwork) -> Seat {
    let mut welcomed = Welcomed::default();
    let received = account.receive_welcomes(network, &mut Identities::default(), &mut welcomed, |_| true).await;
    received.expect("the network answers");
    let group = welcomed.joined.pop().unwrap_or_else(|| panic!("nobody was let in: {:?}", welcomed.dropped));
    let mut seat = Seat::new(account, group);
    seat.sync(network).await;
    seat
}
