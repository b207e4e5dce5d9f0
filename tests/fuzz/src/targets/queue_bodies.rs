//! Bodies of queue messages, as whoever may send to the queue sends them.

use std::sync::Arc;

use alloy_primitives::{Address, address};
use async_trait::async_trait;
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use usher_chain::Chains;
use usher_domain::{ChainId, EventKey, KioskKey};
use usher_doorkeeper::{NudgeError, Nudges, Policy};
use usher_lambda::{Adapters, DataKeySource, Invocation, Usher, handle_queue, sweep};
use usher_store::memory::MemoryTable;

use crate::{
    Target,
    cast::{self, Machine, NOW_NS, Still},
    network::MemoryNetwork,
};

/// One message of a batch is hostile; the others are stored.
pub const TARGET: Target = Target { name: "queue_bodies", run, seeds, smoke: 3_000 };

/// The samples of `events/`: one envelope each.
pub(crate) const SAMPLES: [&str; 12] = [
    include_str!("../../../../events/logs/01-mint.json"),
    include_str!("../../../../events/logs/02-purchase-alice.json"),
    include_str!("../../../../events/logs/03-purchase-bob.json"),
    include_str!("../../../../events/logs/04-purchase-carol.json"),
    include_str!("../../../../events/logs/05-purchase-dave.json"),
    include_str!("../../../../events/logs/06-resale-bob-to-erin.json"),
    include_str!("../../../../events/logs/07-refund-alice.json"),
    include_str!("../../../../events/logs/08-burn-carol.json"),
    include_str!("../../../../events/logs/09-retraction-dave.json"),
    include_str!("../../../../events/logs/10-duplicate.json"),
    include_str!("../../../../events/logs/11-unknown-kiosk.json"),
    include_str!("../../../../events/logs/12-malformed.json"),
];

/// The samples' factory and kiosk, and those of an event that nothing hostile names.
const CONTRACTS: [(&str, &str); 2] = [
    ("5fbdb2315678afecb367f032d93f642f64180aa3", "f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0"),
    ("a16e02e87b7454126e5e10d957a927a7f5b5d2be", "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"),
];
const KIOSK: Address = address!("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b");
/// The samples' alice.
const ALICE: Address = address!("70997970C51812dc3A010C7d01b50e0d17dc79C8");
const CHAIN: ChainId = ChainId(31337);
/// How long an invocation may take, in milliseconds.
const INVOCATION_MS: u64 = 30_000;

struct Unheard;

#[async_trait]
impl Nudges for Unheard {
    async fn nudge(&self, _event: &EventKey, _delay_s: u32) -> Result<(), NudgeError> {
        Ok(())
    }
}

fn run(data: &[u8]) {
    deliver(&String::from_utf8_lossy(data));
}

/// Delivers a body between the mint and the purchase of somebody else's event, and to the nudge queue.
pub(crate) fn deliver(hostile: &str) {
    let usher = usher();
    let invocation = Invocation { id: "fuzz".into(), deadline_ms: NOW_NS / 1_000_000 + INVOCATION_MS };
    let [mint, purchase] = [SAMPLES[0], SAMPLES[1]].map(elsewhere);
    cast::run(async {
        let batch = batch(&[&mint, hostile, &purchase]);
        let response = handle_queue(&usher, batch.clone(), &invocation).await.expect("every message has an id");
        assert_eq!(response.batch_item_failures, [], "what cannot be used is parked or ignored");
        let kiosk = KioskKey { chain: CHAIN, address: KIOSK };
        let tickets = usher.store().tickets(&kiosk).await.expect("the table is in memory");
        let holders: Vec<_> = tickets.iter().map(|ticket| ticket.holding.holder).collect();
        assert_eq!(holders, [Some(ALICE)], "the purchase beside it counts");
        let event: EventKey = format!("31337:0x{}:0", CONTRACTS[0].1).parse().expect("it is an event's key");
        let due = usher.store().due(u64::MAX, usize::MAX).await.expect("the table is in memory");
        assert!(due.iter().any(|due| due.event == event), "the event beside it is due");

        sweep::handle_nudges(&usher, batch, &invocation).await;
        if let Ok(trigger) = serde_json::from_str(hostile) {
            let swept = sweep::handle(&usher, trigger, &invocation).await;
            assert_eq!(swept.expect("the clock's work is done").batch_item_failures, []);
        }
    });
}

fn usher() -> Usher {
    let adapters = Adapters {
        table: Arc::new(MemoryTable::new()),
        network: Arc::new(MemoryNetwork::default()),
        nudges: Arc::new(Unheard),
        data_key: DataKeySource::File("/nowhere/data.key".into()),
        clock: Arc::new(Still),
        randomness: Arc::new(Machine),
    };
    let factories = CONTRACTS[0];
    let chains = format!(r#"{{"31337":{{"trust":"queue","factories":["0x{}","0x{}"]}}}}"#, factories.0, factories.1);
    let chains: Chains = serde_json::from_str(&chains).expect("it is a configuration");
    Usher::new(adapters, chains, Policy::default())
}

/// The sample as if it had happened to the other contracts.
fn elsewhere(sample: &str) -> String {
    CONTRACTS.iter().fold(sample.to_owned(), |text, (here, there)| text.replace(here, there))
}

fn batch(bodies: &[&str]) -> SqsEvent {
    let message = |(number, body): (usize, &&str)| {
        let mut message = SqsMessage::default();
        message.message_id = Some(number.to_string());
        message.body = Some((*body).to_owned());
        message
    };
    let mut batch = SqsEvent::default();
    batch.records = bodies.iter().enumerate().map(message).collect();
    batch
}

fn seeds() -> Vec<Vec<u8>> {
    let nudge = r#"{"event": "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0"}"#;
    let deep = format!(r#"{{"chainId":31337,"log":{}}}"#, "[".repeat(10_000));
    let schedule = include_str!("../../../../events/sweep.schedule.json").to_owned();
    let others = [nudge.to_owned(), deep, schedule];
    SAMPLES.iter().map(|sample| (*sample).to_owned()).chain(others).map(String::into_bytes).collect()
}
