//! `usher demo`: the story of `events/logs/`, told by real clients, in one process.
//!
//! An XMTP node, DynamoDB and SQS run on free loopback ports. The functions' handlers run here, each time on a usher
//! that was just connected: what it knows it has read from DynamoDB. The holders are XMTP clients of their own.

mod cast;
mod checks;
mod deployment;
mod timeline;

use clap::ValueEnum;

use self::{
    cast::{Cast, Who},
    checks::Checks,
    deployment::Deployment,
    timeline::Timeline,
};
use crate::{Failure, print};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object per step
    #[arg(long)]
    json: bool,
    /// How many tickets are sold; the samples tell of four
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(4..=200))]
    tickets: u32,
    /// Break usher on purpose: the checks must notice
    #[arg(long = "break", value_name = "WHAT")]
    broken: Option<Break>,
}

/// What can be broken, to show that the checks look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Break {
    /// Nothing that takes a ticket away is handled
    SkipRemoval,
    /// Who talks after the removals uses the keys from before them
    NoRekey,
    /// usher forgets its room and makes another one
    SecondRoom,
    /// Somebody who holds no ticket is let in
    AdmitOutsider,
}

/// What is said at the end, when those who lost their tickets must not hear it any more.
const LAST_WORDS: &str = "only ticket holders read this";

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut timeline = Timeline::new(args.json);
    let deployment = Deployment::start().await?;
    timeline.step("usher", "an XMTP node, DynamoDB and SQS on loopback; usher has an inbox");
    let mut cast = Cast::gather(&deployment, args.tickets).await?;
    timeline.step("people", &format!("{} people with XMTP clients of their own", cast.len()));

    let outcome = tell(&deployment, &mut cast, &args, &mut timeline).await;
    let checks = match outcome {
        Ok(()) => Checks::look(&deployment, &mut cast).await?,
        Err(failure) => return Err(failure),
    };
    print(&if args.json { checks.json()? } else { checks.table(timeline.elapsed()) });
    deployment.stop().await?;
    if checks.all_passed() { Ok(()) } else { Err("a check failed".into()) }
}

async fn tell(deployment: &Deployment, cast: &mut Cast, args: &Args, timeline: &mut Timeline) -> Result<(), Failure> {
    let broken = args.broken;
    deployment.handle("01-mint.json").await?;
    cast.sync(&[Who::Creator]).await?;
    timeline.step("mint", &format!("{}: its room exists, its creator is admin", deployment.room_line().await?));

    for file in ["02-purchase-alice.json", "03-purchase-bob.json", "04-purchase-carol.json", "05-purchase-dave.json"] {
        deployment.handle(file).await?;
    }
    deployment.sell(cast.extras()).await?;
    cast.sync_all().await?;
    timeline.step("purchase", &format!("{} tickets sold, {} holders in the room", args.tickets, cast.seated()));

    cast.say(Who::Alice, "hello from Alice").await?;
    cast.say(Who::Bob, "hello from Bob").await?;
    cast.sync_all().await?;
    timeline.step("talk", "Alice and Bob said hello");

    for file in ["10-duplicate.json", "11-unknown-kiosk.json", "12-malformed.json"] {
        deployment.handle(file).await?;
    }
    timeline.step("junk", "a duplicate changed nothing; an unknown kiosk waits; malformed logs are parked");

    match broken {
        Some(Break::SecondRoom) => deployment.forget_room().await?,
        Some(Break::AdmitOutsider) => deployment.sell(vec![(9_999, cast.address(Who::Outsider))]).await?,
        _ => {}
    }
    if broken == Some(Break::SkipRemoval) {
        timeline.step("removal", "skipped");
    } else {
        let losses =
            ["06-resale-bob-to-erin.json", "07-refund-alice.json", "08-burn-carol.json", "09-retraction-dave.json"];
        for file in losses {
            deployment.handle(file).await?;
        }
        timeline.step(
            "removal",
            "Bob resold to Erin, Alice was refunded, Carol burned hers, Dave's purchase was reorganised away",
        );
    }
    match broken {
        Some(Break::NoRekey) => cast.say_with_old_keys(Who::Creator, LAST_WORDS).await?,
        _ => cast.say(Who::Creator, LAST_WORDS).await?,
    }
    cast.sync_all().await?;
    timeline.step("talk", "the creator said something to those who are left");
    Ok(())
}
