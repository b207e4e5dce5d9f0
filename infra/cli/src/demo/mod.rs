//! `usher demo`: the story of `events/logs/`, told by real clients, in one process.
//!
//! An XMTP node, DynamoDB and SQS run on free loopback ports. The functions' handlers run here, each time on a usher
//! that was just connected: what it knows it has read from DynamoDB. The holders are XMTP clients of their own.

mod cast;
mod checks;
mod deployment;
mod timeline;
mod unheard;
mod witness;

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
    /// Break usher, what it remembers, or a member's client on purpose: the checks must notice
    #[arg(long = "break", value_name = "WHAT")]
    broken: Option<Break>,
}

/// What can be broken, to show that the checks look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Break {
    /// Usher believes that it put people out, and nobody else ever hears of it
    SkipRemoval,
    /// A member's client talks with the keys from before the removals
    NoRekey,
    /// Usher's table forgets the room, so that usher makes another one
    SecondRoom,
    /// Usher's table says that an admin invited somebody who holds no ticket
    AdmitOutsider,
    /// One process serves all invocations and reads from DynamoDB only once
    StayWarm,
}

/// What is said at the end, when those who lost their tickets must not hear it any more.
const LAST_WORDS: &str = "only ticket holders read this";
const HELLOS: [(Who, &str); 2] = [(Who::Alice, "hello from Alice"), (Who::Bob, "hello from Bob")];
/// The bad logs of `12-malformed.json`.
const MALFORMED: usize = 5;

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut timeline = Timeline::new(args.json);
    let mut deployment = Deployment::start().await?;
    timeline.step("usher", "an XMTP node, DynamoDB and SQS on loopback; usher has an inbox");
    timeline.step("trust", &deployment.trust());
    if args.broken == Some(Break::StayWarm) {
        deployment.stay_warm();
    }
    let mut cast = Cast::gather(&deployment, args.tickets).await?;
    timeline.step("people", &format!("{} people with XMTP clients of their own", cast.len()));

    tell(&deployment, &mut cast, &args, &mut timeline).await?;
    let checks = Checks::look(&deployment, &mut cast).await?;
    print(&if args.json { checks.json()? } else { checks.table(timeline.elapsed()) });
    deployment.stop().await?;
    if checks.all_passed() { Ok(()) } else { Err("a check failed".into()) }
}

async fn tell(deployment: &Deployment, cast: &mut Cast, args: &Args, timeline: &mut Timeline) -> Result<(), Failure> {
    deployment.handle("01-mint.json").await?;
    cast.sync(&[Who::Creator]).await?;
    verify(cast.is_admin(Who::Creator)?, "the creator's client does not say that he is admin")?;
    timeline.step("mint", &format!("{}: its room exists, its creator is admin", deployment.room_line().await?));

    for file in ["02-purchase-alice.json", "03-purchase-bob.json", "04-purchase-carol.json", "05-purchase-dave.json"] {
        deployment.handle(file).await?;
    }
    deployment.sell(cast.extras()).await?;
    cast.sync_all().await?;
    let seated = cast.seated();
    verify(seated == args.tickets as usize, &format!("{} tickets, and {seated} holders are in", args.tickets))?;
    timeline.step("purchase", &format!("{} tickets sold, {seated} holders in the room", args.tickets));

    for (who, text) in HELLOS {
        cast.say(who, text).await?;
    }
    cast.sync_all().await?;
    for (who, text) in HELLOS {
        let deaf = cast.deaf_to(who, text);
        verify(deaf.is_empty(), &format!("{who:?} said hello, and {deaf:?} did not read it"))?;
    }
    timeline.step("talk", &format!("Alice and Bob said hello, and all {} in the room read it", seated + 1));

    junk(deployment, timeline).await?;
    match args.broken {
        Some(Break::SkipRemoval) => deployment.silence_usher(),
        Some(Break::SecondRoom) => deployment.forget_room().await?,
        Some(Break::AdmitOutsider) => deployment.write_guest(&cast.inbox(Who::Outsider)?).await?,
        Some(Break::NoRekey | Break::StayWarm) | None => {}
    }
    for file in ["06-resale-bob-to-erin.json", "07-refund-alice.json", "08-burn-carol.json", "09-retraction-dave.json"]
    {
        deployment.handle(file).await?;
    }
    timeline.step(
        "removal",
        "Bob resold to Erin, Alice was refunded, Carol burned hers, Dave's purchase was reorganised away",
    );

    match args.broken {
        Some(Break::NoRekey) => cast.say_with_old_keys(Who::Creator, LAST_WORDS).await?,
        _ => cast.say(Who::Creator, LAST_WORDS).await?,
    }
    cast.sync_all().await?;
    timeline.step("talk", "the creator said something to those who are left");
    Ok(())
}

/// What must not matter, and what must not be lost.
async fn junk(deployment: &Deployment, timeline: &mut Timeline) -> Result<(), Failure> {
    let before = deployment.generation().await?;
    deployment.handle("10-duplicate.json").await?;
    verify(deployment.generation().await? == before, "a duplicate changed something")?;
    deployment.handle("11-unknown-kiosk.json").await?;
    let waiting = deployment.waiting_facts().await?;
    verify(waiting > 0, "what an unknown kiosk said does not wait")?;
    verify(deployment.generation().await? == before, "an unknown kiosk changed something")?;
    deployment.handle("12-malformed.json").await?;
    let parked = deployment.parked().await?;
    let text = format!(
        "a duplicate changed nothing; {waiting} facts of an unknown kiosk wait; {parked} malformed logs are parked"
    );
    timeline.step("junk", &text);
    Ok(())
}

/// The story does not go on if it is not as told.
fn verify(holds: bool, what: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(what.into()) }
}
