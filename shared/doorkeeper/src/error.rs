//! What stops a convergence, and what it is told as.

use usher_domain::EventKey;
use usher_store::{Chain, SnapshotError, StoreError};
use usher_xmtp::{
    AccountError, GroupError, IdentitiesError, WelcomeError,
    group::{ChangeError, WalkError},
    network::NetworkError,
};

/// Why an event was not converged. The event stays due.
#[derive(Debug, thiserror::Error)]
pub enum ConvergeError {
    /// A newer lease has the event: drop everything.
    #[error("fenced off by a newer lease")]
    Fenced,
    /// The ledger did not do as asked.
    #[error("the ledger did not do as asked")]
    Store(#[from] StoreError),
    /// A snapshot was not loaded or saved.
    #[error("a snapshot was not loaded or saved")]
    Snapshot(#[source] SnapshotError),
    /// The ledger names a room that has no snapshot.
    #[error("the ledger names the room, and there is no snapshot of it")]
    NoSnapshot,
    /// A room's fence is a number that no lease of its event has had yet. It is the room's own state; when leases have
    /// come so far, it can be claimed again.
    #[error("the room was claimed by lease {fence}, and the newest there is is {newest}")]
    FenceAhead {
        /// The room's fence.
        fence: u64,
        /// The event's.
        newest: u64,
    },
    /// A room's state is that of another installation than the account's: one of them is of another time.
    #[error(
        "the room's state is another installation's: is the account restored from a backup? `usher recover` mends it"
    )]
    OtherInstallation,
    /// XMTP did not answer.
    #[error("XMTP did not answer")]
    Network(#[from] NetworkError),
    /// Identity logs were not read.
    #[error("identity logs were not read")]
    Identities(#[from] IdentitiesError),
    /// A room's log was not read.
    #[error("a room's log was not read")]
    Walk(#[from] WalkError),
    /// Welcomes were not read.
    #[error("welcomes were not read")]
    Welcome(#[from] WelcomeError),
    /// A change was not made.
    #[error("a room was not changed")]
    Change(#[from] ChangeError),
    /// A room cannot be made, written or read.
    #[error("a room's state cannot be used")]
    Group(#[from] GroupError),
    /// The account cannot be read.
    #[error("the account cannot be used")]
    Account(#[from] AccountError),
    /// An id of the ledger is none of XMTP's.
    #[error("{0} is not an id that XMTP knows")]
    Id(String),
}

impl From<SnapshotError> for ConvergeError {
    fn from(error: SnapshotError) -> Self {
        match error {
            // Somebody else saved since: whoever that is has the newer state.
            SnapshotError::Fenced { .. } | SnapshotError::VersionConflict { .. } | SnapshotError::SideWrite { .. } => {
                Self::Fenced
            }
            error => Self::Snapshot(error),
        }
    }
}

impl ConvergeError {
    /// A word for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fenced => "fenced",
            Self::Store(_) => "store",
            Self::Snapshot(error) => error.code(),
            Self::NoSnapshot => "snapshot_missing",
            Self::FenceAhead { .. } => "fence_ahead",
            Self::OtherInstallation => "other_installation",
            Self::Network(_) => "network",
            Self::Identities(_) => "identities",
            Self::Walk(_) => "walk",
            Self::Welcome(_) => "welcome",
            Self::Change(_) => "change",
            Self::Group(_) => "group",
            Self::Account(_) => "account",
            Self::Id(_) => "id",
        }
    }

    /// Whether what was opened can never be read again: the room is lost. Trouble with the keeper of the keys or the
    /// table passes, and a format of another release is that release's.
    pub(crate) fn is_unreadable_room(&self) -> bool {
        match self {
            Self::Snapshot(error) => error.is_final(),
            Self::Group(_) | Self::NoSnapshot => true,
            _ => false,
        }
    }

    /// Whether trying again does not help by itself: what is stored, or the right to read it, is not as it should be.
    pub(crate) fn needs_person(&self) -> bool {
        match self {
            Self::Snapshot(error) => !matches!(error, SnapshotError::Store(_)),
            Self::NoSnapshot
            | Self::FenceAhead { .. }
            | Self::OtherInstallation
            | Self::Group(_)
            | Self::Account(_) => true,
            _ => false,
        }
    }

    /// Logs why an event is left for later; an alarm if somebody has to look.
    pub(crate) fn tell(&self, event: &EventKey) {
        let (code, error) = (self.code(), Chain(self));
        if self.needs_person() {
            tracing::error!(%event, error.code = code, %error, "needs a person: convergence left for later");
        } else {
            tracing::warn!(%event, error.code = code, %error, "convergence left for later");
        }
    }
}
