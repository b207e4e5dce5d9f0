//! A recovery as it happens to members with `@xmtp/node-sdk`: usher's table is restored under another name, with nothing
//! of its rooms' state, and libxmtp lets the new installation in of its own accord when somebody speaks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use usher_chain::Chains;
use usher_domain::{EventKey, ports::Clock as _};
use usher_doorkeeper::{NudgeError, Nudges, Policy, Progress};
use usher_lambda::{Adapters, DataKeySource, Invocation, Machine, OpenError, Place, Usher, handle_queue, local_wallet};
use usher_store::{EventRecord, Owner, RoomState, dynamo::DynamoTable};
use usher_tests::{
    dev_stack::DevStack,
    haus::{CHAIN, Chain, Event, FACTORY, Transaction},
    node_sdk::{Consent, SdkClient, Wallet},
    welcomes::{Wrapped, on_node},
    world::AnyError,
};
use usher_xmtp::V3;

type Outcome = Result<(), AnyError>;

const CREATOR: u64 = 1;
const ALICE: u64 = 2;
const BOB: u64 = 3;
const DANA: u64 = 5;

const RESTORED: &str = "usher-restored";

fn wallet(number: u64) -> alloy_primitives::Address {
    Wallet::numbered(number).address()
}

/// The clock finds what is due; here nobody waits for it.
struct NoNudges;

#[async_trait]
impl Nudges for NoNudges {
    async fn nudge(&self, _: &EventKey, _: u32) -> Result<(), NudgeError> {
        Ok(())
    }
}

/// What is left of a stack: its node, the people, and its ledger in another table.
struct Restored {
    stack: DevStack,
    table: DynamoTable,
}

impl Restored {
    async fn from(stack: DevStack) -> Result<Self, AnyError> {
        let table = stack.restore_ledger(RESTORED).await?;
        Ok(Self { stack, table })
    }

    /// A cold start.
    fn usher(&self) -> Result<Usher, AnyError> {
        let adapters = Adapters {
            table: Arc::new(self.table.clone()),
            network: Arc::new(V3::new(&self.stack.ready.xmtp_url, Duration::from_secs(4))?),
            nudges: Arc::new(NoNudges),
            data_key: DataKeySource::File(self.stack.ready.data_key_file.clone()),
            clock: Arc::new(Machine),
            randomness: Arc::new(Machine),
        };
        let chains = json!({ CHAIN.to_string(): { "trust": "queue", "factories": [FACTORY] } });
        let chains: Chains = serde_json::from_value(chains)?;
        let place = Place { network: "local".to_owned(), table: RESTORED.to_owned() };
        Ok(Usher::new(adapters, chains, Policy::default()).at(place))
    }

    async fn begin(&self) -> Outcome {
        let wallet = local_wallet(&self.stack.ready.wallet_key_file, &Machine)?;
        Ok(self.usher()?.begin_recovery(&wallet).await?)
    }

    async fn recover(&self) -> Result<Progress, AnyError> {
        let wallet = local_wallet(&self.stack.ready.wallet_key_file, &Machine)?;
        Ok(self.usher()?.recover(&wallet, None).await?.ok_or("no recovery is under way")?)
    }

    /// Has a function handle the logs of these transactions.
    async fn handle(&self, transactions: &[Transaction]) -> Outcome {
        let logs: Vec<&Value> = transactions.iter().flat_map(|transaction| &transaction.logs).collect();
        let body = json!({ "chainId": CHAIN, "logs": logs }).to_string();
        let batch = serde_json::from_value(json!({ "Records": [{ "messageId": "m", "body": body }] }))?;
        let invocation = Invocation { id: "restored".to_owned(), deadline_ms: Machine.now_ms() + 25_000 };
        let response = handle_queue(&self.usher()?, batch, &invocation).await?;
        assert!(response.batch_item_failures.is_empty(), "{response:?}");
        Ok(())
    }

    async fn record(&self, event: &EventKey) -> Result<EventRecord, AnyError> {
        Ok(self.usher()?.store().event(event).await?.ok_or("the event is not in the ledger")?)
    }

    /// Who sits in the event's only room by usher's own state, with how many devices.
    async fn seats(&self, event: &EventKey, room: &str) -> Result<BTreeMap<String, u64>, AnyError> {
        let record = self.record(event).await?;
        assert_eq!(record.converged_generation, Some(record.generation), "{record:?}");
        let [only] = &record.rooms[..] else { return Err(format!("not one room: {:?}", record.rooms).into()) };
        assert_eq!((only.group.to_string().as_str(), &only.state), (room, &RoomState::Active));
        let status = self.usher()?.store().status(&Owner::Room(only.group)).await?.ok_or("the room has a status")?;
        let status: Value = serde_json::from_str(&status)?;
        let seat = |seat: &Value| Some((seat["inbox"].as_str()?.to_owned(), seat["installations"].as_u64()?));
        Ok(status["seats"].as_array().into_iter().flatten().filter_map(seat).collect())
    }
}

/// An event with the creator, Alice with two devices, and Bob in its room, who have all spoken.
struct Scene {
    chain: Chain,
    event: Event,
    creator: SdkClient,
    alice: SdkClient,
    laptop: SdkClient,
    bob: SdkClient,
    room: String,
}

impl Scene {
    async fn of(stack: &DevStack) -> Result<Self, AnyError> {
        let (mut chain, event) = (Chain::default(), Event::new(0, wallet(CREATOR)));
        let (creator, bob) = (stack.person(CREATOR).await?, stack.person(BOB).await?);
        let (alice, laptop) = (stack.person(ALICE).await?, stack.person(ALICE).await?);
        let purchases = [chain.purchase(&event, 1, wallet(ALICE)), chain.purchase(&event, 2, wallet(BOB))];
        stack.send(&[&[chain.mint(&event)], &purchases[..]].concat()).await?;
        let room = stack.until_seated(&event.key(), &[(&creator, 1), (&alice, 2), (&bob, 1)]).await?;
        stack.until_handled().await?;
        let scene = Self { chain, event, creator, alice, laptop, bob, room };
        for person in [&scene.creator, &scene.alice, &scene.laptop, &scene.bob] {
            scene.enter(person).await?;
            person.send_text(&scene.room, "hello").await?;
        }
        Ok(scene)
    }

    async fn enter(&self, person: &SdkClient) -> Outcome {
        person.sync().await?;
        let seen = person.synced(&self.room).await?;
        assert!(seen.is_active && !seen.maybe_forked, "{}", seen.fork_details);
        Ok(())
    }

    /// The same group works again: a purchase lets in, a refund puts out, and everybody reads who should.
    async fn works_again(mut self, restored: &Restored, mut wanted: BTreeMap<String, u64>) -> Outcome {
        let key = self.event.key();
        let dana = restored.stack.person(DANA).await?;
        restored.handle(&[self.chain.purchase(&self.event, 3, wallet(DANA))]).await?;
        restored.handle(&[self.chain.refund(&self.event, 2, wallet(BOB))]).await?;
        let usher = restored.stack.ready.inbox_id.as_str();
        wanted.extend([(usher.to_owned(), 1), (dana.inbox_id().to_owned(), 1)]);
        assert_eq!(restored.seats(&key, &self.room).await?, wanted, "no leaf of the old installation is left");

        self.enter(&dana).await?;
        dana.send_text(&self.room, "new here").await?;
        self.alice.sync_conversation(&self.room).await?;
        self.alice.send_text(&self.room, "hello Dana").await?;
        for person in [&self.creator, &self.alice, &self.laptop, &dana] {
            let seen = person.synced(&self.room).await?;
            assert!(seen.is_active && !seen.maybe_forked, "{}", seen.fork_details);
            assert_eq!((seen.admins, seen.super_admins), (vec![self.creator.inbox_id().into()], vec![usher.into()]));
            assert_eq!(seen.members.len(), 4, "usher, the creator, Alice and Dana");
            let texts = person.texts(&self.room).await?;
            assert_eq!(texts[texts.len() - 2..], ["new here", "hello Dana"]);
        }
        self.bob.sync_all(&[Consent::Unknown, Consent::Allowed]).await?;
        assert!(!self.bob.conversation(&self.room).await?.is_active);
        let heard = self.bob.texts(&self.room).await?;
        assert!(!heard.iter().any(|text| text == "new here" || text == "hello Dana"), "{heard:?}");
        Ok(())
    }
}

#[tokio::test]
async fn the_same_group_works_again_when_members_speak() -> Outcome {
    let stack = DevStack::start().await?;
    let scene = Scene::of(&stack).await?;
    let restored = Restored::from(stack).await?;

    // Until an operator says so, nothing is done from a table of another name.
    let refused = restored.usher()?.doorkeeper().await;
    assert!(matches!(refused, Err(OpenError::OtherTable { .. })), "{:?}", refused.err());
    restored.begin().await?;
    let progress = restored.recover().await?;
    assert!(!progress.finished && progress.held.is_empty(), "{progress:?}");
    // What is bought meanwhile is in the ledger, and waits with the room.
    assert!(matches!(progress.rooms[..], [ref room] if matches!(room.state, RoomState::AwaitingWelcome { .. })));

    // All at once; libxmtp looks for others' new devices before it sends, but not twice within five seconds.
    let progress = restored.stack.until("the recovery is finished", async || {
        let say = async |person: &SdkClient| person.send_text(&scene.room, "anybody there?").await;
        tokio::try_join!(say(&scene.creator), say(&scene.alice), say(&scene.bob))?;
        Ok(Some(restored.recover().await?).filter(|progress| progress.finished))
    });
    let progress = progress.await?;
    assert_eq!(progress.installations, 1, "the old one is revoked");
    assert_eq!(on_node(&restored.stack.ready.xmtp_url, &progress.installation).await?, [Wrapped::XWing]);
    let devices = [(scene.creator.inbox_id().to_owned(), 1), (scene.alice.inbox_id().to_owned(), 2)];
    scene.works_again(&restored, devices.into()).await
}

/// Others have new devices, too, so that one commit adds many, and libxmtp welcomes them by pointers.
#[tokio::test]
async fn a_pointer_lets_usher_in_as_well() -> Outcome {
    let stack = DevStack::start().await?;
    let scene = Scene::of(&stack).await?;
    let restored = Restored::from(stack).await?;
    let mut phones = Vec::new();
    for owner in [CREATOR, ALICE, BOB] {
        phones.push(restored.stack.person(owner).await?);
    }
    restored.begin().await?;
    assert!(!restored.recover().await?.finished);
    let progress = restored.stack.until("the recovery is finished", async || {
        scene.bob.send_text(&scene.room, "anybody there?").await?;
        Ok(Some(restored.recover().await?).filter(|progress| progress.finished))
    });
    let progress = progress.await?;
    assert_eq!(on_node(&restored.stack.ready.xmtp_url, &progress.installation).await?, [Wrapped::Pointer]);
    for phone in &phones {
        scene.enter(phone).await?;
    }
    let devices = [(scene.creator.inbox_id().to_owned(), 2), (scene.alice.inbox_id().to_owned(), 3)];
    scene.works_again(&restored, devices.into()).await
}
