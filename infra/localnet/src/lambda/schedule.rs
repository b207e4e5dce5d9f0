//! EventBridge to Lambda: a scheduled event at a fixed rate.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use uuid::Uuid;

use super::function::Function;
use crate::{
    aws::{ACCOUNT, REGION},
    clock::since_1970,
};

/// A running schedule. Dropping it ends it.
#[derive(Debug)]
pub struct Schedule(JoinHandle<()>);

impl Schedule {
    /// Invokes `function` now and then at every `period`, never twice at once.
    pub fn start(period: Duration, function: Arc<Function>) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // The function's failure is logged there; the next tick tries again.
                let _ = function.invoke(event(function.name())).await;
            }
        }))
    }

    /// Ends the schedule; a running invocation is dropped and its process killed.
    pub async fn stop(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The event of an EventBridge rule with a rate.
fn event(function: &str) -> Bytes {
    let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(since_1970().as_secs());
    let event = json!({
        "version": "0",
        "id": Uuid::new_v4().to_string(),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": now.format(&Rfc3339).expect("a year of four digits"),
        "region": REGION,
        "resources": [format!("arn:aws:events:{REGION}:{ACCOUNT}:rule/{function}-schedule")],
        "detail": {},
    });
    Bytes::from(event.to_string())
}
