//! Panics in a run, also those that usher survives: there must be none.

use std::{any::Any, cell::RefCell, panic, sync::Once};

thread_local! {
    static MET: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

static HOOK: Once = Once::new();

/// From here on this thread's panics are noted.
pub(crate) fn note() {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            MET.with_borrow_mut(|met| met.push(panic.to_string()));
            before(panic);
        }));
    });
    drop(take());
}

/// The panics that this thread has met since it was asked last.
pub(crate) fn take() -> Vec<String> {
    MET.take()
}

/// Runs something that may panic.
pub(crate) fn caught<R>(work: impl FnOnce() -> R) -> Result<R, Box<dyn Any + Send>> {
    panic::catch_unwind(panic::AssertUnwindSafe(work))
}
