//! The whole: `@xmtp/node-sdk` as creator, holders and outsider, through the queues of a running `usher dev`.

use usher_tests::{
    dev_stack::DevStack,
    haus::{Chain, Event},
    node_sdk::{Preset, SdkClient, SdkError, Wallet},
    world::AnyError,
};

type Outcome = Result<(), AnyError>;

fn wallet(number: u64) -> alloy_primitives::Address {
    Wallet::numbered(number).address()
}

fn sorted<'a>(ids: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_room_follows_its_tickets() -> Outcome {
    let (stack, mut chain) = (DevStack::start().await?, Chain::default());
    let (creator, alice) = (stack.person(1).await?, stack.person(2).await?);
    let event = Event::new(0, wallet(1));
    let key = event.key();
    stack.send(&[chain.mint(&event)]).await?;
    let room = stack.until_seated(&key, &[(&creator, 1)]).await?;
    creator.sync().await?;
    let seen = creator.synced(&room).await?;
    assert_eq!((seen.name.as_str(), seen.description), ("Jazz #0", key.to_string()));

    stack.send(&[chain.purchase(&event, 1, wallet(2))]).await?;
    stack.until_seated(&key, &[(&creator, 1), (&alice, 1)]).await?;
    alice.sync().await?;
    alice.send_text(&room, "hello").await?;
    creator.sync_conversation(&room).await?;
    assert_eq!(creator.texts(&room).await?, ["hello"]);

    stack.send(&[chain.refund(&event, 1, wallet(2))]).await?;
    stack.until_seated(&key, &[(&creator, 1)]).await?;
    assert!(!alice.synced(&room).await?.is_active);
    Ok(())
}
