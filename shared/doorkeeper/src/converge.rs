//! Converging one event: lease, look, plan, act, look again, until there is nothing left to do.

use std::collections::{BTreeMap, BTreeSet};

use usher_domain::{
    EventKey, GroupId, InboxId, Incarnation,
    admission::{Admission, Departure, Unresolved},
    planner::{self, Grounds, Input, MemberView, MembershipCommit, Purpose, RoomView, Step, WantedMetadata},
    planted::Bug,
};
use usher_store::{
    Chain, EventRecord, Lease, Release, RoomRecord, RoomState, Table, Take,
    standing::{Mark, Marked, Standing},
    table::Write,
};
use usher_xmtp::{
    Account, Group, Identities, Lost, NewGroup, attributes,
    content::Content,
    group::{Committed, Event, MembershipChange, MetadataChange},
    policy::Policies,
};

use crate::{
    ConvergeError, Doorkeeper,
    claims::{Findings, domain_inbox, domain_installations, xmtp_inbox},
    room::{Room, domain_group},
    work::count,
};

/// No commit is begun with less time than this left.
const COMMIT_MS_MIN: u64 = 8_000;
/// A lease outlives its invocation's deadline by this much.
const LEASE_GRACE_MS: u64 = 5_000;
/// How soon an event is looked at again after a stop with work left. (Otherwise the schedule finds it, as it is due.)
const STOPPED_MS: u64 = 1_000;
/// Every event with rooms is looked at at least this often.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How many rounds of planning one lease takes.
const ROUNDS_MAX: u32 = 200;
/// A snapshot follows its room's log within this many messages (one page), so that catching up stays cheap.
const UNSAVED_MESSAGES_MAX: u64 = 100;

/// Why an event with a room without its state is not at rest.
const AWAITED: &str = "a room waits until a member's client lets the new installation in";

/// What brought an invocation to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A fact was recorded.
    Fact,
    /// A nudge, or the clock. A nudge never sends a nudge.
    Nudge,
}

/// How a convergence ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Converged {
    /// The rooms are equal to the admission, as far as everybody can be reached.
    Done {
        /// The generation of the ledger that they are equal to.
        generation: u64,
        /// How many commits that took.
        commits: u32,
    },
    /// Somebody else is at it.
    Held,
    /// There is work left; the event stays due.
    Unfinished {
        /// Why.
        reason: String,
    },
    /// The ledger has no such event.
    NoSuchEvent,
    /// The account was not made yet.
    NotReady,
}

/// What one look at an event's rooms came to.
enum Round {
    /// A step was taken: look again.
    Acted,
    /// Nothing to do until then.
    Rest { again_at_ms: u64 },
    /// No time or no answer: leave it for later.
    Stop(String),
}

impl<T: Table> Doorkeeper<T> {
    /// Makes the rooms of an event equal to its admission, until that is done or `deadline_ms` (since 1970) is near.
    /// `owner` names this attempt. Trouble with XMTP is no error of the caller's: the event stays due.
    pub async fn converge(
        &self,
        event: &EventKey,
        owner: &str,
        deadline_ms: u64,
        cause: Cause,
    ) -> Result<Converged, ConvergeError> {
        let account = self.account().await.inspect_err(|error| self.tell(event, error))?;
        let Some(account) = account else { return Ok(Converged::NotReady) };
        let now_ms = self.parts.clock.now_ms();
        let until_ms = deadline_ms.max(now_ms) + LEASE_GRACE_MS;
        let lease = match self.parts.store.take(event, owner, now_ms, until_ms).await? {
            Take::Taken(lease) => lease,
            Take::HeldByOther(_) => return Ok(Converged::Held),
            Take::NoSuchEvent => return Ok(Converged::NoSuchEvent),
        };
        self.note(|work| work.behind_since_ms = lease.behind_since_ms);
        if cause == Cause::Fact {
            self.leave_nudge(event, until_ms - now_ms).await;
        }
        let mut commits = 0;
        match self.rounds(&account, lease.clone(), deadline_ms, cause, &mut commits).await {
            Ok(converged) => Ok(converged),
            Err(ConvergeError::Fenced) => Err(ConvergeError::Fenced),
            Err(error) => {
                self.tell(event, &error);
                self.parts.store.abandon(&lease).await?;
                Ok(Converged::Unfinished { reason: Chain(&error).to_string() })
            }
        }
    }

    fn tell(&self, event: &EventKey, error: &ConvergeError) {
        error.tell(event);
        self.note(|work| work.troubles = work.troubles.max(u64::from(error.needs_person())));
    }

    /// If this invocation dies, the nudge comes after its lease has ended.
    async fn leave_nudge(&self, event: &EventKey, delay_ms: u64) {
        let delay_s = u32::try_from(delay_ms.div_ceil(1000)).unwrap_or(900).min(900);
        if let Err(error) = self.parts.nudges.nudge(event, delay_s).await {
            tracing::warn!(%event, error = %Chain(&error), "no nudge was left; the schedule will find the event");
        }
    }

    async fn rounds(
        &self,
        account: &Account,
        mut lease: Lease,
        deadline_ms: u64,
        cause: Cause,
        commits: &mut u32,
    ) -> Result<Converged, ConvergeError> {
        if let Err(error) = self.parts.store.replay(&lease.event).await {
            // The lease is not released before it is done.
            tracing::warn!(event = %lease.event, error = %Chain(&error), "replay of waiting facts left for later");
        }
        for _ in 0..ROUNDS_MAX {
            let again_at_ms = match self.round(account, &lease, deadline_ms, commits).await? {
                Round::Acted => continue,
                Round::Stop(reason) => return self.stop(&lease, cause, reason).await,
                Round::Rest { again_at_ms } => again_at_ms,
            };
            match self.parts.store.release(&lease, Some(again_at_ms)).await? {
                Release::Released => {
                    return Ok(Converged::Done { generation: lease.generation, commits: *commits });
                }
                Release::NewWork(renewed) => {
                    // The waiting facts of a kiosk that was just announced are work, too.
                    self.parts.store.replay(&lease.event).await?;
                    self.note(|work| work.behind_since_ms = renewed.behind_since_ms.or(work.behind_since_ms));
                    lease = renewed;
                }
                Release::Fenced => return Err(ConvergeError::Fenced),
            }
        }
        self.stop(&lease, cause, "too many rounds".to_owned()).await
    }

    async fn stop(&self, lease: &Lease, cause: Cause, reason: String) -> Result<Converged, ConvergeError> {
        self.parts.store.abandon(lease).await?;
        if cause == Cause::Fact {
            self.leave_nudge(&lease.event, STOPPED_MS).await;
        }
        Ok(Converged::Unfinished { reason })
    }

    fn out_of_time(&self, deadline_ms: u64) -> bool {
        self.parts.clock.now_ms() + COMMIT_MS_MIN > deadline_ms
    }

    /// Looks at all rooms of all incarnations and takes the first step of the plan.
    async fn round(
        &self,
        account: &Account,
        lease: &Lease,
        deadline_ms: u64,
        commits: &mut u32,
    ) -> Result<Round, ConvergeError> {
        let Some(event) = self.parts.store.event(&lease.event).await? else {
            return Ok(Round::Stop("the ledger has no such event any more".to_owned()));
        };
        let now_ms = self.parts.clock.now_ms();
        let mut again_at_ms = now_ms + DAY_MS;
        if event.disputed && event.minted.is_none() {
            return Ok(Round::Rest { again_at_ms });
        }
        let current = event.minted.as_ref().map(|minted| minted.incarnation);
        let incarnations: BTreeSet<Incarnation> =
            event.rooms.iter().map(|room| room.incarnation).chain(current).collect();
        for incarnation in incarnations {
            let live = current == Some(incarnation);
            match self.incarnation_round(account, lease, &event, incarnation, live, deadline_ms, commits).await? {
                Round::Rest { again_at_ms: at_ms } => again_at_ms = again_at_ms.min(at_ms),
                other => return Ok(other),
            }
        }
        Ok(Round::Rest { again_at_ms })
    }

    #[expect(clippy::too_many_arguments, reason = "one round's context, used once")]
    async fn incarnation_round(
        &self,
        account: &Account,
        lease: &Lease,
        event: &EventRecord,
        incarnation: Incarnation,
        live: bool,
        deadline_ms: u64,
        commits: &mut u32,
    ) -> Result<Round, ConvergeError> {
        let records: Vec<&RoomRecord> = event.rooms.iter().filter(|room| room.incarnation == incarnation).collect();
        let mut rooms = Vec::new();
        for record in records.iter().filter(|record| record.state == RoomState::Active) {
            match self.open(account, lease, record).await {
                Ok(room) => match self.follow(account, lease, room, deadline_ms).await? {
                    Some(room) => rooms.push(room),
                    None => return Ok(Round::Stop("the log is longer than the time at hand".to_owned())),
                },
                Err(error) if error.is_unreadable_room() => {
                    self.declare_lost(lease, record, error.code(), &Chain(&error).to_string(), Vec::new()).await?;
                    return Ok(Round::Acted);
                }
                Err(ConvergeError::OtherInstallation) => {
                    let newest = self.newest_account().await?;
                    if newest.is_none_or(|newest| newest.installation() != account.installation()) {
                        return Ok(Round::Stop("the account was replaced meanwhile".to_owned()));
                    }
                    self.await_welcome(lease, record).await?;
                    return Ok(Round::Acted);
                }
                Err(error) => return Err(error),
            }
        }
        if rooms.iter().any(|room| room.group.lost().is_some()) {
            // Its record says so; the next look finds a successor missing.
            return Ok(Round::Acted);
        }
        let awaited = records.iter().any(|record| matches!(record.state, RoomState::AwaitingWelcome { .. }));
        if awaited && rooms.is_empty() {
            return Ok(Round::Stop(AWAITED.to_owned()));
        }
        let standing = self.parts.store.standing(&incarnation).await?;
        let findings = self.findings(account, &incarnation, live, &standing, &rooms).await?;
        self.remember_links(&incarnation, &findings, &rooms).await?;
        let seated = self.last_seated(&records).await?;
        let input = self.input(&findings, &records, &rooms, &seated, live);
        let plan = planner::plan(&input);
        self.note(|work| work.troubles = work.troubles.max(count(plan.alarms.len())));
        for alarm in &plan.alarms {
            tracing::error!(event = %event.event, alarm = %alarm, "needs a person");
        }
        let step = if live { plan.steps.first() } else { plan.steps.iter().find(|step| step.room().is_some()) };
        let Some(step) = step else {
            let waiting = waiting(&input, &plan, &findings);
            let next = self.remember_waiting(&incarnation, &standing, &waiting).await?;
            let healing = self.rest(lease, rooms, &findings).await?;
            if findings.missed {
                return Ok(Round::Stop("not all could be found out".to_owned()));
            }
            if awaited {
                return Ok(Round::Stop(AWAITED.to_owned()));
            }
            let at_ms = self.parts.clock.now_ms() + DAY_MS;
            return Ok(Round::Rest { again_at_ms: next.into_iter().chain(healing).fold(at_ms, u64::min) });
        };
        if self.out_of_time(deadline_ms) {
            return Ok(Round::Stop("the deadline is near".to_owned()));
        }
        tracing::info!(event = %event.event, step = %step, "step");
        self.act(account, lease, event, incarnation, step, rooms, findings, commits).await
    }

    /// Reads a room's log and stores what must not be forgotten, with the cursor that says it was read. `None` if the
    /// deadline comes before the log's end: the next look goes on from there.
    async fn follow(
        &self,
        account: &Account,
        lease: &Lease,
        mut room: Room,
        deadline_ms: u64,
    ) -> Result<Option<Room>, ConvergeError> {
        let record = room.record.clone();
        let (mut events, mut identities) = (Vec::new(), Identities::default());
        let (walked, cut_short) = loop {
            match room.group.sync_page(account, &*self.parts.network, &mut identities, &mut events).await {
                Ok(true) if self.out_of_time(deadline_ms) => break (Ok(()), true),
                Ok(true) => {}
                Ok(false) => break (Ok(()), false),
                Err(trouble) => break (Err(trouble), false),
            }
        };
        #[cfg(feature = "planted-bugs")]
        crate::planted::walked(&mut room.group, &events);
        self.note(|work| work.read(&events));
        if room.group.lost() == Some(&Lost::RolledBack) {
            // What the record says was looked at was noted then, and newer notes may have followed.
            events.retain(|event| event.id().is_none_or(|id| id > record.seen));
        }
        let standing = if events.iter().any(matters) {
            self.parts.store.standing(&record.incarnation).await?
        } else {
            Standing::default()
        };
        let writes = self.marks(account, &record.incarnation, &standing, &events);
        let lost = room.group.lost().is_some();
        let aged = room.unsaved_messages() > UNSAVED_MESSAGES_MAX || room.wants_new_data_key(self.parts.clock.now_ms());
        if lost || cut_short || aged || events.iter().any(matters) {
            let wallets = |inbox: &str| wallets_in(&standing, inbox);
            self.save(lease, &mut room, &wallets, writes).await?;
        }
        walked?;
        Ok((!cut_short).then_some(room))
    }

    /// Keeps rooms for the next time; notes how far their logs were looked at.
    /// Returns when the first of them wants another look.
    async fn rest(&self, lease: &Lease, rooms: Vec<Room>, findings: &Findings) -> Result<Option<u64>, ConvergeError> {
        let mut again_at_ms = None;
        for mut room in rooms {
            if room.group.has_welcomes() {
                self.send_welcomes(lease, &mut room, findings).await?;
            }
            let noted = self.note_healing(&mut room);
            if noted || room.group.cursor().latest() > room.record.seen {
                room.record.seen = room.group.cursor().latest();
                self.write_fenced(lease, vec![room.record.write()]).await?;
            }
            let next_try_ms = room.record.healing.as_ref().map(|healing| healing.next_try_ms);
            again_at_ms = again_at_ms.into_iter().chain(next_try_ms).min();
            self.keep(room);
        }
        Ok(again_at_ms)
    }

    /// What others' commits and leave requests say about who belongs.
    fn marks(&self, account: &Account, incarnation: &Incarnation, standing: &Standing, events: &[Event]) -> Vec<Write> {
        let since_ms = self.parts.clock.now_ms();
        let mut marks: BTreeMap<InboxId, Option<Mark>> = BTreeMap::new();
        let held = |inbox: &InboxId| standing.links.iter().any(|link| link.inbox == *inbox);
        for event in events {
            match event {
                Event::Received(received) if matches!(received.content, Content::LeaveRequest { .. }) => {
                    marks.insert(domain_inbox(&received.sender), Some(Mark::Left));
                }
                Event::Committed(Committed { own: false, actor_is_admin: true, actor, change, .. }) => {
                    let by = domain_inbox(actor);
                    // Whoever removes usher loses the room, and bans nobody.
                    let usher = account.inbox().as_str();
                    for removed in change.removed_inboxes.iter().filter(|removed| removed.inbox_id != usher) {
                        if let Ok(inbox) = removed.inbox_id.parse() {
                            marks.insert(inbox, Some(Mark::Banned { by: by.clone() }));
                        }
                    }
                    for added in &change.added_inboxes {
                        if let Ok(inbox) = added.inbox_id.parse::<InboxId>() {
                            let guest = (!held(&inbox)).then(|| Mark::Guest { by: by.clone() });
                            marks.insert(inbox, guest);
                        }
                    }
                }
                _ => {}
            }
        }
        let write = |(inbox, mark): (InboxId, Option<Mark>)| match mark {
            Some(mark) => Marked { inbox, mark, since_ms }.write(incarnation),
            None => Marked::remove(incarnation, &inbox),
        };
        marks.into_iter().map(write).collect()
    }

    fn input(
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

    #[expect(clippy::too_many_arguments, reason = "one step's context, used once")]
    async fn act(
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
        let standing = self.parts.store.standing(&room.record.incarnation).await?;
        let writes = self.marks(account, &room.record.incarnation, &standing, &events);
        let wallets = |inbox: &str| findings.wallets_of(inbox);
        if events.iter().any(matters) || room.group.lost().is_some() {
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
    async fn send_welcomes(&self, lease: &Lease, room: &mut Room, findings: &Findings) -> Result<(), ConvergeError> {
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

/// Whether something met in a log changes more than the cursor.
fn matters(event: &Event) -> bool {
    match event {
        Event::Received(received) => matches!(received.content, Content::LeaveRequest { .. }),
        Event::Committed(_) | Event::Superseded => true,
        Event::Skipped { .. } => false,
    }
}

pub(crate) fn wallets_in(standing: &Standing, inbox: &str) -> Vec<alloy_primitives::Address> {
    standing.links.iter().filter(|link| link.inbox.as_str() == inbox).map(|link| link.wallet).collect()
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

/// Who waits and for what, by wallet: those without an inbox, and those whose inbox cannot be seated.
fn waiting(input: &Input, plan: &planner::Plan, findings: &Findings) -> BTreeMap<alloy_primitives::Address, String> {
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
