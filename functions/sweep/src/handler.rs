//! From Lambda's event to the clock's work or the nudges'.

use aws_lambda_events::event::sqs::SqsBatchResponse;
use lambda_runtime::{Error, LambdaEvent};
use usher_lambda::{
    Usher,
    sweep::{self, Trigger},
};

pub(crate) async fn handle(usher: &Usher, event: LambdaEvent<Trigger>) -> Result<SqsBatchResponse, Error> {
    Ok(sweep::handle(usher, event.payload, &(&event.context).into()).await?)
}
