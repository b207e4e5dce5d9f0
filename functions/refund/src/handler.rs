//! From Lambda's event to the ledger and the rooms. Every kind of fact is taken: the queue is priority and permission,
//! never meaning.

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use lambda_runtime::{Error, LambdaEvent};
use usher_lambda::{Usher, handle_queue};

pub(crate) async fn handle(usher: &Usher, event: LambdaEvent<SqsEvent>) -> Result<SqsBatchResponse, Error> {
    Ok(handle_queue(usher, event.payload, &(&event.context).into()).await?)
}
