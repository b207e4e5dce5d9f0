//! The clock and the nudges: unfinished work, waiting buyers, news in rooms.

mod handler;

use lambda_runtime::{Error, service_fn};
use usher_lambda::{Usher, telemetry};

#[tokio::main]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let usher = Usher::from_env().await?;
    lambda_runtime::run(service_fn(|event| handler::handle(&usher, event))).await
}
