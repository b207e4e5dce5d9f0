//! `usher redrive`: dead letters go back into their queues.
//!
//! Each is sent before it is deleted, so that none is lost whatever happens in between; what is sent twice adds up to the
//! same. (SQS's own move task does the same in the background; here the command ends when it is done.)

use std::collections::BTreeMap;

use aws_sdk_sqs::{Client, Error, types::Message};
use futures::future::try_join_all;
use serde_json::json;

use crate::{
    Failure, print,
    stack::{Queue, Stack},
};

/// How many messages SQS hands out at once.
const AT_ONCE: i32 = 10;
/// How long one look for more waits, in seconds: a short look may overlook messages.
const WAIT_S: i32 = 2;
/// How long nobody else sees a message that is being moved, in seconds.
const HIDDEN_S: i32 = 120;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the dead letters of these queues
    #[arg(value_name = "QUEUE")]
    queues: Vec<Queue>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stack: Stack,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let deployment = args.stack.reach().await?;
    let mut queues = deployment.queues().await?;
    queues.retain(|queue, _| args.queues.is_empty() || args.queues.contains(queue));
    let client = deployment.sqs();
    let moved = queues.iter().map(async |(queue, urls)| {
        let moved = redrive(client, &urls.dead, &urls.live).await.map_err(|error| format!("{queue}: {error}"))?;
        Ok::<_, Failure>((queue.short_name(), moved))
    });
    let moved: BTreeMap<_, _> = try_join_all(moved).await?.into_iter().collect();
    let total: usize = moved.values().sum();
    if args.json {
        print(&json!({ "moved": total, "queues": moved }).to_string());
    } else {
        let each: Vec<_> = moved.iter().map(|(queue, count)| format!("{count} to {queue}")).collect();
        print(&format!("moved {total}: {}", each.join(", ")));
    }
    Ok(())
}

/// Moves all messages of `dead` to `live`; returns how many there were.
async fn redrive(client: &Client, dead: &str, live: &str) -> Result<usize, Failure> {
    let mut moved = 0;
    loop {
        let look = client.receive_message().queue_url(dead).max_number_of_messages(AT_ONCE);
        let look = look.wait_time_seconds(WAIT_S).visibility_timeout(HIDDEN_S).send().await;
        let messages = look.map_err(Error::from)?.messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(moved);
        }
        let attempt = try_join_all(messages.iter().map(|message| move_one(client, dead, live, message))).await;
        attempt.map_err(|error| format!("after {moved} messages: {error}"))?;
        moved += messages.len();
    }
}

async fn move_one(client: &Client, dead: &str, live: &str, message: &Message) -> Result<(), Failure> {
    let (body, receipt) = (message.body().unwrap_or_default(), message.receipt_handle().unwrap_or_default());
    client.send_message().queue_url(live).message_body(body).send().await.map_err(Error::from)?;
    client.delete_message().queue_url(dead).receipt_handle(receipt).send().await.map_err(Error::from)?;
    Ok(())
}
