//! Published XMTP clients talk to each other through the local node, with usher absent: what holds here is the node's
//! doing and libxmtp's, and what usher is later measured against.

use std::time::Duration;

use usher_localnet::xmtp_node::{Node, NodeOptions, RunningNode};
use usher_tests::{
    node_sdk::{
        Consent, GroupOptions, Level, MetadataField, NodeSdk, Permission, Policy, Preset, RoleChange, SdkClient,
        SdkError, Updated, Wallet,
    },
    welcomes::{Wrapped, on_node},
    world::AnyError,
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

    /// The person whose wallet has this number, on a new device.
    async fn person(&self, number: u64) -> Result<SdkClient, SdkError> {
        self.sdk.client(&Wallet::numbered(number)).await
    }
}

fn named(name: &str) -> GroupOptions {
    GroupOptions { name: Some(name.to_owned()), ..GroupOptions::default() }
}

fn sorted<'a>(people: &[&'a SdkClient]) -> Vec<&'a str> {
    let mut ids: Vec<_> = people.iter().map(|person| person.inbox_id()).collect();
    ids.sort_unstable();
    ids
}

/// What the SDK refused to do, in its own words.
fn refusal<T: std::fmt::Debug>(outcome: Result<T, SdkError>) -> String {
    match outcome {
        Err(SdkError::Refused { message, .. }) => message,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The transcripts of commits as `person` has them, oldest first.
async fn transcripts(person: &SdkClient, group: &str) -> Result<Vec<Updated>, SdkError> {
    Ok(person.messages(group).await?.into_iter().filter_map(|message| message.updated).collect())
}

#[tokio::test]
async fn the_driver_survives_what_the_sdk_refuses() -> Outcome {
    let world = World::start().await?;
    let ana = world.person(1).await?;
    assert_eq!(ana.libxmtp_version(), "1.9.1");

    assert!(refusal(ana.conversation("00").await).contains("no conversation 00"));
    let stranger = "ab".repeat(32);
    let group = ana.create_group(&[], &named("alone")).await?;
    refusal(ana.add_members(&group, &[&stranger]).await);
    assert_eq!(ana.conversation(&group).await?.inbox_ids(), [ana.inbox_id()]);
    Ok(())
}

#[tokio::test]
async fn a_dm_carries_texts_both_ways() -> Outcome {
    let world = World::start().await?;
    let (ana, ben) = (world.person(1).await?, world.person(2).await?);

    let dm = ana.create_dm(ben.inbox_id()).await?;
    ana.send_text(&dm, "hello Ben").await?;
    ben.sync().await?;
    assert_eq!(ben.create_dm(ana.inbox_id()).await?, dm, "the DM is the one that Ana opened");
    let seen = ben.synced(&dm).await?;
    assert!(seen.is_dm);
    assert_eq!(seen.inbox_ids(), sorted(&[&ana, &ben]));
    assert_eq!(ben.texts(&dm).await?, ["hello Ben"]);

    ben.send_text(&dm, "hello Ana").await?;
    ana.sync_conversation(&dm).await?;
    assert_eq!(ana.texts(&dm).await?, ["hello Ben", "hello Ana"]);
    Ok(())
}

#[tokio::test]
async fn a_group_is_made_renamed_and_talked_in() -> Outcome {
    let world = World::start().await?;
    let (ana, ben, cem) = (world.person(1).await?, world.person(2).await?, world.person(3).await?);

    let options = GroupOptions {
        name: Some("Opening night".to_owned()),
        description: Some("Doors at nine".to_owned()),
        preset: Some(Preset::AdminOnly),
        ..GroupOptions::default()
    };
    let room = ana.create_group(&[ben.inbox_id()], &options).await?;
    ana.add_addresses(&room, &[cem.address()]).await?;

    for person in [&ben, &cem] {
        person.sync().await?;
        let seen = person.synced(&room).await?;
        assert_eq!((seen.name.as_str(), seen.description.as_str()), ("Opening night", "Doors at nine"));
        assert_eq!(seen.inbox_ids(), sorted(&[&ana, &ben, &cem]));
        assert_eq!((seen.creator.as_str(), seen.added_by.as_str()), (ana.inbox_id(), ana.inbox_id()));
        assert_eq!(seen.super_admins, [ana.inbox_id()]);
        assert_eq!(seen.preset, Some(Preset::AdminOnly));
        assert_eq!(seen.policies.map(|policies| policies.add_member_policy), Some(Policy::Admin));
        assert!(seen.is_active && !seen.maybe_forked, "{}", seen.fork_details);
    }

    ana.set_metadata(&room, MetadataField::Name, "Closing night").await?;
    ana.send_text(&room, "it is the last one").await?;
    ben.sync_conversation(&room).await?;
    ben.send_text(&room, "what a pity").await?;
    for person in [&ana, &ben, &cem] {
        let seen = person.synced(&room).await?;
        assert_eq!(seen.name, "Closing night");
        assert_eq!(person.texts(&room).await?, ["it is the last one", "what a pity"]);
        let renamed = transcripts(person, &room).await?.pop().expect("the rename is in the transcript");
        assert_eq!(renamed.initiated_by, ana.inbox_id());
        assert_eq!(renamed.fields[0].name, "group_name");
        assert_eq!(renamed.fields[0].new.as_deref(), Some("Closing night"));
    }
    refusal(ben.set_metadata(&room, MetadataField::Name, "Ben's night").await);
    Ok(())
}

#[tokio::test]
async fn roles_change_what_members_may_do() -> Outcome {
    let world = World::start().await?;
    let (ana, ben, cem) = (world.person(1).await?, world.person(2).await?, world.person(3).await?);
    let options = GroupOptions { preset: Some(Preset::AdminOnly), ..named("room") };
    let room = ana.create_group(&[ben.inbox_id()], &options).await?;
    ben.sync().await?;

    refusal(ben.add_members(&room, &[cem.inbox_id()]).await);
    ana.change_role(&room, ben.inbox_id(), RoleChange::AddAdmin).await?;
    ben.sync_conversation(&room).await?;
    ben.add_members(&room, &[cem.inbox_id()]).await?;
    let seen = ana.synced(&room).await?;
    assert_eq!(seen.admins, [ben.inbox_id()]);
    assert_eq!(seen.member(ben.inbox_id()).map(|member| member.level), Some(Level::Admin));
    assert_eq!(seen.inbox_ids(), sorted(&[&ana, &ben, &cem]));

    ana.change_role(&room, ben.inbox_id(), RoleChange::RemoveAdmin).await?;
    ana.change_role(&room, cem.inbox_id(), RoleChange::AddSuperAdmin).await?;
    cem.sync().await?;
    let seen = cem.synced(&room).await?;
    assert!(seen.admins.is_empty());
    assert_eq!(seen.super_admins.len(), 2);

    // A super admin may even widen the policies.
    cem.set_permission(&room, Permission::UpdateMetadata(MetadataField::Name), Policy::Allow).await?;
    let seen = ben.synced(&room).await?;
    assert_eq!(seen.preset, Some(Preset::Custom));
    ben.set_metadata(&room, MetadataField::Name, "Ben's room").await?;
    cem.change_role(&room, ana.inbox_id(), RoleChange::RemoveSuperAdmin).await?;
    let seen = ana.synced(&room).await?;
    assert_eq!((seen.name.as_str(), seen.super_admins), ("Ben's room", vec![cem.inbox_id().to_owned()]));
    Ok(())
}

#[tokio::test]
async fn who_is_removed_reads_no_more() -> Outcome {
    let world = World::start().await?;
    let (ana, ben, cem) = (world.person(1).await?, world.person(2).await?, world.person(3).await?);
    let room = ana.create_group(&[ben.inbox_id(), cem.inbox_id()], &named("room")).await?;
    ben.sync().await?;
    ana.send_text(&room, "before").await?;

    ana.remove_members(&room, &[ben.inbox_id()]).await?;
    ana.send_text(&room, "after").await?;
    let seen = ben.synced(&room).await?;
    assert!(!seen.is_active);
    assert_eq!(ben.texts(&room).await?, ["before"]);
    let last = transcripts(&ben, &room).await?.pop().expect("the removal is in the transcript");
    assert_eq!((last.initiated_by.as_str(), last.removed), (ana.inbox_id(), vec![ben.inbox_id().to_owned()]));
    refusal(ben.send_text(&room, "let me in").await);

    cem.sync().await?;
    assert_eq!(cem.synced(&room).await?.inbox_ids(), sorted(&[&ana, &cem]));
    assert_eq!(cem.texts(&room).await?, ["before", "after"]);

    // Taken back, Ben reads what comes from then on.
    ana.add_members(&room, &[ben.inbox_id()]).await?;
    ana.send_text(&room, "welcome back").await?;
    ben.sync().await?;
    assert!(ben.synced(&room).await?.is_active);
    assert_eq!(ben.texts(&room).await?, ["before", "welcome back"]);
    Ok(())
}

#[tokio::test]
async fn who_asks_to_leave_is_taken_out_by_a_super_admins_client() -> Outcome {
    let world = World::start().await?;
    let (ana, ben, cem) = (world.person(1).await?, world.person(2).await?, world.person(3).await?);
    let room = ana.create_group(&[ben.inbox_id(), cem.inbox_id()], &named("room")).await?;
    ben.sync().await?;
    let mut seen_by_ana = ana.stream_messages().await?;
    let mut seen_by_ben = ben.stream_messages().await?;

    ben.request_removal(&room).await?;
    assert!(ben.conversation(&room).await?.is_pending_removal);
    let asked = seen_by_ana.until(|message| message.content_type == "xmtp.org/leave_request").await?;
    assert_eq!(asked.sender, ben.inbox_id());
    let left = seen_by_ben.until(|message| message.updated.is_some()).await?.updated.expect("it is a transcript");
    assert_eq!((left.initiated_by.as_str(), left.left), (ana.inbox_id(), vec![ben.inbox_id().to_owned()]));
    assert!(left.removed.is_empty(), "leaving is not being removed");

    assert!(!ben.conversation(&room).await?.is_active);
    cem.sync().await?;
    assert_eq!(cem.synced(&room).await?.inbox_ids(), sorted(&[&ana, &cem]));
    Ok(())
}

#[tokio::test]
async fn an_inbox_sits_with_all_its_installations() -> Outcome {
    let world = World::start().await?;
    let ana = world.person(1).await?;
    let (phone, laptop) = (world.person(2).await?, world.person(2).await?);
    assert_eq!(phone.inbox_id(), laptop.inbox_id());
    assert_ne!(phone.installation_id(), laptop.installation_id());

    let room = ana.create_group(&[phone.inbox_id()], &named("room")).await?;
    for device in [&phone, &laptop] {
        device.sync().await?;
        let seen = device.synced(&room).await?;
        assert_eq!(seen.inbox_ids(), sorted(&[&ana, &phone]));
        assert_eq!(seen.member(phone.inbox_id()).map(|member| member.installation_ids.len()), Some(2));
    }
    phone.send_text(&room, "from the phone").await?;
    laptop.sync_conversation(&room).await?;
    laptop.send_text(&room, "from the laptop").await?;
    ana.sync_conversation(&room).await?;
    assert_eq!(ana.texts(&room).await?, ["from the phone", "from the laptop"]);

    // The next commit that changes who is in brings a third device as well, and takes a revoked one away.
    let (tablet, cem) = (world.person(2).await?, world.person(3).await?);
    phone.revoke_installations(&[laptop.installation_id()]).await?;
    let state = ana.inbox_states(&[phone.inbox_id()]).await?.pop().expect("one was asked for");
    let mut devices = vec![phone.installation_id(), tablet.installation_id()];
    devices.sort_unstable();
    let mut listed: Vec<_> = state.installation_ids.iter().map(String::as_str).collect();
    listed.sort_unstable();
    assert_eq!(listed, devices);

    ana.add_members(&room, &[cem.inbox_id()]).await?;
    tablet.sync().await?;
    assert!(tablet.synced(&room).await?.is_active);
    assert!(!laptop.synced(&room).await?.is_active);
    Ok(())
}

#[tokio::test]
async fn streams_deliver_texts_and_new_groups_as_they_come() -> Outcome {
    let world = World::start().await?;
    let (ana, ben) = (world.person(1).await?, world.person(2).await?);
    let first = ana.create_group(&[ben.inbox_id()], &named("first")).await?;

    let mut messages = ben.stream_messages().await?;
    let mut groups = ben.stream_conversations().await?;
    ana.send_text(&first, "one").await?;
    ana.send_text(&first, "two").await?;
    let texts: Vec<_> = messages.take(2).await?.into_iter().map(|message| (message.group_id, message.text)).collect();
    assert_eq!(texts, [(first.clone(), Some("one".to_owned())), (first.clone(), Some("two".to_owned()))]);

    let second = ana.create_group(&[ben.inbox_id()], &named("second")).await?;
    assert_eq!(groups.next().await?, second);
    ana.send_text(&second, "three").await?;
    let third = messages.until(|message| message.text.is_some()).await?;
    assert_eq!((third.group_id, third.text.as_deref()), (second, Some("three")));

    ben.send_text(&first, "and back").await?;
    ana.sync_all(&[]).await?;
    assert_eq!(ana.texts(&first).await?, ["one", "two", "and back"]);
    messages.end().await?;
    let mut again = ben.stream_messages().await?;
    ana.send_text(&first, "four").await?;
    again.until(|message| message.text.as_deref() == Some("four")).await?;
    Ok(())
}

#[tokio::test]
async fn from_three_recipients_on_welcomes_are_pointers() -> Outcome {
    let world = World::start().await?;
    let ana = world.person(1).await?;
    let mut guests = Vec::new();
    for number in 2..=5 {
        guests.push(world.person(number).await?);
    }
    let two: Vec<_> = guests.iter().take(2).map(SdkClient::inbox_id).collect();
    let all: Vec<_> = guests.iter().map(SdkClient::inbox_id).collect();
    let small = ana.create_group(&two, &named("small")).await?;
    let large = ana.create_group(&all, &named("large")).await?;

    assert_eq!(on_node(&world.node.url(), guests[0].installation_id()).await?, [Wrapped::XWing, Wrapped::Pointer]);
    assert_eq!(on_node(&world.node.url(), guests[3].installation_id()).await?, [Wrapped::Pointer]);
    for guest in &guests {
        guest.sync().await?;
        assert_eq!(guest.synced(&large).await?.members.len(), 5);
        guest.send_text(&large, "here").await?;
    }
    guests[0].synced(&small).await?;
    ana.sync_conversation(&large).await?;
    assert_eq!(ana.texts(&large).await?, ["here"; 4]);
    Ok(())
}

#[tokio::test]
async fn a_new_group_waits_for_its_members_consent() -> Outcome {
    let world = World::start().await?;
    let (ana, ben) = (world.person(1).await?, world.person(2).await?);
    let room = ana.create_group(&[ben.inbox_id()], &named("room")).await?;
    ben.sync().await?;

    let listed = ben.groups(&[]).await?;
    assert_eq!(listed.iter().map(|group| (&group.id, group.consent)).collect::<Vec<_>>(), [(&room, Consent::Unknown)]);
    assert!(ben.groups(&[Consent::Allowed]).await?.is_empty());
    ben.set_consent(&room, Consent::Allowed).await?;
    assert_eq!(ben.groups(&[Consent::Allowed]).await?.len(), 1);
    ben.set_consent(&room, Consent::Denied).await?;
    assert!(ben.groups(&[]).await?.is_empty(), "what was refused is not listed unless asked for");
    Ok(())
}

#[tokio::test]
async fn identities_are_found_linked_and_unlinked() -> Outcome {
    let world = World::start().await?;
    let (ana, ben) = (world.person(1).await?, world.person(2).await?);
    let nobody = "0x00000000000000000000000000000000000000aa";
    let reachable = ana.can_message(&[ben.address(), nobody]).await?;
    assert_eq!((reachable[ben.address()], reachable[nobody]), (true, false));

    let packages = ana.key_packages(&[ben.installation_id()]).await?;
    let package = &packages[ben.installation_id()];
    assert_eq!(package.error, None);
    assert!(package.not_after > package.not_before);

    // Twice in a row: the same action signed twice within a second would be a replay.
    let second = Wallet::numbered(20);
    for _ in 0..2 {
        ben.add_account(&second).await?;
        let state = ana.inbox_states(&[ben.inbox_id()]).await?.pop().expect("one was asked for");
        let linked = state.addresses.iter().find(|address| *address != ben.address()).cloned();
        let linked = linked.expect("the second wallet is linked");
        assert!(ana.can_message(&[&linked]).await?[&linked]);
        ben.remove_account(&linked).await?;
        assert!(!ana.can_message(&[&linked]).await?[&linked]);
    }
    Ok(())
}

#[tokio::test]
async fn commits_for_one_epoch_leave_all_members_agreed() -> Outcome {
    let world = World::start().await?;
    let (ana, ben) = (world.person(1).await?, world.person(2).await?);
    let room = ana.create_group(&[ben.inbox_id()], &named("room")).await?;
    ana.change_role(&room, ben.inbox_id(), RoleChange::AddSuperAdmin).await?;
    ben.sync().await?;
    ben.sync_conversation(&room).await?;

    for round in 0..3 {
        let (by_ana, by_ben) = (format!("Ana's {round}"), format!("Ben's {round}"));
        let (one, other) = tokio::join!(
            ana.set_metadata(&room, MetadataField::Name, &by_ana),
            ben.set_metadata(&room, MetadataField::Description, &by_ben),
        );
        one?;
        other?;
        let (seen_by_ana, seen_by_ben) = (ana.synced(&room).await?, ben.synced(&room).await?);
        assert_eq!((&seen_by_ana.name, &seen_by_ana.description), (&by_ana, &by_ben));
        assert_eq!((&seen_by_ben.name, &seen_by_ben.description), (&by_ana, &by_ben));
        assert_eq!(seen_by_ana.epoch, seen_by_ben.epoch);
        assert!(!seen_by_ana.maybe_forked && !seen_by_ben.maybe_forked);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_catches_up_over_several_pages() -> Outcome {
    let world = World::start().await?;
    let (ana, ben) = (world.person(1).await?, world.person(2).await?);
    let room = ana.create_group(&[ben.inbox_id()], &named("room")).await?;
    ben.sync().await?;

    let mut sent = Vec::new();
    for number in 0..230 {
        let text = format!("text {number}");
        ana.send_text_optimistic(&room, &text).await?;
        sent.push(text);
    }
    ana.publish_messages(&room).await?;
    tokio::time::timeout(Duration::from_secs(60), ben.sync_conversation(&room)).await??;
    assert_eq!(ben.texts(&room).await?, sent);
    Ok(())
}

#[tokio::test]
async fn a_group_made_offline_is_published_later() -> Outcome {
    let world = World::start().await?;
    let (ana, ben) = (world.person(1).await?, world.person(2).await?);
    let room = ana.create_group_optimistic(&named("later")).await?;
    ana.add_members(&room, &[ben.inbox_id()]).await?;
    ana.send_text_optimistic(&room, "kept").await?;
    ben.sync().await?;
    assert_eq!(ben.synced(&room).await?.name, "later");
    assert!(ben.texts(&room).await?.is_empty());

    ana.publish_messages(&room).await?;
    ben.sync_conversation(&room).await?;
    assert_eq!(ben.texts(&room).await?, ["kept"]);
    Ok(())
}
