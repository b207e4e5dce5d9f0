//! Rooms as their members see them: carries steps out only if every member and every later joiner would accept them.
//!
//! Written from the rules, not from the planner: nothing of the planner's own reckoning is used here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use alloy_primitives::{Address, U256};

use crate::{
    admission::{Admission, Answer, Claims, CreatorRole, Role},
    ids::{ChainId, GroupId, InboxId, InstallationId, KioskKey, TicketKey},
    planner::{
        AssociationView, Grounds, Input, KeyPackageView, Limits, MemberView, MembershipCommit, Plan, Purpose,
        RoomState, RoomView, Step, WantedMetadata, plan,
    },
};

pub(super) const USHER: u8 = 1;
pub(super) const CREATOR: u8 = 2;
pub(super) const KEY_PACKAGE: usize = 1_600;

pub(super) fn inbox(n: u8) -> InboxId {
    format!("{n:02x}").repeat(32).parse().unwrap()
}

pub(super) fn wallet(n: u8) -> Address {
    Address::repeat_byte(n)
}

pub(super) fn device(n: u8, k: u8) -> InstallationId {
    let mut id = [0; 32];
    (id[0], id[1]) = (n, k);
    InstallationId(id)
}

pub(super) fn group(n: u8) -> GroupId {
    GroupId([n; 16])
}

pub(super) fn ticket(n: u8) -> TicketKey {
    let kiosk = KioskKey { chain: ChainId(1328), address: Address::repeat_byte(0xee) };
    TicketKey { kiosk, token_id: U256::from(n) }
}

pub(super) fn usable() -> KeyPackageView {
    KeyPackageView::Usable { bytes: KEY_PACKAGE }
}

pub(super) fn unusable() -> KeyPackageView {
    KeyPackageView::Unusable { reason: "expired".to_owned() }
}

/// A room as its members see it.
#[derive(Debug, Clone)]
pub(super) struct Room {
    pub(super) group: GroupId,
    pub(super) state: RoomState,
    pub(super) map: BTreeMap<InboxId, u64>,
    pub(super) tree: BTreeMap<InstallationId, InboxId>,
    pub(super) failed: BTreeSet<InstallationId>,
    pub(super) admins: BTreeSet<InboxId>,
    pub(super) super_admins: BTreeSet<InboxId>,
    pub(super) policies_ok: bool,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) pending_commit: bool,
    pub(super) leave_requests: BTreeSet<InboxId>,
    pub(super) damaged: BTreeSet<InboxId>,
    pub(super) last_repaired_ms: BTreeMap<InboxId, u64>,
    pub(super) unexplained_removals: usize,
}

impl Room {
    /// usher alone.
    pub(super) fn new(n: u8) -> Self {
        Self {
            group: group(n),
            state: RoomState::Active,
            map: [(inbox(USHER), 10)].into(),
            tree: [(device(USHER, 1), inbox(USHER))].into(),
            failed: BTreeSet::new(),
            admins: BTreeSet::new(),
            super_admins: [inbox(USHER)].into(),
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

    /// With `members`, each by its first device; the creator is admin.
    pub(super) fn with(mut self, members: &[u8]) -> Self {
        for n in members {
            self.map.insert(inbox(*n), 10);
            self.tree.insert(device(*n, 1), inbox(*n));
            if *n == CREATOR {
                self.admins.insert(inbox(CREATOR));
            }
        }
        self
    }

    pub(super) fn leaves_of(&self, inbox: &InboxId) -> BTreeSet<InstallationId> {
        self.tree.iter().filter(|(_, owner)| *owner == inbox).map(|(leaf, _)| *leaf).collect()
    }

    fn view(&self) -> RoomView {
        let member =
            |(inbox, id): (&InboxId, &u64)| MemberView { stored_sequence_id: *id, leaves: self.leaves_of(inbox) };
        let strangers = self.tree.iter().filter(|(_, owner)| !self.map.contains_key(*owner));
        RoomView {
            group: self.group,
            state: self.state,
            members: self.map.iter().map(|entry| (entry.0.clone(), member(entry))).collect(),
            failed_installations: self.failed.clone(),
            strangers: strangers.map(|(leaf, _)| *leaf).collect(),
            admins: self.admins.clone(),
            super_admins: self.super_admins.clone(),
            policies_ok: self.policies_ok,
            name: self.name.clone(),
            description: self.description.clone(),
            pending_commit: self.pending_commit,
            leave_requests: self.leave_requests.clone(),
            damaged: self.damaged.clone(),
            last_repaired_ms: self.last_repaired_ms.clone(),
            unexplained_removals: self.unexplained_removals,
        }
    }
}

/// The network, the chain and the rooms of one event.
#[derive(Clone)]
pub(super) struct World {
    pub(super) claims: Claims,
    pub(super) logs: BTreeMap<InboxId, BTreeMap<u64, BTreeSet<InstallationId>>>,
    /// Inboxes whose log cannot be read now.
    pub(super) silent: BTreeSet<InboxId>,
    pub(super) key_packages: BTreeMap<InstallationId, KeyPackageView>,
    pub(super) rooms: Vec<Room>,
    pub(super) limits: Limits,
    pub(super) metadata: WantedMetadata,
    pub(super) now_ms: u64,
}

/// One line per thing, with short ids: what a failed property prints.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |id: &dyn fmt::Display| id.to_string().chars().take(4).collect::<String>();
        let list = |ids: &mut dyn Iterator<Item = String>| ids.collect::<Vec<_>>().join(" ");
        let inboxes = |ids: &BTreeSet<InboxId>| list(&mut ids.iter().map(|id| short(id)));
        let devices = |ids: &BTreeSet<InstallationId>| list(&mut ids.iter().map(|id| short(id)));
        writeln!(f, "\n{:?} {:?}", self.limits, self.claims.creator_role)?;
        let admission = self.admission();
        for (id, seat) in &admission.seats {
            writeln!(f, "seat {} {:?}", short(id), seat.role)?;
        }
        writeln!(f, "out {:?}", admission.departures.iter().map(|(id, why)| (short(id), why)).collect::<Vec<_>>())?;
        for (id, log) in self.logs.iter().filter(|(id, _)| **id < inbox(12)) {
            let silent = if self.silent.contains(id) { "silent " } else { "" };
            let states = list(&mut log.iter().map(|(update, ids)| format!("{update}:[{}]", devices(ids))));
            writeln!(f, "log {} {silent}{states}", short(id))?;
        }
        let unusable = self.key_packages.iter().filter(|(_, view)| **view != usable());
        let kind = |view: &KeyPackageView| if *view == KeyPackageView::Unknown { "?" } else { "-" };
        writeln!(f, "packages {}", list(&mut unusable.map(|(id, view)| short(id) + kind(view))))?;
        for room in &self.rooms {
            writeln!(f, "room {} {:?} pending={}", short(&room.group), room.state, room.pending_commit)?;
            for (id, update) in &room.map {
                writeln!(f, "  {}={update} [{}]", short(id), devices(&room.leaves_of(id)))?;
            }
            let rogue = room.tree.iter().filter(|(_, id)| !room.map.contains_key(*id));
            writeln!(f, "  rogue [{}] failed [{}]", list(&mut rogue.map(|(id, _)| short(id))), devices(&room.failed))?;
            writeln!(f, "  admins [{}] super [{}]", inboxes(&room.admins), inboxes(&room.super_admins))?;
            writeln!(f, "  leaving [{}] damaged [{}]", inboxes(&room.leave_requests), inboxes(&room.damaged))?;
        }
        Ok(())
    }
}

impl World {
    /// Wallet n belongs to inbox n, which has one device with a key package since update 10. `holders` have tickets.
    pub(super) fn new(holders: &[u8], rooms: Vec<Room>) -> Self {
        let people = 1..=60;
        Self {
            claims: Claims {
                usher: inbox(USHER),
                creator: wallet(CREATOR),
                owner: None,
                creator_role: CreatorRole::Admin,
                holders: holders.iter().map(|n| (ticket(*n), wallet(*n))).collect(),
                former: BTreeSet::new(),
                guests: BTreeSet::new(),
                moderators: BTreeSet::new(),
                bans: BTreeSet::new(),
                banned_wallets: BTreeSet::new(),
                left: BTreeSet::new(),
                links: BTreeMap::new(),
                answers: people.clone().map(|n| (wallet(n), Answer::Linked(inbox(n)))).collect(),
            },
            logs: people.clone().map(|n| (inbox(n), [(10, [device(n, 1)].into())].into())).collect(),
            silent: BTreeSet::new(),
            key_packages: people.map(|n| (device(n, 1), usable())).collect(),
            rooms,
            limits: Limits::default(),
            metadata: WantedMetadata::default(),
            now_ms: 1_000_000_000,
        }
    }

    pub(super) fn admission(&self) -> Admission {
        Admission::new(&self.claims)
    }

    pub(super) fn input(&self) -> Input {
        let heard = self.logs.iter().filter(|(inbox, _)| !self.silent.contains(*inbox));
        Input {
            admission: self.admission(),
            rooms: self.rooms.iter().map(Room::view).collect(),
            association: heard.map(|(id, log)| (id.clone(), AssociationView { states: log.clone() })).collect(),
            key_packages: self.key_packages.clone(),
            limits: self.limits.clone(),
            creator_role: self.claims.creator_role,
            metadata: self.metadata.clone(),
            now_ms: self.now_ms,
        }
    }

    pub(super) fn plan(&self) -> Plan {
        plan(&self.input())
    }

    /// Plans and carries out first steps until nothing is left to do. Checks every plan and every step.
    pub(super) fn converge(&mut self) -> Result<Plan, String> {
        for _ in 0..120 {
            let plan = self.plan();
            in_order(&plan).map_err(|why| format!("{why}\n{plan}"))?;
            let Some(step) = plan.steps.first() else { return Ok(plan) };
            self.execute(step).map_err(|why| format!("{why}\n{plan}"))?;
        }
        Err(format!("it does not end:\n{}", self.plan()))
    }

    pub(super) fn execute(&mut self, step: &Step) -> Result<(), String> {
        let admission = self.admission();
        let now_ms = self.now_ms;
        if let Step::CreateRoom { succeeds } = step {
            let n = u8::try_from(self.rooms.len()).unwrap() + 0xa0;
            self.rooms.push(Room::new(n));
            if let Some(room) = self.rooms.iter_mut().find(|room| Some(room.group) == *succeeds) {
                room.state = RoomState::Lost { successor: Some(group(n)) };
            }
            return Ok(());
        }
        let at = self.rooms.iter().position(|room| Some(room.group) == step.room()).ok_or("no such room")?;
        require(self.rooms[at].state == RoomState::Active, "a lost room is never written to")?;
        match step {
            Step::CreateRoom { .. } => {}
            Step::Settle { .. } => self.rooms[at].pending_commit = false,
            Step::RestorePolicies { .. } => self.rooms[at].policies_ok = true,
            Step::SetMetadata { name, description, .. } => {
                let room = &mut self.rooms[at];
                room.name.clone_from(name.as_ref().unwrap_or(&room.name.clone()));
                room.description.clone_from(description.as_ref().unwrap_or(&room.description.clone()));
                require(room.name.len() <= 100 && room.description.len() <= 1_000, "attributes within their limits")?;
            }
            Step::SetRoles { change, .. } => {
                let room = &mut self.rooms[at];
                require(room.super_admins.contains(&inbox(USHER)), "only a super admin appoints")?;
                let named = [&change.add_admins, &change.remove_admins];
                let named = named.into_iter().chain([&change.add_super_admins, &change.remove_super_admins]);
                require(!named.flatten().any(|id| *id == inbox(USHER)), "usher's role is untouched")?;
                for id in &change.add_admins {
                    require(admission.role(id) == Some(Role::Admin), "an admin by title")?;
                }
                for id in &change.add_super_admins {
                    require(admission.role(id) == Some(Role::SuperAdmin), "a super admin by title")?;
                }
                room.admins = &(&room.admins - &change.remove_admins) | &change.add_admins;
                room.super_admins = &(&room.super_admins - &change.remove_super_admins) | &change.add_super_admins;
            }
            Step::Membership { purpose, commit, .. } => {
                self.allowed(&admission, &self.rooms[at], purpose, commit)?;
                let was_joinable = self.joinable(&self.rooms[at]).is_ok();
                let after = self.merged(&self.rooms[at], commit)?;
                let super_admin = self.rooms[at].super_admins.contains(&inbox(USHER));
                let must_be_joinable = match purpose {
                    Purpose::Add | Purpose::Readd => true,
                    Purpose::Mend => super_admin,
                    _ => was_joinable,
                };
                if must_be_joinable {
                    self.joinable(&after)?;
                }
                self.rooms[at] = after;
                let room = &mut self.rooms[at];
                match purpose {
                    Purpose::Readmit => {
                        room.last_repaired_ms.extend(commit.remove.iter().map(|id| (id.clone(), now_ms)));
                    }
                    Purpose::Readd => {
                        let repaired = commit.add_installations.values();
                        room.last_repaired_ms.extend(repaired.clone().map(|id| (id.clone(), now_ms)));
                        repaired.for_each(|id| _ = room.damaged.remove(id));
                    }
                    Purpose::Remove(grounds) => {
                        let unexplained = grounds.values().filter(|why| **why == Grounds::Unexplained);
                        room.unexplained_removals += unexplained.count();
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// usher's own rules: who may be added, that a revocation comes alone, and that the commit can be sent.
    fn allowed(
        &self,
        admission: &Admission,
        room: &Room,
        purpose: &Purpose,
        commit: &MembershipCommit,
    ) -> Result<(), String> {
        let usher = inbox(USHER);
        let touched = commit.set.contains_key(&usher)
            || commit.remove.contains(&usher)
            || commit.add_installations.values().any(|id| *id == usher)
            || commit.remove_installations.iter().any(|leaf| room.tree.get(leaf) == Some(&usher));
        require(!touched, "usher's own inbox is untouched")?;
        require(room.map.contains_key(&usher), "usher is a member")?;
        for id in commit.add_installations.values().chain(commit.set.keys()) {
            let titled = admission.seats.contains_key(id) && !room.leave_requests.contains(id);
            require(titled, "nobody without title is added")?;
        }
        for id in &commit.remove {
            require(!room.admins.contains(id), "whoever goes is no admin any more")?;
        }
        let alone = commit.set.is_empty() && commit.add_installations.is_empty();
        match purpose {
            Purpose::Remove(grounds) => {
                require(alone, "a removal is bound to nobody's key package")?;
                require(grounds.keys().eq(&commit.remove), "the grounds name those who go")?;
            }
            Purpose::Readmit => require(alone && !commit.remove.is_empty(), "out, and nothing else")?,
            Purpose::Add => {
                require(
                    commit.remove.is_empty() && commit.remove_installations.is_empty(),
                    "an addition removes nobody",
                )?;
                let fresh = commit.set.keys().all(|id| !room.map.contains_key(id));
                require(fresh, "who is added was not there")?;
                let with_device = commit.set.keys().all(|id| commit.add_installations.values().any(|of| of == id));
                require(with_device, "nobody is seated without a device")?;
            }
            Purpose::Refresh => {
                let present = commit.set.keys().all(|id| room.map.contains_key(id));
                require(present && commit.remove.is_empty(), "a refresh changes no membership")?;
            }
            Purpose::Mend | Purpose::Readd => {
                require(commit.set.is_empty() && commit.remove.is_empty(), "the map stays")?;
            }
        }
        let bytes = 75 * (room.map.len() + commit.set.len())
            + 84 * room.tree.len()
            + 33 * commit.failed_installations.len()
            + KEY_PACKAGE * commit.add_installations.len();
        require(bytes <= self.limits.commit_bytes, "the commit can be sent")?;
        require(room.map.len() + commit.set.len() <= 250, "libxmtp's limit")
    }

    /// What every member checks (rules 6 to 12), openmls' own rules, and the outcome.
    fn merged(&self, room: &Room, commit: &MembershipCommit) -> Result<Room, String> {
        let super_admin = room.super_admins.contains(&inbox(USHER));
        require(super_admin || room.admins.contains(&inbox(USHER)) || commit.remove.is_empty(), "may remove")?;
        let mut map = room.map.clone();
        let (mut expected_added, mut expected_removed) = (BTreeSet::new(), BTreeSet::new());
        for id in &commit.remove {
            let stored = map.remove(id).ok_or("who is removed was there")?;
            require(!room.super_admins.contains(id), "a super admin cannot be removed")?;
            expected_removed.extend(self.state(id, stored)?);
        }
        for (id, sequence_id) in &commit.set {
            let stored = map.insert(id.clone(), *sequence_id);
            require(stored.is_none_or(|stored| stored < *sequence_id), "sequence ids grow")?;
            let before = match stored {
                None | Some(0) => BTreeSet::new(),
                Some(stored) => self.state(id, stored)?,
            };
            let after = self.state(id, *sequence_id)?;
            expected_added.extend(&after - &before);
            expected_removed.extend(&before - &after);
        }

        let mut adds: BTreeSet<_> = commit.add_installations.keys().copied().collect();
        let mut removes = commit.remove_installations.clone();
        let mut failed = commit.failed_installations.clone();
        if super_admin {
            let readded = &adds & &removes;
            (adds, removes) = (&adds - &readded, &removes - &readded);
            let not_readded = &failed & &removes;
            (failed, removes) = (&failed - &not_readded, &removes - &not_readded);
        }
        for id in &adds {
            require(expected_added.contains(id) || room.tree.contains_key(id), "rule 9: an unexpected Add")?;
        }
        require(removes == &expected_removed - &failed, "rule 10: Removes = expected removed - failed")?;

        let mut tree = room.tree.clone();
        for leaf in &commit.remove_installations {
            tree.remove(leaf).ok_or("a Remove needs a leaf")?;
        }
        for (installation, id) in &commit.add_installations {
            require(self.key_packages.get(installation) == Some(&usable()), "an Add needs a key package")?;
            require(tree.insert(*installation, id.clone()).is_none(), "a key is in the tree once")?;
            require(!commit.failed_installations.contains(installation), "what is added has not failed")?;
        }
        Ok(Room { map, tree, failed: commit.failed_installations.clone(), ..room.clone() })
    }

    /// What a joiner checks: leaves and failed list account for exactly the mapped states.
    pub(super) fn joinable(&self, room: &Room) -> Result<(), String> {
        for (id, sequence_id) in &room.map {
            for installation in self.state(id, *sequence_id)? {
                let accounted = room.tree.contains_key(&installation) || room.failed.contains(&installation);
                require(accounted, "joiner: an installation is neither leaf nor failed")?;
            }
        }
        for (leaf, id) in &room.tree {
            let sequence_id = room.map.get(id).ok_or("joiner: a leaf of nobody")?;
            require(self.state(id, *sequence_id)?.contains(leaf), "joiner: a leaf that its log does not list")?;
        }
        Ok(())
    }

    fn state(&self, id: &InboxId, sequence_id: u64) -> Result<BTreeSet<InstallationId>, String> {
        let state = self.logs.get(id).and_then(|log| log.get(&sequence_id));
        state.cloned().ok_or_else(|| format!("{id} has no update {sequence_id}"))
    }
}

/// Within a plan, removals come before anything that needs a stranger's key package.
fn in_order(plan: &Plan) -> Result<(), String> {
    let purposes: Vec<Option<&Purpose>> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::Membership { purpose, .. } => Some(purpose),
            _ => None,
        })
        .collect();
    let last_removal = purposes.iter().rposition(|purpose| matches!(purpose, Some(Purpose::Remove(_))));
    let first_addition =
        purposes.iter().position(|purpose| matches!(purpose, Some(Purpose::Add | Purpose::Refresh | Purpose::Readd)));
    require(last_removal < first_addition || first_addition.is_none(), "removals come before additions")
}

fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}
