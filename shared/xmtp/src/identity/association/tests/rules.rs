//! Who may do what, and in which order.

use super::*;
use crate::identity::{add_installation_update, add_wallet_update, create_inbox_update, revoke_update};

// What the builders make.

#[tokio::test]
async fn a_log_built_by_this_crate_replays() {
    let (owner, second_wallet) = (wallet(1), wallet(2));
    let (first, second) = (installation(11), installation(12));
    let created = create_inbox_update(&owner, 1, &first, SECOND).await.unwrap();
    let inbox_id: InboxId = created.inbox_id.parse().unwrap();
    assert_eq!(inbox_id, InboxId::derive(&owner.address().to_string(), 1).unwrap(), "checksummed or not");
    let log = [
        created,
        add_installation_update(&inbox_id, &owner, &second, 2 * SECOND).await.unwrap(),
        add_wallet_update(&inbox_id, &second, &second_wallet, 3 * SECOND).await.unwrap(),
    ];
    let state = AssociationState::replay(&log, &NoSmartWallets).await.unwrap();
    assert_eq!(state.inbox_id(), &inbox_id);
    assert_eq!(state.installations(), BTreeSet::from([first.public(), second.public()]));
    assert_eq!(state.addresses(), BTreeSet::from([owner.address(), second_wallet.address()]));
    assert_eq!(state.recovery_identifier(), &owner.address().into());
    let linked = &state.members()[&second_wallet.address().into()];
    assert_eq!(linked.added_by, Some(second.public().into()));
    assert_eq!(linked.client_timestamp_ns, Some(3 * SECOND));

    let revoked = [first.public().into(), second_wallet.address().into()];
    let revoke = revoke_update(&inbox_id, &owner, revoked, 4 * SECOND).await.unwrap();
    let state = apply(Some(&state), &revoke).await.unwrap();
    assert_eq!(state.installations(), BTreeSet::from([second.public()]));
    assert_eq!(state.addresses(), BTreeSet::from([owner.address()]));
}

#[tokio::test]
async fn a_new_inbox_has_the_shape_libxmtp_sends() {
    let (owner, key) = (wallet(1), installation(11));
    let update = create_inbox_update(&owner, 1, &key, 5).await.unwrap();
    assert_eq!(update.client_timestamp_ns, 5);
    let [create, add] = update.actions.as_slice() else { panic!("two actions") };
    let (Some(Kind::CreateInbox(create)), Some(Kind::Add(add))) = (&create.kind, &add.kind) else {
        panic!("create, then add")
    };
    assert_eq!(create.initial_identifier, format!("{:#x}", owner.address()));
    assert_eq!(create.nonce, 1);
    assert_eq!(create.initial_identifier_kind(), IdentifierKind::Ethereum);
    assert_eq!(create.initial_identifier_signature, add.existing_member_signature, "the wallet signs once");
    assert_eq!(add.new_member_identifier, Some(MemberIdentifier::from(key.public()).into()));
}

// CreateInbox

#[tokio::test]
async fn an_inbox_is_created_once() {
    let owner = Party::wallet(1);
    let (id, state) = inbox_of(&owner).await;
    let again = update(&id, 2, &[Step::Create { owner: &owner, nonce: 1 }]).await;
    assert_eq!(refusal(Some(&state), &again).await, "Multiple create operations detected");
}

#[tokio::test]
async fn nothing_happens_before_the_creation() {
    let (owner, key) = (Party::wallet(1), Party::installation(11));
    let id = owner.identifier().inbox_id(1).unwrap();
    let stranger = Party::wallet(2).identifier();
    for step in [
        Step::Add { by: &owner, new: &key },
        Step::Revoke { by: &owner, member: stranger.clone() },
        Step::Recovery { by: &owner, new: stranger },
    ] {
        let first = update(&id, 1, &[step]).await;
        assert_eq!(refusal(None, &first).await, "XID not yet created");
    }
    assert_eq!(refusal(None, &update(&id, 1, &[]).await).await, "XID not yet created");
    let nothing: [IdentityUpdate; 0] = [];
    let error = AssociationState::replay(&nothing, &NoSmartWallets).await.unwrap_err();
    assert!(matches!(error, AssociationError::NotCreated));
}

#[tokio::test]
async fn the_inbox_id_has_to_be_the_derived_one() {
    let owner = Party::wallet(1);
    let other_nonce = owner.identifier().inbox_id(0).unwrap();
    let create = update(&other_nonce, 1, &[Step::Create { owner: &owner, nonce: 1 }]).await;
    assert_eq!(refusal(None, &create).await, "Wrong inbox_id specified on association");

    let (_, state) = inbox_of(&owner).await;
    let elsewhere = update(&other_nonce, 2, &[Step::Add { by: &owner, new: &Party::installation(11) }]).await;
    assert_eq!(refusal(Some(&state), &elsewhere).await, "Wrong inbox_id specified on association");
}

#[tokio::test]
async fn the_creator_signs_the_creation() {
    let owner = Party::wallet(1);
    let id = owner.identifier().inbox_id(1).unwrap();
    let mut create = update(&id, 1, &[Step::Create { owner: &owner, nonce: 1 }]).await;
    let text = signature_text(&create).unwrap();
    *signature_of(&mut create) = Party::wallet(2).sign(&text).await;
    assert_eq!(refusal(None, &create).await, "Missing existing member");
}

#[tokio::test]
async fn an_address_in_capitals_is_nobody() {
    let owner = wallet(1);
    let text = owner.address().to_string();
    let id = InboxId::hash(&text, 1);
    let create = proto::CreateInbox { initial_identifier: text, nonce: 1, ..Default::default() };
    let actions = vec![IdentityAction { kind: Some(Kind::CreateInbox(create)) }];
    let mut create = IdentityUpdate { actions, client_timestamp_ns: 1, inbox_id: id.to_string() };
    let signature = Party::Wallet(owner).sign(&signature_text(&create).unwrap()).await;
    match create.actions[0].kind.as_mut() {
        Some(Kind::CreateInbox(create)) => create.initial_identifier_signature = Some(signature),
        other => panic!("{other:?}"),
    }
    assert_eq!(refusal(None, &create).await, "Missing existing member");
}

#[tokio::test]
async fn a_passkey_creates_an_inbox_and_adds_an_installation() {
    let (owner, key) = (Party::passkey(3), Party::installation(11));
    let (id, state) = inbox_of(&owner).await;
    assert_eq!(id, InboxId::hash(&owner.identifier().to_string(), 1));
    let state = after(&state, 2, &[Step::Add { by: &owner, new: &key }]).await;
    assert_eq!(state.installations().len(), 1);
    assert!(state.addresses().is_empty());
}

// AddAssociation

#[tokio::test]
async fn a_stranger_adds_nobody() {
    let (id, state) = inbox_of(&Party::wallet(1)).await;
    let add = update(&id, 2, &[Step::Add { by: &Party::wallet(2), new: &Party::installation(11) }]).await;
    assert_eq!(refusal(Some(&state), &add).await, "Missing existing member");
}

#[tokio::test]
async fn the_new_member_signs_too() {
    let owner = Party::wallet(1);
    let (id, state) = inbox_of(&owner).await;
    let mut add = update(&id, 2, &[Step::Add { by: &owner, new: &Party::installation(11) }]).await;
    let text = signature_text(&add).unwrap();
    *signature_of(&mut add) = Party::installation(12).sign(&text).await;
    assert_eq!(refusal(Some(&state), &add).await, "The new member identifier does not match the signer");
}

#[tokio::test]
async fn nobody_adds_itself() {
    let owner = Party::wallet(1);
    let (id, state) = inbox_of(&owner).await;
    let add = update(&id, 2, &[Step::Add { by: &owner, new: &owner }]).await;
    assert_eq!(refusal(Some(&state), &add).await, "Error creating association tried to add self");
}

#[tokio::test]
async fn an_installation_adds_wallets_and_passkeys_but_no_installation() {
    let (owner, key) = (Party::wallet(1), Party::installation(11));
    let (id, state) = inbox_of(&owner).await;
    let state = after(&state, 2, &[Step::Add { by: &owner, new: &key }]).await;
    let added = after(&state, 3, &[Step::Add { by: &key, new: &Party::wallet(2) }]).await;
    let added = after(&added, 4, &[Step::Add { by: &key, new: &Party::passkey(3) }]).await;
    assert_eq!(added.members().len(), 4);
    let add = update(&id, 3, &[Step::Add { by: &key, new: &Party::installation(12) }]).await;
    assert_eq!(refusal(Some(&state), &add).await, "Member of kind installation not allowed to add installation");
}

#[tokio::test]
async fn the_recovery_identifier_adds_members_without_being_one() {
    let (owner, recovery, key) = (Party::wallet(1), Party::wallet(2), Party::installation(11));
    let (_, state) = inbox_of(&owner).await;
    let state = after(&state, 2, &[Step::Recovery { by: &owner, new: recovery.identifier() }]).await;
    assert!(!state.members().contains_key(&recovery.identifier()));
    let state = after(&state, 3, &[Step::Add { by: &recovery, new: &key }]).await;
    assert_eq!(state.members()[&key.identifier()].added_by, Some(recovery.identifier()));
}

// RevokeAssociation and ChangeRecoveryAddress

#[tokio::test]
async fn only_the_recovery_identifier_revokes_and_changes_itself() {
    let (owner, second) = (Party::wallet(1), Party::wallet(2));
    let (id, state) = inbox_of(&owner).await;
    let state = after(&state, 2, &[Step::Add { by: &owner, new: &second }]).await;
    for step in [
        Step::Revoke { by: &second, member: owner.identifier() },
        Step::Recovery { by: &second, new: second.identifier() },
    ] {
        let by_member = update(&id, 3, &[step]).await;
        assert_eq!(refusal(Some(&state), &by_member).await, "Missing existing member");
    }

    let state = after(&state, 4, &[Step::Recovery { by: &owner, new: second.identifier() }]).await;
    let by_former = update(&id, 5, &[Step::Revoke { by: &owner, member: second.identifier() }]).await;
    assert_eq!(refusal(Some(&state), &by_former).await, "Missing existing member");
    let state = after(&state, 5, &[Step::Revoke { by: &second, member: owner.identifier() }]).await;
    assert_eq!(state.members().keys().collect::<Vec<_>>(), [&second.identifier()]);
}

#[tokio::test]
async fn revoking_a_wallet_takes_the_installations_it_added_and_nothing_else() {
    let (owner, second, third) = (Party::wallet(1), Party::wallet(2), Party::wallet(3));
    let (kept, lost) = (Party::installation(11), Party::installation(12));
    let (_, state) = inbox_of(&owner).await;
    let state = after(&state, 2, &[Step::Add { by: &owner, new: &second }, Step::Add { by: &owner, new: &kept }]).await;
    let state =
        after(&state, 3, &[Step::Add { by: &second, new: &lost }, Step::Add { by: &second, new: &third }]).await;
    let state = after(&state, 4, &[Step::Revoke { by: &owner, member: second.identifier() }]).await;
    let left: BTreeSet<_> = state.members().keys().cloned().collect();
    assert_eq!(left, BTreeSet::from([owner.identifier(), kept.identifier(), third.identifier()]));
}

#[tokio::test]
async fn revoking_a_stranger_changes_no_member() {
    let owner = Party::wallet(1);
    let (_, state) = inbox_of(&owner).await;
    let revoked = after(&state, 2, &[Step::Revoke { by: &owner, member: Party::wallet(9).identifier() }]).await;
    assert_eq!(revoked.members(), state.members());
}

#[tokio::test]
async fn the_creator_can_revoke_itself_and_stays_recovery_identifier() {
    let owner = Party::wallet(1);
    let (_, state) = inbox_of(&owner).await;
    let state = after(&state, 2, &[Step::Revoke { by: &owner, member: owner.identifier() }]).await;
    assert!(state.members().is_empty());
    let state = after(&state, 3, &[Step::Add { by: &owner, new: &Party::installation(11) }]).await;
    assert_eq!(state.installations().len(), 1);
}

// Replay

#[tokio::test]
async fn a_signature_serves_one_update_only() {
    let (owner, key) = (Party::wallet(1), Party::installation(11));
    let (id, state) = inbox_of(&owner).await;
    let add = update(&id, 2, &[Step::Add { by: &owner, new: &key }]).await;
    let state = apply(Some(&state), &add).await.unwrap();
    assert_eq!(refusal(Some(&state), &add).await, "Replay detected");
    // Add, remove, add within one second: deterministic signatures make the second add the first again.
    let state = after(&state, 2, &[Step::Revoke { by: &owner, member: key.identifier() }]).await;
    assert_eq!(refusal(Some(&state), &add).await, "Replay detected");
    assert_eq!(after(&state, 3, &[Step::Add { by: &owner, new: &key }]).await.installations().len(), 1);
}

#[tokio::test]
async fn revocations_and_recovery_changes_are_not_replayed_either() {
    let (owner, second) = (Party::wallet(1), Party::wallet(2));
    let (id, state) = inbox_of(&owner).await;
    for step in [
        Step::Revoke { by: &owner, member: second.identifier() },
        Step::Recovery { by: &owner, new: owner.identifier() },
    ] {
        let once = update(&id, 2, &[step]).await;
        let state = apply(Some(&state), &once).await.unwrap();
        assert_eq!(refusal(Some(&state), &once).await, "Replay detected");
    }
}

#[tokio::test]
async fn a_raised_s_does_not_disguise_a_replay() {
    let owner = Party::wallet(1);
    let (id, state) = inbox_of(&owner).await;
    let mut revoke = update(&id, 2, &[Step::Revoke { by: &owner, member: Party::wallet(9).identifier() }]).await;
    let state = apply(Some(&state), &revoke).await.unwrap();
    raise_s(ecdsa_bytes(&mut revoke));
    assert_eq!(refusal(Some(&state), &revoke).await, "Replay detected");
}
