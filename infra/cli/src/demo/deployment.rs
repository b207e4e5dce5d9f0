//! A deployment in this process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy_primitives::{Address, B256, U256, keccak256};
use aws_lambda_events::event::sqs::SqsEvent;
use serde_json::{Value, json};
use tempfile::TempDir;
use usher_chain::Chains;
use usher_domain::{EventKey, KioskKey, ports::Clock as _};
use usher_lambda::{
    Adapters, DataKeySource, InboxUsage, Invocation, Machine, SqsNudges, Usher, handle_queue, local_wallet,
};
use usher_localnet::{
    aws::{dynamodb_client, sqs_client},
    dynamodb::DynamoDb,
    sqs::Sqs,
    xmtp_node::{Method, Node, NodeOptions, RunningNode},
};
use usher_store::{
    EventRecord, FileDataKeys, Store,
    dynamo::DynamoTable,
    standing::{Mark, Marked},
    table::{Query, Table as _, Write},
};
use usher_xmtp::{V3, identity::InboxId, network::Network};

use super::{
    unheard::Unheard,
    witness::{Invocations, Witness},
};
use crate::{
    Failure,
    dev::in_words,
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
/// The kiosk of `11-unknown-kiosk.json`, which no factory announced.
const UNKNOWN_KIOSK: &str = "31337:0xb7a5bd0345ef1cc5e66bf61bdec17d2461fbd968";
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
    /// Where the wallet's key is and the one that wraps data keys.
    _keys: TempDir,
    /// usher's own.
    inbox: InboxId,
    witness: Arc<Witness>,
    network: Mutex<Arc<dyn Network>>,
    invocations: Mutex<Invocations>,
    /// The one usher of all invocations, if it is broken so.
    warm: Option<Usher>,
}

impl Deployment {
    /// Starts everything and makes usher's account.
    pub(super) async fn start() -> Result<Self, Failure> {
        let xmtp = Node::start(NodeOptions::on_free_ports()).await?;
        let dynamodb = DynamoDb::start(0, None).await?;
        let sqs = Sqs::start(0, None).await?;
        let table = DynamoTable::new(dynamodb_client(&dynamodb.url()), TABLE);
        table.create_table().await?;
        let created = sqs_client(&sqs.url()).create_queue().queue_name(Queue::Nudge.to_string()).send().await;
        let nudge_queue_url = created.map_err(aws_sdk_sqs::Error::from)?.queue_url.unwrap_or_default();
        let event: EventKey = EVENT.parse()?;
        let chains = json!({ event.chain.to_string(): { "trust": "queue", "factories": [event.factory] } });
        let chains = serde_json::from_value(chains)?;

        let keys = TempDir::new()?;
        let wallet = local_wallet(&keys.path().join("wallet.key"), &Machine)?;
        let id = Store::new(Arc::new(table), Arc::new(Machine), Arc::new(Machine)).init_deployment().await?;
        let data_keys = FileDataKeys::open(&keys.path().join("data.key"), id, Arc::new(Machine))?;
        let network: Arc<dyn Network> = Arc::new(V3::new(&xmtp.url(), TIMEOUT)?);
        let inbox = usher_xmtp::inbox_of(usher_xmtp::identity::WalletSigner::address(&wallet), &*network).await?;
        let deployment = Self {
            xmtp,
            dynamodb,
            sqs,
            nudge_queue_url,
            chains,
            _keys: keys,
            inbox,
            witness: Arc::new(Witness::new(data_keys)),
            network: Mutex::new(network),
            invocations: Mutex::default(),
            warm: None,
        };
        deployment.connect().init(&wallet).await?;
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

    /// How far each chain is believed, for people.
    pub(super) fn trust(&self) -> String {
        let chains = self.chains.iter().map(|(chain, config)| format!("chain {chain}, {}", in_words(&config.trust)));
        chains.collect::<Vec<_>>().join("; ")
    }

    /// A usher that knows nothing but where things are.
    fn connect(&self) -> Usher {
        let adapters = Adapters {
            table: Arc::new(DynamoTable::new(dynamodb_client(&self.dynamodb.url()), TABLE)),
            network: self.network().clone(),
            nudges: Arc::new(SqsNudges::new(sqs_client(&self.sqs.url()), &self.nudge_queue_url)),
            data_key: DataKeySource::Other(self.witness.clone()),
            clock: Arc::new(Machine),
            randomness: Arc::new(Machine),
        };
        Usher::new(adapters, self.chains.clone(), Default::default())
    }

    fn network(&self) -> MutexGuard<'_, Arc<dyn Network>> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> Store {
        let table = DynamoTable::new(dynamodb_client(&self.dynamodb.url()), TABLE);
        Store::new(Arc::new(table), Arc::new(Machine), Arc::new(Machine))
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
        let count = self.invocations().all;
        let records: Vec<Value> = bodies
            .iter()
            .enumerate()
            .map(|(index, body)| json!({ "messageId": format!("{count}-{number}-{index}"), "body": body }))
            .collect();
        let batch: SqsEvent = serde_json::from_value(json!({ "Records": records }))?;
        let deadline_ms = Machine.now_ms() + u64::try_from(TIMEOUT.as_millis())?;
        let invocation = Invocation { id: format!("demo-{count}"), deadline_ms };
        let cold = self.warm.is_none().then(|| self.connect());
        let usher = cold.as_ref().or(self.warm.as_ref()).ok_or("there is always one")?;
        let sent_before = self.sent();
        self.witness.take();
        let response = handle_queue(usher, batch, &invocation).await?;
        self.lock_invocations().note(self.sent() - sent_before, &self.witness.take());
        match response.batch_item_failures.len() {
            0 => Ok(()),
            failed => Err(format!("{failed} messages were not stored").into()),
        }
    }

    /// How often somebody has sent something to a room.
    fn sent(&self) -> u64 {
        self.xmtp.calls(Method::SendGroupMessages)
    }

    /// What the invocations so far did.
    pub(super) fn invocations(&self) -> Invocations {
        *self.lock_invocations()
    }

    fn lock_invocations(&self) -> MutexGuard<'_, Invocations> {
        self.invocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self) -> Result<EventKey, Failure> {
        Ok(EVENT.parse()?)
    }

    async fn record(&self) -> Result<EventRecord, Failure> {
        Ok(self.store().event(&self.event()?).await?.ok_or("the ledger has no such event")?)
    }

    /// How many rooms the ledger has.
    pub(super) async fn rooms(&self) -> Result<usize, Failure> {
        Ok(self.record().await?.rooms.len())
    }

    /// How often what should be has changed.
    pub(super) async fn generation(&self) -> Result<u64, Failure> {
        Ok(self.record().await?.generation)
    }

    /// The room's group id, for people.
    pub(super) async fn room_line(&self) -> Result<String, Failure> {
        let rooms: Vec<String> = self.record().await?.rooms.iter().map(|room| room.group.to_string()).collect();
        Ok(format!("event 0, room {}", rooms.join(", ")))
    }

    /// How many facts wait for the kiosk that nobody has announced.
    pub(super) async fn waiting_facts(&self) -> Result<usize, Failure> {
        let kiosk: KioskKey = UNKNOWN_KIOSK.parse()?;
        let waiting = Query::prefix(format!("waiting#{kiosk}"), "fact#").keys_only();
        Ok(self.store().table().query(&waiting).await?.len())
    }

    pub(super) async fn parked(&self) -> Result<usize, Failure> {
        Ok(self.store().parked_count(100).await?)
    }

    /// How many installations usher's inbox has, by its identity log on the network.
    pub(super) async fn installations(&self) -> Result<usize, Failure> {
        let network = V3::new(&self.xmtp.url(), TIMEOUT)?;
        Ok(InboxUsage::of(&self.inbox, &network).await?.installations)
    }

    /// From now on one usher serves all invocations, as a process does that is never frozen.
    pub(super) fn stay_warm(&mut self) {
        self.warm = Some(self.connect());
    }

    /// From now on nobody but usher hears what it sends to rooms.
    pub(super) fn silence_usher(&self) {
        let mut network = self.network();
        *network = Arc::new(Unheard::new(network.clone()));
    }

    /// Has usher's table say that an admin invited somebody.
    pub(super) async fn write_guest(&self, guest: &InboxId) -> Result<(), Failure> {
        let minted = self.record().await?.minted.ok_or("the event was minted")?;
        let inbox: usher_domain::InboxId = guest.to_string().parse()?;
        let guest = Marked { mark: Mark::Guest { by: inbox.clone() }, inbox, since_ms: Machine.now_ms() };
        self.store().table().write(&guest.write(&minted.incarnation)).await?;
        Ok(())
    }

    /// Has usher's table forget which rooms the event has.
    pub(super) async fn forget_room(&self) -> Result<(), Failure> {
        for room in self.record().await?.rooms {
            self.store().table().write(&Write::delete(room.write().key)).await?;
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
