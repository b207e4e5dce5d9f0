//! The alarms that operators are called by: log lines of usher's own at the level of errors.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

/// Collects alarms of this thread until it is dropped. A test's tasks all run on its thread.
pub(crate) struct Alarms {
    told: Told,
    _guard: DefaultGuard,
}

/// The fields of each alarm, `message` among them.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>);

impl Alarms {
    pub(crate) fn listen() -> Self {
        let told = Told::default();
        let guard = tracing_subscriber::registry().with(told.clone()).set_default();
        Self { told, _guard: guard }
    }

    /// The codes and messages of all alarms so far; forgets them.
    pub(crate) fn take(&self) -> Vec<(String, String)> {
        let told = std::mem::take(&mut *self.told.0.lock().unwrap());
        let field = |fields: &BTreeMap<_, String>, name| fields.get(name).cloned().unwrap_or_default();
        told.iter().map(|fields| (field(fields, "error.code"), field(fields, "message"))).collect()
    }

    /// Exactly one alarm was told, with this code, that a room is lost.
    pub(crate) fn assert_lost(&self, code: &str, scene: &str) {
        assert_eq!(self.take(), [(code.to_owned(), "room lost".to_owned())], "{scene}");
    }

    /// Exactly one alarm was told, with this code, and no room is lost.
    pub(crate) fn assert_waits(&self, code: &str, scene: &str) {
        let expected = "needs a person: convergence left for later";
        assert_eq!(self.take(), [(code.to_owned(), expected.to_owned())], "{scene}");
    }
}

impl<S: Subscriber> Layer<S> for Told {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR && event.metadata().target().starts_with("usher") {
            let mut fields = Fields::default();
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0);
        }
    }
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}
