//! Taking a step of the plan, in the order that survives a crash: stage, store, publish, walk the log, store what was
//! merged, send welcomes, forget them.

use std::collections::{BTreeMap, BTreeSet};

use usher_domain::{
    EventKey, GroupId, InboxId, Incarnation,
    admission::Admission,
    planner::{Grounds, MembershipCommit, Purpose, Step},
    planted::Bug,
};
use usher_store::{Chain, EventRecord, Lease, RoomRecord, RoomState};
use usher_xmtp::{
    Account, Group, Identities, NewGroup, attributes,
    group::{Committed, Event, MembershipChange, MetadataChange},
    policy::Policies,
};

use crate::{
    ConvergeError, Doorkeeper,
    claims::{Findings, domain_inbox, xmtp_inbox},
    converge::{REPLACED, Round},
    marks::matters,
    room::{Room, domain_group},
};

impl Doorkeeper {
    #[expect(clippy::too_many_arguments, reason = "one step's context, used once")]
    pub(crate) async fn act(
        &self,
        account: &Account,
        lease: &Lease,
        event: &EventRecord,
        incarnation: Incarnation,
        step: &Step,
        rooms: Vec<Room>,
        mut findings: Findings,
        commits: &mut u32,
    ) -> Result<Round, ConvergeError> {
        if let Step::CreateRoom { succeeds } = step {
            // A room of an installation that was replaced would be nobody's. Whoever replaces it takes the leases of
            // all events afterwards, and so finds all rooms that were made before.
            if self.is_replaced(account).await? {
                return Ok(Round::Stop(REPLACED.to_owned()));
            }
            self.create_room(account, lease, event, incarnation, *succeeds, &findings).await?;
            return Ok(Round::Acted);
        }
        let wanted = step.room().expect("only the making of a room has none");
        let Some(mut room) = rooms.into_iter().find(|room| room.record.group == wanted) else {
            return Ok(Round::Stop(format!("the plan names room {wanted}, which is not open")));
        };
        if !matches!(step, Step::Settle { .. }) {
            self.stage(account, &mut room, step, &mut findings).await?;
            room.record.unexplained_removals += unexplained(step);
            if let Step::Membership { purpose, commit, .. } = step {
                self.note_repair(&mut room, purpose, commit);
            }
            if Bug::PublishBeforeStore.is_planted() {
                let commit = room.group.pending_commit(account, &self.surroundings);
                self.parts.network.send_group_messages(commit.into_iter().collect()).await?;
            }
            let wallets = |inbox: &str| findings.wallets_of(inbox);
            self.save(lease, &mut room, &wallets, Vec::new()).await?;
        }
        self.publish(account, lease, room, &findings, commits).await
    }

    async fn create_room(
        &self,
        account: &Account,
        lease: &Lease,
        event: &EventRecord,
        incarnation: Incarnation,
        succeeds: Option<GroupId>,
        findings: &Findings,
    ) -> Result<(), ConvergeError> {
        let category = event.minted.as_ref().map(|minted| minted.mint.art_category.as_str()).unwrap_or_default();
        let new = NewGroup {
            name: room_name(category, &event.event),
            description: event.event.to_string(),
            policies: Policies::admin_only(),
        };
        let group = Group::create(account, new, &self.surroundings)?;
        let number = event.rooms.iter().map(|room| room.number + 1).max().unwrap_or_default();
        let record = RoomRecord {
            number,
            group: domain_group(&group),
            incarnation,
            state: RoomState::Active,
            succeeds,
            seen: 0,
            unexplained_removals: 0,
            repaired_ms: BTreeMap::new(),
            healing: None,
            outbox_since_ms: None,
        };
        let mut room = Room::new(record, group);
        self.save(lease, &mut room, &|inbox: &str| findings.wallets_of(inbox), vec![lease.still_mine()]).await?;
        tracing::info!(event = %event.event, room = %room.record.group, "room made");
        self.keep(room);
        Ok(())
    }

    /// Builds the commit of a step.
    async fn stage(
        &self,
        account: &Account,
        room: &mut Room,
        step: &Step,
        findings: &mut Findings,
    ) -> Result<(), ConvergeError> {
        let network = &*self.parts.network;
        let identities = &mut findings.identities;
        let group = &mut room.group;
        match step {
            Step::Membership { commit, .. } => {
                let change = membership_change(commit, &findings.usable);
                group.stage_membership(account, network, identities, change).await?;
            }
            Step::SetRoles { change, .. } => {
                let inboxes = |inboxes: &BTreeSet<InboxId>| inboxes.iter().map(xmtp_inbox).collect();
                let change = MetadataChange {
                    attributes: BTreeMap::new(),
                    add_admins: inboxes(&change.add_admins),
                    remove_admins: inboxes(&change.remove_admins),
                    add_super_admins: inboxes(&change.add_super_admins),
                    remove_super_admins: inboxes(&change.remove_super_admins),
                };
                group.stage_metadata(account, network, identities, change).await?;
            }
            Step::RestorePolicies { .. } => {
                group.stage_policies(account, network, identities, Policies::admin_only()).await?;
            }
            Step::SetMetadata { name, description, .. } => {
                let text = |key: &str, value: &Option<String>| value.clone().map(|value| (key.to_owned(), value));
                let attributes =
                    [text(attributes::NAME, name), text(attributes::DESCRIPTION, description)].into_iter().flatten();
                let change = MetadataChange { attributes: attributes.collect(), ..MetadataChange::default() };
                group.stage_metadata(account, network, identities, change).await?;
            }
            Step::Settle { .. } | Step::CreateRoom { .. } => {}
        }
        Ok(())
    }

    /// Publishes the stored commit, walks the log, stores what came of it and sends the welcomes. That the node does
    /// not take the commit decides nothing: the log does.
    async fn publish(
        &self,
        account: &Account,
        lease: &Lease,
        mut room: Room,
        findings: &Findings,
        commits: &mut u32,
    ) -> Result<Round, ConvergeError> {
        let network = &*self.parts.network;
        let published = match room.group.pending_commit(account, &self.surroundings) {
            Some(commit) => network.send_group_messages(vec![commit]).await,
            None => Ok(()),
        };
        let mut events = Vec::new();
        #[cfg(feature = "planted-bugs")]
        crate::planted::published(&mut room.group, network, published.is_ok(), &mut events).await?;
        let walked = room.group.sync(account, network, &mut Identities::default(), &mut events).await;
        #[cfg(feature = "planted-bugs")]
        crate::planted::walked(&mut room.group, &events);
        self.note(|work| work.read(&events));
        if events.iter().any(matters) || room.group.lost().is_some() {
            let standing = self.parts.store.standing(&room.record.incarnation).await?;
            let writes = self.marks(account, &room.record.incarnation, &standing, &events).await?;
            let wallets = |inbox: &str| findings.wallets_of(inbox);
            self.save(lease, &mut room, &wallets, writes).await?;
        }
        if room.group.lost().is_some() {
            return Ok(Round::Acted);
        }
        walked?;
        published?;
        let merged =
            events.iter().filter(|event| matches!(event, Event::Committed(Committed { own: true, .. }))).count();
        *commits += u32::try_from(merged).unwrap_or(u32::MAX);
        if room.group.has_pending_commit() {
            return Ok(Round::Stop("the log does not show the commit yet".to_owned()));
        }
        if let Err(error) = self.send_welcomes(lease, &mut room, findings).await {
            // They are stored: the next look sends them, after what is more urgent.
            tracing::warn!(room = %room.record.group, error = %Chain(&error), "welcomes left for later");
            return Ok(Round::Acted);
        }
        self.keep(room);
        Ok(Round::Acted)
    }

    /// Sends the welcomes of merged commits to whom the newest admission still wants in, and forgets them.
    pub(crate) async fn send_welcomes(
        &self,
        lease: &Lease,
        room: &mut Room,
        findings: &Findings,
    ) -> Result<(), ConvergeError> {
        if !room.group.has_welcomes() {
            return Ok(());
        }
        let admission = Admission::new(&findings.claims);
        let admitted = |inbox: &usher_xmtp::identity::InboxId| admission.seats.contains_key(&domain_inbox(inbox));
        let sent = room.group.send_welcomes(&*self.parts.network, &self.surroundings, admitted).await?;
        room.group.clear_welcomes(&sent);
        tracing::info!(room = %room.record.group, sent = sent.sent.len(), outdated = sent.outdated.len(), "welcomes sent");
        let wallets = |inbox: &str| findings.wallets_of(inbox);
        self.save(lease, room, &wallets, Vec::new()).await
    }
}

/// `{artCategory} #{eventId}`, within the 100 bytes that members accept.
fn room_name(category: &str, event: &EventKey) -> String {
    let number = format!(" #{}", event.event_id);
    let mut end = category.len().min(100_usize.saturating_sub(number.len()));
    while !category.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{number}", &category[..end]).trim().to_owned()
}

fn membership_change(
    commit: &MembershipCommit,
    usable: &BTreeMap<usher_domain::InstallationId, usher_xmtp::MemberKeyPackage>,
) -> MembershipChange {
    let id = |id: &usher_domain::InstallationId| usher_xmtp::identity::InstallationId::new(id.0);
    MembershipChange {
        set: commit.set.iter().map(|(inbox, sequence_id)| (xmtp_inbox(inbox), *sequence_id)).collect(),
        remove: commit.remove.iter().map(xmtp_inbox).collect(),
        add_installations: commit.add_installations.keys().filter_map(|id| usable.get(id).cloned()).collect(),
        remove_installations: commit.remove_installations.iter().map(id).collect(),
        failed_installations: commit.failed_installations.iter().map(id).collect(),
    }
}

/// How many members a step removes without an explanation.
fn unexplained(step: &Step) -> usize {
    match step {
        Step::Membership { purpose: Purpose::Remove(grounds), .. } => {
            grounds.values().filter(|grounds| **grounds == Grounds::Unexplained).count()
        }
        _ => 0,
    }
}
