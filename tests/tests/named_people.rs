//! Moderators and bans of the configuration, in real rooms: the same event under one policy after the other, each time
//! by a doorkeeper that has just started.

use usher_domain::{Person as Named, ports::Clock as _};
use usher_doorkeeper::{Cause, Converged, Doorkeeper, Parts, Policy};
use usher_localnet::person::Person;
use usher_tests::world::{AnyError, World, sample_facts};
use usher_xmtp::{GroupId, Lost};

type Outcome = Result<(), AnyError>;

/// Looks at the event as a deployment with this policy does; returns how many commits that took.
async fn look(world: &World, policy: &Policy) -> Result<u32, AnyError> {
    let doorkeeper = Doorkeeper::new(Parts { policy: policy.clone(), ..world.parts().await? });
    let event = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse()?;
    match doorkeeper.converge(&event, "look", world.clock.now_ms() + 25_000, Cause::Nudge).await? {
        Converged::Done { commits, .. } => Ok(commits),
        other => Err(format!("{other:?}").into()),
    }
}

async fn room(world: &World) -> Result<GroupId, AnyError> {
    let event = "31337:0x5fbdb2315678afecb367f032d93f642f64180aa3:0".parse()?;
    let rooms = world.store().event(&event).await?.ok_or("the event is not in the ledger")?.rooms;
    let [room] = &rooms[..] else { return Err(format!("not one room: {rooms:?}").into()) };
    Ok(GroupId(room.group.0))
}

/// A world in which the samples' event was minted and Alice and Bob have bought, and its room.
async fn sold() -> Result<(World, [Person; 3], GroupId), AnyError> {
    let world = World::start().await?;
    let people = [world.person(0).await?, world.person(1).await?, world.person(2).await?];
    for file in ["01-mint.json", "02-purchase-alice.json", "03-purchase-bob.json"] {
        world.invoke(file, &sample_facts(file)).await?;
    }
    let room = room(&world).await?;
    Ok((world, people, room))
}

async fn is_in(person: &mut Person, room: GroupId) -> Result<bool, AnyError> {
    person.sync().await?;
    Ok(person.group(room).is_ok_and(|group| group.lost().is_none()))
}

#[tokio::test]
async fn a_moderator_is_an_admin_without_a_ticket_for_as_long_as_he_is_named() -> Outcome {
    let (world, [mut creator, ..], room) = sold().await?;
    let mut moderator = world.person(4).await?;
    let named = Policy { moderators: [moderator.address()].into(), ..Policy::default() };
    look(&world, &named).await?;
    assert!(is_in(&mut moderator, room).await?);
    assert!(moderator.group(room)?.metadata().admins.contains(&moderator.inbox()?));
    assert_eq!(look(&world, &named).await?, 0, "and nothing is left to do");

    // Of so few members nobody is removed unless it is explained.
    look(&world, &Policy::default()).await?;
    moderator.sync().await?;
    assert_eq!(moderator.group(room)?.lost(), Some(&Lost::Ejected));
    creator.sync().await?;
    let metadata = creator.group(room)?.metadata();
    assert!(!metadata.admins.contains(&moderator.inbox()?) && metadata.admins.contains(&creator.inbox()?));
    Ok(())
}

#[tokio::test]
async fn a_moderator_without_an_inbox_waits_for_it() -> Outcome {
    let (world, _, room) = sold().await?;
    let key = [0x77; 32];
    let wallet = usher_xmtp::identity::WalletSigner::address(&usher_xmtp::identity::LocalWallet::from_key(&key)?);
    let named = Policy { moderators: [wallet].into(), ..Policy::default() };
    look(&world, &named).await?;
    let mut moderator = Person::register(&key, &world.node.url()).await?;
    world.clock.advance(std::time::Duration::from_secs(60));
    look(&world, &named).await?;
    assert!(is_in(&mut moderator, room).await?);
    Ok(())
}

#[tokio::test]
async fn the_banned_are_out_by_wallet_or_inbox_until_they_are_banned_no_more() -> Outcome {
    let (world, [mut creator, mut alice, mut bob], room) = sold().await?;
    let mut carol = world.person(3).await?;
    assert!(is_in(&mut alice, room).await? && is_in(&mut bob, room).await?);
    let bob_inbox = Named::Inbox(bob.inbox()?.as_str().parse()?);
    let bans = [Named::Wallet(alice.address()), bob_inbox, Named::Wallet(carol.address())].into();
    let banning = Policy { bans, ..Policy::default() };
    look(&world, &banning).await?;
    assert!(!is_in(&mut alice, room).await? && !is_in(&mut bob, room).await?);

    // A ticket does not help.
    world.store().record(&sample_facts("04-purchase-carol.json")).await;
    look(&world, &banning).await?;
    assert!(!is_in(&mut carol, room).await?);
    assert!(carol.group(room).is_err(), "she was never in");
    assert!(is_in(&mut creator, room).await?);

    look(&world, &Policy::default()).await?;
    for person in [&mut alice, &mut bob, &mut carol] {
        assert!(is_in(person, room).await?);
    }
    Ok(())
}
