//! A made-up season: events, and what happens to their tickets.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, keccak256};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::json;
use usher_chain::{Chains, Reading};
use usher_domain::EventKey;

use crate::{
    haus::{CHAIN, Chain, Event, FACTORY, Transaction},
    world::AnyError,
};

/// One in so many wallets is that of somebody with an XMTP client.
const PEOPLE_ONE_IN: u32 = 8;

/// What happened, one fact a message, and who should be where in the end.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) bodies: Vec<String>,
    /// The wallets that belong to each event in the end.
    pub(super) belong: BTreeMap<EventKey, BTreeSet<Address>>,
}

/// A season of `events` with `facts` altogether, told by `rng`.
pub(super) fn season(events: usize, facts: usize, people: &[Address], rng: &mut StdRng) -> Result<Story, AnyError> {
    let chains: Chains =
        serde_json::from_value(json!({ CHAIN.to_string(): { "trust": "queue", "factories": [FACTORY] } }))?;
    let mut teller = Teller { chain: Chain::default(), rng, people, strangers: 0 };
    let mut story = Story { bodies: Vec::new(), belong: BTreeMap::new() };
    for id in 0..events {
        let event = Event::new(u64::try_from(id)?, teller.somebody());
        let facts = facts / events + usize::from(id < facts % events);
        let (transactions, holders) = teller.event(&event, facts);
        let logs = transactions.into_iter().flat_map(|transaction| transaction.logs);
        let bodies = logs.map(|log| json!({ "chainId": CHAIN, "log": log }).to_string());
        story.bodies.extend(bodies.filter(|body| is_fact(body, &chains)));
        story.belong.insert(event.key(), holders.into_values().chain([event.creator]).collect());
    }
    if story.bodies.len() == facts { Ok(story) } else { Err(format!("{} facts", story.bodies.len()).into()) }
}

fn is_fact(body: &str, chains: &Chains) -> bool {
    matches!(usher_chain::read(body, chains)[..], [Reading::Fact(_)])
}

struct Teller<'a> {
    chain: Chain,
    rng: &'a mut StdRng,
    people: &'a [Address],
    strangers: u64,
}

impl Teller<'_> {
    /// Mostly a wallet that nobody has seen before.
    fn somebody(&mut self) -> Address {
        if self.rng.random_ratio(1, PEOPLE_ONE_IN)
            && let Some(person) = self.people.choose(self.rng)
        {
            return *person;
        }
        self.strangers += 1;
        Address::from_word(keccak256(format!("stranger {}", self.strangers)))
    }

    /// What happens to one event in so many facts, and who holds which ticket in the end.
    fn event(&mut self, event: &Event, facts: usize) -> (Vec<Transaction>, BTreeMap<u64, Address>) {
        let mut transactions = vec![self.chain.mint(event)];
        let (mut holders, mut tickets) = (BTreeMap::new(), 0);
        let mut left = facts.saturating_sub(1);
        while left > 0 {
            let held: Vec<u64> = holders.keys().copied().collect();
            let (transaction, told) = match (self.rng.random_range(0..10), held.choose(self.rng)) {
                (0..3, Some(ticket)) => {
                    let buyer = self.somebody();
                    let seller = holders.insert(*ticket, buyer).expect("chosen among the held");
                    (self.chain.transfer(event, *ticket, seller, buyer), 1)
                }
                (3, Some(ticket)) => {
                    let holder = holders.remove(ticket).expect("chosen among the held");
                    (self.chain.refund(event, *ticket, holder), 1)
                }
                (4, Some(ticket)) => {
                    let holder = holders.remove(ticket).expect("chosen among the held");
                    (self.chain.burn(event, *ticket, holder), 1)
                }
                _ => {
                    tickets += 1;
                    let buyer = self.somebody();
                    holders.insert(tickets, buyer);
                    // A purchase is two facts, a gift of the creator's one.
                    if left > 1 {
                        (self.chain.purchase(event, tickets, buyer), 2)
                    } else {
                        (self.chain.transfer(event, tickets, Address::ZERO, buyer), 1)
                    }
                }
            };
            transactions.push(transaction);
            left -= told;
        }
        (transactions, holders)
    }
}
