//! What the functions and the operator may do is what they do, in a run of everything that they are for.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;
use usher_localnet::person::Person;
use usher_store::table::{EXPIRES_AT_S, PK};
use usher_tests::{
    haus::{CHAIN, Chain, Event, Transaction},
    world::{ANVIL_KEYS, AnyError},
};
use usher_xmtp::{
    GroupId,
    identity::{LocalWallet, WalletSigner as _},
};

use crate::{
    deployment::{ASKED_CHAIN, Deployment, OPERATOR, RPC_SECRET, TABLE, configuration},
    document::{Template, each, texts},
    file,
    recorder::Permission,
    template,
};

/// What AWS does on a function's behalf, and no function by itself: Lambda writes its logs and its traces.
const PLATFORM: [&str; 4] =
    ["logs:CreateLogStream", "logs:PutLogEvents", "xray:PutTraceSegments", "xray:PutTelemetryRecords"];

const FACT_QUEUES: [&str; 3] = ["MintQueue", "PurchaseQueue", "RefundQueue"];

// People, by their accounts.
const CREATOR: usize = 0;
const ALICE: usize = 1;
const BOB: usize = 2;
const CAROL: usize = 3;
const LATE: usize = 4;

/// What a role may do, as `who`.
fn granted(template: &Template, role: &str, who: &str) -> BTreeSet<Permission> {
    let role = template.properties(role);
    let managed =
        texts(&role["ManagedPolicyArns"]).into_iter().map(|policy| &template.properties(policy)["PolicyDocument"]);
    let inline = each(&role["Policies"]).iter().map(|policy| &policy["PolicyDocument"]);
    let mut permissions = BTreeSet::new();
    for statement in managed.chain(inline).flat_map(|policy| each(&policy["Statement"])) {
        assert_eq!(statement["Effect"], "Allow");
        for action in texts(&statement["Action"]) {
            for on in texts(&statement["Resource"]) {
                permissions.insert(Permission { who: who.to_owned(), action: action.to_owned(), on: on.to_owned() });
            }
        }
    }
    permissions
}

/// What all functions may do, but for what AWS does for them.
fn granted_to_functions(template: &Template) -> BTreeSet<Permission> {
    let mut permissions = BTreeSet::new();
    for (function, properties) in template.functions() {
        let role = properties["Role"].as_str().unwrap().trim_end_matches(".Arn");
        permissions.extend(granted(template, role, function));
    }
    let platform: BTreeSet<_> =
        permissions.iter().map(|it| it.action.as_str()).filter(|it| PLATFORM.contains(it)).collect();
    assert_eq!(platform, PLATFORM.into());
    permissions.retain(|permission| !PLATFORM.contains(&permission.action.as_str()));
    permissions
}

fn logs(transaction: &Transaction) -> String {
    json!({ "chainId": CHAIN, "logs": transaction.logs }).to_string()
}

/// Everything that may be said of an event, by one queue.
async fn season(deployment: &Deployment, queue: &str, id: u64, people: &[Person]) -> Result<(), AnyError> {
    let [creator, alice, bob, carol] = [CREATOR, ALICE, BOB, CAROL].map(|person| people[person].address());
    let (mut chain, event) = (Chain::default(), Event::new(id, creator));
    let purchases =
        [alice, bob, carol].into_iter().zip(1..).map(|(buyer, ticket)| chain.purchase(&event, ticket, buyer));
    let [early, kept, retracted] = &purchases.collect::<Vec<_>>()[..] else { unreachable!("there are three") };
    // A ticket of a kiosk that nobody knows yet, and what is no fact at all.
    deployment.send(queue, logs(early)).await?;
    deployment.send(queue, format!("no log {id}")).await?;
    let mint = chain.mint(&event);
    for transaction in [
        mint,
        kept.clone(),
        retracted.clone(),
        retracted.clone().removed(),
        chain.transfer(&event, 2, bob, carol),
        chain.refund(&event, 1, alice),
        chain.burn(&event, 2, carol),
    ] {
        deployment.send(queue, logs(&transaction)).await?;
    }
    Ok(())
}

/// What only the clock brings about: a creator is late, and somebody leaves a room by his own wish.
async fn late_news(deployment: &Deployment, people: &mut [Person]) -> Result<(), AnyError> {
    let mut chain = Chain::default();
    let left = Event::new(50, people[CREATOR].address());
    for transaction in [chain.mint(&left), chain.purchase(&left, 1, people[ALICE].address())] {
        deployment.send("MintQueue", logs(&transaction)).await?;
    }
    let alice = &mut people[ALICE];
    deployment
        .until("alice sits in the room that she leaves", async || {
            alice.sync().await?;
            let rooms = deployment.store.event(&left.key()).await?.map(|event| event.rooms).unwrap_or_default();
            let groups: BTreeSet<_> = rooms.iter().map(|room| GroupId(room.group.0)).collect();
            let Some(group) = alice.groups().find(|group| groups.contains(group)) else { return Ok(false) };
            alice.leave(group).await?;
            Ok(true)
        })
        .await?;
    let late = Event::new(51, LocalWallet::from_key(&ANVIL_KEYS[LATE])?.address());
    deployment.send("MintQueue", logs(&chain.mint(&late))).await?;
    Person::register(&ANVIL_KEYS[LATE], &deployment.xmtp_url).await?;
    Ok(())
}

#[tokio::test]
async fn the_functions_may_do_what_they_do_and_no_more() -> Result<(), AnyError> {
    let deployment = Deployment::start().await?;
    // Minted before there is an account: its room is left to the sweep.
    let early = Event::new(52, LocalWallet::from_key(&ANVIL_KEYS[CREATOR])?.address());
    deployment.send("MintQueue", logs(&Chain::default().mint(&early))).await?;
    deployment.init().await?;
    let mut people = Vec::new();
    for key in &ANVIL_KEYS[..LATE] {
        people.push(Person::register(key, &deployment.xmtp_url).await?);
    }
    for (queue, id) in FACT_QUEUES.into_iter().zip(0..) {
        season(&deployment, queue, id, &people).await?;
    }
    late_news(&deployment, &mut people).await?;
    only_what_waits_expires(&deployment).await?;
    // A chain that is asked, and does not answer: these messages stay.
    for queue in FACT_QUEUES {
        let purchase = Chain::default().purchase(&early, 1, people[ALICE].address());
        deployment.leave(queue, &json!({ "chainId": ASKED_CHAIN, "logs": purchase.logs }).to_string()).await?;
    }

    let template = template(&[("RpcSecretArns", RPC_SECRET)]);
    let granted_to_functions = granted_to_functions(&template);
    let unused = || granted_to_functions.difference(&deployment.recorder.done()).cloned().collect::<Vec<_>>();
    let used = deployment.until("all is used", async || Ok(unused().is_empty())).await;
    assert!(used.is_ok(), "granted and not used: {:#?}", unused());
    let (by_operator, by_functions): (BTreeSet<_>, _) =
        deployment.recorder.done().into_iter().partition(|it| it.who == OPERATOR);
    assert_eq!(by_functions, granted_to_functions, "used and not granted");
    let granted_to_operator = granted(&template, OPERATOR, OPERATOR);
    assert!(by_operator.is_subset(&granted_to_operator), "{by_operator:#?}");
    Ok(())
}

/// A sample of `events/logs/`.
fn sample(name: &str) -> String {
    file(&format!("events/logs/{name}")).to_string_lossy().into_owned()
}

#[tokio::test]
async fn the_operator_may_do_what_the_commands_do_and_no_more() -> Result<(), AnyError> {
    let deployment = Deployment::start().await?;
    let config = configuration()?;
    let config = config.path().to_string_lossy().into_owned();
    deployment.operate(&["init", "--config", &config]).await?;
    for name in ["01-mint.json", "02-purchase-alice.json", "07-refund-alice.json", "12-malformed.json"] {
        deployment.operate(&["send", &sample(name)]).await?;
    }
    let event = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse()?;
    deployment
        .until("there is a room, and something parked", async || {
            let rooms = deployment.store.event(&event).await?.map(|event| event.rooms).unwrap_or_default();
            Ok(!rooms.is_empty() && deployment.store.parked_count(1).await? > 0)
        })
        .await?;
    for queue in template(&[]).all("AWS::SQS::Queue").map(|(name, _)| name.to_owned()) {
        if queue.ends_with("DeadLetters") {
            deployment.leave(&queue, "{}").await?;
        }
    }
    for command in [
        &["redrive"][..],
        &["config", "get"],
        &["config", "put", config.as_str()],
        &["parked", "list"],
        &["parked", "drop", "--all"],
        &["rooms"],
        &["recover", "--begin"],
        &["recover"],
        &["upgrade", "finish"],
    ] {
        deployment.operate(command).await?;
    }
    // These queues were not made by CloudFormation, and the doctor says so.
    let looked = deployment.usher(&["doctor", "--json"]).await?;
    assert!(String::from_utf8_lossy(&looked.stdout).contains("wallet key"), "{looked:?}");

    let done: BTreeSet<_> = deployment.recorder.done().into_iter().filter(|it| it.who == OPERATOR).collect();
    let granted = granted(&template(&[("RpcSecretArns", RPC_SECRET)]), OPERATOR, OPERATOR);
    let unused: Vec<_> = granted.difference(&done).collect();
    let refused: Vec<_> = done.difference(&granted).collect();
    assert!(unused.is_empty() && refused.is_empty(), "granted and not used: {unused:#?}; not granted: {refused:#?}");
    Ok(())
}

/// The ledger, the outbox, leases and chunks are there until usher deletes them.
async fn only_what_waits_expires(deployment: &Deployment) -> Result<(), AnyError> {
    let stranger = Event::new(90, [9; 20].into());
    deployment.send("PurchaseQueue", logs(&Chain::default().purchase(&stranger, 1, [8; 20].into()))).await?;
    let items = deployment.dynamodb.scan().table_name(TABLE).consistent_read(true).into_paginator().items().send();
    let items = items.collect::<Result<Vec<_>, _>>().await?;
    let kind = |item: &std::collections::HashMap<String, AttributeValue>| {
        let pk = item.get(PK).and_then(|pk| pk.as_s().ok()).expect("every item has a key");
        pk.split('#').next().unwrap_or_default().to_owned()
    };
    let expiring: BTreeSet<_> = items.iter().filter(|item| item.contains_key(EXPIRES_AT_S)).map(kind).collect();
    assert_eq!(expiring, BTreeSet::from(["waiting".to_owned()]));
    let lasting: BTreeSet<_> = items.iter().filter(|item| !item.contains_key(EXPIRES_AT_S)).map(kind).collect();
    assert!(lasting.len() >= 4 && !lasting.contains("waiting"), "{lasting:?}");
    Ok(())
}
