//! `usher recover`: goes on from a restored table, or with another installation. Rooms come back when a member's client
//! lets the new installation in; what is left is shown room by room. It may be repeated at any time.

use std::time::Duration;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use tokio::time::{MissedTickBehavior, interval};
use usher_lambda::{InboxUsage, Progress, RecoverError, RecoveryError, RoomProgress, Usher, telemetry::Chain};
use usher_store::RoomState;
use usher_xmtp::{AccountError, identity::WalletSigner};

use crate::{
    Failure, print, say,
    stack::{Machinery, Stack, in_utc},
    wallet::WalletArgs,
};

const NONE: &str = "no recovery is under way. `usher recover --begin` begins one: usher gets a new installation, and every \
                    room waits until a member's client lets that in";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Begin a recovery, unless one is under way: usher's installation is replaced, and every room waits for the new one
    #[arg(long)]
    begin: bool,
    /// Give rooms up that have waited for so long, e.g. 7d, 12h or 30m: others take their seats
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    give_up_after: Option<Duration>,
    /// Go on until it is finished, with a look every so many seconds
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "15",
        value_parser = clap::value_parser!(u64).range(1..),
    )]
    watch: Option<u64>,
    /// Print JSON, a line for each look
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    stack: Stack,
    #[command(flatten)]
    machinery: Machinery,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let seconds = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit = match unit {
            "d" => 24 * 60 * 60,
            "h" => 60 * 60,
            "m" => 60,
            "s" => 1,
            _ => return None,
        };
        number.parse::<u32>().ok().map(|number| u64::from(number) * unit)
    };
    seconds().map(Duration::from_secs).ok_or("expected a number with its unit: 7d, 12h, 30m or 90s")
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let deployment = args.stack.reach().await?;
    let store = deployment.store();
    let under_way = store.recovery().await.map_err(|error| deployment.unreachable(error))?;
    if under_way.is_none() && !args.begin {
        return Err(NONE.into());
    }
    let wallet = args.wallet.open(&deployment).await?;
    let usher = deployment.usher(&args.machinery).await?.ok_or("name the data key's file: --data-key-file FILE")?;
    if args.begin {
        usher.begin_recovery(&*wallet).await?;
    }
    let Some(seconds) = args.watch else {
        let progress = args.look(&usher, &*wallet).await?;
        return args.show(&progress.ok_or(NONE)?);
    };
    watch(&args, &usher, &*wallet, Duration::from_secs(seconds)).await
}

/// Looks again and again, and tells what has changed.
async fn watch(args: &Args, usher: &Usher, wallet: &dyn WalletSigner, every: Duration) -> Result<(), Failure> {
    let mut looks = interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = None;
    loop {
        looks.tick().await;
        let progress = match args.look(usher, wallet).await {
            Ok(Some(progress)) => progress,
            Ok(None) => {
                say("somebody else has finished the recovery");
                return Ok(());
            }
            Err(error) if is_final(&error) => return Err(error.into()),
            Err(error) => {
                say(&format!("{}; trying again", Chain(&error)));
                continue;
            }
        };
        if shown.as_ref() != Some(&progress) {
            args.show(&progress)?;
        }
        if progress.finished {
            return Ok(());
        }
        shown = Some(progress);
    }
}

/// Whether trying again cannot help.
fn is_final(error: &RecoveryError) -> bool {
    use AccountError::{LogFull, TooManyInstallations};
    match error {
        RecoveryError::NoDeployment | RecoveryError::Settings(_) | RecoveryError::Open(_) => true,
        RecoveryError::Recover(error) => matches!(
            error,
            RecoverError::NothingToRecover(_)
                | RecoverError::OtherWallet { .. }
                | RecoverError::Account(TooManyInstallations(_) | LogFull(_))
        ),
        _ => false,
    }
}

impl Args {
    async fn look(&self, usher: &Usher, wallet: &dyn WalletSigner) -> Result<Option<Progress>, RecoveryError> {
        let give_up_after_ms = self.give_up_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        usher.recover(wallet, give_up_after_ms).await
    }

    fn show(&self, progress: &Progress) -> Result<(), Failure> {
        print(&if self.json { serde_json::to_string(progress)? } else { text(progress) });
        Ok(())
    }
}

fn text(progress: &Progress) -> String {
    let usage = InboxUsage { installations: progress.installations, updates: progress.identity_updates };
    let mut account = Table::new();
    account.load_preset(UTF8_FULL_CONDENSED).set_header(["recovery", &format!("since {}", in_utc(progress.since_ms))]);
    account.add_row(["inbox", &progress.inbox]).add_row(["installation", &progress.installation]);
    account.add_row(["replaces", &progress.replaced.join("\n")]).add_row(["used up", &usage.to_string()]);
    let held: Vec<_> = progress.held.iter().map(ToString::to_string).collect();
    account
        .add_row(["held by others".to_owned(), if held.is_empty() { "no event".to_owned() } else { held.join("\n") }]);

    let mut rooms = Table::new();
    rooms.load_preset(UTF8_FULL_CONDENSED).set_header(["event", "room", "state"]);
    for RoomProgress { event, group, state } in &progress.rooms {
        let state = match state {
            RoomState::Active => "active".to_owned(),
            RoomState::AwaitingWelcome { since_ms } => format!("waiting since {}", in_utc(*since_ms)),
            RoomState::Lost { reason } => format!("lost: {reason}"),
        };
        rooms.add_row([event.to_string(), group.to_string(), state]);
    }
    format!("{account}\n{rooms}\n{}", what_now(progress))
}

/// What a person can do about it.
fn what_now(progress: &Progress) -> String {
    let waiting = |room: &&RoomProgress| matches!(room.state, RoomState::AwaitingWelcome { .. });
    if progress.finished {
        "finished: the old installations are revoked".to_owned()
    } else if !progress.held.is_empty() {
        "not finished: functions still work on some events; go on with `usher recover` in a minute".to_owned()
    } else {
        format!(
            "not finished: a member must send a message in each room that waits ({}); then go on with `usher recover`. \
             --give-up-after 7d gives those up in which nobody has spoken for a week",
            progress.rooms.iter().filter(waiting).count()
        )
    }
}

#[cfg(test)]
mod tests {
    use usher_domain::GroupId;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [("7d", 604_800), ("12h", 43_200), ("30m", 1_800), ("90s", 90), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "7", "d", "-1d", "1.5h", "7w", "7 d", "9999999999d", "7ä"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_room_is_told_with_its_state() {
        let event = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse().unwrap();
        let room = |byte, state| RoomProgress { event, group: GroupId([byte; 16]), state };
        let lost = RoomState::Lost { reason: "nobody spoke".to_owned() };
        let mut progress = Progress {
            since_ms: 1_764_194_400_000,
            inbox: "inbox".to_owned(),
            installation: "new".to_owned(),
            replaced: vec!["old".to_owned()],
            installations: 2,
            identity_updates: 3,
            held: Vec::new(),
            rooms: vec![
                room(1, RoomState::Active),
                room(2, RoomState::AwaitingWelcome { since_ms: 1_764_194_401_000 }),
                room(3, lost),
            ],
            finished: false,
        };
        let told = text(&progress);
        for part in [
            "since 2025-11-26T22:00:00Z",
            "2 of 10 installations, 3 of 256 identity updates used",
            "waiting since 2025-11-26T22:00:01Z",
            "lost: nobody spoke",
            "no event",
            "each room that waits (1)",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let active = told.lines().find(|line| line.contains(&"01".repeat(16))).unwrap();
        assert!(active.contains("active"), "{active}");
        progress.held = vec![event];
        assert!(what_now(&progress).contains("still work on some events"));
        progress.finished = true;
        assert!(what_now(&progress).starts_with("finished"));
    }
}
