//! Known mistakes, one of which the simulation plants in a run to see that it is found. They are compiled in by the
//! feature `planted-bugs` alone, which no function has: otherwise [`Bug::is_planted`] is `false` for the compiler.

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// A mistake that somebody might make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The lease is given back as converged although something new came in.
    ReleaseUnchecked,
    /// A commit leaves before its state is stored.
    PublishBeforeStore,
    /// A commit counts as merged when the node has taken it; its log is not read back.
    SkipReadBack,
    /// The next holder throws the stored commit away and makes another for the same epoch.
    SecondCommit,
    /// A refused commit of somebody else's retires ours.
    RetiredByInvalid,
    /// The Welcome is not stored with its commit.
    WelcomeNotStored,
    /// A warm process goes on with the state it has, whatever is stored.
    OlderSnapshot,
    /// What a log says of bans is written after the cursor that says it was read.
    BanApart,
    /// A retraction that comes before its fact is forgotten.
    EarlyRetraction,
    /// Who has to go goes together with who comes in.
    RemovalBoundToAddition,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 10] = [
        Bug::ReleaseUnchecked,
        Bug::PublishBeforeStore,
        Bug::SkipReadBack,
        Bug::SecondCommit,
        Bug::RetiredByInvalid,
        Bug::WelcomeNotStored,
        Bug::OlderSnapshot,
        Bug::BanApart,
        Bug::EarlyRetraction,
        Bug::RemovalBoundToAddition,
    ];

    /// Whether this thread has the mistake.
    #[inline]
    pub fn is_planted(self) -> bool {
        #[cfg(feature = "planted-bugs")]
        return PLANTED.get() == Some(self);
        #[cfg(not(feature = "planted-bugs"))]
        false
    }

    /// Gives this thread the mistake, or none.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(bug: Option<Self>) {
        PLANTED.set(bug);
    }
}
