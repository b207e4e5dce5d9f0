//! Metrics: one line for each invocation and each convergence, in CloudWatch's Embedded Metric Format, from which
//! CloudWatch makes metrics by itself.
//!
//! The line stands on standard output by itself: wrapped in a log's line it would mean nothing. What is zero is said
//! and not measured: a metric that has no data costs nothing, and alarms take missing data for good.

use std::{fmt, io::Write as _, sync::Arc};

use serde_json::{Map, Value, json};
use usher_doorkeeper::Work;

use crate::meter::{Meter, Usage};

/// The metrics' namespace in CloudWatch.
pub const NAMESPACE: &str = "usher";
const STAGE: &str = "Stage";
const FUNCTION: &str = "Function";

/// Where lines go.
pub trait Sink: Send + Sync {
    /// Takes one line, without its end.
    fn write(&self, line: &str);
}

/// Standard output.
#[derive(Debug, Clone, Copy)]
pub struct Stdout;

impl Sink for Stdout {
    fn write(&self, line: &str) {
        // In one piece, as logs are written from other threads. If nobody reads it, nobody misses it.
        let _ = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
    }
}

/// The metrics of one function of one deployment.
#[derive(Clone)]
pub struct Metrics {
    /// Whose; nothing is told of a deployment without a name.
    labels: Option<Labels>,
    sink: Arc<dyn Sink>,
    meter: Meter,
}

#[derive(Debug, Clone)]
struct Labels {
    stage: String,
    function: String,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl Metrics {
    /// None.
    pub fn silent() -> Self {
        Self { labels: None, sink: Arc::new(Stdout), meter: Meter::default() }
    }

    /// Those of this function of this stage; what AWS calls cost is read off the meter.
    pub fn new(stage: impl Into<String>, function: impl Into<String>, sink: Arc<dyn Sink>, meter: Meter) -> Self {
        let labels = Labels { stage: stage.into(), function: function.into() };
        Self { labels: Some(labels), sink, meter }
    }

    /// Those of this process, on standard output: `USHER_STAGE` is the stage (none, and there are no metrics), and
    /// Lambda says which function it is.
    pub fn from_env(meter: Meter) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let function = variable("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|| "unknown".to_owned());
        match variable("USHER_STAGE") {
            Some(stage) => Self::new(stage, function, Arc::new(Stdout), meter),
            None => Self { meter, ..Self::silent() },
        }
    }

    /// What AWS calls have cost so far.
    pub(crate) fn usage(&self) -> Usage {
        self.meter.read()
    }

    /// What they have cost since then.
    pub(crate) fn usage_since(&self, before: Usage) -> Usage {
        self.meter.read().since(before)
    }

    /// Tells of one piece of work.
    pub(crate) fn tell(&self, now_ms: u64, record: Record) {
        let Some(Labels { stage, function }) = &self.labels else { return };
        let Record { mut members, measured, dimensions } = record;
        members.insert(STAGE.to_owned(), json!(stage));
        members.insert(FUNCTION.to_owned(), json!(function));
        if !measured.is_empty() {
            let metrics: Vec<_> = measured.iter().map(|(name, unit)| json!({"Name": name, "Unit": unit})).collect();
            let directive = json!({"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": metrics});
            members.insert("_aws".to_owned(), json!({"Timestamp": now_ms, "CloudWatchMetrics": [directive]}));
        }
        self.sink.write(&Value::Object(members).to_string());
    }
}

/// What is told of one piece of work: properties to search by, and numbers to measure.
pub(crate) struct Record {
    members: Map<String, Value>,
    measured: Vec<(&'static str, &'static str)>,
    dimensions: &'static [&'static [&'static str]],
}

impl Record {
    /// Of an event's convergence, or of the deployment: told of the stage as a whole. `work` names the kind.
    pub(crate) fn new(work: &'static str) -> Self {
        let members = Map::from_iter([("work".to_owned(), json!(work))]);
        Self { members, measured: Vec::new(), dimensions: &[&[STAGE]] }
    }

    /// Of an invocation: told of the function, too.
    pub(crate) fn of_invocation(work: &'static str, id: &str) -> Self {
        Self { dimensions: &[&[STAGE], &[STAGE, FUNCTION]], ..Self::new(work).property("invocation", id) }
    }

    /// Something to search by. Never a dimension: each value of one is a metric that costs.
    pub(crate) fn property(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// How many.
    pub(crate) fn count(self, name: &'static str, number: impl TryInto<u64>) -> Self {
        let number = number.try_into().unwrap_or(u64::MAX);
        self.measure(name, "Count", number.into(), number > 0)
    }

    /// How long, if that is known.
    pub(crate) fn duration(self, name: &'static str, ms: Option<u64>) -> Self {
        match ms {
            Some(ms) => self.measure(name, "Milliseconds", ms.into(), true),
            None => self,
        }
    }

    /// What a convergence came to; `done` says that the event's rooms are in step now.
    pub(crate) fn work(self, work: &Work, done: bool, now_ms: u64) -> Self {
        let lag_ms = work.behind_chain_since_ms.map(|since_ms| now_ms.saturating_sub(since_ms));
        self.count("Commits", work.commits)
            .count("Adds", work.adds)
            .count("Removes", work.removes)
            .count("RoomsLost", work.rooms_lost)
            .count("Troubles", work.troubles)
            .duration("LagMs", lag_ms.filter(|_| done))
            .duration("RevokedMs", lag_ms.filter(|_| work.removes > 0))
            .measure("SnapshotBytes", "Bytes", work.snapshot_bytes.into(), work.snapshot_bytes > 0)
    }

    /// What the AWS calls of an invocation cost.
    pub(crate) fn usage(self, usage: Usage) -> Self {
        let (units, retries) = (usage.request_units, usage.retries());
        self.measure("RequestUnits", "Count", json!(units), units > 0.0).count("AwsRetries", retries)
    }

    /// What those of a part of it cost: not measured, or it would be counted twice.
    pub(crate) fn usage_of_part(self, usage: Usage) -> Self {
        self.property("RequestUnits", usage.request_units).property("AwsRetries", usage.retries())
    }

    fn measure(mut self, name: &'static str, unit: &'static str, value: Value, measured: bool) -> Self {
        self.members.insert(name.to_owned(), value);
        if measured {
            self.measured.push((name, unit));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Lines;

    fn told(record: Record) -> Value {
        let lines = Lines::default();
        Metrics::new("test", "usher-test-mint", Arc::new(lines.clone()), Meter::default()).tell(7, record);
        lines.taken().pop().unwrap()
    }

    #[test]
    fn a_line_is_what_cloudwatch_reads() {
        let work =
            Work { commits: 2, removes: 1, behind_chain_since_ms: Some(4), snapshot_bytes: 9, ..Work::default() };
        let record = Record::new("converge").property("event", "1:0x00:0").work(&work, true, 10);
        let metric = |name: &str, unit: &str| json!({"Name": name, "Unit": unit});
        assert_eq!(
            told(record),
            json!({
                "_aws": {"Timestamp": 7, "CloudWatchMetrics": [{
                    "Namespace": "usher",
                    "Dimensions": [["Stage"]],
                    "Metrics": [
                        metric("Commits", "Count"), metric("Removes", "Count"), metric("LagMs", "Milliseconds"),
                        metric("RevokedMs", "Milliseconds"), metric("SnapshotBytes", "Bytes"),
                    ],
                }]},
                "Stage": "test", "Function": "usher-test-mint", "work": "converge", "event": "1:0x00:0",
                "Commits": 2, "Adds": 0, "Removes": 1, "RoomsLost": 0, "Troubles": 0,
                "LagMs": 6, "RevokedMs": 6, "SnapshotBytes": 9,
            })
        );
    }

    #[test]
    fn what_is_zero_is_not_measured_and_an_event_with_work_left_has_no_lag_yet() {
        let work = Work { behind_chain_since_ms: Some(4), ..Work::default() };
        let line = told(Record::of_invocation("batch", "i1").work(&work, false, 10));
        assert!(line.get("_aws").is_none() && line.get("LagMs").is_none(), "{line}");
        let line = told(Record::of_invocation("batch", "i1").count("FactsStored", 1usize));
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["Stage"], ["Stage", "Function"]]));
    }
}
