//! What the planner is told: the admission, and the rooms as they are.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use usher_domain::{
    GroupId, InboxId,
    admission::{Admission, Departure, Unresolved},
    planner::{self, Input, MemberView, RoomView, WantedMetadata},
};
use usher_store::{RoomRecord, RoomState, standing::Standing};
use usher_xmtp::{Group, attributes, policy::Policies};

use crate::{
    Doorkeeper,
    claims::{Findings, domain_inbox, domain_installations},
    room::{Room, domain_group},
};

impl Doorkeeper {
    pub(crate) fn input(
        &self,
        findings: &Findings,
        records: &[&RoomRecord],
        rooms: &[Room],
        seated: &BTreeMap<GroupId, BTreeSet<InboxId>>,
        live: bool,
    ) -> Input {
        let by_group: BTreeMap<GroupId, &Room> = rooms.iter().map(|room| (room.record.group, room)).collect();
        let views = records.iter().map(|record| match by_group.get(&record.group) {
            Some(room) => view(&room.group, record),
            None => {
                let successor =
                    records.iter().find(|other| other.succeeds == Some(record.group)).map(|other| other.group);
                let state = match record.state {
                    RoomState::AwaitingWelcome { .. } => planner::RoomState::Awaited,
                    _ => planner::RoomState::Lost { successor },
                };
                unopened_view(record.group, state, seated.get(&record.group))
            }
        });
        let mut admission = Admission::new(&findings.claims);
        if !live {
            // The rooms of a mint that was taken back belong to nobody, and that explains every removal.
            let usher = admission.usher.clone();
            admission.seats.retain(|inbox, _| *inbox == usher);
            admission.waiting.clear();
            let members = rooms.iter().flat_map(|room| room.group.members().into_keys());
            for inbox in members.map(|inbox| domain_inbox(&inbox)).filter(|inbox| *inbox != usher) {
                admission.departures.entry(inbox).or_insert(Departure::TicketLost);
            }
        }
        Input {
            admission,
            rooms: views.collect(),
            association: findings.association(),
            key_packages: findings.key_packages.clone(),
            limits: self.parts.policy.limits.clone(),
            creator_role: self.parts.policy.creator_role,
            // Names are given when a room is made; afterwards they are the admins'.
            metadata: WantedMetadata::default(),
            now_ms: self.parts.clock.now_ms(),
        }
    }
}

fn view(group: &Group, record: &RoomRecord) -> RoomView {
    let metadata = group.metadata();
    let inboxes = |inboxes: &BTreeSet<usher_xmtp::identity::InboxId>| inboxes.iter().map(domain_inbox).collect();
    let text = |name: &str| metadata.attributes.get(name).cloned().unwrap_or_default();
    let members = group.members().into_iter().map(|(inbox, member)| {
        let leaves = domain_installations(&member.installations);
        (domain_inbox(&inbox), MemberView { stored_sequence_id: member.sequence_id, leaves })
    });
    RoomView {
        group: domain_group(group),
        state: planner::RoomState::Active,
        members: members.collect(),
        failed_installations: domain_installations(&group.membership().failed_installations),
        strangers: domain_installations(&group.strangers()),
        admins: inboxes(&metadata.admins),
        super_admins: inboxes(&metadata.super_admins),
        policies_ok: group.policies() == Policies::admin_only(),
        name: text(attributes::NAME),
        description: text(attributes::DESCRIPTION),
        pending_commit: group.has_pending_commit(),
        leave_requests: inboxes(group.leaving()),
        damaged: inboxes(&group.stranded()),
        last_repaired_ms: record.repaired_ms.clone(),
        unexplained_removals: record.unexplained_removals,
    }
}

/// A room by what is known of it in the clear.
fn unopened_view(group: GroupId, state: planner::RoomState, seated: Option<&BTreeSet<InboxId>>) -> RoomView {
    RoomView {
        group,
        state,
        members: seated.into_iter().flatten().map(|inbox| (inbox.clone(), MemberView::default())).collect(),
        failed_installations: BTreeSet::new(),
        strangers: BTreeSet::new(),
        admins: BTreeSet::new(),
        super_admins: BTreeSet::new(),
        policies_ok: true,
        name: String::new(),
        description: String::new(),
        pending_commit: false,
        leave_requests: BTreeSet::new(),
        damaged: BTreeSet::new(),
        last_repaired_ms: BTreeMap::new(),
        unexplained_removals: 0,
    }
}

/// Who waits and for what, by wallet: those without an inbox, and those whose inbox cannot be seated.
pub(crate) fn waiting(input: &Input, plan: &planner::Plan, findings: &Findings) -> BTreeMap<Address, String> {
    let mut waiting: BTreeMap<_, String> = BTreeMap::new();
    for (wallet, reason) in input.admission.waiting.iter().filter(|(wallet, _)| !wallet.is_zero()) {
        let reason = match reason {
            Unresolved::NoInbox => "its wallet has no XMTP inbox yet",
            Unresolved::NotListed => "the inbox suggested for its wallet does not list it",
            Unresolved::Unlinked => "its inbox has given up the wallet",
            Unresolved::Silent => "the network was not asked yet",
        };
        waiting.insert(*wallet, reason.to_owned());
    }
    for (inbox, obstacle) in &plan.waiting {
        for wallet in findings.wallets_of(inbox.as_str()) {
            waiting.insert(wallet, obstacle.to_string());
        }
    }
    waiting
}

/// The wallets that are linked to an inbox.
pub(crate) fn wallets_in(standing: &Standing, inbox: &str) -> Vec<Address> {
    standing.links.iter().filter(|link| link.inbox.as_str() == inbox).map(|link| link.wallet).collect()
}
