//! The admission: which inboxes belong to an event, as what, and which wallets cannot be told yet.
//!
//! A wallet counts for an inbox when that inbox's verified identity log lists it, from then on until a later log entry
//! takes it out. Not hearing from the network changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

use crate::ids::{InboxId, TicketKey};

/// Everything from which an event's admission follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// usher's own inbox.
    pub usher: InboxId,
    /// The wallet that the factory named as the event's creator.
    pub creator: Address,
    /// The holder of the event's own NFT, where the deployment lets it count.
    pub owner: Option<Address>,
    /// What the creator and the owner are in the rooms.
    pub creator_role: CreatorRole,
    /// Who holds each live ticket.
    pub holders: BTreeMap<TicketKey, Address>,
    /// Wallets that a fact says held a ticket or the event once: what makes a removal explained.
    pub former: BTreeSet<Address>,
    /// Inboxes that an admin invited.
    pub guests: BTreeSet<InboxId>,
    /// Wallets that keep order besides the creator; they belong without a ticket.
    pub moderators: BTreeSet<Address>,
    /// Inboxes that an admin or the deployment removed.
    pub bans: BTreeSet<InboxId>,
    /// Wallets whose inboxes are banned likewise.
    pub banned_wallets: BTreeSet<Address>,
    /// Inboxes that left by their own wish and have not asked back.
    pub left: BTreeSet<InboxId>,
    /// The inbox each wallet was last verified to belong to. A link is kept here until nobody sits by it any more, also
    /// when the log has taken it back: it is what explains the removal.
    pub links: BTreeMap<Address, InboxId>,
    /// What was found about wallets this time. A wallet that is missing was not asked about, or nobody answered.
    pub answers: BTreeMap<Address, Answer>,
}

/// What the deployment makes of an event's creator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CreatorRole {
    /// May add, remove and rename, not appoint.
    #[default]
    Admin,
    /// May also appoint others, widen the policies and take usher's own rights away.
    SuperAdmin,
}

/// What was found about a wallet's inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This inbox's verified identity log lists the wallet.
    Linked(InboxId),
    /// The verified log of the inbox it was linked to takes the wallet out, and no other inbox has it.
    Unlinked,
    /// Nothing that counts.
    Unresolved(Unresolved),
}

/// Why a wallet with a title has no inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unresolved {
    /// The network knows no inbox for it.
    NoInbox,
    /// An inbox was suggested, but its identity log does not list the wallet.
    NotListed,
    /// Its inbox has given it up.
    Unlinked,
    /// The network was not asked or did not answer.
    Silent,
}

/// What an inbox is in a room, as XMTP knows it (XIP-47).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads and writes.
    Member,
    /// Also adds, removes and renames.
    Admin,
    /// Also appoints and sets the policies.
    SuperAdmin,
}

/// Why an inbox belongs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Titles {
    /// Its wallets that count.
    pub wallets: BTreeSet<Address>,
    /// The tickets they hold.
    pub tickets: BTreeSet<TicketKey>,
    /// One of the wallets created the event or holds its NFT.
    pub in_charge: bool,
    /// An admin invited it.
    pub guest: bool,
    /// It keeps order.
    pub moderator: bool,
}

/// An inbox's right to a place in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Why it belongs. Empty for usher.
    pub titles: Titles,
    /// What it is in the room.
    pub role: Role,
}

/// Why an inbox does not belong although it once did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Departure {
    /// An admin removed it, or the deployment bans it.
    Banned,
    /// It left by its own wish.
    Left,
    /// Its wallet lost its last ticket, or the event.
    TicketLost,
    /// Its identity log gave up the wallet that holds the ticket.
    Unlinked,
}

/// What should be: the inboxes that belong to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// usher's own inbox; it is always among the seats.
    pub usher: InboxId,
    /// The inboxes that belong.
    pub seats: BTreeMap<InboxId, Seat>,
    /// Wallets with a title whose inbox is not known.
    pub waiting: BTreeMap<Address, Unresolved>,
    /// Inboxes that are out for a known reason. None of them has a seat.
    pub departures: BTreeMap<InboxId, Departure>,
}

impl Admission {
    /// What the claims amount to. Several tickets or wallets of one inbox count once; a ban or an own wish to leave
    /// outweighs every title; usher always belongs.
    pub fn new(claims: &Claims) -> Self {
        let mut titles = BTreeMap::<InboxId, Titles>::new();
        let mut waiting = BTreeMap::new();
        let mut grant = |wallet: Address, title: &dyn Fn(&mut Titles)| match claims.inbox_of(wallet) {
            Ok(inbox) => {
                let titles = titles.entry(inbox.clone()).or_default();
                titles.wallets.insert(wallet);
                title(titles);
            }
            Err(reason) => {
                waiting.insert(wallet, reason);
            }
        };
        for (ticket, holder) in &claims.holders {
            grant(*holder, &|titles| {
                titles.tickets.insert(*ticket);
            });
        }
        for wallet in std::iter::once(claims.creator).chain(claims.owner) {
            grant(wallet, &|titles| titles.in_charge = true);
        }
        for wallet in &claims.moderators {
            grant(*wallet, &|titles| titles.moderator = true);
        }
        for guest in &claims.guests {
            titles.entry(guest.clone()).or_default().guest = true;
        }
        titles.entry(claims.usher.clone()).or_default();

        let departures = claims.departures(&titles);
        let seats = titles
            .into_iter()
            .filter(|(inbox, _)| !departures.contains_key(inbox))
            .map(|(inbox, titles)| {
                let role = claims.role(&inbox, &titles);
                (inbox, Seat { titles, role })
            })
            .collect();
        Self { usher: claims.usher.clone(), seats, waiting, departures }
    }

    /// What `inbox` is in the rooms, if it belongs.
    pub fn role(&self, inbox: &InboxId) -> Option<Role> {
        self.seats.get(inbox).map(|seat| seat.role)
    }
}

impl Claims {
    /// The inbox that `wallet` counts for: the newest verified one, else the one it was last verified to belong to.
    fn inbox_of(&self, wallet: Address) -> Result<&InboxId, Unresolved> {
        match self.answers.get(&wallet) {
            Some(Answer::Linked(inbox)) => Ok(inbox),
            Some(Answer::Unlinked) => Err(Unresolved::Unlinked),
            Some(Answer::Unresolved(reason)) => self.links.get(&wallet).ok_or(*reason),
            None => self.links.get(&wallet).ok_or(Unresolved::Silent),
        }
    }

    fn role(&self, inbox: &InboxId, titles: &Titles) -> Role {
        if *inbox == self.usher || titles.in_charge && self.creator_role == CreatorRole::SuperAdmin {
            Role::SuperAdmin
        } else if titles.in_charge || titles.moderator {
            Role::Admin
        } else {
            Role::Member
        }
    }

    /// Who is out and why; the first reason found is the one that is told.
    fn departures(&self, titles: &BTreeMap<InboxId, Titles>) -> BTreeMap<InboxId, Departure> {
        let mut departures = BTreeMap::new();
        let banned = self.banned_wallets.iter().filter_map(|wallet| self.inbox_of(*wallet).ok());
        for inbox in self.bans.iter().chain(banned) {
            departures.entry(inbox.clone()).or_insert(Departure::Banned);
        }
        for inbox in &self.left {
            departures.entry(inbox.clone()).or_insert(Departure::Left);
        }
        let former = self.former.iter().filter_map(|wallet| self.inbox_of(*wallet).ok());
        for inbox in former.filter(|inbox| !titles.contains_key(*inbox)) {
            departures.entry(inbox.clone()).or_insert(Departure::TicketLost);
        }
        let given_up = self.links.iter().filter(|(wallet, inbox)| match self.answers.get(*wallet) {
            Some(Answer::Linked(now)) => now != *inbox,
            Some(Answer::Unlinked) => true,
            _ => false,
        });
        for (_, inbox) in given_up.filter(|(_, inbox)| !titles.contains_key(*inbox)) {
            departures.entry(inbox.clone()).or_insert(Departure::Unlinked);
        }
        departures.remove(&self.usher);
        departures
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;

    use super::*;
    use crate::ids::{ChainId, KioskKey};

    fn inbox(n: u8) -> InboxId {
        format!("{n:02x}").repeat(32).parse().unwrap()
    }

    fn wallet(n: u8) -> Address {
        Address::repeat_byte(n)
    }

    fn ticket(n: u8) -> TicketKey {
        TicketKey {
            kiosk: KioskKey { chain: ChainId(1328), address: Address::repeat_byte(0xee) },
            token_id: U256::from(n),
        }
    }

    /// usher is inbox 1, the creator's wallet and inbox are 2; wallet n is linked to inbox n.
    fn claims(holders: &[(u8, u8)]) -> Claims {
        Claims {
            usher: inbox(1),
            creator: wallet(2),
            owner: None,
            creator_role: CreatorRole::Admin,
            holders: holders.iter().map(|(token, holder)| (ticket(*token), wallet(*holder))).collect(),
            former: BTreeSet::new(),
            guests: BTreeSet::new(),
            moderators: BTreeSet::new(),
            bans: BTreeSet::new(),
            banned_wallets: BTreeSet::new(),
            left: BTreeSet::new(),
            links: BTreeMap::new(),
            answers: (2..9).map(|n| (wallet(n), Answer::Linked(inbox(n)))).collect(),
        }
    }

    fn seated(claims: &Claims) -> Vec<InboxId> {
        Admission::new(claims).seats.into_keys().collect()
    }

    #[test]
    fn usher_and_the_creator_belong_to_an_event_without_tickets() {
        let admission = Admission::new(&claims(&[]));
        assert_eq!(admission.role(&inbox(1)), Some(Role::SuperAdmin));
        assert_eq!(admission.role(&inbox(2)), Some(Role::Admin));
        assert_eq!(admission.seats.len(), 2);
        let trusted = Claims { creator_role: CreatorRole::SuperAdmin, ..claims(&[]) };
        assert_eq!(Admission::new(&trusted).role(&inbox(2)), Some(Role::SuperAdmin));
    }

    #[test]
    fn wallets_and_tickets_of_one_inbox_count_once() {
        let mut claims = claims(&[(0, 3), (1, 3), (2, 4)]);
        claims.answers.insert(wallet(4), Answer::Linked(inbox(3)));
        let admission = Admission::new(&claims);
        let titles = &admission.seats[&inbox(3)].titles;
        assert_eq!(titles.wallets, [wallet(3), wallet(4)].into());
        assert_eq!(titles.tickets, [ticket(0), ticket(1), ticket(2)].into());
        assert_eq!(admission.seats.len(), 3);
    }

    #[test]
    fn losing_one_of_two_tickets_changes_nothing_and_losing_the_last_explains_the_removal() {
        let mut claims = claims(&[(0, 3)]);
        claims.former.insert(wallet(3));
        assert_eq!(seated(&claims), [inbox(1), inbox(2), inbox(3)]);
        claims.holders.clear();
        let admission = Admission::new(&claims);
        assert_eq!(admission.departures, [(inbox(3), Departure::TicketLost)].into());
        assert!(!admission.seats.contains_key(&inbox(3)));
    }

    #[test]
    fn bans_and_own_wishes_outweigh_tickets_guests_and_the_creator() {
        let mut claims = claims(&[(0, 3), (1, 4)]);
        claims.guests = [inbox(5)].into();
        claims.bans = [inbox(3), inbox(5), inbox(2)].into();
        claims.left = [inbox(4), inbox(3)].into();
        let admission = Admission::new(&claims);
        assert_eq!(admission.seats.keys().collect::<Vec<_>>(), [&inbox(1)]);
        assert_eq!(admission.departures[&inbox(3)], Departure::Banned);
        assert_eq!(admission.departures[&inbox(4)], Departure::Left);
        claims.left.clear();
        assert!(seated(&claims).contains(&inbox(4)), "whoever asks back is in again");
    }

    #[test]
    fn usher_cannot_be_banned_or_lose_its_seat() {
        let mut claims = claims(&[]);
        claims.answers.insert(wallet(9), Answer::Linked(inbox(1)));
        claims.former.insert(wallet(9));
        claims.bans.insert(inbox(1));
        claims.left.insert(inbox(1));
        let admission = Admission::new(&claims);
        assert_eq!(admission.role(&inbox(1)), Some(Role::SuperAdmin));
        assert!(admission.departures.is_empty());
    }

    #[test]
    fn silence_keeps_the_last_verified_link() {
        let mut claims = claims(&[(0, 3), (1, 4), (2, 5), (3, 6)]);
        claims.answers.remove(&wallet(3));
        claims.answers.insert(wallet(4), Answer::Unresolved(Unresolved::NoInbox));
        claims.answers.remove(&wallet(5));
        claims.answers.insert(wallet(6), Answer::Unresolved(Unresolved::NotListed));
        claims.links = [(wallet(3), inbox(3)), (wallet(4), inbox(4))].into();
        let admission = Admission::new(&claims);
        assert_eq!(admission.seats.keys().collect::<Vec<_>>(), [&inbox(1), &inbox(2), &inbox(3), &inbox(4)]);
        assert_eq!(
            admission.waiting,
            [(wallet(5), Unresolved::Silent), (wallet(6), Unresolved::NotListed)].into(),
            "who was never linked waits with the reason"
        );
        assert!(admission.departures.is_empty());
    }

    #[test]
    fn a_log_entry_moves_or_takes_back_a_wallet() {
        let mut claims = claims(&[(0, 3), (1, 4)]);
        claims.links = [(wallet(3), inbox(3)), (wallet(4), inbox(4))].into();
        claims.answers.insert(wallet(3), Answer::Unlinked);
        claims.answers.insert(wallet(4), Answer::Linked(inbox(7)));
        let admission = Admission::new(&claims);
        assert_eq!(admission.departures, [(inbox(3), Departure::Unlinked), (inbox(4), Departure::Unlinked)].into());
        assert_eq!(admission.waiting, [(wallet(3), Unresolved::Unlinked)].into());
        assert!(admission.seats.contains_key(&inbox(7)));
    }

    #[test]
    fn owner_moderators_and_guests_belong_without_a_ticket() {
        let mut claims = claims(&[]);
        claims.owner = Some(wallet(3));
        claims.moderators = [wallet(4)].into();
        claims.guests = [inbox(5)].into();
        let admission = Admission::new(&claims);
        assert_eq!(admission.role(&inbox(3)), Some(Role::Admin));
        assert_eq!(admission.role(&inbox(4)), Some(Role::Admin));
        assert_eq!(admission.role(&inbox(5)), Some(Role::Member));
    }
    #[test]
    fn a_moderators_wallet_belongs_by_its_inbox_and_waits_without_one() {
        let mut claims = claims(&[(0, 3)]);
        claims.moderators = [wallet(3), wallet(4), wallet(9)].into();
        let admission = Admission::new(&claims);
        assert_eq!(admission.role(&inbox(3)), Some(Role::Admin), "a holder may keep order, too");
        assert_eq!(admission.role(&inbox(4)), Some(Role::Admin));
        assert_eq!(admission.waiting, [(wallet(9), Unresolved::Silent)].into());
    }

    #[test]
    fn a_banned_wallets_inbox_is_out_by_whichever_wallet_it_came() {
        let mut claims = claims(&[(0, 3), (1, 4)]);
        // Inbox 3 has the banned wallet 9, too; wallet 8 was linked once and nobody answers now.
        claims.answers.insert(wallet(9), Answer::Linked(inbox(3)));
        claims.answers.remove(&wallet(8));
        claims.links.insert(wallet(8), inbox(4));
        claims.banned_wallets = [wallet(9), wallet(8), wallet(10)].into();
        let admission = Admission::new(&claims);
        assert_eq!(admission.departures, [(inbox(3), Departure::Banned), (inbox(4), Departure::Banned)].into());
        assert_eq!(admission.seats.keys().collect::<Vec<_>>(), [&inbox(1), &inbox(2)]);
        assert!(admission.waiting.is_empty(), "nobody waits to be banned");
    }
}
