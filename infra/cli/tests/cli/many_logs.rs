//! One file with very many logs, good and bad, through SQS into the ledger.

use std::{fs, time::Duration};

use alloy_primitives::{Address, B256, U256, keccak256};
use serde_json::{Value, json};
use usher_domain::KioskKey;
use usher_store::{Table as _, table::Query};

use crate::support::{Dev, result, sample, until};

const PATIENCE: Duration = Duration::from_secs(540);
const LOGS: usize = 10_000;
/// Events whose mints are in the file, and kiosks that nobody announces.
const EVENTS: u8 = 20;
const STRANGERS: u8 = 20;
/// How many tickets each kiosk issues.
const TICKETS: u32 = 100;
const TRANSFER: &str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";

/// The kiosk of an event, or one that nobody announces.
fn kiosk(number: u8, announced: bool) -> Address {
    Address::left_padding_from(&[if announced { 0xaa } else { 0xbb }, number, 1, 1])
}

/// A log of the block in which all this happens.
fn log(address: Address, topics: Value, number: usize) -> Value {
    json!({
        "address": address, "topics": topics, "data": "0x", "blockNumber": "0x20",
        "blockHash": keccak256("the block"), "transactionHash": keccak256(format!("transaction {number}")),
        "transactionIndex": "0x0", "logIndex": format!("{number:#x}"), "removed": false,
    })
}

fn issue(kiosk: Address, ticket: u32, number: usize) -> Value {
    let buyer = Address::with_last_byte(u8::try_from(1 + ticket % 5).unwrap());
    let topics = json!([TRANSFER, B256::ZERO, buyer.into_word(), B256::from(U256::from(ticket))]);
    log(kiosk, topics, number)
}

/// The mint of the samples, for another event with another kiosk.
fn mint(event: u8, number: usize) -> Value {
    let envelope: Value = serde_json::from_str(&fs::read_to_string(sample("logs/01-mint.json")).unwrap()).unwrap();
    let logs = envelope["logs"].as_array().unwrap();
    let sample_kiosk = "a16e02e87b7454126e5e10d957a927a7f5b5d2be";
    let is_mint = |log: &&Value| log["data"].as_str().unwrap().contains(sample_kiosk);
    let mut minted = logs.iter().find(is_mint).unwrap().clone();
    let data = minted["data"].as_str().unwrap().replace(sample_kiosk, &format!("{:x}", kiosk(event, true)));
    minted["data"] = data.into();
    minted["topics"][1] = json!(B256::from(U256::from(event)));
    minted["logIndex"] = json!(format!("{number:#x}"));
    minted
}

/// What can never be of use: no log at all, or one topic short.
fn bad(number: usize) -> Value {
    match number % 2 {
        0 => json!(format!("0x{number:08x}")),
        _ => log(kiosk(0, true), json!([TRANSFER, B256::ZERO, B256::ZERO]), number),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_logs_none_is_lost() {
    let mut good: Vec<_> = (0..EVENTS).map(|event| mint(event, usize::from(event))).collect();
    for (kiosks, announced) in [(EVENTS, true), (STRANGERS, false)] {
        for kiosk_number in 0..kiosks {
            for ticket in 0..TICKETS {
                good.push(issue(kiosk(kiosk_number, announced), ticket, good.len()));
            }
        }
    }
    let bad_count = LOGS - good.len();
    let mut logs = Vec::with_capacity(LOGS);
    let mut good = good.into_iter();
    while logs.len() < LOGS {
        // Two good ones after three bad ones, for as long as there are any of either.
        let number = logs.len();
        let all_others_are_good = good.len() == LOGS - number;
        let next = if number % 5 < 3 && !all_others_are_good { None } else { good.next() };
        logs.push(next.unwrap_or_else(|| bad(number)));
    }
    assert_eq!(good.len(), 0, "all good ones are among them");

    let dev = Dev::start_live("0", &[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), json!({ "chainId": 31337, "logs": logs }).to_string()).unwrap();
    let sent = result(dev.run("send").arg("--json").arg(file.path()).output().unwrap());
    assert_eq!((&sent["sent"], &sent["queues"]["mint"]), (&json!(LOGS), &json!(EVENTS)));
    until("the queues are empty", PATIENCE, async || {
        let left = dev.messages("mint").await + dev.messages("purchase").await + dev.messages("refund").await;
        (left == 0).then_some(())
    })
    .await;

    for queue in ["mint-dlq", "purchase-dlq", "refund-dlq"] {
        assert_eq!(dev.messages(queue).await, 0, "{queue}");
    }
    let store = dev.store();
    assert_eq!(store.events().await.unwrap().len(), usize::from(EVENTS));
    let key = |number, announced| KioskKey { chain: usher_domain::ChainId(31337), address: kiosk(number, announced) };
    let tickets = usize::try_from(TICKETS).unwrap();
    for number in 0..EVENTS {
        assert_eq!(store.tickets(&key(number, true)).await.unwrap().len(), tickets, "recorded");
    }
    for number in 0..STRANGERS {
        let waiting = Query::prefix(format!("waiting#{}", key(number, false)), "fact#").keys_only();
        assert_eq!(store.table().query(&waiting).await.unwrap().len(), tickets, "waiting");
    }
    assert_eq!(store.parked_count(LOGS).await.unwrap(), bad_count, "parked");
    dev.stop("-TERM");
}
