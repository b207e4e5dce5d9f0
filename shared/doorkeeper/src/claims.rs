//! What the admission follows from: tickets, marks, and which inbox each wallet belongs to.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use usher_domain::{
    InboxId, Incarnation, InstallationId, Person, TicketKey,
    admission::{Answer, Claims, Unresolved},
    planner::{AssociationView, KeyPackageView},
};
use usher_store::{
    Lease,
    standing::{Link, Mark, Marked, Standing, Waiting},
};
use usher_xmtp::{Account, Identities, MemberKeyPackage, identity};

use crate::{ConvergeError, Doorkeeper, room::Room};

/// How long a wallet waits at most until it is asked about again.
const WAIT_MS_MAX: u64 = 60 * 60 * 1000;
const WAIT_MS_MIN: u64 = 15 * 1000;

/// XMTP's name of an inbox in the domain's words.
pub(crate) fn domain_inbox(inbox: &identity::InboxId) -> InboxId {
    inbox.as_str().parse().expect("both are 64 lower-case hex digits")
}

/// The domain's name of an inbox in XMTP's words.
pub(crate) fn xmtp_inbox(inbox: &InboxId) -> identity::InboxId {
    inbox.as_str().parse().expect("both are 64 lower-case hex digits")
}

/// Those who are named by their inboxes.
fn inboxes(people: &BTreeSet<Person>) -> BTreeSet<InboxId> {
    let inbox = |person: &Person| if let Person::Inbox(inbox) = person { Some(inbox.clone()) } else { None };
    people.iter().filter_map(inbox).collect()
}

/// Those who are named by their wallets.
fn wallets(people: &BTreeSet<Person>) -> BTreeSet<Address> {
    let wallet = |person: &Person| if let Person::Wallet(wallet) = person { Some(*wallet) } else { None };
    people.iter().filter_map(wallet).collect()
}

/// What was found out for one plan.
pub(crate) struct Findings {
    pub(crate) claims: Claims,
    pub(crate) identities: Identities,
    pub(crate) key_packages: BTreeMap<InstallationId, KeyPackageView>,
    pub(crate) usable: BTreeMap<InstallationId, MemberKeyPackage>,
    /// Something could not be found out: look again soon.
    pub(crate) missed: Missed,
}

/// Whether something could not be found out.
type Missed = bool;

impl Findings {
    /// The identity logs that were read, as the planner takes them.
    pub(crate) fn association(&self) -> BTreeMap<InboxId, AssociationView> {
        let view = |states: &mut dyn Iterator<Item = (u64, &identity::AssociationState)>| AssociationView {
            states: states.map(|(id, state)| (id, domain_installations(&state.installations()))).collect(),
        };
        let logs = self.identities.iter().map(|(inbox, mut states)| (domain_inbox(inbox), view(&mut states)));
        logs.filter(|(_, view)| !view.states.is_empty()).collect()
    }

    /// The wallets by which an inbox belongs.
    pub(crate) fn wallets_of(&self, inbox: &str) -> Vec<Address> {
        let Claims { creator, moderators, holders, .. } = &self.claims;
        let holds = |wallet: &Address| {
            wallet == creator || moderators.contains(wallet) || holders.values().any(|holder| holder == wallet)
        };
        let mut links = self.claims.links.clone();
        for (wallet, answer) in &self.claims.answers {
            if let Answer::Linked(inbox) = answer {
                links.insert(*wallet, inbox.clone());
            }
        }
        links
            .into_iter()
            .filter(|(wallet, of)| of.as_str() == inbox && holds(wallet))
            .map(|(wallet, _)| wallet)
            .collect()
    }
}

pub(crate) fn domain_installations(ids: &BTreeSet<identity::InstallationId>) -> BTreeSet<InstallationId> {
    ids.iter().map(|id| InstallationId(*id.as_bytes())).collect()
}

impl Doorkeeper {
    /// Collects the claims on an incarnation's rooms. `live` says whether the incarnation is the one that counts: the
    /// rooms of one that was reorganised away belong to nobody.
    pub(crate) async fn findings(
        &self,
        account: &Account,
        incarnation: &Incarnation,
        live: bool,
        standing: &Standing,
        rooms: &[Room],
    ) -> Result<Findings, ConvergeError> {
        let mut claims = self.unresolved(account, incarnation, live, standing).await?;
        let mut identities = Identities::default();
        let mut missed = self.resolve(&mut claims, &mut identities, rooms).await?;
        // Whichever inbox lists a banned wallet is banned, whatever the network suggests for the wallet.
        let lists = |state: &identity::AssociationState| !state.addresses().is_disjoint(&claims.banned_wallets);
        let banned = identities.iter().map(|(inbox, _)| inbox);
        let banned = banned.filter(|inbox| identities.latest(inbox).is_some_and(|(_, state)| lists(state)));
        let banned: Vec<InboxId> = banned.map(domain_inbox).collect();
        claims.bans.extend(banned);
        let (key_packages, usable) = match self.key_packages(&claims, &identities, rooms).await {
            Ok(found) => found,
            Err(error) => {
                missed = self.missed("key packages", &error);
                Default::default()
            }
        };
        Ok(Findings { claims, identities, key_packages, usable, missed })
    }

    /// Who holds an incarnation's tickets, and who held one.
    async fn tickets(
        &self,
        incarnation: &Incarnation,
    ) -> Result<(BTreeMap<TicketKey, Address>, BTreeSet<Address>), ConvergeError> {
        let (mut holders, mut former) = (BTreeMap::new(), BTreeSet::new());
        let kiosk = incarnation.kiosk();
        // Another event may have announced the kiosk first: then its tickets are that event's.
        if self.parts.store.kiosk_owner(&kiosk).await? == Some(incarnation.event) {
            for ticket in self.parts.store.tickets(&kiosk).await? {
                holders.extend(ticket.holding.holder.map(|holder| (ticket.ticket, holder)));
                former.extend(ticket.former);
            }
        }
        Ok((holders, former))
    }

    /// The inboxes that held a ticket or the event once. (Wallets that the configuration names are linked, too.)
    pub(crate) async fn ever_titled(
        &self,
        incarnation: &Incarnation,
        standing: &Standing,
    ) -> Result<BTreeSet<InboxId>, ConvergeError> {
        let (holders, former) = self.tickets(incarnation).await?;
        let titled: BTreeSet<Address> = holders.into_values().chain(former).chain([incarnation.creator]).collect();
        let links = standing.links.iter().filter(|link| titled.contains(&link.wallet));
        Ok(links.map(|link| link.inbox.clone()).collect())
    }

    /// The claims as the ledger has them, nobody asked.
    pub(crate) async fn unresolved(
        &self,
        account: &Account,
        incarnation: &Incarnation,
        live: bool,
        standing: &Standing,
    ) -> Result<Claims, ConvergeError> {
        let (holders, former) = if live { self.tickets(incarnation).await? } else { Default::default() };
        let marked = |wanted: fn(&Mark) -> bool| {
            standing.marked.iter().filter(|row| wanted(&row.mark)).map(|row| row.inbox.clone()).collect()
        };
        let policy = &self.parts.policy;
        let links: BTreeMap<Address, InboxId> =
            standing.links.iter().map(|link| (link.wallet, link.inbox.clone())).collect();
        Ok(Claims {
            usher: domain_inbox(account.inbox()),
            creator: if live { incarnation.creator } else { Address::ZERO },
            owner: None,
            creator_role: policy.creator_role,
            holders,
            // Every wallet that was ever linked held a ticket or the event once, or was named by the deployment.
            former: links.keys().copied().chain(former).collect(),
            guests: if live { marked(|mark| matches!(mark, Mark::Guest { .. })) } else { BTreeSet::new() },
            moderators: if live { policy.moderators.clone() } else { BTreeSet::new() },
            bans: &marked(|mark| matches!(mark, Mark::Banned { .. })) | &inboxes(&policy.bans),
            banned_wallets: wallets(&policy.bans),
            left: marked(|mark| matches!(mark, Mark::Left)),
            links,
            answers: BTreeMap::new(),
        })
    }

    /// Finds out which inbox each wallet with a title belongs to. A link once verified stands until the inbox's own
    /// log takes it back; not hearing from the network changes nothing.
    async fn resolve(
        &self,
        claims: &mut Claims,
        identities: &mut Identities,
        rooms: &[Room],
    ) -> Result<Missed, ConvergeError> {
        let network = &*self.parts.network;
        let missed = match self.load_changed(claims, identities, rooms).await {
            Ok(()) => false,
            Err(error) => self.missed("identity logs", &error),
        };
        for (wallet, inbox) in claims.links.clone() {
            let given_up =
                identities.latest(&xmtp_inbox(&inbox)).is_some_and(|(_, state)| !state.addresses().contains(&wallet));
            if given_up {
                claims.answers.insert(wallet, Answer::Unlinked);
            }
        }
        let titled = claims.holders.values().chain(&claims.moderators).chain([&claims.creator]);
        let asked: BTreeSet<Address> = titled.chain(&claims.banned_wallets).copied().collect();
        let unknown: Vec<Address> = asked
            .into_iter()
            .filter(|wallet| *wallet != Address::ZERO)
            .filter(|wallet| !claims.links.contains_key(wallet) || claims.answers.contains_key(wallet))
            .collect();
        if unknown.is_empty() {
            return Ok(missed);
        }
        let suggested = match network.inbox_ids(&unknown).await {
            Ok(suggested) => suggested,
            Err(error) => return Ok(self.missed("inboxes of wallets", &error)),
        };
        let missed = match identities.load(network, suggested.iter().flatten()).await {
            Ok(()) => missed,
            Err(error) => self.missed("identity logs of newcomers", &error),
        };
        for (wallet, inbox) in unknown.into_iter().zip(suggested) {
            let listed = |inbox: &identity::InboxId| {
                identities.latest(inbox).is_some_and(|(_, state)| state.addresses().contains(&wallet))
            };
            let answer = match inbox {
                Some(inbox) if listed(&inbox) => Answer::Linked(domain_inbox(&inbox)),
                // One newcomer's log that cannot be read keeps the others from nothing.
                Some(inbox) if !identities.knows(&inbox) => continue,
                _ if claims.answers.contains_key(&wallet) => continue,
                Some(_) => Answer::Unresolved(Unresolved::NotListed),
                None => Answer::Unresolved(Unresolved::NoInbox),
            };
            claims.answers.insert(wallet, answer);
        }
        Ok(missed)
    }

    /// What could not be found out is silence, which changes nothing: a removal that a fact calls for does not wait for
    /// it. But the event is not at rest.
    fn missed(&self, what: &str, error: &(dyn std::error::Error + 'static)) -> Missed {
        tracing::warn!(what, error, "not found out now");
        true
    }

    /// Reads the identity logs that matter: of members and linked inboxes whose logs have moved on since a room took
    /// note of them, and of those that are in no room yet.
    async fn load_changed(
        &self,
        claims: &Claims,
        identities: &mut Identities,
        rooms: &[Room],
    ) -> Result<(), ConvergeError> {
        let mut known: BTreeMap<identity::InboxId, u64> = BTreeMap::new();
        let mut load: BTreeSet<identity::InboxId> = BTreeSet::new();
        for room in rooms {
            for (inbox, sequence_id) in room.group.membership().members {
                let entry = known.entry(inbox).or_insert(sequence_id);
                *entry = (*entry).min(sequence_id);
            }
            load.extend(room.group.damaged().iter().cloned().chain(room.group.stranded()));
            if self.heals_now(room) {
                load.extend(room.group.members().into_keys());
            }
        }
        let others = claims.links.values().chain(&claims.guests).map(xmtp_inbox);
        load.extend(others.filter(|inbox| !known.contains_key(inbox)));
        // Who is in charge or keeps order sits in every room.
        let wallets = claims.moderators.iter().chain([&claims.creator]);
        let everywhere = wallets.filter_map(|wallet| claims.links.get(wallet)).map(xmtp_inbox);
        let absent = |inbox: &identity::InboxId| rooms.iter().any(|room| !room.group.members().contains_key(inbox));
        load.extend(everywhere.filter(absent));
        let known: Vec<(identity::InboxId, u64)> = known.into_iter().collect();
        load.extend(Identities::changed(&*self.parts.network, &known).await?);
        Ok(identities.load(&*self.parts.network, &load).await?)
    }

    /// Fetches the key packages of installations that may be added: those of loaded inboxes that have no leaf.
    async fn key_packages(
        &self,
        claims: &Claims,
        identities: &Identities,
        rooms: &[Room],
    ) -> Result<(BTreeMap<InstallationId, KeyPackageView>, BTreeMap<InstallationId, MemberKeyPackage>), ConvergeError>
    {
        let everywhere = |inbox: &identity::InboxId| rooms.iter().all(|room| room.group.members().contains_key(inbox));
        let mut wanted: Vec<(identity::InboxId, identity::InstallationId)> = Vec::new();
        for (inbox, _) in identities.iter().filter(|(inbox, _)| domain_inbox(inbox) != claims.usher) {
            let Some((latest, state)) = identities.latest(inbox) else { continue };
            let settled = everywhere(inbox)
                && rooms.iter().all(|room| {
                    let member = room.group.members().remove(inbox);
                    let trouble = room.group.damaged().contains(inbox) || room.group.stranded().contains(inbox);
                    !trouble
                        && member.is_some_and(|member| {
                            member.sequence_id == latest && member.installations == state.installations()
                        })
                });
            if !settled || rooms.is_empty() {
                wanted.extend(state.installations().into_iter().map(|id| (inbox.clone(), id)));
            }
        }
        let (mut views, mut usable) = (BTreeMap::new(), BTreeMap::new());
        if wanted.is_empty() {
            return Ok((views, usable));
        }
        let ids: Vec<identity::InstallationId> = wanted.iter().map(|(_, id)| *id).collect();
        let packages = self.parts.network.key_packages(&ids).await?;
        for ((inbox, installation), bytes) in wanted.into_iter().zip(packages) {
            let id = InstallationId(*installation.as_bytes());
            let view = match bytes {
                None => KeyPackageView::Unusable { reason: "it has no key package".to_owned() },
                Some(bytes) => match MemberKeyPackage::verify(&bytes, &inbox, installation) {
                    Ok(package) => {
                        usable.insert(id, package);
                        KeyPackageView::Usable { bytes: bytes.len() }
                    }
                    Err(error) => KeyPackageView::Unusable { reason: error.to_string() },
                },
            };
            views.insert(id, view);
        }
        Ok((views, usable))
    }

    /// Stores links that were found, before anybody is seated by them: they are what explains a removal later.
    pub(crate) async fn remember_links(
        &self,
        lease: &Lease,
        incarnation: &Incarnation,
        findings: &Findings,
        rooms: &[Room],
    ) -> Result<(), ConvergeError> {
        let verified_ms = self.parts.clock.now_ms();
        let seated = |inbox: &InboxId| rooms.iter().any(|room| room.group.members().contains_key(&xmtp_inbox(inbox)));
        let titled: BTreeSet<&Address> = findings.claims.holders.values().chain([&findings.claims.creator]).collect();
        let (mut writes, mut titled_guests) = (Vec::new(), BTreeSet::new());
        for (wallet, answer) in &findings.claims.answers {
            let Answer::Linked(inbox) = answer else { continue };
            // The old link explains why its inbox has to go: it is replaced when that is done.
            if findings.claims.links.get(wallet).is_some_and(|old| old == inbox || seated(old)) {
                continue;
            }
            writes.push(Link { wallet: *wallet, inbox: inbox.clone(), verified_ms }.write(incarnation));
            if titled.contains(wallet) && findings.claims.guests.contains(inbox) {
                // Whoever holds a ticket belongs by it, also if an admin was faster than usher.
                titled_guests.insert(inbox);
            }
        }
        writes.extend(titled_guests.into_iter().map(|inbox| Marked::remove(incarnation, inbox)));
        self.write_fenced(lease, writes).await
    }

    /// Brings the rows of waiting wallets up to date; returns when the first of them is to be tried again.
    pub(crate) async fn remember_waiting(
        &self,
        lease: &Lease,
        incarnation: &Incarnation,
        standing: &Standing,
        waiting: &BTreeMap<Address, String>,
    ) -> Result<Option<u64>, ConvergeError> {
        let now_ms = self.parts.clock.now_ms();
        let before: BTreeMap<Address, &Waiting> = standing.waiting.iter().map(|row| (row.wallet, row)).collect();
        let mut writes = Vec::new();
        let mut next = None;
        for (wallet, reason) in waiting {
            let since_ms = before.get(wallet).map_or(now_ms, |row| row.since_ms);
            let wait_ms = ((now_ms - since_ms.min(now_ms)) / 4).clamp(WAIT_MS_MIN, WAIT_MS_MAX);
            let due = before.get(wallet).filter(|row| row.next_try_ms > now_ms && row.reason == *reason);
            let next_try_ms = due.map_or(now_ms + wait_ms, |row| row.next_try_ms);
            if due.is_none() {
                let row = Waiting { wallet: *wallet, reason: reason.clone(), since_ms, next_try_ms };
                writes.push(row.write(incarnation));
            }
            next = Some(next.map_or(next_try_ms, |next: u64| next.min(next_try_ms)));
        }
        let gone = before.keys().filter(|wallet| !waiting.contains_key(*wallet));
        writes.extend(gone.map(|wallet| Waiting::remove(incarnation, wallet)));
        self.write_fenced(lease, writes).await?;
        Ok(next)
    }
}
