//! What calls to AWS cost: an interceptor of the SDK's clients.

use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
    },
    operation::{
        delete_item::DeleteItemOutput, get_item::GetItemOutput, put_item::PutItemOutput, query::QueryOutput,
        transact_write_items::TransactWriteItemsOutput, update_item::UpdateItemOutput,
    },
    types::ConsumedCapacity,
};

/// Counts what the clients cost that have it as an interceptor. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Usage>>);

/// What calls to AWS have cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// DynamoDB's request units, as it says itself. Refused writes do not say.
    pub(crate) request_units: f64,
    /// Attempts that reached out.
    attempts: u64,
    /// Calls that ended.
    calls: u64,
}

impl Usage {
    /// Attempts beyond each call's first.
    pub(crate) fn retries(&self) -> u64 {
        self.attempts.saturating_sub(self.calls)
    }

    /// What was added since it was `before`.
    pub(crate) fn since(&self, before: Self) -> Self {
        Self {
            request_units: self.request_units - before.request_units,
            attempts: self.attempts - before.attempts,
            calls: self.calls - before.calls,
        }
    }
}

impl Meter {
    /// All so far.
    pub(crate) fn read(&self) -> Usage {
        *self.0.lock().expect("no holder of this lock panics")
    }

    fn note(&self, what: impl FnOnce(&mut Usage)) {
        what(&mut self.0.lock().expect("no holder of this lock panics"));
    }
}

type Heard = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "meter"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Heard {
        self.note(|usage| usage.attempts += 1);
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Heard {
        let output = context.output_or_error().and_then(Result::ok);
        let capacity = output.map(|output| {
            let one = None
                .or_else(|| output.downcast_ref().and_then(GetItemOutput::consumed_capacity))
                .or_else(|| output.downcast_ref().and_then(QueryOutput::consumed_capacity))
                .or_else(|| output.downcast_ref().and_then(PutItemOutput::consumed_capacity))
                .or_else(|| output.downcast_ref().and_then(UpdateItemOutput::consumed_capacity))
                .or_else(|| output.downcast_ref().and_then(DeleteItemOutput::consumed_capacity));
            let many = output.downcast_ref().map(TransactWriteItemsOutput::consumed_capacity).unwrap_or_default();
            one.into_iter().chain(many).filter_map(ConsumedCapacity::capacity_units).sum::<f64>()
        });
        self.note(|usage| {
            usage.calls += 1;
            usage.request_units += capacity.unwrap_or_default();
        });
        Ok(())
    }
}
