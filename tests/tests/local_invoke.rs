//! `cargo lambda invoke` with every sample of `events/`, against a running `usher dev`: what the function answers, and
//! what has become of the room.

use std::{
    fs,
    path::{Path, PathBuf},
};

use alloy_primitives::{Address, U256, address};
use serde_json::{Value, json};
use tokio::process::Command;
use usher_domain::EventKey;
use usher_localnet::person::Person;
use usher_tests::{
    dev_stack::{DevStack, EventReport},
    haus::{CHAIN, Chain, Event, FACTORY},
    world::{ANVIL_KEYS, AnyError},
};
use usher_xmtp::GroupId;

type Outcome = Result<(), AnyError>;

// The people of `events/`, by their accounts.
const CREATOR: usize = 0;
const ALICE: usize = 1;
const BOB: usize = 2;
const CAROL: usize = 3;
const DAVE: usize = 4;
const ERIN: usize = 5;

/// The kiosk of `purchase.unknown-kiosk.json`.
const ELSEWHERE: Address = address!("b7a5bd0345ef1cc5e66bf61bdec17d2461fbd968");

fn event() -> EventKey {
    EventKey { chain: CHAIN, factory: FACTORY, event_id: U256::ZERO }
}

/// Invokes a function with a sample as a person does, and returns what is printed.
async fn cargo_lambda_invoke(stack: &DevStack, function: &str, sample: &Path) -> Result<String, AnyError> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/cargo-lambda");
    if !tool.is_file() {
        return Err(format!("{} is missing: tests/run installs it", tool.display()).into());
    }
    let address = stack.ready.lambda_url.strip_prefix("http://").and_then(|address| address.split_once(':'));
    let (host, port) = address.ok_or("the URL has a host and a port")?;
    let mut command = Command::new(tool);
    command.args(["lambda", "invoke", "--invoke-address", host, "--invoke-port", port]);
    let output = command.arg("--data-file").arg(sample).arg(function).kill_on_drop(true).output().await?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// `events/<function>.<case>.json`.
struct Sample {
    path: PathBuf,
    function: String,
    case: String,
}

impl Sample {
    fn all() -> Result<Vec<Self>, AnyError> {
        let mut samples = Vec::new();
        for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../events"))? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(name) = name.strip_suffix(".json") else { continue };
            let (function, case) = name.split_once('.').ok_or_else(|| format!("{name} names no function and case"))?;
            let (function, case) = (function.to_owned(), case.to_owned());
            samples.push(Self { path, function, case });
        }
        samples.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(samples)
    }

    /// Invokes the sample's function; it must report no message as failed.
    async fn invoke(&self, stack: &DevStack) -> Outcome {
        let answer: Value = serde_json::from_str(&cargo_lambda_invoke(stack, &self.function, &self.path).await?)?;
        assert_eq!(answer, json!({ "batchItemFailures": [] }));
        Ok(())
    }
}

/// A stack in which nothing happens by itself, and the people of `events/`.
struct Scene {
    stack: DevStack,
    people: Vec<Person>,
}

impl Scene {
    /// Everybody has an inbox, and these files of `events/` were sent and worked off.
    async fn after(logs: &[&str]) -> Result<Self, AnyError> {
        let stack = DevStack::start_with(&["--no-schedule"]).await?;
        let mut people = Vec::new();
        for key in &ANVIL_KEYS {
            people.push(Person::register(key, &stack.ready.xmtp_url).await?);
        }
        for file in logs {
            stack.send_sample(file).await?;
            stack.until_handled().await?;
        }
        Ok(Self { stack, people })
    }

    async fn until_seated(&self, event: &EventKey, people: &[usize]) -> Result<String, AnyError> {
        let inboxes = people.iter().map(|person| Ok(self.people[*person].inbox()?.to_string()));
        let inboxes = inboxes.collect::<Result<Vec<_>, AnyError>>()?;
        let seats: Vec<_> = inboxes.iter().map(|inbox| (inbox.as_str(), 1)).collect();
        self.stack.until_seated_inboxes(event, &seats).await
    }
}

/// What a sample that changes tickets does: after these logs these people were seated, now these are; and so much was
/// parked.
async fn reseats(sample: &Sample, logs: &[&str], before: &[usize], after: &[usize], parked: usize) -> Outcome {
    let scene = Scene::after(logs).await?;
    if before.is_empty() {
        assert!(scene.stack.rooms().await?.events.is_empty());
    } else {
        scene.until_seated(&event(), before).await?;
    }
    sample.invoke(&scene.stack).await?;
    scene.until_seated(&event(), after).await?;
    let report = scene.stack.rooms().await?;
    assert_eq!((report.events.len(), report.parked), (1, parked));
    let [current] = &report.events[0].incarnations[..] else { panic!("one incarnation: {report:?}") };
    assert!(current.current && current.waiting.is_empty(), "{report:?}");
    Ok(())
}

/// The facts of a kiosk that nobody knows wait until a mint names it.
async fn unknown_kiosk(sample: &Sample) -> Outcome {
    let scene = Scene::after(&["logs/01-mint.json"]).await?;
    sample.invoke(&scene.stack).await?;
    scene.until_seated(&event(), &[CREATOR]).await?;
    assert_eq!(scene.stack.rooms().await?.events.len(), 1);
    let elsewhere = Event { kiosk: ELSEWHERE, ..Event::new(1, scene.people[DAVE].address()) };
    scene.stack.send(&[Chain::default().mint(&elsewhere)]).await?;
    scene.until_seated(&elsewhere.key(), &[DAVE, ALICE]).await?;
    scene.until_seated(&event(), &[CREATOR]).await?;
    Ok(())
}

/// A creator without an inbox waits; once he has one, the sweep finds it, if it is sent to look.
async fn nudge(sample: &Sample) -> Outcome {
    let stack = DevStack::start_with(&["--no-schedule"]).await?;
    stack.send_sample("logs/01-mint.json").await?;
    stack.until_handled().await?;
    stack.until("the creator waits", async || Ok((stack.waiting(&event()).await?.len() == 1).then_some(()))).await?;
    let creator = Person::register(&ANVIL_KEYS[CREATOR], &stack.ready.xmtp_url).await?;
    let inbox = creator.inbox()?.to_string();
    stack.forget_nudges().await?;
    sample.invoke(&stack).await?;
    stack.until_seated_inboxes(&event(), &[(&inbox, 1)]).await?;
    assert!(stack.waiting(&event()).await?.is_empty());
    Ok(())
}

/// Someone asks to leave the room, which no queue says: the clock's sweep hears of it.
async fn schedule(sample: &Sample) -> Outcome {
    let mut scene = Scene::after(&["logs/01-mint.json", "logs/02-purchase-alice.json"]).await?;
    let room = scene.until_seated(&event(), &[CREATOR, ALICE]).await?;
    let room = GroupId(hex::decode(room)?.try_into().map_err(|_| "a group id has 16 bytes")?);
    let alice = &mut scene.people[ALICE];
    alice.sync().await?;
    alice.leave(room).await?;
    scene.stack.forget_nudges().await?;
    sample.invoke(&scene.stack).await?;
    scene.until_seated(&event(), &[CREATOR]).await?;
    Ok(())
}

async fn check(sample: &Sample) -> Outcome {
    let mint = "logs/01-mint.json";
    let [alice, bob] = ["logs/02-purchase-alice.json", "logs/03-purchase-bob.json"];
    let [carol, dave] = ["logs/04-purchase-carol.json", "logs/05-purchase-dave.json"];
    match (&*sample.function, &*sample.case) {
        ("mint", "event" | "duplicate") => reseats(sample, &[], &[], &[CREATOR], 0).await,
        ("mint", "malformed") => reseats(sample, &[], &[], &[CREATOR], 2).await,
        ("purchase", "issue") => reseats(sample, &[mint], &[CREATOR], &[CREATOR, ALICE], 0).await,
        ("purchase" | "refund", "resale") => reseats(sample, &[mint, bob], &[CREATOR, BOB], &[CREATOR, ERIN], 0).await,
        ("purchase", "unknown-kiosk") => unknown_kiosk(sample).await,
        ("refund", "refund") => reseats(sample, &[mint, alice], &[CREATOR, ALICE], &[CREATOR], 0).await,
        ("refund", "burn") => reseats(sample, &[mint, carol], &[CREATOR, CAROL], &[CREATOR], 0).await,
        ("refund", "retraction") => reseats(sample, &[mint, dave], &[CREATOR, DAVE], &[CREATOR], 0).await,
        ("sweep", "nudge") => nudge(sample).await,
        ("sweep", "schedule") => schedule(sample).await,
        _ => Err("nobody has said here what this sample must come to".into()),
    }
}

#[tokio::test]
async fn every_sample_does_what_the_readme_says() -> Outcome {
    let samples = Sample::all()?;
    assert!(!samples.is_empty());
    for sample in samples {
        check(&sample).await.map_err(|error| format!("{}: {error}", sample.path.display()))?;
    }
    Ok(())
}

#[tokio::test]
async fn functions_go_by_their_binarys_name_too_and_others_are_not_found() -> Outcome {
    let stack = DevStack::start_with(&["--no-schedule"]).await?;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events/mint.event.json");
    let answer = cargo_lambda_invoke(&stack, "usher-mint", &sample).await?;
    assert_eq!(serde_json::from_str::<Value>(&answer)?, json!({ "batchItemFailures": [] }));
    assert!(stack.rooms().await?.event(&event()).is_some_and(EventReport::is_converged));
    let error = cargo_lambda_invoke(&stack, "burn", &sample).await.unwrap_err().to_string();
    assert!(error.contains("Function not found") && error.contains("function:burn"), "{error}");
    Ok(())
}
