//! usher's account: made once by whoever comes first, and not moved by strangers.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use usher_doorkeeper::{AccountInfo, InitError};
use usher_lambda::SetUpError;
use usher_localnet::ambient::{Ambient, SystemClock};
use usher_store::Owner;
use usher_tests::{
    node_sdk::{NodeSdk, Wallet},
    world::{AnyError, World},
};
use usher_xmtp::{
    Account, ConversationType, Group, Identities, Invitation, NewGroup, Welcomed,
    identity::{InboxId, LocalWallet, WalletSigner as _},
    network::Network,
    policy::Policies,
};

type Outcome = Result<(), AnyError>;

/// Longer than fifty take one after the other.
const PATIENCE: Duration = Duration::from_secs(60);

/// Again as long as somebody else is at it, who says so.
async fn cold_start(world: &World) -> Result<AccountInfo, SetUpError> {
    loop {
        match world.usher().init(&world.wallet).await {
            Err(SetUpError::Account(InitError::Held)) => tokio::task::yield_now().await,
            made => return made,
        }
    }
}

#[tokio::test]
async fn fifty_cold_starts_at_once_leave_one_installation() -> Outcome {
    let origin = World::start().await?;
    let world = origin.beside()?;
    let starts = (0..50).map(|_| cold_start(&world));
    let ended = tokio::time::timeout(PATIENCE, join_all(starts)).await?;
    let made = ended.into_iter().collect::<Result<Vec<AccountInfo>, SetUpError>>()?;
    assert_eq!(made.len(), 50);
    assert!(made.iter().all(|account| *account == made[0]), "{made:?}");

    let (network, inbox): (_, InboxId) = (world.parts().await?.network, made[0].inbox.parse()?);
    assert_eq!(network.identity_updates(&[(inbox.clone(), 0)]).await?[0].len(), 1, "published once");
    let mut identities = Identities::default();
    identities.load(&*network, [&inbox]).await?;
    let installations = identities.latest(&inbox).ok_or("it is registered")?.1.installations();
    let names: Vec<String> = installations.iter().map(ToString::to_string).collect();
    assert_eq!(names, [made[0].installation.as_str()]);
    Ok(())
}

/// Peers that find an installation without a key package list it as failed and do not look again.
#[tokio::test]
async fn the_key_package_is_there_before_the_installation() -> Outcome {
    let world = World::start().await?.beside()?;
    world.usher().init(&world.wallet).await?;
    let calls = world.killer.calls();
    let places = |name: &str| -> Vec<usize> { (0..calls.len()).filter(|place| calls[*place] == name).collect() };
    let (uploads, publications) = (places("upload_key_package"), places("publish_identity_update"));
    assert_eq!((uploads.len(), publications.len()), (1, 1), "{calls:?}");
    assert!(uploads[0] < publications[0], "{calls:?}");
    Ok(())
}

/// How many groups strangers make, and how often each lets usher in: a welcome is never twice the same.
const GROUPS: usize = 10;
const WELCOMES: usize = 99;
const DMS: u64 = 10;

#[tokio::test]
async fn a_thousand_welcomes_from_strangers_move_the_cursor_and_leave_nothing() -> Outcome {
    let world = World::start().await?;
    let parts = world.parts().await?;
    let stored = parts.snapshots.load(&Owner::Account).await?.ok_or("the account is stored")?.plaintext;
    let mut account = Account::decode(&stored)?;
    flood(&*parts.network, account.inbox()).await?;
    let sdk = NodeSdk::start(&world.node.url())?;
    for number in 1..=DMS {
        let stranger = sdk.client(&Wallet::numbered(number)).await?;
        stranger.create_dm(account.inbox().as_str()).await?;
    }

    let asked = RefCell::new(BTreeMap::<&str, u64>::new());
    let refuse = |invitation: &Invitation| {
        let kind = match invitation.conversation_type {
            ConversationType::Group => "group",
            ConversationType::Dm => "dm",
            _ => "other",
        };
        *asked.borrow_mut().entry(kind).or_default() += 1;
        false
    };
    let mut welcomed = Welcomed::default();
    account.receive_welcomes(&*parts.network, &mut Identities::default(), &mut welcomed, refuse).await?;
    assert!(welcomed.joined.is_empty() && welcomed.dropped.is_empty(), "{:?}", welcomed.dropped);
    assert_eq!(welcomed.refused, 1000);
    assert_eq!(*asked.borrow(), [("group", 990), ("dm", DMS)].into());
    let flooded = account.encode()?;
    // A map's entry of two numbers.
    let cursor_bytes = 16;
    assert!(flooded.len() - stored.len() <= cursor_bytes, "{} bytes became {}", stored.len(), flooded.len());

    // They are behind the cursor, also after a cold start.
    let (mut account, mut again) = (Account::decode(&flooded)?, Welcomed::default());
    account.receive_welcomes(&*parts.network, &mut Identities::default(), &mut again, |_| true).await?;
    assert!(again.joined.is_empty() && again.refused == 0, "{again:?}");
    Ok(())
}

/// Has strangers let an inbox into their groups again and again.
async fn flood(network: &dyn Network, inbox: &InboxId) -> Outcome {
    let wallet = LocalWallet::from_key(&[0x51; 32])?;
    let mut stranger = Account::new(usher_xmtp::inbox_of(wallet.address(), network).await?, &SystemClock, &Ambient)?;
    stranger.register(&wallet, network, &SystemClock).await?;
    let (mut identities, added) = (Identities::default(), [inbox.clone()].into());
    for number in 0..GROUPS {
        let group = group_with(&stranger, &format!("win {number}"), &added, network, &mut identities).await?;
        for _ in 0..WELCOMES {
            assert_eq!(group.send_welcomes(network, &Ambient, |_| true).await?.sent.len(), 1);
        }
    }
    Ok(())
}

/// A group whose commit that adds these is merged, and whose welcomes are not sent.
async fn group_with(
    account: &Account,
    name: &str,
    added: &BTreeSet<InboxId>,
    network: &dyn Network,
    identities: &mut Identities,
) -> Result<Group, AnyError> {
    let new = NewGroup { name: name.to_owned(), description: String::new(), policies: Policies::admin_only() };
    let mut group = Group::create(account, new, &Ambient)?;
    let change = group.membership_change(account, network, identities, added, &[].into()).await?;
    group.stage_membership(account, network, identities, change).await?;
    let commit = group.pending_commit(account, &SystemClock).ok_or("just staged")?;
    network.send_group_messages(vec![commit]).await?;
    group.sync(account, network, identities, &mut Vec::new()).await?;
    Ok(group)
}

/// Whoever was not to get his welcome and is in nevertheless sees nothing: that must not be forgotten, as he may be wanted
/// again before he is removed.
#[tokio::test]
async fn who_is_in_without_a_welcome_is_remembered() -> Outcome {
    let world = World::start().await?;
    let parts = world.parts().await?;
    let network = &*parts.network;
    let (alice, bob) = (world.person(1).await?, world.person(2).await?);
    let (alice, bob) = (alice.inbox()?, bob.inbox()?);
    let wallet = LocalWallet::from_key(&[0x52; 32])?;
    let mut account = Account::new(usher_xmtp::inbox_of(wallet.address(), network).await?, &SystemClock, &Ambient)?;
    account.register(&wallet, network, &SystemClock).await?;
    let both = [alice.clone(), bob.clone()].into();
    let mut group = group_with(&account, "two", &both, network, &mut Identities::default()).await?;
    let sent = group.send_welcomes(network, &Ambient, |inbox| *inbox == alice).await?;
    assert_eq!((sent.sent.len(), sent.withheld.len()), (1, 1), "{sent:?}");
    group.clear_welcomes(&sent);
    assert_eq!(group.stranded(), [bob].into());
    Ok(())
}

/// Or each change of a room of hundreds would read and verify hundreds of logs.
#[tokio::test]
async fn a_change_verifies_only_the_logs_that_it_concerns() -> Outcome {
    let world = World::start().await?;
    let parts = world.parts().await?;
    let network = &*parts.network;
    let (alice, bob) = (world.person(1).await?.inbox()?, world.person(2).await?.inbox()?);
    let wallet = LocalWallet::from_key(&[0x53; 32])?;
    let mut account = Account::new(usher_xmtp::inbox_of(wallet.address(), network).await?, &SystemClock, &Ambient)?;
    account.register(&wallet, network, &SystemClock).await?;
    let in_it = [alice.clone()].into();
    let group = group_with(&account, "two", &in_it, network, &mut Identities::default()).await?;

    let (added, none) = (BTreeSet::from([bob.clone()]), BTreeSet::new());
    let mut identities = Identities::default();
    let change = group.membership_change(&account, network, &mut identities, &added, &none).await?;
    assert_eq!(change.set.keys().collect::<Vec<_>>(), [&bob]);
    assert!(identities.knows(&bob) && !identities.knows(&alice));

    // Her second device is news.
    world.person(1).await?;
    let mut identities = Identities::default();
    let change = group.membership_change(&account, network, &mut identities, &none, &none).await?;
    assert_eq!(change.set.keys().collect::<Vec<_>>(), [&alice]);
    assert_eq!(change.add_installations.len(), 1);

    let mut identities = Identities::default();
    let change = group.membership_change(&account, network, &mut identities, &none, &in_it).await?;
    assert_eq!(change.remove_installations.len(), 1, "her first device, and no other was ever in");
    Ok(())
}
