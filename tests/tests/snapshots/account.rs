//! The account's older heads: from between its making and its registration, and from before its installation was
//! replaced.

use std::sync::Arc;

use usher_doorkeeper::{AccountInfo, Converged, init_account};
use usher_store::{
    Owner, Table as _,
    table::{Key, Write},
};
use usher_tests::world::{AnyError, TestRandomness, World};
use usher_xmtp::identity::{InboxId, LocalWallet};

use crate::{
    alarms::Alarms,
    story::{
        CREATOR, Dump, NodeClock, Outcome, Story, assert_nothing_overwritten, cold_look, dump, head_of, newest, put,
        world,
    },
};

async fn init(world: &World) -> Result<AccountInfo, AnyError> {
    let (parts, wallet) = (world.parts().await?, LocalWallet::from_key(&[0xdd; 32])?);
    let (clock, randomness) = (world.clock.clone(), Arc::new(TestRandomness));
    Ok(init_account(&parts.store, &parts.snapshots, &*parts.network, &wallet, clock, randomness).await?)
}

/// How often something was published in an inbox's log.
async fn entries(world: &World, inbox: &str) -> Result<usize, AnyError> {
    let inbox: InboxId = inbox.parse()?;
    Ok(world.parts().await?.network.identity_updates(&[(inbox, 0)]).await?[0].len())
}

/// The functions do nothing with it, and making the account again finds in the network that it was made: there is no
/// second installation.
#[tokio::test]
async fn an_account_from_before_its_registration_is_not_registered_twice() -> Outcome {
    let world = world(Arc::new(NodeClock::default())).await?;
    world.invoke("mint", &usher_tests::world::sample_facts("01-mint.json")).await?;
    let account = head_of(&Owner::Account);
    world.table.write(&Write::delete(account.clone())).await?;
    for call in 0.. {
        world.killer.arm(call, false);
        tokio::select! {
            made = init(&world) => return Err(format!("made without publishing: {made:?}").into()),
            () = world.killer.killed() => {}
        }
        if world.killer.calls().last().is_some_and(|call| call == "publish_identity_update") {
            break;
        }
        world.table.write(&Write::delete(account.clone())).await?;
        world.clock.advance(std::time::Duration::from_secs(120));
    }
    world.killer.disarm();
    let old = dump(&world)[&account].clone();
    world.clock.advance(std::time::Duration::from_secs(120));
    let made = init(&world).await?;
    assert_eq!(entries(&world, &made.inbox).await?, 1);

    put(&world, account, old).await?;
    let before = dump(&world);
    let ended = cold_look(&world).await?;
    assert!(matches!(ended, Converged::NotReady), "{ended:?}");
    assert_nothing_overwritten(&before, &dump(&world), None, None);
    world.clock.advance(std::time::Duration::from_secs(120));
    assert_eq!(init(&world).await?, made);
    assert_eq!(entries(&world, &made.inbox).await?, 1);
    Ok(())
}

/// The sealed account as it is stored: its head and chunks.
fn sealed_account(world: &World) -> Dump {
    let sealed = |key: &Key| key.pk == Owner::Account.to_string() && (key.sk == "head" || key.sk.starts_with("chunk#"));
    dump(world).into_iter().filter(|(key, _)| sealed(key)).collect()
}

/// Its rooms are another installation's by now: it can do nothing in them, and somebody is told.
#[tokio::test]
async fn an_account_from_before_its_installation_was_replaced_touches_no_room() -> Outcome {
    let mut story = Story::new().await?;
    let wallet = LocalWallet::from_key(&World::WALLET_KEY)?;
    let old = sealed_account(&story.world);
    story.world.doorkeeper().await?.begin_recovery(&wallet, None).await?;
    let recover = async || Ok::<_, AnyError>(story.world.doorkeeper().await?.recover(&wallet, None).await?);
    assert!(!recover().await?.ok_or("it is under way")?.finished);
    story.people[CREATOR].sync().await?;
    story.people[CREATOR].update_installations(story.room).await?;
    story.people[CREATOR].send_text(story.room, "come in").await?;
    assert!(recover().await?.ok_or("it is under way")?.finished);
    cold_look(&story.world).await?;

    for key in sealed_account(&story.world).into_keys() {
        story.world.table.write(&Write::delete(key)).await?;
    }
    for (key, item) in old {
        put(&story.world, key, item).await?;
    }
    let alarms = Alarms::listen();
    let (before, log) = (dump(&story.world), newest(&story.world, story.room).await?);
    let ended = cold_look(&story.world).await?;
    assert!(matches!(ended, Converged::Unfinished { .. }), "{ended:?}");
    alarms.assert_waits("other_installation", "an older account");
    assert_eq!(newest(&story.world, story.room).await?, log, "nothing was sent");
    assert_nothing_overwritten(&before, &dump(&story.world), None, None);
    Ok(())
}
