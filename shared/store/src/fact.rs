//! Facts as rows: the audit trail of a ticket or an event, and what its fold reads.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use usher_domain::{EventKey, Fact, KioskKey, TicketKey, What, planted::Bug};

use crate::{
    StoreError,
    item::{from_json, json},
    ledger::Numbered,
    table::{Attributes, Condition, Item, Key, Query, Step, Table, Write},
};

const FACT: &str = "fact";
const RETRACTED: &str = "retracted";
const PREFIX: &str = "fact#";

/// Whose facts these are: one partition each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Ticket(TicketKey),
    Event(EventKey),
}

impl Subject {
    fn pk(self) -> String {
        match self {
            Subject::Ticket(ticket) => format!("ticket#{ticket}"),
            Subject::Event(event) => event_pk(&event),
        }
    }

    /// The key of a fact's row.
    pub(crate) fn key(self, fact: &Fact) -> Key {
        self.named(&name(fact))
    }

    fn named(self, name: &str) -> Key {
        Key::new(self.pk(), format!("{PREFIX}{name}"))
    }

    /// Every known fact, retractions included, by name.
    pub(crate) async fn facts(self, table: &impl Table) -> Result<BTreeMap<String, Fact>, StoreError> {
        let rows = table.query(&Query::prefix(self.pk(), PREFIX)).await?;
        rows.iter().map(read).map(|fact| fact.map(|fact| (name(&fact), fact))).collect()
    }

    /// Adds `facts` to those known, and returns the writes by which they become known, one per item, and of each
    /// fact whether it said anything new.
    pub(crate) fn learn(
        self,
        facts: &[Numbered<'_>],
        known: &mut BTreeMap<String, Fact>,
    ) -> (Vec<Write>, Vec<(usize, bool)>) {
        // Per name, whether its row is to be written whole; a log and its retraction may come in one batch.
        let mut touched: BTreeMap<String, bool> = BTreeMap::new();
        let mut news = Vec::with_capacity(facts.len());
        for (index, fact) in facts {
            let name = name(fact);
            let new = match known.get_mut(&name) {
                None if fact.retracted && Bug::EarlyRetraction.is_planted() => false,
                None => {
                    known.insert(name.clone(), (*fact).clone());
                    touched.insert(name, true);
                    true
                }
                Some(stored) if fact.retracted && !stored.retracted => {
                    stored.retracted = true;
                    touched.entry(name).or_insert(false);
                    true
                }
                Some(_) => false,
            };
            news.push((*index, new));
        }
        let writes = touched.into_iter().map(|(name, whole)| {
            let key = self.named(&name);
            if whole {
                Write::put(key, row(&known[&name])).when(Condition::ITEM_ABSENT)
            } else {
                Write::update(key, vec![Step::set(RETRACTED, 1)]).when(Condition::ITEM_EXISTS)
            }
        });
        (writes.collect(), news)
    }
}

/// The partition of an event: its item, rooms and mints.
pub(crate) fn event_pk(event: &EventKey) -> String {
    format!("event#{event}")
}

/// The partition of a kiosk: itself and its tickets.
pub(crate) fn kiosk_pk(kiosk: &KioskKey) -> String {
    format!("kiosk#{kiosk}")
}

/// What is stored of a fact.
pub(crate) fn row(fact: &Fact) -> Item {
    let mut item = Item::from([(FACT.into(), json(&Fact { retracted: false, ..fact.clone() }))]);
    if fact.retracted {
        item.insert(RETRACTED.into(), 1.into());
    }
    item
}

/// A stored fact, retracted if its row bears the tombstone.
pub(crate) fn read(item: &Item) -> Result<Fact, StoreError> {
    let fact: Fact = from_json(item, FACT)?;
    Ok(Fact { retracted: item.number(RETRACTED).is_some(), ..fact })
}

/// Names a fact among those of its subject, in order of position. A log and its retraction have one name.
///
/// What the fact says is part of the name: two bodies that claim one log are both kept, whichever came first, and it
/// is the fold that calls them disputed.
pub(crate) fn name(fact: &Fact) -> String {
    let at = fact.position;
    let kind = match fact.what {
        What::EventMinted(_) => "minted",
        What::TicketTransferred { .. } => "transferred",
        What::TicketMinted { .. } => "sold",
        What::TicketRefunded { .. } => "refunded",
    };
    let said = serde_json::to_vec(&(fact.transaction, &fact.what)).expect("a fact always has a JSON form");
    let digest = hex::encode(&Sha256::digest(said)[..8]);
    format!("{:016x}#{:016x}#{:x}#{kind}#{digest}", at.block_number, at.log_index, at.block_hash)
}
