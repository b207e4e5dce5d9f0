//! A keeper of keys that refuses or is away. Nothing is wrong with what is stored: nothing is lost, and when the keeper
//! is back, everything goes on where it was.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use usher_doorkeeper::{Converged, Doorkeeper, Parts};
use usher_store::{
    DataKeys, FileDataKeys, Owner,
    keys::{DataKey, KeyError, Plain},
};
use usher_tests::world::{AnyError, World, sample_facts};

use crate::{
    alarms::Alarms,
    story::{
        ALICE, NodeClock, Outcome, Story, assert_nothing_overwritten, dump, head_of, look, only_room, owner, record,
        world,
    },
};

/// How the keeper fails.
#[derive(Debug, Clone, Copy)]
enum Failure {
    /// The grant was revoked.
    Revoked,
    /// It does not answer.
    Down,
}

const FAILURES: [(Failure, &str); 2] = [(Failure::Revoked, "keys_refused"), (Failure::Down, "keys_unavailable")];

impl Failure {
    fn error(self) -> KeyError {
        match self {
            Failure::Revoked => KeyError::Refused("AccessDeniedException: the ciphertext refers to a key …".to_owned()),
            Failure::Down => KeyError::Unavailable(Arc::new(std::io::Error::other("connection refused"))),
        }
    }
}

/// A keeper that fails on demand, for everybody or for all but the account.
struct Keeper {
    inner: FileDataKeys,
    failure: Mutex<Option<Failure>>,
    spares_account: bool,
}

impl Keeper {
    async fn of(world: &World, spares_account: bool) -> Result<Arc<Self>, AnyError> {
        Ok(Arc::new(Self { inner: world.data_keys().await?, failure: Mutex::default(), spares_account }))
    }

    fn fail(&self, failure: Option<Failure>) {
        *self.failure.lock().unwrap() = failure;
    }

    fn check(&self, owner: &Owner) -> Result<(), KeyError> {
        match *self.failure.lock().unwrap() {
            Some(failure) if !(self.spares_account && *owner == Owner::Account) => Err(failure.error()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl DataKeys for Keeper {
    async fn generate(&self, owner: &Owner) -> Result<DataKey, KeyError> {
        self.check(owner)?;
        self.inner.generate(owner).await
    }

    async fn unwrap(&self, owner: &Owner, wrapped: &[u8]) -> Result<Plain, KeyError> {
        self.check(owner)?;
        self.inner.unwrap(owner, wrapped).await
    }
}

async fn doorkeeper(world: &World, keeper: &Arc<Keeper>) -> Result<Doorkeeper, AnyError> {
    let snapshots = Arc::new(world.snapshots_with(keeper.clone()).await?);
    Ok(Doorkeeper::new(Parts { snapshots, ..world.parts().await? }))
}

#[tokio::test]
async fn a_room_whose_key_is_refused_is_not_lost() -> Outcome {
    let mut story = Story::new().await?;
    let alarms = Alarms::listen();
    let world = &story.world;
    let keeper = Keeper::of(world, true).await?;
    // There is work to do, which must not be forgotten.
    world.store().record(&sample_facts("07-refund-alice.json")).await;
    for (failure, code) in FAILURES {
        keeper.fail(Some(failure));
        let before = dump(world);
        let ended = look(world, &doorkeeper(world, &keeper).await?).await?;
        assert!(matches!(ended, Converged::Unfinished { .. }), "{ended:?}");
        alarms.assert_waits(code, "a room's key");
        assert_nothing_overwritten(&before, &dump(world), None, None);
        assert_eq!(only_room(world).await?, story.room, "no successor");
        assert!(record(world).await?.due_at_ms.is_some(), "the event stays due");
    }
    // Not even a head that was altered as well is judged without its key.
    let room = head_of(&owner(story.room));
    let head = dump(world)[&room].clone();
    let mut altered = head.clone();
    altered.insert("version".into(), 77.into());
    crate::story::put(world, room.clone(), altered).await?;
    look(world, &doorkeeper(world, &keeper).await?).await?;
    alarms.assert_waits("keys_unavailable", "an altered head");
    assert_eq!(only_room(world).await?, story.room, "no successor");
    crate::story::put(world, room, head).await?;

    keeper.fail(None);
    let ended = look(world, &doorkeeper(world, &keeper).await?).await?;
    assert!(matches!(ended, Converged::Done { commits: 1, .. }), "{ended:?}");
    assert_eq!(alarms.take(), []);
    story.people[ALICE].sync().await?;
    assert!(story.people[ALICE].group(story.room)?.lost().is_some(), "she is out of the same room");
    Ok(())
}

#[tokio::test]
async fn without_any_key_nothing_is_touched() -> Outcome {
    let story = Story::new().await?;
    let alarms = Alarms::listen();
    let keeper = Keeper::of(&story.world, false).await?;
    for (failure, code) in FAILURES {
        keeper.fail(Some(failure));
        let before = dump(&story.world);
        let refused = look(&story.world, &doorkeeper(&story.world, &keeper).await?).await.unwrap_err();
        assert_eq!(refused.code(), code);
        alarms.assert_waits(code, "the account's key");
        assert_eq!(dump(&story.world), before);
    }
    keeper.fail(None);
    let ended = look(&story.world, &doorkeeper(&story.world, &keeper).await?).await?;
    assert!(matches!(ended, Converged::Done { commits: 0, .. }), "{ended:?}");
    Ok(())
}

/// A room that gets no key is not made, not even in part.
#[tokio::test]
async fn a_room_is_not_made_without_a_key() -> Outcome {
    let world = world(Arc::new(NodeClock::default())).await?;
    let alarms = Alarms::listen();
    let keeper = Keeper::of(&world, true).await?;
    world.store().record(&sample_facts("01-mint.json")).await;
    for (failure, code) in FAILURES {
        keeper.fail(Some(failure));
        let before = dump(&world);
        let ended = look(&world, &doorkeeper(&world, &keeper).await?).await?;
        assert!(matches!(ended, Converged::Unfinished { .. }), "{ended:?}");
        alarms.assert_waits(code, "a new room's key");
        let keys = |dump: &crate::story::Dump| dump.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&dump(&world)), keys(&before), "nothing is left of the attempt");
    }
    keeper.fail(None);
    look(&world, &doorkeeper(&world, &keeper).await?).await?;
    only_room(&world).await?;
    Ok(())
}
