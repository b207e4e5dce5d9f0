//! Whether members have refused a commit of ours.
//!
//! Nobody says so: whoever has stricter rules steps over the commit and goes on in the epoch before it, and from then on
//! reads nothing of ours. What can be seen is that members who were there before the commit go on in the old epoch,
//! while none of them is ever heard in the new one. One late message proves nothing: a client that was offline first
//! sends what it has queued and reads the log afterwards. So a member counts as refusing when an installation of his is
//! heard in the old epoch twice, with more time between the two than reading takes.
//!
//! Only what is authenticated by MLS counts, which is at most [`PAST_EPOCHS`] epochs back: who knows a group's id can
//! write anything into its log. Nor does one member decide alone, unless he is alone: he may have a modified client, or
//! one that is stuck for reasons of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::{Group, GroupError, Lost, Member, PAST_EPOCHS, validate::CommitView};
use crate::{
    Account,
    identity::{InboxId, InstallationId},
    proto::state,
};

/// A client that sent a message was online then, and reads the log right after. An hour later it has, whatever replica
/// it read from.
const PATIENCE_NS: u64 = 60 * 60 * 1_000_000_000;
/// How many members have to refuse a commit, if there are so many.
const REFUSING_MIN: usize = 2;

/// Own commits that nobody has been heard to follow, oldest first.
#[derive(Debug, Default)]
pub(super) struct Trials(Vec<Trial>);

/// An own commit that nobody has been heard to follow.
#[derive(Debug)]
struct Trial {
    /// The epoch it led to.
    epoch: u64,
    /// Installations added by it or since: they could not refuse it.
    joined: BTreeSet<InstallationId>,
    /// Installations heard in the epoch before it.
    late: BTreeMap<InstallationId, Late>,
}

/// An installation that goes on in the epoch before a commit. Times are the node's, in nanoseconds since 1970.
#[derive(Debug)]
struct Late {
    inbox: InboxId,
    first_ns: u64,
    last_ns: u64,
}

impl Trial {
    fn refusing(&self) -> usize {
        let late = self.late.values().filter(|late| late.last_ns.saturating_sub(late.first_ns) >= PATIENCE_NS);
        late.map(|late| &late.inbox).collect::<BTreeSet<_>>().len()
    }
}

impl Trials {
    /// An installation was heard in an epoch: it has followed all commits up to there that it did not join by.
    fn followed(&mut self, installation: InstallationId, epoch: u64) {
        self.0.retain(|trial| trial.epoch > epoch || trial.joined.contains(&installation));
    }

    pub(super) fn encode(&self) -> Vec<state::Trial> {
        let late = |(installation, late): (&InstallationId, &Late)| state::Late {
            installation: installation.as_bytes().to_vec(),
            inbox_id: late.inbox.to_string(),
            first_ns: late.first_ns,
            last_ns: late.last_ns,
        };
        let trial = |trial: &Trial| state::Trial {
            epoch: trial.epoch,
            joined: trial.joined.iter().map(|id| id.as_bytes().to_vec()).collect(),
            late: trial.late.iter().map(late).collect(),
        };
        self.0.iter().map(trial).collect()
    }

    pub(super) fn decode(trials: Vec<state::Trial>) -> Result<Self, GroupError> {
        let malformed = || GroupError::Malformed("an own commit's trial".to_owned());
        let id = |id: Vec<u8>| InstallationId::try_from(id.as_slice()).map_err(|_| malformed());
        let late = |late: state::Late| {
            let inbox = late.inbox_id.parse().map_err(|_| malformed())?;
            Ok((id(late.installation)?, Late { inbox, first_ns: late.first_ns, last_ns: late.last_ns }))
        };
        let trial = |trial: state::Trial| {
            Ok(Trial {
                epoch: trial.epoch,
                joined: trial.joined.into_iter().map(id).collect::<Result<_, GroupError>>()?,
                late: trial.late.into_iter().map(late).collect::<Result<_, GroupError>>()?,
            })
        };
        Ok(Self(trials.into_iter().map(trial).collect::<Result<_, GroupError>>()?))
    }
}

impl Group {
    /// Takes note of a commit that was just merged.
    pub(super) fn try_commit(&mut self, view: &CommitView, own: bool) {
        let epoch = self.epoch();
        if own {
            self.trials.0.push(Trial { epoch, joined: BTreeSet::new(), late: BTreeMap::new() });
        } else {
            self.trials.followed(view.actor_installation(), epoch - 1);
        }
        self.trials.0.retain(|trial| trial.epoch + PAST_EPOCHS as u64 > epoch);
        for trial in &mut self.trials.0 {
            trial.joined.extend(view.added_installations());
        }
    }

    /// Takes note of a message that a member sent in `epoch`.
    pub(super) fn hear(
        &mut self,
        account: &Account,
        inbox: &InboxId,
        installation: InstallationId,
        epoch: u64,
        at_ns: u64,
    ) {
        if inbox == account.inbox() {
            return;
        }
        self.trials.followed(installation, epoch);
        let Some(at) = self.trials.0.iter().position(|trial| trial.epoch == epoch + 1) else { return };
        let trial = &mut self.trials.0[at];
        if trial.joined.contains(&installation) {
            return;
        }
        let late = Late { inbox: inbox.clone(), first_ns: at_ns, last_ns: at_ns };
        trial.late.entry(installation).or_insert(late).last_ns = at_ns;
        let refusing = trial.refusing();
        if refusing > 0 && refusing >= REFUSING_MIN.min(self.could_refuse(account, at)) {
            self.lose(Lost::Refused);
        }
    }

    /// How many members were there before the commit.
    fn could_refuse(&self, account: &Account, at: usize) -> usize {
        let there = |(inbox, member): &(InboxId, Member)| {
            inbox != account.inbox() && !member.installations.is_subset(&self.trials.0[at].joined)
        };
        self.members().into_iter().filter(there).count()
    }
}
