//! The people of the story.

use std::collections::BTreeMap;

use alloy_primitives::{Address, hex, keccak256};
use usher_localnet::person::Person;
use usher_xmtp::{GroupId, identity::InboxId};

use super::deployment::Deployment;
use crate::Failure;

/// Who is who.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Creator,
    Alice,
    Bob,
    Carol,
    Dave,
    Erin,
    /// Never held a ticket.
    Outsider,
    /// Buyers that the samples do not tell of.
    Extra(u32),
}

/// The private keys of anvil's first accounts, whose addresses are in the samples. Known to everybody.
const ANVIL_KEYS: [(Who, [u8; 32]); 6] = [
    (Who::Creator, hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")),
    (Who::Alice, hex!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")),
    (Who::Bob, hex!("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a")),
    (Who::Carol, hex!("7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6")),
    (Who::Dave, hex!("47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a")),
    (Who::Erin, hex!("8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba")),
];

/// How many tickets the samples sell.
const SAMPLE_TICKETS: u32 = 4;
/// Beyond the ids in the samples.
const EXTRA_TICKETS_FROM: u32 = 100;

pub(super) struct Cast {
    people: BTreeMap<Who, Person>,
}

impl Cast {
    pub(super) async fn gather(deployment: &Deployment, tickets: u32) -> Result<Self, Failure> {
        let made_up = |name: String| keccak256(name).0;
        let extras = (SAMPLE_TICKETS..tickets).map(|number| {
            let ticket = EXTRA_TICKETS_FROM + number;
            (Who::Extra(ticket), made_up(format!("buyer of {ticket}")))
        });
        let outsider = (Who::Outsider, made_up("outsider".to_owned()));
        let mut people = BTreeMap::new();
        for (who, key) in ANVIL_KEYS.into_iter().chain([outsider]).chain(extras) {
            people.insert(who, Person::register(&key, &deployment.xmtp_url()).await?);
        }
        Ok(Self { people })
    }

    pub(super) fn len(&self) -> usize {
        self.people.len()
    }

    pub(super) fn people(&self) -> impl Iterator<Item = (Who, &Person)> {
        self.people.iter().map(|(who, person)| (*who, person))
    }

    fn person(&mut self, who: Who) -> &mut Person {
        self.people.get_mut(&who).expect("everybody was gathered")
    }

    pub(super) fn inbox(&self, who: Who) -> Result<InboxId, Failure> {
        Ok(self.people[&who].inbox()?)
    }

    /// Whether a person's own client says that he is admin of his rooms, and that there is one.
    pub(super) fn is_admin(&self, who: Who) -> Result<bool, Failure> {
        let (person, inbox) = (&self.people[&who], self.inbox(who)?);
        let rooms = person.groups().map(|room| Ok(person.group(room)?.metadata().admins.contains(&inbox)));
        let rooms = rooms.collect::<Result<Vec<bool>, Failure>>()?;
        Ok(!rooms.is_empty() && rooms.into_iter().all(|is_admin| is_admin))
    }

    /// Who is in a room and has not read what somebody else said.
    pub(super) fn deaf_to(&self, speaker: Who, text: &str) -> Vec<Who> {
        let others = self.people().filter(|(who, _)| *who != speaker);
        let seated = others.filter(|(_, person)| person.groups().any(|room| is_in(person, room)));
        seated.filter(|(_, person)| !has_read(person, text)).map(|(who, _)| who).collect()
    }

    /// Ticket ids and wallets of the buyers that the samples do not tell of.
    pub(super) fn extras(&self) -> Vec<(u32, Address)> {
        let extra = |(who, person): (&Who, &Person)| match who {
            Who::Extra(ticket) => Some((*ticket, person.address())),
            _ => None,
        };
        self.people.iter().filter_map(extra).collect()
    }

    pub(super) async fn sync(&mut self, who: &[Who]) -> Result<(), Failure> {
        for who in who {
            self.person(*who).sync().await?;
        }
        Ok(())
    }

    pub(super) async fn sync_all(&mut self) -> Result<(), Failure> {
        let everybody: Vec<Who> = self.people.keys().copied().collect();
        self.sync(&everybody).await
    }

    /// How many holders are in a room, the creator not counted.
    pub(super) fn seated(&self) -> usize {
        let holders = self.people().filter(|(who, _)| *who != Who::Creator);
        holders.filter(|(_, person)| person.groups().any(|room| is_in(person, room))).count()
    }

    pub(super) async fn say(&mut self, who: Who, text: &str) -> Result<(), Failure> {
        let room = self.room_of(who)?;
        Ok(self.person(who).send_text(room, text).await?)
    }

    pub(super) async fn say_with_old_keys(&mut self, who: Who, text: &str) -> Result<(), Failure> {
        let room = self.room_of(who)?;
        Ok(self.person(who).send_text_unsynced(room, text).await?)
    }

    /// Whether a person can read this text with the keys from when he was last a member.
    pub(super) async fn overhears(&self, person: &Person, text: &str) -> Result<bool, Failure> {
        for room in person.groups() {
            if person.overhear(room).await?.iter().any(|heard| heard == text) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn room_of(&mut self, who: Who) -> Result<GroupId, Failure> {
        self.person(who).groups().next().ok_or_else(|| format!("{who:?} is in no room").into())
    }
}

/// Whether a person's client counts itself as a member.
pub(super) fn is_in(person: &Person, room: GroupId) -> bool {
    person.group(room).is_ok_and(|group| group.lost().is_none())
}

/// Whether a person's client has read this text.
pub(super) fn has_read(person: &Person, text: &str) -> bool {
    person.groups().any(|room| person.texts(room).iter().any(|read| read == text))
}
