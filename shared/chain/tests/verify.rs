//! What a receipt says of a claim.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails as they do")]

use alloy_primitives::{Address, B256, U256, keccak256};
use serde_json::{Value, json};
use usher_chain::{Chains, Doubt, Fact, Reading, Receipt, Rpc, Trust, acts_at_once, park_doubted, read, verify};
use usher_domain::ChainId;

const FACTORY: Address = Address::repeat_byte(0xfa);
const KIOSK: Address = Address::repeat_byte(0x11);
const ALICE: Address = Address::repeat_byte(0xa1);
const BOB: Address = Address::repeat_byte(0xb0);
const WRAPPER: Address = Address::repeat_byte(0xcc);
const BLOCK: B256 = B256::repeat_byte(0xbb);
const TRANSACTION: B256 = B256::repeat_byte(0x77);
const NUMBER: u64 = 18;

fn chains(confirmations: u64) -> Chains {
    serde_json::from_value(json!({"1": {
        "rpc_secret": "arn:aws:secretsmanager:us-east-1:123456789012:secret:rpc-AbCdEf",
        "confirmations": confirmations, "wrappers": [WRAPPER], "factories": [FACTORY],
    }}))
    .unwrap()
}

fn log(emitter: Address, signature: &str, indexed: &[B256], data: &[u8], log_index: u64) -> Value {
    let topics = [&[keccak256(signature)], indexed].concat();
    json!({
        "address": emitter, "topics": topics,
        "data": format!("0x{}", alloy_primitives::hex::encode(data)),
        "blockNumber": format!("{NUMBER:#x}"), "blockHash": BLOCK,
        "transactionHash": TRANSACTION, "transactionIndex": "0x0", "logIndex": format!("{log_index:#x}"), "removed": false,
    })
}

fn transfer(from: Address, to: Address) -> Value {
    let indexed = [from.into_word(), to.into_word(), U256::ONE.into()];
    log(KIOSK, "Transfer(address,address,uint256)", &indexed, &[], 3)
}

fn refund() -> Value {
    let indexed = [U256::ONE.into(), ALICE.into_word()];
    log(KIOSK, "TicketRefunded(uint256,address,uint256)", &indexed, &[0; 32], 3)
}

fn minted() -> Value {
    let word = |number: u64| B256::from(U256::from(number));
    let empty = word(0);
    let data = [word(1_900_000_000), word(0), word(160), word(192), KIOSK.into_word(), empty, empty];
    let indexed = [U256::ZERO.into(), ALICE.into_word()];
    let signature = "EventCreated(uint256,address,uint256,uint256,string,string,address)";
    log(FACTORY, signature, &indexed, &data.concat(), 3)
}

fn with(mut log: Value, name: &str, value: Value) -> Value {
    log[name] = value;
    log
}

fn receipt(block: Option<B256>, sender: Address, to: Option<Address>, logs: &[Value]) -> Receipt {
    let receipt = json!({
        "blockHash": block, "blockNumber": format!("{NUMBER:#x}"), "transactionHash": TRANSACTION, "status": "0x1",
        "from": sender, "to": to, "logs": logs, "gasUsed": "0x1",
    });
    serde_json::from_str(&receipt.to_string()).unwrap()
}

fn body(log: &Value) -> String {
    json!({"chainId": 1, "log": log}).to_string()
}

fn fact(log: &Value) -> Fact {
    let Reading::Fact(fact) = read(&body(log), &chains(1)).remove(0) else { panic!("no fact: {log}") };
    fact
}

fn verified(log: &Value, receipt: Option<&Receipt>, newest: u64, confirmations: u64) -> Result<(), Doubt> {
    let chains = chains(confirmations);
    let Trust::Rpc(rpc) = &chains.get(ChainId(1)).unwrap().trust else { panic!("asked") };
    let rpc: &Rpc = rpc;
    verify(&fact(log), receipt, newest, rpc, &chains)
}

#[test]
fn what_the_receipt_says_is_true() {
    for log in
        [transfer(Address::ZERO, ALICE), transfer(ALICE, BOB), transfer(ALICE, Address::ZERO), refund(), minted()]
    {
        let other = with(transfer(BOB, ALICE), "logIndex", json!("0x2"));
        let receipt = receipt(Some(BLOCK), ALICE, Some(KIOSK), &[other, log.clone()]);
        assert_eq!(verified(&log, Some(&receipt), NUMBER, 1), Ok(()), "{log}");
        // One of the two nodes says when the block was made.
        let log = with(log, "blockTimestamp", json!("0x6745a000"));
        assert_eq!(verified(&log, Some(&receipt), NUMBER, 1), Ok(()), "{log}");
    }
}

#[test]
fn what_it_does_not_say_is_doubted() {
    let log = transfer(Address::ZERO, ALICE);
    let found = |logs: &[Value]| receipt(Some(BLOCK), BOB, Some(KIOSK), logs);
    assert_eq!(verified(&log, None, NUMBER, 1), Err(Doubt::NoTransaction(TRANSACTION)));
    let pending = receipt(None, BOB, Some(KIOSK), &[]);
    assert_eq!(verified(&log, Some(&pending), NUMBER, 1), Err(Doubt::NoTransaction(TRANSACTION)));
    let elsewhere = receipt(Some(B256::ZERO), BOB, Some(KIOSK), std::slice::from_ref(&log));
    let other = Doubt::OtherBlock { transaction: TRANSACTION, claimed: BLOCK, found: B256::ZERO };
    assert_eq!(verified(&log, Some(&elsewhere), NUMBER, 1), Err(other));
    // Each thing that the claim says is compared.
    for spoilt in [
        transfer(Address::ZERO, BOB),
        transfer(BOB, ALICE),
        with(log.clone(), "address", json!(FACTORY)),
        with(log.clone(), "address", json!(BOB)),
        with(log.clone(), "logIndex", json!("0x4")),
        with(log.clone(), "blockNumber", json!("0x13")),
        with(log.clone(), "transactionHash", json!(BLOCK)),
        refund(),
        json!({"not": "a log"}),
    ] {
        let doubt = verified(&log, Some(&found(std::slice::from_ref(&spoilt))), NUMBER, 1).unwrap_err();
        assert_eq!(doubt, Doubt::NoSuchLog(TRANSACTION), "{spoilt}");
        assert!(doubt.is_final());
    }
    assert_eq!(verified(&log, Some(&found(&[])), NUMBER, 1), Err(Doubt::NoSuchLog(TRANSACTION)));
    // A node that lags may say anything about a block that it does not have.
    let ahead = Doubt::Ahead { claimed: NUMBER, newest: NUMBER - 1 };
    assert_eq!(verified(&log, None, NUMBER - 1, 1), Err(ahead.clone()));
    assert!(!ahead.is_final() && !Doubt::NoTransaction(TRANSACTION).is_final());
}

#[test]
fn a_gain_waits_for_its_confirmations_and_a_loss_for_none() {
    let young = |deep| Err(Doubt::Young { deep, confirmations: 3 });
    for (log, waits) in [
        (transfer(Address::ZERO, ALICE), true),
        (transfer(ALICE, BOB), true),
        (minted(), true),
        (transfer(ALICE, Address::ZERO), false),
        (refund(), false),
    ] {
        let receipt = receipt(Some(BLOCK), ALICE, None, std::slice::from_ref(&log));
        let verified = |newest| verified(&log, Some(&receipt), newest, 3);
        assert_eq!(verified(NUMBER), if waits { young(0) } else { Ok(()) });
        assert_eq!(verified(NUMBER + 1), if waits { young(1) } else { Ok(()) });
        assert_eq!(verified(NUMBER + 2), Ok(()));
        assert_eq!(acts_at_once(&fact(&log)), !waits);
    }
}

#[test]
fn a_retraction_is_true_once_the_chain_does_not_say_it_any_more() {
    let log = transfer(ALICE, Address::ZERO);
    let removed = with(log.clone(), "removed", json!(true));
    let receipt = |block| receipt(Some(block), ALICE, Some(KIOSK), std::slice::from_ref(&log));
    assert!(!acts_at_once(&fact(&removed)), "it cannot be taken back");
    assert_eq!(verified(&removed, Some(&receipt(BLOCK)), NUMBER, 1), Err(Doubt::StillThere(BLOCK)));
    assert_eq!(verified(&removed, Some(&receipt(B256::ZERO)), NUMBER, 1), Ok(()));
    assert_eq!(verified(&removed, None, NUMBER, 1), Ok(()));
    let ahead = Doubt::Ahead { claimed: NUMBER, newest: NUMBER - 1 };
    assert_eq!(verified(&removed, None, NUMBER - 1, 1), Err(ahead));
}

#[test]
fn nobody_mints_an_event_in_somebody_elses_name() {
    let log = minted();
    let by =
        |sender, to| verified(&log, Some(&receipt(Some(BLOCK), sender, to, std::slice::from_ref(&log))), NUMBER, 1);
    assert_eq!(by(ALICE, Some(FACTORY)), Ok(()));
    assert_eq!(by(ALICE, Some(BOB)), Ok(()), "by whatever contract");
    assert_eq!(by(BOB, Some(WRAPPER)), Ok(()), "a configured contract answers for whom it names");
    let doubt = by(BOB, Some(FACTORY)).unwrap_err();
    assert_eq!(doubt, Doubt::OtherCreator { creator: ALICE, sender: BOB, to: FACTORY });
    assert!(doubt.is_final());
}

#[test]
fn the_doubted_logs_of_a_body_are_parked_as_they_were_sent() {
    let logs = [transfer(Address::ZERO, ALICE), with(transfer(ALICE, BOB), "logIndex", json!("0x4"))];
    let body = json!({"chainId": 1, "logs": [logs[0], logs[1], {"topics": 7}]}).to_string();
    let doubted = fact(&logs[1]);
    let parked =
        park_doubted(&body, &chains(1), |fact| (*fact == doubted).then_some(Doubt::NoSuchLog(fact.transaction)));
    assert_eq!(parked.len(), 1);
    assert_eq!(parked[0].name.to_string(), format!("1:{TRANSACTION}:4:{BLOCK}"));
    assert!(parked[0].reason.to_string().contains("has no such log"), "{}", parked[0].reason);
    let Reading::Fact(again) = read(&parked[0].body, &chains(1)).remove(0) else { panic!("can be retried") };
    assert_eq!(again, doubted);
    assert!(park_doubted("{", &chains(1), |_| None).is_empty());
}
