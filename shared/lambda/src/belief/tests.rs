//! Batches of a chain that is asked, against a table in memory.

use std::sync::{Arc, Mutex};

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use aws_lambda_events::event::sqs::SqsEvent;
use serde_json::{Value, json};
use usher_chain::Receipt;
use usher_domain::KioskKey;

use super::*;
use crate::{
    handle_queue,
    testing::{Rig, Trouble, event, invocation, sample},
};

const NEWEST: u64 = 0x100;

/// A chain and a node that tells of it.
#[derive(Default)]
struct Node(Mutex<State>);

#[derive(Default)]
struct State {
    logs: Vec<Value>,
    newest: u64,
    silent: bool,
    /// The transaction about which no answer comes.
    never_tells: Option<B256>,
    /// The transaction over which asking panics.
    panics_over: Option<B256>,
    /// Whether asking for the newest block panics.
    panics: bool,
    /// How often it says nothing of transactions before it has caught up.
    lags: usize,
    /// How often it was asked for the newest block, and for a receipt.
    asked: usize,
    receipts: usize,
}

#[async_trait]
impl Nodes for Node {
    async fn newest_block(&self, _: &str) -> Result<u64, NodeError> {
        let mut state = self.0.lock().unwrap();
        state.asked += 1;
        let panics = state.panics;
        drop(state);
        assert!(!panics, "over the newest block");
        let state = self.0.lock().unwrap();
        if state.silent { Err(NodeError::Unanswered) } else { Ok(state.newest) }
    }

    async fn receipt(&self, _: &str, transaction: B256) -> Result<Option<Receipt>, NodeError> {
        if self.0.lock().unwrap().never_tells == Some(transaction) {
            std::future::pending::<()>().await;
        }
        let panics = self.0.lock().unwrap().panics_over == Some(transaction);
        assert!(!panics, "over {transaction}");
        let mut state = self.0.lock().unwrap();
        state.receipts += 1;
        if state.lags > 0 {
            state.lags -= 1;
            return Ok(None);
        }
        let logs: Vec<&Value> = state.logs.iter().filter(|log| log["transactionHash"] == json!(transaction)).collect();
        let Some(log) = logs.first() else { return Ok(None) };
        let sender = &logs.last().expect("there is a first")["topics"][2];
        let sender: B256 = serde_json::from_value(sender.clone()).unwrap_or_default();
        let receipt = json!({
            "blockHash": log["blockHash"], "from": Address::from_word(sender), "to": Address::ZERO, "logs": logs,
        });
        Ok(Some(serde_json::from_str(&receipt.to_string()).unwrap()))
    }
}

struct Asking {
    rig: Rig,
    node: Arc<Node>,
}

fn logs(name: &str) -> Vec<Value> {
    let body: Value = sample(&format!("logs/{name}.json"));
    let one = body.get("log").map(std::slice::from_ref);
    one.or_else(|| body["logs"].as_array().map(Vec::as_slice)).unwrap_or_else(|| panic!("{body}")).to_vec()
}

/// The log that moves a ticket.
fn transfer(name: &str) -> Value {
    logs(name).into_iter().find(|log| log["topics"][0].as_str().is_some_and(|it| it.starts_with("0xddf252ad"))).unwrap()
}

impl Asking {
    /// A chain with what these samples say.
    fn new(names: &[&str]) -> Self {
        let state =
            State { logs: names.iter().flat_map(|name| logs(name)).collect(), newest: NEWEST, ..State::default() };
        let node = Arc::new(Node(Mutex::new(state)));
        Self { rig: Rig::asking(node.clone()), node }
    }

    fn node(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.node.0.lock().unwrap());
    }

    /// The ids of the messages that come again; a message for each log.
    async fn deliver(&self, logs: &[Value], deliveries: u32) -> Vec<String> {
        let bodies: Vec<_> = logs.iter().map(|log| json!({"chainId": 31337, "log": log}).to_string()).collect();
        let mut batch: SqsEvent = crate::testing::batch(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
        for record in &mut batch.records {
            record.attributes.insert("ApproximateReceiveCount".into(), deliveries.to_string());
        }
        let response = handle_queue(&self.rig.usher, batch, &invocation(29_000)).await.unwrap();
        response.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect()
    }

    /// Who holds a ticket.
    async fn holders(&self) -> Vec<Address> {
        let store = self.rig.usher.store();
        let Some(minted) = store.event(&event()).await.unwrap().and_then(|event| event.minted) else {
            return Vec::new();
        };
        let kiosk = KioskKey { chain: event().chain, address: minted.incarnation.kiosk };
        let tickets = store.tickets(&kiosk).await.unwrap();
        tickets.into_iter().filter_map(|ticket| ticket.holding.holder).collect()
    }

    async fn parked(&self) -> Vec<String> {
        self.rig.usher.store().parked(10).await.unwrap().into_iter().map(|parked| parked.reason).collect()
    }
}

const NONE: [&str; 0] = [];
const CAROL: &str = "04-purchase-carol";

fn holder(log: &Value) -> Address {
    Address::from_word(serde_json::from_value(log["topics"][2].clone()).unwrap())
}

fn transaction(log: &Value) -> B256 {
    serde_json::from_value(log["transactionHash"].clone()).unwrap()
}

#[tokio::test]
async fn what_the_chain_says_is_stored_and_nothing_else() {
    let asking = Asking::new(&["01-mint", CAROL]);
    assert_eq!(asking.deliver(&logs("01-mint"), 1).await, NONE);
    let carols = transfer(CAROL);
    let mut forged = transfer(CAROL);
    forged["topics"][2] = json!(Address::repeat_byte(0x66).into_word());
    forged["logIndex"] = json!("0x7");
    // A forgery beside the truth, which names the same transaction.
    assert_eq!(asking.deliver(&[forged, carols.clone()], 1).await, NONE, "what cannot become true is not asked again");
    assert_eq!(asking.holders().await, [holder(&carols)]);
    let parked = asking.parked().await;
    assert!(parked.len() == 1 && parked[0].contains("has no such log"), "{parked:?}");
}

#[tokio::test]
async fn a_gain_comes_again_until_the_chain_has_it_and_is_parked_at_last() {
    let asking = Asking::new(&["01-mint"]);
    assert_eq!(asking.deliver(&logs("01-mint"), 1).await, NONE);
    let carols = [transfer(CAROL)];
    for deliveries in 1..4 {
        assert_eq!(asking.deliver(&carols, deliveries).await, ["m0"]);
        assert_eq!((asking.holders().await, asking.parked().await.len()), (Vec::new(), 0));
    }
    assert_eq!(asking.deliver(&carols, 4).await, NONE);
    let parked = asking.parked().await;
    assert!(parked.len() == 1 && parked[0].contains("the chain has no transaction"), "{parked:?}");
    assert_eq!(asking.holders().await, [Address::ZERO; 0]);
    // A retry, when the chain has it.
    asking.node(|state| state.logs.extend(logs(CAROL)));
    assert_eq!(asking.deliver(&carols, 1).await, NONE);
    assert_eq!(asking.holders().await, [holder(&carols[0])]);
}

/// One message with more than the node tells of: what it has told of is not asked about when the message comes again.
#[tokio::test]
async fn what_was_confirmed_is_not_asked_again() {
    let asking = Asking::new(&["01-mint", CAROL]);
    asking.deliver(&logs("01-mint"), 1).await;
    let body = json!({"chainId": 31337, "logs": [transfer(CAROL), transfer("02-purchase-alice")]}).to_string();
    let deliver = async |deliveries: u32| {
        let mut batch = crate::testing::batch(&[&body]);
        batch.records[0].attributes.insert("ApproximateReceiveCount".into(), deliveries.to_string());
        let response = handle_queue(&asking.rig.usher, batch, &invocation(29_000)).await.unwrap();
        response.batch_item_failures.len()
    };
    assert_eq!((deliver(1).await, asking.holders().await), (1, vec![holder(&transfer(CAROL))]));
    asking.node(|state| {
        state.logs.extend(logs("02-purchase-alice"));
        state.receipts = 0;
    });
    assert_eq!((deliver(2).await, asking.holders().await.len()), (0, 2));
    asking.node(|state| assert_eq!(state.receipts, 1, "Alice's alone"));
    // A burn has acted before it is confirmed: that it is known says nothing.
    let burn = transfer("08-burn-carol");
    for deliveries in [1, 2] {
        assert_eq!(asking.deliver(std::slice::from_ref(&burn), deliveries).await, ["m0"]);
        assert_eq!(asking.holders().await.len(), 1, "it has acted");
    }
    asking.node(|state| state.logs.push(burn.clone()));
    assert_eq!(asking.deliver(&[burn], 3).await, NONE);
}

#[tokio::test]
async fn a_panic_while_what_is_doubted_is_parked_is_its_messages_failure() {
    let asking = Asking::new(&["01-mint", CAROL]);
    asking.deliver(&logs("01-mint"), 1).await;
    asking.rig.table.order("parked", Trouble::Panics);
    let mut forged = transfer(CAROL);
    forged["topics"][2] = json!(Address::repeat_byte(0x66).into_word());
    assert_eq!(asking.deliver(&[forged, transfer(CAROL)], 1).await, ["m0"]);
    assert_eq!(asking.holders().await, [holder(&transfer(CAROL))]);
}

#[tokio::test]
async fn a_panic_over_what_a_node_says_is_its_messages_failure() {
    let asking = Asking::new(&["01-mint", CAROL, "03-purchase-bob"]);
    let (carols, bobs) = (transfer(CAROL), transfer("03-purchase-bob"));
    asking.deliver(&logs("01-mint"), 1).await;
    asking.node(|state| state.panics_over = Some(transaction(&bobs)));
    assert_eq!(asking.deliver(&[bobs, carols.clone()], 4).await, ["m0"]);
    assert_eq!((asking.holders().await, asking.parked().await.len()), (vec![holder(&carols)], 0));
    // What does not wait for the node is stored, and the batch has its answer.
    asking.node(|state| state.panics = true);
    let burn = transfer("08-burn-carol");
    assert_eq!(asking.deliver(&[burn], 1).await, ["m0"]);
    assert_eq!(asking.holders().await, [Address::ZERO; 0], "the burn has acted");
}

#[tokio::test]
async fn a_node_that_lags_is_asked_again_at_once() {
    let asking = Asking::new(&["01-mint", CAROL]);
    asking.node(|state| state.lags = 2);
    assert_eq!(asking.deliver(&logs("01-mint"), 1).await, NONE);
    asking.node(|state| assert_eq!((state.lags, state.asked), (0, 3)));
}

#[tokio::test]
async fn a_node_that_is_silent_parks_nothing() {
    let asking = Asking::new(&["01-mint", CAROL]);
    assert_eq!(asking.deliver(&logs("01-mint"), 1).await, NONE);
    asking.node(|state| state.silent = true);
    assert_eq!(asking.deliver(&[transfer(CAROL)], 4).await, ["m0"]);
    assert_eq!((asking.holders().await, asking.parked().await.len()), (Vec::new(), 0));
}

#[tokio::test]
async fn an_answer_that_never_comes_holds_up_no_other() {
    let asking = Asking::new(&["01-mint", CAROL, "03-purchase-bob"]);
    let (carols, bobs) = (transfer(CAROL), transfer("03-purchase-bob"));
    asking.deliver(&logs("01-mint"), 1).await;
    asking.node(|state| state.never_tells = Some(transaction(&bobs)));
    let begun = tokio::time::Instant::now();
    assert_eq!(asking.deliver(&[bobs, carols.clone()], 1).await, ["m0"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "there is time left to converge");
    assert_eq!(asking.holders().await, [holder(&carols)]);
}

#[tokio::test]
async fn a_burn_acts_before_the_chain_has_answered_and_is_taken_back_if_it_never_was() {
    let asking = Asking::new(&["01-mint", CAROL]);
    let carol = holder(&transfer(CAROL));
    assert_eq!(asking.deliver(&[logs("01-mint"), vec![transfer(CAROL)]].concat(), 1).await, NONE);
    assert_eq!(asking.holders().await, [carol]);

    asking.node(|state| state.silent = true);
    let burn = [transfer("08-burn-carol")];
    assert_eq!(asking.deliver(&burn, 1).await, ["m0"], "it is not confirmed");
    assert_eq!(asking.holders().await, [Address::ZERO; 0], "and acts");
    asking.node(|state| state.silent = false);
    assert_eq!(asking.deliver(&burn, 2).await, ["m0"], "the chain may not have it yet");
    assert_eq!(asking.holders().await, [Address::ZERO; 0]);
    assert_eq!(asking.deliver(&burn, 4).await, NONE);
    assert_eq!(asking.holders().await, [carol], "taken back");
    assert_eq!(asking.parked().await.len(), 1, "and told");
}

#[tokio::test]
async fn a_burn_that_the_chain_has_is_done() {
    let asking = Asking::new(&["01-mint", CAROL, "08-burn-carol"]);
    asking.deliver(&[logs("01-mint"), vec![transfer(CAROL)]].concat(), 1).await;
    assert_eq!(asking.deliver(&[transfer("08-burn-carol")], 1).await, NONE);
    assert_eq!((asking.holders().await, asking.parked().await.len()), (Vec::new(), 0));
}

#[tokio::test]
async fn a_resale_lets_nobody_in_before_the_chain_has_it() {
    let asking = Asking::new(&["01-mint", "03-purchase-bob"]);
    let resale = transfer("06-resale-bob-to-erin");
    let bob = holder(&transfer("03-purchase-bob"));
    asking.deliver(&[logs("01-mint"), vec![transfer("03-purchase-bob")]].concat(), 1).await;
    assert_eq!(asking.deliver(std::slice::from_ref(&resale), 1).await, ["m0"]);
    assert_eq!(asking.holders().await, [bob]);
    asking.node(|state| state.logs.push(resale.clone()));
    assert_eq!(asking.deliver(&[resale], 2).await, NONE);
    assert!(!asking.holders().await.contains(&bob));
}
