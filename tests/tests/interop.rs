//! The whole: `@xmtp/node-sdk` as creator, holders and outsider, through the queues of a running `usher dev`.

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256, address};
use serde_json::{Value, json};
use usher_localnet::person::Person;
use usher_tests::{
    dev_stack::DevStack,
    haus::{Chain, Event},
    node_sdk::{Consent, MetadataField, Preset, RoleChange, SdkClient, SdkError, Wallet},
    world::AnyError,
};

type Outcome = Result<(), AnyError>;

/// People by the numbers of their wallets.
const CREATOR: u64 = 1;
const ALICE: u64 = 2;
const BOB: u64 = 3;
const CEM: u64 = 4;
const DANA: u64 = 5;

fn wallet(number: u64) -> Address {
    Wallet::numbered(number).address()
}

/// A stack, a chain and an event of the creator's that is not minted yet.
async fn scene() -> Result<(DevStack, Chain, Event), AnyError> {
    Ok((DevStack::start().await?, Chain::default(), Event::new(0, wallet(CREATOR))))
}

fn sorted<'a>(people: &[&'a str]) -> Vec<&'a str> {
    let mut people = people.to_vec();
    people.sort_unstable();
    people
}

fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, SdkError>) {
    assert!(matches!(outcome, Err(SdkError::Refused { .. })), "{outcome:?}");
}

/// What the person reads after a look at the network.
async fn read(person: &SdkClient, room: &str) -> Result<Vec<String>, SdkError> {
    person.sync_conversation(room).await?;
    person.texts(room).await
}

/// Takes the welcomes and says that the person is in.
async fn enter(person: &SdkClient, room: &str) -> Outcome {
    person.sync().await?;
    let seen = person.synced(room).await?;
    assert!(seen.is_active && !seen.maybe_forked, "{}", seen.fork_details);
    Ok(())
}

/// The person sees being out.
async fn assert_out(person: &SdkClient, room: &str) -> Outcome {
    // A room that it is out of already it does not sync.
    person.sync_all(&[Consent::Unknown, Consent::Allowed]).await?;
    assert!(!person.conversation(room).await?.is_active);
    assert_refused(person.send_text(room, "let me in").await);
    Ok(())
}

/// The person never had a room.
async fn assert_outside(person: &SdkClient) -> Outcome {
    person.sync_all(&[]).await?;
    assert!(person.groups(&[Consent::Unknown, Consent::Allowed, Consent::Denied]).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_room_follows_its_tickets() -> Outcome {
    let (stack, mut chain, event) = scene().await?;
    let key = event.key();
    let (creator, outsider) = (stack.person(CREATOR).await?, stack.person(9).await?);
    let (alice, alices_laptop) = (stack.person(ALICE).await?, stack.person(ALICE).await?);
    let (bob, cem, dana) = (stack.person(BOB).await?, stack.person(CEM).await?, stack.person(DANA).await?);

    // The room exists, and its creator is in charge.
    stack.send(&[chain.mint(&event)]).await?;
    let room = stack.until_seated(&key, &[(&creator, 1)]).await?;
    enter(&creator, &room).await?;
    let seen = creator.conversation(&room).await?;
    let usher = stack.ready.inbox_id.as_str();
    assert_eq!((seen.name.as_str(), seen.description), ("Jazz #0", key.to_string()));
    assert_eq!((seen.admins, seen.super_admins), (vec![creator.inbox_id().to_owned()], vec![usher.to_owned()]));
    assert_eq!((seen.added_by.as_str(), seen.creator.as_str()), (usher, usher));
    assert_eq!(seen.preset, Some(Preset::AdminOnly));

    // Holders are in with all their devices, and everybody reads everybody.
    let purchases = [
        chain.purchase(&event, 1, wallet(ALICE)),
        chain.purchase(&event, 2, wallet(BOB)),
        chain.purchase(&event, 3, wallet(ALICE)),
        chain.purchase(&event, 4, wallet(CREATOR)),
    ];
    stack.send(&purchases).await?;
    stack.until_seated(&key, &[(&creator, 1), (&alice, 2), (&bob, 1)]).await?;
    let everybody = [&creator, &alice, &alices_laptop, &bob];
    for person in everybody {
        enter(person, &room).await?;
        person.send_text(&room, person.installation_id()).await?;
    }
    for person in everybody {
        assert_eq!(read(person, &room).await?, everybody.map(SdkClient::installation_id));
    }

    // Holders can neither add nor remove nor rename, and their trying harms nothing.
    assert_refused(alice.add_members(&room, &[outsider.inbox_id()]).await);
    assert_refused(alice.remove_members(&room, &[bob.inbox_id()]).await);
    assert_refused(alice.set_metadata(&room, MetadataField::Name, "Alice's room").await);
    let seen = creator.synced(&room).await?;
    assert_eq!(seen.inbox_ids(), sorted(&[usher, creator.inbox_id(), alice.inbox_id(), bob.inbox_id()]));
    assert_eq!(seen.name, "Jazz #0");

    // A resale swaps; who has a ticket left stays, and the creator needs none.
    let resale = [
        chain.transfer(&event, 2, wallet(BOB), wallet(CEM)),
        chain.refund(&event, 3, wallet(ALICE)),
        chain.refund(&event, 4, wallet(CREATOR)),
    ];
    stack.send(&resale).await?;
    stack.until_handled().await?;
    stack.until_seated(&key, &[(&creator, 1), (&alice, 2), (&cem, 1)]).await?;
    enter(&cem, &room).await?;
    cem.send_text(&room, "instead of Bob").await?;
    assert_eq!(read(&alice, &room).await?.last().map(String::as_str), Some("instead of Bob"));
    assert_out(&bob, &room).await?;

    // A refund and a burn.
    stack.send(&[chain.refund(&event, 1, wallet(ALICE)), chain.burn(&event, 2, wallet(CEM))]).await?;
    stack.until_seated(&key, &[(&creator, 1)]).await?;
    creator.sync_conversation(&room).await?;
    creator.send_text(&room, "alone").await?;
    for person in [&alice, &alices_laptop, &bob, &cem] {
        assert_out(person, &room).await?;
        assert!(!person.texts(&room).await?.contains(&"alone".to_owned()));
    }
    assert!(!bob.texts(&room).await?.contains(&"instead of Bob".to_owned()));

    // A new buyer, and one who comes back.
    let again = [chain.purchase(&event, 5, wallet(DANA)), chain.purchase(&event, 6, wallet(BOB))];
    stack.send(&again).await?;
    stack.until_seated(&key, &[(&creator, 1), (&dana, 1), (&bob, 1)]).await?;
    for person in [&dana, &bob] {
        enter(person, &room).await?;
        person.send_text(&room, "new here").await?;
    }
    let texts = read(&creator, &room).await?;
    assert_eq!(texts[texts.len() - 3..], ["alone", "new here", "new here"]);
    assert_eq!(read(&dana, &room).await?, ["new here", "new here"], "nobody reads what was before him");
    assert_out(&alice, &room).await?;
    assert_outside(&outsider).await
}

/// Clients publish commits that the policies forbid, and from the same epoch, with the same keys, ones that they allow.
#[tokio::test]
async fn forbidden_commits_split_nobody_off() -> Outcome {
    let (stack, mut chain, event) = scene().await?;
    let key = event.key();
    let (creator, alice, bob) = (stack.person(CREATOR).await?, stack.person(ALICE).await?, stack.person(BOB).await?);
    let (guest, dana) = (stack.person(CEM).await?, stack.person(DANA).await?);
    let purchases = [chain.purchase(&event, 1, wallet(ALICE)), chain.purchase(&event, 2, wallet(BOB))];
    stack.send(&[&[chain.mint(&event)], &purchases[..]].concat()).await?;
    let room = stack.until_seated(&key, &[(&creator, 1), (&alice, 1), (&bob, 1)]).await?;
    for person in [&creator, &alice, &bob] {
        enter(person, &room).await?;
        person.send_text(&room, "hello").await?;
    }

    let super_admin = creator.change_role(&room, creator.inbox_id(), RoleChange::AddSuperAdmin);
    assert_refused(super_admin.await);
    assert_refused(creator.remove_members(&room, &[&stack.ready.inbox_id]).await);
    creator.add_members(&room, &[guest.inbox_id()]).await?;
    stack.nudged_until_seated(&key, &[(&creator, 1), (&alice, 1), (&bob, 1), (&guest, 1)]).await?;

    stack.send(&[chain.refund(&event, 2, wallet(BOB)), chain.purchase(&event, 3, wallet(DANA))]).await?;
    stack.until_handled().await?;
    stack.until_seated(&key, &[(&creator, 1), (&alice, 1), (&guest, 1), (&dana, 1)]).await?;
    assert_out(&bob, &room).await?;
    enter(&dana, &room).await?;
    dana.send_text(&room, "hello to you").await?;
    for person in [&alice, &creator] {
        assert_eq!(read(person, &room).await?.last().map(String::as_str), Some("hello to you"));
    }
    Ok(())
}

/// A forged copy that arrives first must not use up the key of the message it copies.
#[tokio::test]
async fn a_forgery_does_not_silence_a_leave_request() -> Outcome {
    let (stack, mut chain, event) = scene().await?;
    let key = event.key();
    let creator = stack.person(CREATOR).await?;
    let mut alice = Person::register(&[7; 32], &stack.ready.xmtp_url).await?;
    stack.send(&[chain.mint(&event), chain.purchase(&event, 1, alice.address())]).await?;
    let inbox = alice.inbox()?.to_string();
    let room = stack.until_seated_inboxes(&key, &[(creator.inbox_id(), 1), (&inbox, 1)]).await?;
    enter(&creator, &room).await?;
    alice.sync().await?;
    let group = alice.groups().next().ok_or("Alice is in a room")?;
    alice.leave_behind_forgery(group).await?;
    stack.nudged_until_seated(&key, &[(&creator, 1)]).await?;
    assert_eq!(creator.synced(&room).await?.members.len(), 2, "usher and the creator");
    Ok(())
}

#[tokio::test]
async fn what_members_and_admins_do_is_followed() -> Outcome {
    let (stack, mut chain, event) = scene().await?;
    let key = event.key();
    let (creator, alice, bob) = (stack.person(CREATOR).await?, stack.person(ALICE).await?, stack.person(BOB).await?);
    let (guest, dana) = (stack.person(CEM).await?, stack.person(DANA).await?);
    let first = [chain.mint(&event), chain.purchase(&event, 1, wallet(ALICE)), chain.purchase(&event, 2, wallet(BOB))];
    stack.send(&first).await?;
    let room = stack.until_seated(&key, &[(&creator, 1), (&alice, 1), (&bob, 1)]).await?;
    for person in [&creator, &alice, &bob] {
        enter(person, &room).await?;
        // libxmtp renews its keys before it first speaks.
        person.send_text(&room, "hello").await?;
    }

    // The creator's own guest needs no ticket, and his name for the room stands.
    creator.add_members(&room, &[guest.inbox_id()]).await?;
    creator.set_metadata(&room, MetadataField::Name, "Opening night").await?;
    stack.nudged_until_seated(&key, &[(&creator, 1), (&alice, 1), (&bob, 1), (&guest, 1)]).await?;
    enter(&guest, &room).await?;

    // Whom the creator removes stays out, whatever he buys.
    creator.remove_members(&room, &[bob.inbox_id()]).await?;
    stack.nudged_until_seated(&key, &[(&creator, 1), (&alice, 1), (&guest, 1)]).await?;
    stack.send(&[chain.purchase(&event, 3, wallet(BOB)), chain.purchase(&event, 4, wallet(DANA))]).await?;
    stack.until_handled().await?;
    stack.until_seated(&key, &[(&creator, 1), (&alice, 1), (&guest, 1), (&dana, 1)]).await?;
    assert_out(&bob, &room).await?;
    enter(&dana, &room).await?;
    assert_eq!(dana.conversation(&room).await?.name, "Opening night");

    // Who asks to leave is taken out, and stays out with the ticket.
    alice.sync_conversation(&room).await?;
    alice.request_removal(&room).await?;
    stack.nudged_until_seated(&key, &[(&creator, 1), (&guest, 1), (&dana, 1)]).await?;
    assert_out(&alice, &room).await?;
    let transcript = alice.messages(&room).await?.into_iter().filter_map(|message| message.updated).next_back();
    let left = transcript.ok_or("leaving is in the transcript")?;
    assert_eq!((left.initiated_by, left.left), (stack.ready.inbox_id.clone(), vec![alice.inbox_id().to_owned()]));
    stack.send(&[chain.purchase(&event, 5, wallet(ALICE))]).await?;
    stack.until_handled().await?;

    // A new device of a member gets in, and one that he revokes is out.
    let danas_laptop = stack.person(DANA).await?;
    stack.nudged_until_seated(&key, &[(&creator, 1), (&guest, 1), (&dana, 2)]).await?;
    enter(&danas_laptop, &room).await?;
    danas_laptop.send_text(&room, "from the laptop").await?;
    assert_eq!(read(&guest, &room).await?.last().map(String::as_str), Some("from the laptop"));
    dana.revoke_installations(&[danas_laptop.installation_id()]).await?;
    stack.nudged_until_seated(&key, &[(&creator, 1), (&guest, 1), (&dana, 1)]).await?;
    creator.sync_conversation(&room).await?;
    creator.send_text(&room, "not for the laptop").await?;
    assert!(!read(&danas_laptop, &room).await?.contains(&"not for the laptop".to_owned()));

    // Whom the creator takes back is back; he belongs by his ticket again, and goes with it.
    creator.add_members(&room, &[bob.inbox_id(), alice.inbox_id()]).await?;
    let all = [(&creator, 1), (&guest, 1), (&dana, 1), (&bob, 1), (&alice, 1)];
    stack.nudged_until_seated(&key, &all).await?;
    for person in [&bob, &alice] {
        enter(person, &room).await?;
        person.send_text(&room, "back").await?;
    }
    let losses = [
        chain.refund(&event, 2, wallet(BOB)),
        chain.refund(&event, 3, wallet(BOB)),
        chain.burn(&event, 1, wallet(ALICE)),
    ];
    stack.send(&losses).await?;
    stack.until_handled().await?;
    stack.until_seated(&key, &[(&creator, 1), (&guest, 1), (&dana, 1), (&alice, 1)]).await?;
    assert_out(&bob, &room).await?;

    // The guest goes when the creator says so, and asks to leave no less than others may.
    guest.sync_conversation(&room).await?;
    guest.request_removal(&room).await?;
    stack.nudged_until_seated(&key, &[(&creator, 1), (&dana, 1), (&alice, 1)]).await?;
    assert_out(&guest, &room).await?;

    // Even the creator may leave, and the room goes on.
    creator.sync_conversation(&room).await?;
    creator.request_removal(&room).await?;
    stack.nudged_until_seated(&key, &[(&dana, 1), (&alice, 1)]).await?;
    assert_out(&creator, &room).await?;
    assert!(dana.synced(&room).await?.admins.is_empty());
    stack.send(&[chain.purchase(&event, 6, wallet(6))]).await?;
    let late = stack.person(6).await?;
    stack.nudged_until_seated(&key, &[(&dana, 1), (&alice, 1), (&late, 1)]).await?;
    enter(&late, &room).await?;
    late.send_text(&room, "without the creator").await?;
    assert_eq!(read(&alice, &room).await?.last().map(String::as_str), Some("without the creator"));
    Ok(())
}

#[tokio::test]
async fn who_has_no_inbox_waits_and_is_let_in_with_one() -> Outcome {
    let (stack, mut chain, event) = scene().await?;
    let key = event.key();
    let bob = stack.person(BOB).await?;
    let facts = [
        chain.mint(&event),
        chain.purchase(&event, 1, wallet(ALICE)),
        chain.purchase(&event, 2, wallet(BOB)),
        // A contract never gets an inbox.
        chain.purchase(&event, 3, event.kiosk),
    ];
    stack.send(&facts).await?;
    let room = stack.until_seated(&key, &[(&bob, 1)]).await?;
    let reason = "its wallet has no XMTP inbox yet";
    let waits = |wallets: &[Address]| -> BTreeMap<String, String> {
        wallets.iter().map(|wallet| (format!("{wallet:#x}"), reason.to_owned())).collect()
    };
    assert_eq!(stack.waiting(&key).await?, waits(&[wallet(CREATOR), wallet(ALICE), event.kiosk]));

    // The creator comes as admin, however late.
    let creator = stack.person(CREATOR).await?;
    stack.nudged_until_seated(&key, &[(&bob, 1), (&creator, 1)]).await?;
    enter(&creator, &room).await?;
    assert_eq!(creator.conversation(&room).await?.admins, [creator.inbox_id()]);
    assert_eq!(stack.waiting(&key).await?, waits(&[wallet(ALICE), event.kiosk]));

    // Who loses the ticket while waiting waits no more.
    stack.send(&[chain.transfer(&event, 1, wallet(ALICE), wallet(DANA))]).await?;
    stack.until_handled().await?;
    let moved = waits(&[wallet(DANA), event.kiosk]);
    stack.until("Dana waits", async || Ok((stack.waiting(&key).await? == moved).then_some(()))).await?;
    let (alice, dana) = (stack.person(ALICE).await?, stack.person(DANA).await?);
    stack.nudged_until_seated(&key, &[(&bob, 1), (&creator, 1), (&dana, 1)]).await?;
    enter(&dana, &room).await?;
    assert_eq!(stack.waiting(&key).await?, waits(&[event.kiosk]));
    assert_outside(&alice).await?;

    // A wallet may belong to an inbox of another wallet: one seat, until the last ticket of both is gone.
    let second = Wallet::numbered(20);
    stack.send(&[chain.purchase(&event, 4, second.address())]).await?;
    stack.until_handled().await?;
    stack.until("it waits", async || Ok((stack.waiting(&key).await?.len() == 2).then_some(()))).await?;
    dana.add_account(&second).await?;
    stack
        .nudged_until(&key, "it waits no more", async || {
            Ok((stack.waiting(&key).await? == waits(&[event.kiosk])).then_some(()))
        })
        .await?;
    let still_there = [(&bob, 1), (&creator, 1), (&dana, 1)];
    stack.send(&[chain.burn(&event, 1, wallet(DANA))]).await?;
    stack.until_handled().await?;
    stack.until_seated(&key, &still_there).await?;
    enter(&dana, &room).await?;
    // The inbox gives the wallet up that its seat depends on.
    dana.remove_account(&format!("{:#x}", second.address())).await?;
    stack.nudged_until_seated(&key, &[(&bob, 1), (&creator, 1)]).await?;
    assert_out(&dana, &room).await
}

/// One event's facts in order; another's in reverse and twice, the mint last.
#[tokio::test]
async fn any_order_and_repetition_end_the_same() -> Outcome {
    let (stack, mut chain, in_order) = scene().await?;
    let backwards = Event::new(1, wallet(CREATOR));
    let (creator, alice, bob) = (stack.person(CREATOR).await?, stack.person(ALICE).await?, stack.person(BOB).await?);
    let (cem, dana) = (stack.person(CEM).await?, stack.person(DANA).await?);

    let mut story = |event: &Event| {
        let lost = chain.purchase(event, 5, wallet(CEM));
        vec![
            chain.mint(event),
            chain.purchase(event, 1, wallet(ALICE)),
            chain.purchase(event, 2, wallet(BOB)),
            chain.transfer(event, 2, wallet(BOB), wallet(DANA)),
            chain.refund(event, 1, wallet(ALICE)),
            chain.purchase(event, 3, wallet(CEM)),
            chain.burn(event, 3, wallet(CEM)),
            chain.purchase(event, 4, wallet(ALICE)),
            lost.clone(),
            lost.removed(),
        ]
    };
    let (forth, mut back) = (story(&in_order), story(&backwards));
    back.reverse();
    let mint = back.pop().ok_or("the story begins with the mint")?;

    // Purchases before the mint wait: there is no event yet.
    stack.send(&back).await?;
    for transaction in &forth {
        stack.send(std::slice::from_ref(transaction)).await?;
    }
    stack.until_handled().await?;
    assert!(stack.rooms().await?.event(&backwards.key()).is_none());
    stack.send(&[mint]).await?;

    let end = [(&creator, 1), (&alice, 1), (&dana, 1)];
    stack.until_handled().await?;
    for event in [&in_order, &backwards] {
        let room = stack.until_seated(&event.key(), &end).await?;
        enter(&dana, &room).await?;
        enter(&alice, &room).await?;
    }

    // Everything again changes nothing.
    let generations = async || -> Result<Vec<u64>, AnyError> {
        Ok(stack.rooms().await?.events.iter().map(|event| event.generation).collect())
    };
    let before = generations().await?;
    stack.send(&[forth, back].concat()).await?;
    stack.until_handled().await?;
    assert_eq!(generations().await?, before);
    for event in [&in_order, &backwards] {
        let room = stack.until_seated(&event.key(), &end).await?;
        alice.send_text(&room, "still here").await?;
        assert_eq!(read(&dana, &room).await?, ["still here"]);
    }
    // Of the event that was minted last, those who had lost their tickets by then saw nothing.
    let room = stack.until_seated(&backwards.key(), &end).await?;
    for person in [&bob, &cem] {
        person.sync_all(&[]).await?;
        let rooms = person.groups(&[Consent::Unknown, Consent::Allowed]).await?;
        assert!(rooms.iter().all(|group| group.id != room && !group.is_active), "{rooms:?}");
    }
    assert_eq!(stack.rooms().await?.parked, 0);
    Ok(())
}

#[tokio::test]
async fn a_mint_that_a_reorganisation_replaces_leaves_its_room_to_nobody() -> Outcome {
    let (stack, mut chain, event) = scene().await?;
    let key = event.key();
    let (creator, alice, cem) = (stack.person(CREATOR).await?, stack.person(ALICE).await?, stack.person(CEM).await?);
    let (mint, purchase) = (chain.mint(&event), chain.purchase(&event, 1, wallet(ALICE)));
    stack.send(&[mint.clone(), purchase.clone()]).await?;
    let first = stack.until_seated(&key, &[(&creator, 1), (&alice, 1)]).await?;
    enter(&alice, &first).await?;

    let instead = Event::new(0, wallet(CEM));
    stack.send(&[mint.removed(), purchase.removed(), chain.mint(&instead)]).await?;
    stack.until_handled().await?;
    let second = stack.until_seated(&key, &[(&cem, 1)]).await?;
    assert_ne!(first, second);
    enter(&cem, &second).await?;
    for person in [&creator, &alice] {
        person.sync().await?;
        assert_out(person, &first).await?;
        assert!(person.conversation(&second).await.is_err());
    }
    Ok(())
}

#[tokio::test]
async fn a_room_waits_for_its_holders_consent() -> Outcome {
    let (stack, mut chain, event) = scene().await?;
    let (creator, alice) = (stack.person(CREATOR).await?, stack.person(ALICE).await?);
    stack.send(&[chain.mint(&event), chain.purchase(&event, 1, wallet(ALICE))]).await?;
    let room = stack.until_seated(&event.key(), &[(&creator, 1), (&alice, 1)]).await?;
    enter(&creator, &room).await?;

    let allowed = [Consent::Allowed];
    alice.sync_all(&allowed).await?;
    assert!(alice.groups(&allowed).await?.is_empty());
    assert_eq!(alice.groups(&[Consent::Unknown]).await?.len(), 1, "apps show it as a request");

    alice.set_consent(&room, Consent::Allowed).await?;
    let listed: Vec<_> = alice.groups(&allowed).await?.into_iter().map(|group| group.id).collect();
    assert_eq!(listed, [room.as_str()]);
    let mut stream = alice.stream_messages_of(&allowed).await?;
    creator.send_text(&room, "doors open").await?;
    let message = stream.until(|message| message.text.is_some()).await?;
    assert_eq!((message.group_id.as_str(), message.text.as_deref()), (room.as_str(), Some("doors open")));

    // Consent outlives a seat.
    stack.send(&[chain.refund(&event, 1, wallet(ALICE))]).await?;
    stack.until_seated(&event.key(), &[(&creator, 1)]).await?;
    stack.send(&[chain.purchase(&event, 2, wallet(ALICE))]).await?;
    stack.until_seated(&event.key(), &[(&creator, 1), (&alice, 1)]).await?;
    creator.sync_conversation(&room).await?;
    creator.send_text(&room, "welcome back").await?;
    stream.until(|message| message.text.as_deref() == Some("welcome back")).await?;
    Ok(())
}

#[tokio::test]
async fn bad_input_harms_nothing_beside_it() -> Outcome {
    let (stack, mut chain, event) = scene().await?;
    let key = event.key();
    let (creator, alice) = (stack.person(CREATOR).await?, stack.person(ALICE).await?);
    let body = |chain: u64, log: &Value| json!({"chainId": chain, "log": log}).to_string();
    let with = |log: &Value, field: &str, value: Value| {
        let mut log = log.clone();
        log[field] = value;
        log
    };

    // Each in a message of its own, with the mint and the purchase that are good among them.
    let (mint, purchase) = (chain.mint(&event), chain.purchase(&event, 1, wallet(ALICE)));
    let created = |event: &Event, chain: &mut Chain| chain.mint(event).logs.swap_remove(5);
    let other = created(&Event::new(1, wallet(CREATOR)), &mut chain);
    let long = |change: fn(&mut Event), chain: &mut Chain| {
        let mut event = Event::new(1, wallet(CREATOR));
        change(&mut event);
        created(&event, chain)
    };
    let truncated = other["data"].as_str().map(|data| data[..130].to_owned());
    let mut moved = || chain.transfer(&event, 7, wallet(ALICE), wallet(BOB)).logs.remove(0);
    let (moved, short, nowhere) = (moved(), moved(), moved());
    let parked = [
        "{\"chainId\": 31337, \"log\": {".to_owned(),
        "no JSON at all".to_owned(),
        "x".repeat(200_000),
        "[]".to_owned(),
        json!({"chainId": 31337, "log": null}).to_string(),
        json!({"chainId": 31337}).to_string(),
        body(1, &moved),
        body(31337, &with(&other, "data", json!(truncated))),
        body(31337, &long(|event| event.art_category = "a".repeat(100_000), &mut chain)),
        body(31337, &long(|event| event.metadata_uri = "m".repeat(100_000), &mut chain)),
        body(31337, &long(|event| event.creator = Address::ZERO, &mut chain)),
        body(31337, &long(|event| event.kiosk = Address::ZERO, &mut chain)),
        body(31337, &with(&short, "topics", json!(short["topics"].as_array().map(|topics| &topics[..3])))),
        body(31337, &with(&nowhere, "blockNumber", json!("0xzz"))),
    ];
    let stranger = address!("00000000000000000000000000000000000000fa");
    let harmless = [
        // An unknown factory's event, a ticket that nobody gets, and one that nobody ever had.
        body(31337, &with(&other, "address", json!(stranger))),
        body(31337, &chain.purchase(&event, 8, Address::ZERO).logs[0]),
        body(31337, &chain.purchase(&event, 8, Address::ZERO).logs[2]),
        body(31337, &chain.refund(&event, 999, wallet(BOB)).logs[0]),
    ];
    let good: Vec<String> = mint.logs.iter().chain(&purchase.logs).map(|log| body(31337, log)).collect();
    let bad = [&parked[..], &harmless[..]].concat();
    let mut bodies = Vec::new();
    for index in 0..bad.len().max(good.len()) {
        bodies.extend(bad.get(index).cloned());
        bodies.extend(good.get(index).cloned());
    }
    stack.send_bodies("purchase", &bodies).await?;
    stack.until_handled().await?;
    let room = stack.until_seated(&key, &[(&creator, 1), (&alice, 1)]).await?;
    enter(&alice, &room).await?;
    let report = stack.rooms().await?;
    assert_eq!((report.events.len(), report.parked), (1, parked.len()));
    assert_eq!(stack.waiting(&key).await?, BTreeMap::new());

    // The same again is the same parked thing, on any queue; what is no nudge is dropped.
    stack.send_bodies("refund", &parked).await?;
    stack.send_bodies("nudge", &parked).await?;
    stack.until_handled().await?;
    assert_eq!(stack.rooms().await?.parked, parked.len());
    stack.until("no nudges", async || Ok((stack.messages_in("nudge").await? == 0).then_some(()))).await?;
    for queue in ["mint-dlq", "purchase-dlq", "refund-dlq", "nudge-dlq"] {
        assert_eq!(stack.messages_in(queue).await?, 0, "{queue}");
    }

    // usher's own wallet may hold a ticket, and lose it.
    stack.send(&[chain.purchase(&event, 9, stack.ready.wallet)]).await?;
    stack.until_handled().await?;
    stack.send(&[chain.burn(&event, 9, stack.ready.wallet), chain.burn(&event, 1, wallet(ALICE))]).await?;
    stack.until_seated(&key, &[(&creator, 1)]).await?;
    assert_out(&alice, &room).await
}

#[tokio::test]
async fn the_longest_names_and_numbers_make_rooms() -> Outcome {
    let (stack, mut chain, _) = scene().await?;
    let creator = stack.person(CREATOR).await?;
    let category = |text: &str| Event { art_category: text.to_owned(), ..Event::new(0, wallet(CREATOR)) };
    let events = [
        (Event { id: U256::MAX, ..Event::new(1, wallet(CREATOR)) }, format!("Jazz #{}", U256::MAX)),
        (
            Event { id: U256::from(2), kiosk: Address::repeat_byte(2), ..category(&"🎷".repeat(64)) },
            format!("{} #2", "🎷".repeat(24)),
        ),
        (Event { id: U256::from(3), kiosk: Address::repeat_byte(3), ..category("") }, "#3".to_owned()),
    ];
    for (event, name) in &events {
        stack.send(&[chain.mint(event)]).await?;
        let room = stack.until_seated(&event.key(), &[(&creator, 1)]).await?;
        enter(&creator, &room).await?;
        let seen = creator.conversation(&room).await?;
        assert_eq!((&seen.name, seen.description), (name, event.key().to_string()));
    }
    Ok(())
}
