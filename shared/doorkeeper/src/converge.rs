//! Converging one event: lease, look, plan, act, look again, until there is nothing left to do.

use std::collections::BTreeSet;

use futures::future::LocalBoxFuture;
use usher_domain::{EventKey, Incarnation, planner};
use usher_store::{Chain, EventRecord, Lease, Release, RoomRecord, RoomState, Take};
use usher_xmtp::{Account, Identities, Lost};

use crate::{
    ConvergeError, Doorkeeper,
    claims::Findings,
    marks::matters,
    room::Room,
    view::{waiting, wallets_in},
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

pub(crate) const REPLACED: &str = "the account was replaced meanwhile";

/// Why an invocation leaves an event to the next.
const OUTDATED: &str = "the configuration has changed since this invocation began";

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
pub(crate) enum Round {
    /// A step was taken: look again.
    Acted,
    /// Nothing to do until then.
    Rest { again_at_ms: u64 },
    /// No time or no answer: leave it for later.
    Stop(String),
}

impl Doorkeeper {
    /// Makes the rooms of an event equal to its admission, until that is done or `deadline_ms` (since 1970) is near.
    /// `owner` names this attempt. Trouble with XMTP is no error of the caller's: the event stays due.
    pub fn converge<'a>(
        &'a self,
        event: &'a EventKey,
        owner: &'a str,
        deadline_ms: u64,
        cause: Cause,
    ) -> LocalBoxFuture<'a, Result<Converged, ConvergeError>> {
        Box::pin(async move {
            let account = self.account().await.inspect_err(|error| self.tell(event, error))?;
            let Some(account) = account else { return Ok(Converged::NotReady) };
            let now_ms = self.parts.clock.now_ms();
            let until_ms = deadline_ms.max(now_ms) + LEASE_GRACE_MS;
            let lease = match self.parts.store.take(event, owner, now_ms, until_ms).await? {
                Take::Taken(lease) => lease,
                Take::HeldByOther(_) => return Ok(Converged::Held),
                Take::NoSuchEvent => return Ok(Converged::NoSuchEvent),
            };
            self.note(|work| work.behind_chain_since_ms = lease.behind_chain_since_ms);
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
        })
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
        if self.policy_is_outdated().await? {
            return self.stop(&lease, cause, OUTDATED.to_owned()).await;
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
                    self.note(|work| {
                        work.behind_chain_since_ms = renewed.behind_chain_since_ms.or(work.behind_chain_since_ms)
                    });
                    lease = renewed;
                    if self.policy_is_outdated().await? {
                        return self.stop(&lease, cause, OUTDATED.to_owned()).await;
                    }
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

    /// Whether there is a newer configuration than the one that this doorkeeper goes by. Whoever puts one marks events
    /// due afterwards, so that a lease that was taken, or kept, since the mark must not end by the old one.
    async fn policy_is_outdated(&self) -> Result<bool, ConvergeError> {
        let Some(revision) = self.parts.policy_revision else { return Ok(false) };
        let stored = self.parts.store.configuration().await?;
        Ok(stored.is_some_and(|stored| stored.revision > revision))
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
        let mut stopped = None;
        for incarnation in incarnations {
            let live = current == Some(incarnation);
            match self.incarnation_round(account, lease, &event, incarnation, live, deadline_ms, commits).await? {
                Round::Rest { again_at_ms: at_ms } => again_at_ms = again_at_ms.min(at_ms),
                // The rooms of one incarnation must not wait for those of another.
                Round::Stop(reason) if !self.out_of_time(deadline_ms) => stopped = stopped.or(Some(reason)),
                other => return Ok(other),
            }
        }
        Ok(stopped.map_or(Round::Rest { again_at_ms }, Round::Stop))
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
                Err(ConvergeError::OtherInstallation) if self.is_replaced(account).await? => {
                    return Ok(Round::Stop(REPLACED.to_owned()));
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
        self.remember_links(lease, &incarnation, &findings, &rooms).await?;
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
            let next = self.remember_waiting(lease, &incarnation, &standing, &waiting).await?;
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
        let lost = room.group.lost().is_some();
        let aged = room.unsaved_messages() > UNSAVED_MESSAGES_MAX || room.wants_new_data_key(self.parts.clock.now_ms());
        if lost || cut_short || aged || events.iter().any(matters) {
            let standing = self.parts.store.standing(&record.incarnation).await?;
            let writes = self.marks(account, &record.incarnation, &standing, &events).await?;
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
}
