//! One invocation: its name and how long it may take.

/// One invocation of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Its name, by which a lease's holder knows itself: no two that run at once may share it.
    pub id: String,
    /// When it ends, whether it is done or not, in milliseconds since 1970.
    pub deadline_ms: u64,
}

impl From<&lambda_runtime::Context> for Invocation {
    fn from(context: &lambda_runtime::Context) -> Self {
        Self { id: context.request_id.clone(), deadline_ms: context.deadline }
    }
}
