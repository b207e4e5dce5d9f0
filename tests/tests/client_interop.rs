//! Our XMTP client against the published one: each makes rooms, changes them and talks to the other, over Curve25519,
//! X-Wing and pointers. Our side's state is encoded, dropped and decoded between every call.

use std::{collections::BTreeSet, time::Duration};

use usher_localnet::{
    person::Person,
    xmtp_node::{Node, NodeOptions, RunningNode},
};
use usher_tests::{
    node_sdk::{GroupOptions, MetadataField, NodeSdk, Preset, RoleChange, SdkClient, Wallet},
    welcomes::{Wrapped, on_node},
    world::AnyError,
};
use usher_xmtp::{
    GroupId, Lost, Wrapping, attributes,
    group::{Event, MetadataChange},
    identity::InboxId,
    policy::Policies,
};

type Outcome = Result<(), AnyError>;

struct World {
    node: RunningNode,
    sdk: NodeSdk,
}

impl World {
    async fn start() -> Result<Self, AnyError> {
        let node = Node::start(NodeOptions::on_free_ports()).await?;
        let sdk = NodeSdk::start(&node.url())?;
        Ok(Self { node, sdk })
    }

    /// A person with the published client.
    async fn theirs(&self, number: u64) -> Result<SdkClient, AnyError> {
        Ok(self.sdk.client(&Wallet::numbered(number)).await?)
    }

    /// A person with our client.
    async fn ours(&self, number: u8) -> Result<Person, AnyError> {
        Ok(Person::register(&[number; 32], &self.node.url()).await?)
    }

    /// How the welcomes are wrapped that lie on the node for a published client.
    async fn for_theirs(&self, client: &SdkClient) -> Result<Vec<Wrapped>, AnyError> {
        on_node(&self.node.url(), client.installation_id()).await
    }

    /// The same for a client of ours.
    async fn for_ours(&self, person: &Person) -> Result<Vec<Wrapped>, AnyError> {
        on_node(&self.node.url(), &person.installation()?.to_string()).await
    }
}

fn inbox(client: &SdkClient) -> InboxId {
    client.inbox_id().parse().expect("an SDK's inbox id")
}

fn inboxes(clients: &[&SdkClient]) -> BTreeSet<InboxId> {
    clients.iter().map(|client| inbox(client)).collect()
}

fn id(group: &str) -> GroupId {
    let bytes = hex::decode(group).expect("an SDK's group id");
    GroupId(bytes.try_into().expect("16 bytes"))
}

/// What stood in the log and did not count, for assertion messages.
fn skipped(person: &Person, group: GroupId) -> Vec<&Event> {
    person.events(group).iter().filter(|event| matches!(event, Event::Skipped { .. })).collect()
}

#[tokio::test]
async fn our_room_holds_their_clients() -> Outcome {
    let world = World::start().await?;
    let mut ours = world.ours(1).await?;
    let (ana, ben) = (world.theirs(1).await?, world.theirs(2).await?);
    let ben_at_work = world.theirs(2).await?;

    let room = ours.create_group("Opening night", Policies::admin_only(), &inboxes(&[&ana])).await?;
    ours.change_members(room, &inboxes(&[&ben]), &BTreeSet::new()).await?;
    let name = room.to_string();
    for client in [&ana, &ben, &ben_at_work] {
        client.sync().await?;
        let seen = client.synced(&name).await?;
        assert_eq!(seen.name, "Opening night");
        assert_eq!(seen.super_admins, [ours.inbox()?.to_string()]);
        assert_eq!(seen.preset, Some(Preset::AdminOnly));
        assert!(seen.is_active && !seen.maybe_forked, "{}", seen.fork_details);
    }

    ours.send_text(room, "welcome").await?;
    ana.sync_conversation(&name).await?;
    assert_eq!(ana.texts(&name).await?, ["welcome"]);
    // libxmtp renews its keys before it first speaks.
    let before = ours.group(room)?.epoch();
    ana.send_text(&name, "hello").await?;
    ours.sync().await?;
    assert_eq!(ours.group(room)?.epoch(), before + 1);
    ben_at_work.sync_conversation(&name).await?;
    ben_at_work.send_text(&name, "hi from work").await?;
    ours.sync().await?;
    assert_eq!(ours.texts(room), ["hello", "hi from work"], "{:?}", skipped(&ours, room));

    let rename = MetadataChange {
        attributes: [(attributes::NAME.to_owned(), "Closing night".to_owned())].into(),
        add_admins: inboxes(&[&ana]),
        ..MetadataChange::default()
    };
    ours.change_metadata(room, &rename).await?;
    let seen = ana.synced(&name).await?;
    assert_eq!(seen.name, "Closing night");
    assert_eq!(seen.admins, [ana.inbox_id()]);

    ours.change_members(room, &BTreeSet::new(), &inboxes(&[&ben])).await?;
    ours.send_text(room, "without Ben").await?;
    ana.sync_conversation(&name).await?;
    assert_eq!(ana.texts(&name).await?.last().map(String::as_str), Some("without Ben"));
    for client in [&ben, &ben_at_work] {
        let seen = client.synced(&name).await?;
        assert!(!seen.is_active);
        assert!(!client.texts(&name).await?.contains(&"without Ben".to_owned()));
    }

    ours.change_members(room, &inboxes(&[&ben]), &BTreeSet::new()).await?;
    ben.sync().await?;
    assert!(ben.synced(&name).await?.is_active, "a member who was removed can come back");
    ben.send_text(&name, "back again").await?;
    ours.sync().await?;
    assert_eq!(ours.texts(room).last().map(String::as_str), Some("back again"));
    Ok(())
}

#[tokio::test]
async fn their_room_holds_our_client() -> Outcome {
    let world = World::start().await?;
    let mut ours = world.ours(1).await?;
    let (ana, ben) = (world.theirs(1).await?, world.theirs(2).await?);
    let our_inbox = ours.inbox()?.to_string();
    let options = GroupOptions {
        name: Some("Ana's room".to_owned()),
        preset: Some(Preset::AdminOnly),
        ..GroupOptions::default()
    };
    let name = ana.create_group(&[&our_inbox, ben.inbox_id()], &options).await?;
    let room = id(&name);

    ours.sync().await?;
    assert_eq!(ours.dropped(), [] as [&str; 0]);
    let group = ours.group(room)?;
    assert_eq!(group.metadata().attributes[attributes::NAME], "Ana's room");
    assert_eq!(group.added_by(), Some(&inbox(&ana)));

    ana.send_text(&name, "hello ours").await?;
    ours.sync().await?;
    assert_eq!(ours.texts(room), ["hello ours"], "{:?}", skipped(&ours, room));
    ours.update_keys(room).await?;
    ours.send_text(room, "hello theirs").await?;
    ben.sync().await?;
    ben.sync_conversation(&name).await?;
    assert_eq!(ben.texts(&name).await?.last().map(String::as_str), Some("hello theirs"));

    ana.set_metadata(&name, MetadataField::Name, "renamed").await?;
    ana.change_role(&name, &our_inbox, RoleChange::AddAdmin).await?;
    ours.sync().await?;
    assert_eq!(ours.group(room)?.metadata().attributes[attributes::NAME], "renamed");
    assert_eq!(ana.conversation(&name).await?.admins, [our_inbox.as_str()]);

    // As admin, ours may add and remove.
    let cem = world.theirs(3).await?;
    ours.change_members(room, &inboxes(&[&cem]), &inboxes(&[&ben])).await?;
    cem.sync().await?;
    assert!(cem.synced(&name).await?.is_active);
    assert!(!ben.synced(&name).await?.is_active);

    ana.remove_members(&name, &[&our_inbox]).await?;
    ana.send_text(&name, "without ours").await?;
    ours.sync().await?;
    assert_eq!(ours.group(room)?.lost(), Some(&Lost::Ejected));
    assert!(!ours.texts(room).contains(&"without ours".to_owned()));
    Ok(())
}

#[tokio::test]
async fn pointers_work_both_ways() -> Outcome {
    let world = World::start().await?;
    let mut ours = world.ours(1).await?;
    let mut also_ours = world.ours(2).await?;
    let theirs = [world.theirs(1).await?, world.theirs(2).await?, world.theirs(3).await?];
    let mut members = inboxes(&theirs.each_ref());
    members.insert(also_ours.inbox()?);
    let room = ours.create_group("many", Policies::admin_only(), &members).await?;
    for client in &theirs {
        client.sync().await?;
        assert!(client.synced(&room.to_string()).await?.is_active);
        assert_eq!(world.for_theirs(client).await?, [Wrapped::Pointer]);
    }
    also_ours.sync().await?;
    assert_eq!(also_ours.dropped(), [] as [&str; 0]);
    assert!(also_ours.group(room)?.is_active());
    assert_eq!(world.for_ours(&also_ours).await?, [Wrapped::Pointer]);

    let ids: Vec<String> =
        [&ours, &also_ours].iter().map(|person| person.inbox().map(|id| id.to_string())).collect::<Result<_, _>>()?;
    let name = theirs[0]
        .create_group(&[&ids[0], &ids[1], theirs[1].inbox_id(), theirs[2].inbox_id()], &GroupOptions::default())
        .await?;
    for person in [&mut ours, &mut also_ours] {
        person.sync().await?;
        assert_eq!(person.dropped(), [] as [&str; 0]);
        assert!(person.group(id(&name))?.is_active());
        assert_eq!(world.for_ours(person).await?.last(), Some(&Wrapped::Pointer));
    }
    Ok(())
}

/// As libxmtp does it, see `from_three_recipients_on_welcomes_are_pointers` in sdk_to_sdk.rs.
#[tokio::test]
async fn from_three_recipients_on_our_welcomes_are_pointers() -> Outcome {
    let world = World::start().await?;
    let mut ours = world.ours(1).await?;
    let theirs = [world.theirs(1).await?, world.theirs(2).await?, world.theirs(3).await?];
    let two = ours.create_group("two", Policies::admin_only(), &inboxes(&[&theirs[0], &theirs[1]])).await?;
    let three = ours.create_group("three", Policies::admin_only(), &inboxes(&theirs.each_ref())).await?;
    assert_eq!(world.for_theirs(&theirs[0]).await?, [Wrapped::XWing, Wrapped::Pointer]);
    assert_eq!(world.for_theirs(&theirs[1]).await?, [Wrapped::XWing, Wrapped::Pointer]);
    assert_eq!(world.for_theirs(&theirs[2]).await?, [Wrapped::Pointer]);
    for client in &theirs {
        client.sync().await?;
        assert!(client.synced(&three.to_string()).await?.is_active);
    }
    assert!(theirs[1].synced(&two.to_string()).await?.is_active);
    Ok(())
}

/// Into a room that is there already, with one device and with two.
#[tokio::test]
async fn they_add_our_inboxes() -> Outcome {
    let world = World::start().await?;
    let mut one = world.ours(1).await?;
    let (mut phone, mut laptop) = (world.ours(2).await?, world.ours(2).await?);
    assert_eq!(phone.inbox()?, laptop.inbox()?);
    assert_ne!(phone.installation()?, laptop.installation()?);
    let ana = world.theirs(1).await?;
    let name = ana.create_group(&[], &GroupOptions::default()).await?;
    let room = id(&name);
    ana.send_text(&name, "nobody here").await?;

    ana.add_members(&name, &[&one.inbox()?.to_string()]).await?;
    one.sync().await?;
    one.send_text(room, "one").await?;
    ana.add_members(&name, &[&phone.inbox()?.to_string()]).await?;
    ana.send_text(&name, "all here").await?;
    let two = phone.inbox()?;
    for person in [&mut one, &mut phone, &mut laptop] {
        person.sync().await?;
        assert_eq!(person.dropped(), [] as [&str; 0]);
        assert_eq!(person.texts(room), ["all here"], "{:?}", skipped(person, room));
        assert_eq!(world.for_ours(person).await?, [Wrapped::XWing]);
        assert_eq!(person.group(room)?.members()[&two].installations.len(), 2);
    }
    laptop.send_text(room, "from the laptop").await?;
    phone.sync().await?;
    assert_eq!(phone.texts(room).last().map(String::as_str), Some("from the laptop"));
    ana.sync_conversation(&name).await?;
    assert_eq!(ana.texts(&name).await?, ["nobody here", "one", "all here", "from the laptop"]);
    Ok(())
}

/// A client whose key package names no X-Wing key gets its welcome wrapped to the init key.
#[tokio::test]
async fn welcomes_over_curve25519_work() -> Outcome {
    let world = World::start().await?;
    let (mut ours, mut also_ours) = (world.ours(1).await?, world.ours(2).await?);
    let ana = world.theirs(1).await?;
    ours.rotate_key_package(Wrapping::InitKey).await?;
    let name = ana.create_group(&[&ours.inbox()?.to_string()], &GroupOptions::default()).await?;
    assert_eq!(world.for_ours(&ours).await?, [Wrapped::Curve25519]);
    ours.sync().await?;
    assert_eq!(ours.dropped(), [] as [&str; 0]);
    ours.send_text(id(&name), "over X25519").await?;
    ana.sync_conversation(&name).await?;
    assert_eq!(ana.texts(&name).await?, ["over X25519"]);

    let room = also_ours.create_group("both ways", Policies::admin_only(), &[ours.inbox()?].into()).await?;
    assert_eq!(world.for_ours(&ours).await?, [Wrapped::Curve25519, Wrapped::Curve25519]);
    ours.sync().await?;
    assert!(ours.group(room)?.is_active());
    Ok(())
}

#[tokio::test]
async fn members_leave_at_their_own_wish() -> Outcome {
    let world = World::start().await?;
    let mut ours = world.ours(1).await?;
    let (ana, ben) = (world.theirs(1).await?, world.theirs(2).await?);

    let room = ours.create_group("ours", Policies::admin_only(), &inboxes(&[&ana, &ben])).await?;
    ben.sync().await?;
    ben.request_removal(&room.to_string()).await?;
    ours.sync().await?;
    assert_eq!(ours.group(room)?.leaving(), &inboxes(&[&ben]));
    ours.change_members(room, &BTreeSet::new(), &inboxes(&[&ben])).await?;
    ana.sync().await?;
    assert!(!ana.synced(&room.to_string()).await?.inbox_ids().contains(&ben.inbox_id()));
    let left = ours.events(room).iter().any(|event| match event {
        Event::Committed(committed) => committed.change.left_inboxes.iter().any(|left| left.inbox_id == ben.inbox_id()),
        _ => false,
    });
    assert!(left, "the commit counts as leaving, not as being removed");

    let our_inbox = ours.inbox()?.to_string();
    let name = ana.create_group(&[&our_inbox, ben.inbox_id()], &GroupOptions::default()).await?;
    ours.sync().await?;
    ours.leave(id(&name)).await?;
    // A worker in the super admin's client removes who asked to leave.
    let removed = async {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        while ana.synced(&name).await?.inbox_ids().contains(&our_inbox.as_str()) {
            tick.tick().await;
        }
        Ok::<(), AnyError>(())
    };
    tokio::time::timeout(Duration::from_secs(60), removed).await??;
    ours.sync().await?;
    assert_eq!(ours.group(id(&name))?.lost(), Some(&Lost::Ejected));
    Ok(())
}

/// A state that is older than what was sent from it must never be written from again; a forgery must not look so.
#[tokio::test]
async fn an_older_state_is_noticed_and_a_forgery_is_not_taken_for_it() -> Outcome {
    let world = World::start().await?;
    let (mut ours, mut also_ours) = (world.ours(1).await?, world.ours(2).await?);
    let room = ours.create_group("room", Policies::admin_only(), &[also_ours.inbox()?].into()).await?;
    also_ours.sync().await?;

    ours.send_forgery(room).await?;
    ours.sync().await?;
    assert_eq!(ours.group(room)?.lost(), None, "anybody can claim our leaf");
    assert!(matches!(skipped(&ours, room)[..], [Event::Skipped { .. }]));

    let old = ours.snapshot();
    ours.send_text(room, "sent after the snapshot").await?;
    ours.restore(old);
    ours.sync().await?;
    assert_eq!(ours.group(room)?.lost(), Some(&Lost::RolledBack));
    assert!(ours.send_text(room, "with used keys").await.is_err());
    Ok(())
}
