//! With the real functions and members who have XMTP clients of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Output, Stdio},
    time::Duration,
};

use alloy_primitives::hex;
use serde_json::{Value, json};
use usher_localnet::person::Person;
use usher_store::{
    Owner, Place, Table as _,
    table::{Attributes as _, Query, SK, Write},
};
use usher_xmtp::{GroupId, Lost};

use crate::support::{Dev, complaint, result, sample, until};

const PATIENCE: Duration = Duration::from_secs(60);
const EVENT: &str = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0";
/// The private keys of anvil's first accounts, whose addresses are in the samples. Known to everybody.
const KEYS: [[u8; 32]; 4] = [
    hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    hex!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    hex!("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    hex!("7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
];
const CREATOR: usize = 0;
const ALICE: usize = 1;
const BOB: usize = 2;
const CAROL: usize = 3;

/// A stack with a room of the creator, Alice and Bob.
struct Story {
    dev: Dev,
    people: Vec<Person>,
    room: GroupId,
}

impl Story {
    async fn begin(dev: Dev) -> Self {
        let mut people = Vec::new();
        for key in &KEYS[..=BOB] {
            people.push(Person::register(key, dev.url("xmtp_url")).await.unwrap());
        }
        for file in ["logs/01-mint.json", "logs/02-purchase-alice.json", "logs/03-purchase-bob.json"] {
            dev.send(file);
        }
        let mut story = Self { dev, people, room: GroupId([0; 16]) };
        let group = story.until_seated(&[CREATOR, ALICE, BOB]).await;
        story.room = GroupId(hex::decode(group).unwrap().try_into().unwrap());
        story.sync().await;
        story
    }

    async fn sync(&mut self) {
        for person in &mut self.people {
            person.sync().await.unwrap();
        }
    }

    fn inbox(&self, who: usize) -> String {
        self.people[who].inbox().unwrap().to_string()
    }

    /// The event as `usher rooms` shows it; `None` until there is one.
    fn event(&self) -> Option<Value> {
        let output = self.dev.run("rooms").args(["--json", "--event", EVENT]).output().unwrap();
        output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap()["events"][0].clone())
    }

    fn rooms(&self) -> Value {
        self.event().unwrap()["incarnations"][0]["rooms"].clone()
    }

    /// Awaits that the event's newest room has exactly these people, and usher; returns its group id.
    async fn until_seated(&self, people: &[usize]) -> String {
        let usher = self.dev.ready["inbox_id"].as_str().unwrap().to_owned();
        let wanted: BTreeSet<_> = people.iter().map(|who| self.inbox(*who)).chain([usher]).collect();
        until("everybody is seated", PATIENCE, async || {
            let event = self.event()?;
            let room = event["incarnations"][0]["rooms"].as_array()?.last().filter(|room| room["state"] == "active")?;
            let seats = room["status"]["seats"].as_array()?.iter();
            let seats: BTreeSet<_> = seats.map(|seat| seat["inbox"].as_str().unwrap().to_owned()).collect();
            let converged = event["generation"] == event["converged_generation"];
            (converged && seats == wanted).then(|| room["group"].as_str().unwrap().to_owned())
        })
        .await
    }

    /// What Bob says now is read by these and not by those.
    async fn assert_bob_is_heard(&mut self, text: &str, heard: &[usize], unheard: &[usize]) {
        self.sync().await;
        self.people[BOB].send_text(self.room, text).await.unwrap();
        self.sync().await;
        let has_read = |who: usize| self.people[who].texts(self.room).iter().any(|read| read == text);
        assert!(heard.iter().all(|who| has_read(*who)), "{text}");
        assert!(!unheard.iter().any(|who| has_read(*who)), "{text}");
    }

    fn recover(&self, arguments: &[&str]) -> Output {
        self.dev.run_with_wallet("recover").args(arguments).output().unwrap()
    }

    /// Begins a recovery, and awaits that no function holds an event any more.
    async fn recovering(&self, arguments: &[&str]) -> Value {
        until("all rooms are marked", PATIENCE, async || {
            let output = self.recover(&[&["--begin", "--json"], arguments].concat());
            let progress: Value = serde_json::from_slice(&output.stdout).ok()?;
            (progress["held"] == json!([])).then_some(progress)
        })
        .await
    }

    /// The account as `usher init` finds it.
    fn account(&self) -> Value {
        result(self.dev.run_with_wallet("init").arg("--json").output().unwrap())
    }

    /// What one of the doctor's checks says.
    fn doctor(&self, name: &str) -> Value {
        let output = self.dev.run_with_keys("doctor").arg("--json").output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["checks"].as_array().unwrap().iter().find(|check| check["check"] == name).unwrap().clone()
    }

    /// A restored table as it comes out worst: the ledger, and no snapshot that could be read.
    async fn lose_snapshots(&self) {
        let store = self.dev.store();
        for owner in [Owner::Account, Owner::Room(usher_domain::GroupId(self.room.0))] {
            for item in store.table().query(&Query::all(owner.to_string()).keys_only()).await.unwrap() {
                let sk = item.text(SK).unwrap();
                if sk == "head" || sk.starts_with("chunk#") {
                    let key = usher_store::table::Key::new(owner.to_string(), sk);
                    store.table().write(&Write::delete(key)).await.unwrap();
                }
            }
        }
    }
}

fn place(table: &str) -> Place {
    Place { network: "local".to_owned(), table: table.to_owned() }
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_shown_with_who_sits_in_them_and_who_waits() {
    let story = Story::begin(Dev::start_live("0", &[])).await;
    let group = story.room.to_string();
    // She has no inbox yet.
    story.dev.send("logs/04-purchase-carol.json");
    let carol = "0x90f79bf6eb2c4f870365e785982e1f101e93b906";
    let waiting = until("Carol waits", PATIENCE, async || {
        let waiting = story.event()?["incarnations"][0]["waiting"].as_array()?.first()?.clone();
        (waiting["wallet"] == carol).then_some(waiting)
    })
    .await;

    let report = result(story.dev.run("rooms").arg("--json").output().unwrap());
    let one = result(story.dev.run("rooms").args(["--json", "--event", EVENT]).output().unwrap());
    assert_eq!(report["events"].as_array().unwrap().len(), 1);
    assert_eq!(one["events"][0]["event"], EVENT);
    assert_eq!(one["events"][0]["incarnations"], report["events"][0]["incarnations"]);
    let rooms = story.rooms();
    assert_eq!((&rooms[0]["group"], &rooms[0]["state"]), (&json!(group), &json!("active")));
    let seats: BTreeMap<_, _> = rooms[0]["status"]["seats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|seat| (seat["inbox"].as_str().unwrap().to_owned(), (seat["role"].clone(), seat["wallets"].clone())))
        .collect();
    let wallet = |who: usize| json!([format!("{:#x}", story.people[who].address())]);
    let usher = story.dev.ready["inbox_id"].as_str().unwrap().to_owned();
    assert_eq!(
        seats,
        BTreeMap::from([
            (usher.clone(), (json!("super_admin"), json!([]))),
            (story.inbox(CREATOR), (json!("admin"), wallet(CREATOR))),
            (story.inbox(ALICE), (json!("member"), wallet(ALICE))),
            (story.inbox(BOB), (json!("member"), wallet(BOB))),
        ])
    );

    let table = text(story.dev.run("rooms").output().unwrap());
    let reason = waiting["reason"].as_str().unwrap();
    let seat = |who: usize, role: &str| format!("{} {role}", story.inbox(who));
    for part in [
        EVENT.to_owned(),
        format!("{usher} super_admin"),
        seat(CREATOR, "admin"),
        seat(ALICE, "member"),
        format!("{:#x}", story.people[BOB].address()),
        format!("{carol} {reason}"),
        group,
        "parked: 0".to_owned(),
    ] {
        assert!(table.contains(&part), "{part}: {table}");
    }
    assert!(!reason.is_empty() && table.contains(" reached, due in "), "{table}");
    story.dev.stop("-TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_without_any_snapshot_works_again_after_somebody_spoke() {
    let mut story = Story::begin(Dev::start_live("0", &[])).await;
    let before = story.account();
    assert_eq!(story.doctor("recovery")["status"], "ok");
    let said = complaint(story.recover(&["--json"]));
    assert!(said.contains("no recovery is under way") && said.contains("usher recover --begin"), "{said}");
    assert_eq!(story.account(), before, "nothing was begun");
    story.lose_snapshots().await;
    // As if the table had been restored under the name that it has.
    story.dev.store().table().write(&place("usher-before").adopt_table()).await.unwrap();
    assert_eq!(story.doctor("restored table")["status"], "fail");
    let said = complaint(story.dev.run_with_wallet("init").output().unwrap());
    assert!(said.contains("usher recover --begin"), "{said}");

    let progress = story.recovering(&[]).await;
    assert_eq!((&progress["finished"], &progress["inbox"]), (&json!(false), &before["inbox"]));
    assert_eq!((&progress["replaced"], &progress["installations"]), (&json!([before["installation"]]), &json!(2)));
    let room = &progress["rooms"][0];
    assert_eq!((&room["event"], &room["group"]), (&json!(EVENT), &json!(story.room.to_string())));
    assert_eq!(room["state"], "awaiting_welcome");
    let table = text(story.recover(&[]));
    for part in [EVENT, &story.room.to_string(), "waiting since 20", "2 of 10 installations", "--give-up-after 7d"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let check = story.doctor("recovery");
    assert!(check["status"] == "warn" && check["seen"].as_str().unwrap().contains("1 rooms wait"), "{check}");
    assert!(text(story.dev.run("rooms").output().unwrap()).contains("awaits a member's client"));

    let mut watch = story.dev.run_with_wallet("recover");
    let mut watch = watch.args(["--watch=1", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&first).unwrap()["finished"], false);
    // As libxmtp's clients do: with a look at everybody's devices first.
    story.people[ALICE].update_installations(story.room).await.unwrap();
    story.people[ALICE].send_text(story.room, "anybody there?").await.unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(watch.wait().unwrap().success());
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&last["finished"], &last["rooms"][0]["state"]), (&json!(true), &json!("active")));

    let after = story.account();
    assert_eq!((&after["inbox"], &after["usage"]["installations"]), (&before["inbox"], &json!(1)));
    assert_ne!(after["installation"], before["installation"]);
    assert!(complaint(story.recover(&[])).contains("no recovery is under way"));
    story.dev.send("logs/07-refund-alice.json");
    assert_eq!(story.until_seated(&[CREATOR, BOB]).await, story.room.to_string());
    story.assert_bob_is_heard("without Alice", &[CREATOR], &[ALICE]).await;
    assert_eq!(story.people[ALICE].group(story.room).unwrap().lost(), Some(&Lost::Ejected));
    story.dev.stop("-TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_are_given_up_get_successors() {
    let story = Story::begin(Dev::start_live("0", &[])).await;
    let progress = story.recovering(&["--give-up-after", "0s"]).await;
    assert_eq!((&progress["finished"], &progress["rooms"][0]["state"]), (&json!(true), &json!("lost")));
    story.dev.send("sweep.nudge.json");
    let heir = story.until_seated(&[CREATOR, ALICE, BOB]).await;
    let rooms = story.rooms();
    let [lost, successor] = &rooms.as_array().unwrap()[..] else { panic!("two rooms: {rooms:#}") };
    assert_eq!((&lost["state"], &lost["successor"]), (&json!("lost"), &json!(heir)));
    assert_eq!((&successor["state"], &successor["succeeds"]), (&json!("active"), &lost["group"]));
    assert_eq!(story.doctor("rooms")["status"], "ok");
    story.dev.stop("-TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_goes_on_with_its_room_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let state = ["--state", folder.path().to_str().unwrap()];
    let mut story = Story::begin(Dev::start_live("0", &state)).await;
    let (account, xmtp_url) = (story.account(), story.dev.url("xmtp_url").to_owned());
    story.assert_bob_is_heard("before", &[CREATOR, ALICE], &[]).await;

    let Story { dev, people, room } = story;
    dev.stop("-TERM");
    // Members' clients know the node by its address.
    let port = xmtp_url.rsplit(':').next().unwrap();
    let mut story = Story { dev: Dev::start_live(port, &state), people, room };
    assert_eq!(story.dev.url("xmtp_url"), xmtp_url);
    assert_eq!(story.account(), account, "the same installation, and no other");

    story.people.push(Person::register(&KEYS[CAROL], &xmtp_url).await.unwrap());
    story.dev.send("logs/04-purchase-carol.json");
    assert_eq!(story.until_seated(&[CREATOR, ALICE, BOB, CAROL]).await, room.to_string());
    story.dev.send("logs/07-refund-alice.json");
    assert_eq!(story.until_seated(&[CREATOR, BOB, CAROL]).await, room.to_string());
    story.assert_bob_is_heard("after", &[CREATOR, CAROL], &[ALICE]).await;
    assert_eq!(story.rooms().as_array().unwrap().len(), 1);
    assert_eq!(story.account(), account);
    story.dev.stop("-TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_chains_factory_is_listened_to() {
    let factory = "0x00000000000000000000000000000000000000fa";
    let dev = Dev::start_live("0", &["--factory", &format!("5:{factory}")]);
    assert_eq!(dev.ready["chains"]["5"]["factories"], json!([factory]));
    let mut minted: Value = serde_json::from_str(&fs::read_to_string(sample("logs/01-mint.json")).unwrap()).unwrap();
    let logs = minted["logs"].as_array_mut().unwrap();
    logs.iter_mut().for_each(|log| log["address"] = factory.into());
    // Logs that do not say their chain.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), minted["logs"].to_string()).unwrap();
    result(dev.run("send").args(["--json", "--chain-id", "5"]).arg(file.path()).output().unwrap());
    let event = format!("5:{factory}:0");
    until("the event is known", PATIENCE, async || {
        let report = result(dev.run("rooms").arg("--json").output().unwrap());
        (report["events"][0]["event"] == event).then_some(())
    })
    .await;
    dev.stop("-TERM");
}
