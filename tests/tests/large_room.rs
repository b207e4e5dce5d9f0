//! A room of 250, XMTP's limit: made, changed and read by our client and by the published one.

use std::collections::BTreeSet;

use futures::future::try_join_all;
use usher_localnet::{
    person::Person,
    xmtp_node::{Node, NodeOptions},
};
use usher_tests::node_sdk::{GroupOptions, NodeSdk, Wallet};
use usher_xmtp::{GroupId, policy::Policies};

/// libxmtp lets no more inboxes into a group.
const INBOXES: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_250_is_made_changed_and_read_by_both() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::start(NodeOptions::on_free_ports()).await?;
    let sdk = NodeSdk::start(&node.url())?;
    let ana = sdk.client(&Wallet::numbered(1)).await?;
    let url = node.url();
    let mut people: Vec<Person> = try_join_all((0..INBOXES - 1).map(|number| {
        let mut key = [1; 32];
        key[24..].copy_from_slice(&(number as u64).to_be_bytes());
        let url = url.clone();
        async move { Person::register(&key, &url).await }
    }))
    .await?;
    let inboxes: Vec<_> = people.iter().map(Person::inbox).collect::<Result<_, _>>()?;
    let mut ours = people.remove(0);
    let mut other = people.pop().ok_or("somebody is there")?;

    // Ours makes it.
    let mut members: BTreeSet<_> = inboxes[1..].iter().cloned().collect();
    members.insert(ana.inbox_id().parse()?);
    let room = ours.create_group("all of us", Policies::admin_only(), &members).await?;
    assert_eq!(ours.group(room)?.members().len(), INBOXES);
    ana.sync().await?;
    let seen = ana.synced(&room.to_string()).await?;
    assert_eq!(seen.members.len(), INBOXES);
    ana.send_text(&room.to_string(), "so many").await?;
    ours.change_members(room, &BTreeSet::new(), &[other.inbox()?].into()).await?;
    assert_eq!(ours.texts(room), ["so many"]);
    assert_eq!(ana.synced(&room.to_string()).await?.members.len(), INBOXES - 1);
    ours.change_members(room, &[other.inbox()?].into(), &BTreeSet::new()).await?;
    ours.send_text(room, "all back").await?;
    other.sync().await?;
    assert_eq!(other.texts(room), ["all back"], "{:?}", other.dropped());

    // Theirs makes it.
    let ids: Vec<String> = inboxes.iter().map(ToString::to_string).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let name = ana.create_group(&ids, &GroupOptions::default()).await?;
    let theirs = GroupId(hex::decode(&name)?.try_into().map_err(|_| "16 bytes")?);
    other.sync().await?;
    assert_eq!(other.group(theirs)?.members().len(), INBOXES, "{:?}", other.dropped());
    ana.remove_members(&name, &[ids[0]]).await?;
    other.send_text(theirs, "one less").await?;
    assert_eq!(other.group(theirs)?.members().len(), INBOXES - 1);
    ana.sync_conversation(&name).await?;
    assert_eq!(ana.texts(&name).await?, ["one less"]);
    Ok(())
}
