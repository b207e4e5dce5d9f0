//! A deployment in this process.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, U256, keccak256};
use aws_lambda_events::event::sqs::SqsEvent;
use serde_json::{Value, json};
use tempfile::TempDir;
use usher_chain::Chains;
use usher_domain::{EventKey, ports::Clock as _};
use usher_lambda::{Adapters, DataKeySource, Invocation, Machine, SqsNudges, Usher, handle_queue, local_wallet};
use usher_localnet::{
    aws::{dynamodb_client, sqs_client},
    dynamodb::DynamoDb,
    sqs::Sqs,
    xmtp_node::{Node, NodeOptions, RunningNode},
};
use usher_store::{
    dynamo::DynamoTable,
    table::{Table as _, Write},
};
use usher_xmtp::V3;

use crate::{
    Failure,
    send::{self, Message},
    stack::{Queue, TABLE},
};

/// The story, in the binary: the demo runs from anywhere.
const FILES: [(&str, &str); 12] = [
    ("01-mint.json", include_str!("../../../../events/logs/01-mint.json")),
    ("02-purchase-alice.json", include_str!("../../../../events/logs/02-purchase-alice.json")),
    ("03-purchase-bob.json", include_str!("../../../../events/logs/03-purchase-bob.json")),
    ("04-purchase-carol.json", include_str!("../../../../events/logs/04-purchase-carol.json")),
    ("05-purchase-dave.json", include_str!("../../../../events/logs/05-purchase-dave.json")),
    ("06-resale-bob-to-erin.json", include_str!("../../../../events/logs/06-resale-bob-to-erin.json")),
    ("07-refund-alice.json", include_str!("../../../../events/logs/07-refund-alice.json")),
    ("08-burn-carol.json", include_str!("../../../../events/logs/08-burn-carol.json")),
    ("09-retraction-dave.json", include_str!("../../../../events/logs/09-retraction-dave.json")),
    ("10-duplicate.json", include_str!("../../../../events/logs/10-duplicate.json")),
    ("11-unknown-kiosk.json", include_str!("../../../../events/logs/11-unknown-kiosk.json")),
    ("12-malformed.json", include_str!("../../../../events/logs/12-malformed.json")),
];
const EVENT: &str = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0";
const KIOSK: &str = "0xa16e02e87b7454126e5e10d957a927a7f5b5d2be";
/// Blocks of the purchases that are made up: after the samples' sales, before what takes tickets away.
const EXTRA_BLOCK: u64 = 0x14;
const TIMEOUT: Duration = Duration::from_secs(30);
const BATCH_MESSAGES: usize = 10;

pub(super) struct Deployment {
    xmtp: RunningNode,
    dynamodb: DynamoDb,
    sqs: Sqs,
    nudge_queue_url: String,
    chains: Chains,
    keys: TempDir,
    cold_starts: AtomicUsize,
}

impl Deployment {
    /// Starts everything and makes usher's account.
    pub(super) async fn start() -> Result<Self, Failure> {
        let xmtp = Node::start(NodeOptions::on_free_ports()).await?;
        let dynamodb = DynamoDb::start(0, None).await?;
        let sqs = Sqs::start(0, None).await?;
        DynamoTable::new(dynamodb_client(&dynamodb.url()), TABLE).create_table().await?;
        let created = sqs_client(&sqs.url()).create_queue().queue_name(Queue::Nudge.to_string()).send().await;
        let nudge_queue_url = created.map_err(aws_sdk_sqs::Error::from)?.queue_url.unwrap_or_default();
        let event: EventKey = EVENT.parse()?;
        let chains = json!({ event.chain.to_string(): { "trust": "queue", "factories": [event.factory] } });
        let chains = serde_json::from_value(chains)?;
        let keys = TempDir::new()?;
        let deployment = Self { xmtp, dynamodb, sqs, nudge_queue_url, chains, keys, cold_starts: AtomicUsize::new(0) };
        let wallet = local_wallet(&deployment.keys.path().join("wallet.key"), &Machine)?;
        deployment.connect()?.init(&wallet).await?;
        Ok(deployment)
    }

    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.sqs.stop().await;
        self.dynamodb.stop().await;
        Ok(self.xmtp.shutdown().await?)
    }

    pub(super) fn xmtp_url(&self) -> String {
        self.xmtp.url()
    }

    /// A usher that knows nothing but where things are.
    fn connect(&self) -> Result<Usher, Failure> {
        let adapters = Adapters {
            table: DynamoTable::new(dynamodb_client(&self.dynamodb.url()), TABLE),
            network: Arc::new(V3::new(&self.xmtp.url(), TIMEOUT)?),
            nudges: Arc::new(SqsNudges::new(sqs_client(&self.sqs.url()), &self.nudge_queue_url)),
            data_key: DataKeySource::File(self.keys.path().join("data.key")),
            clock: Arc::new(Machine),
            randomness: Arc::new(Machine),
        };
        Ok(Usher::new(adapters, self.chains.clone(), Default::default()))
    }

    /// Hands a sample's logs to the functions of the queues they travel on.
    pub(super) async fn handle(&self, file: &str) -> Result<(), Failure> {
        let (_, text) = FILES.iter().find(|(name, _)| *name == file).ok_or("no such sample")?;
        self.deliver(send::messages(text, self.event()?.chain)?).await
    }

    /// Sells tickets that the samples do not tell of.
    pub(super) async fn sell(&self, tickets: Vec<(u32, Address)>) -> Result<(), Failure> {
        let chain_id = self.event()?.chain.0;
        let logs: Vec<Value> = tickets.into_iter().map(|(ticket, buyer)| issue(ticket, buyer)).collect();
        if logs.is_empty() {
            return Ok(());
        }
        self.deliver(send::messages(&json!({ "chainId": chain_id, "logs": logs }).to_string(), self.event()?.chain)?)
            .await
    }

    async fn deliver(&self, messages: Vec<Message>) -> Result<(), Failure> {
        let mut by_queue = BTreeMap::<Queue, Vec<String>>::new();
        for Message { queue, body } in messages {
            by_queue.entry(queue).or_default().push(body);
        }
        for bodies in by_queue.into_values() {
            for (number, bodies) in bodies.chunks(BATCH_MESSAGES).enumerate() {
                self.invoke(number, bodies).await?;
            }
        }
        Ok(())
    }

    /// One invocation, from a cold start.
    async fn invoke(&self, number: usize, bodies: &[String]) -> Result<(), Failure> {
        let count = self.cold_starts.fetch_add(1, Ordering::Relaxed);
        let records: Vec<Value> = bodies
            .iter()
            .enumerate()
            .map(|(index, body)| json!({ "messageId": format!("{count}-{number}-{index}"), "body": body }))
            .collect();
        let batch: SqsEvent = serde_json::from_value(json!({ "Records": records }))?;
        let deadline_ms = Machine.now_ms() + u64::try_from(TIMEOUT.as_millis())?;
        let invocation = Invocation { id: format!("demo-{count}"), deadline_ms };
        let response = handle_queue(&self.connect()?, batch, &invocation).await?;
        match response.batch_item_failures.len() {
            0 => Ok(()),
            failed => Err(format!("{failed} messages were not stored").into()),
        }
    }

    fn event(&self) -> Result<EventKey, Failure> {
        Ok(EVENT.parse()?)
    }

    /// How many rooms the ledger has.
    pub(super) async fn rooms(&self) -> Result<usize, Failure> {
        let event = self.connect()?.store().event(&self.event()?).await?;
        Ok(event.map_or(0, |event| event.rooms.len()))
    }

    /// The room's group id, for people.
    pub(super) async fn room_line(&self) -> Result<String, Failure> {
        let event = self.connect()?.store().event(&self.event()?).await?;
        let rooms: Vec<String> =
            event.iter().flat_map(|event| &event.rooms).map(|room| room.group.to_string()).collect();
        Ok(format!("event 0, room {}", rooms.join(", ")))
    }

    pub(super) async fn parked(&self) -> Result<usize, Failure> {
        Ok(self.connect()?.store().parked_count(100).await?)
    }

    pub(super) fn cold_starts(&self) -> usize {
        self.cold_starts.load(Ordering::Relaxed)
    }

    /// Has usher forget which rooms the event has.
    pub(super) async fn forget_room(&self) -> Result<(), Failure> {
        let usher = self.connect()?;
        let Some(event) = usher.store().event(&self.event()?).await? else { return Ok(()) };
        for room in event.rooms {
            usher.store().table().write(&Write::delete(room.write().key)).await?;
        }
        Ok(())
    }
}

/// The `Transfer` log of a ticket's issue.
fn issue(ticket: u32, buyer: Address) -> Value {
    let transaction = keccak256(format!("sale of ticket {ticket}"));
    json!({
        "address": KIOSK,
        "topics": [
            "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef",
            B256::ZERO,
            buyer.into_word(),
            B256::from(U256::from(ticket)),
        ],
        "data": "0x",
        "blockNumber": format!("{EXTRA_BLOCK:#x}"),
        "blockHash": keccak256("the block of the extra sales"),
        "transactionHash": transaction,
        "transactionIndex": "0x0",
        "logIndex": format!("{:#x}", 1000 + ticket),
        "removed": false,
    })
}
