//! A chain that is asked: anvil with contracts, `usher dev --rpc`, and whoever may send to the queues.

use serde_json::{Value, json};
use usher_domain::EventKey;
use usher_localnet::person::Person;
use usher_tests::{
    anvil::Anvil,
    dev_stack::DevStack,
    haus::Transaction,
    world::{ANVIL_KEYS, AnyError},
};

// People, by their accounts.
const CREATOR: usize = 0;
const ALICE: usize = 1;
const BOB: usize = 2;
const CAROL: usize = 3;
const MALLORY: usize = 4;

struct Town {
    anvil: Anvil,
    stack: DevStack,
    people: Vec<String>,
}

impl Town {
    async fn start() -> Result<Self, AnyError> {
        let anvil = Anvil::start().await?;
        let stack = DevStack::start_with(&["--rpc", &format!("31337={}", anvil.url)]).await?;
        let mut people = Vec::new();
        for key in &ANVIL_KEYS[..=MALLORY] {
            people.push(Person::register(key, &stack.ready.xmtp_url).await?.inbox()?.to_string());
        }
        Ok(Self { anvil, stack, people })
    }

    /// Awaits that exactly these people sit in the event's room.
    async fn until_seated(&self, event: &EventKey, people: &[usize]) -> Result<(), AnyError> {
        let inboxes: Vec<_> = people.iter().map(|person| (self.people[*person].as_str(), 1)).collect();
        self.stack.until_seated_inboxes(event, &inboxes).await.map(drop)
    }

    /// Awaits that so much is parked.
    async fn until_parked(&self, count: usize) -> Result<(), AnyError> {
        let parked = async || Ok((self.stack.rooms().await?.parked == count).then_some(()));
        self.stack.until(&format!("{count} parked"), parked).await
    }

    async fn doctor(&self) -> Result<Value, AnyError> {
        let output = self.stack.command().args(["doctor", "--json"]).output().await?;
        let looked: Value = serde_json::from_slice(&output.stdout)?;
        let checks = looked["checks"].as_array().cloned().unwrap_or_default();
        checks.into_iter().find(|check| check["check"] == "chain 31337").ok_or_else(|| format!("{looked}").into())
    }
}

fn event(id: u64) -> Result<EventKey, AnyError> {
    Ok(format!("31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:{id}").parse()?)
}

/// The transaction with one topic of its first log replaced.
fn forged(transaction: &Transaction, topic: usize, value: &Value) -> Transaction {
    let mut forged = transaction.clone();
    forged.logs.truncate(1);
    forged.logs[0]["topics"][topic] = value.clone();
    forged
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_follow_what_the_chain_says_and_nobody_else() -> Result<(), AnyError> {
    let town = Town::start().await?;
    let (anvil, stack, event) = (&town.anvil, &town.stack, event(0)?);
    let (mint, kiosk) = anvil.mint(CREATOR, CREATOR).await?;
    let alices = anvil.purchase(ALICE, kiosk).await?;
    stack.send(&[mint, alices.clone()]).await?;
    town.until_seated(&event, &[CREATOR, ALICE]).await?;

    // Whoever may send to the queues cannot let himself in by a purchase that was another's.
    let mallory = json!(anvil.account(MALLORY).into_word());
    stack.send(&[forged(&alices, 2, &mallory)]).await?;
    town.until_parked(1).await?;
    // Nor mint an event in somebody else's name.
    let (spoofed, _) = anvil.mint(MALLORY, BOB).await?;
    stack.send(&[spoofed]).await?;
    town.until_parked(2).await?;

    // A resale changes seats; a burn frees one.
    let resold = anvil.transfer(ALICE, kiosk, BOB, 1).await?;
    stack.send(&[resold]).await?;
    town.until_seated(&event, &[CREATOR, BOB]).await?;
    let burnt = anvil.burn(BOB, kiosk, 1).await?;
    stack.send(&[burnt]).await?;
    town.until_seated(&event, &[CREATOR]).await?;

    let report = stack.rooms().await?;
    assert_eq!((report.events.len(), report.parked), (1, 2), "{report:?}");
    let looked = town.doctor().await?;
    assert_eq!(
        (&looked["status"], &looked["seen"]),
        (&json!("ok"), &json!("its node answers and has the code of all factories"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_is_believed_once_the_chain_has_forgotten() -> Result<(), AnyError> {
    let town = Town::start().await?;
    let (anvil, stack, event) = (&town.anvil, &town.stack, event(0)?);
    let (mint, kiosk) = anvil.mint(CREATOR, CREATOR).await?;
    let before = anvil.snapshot().await?;
    let carols = anvil.purchase(CAROL, kiosk).await?;
    stack.send(&[mint, carols.clone()]).await?;
    town.until_seated(&event, &[CREATOR, CAROL]).await?;
    anvil.revert(before).await?;
    stack.send(&[carols.removed()]).await?;
    town.until_seated(&event, &[CREATOR]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_acts_while_the_node_is_down() -> Result<(), AnyError> {
    let mut town = Town::start().await?;
    let event = event(0)?;
    let (mint, kiosk) = town.anvil.mint(CREATOR, CREATOR).await?;
    let alices = town.anvil.purchase(ALICE, kiosk).await?;
    town.stack.send(&[mint, alices]).await?;
    town.until_seated(&event, &[CREATOR, ALICE]).await?;
    let refunded = town.anvil.refund(ALICE, kiosk, 1).await?;
    let bobs = town.anvil.purchase(BOB, kiosk).await?;
    town.anvil.stop().await?;
    town.stack.send(&[refunded, bobs]).await?;
    town.until_seated(&event, &[CREATOR]).await?;
    // Nothing of it is confirmed: the refund's message and both of the purchase come again.
    let left = (town.stack.messages_in("refund").await?, town.stack.messages_in("purchase").await?);
    assert_eq!(left, (1, 2));
    let looked = town.doctor().await?;
    assert_eq!((&looked["status"], &looked["seen"]), (&json!("fail"), &json!("the chain's node did not answer")));
    Ok(())
}
