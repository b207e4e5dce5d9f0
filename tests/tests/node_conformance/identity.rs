//! IdentityApi.

use futures::future::join_all;
use tonic::{Code, Response, Status};
use usher_xmtp::{
    identity::{
        InboxId, InstallationId, LocalWallet, MemberIdentifier, WalletSigner, add_installation_update,
        add_wallet_update, create_inbox_update, revoke_update,
    },
    proto::{
        associations::{
            IdentifierKind, IdentityUpdate, RecoverableEcdsaSignature, Signature, identity_action::Kind,
            signature::Signature as SignatureKind,
        },
        identity_api::{
            GetIdentityUpdatesRequest, GetInboxIdsRequest, PublishIdentityUpdateRequest,
            VerifySmartContractWalletSignatureRequestSignature as SmartWalletSignature,
            VerifySmartContractWalletSignaturesRequest, get_identity_updates_request,
            get_identity_updates_response::IdentityUpdateLog, get_inbox_ids_request,
        },
    },
};

use crate::{
    material::{CLIENT_NS, Person, SECOND_NS, address, installation, random, wallet},
    rig::{Rig, assert_invalid, assert_refused},
};

pub(crate) async fn publish(rig: &Rig, update: IdentityUpdate) -> Result<(), Status> {
    let request = PublishIdentityUpdateRequest { identity_update: Some(update) };
    rig.identity().publish_identity_update(request).await.map(|_| ())
}

async fn logs(rig: &Rig, asked: &[(&str, u64)]) -> Result<Vec<(String, Vec<IdentityUpdateLog>)>, Status> {
    let request = |(inbox_id, sequence_id): &(&str, u64)| get_identity_updates_request::Request {
        inbox_id: (*inbox_id).to_owned(),
        sequence_id: *sequence_id,
    };
    let request = GetIdentityUpdatesRequest { requests: asked.iter().map(request).collect() };
    let answer = rig.identity().get_identity_updates(request).await?.into_inner();
    Ok(answer.responses.into_iter().map(|response| (response.inbox_id, response.updates)).collect())
}

pub(crate) async fn log(rig: &Rig, inbox: &InboxId) -> Vec<IdentityUpdateLog> {
    logs(rig, &[(inbox.as_str(), 0)]).await.unwrap().remove(0).1
}

pub(crate) async fn inbox_of(rig: &Rig, identifier: &str) -> Option<String> {
    let requests = vec![get_inbox_ids_request::Request { identifier: identifier.to_owned(), identifier_kind: 1 }];
    let answer = rig.identity().get_inbox_ids(GetInboxIdsRequest { requests }).await.unwrap().into_inner();
    answer.responses.into_iter().next().unwrap().inbox_id
}

async fn registered(rig: &Rig) -> Person {
    let person = Person::new().await;
    publish(rig, person.creation.clone()).await.unwrap();
    person
}

/// The update that unlinks `member`. Each of a person's updates needs a second of its own: the signed text has no
/// fractions, so two of one second could have the same signature.
async fn revocation(
    person: &Person,
    by: &LocalWallet,
    member: impl Into<MemberIdentifier>,
    second: u64,
) -> IdentityUpdate {
    revoke_update(&person.inbox, by, [member.into()], CLIENT_NS + second * SECOND_NS).await.unwrap()
}

pub(crate) async fn a_missing_update_is_refused(rig: Rig) {
    let answer = rig.identity().publish_identity_update(PublishIdentityUpdateRequest::default()).await;
    assert_refused(answer.map(Response::into_inner), Code::Unknown, "IdentityUpdate is required");
}

pub(crate) async fn an_inbox_is_created_and_found(rig: Rig) {
    let person = registered(&rig).await;
    let log = log(&rig, &person.inbox).await;
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].update.as_ref(), Some(&person.creation));
    assert!(log[0].sequence_id >= 1 && log[0].server_timestamp_ns > 0);
    assert_eq!(inbox_of(&rig, &address(&person.wallet)).await.as_deref(), Some(person.inbox.as_str()));
}

pub(crate) async fn addresses_match_letter_by_letter(rig: Rig) {
    let person = registered(&rig).await;
    let lower = address(&person.wallet);
    let identifiers =
        [person.wallet.address().to_checksum(None), hex::encode(person.key.public().as_bytes()), lower.clone()];
    let request = |identifier: &String| get_inbox_ids_request::Request {
        identifier: identifier.clone(),
        identifier_kind: IdentifierKind::Ethereum.into(),
    };
    let request = GetInboxIdsRequest { requests: identifiers.iter().map(request).collect() };
    let answer = rig.identity().get_inbox_ids(request).await.unwrap().into_inner().responses;
    assert_eq!(
        answer.iter().map(|response| &response.identifier).collect::<Vec<_>>(),
        identifiers.iter().collect::<Vec<_>>()
    );
    // A checksummed address finds nothing, and installations are not looked up.
    let inboxes: Vec<_> = answer.iter().map(|response| response.inbox_id.as_deref()).collect();
    assert_eq!(inboxes, [None, None, Some(person.inbox.as_str())]);
    assert!(answer.iter().all(|response| response.identifier_kind() == IdentifierKind::Unspecified));
}

/// An update of an inbox that has none yet.
pub(crate) async fn refused_first_updates(rig: Rig) {
    let person = Person::new().await;
    let changed = |change: fn(&mut IdentityUpdate)| {
        let mut update = person.creation.clone();
        change(&mut update);
        update
    };
    let no_create = add_installation_update(&person.inbox, &person.wallet, &person.key, CLIENT_NS).await.unwrap();
    let elsewhere = {
        let mut update = changed(|_| {});
        update.inbox_id = hex::encode(random::<32>());
        update
    };
    let cases = [
        (no_create, "XID not yet created"),
        (changed(|update| update.actions.clear()), "XID not yet created"),
        // What is signed says when, to the second.
        (
            changed(|update| update.client_timestamp_ns += SECOND_NS),
            "ed25519 Signature failed signature error: Verification equation was not satisfied",
        ),
        (elsewhere, "ed25519 Signature failed signature error: Verification equation was not satisfied"),
        (changed(|update| wallet_signature(update).bytes.truncate(64)), "Signature validation failed"),
    ];
    for (update, text) in cases {
        assert_invalid(publish(&rig, update).await, text);
    }
    let unsigned = changed(|update| {
        if let Some(Kind::CreateInbox(create)) = &mut update.actions[0].kind {
            create.initial_identifier_signature = None;
        }
    });
    let status = publish(&rig, unsigned).await.expect_err("there is no signature");
    assert!(status.message().starts_with("missing field signature of type "), "{status}");
    assert!(log(&rig, &person.inbox).await.is_empty());
    assert_eq!(inbox_of(&rig, &address(&person.wallet)).await, None);
    // Seconds are what is signed: a change within one goes through.
    publish(&rig, changed(|update| update.client_timestamp_ns += 1)).await.unwrap();
}

/// The wallet's signature of a creation.
fn wallet_signature(update: &mut IdentityUpdate) -> &mut RecoverableEcdsaSignature {
    let Some(Kind::CreateInbox(create)) = &mut update.actions[0].kind else { panic!("the first action creates") };
    match &mut create.initial_identifier_signature {
        Some(Signature { signature: Some(SignatureKind::Erc191(signature)) }) => signature,
        other => panic!("{other:?}"),
    }
}

/// An update of an inbox that exists.
pub(crate) async fn refused_later_updates(rig: Rig) {
    let (person, stranger) = (registered(&rig).await, Person::new().await);
    let at = CLIENT_NS + SECOND_NS;
    let add = |wallet, key| add_installation_update(&person.inbox, wallet, key, at);
    let second = installation();
    let mut of_another_inbox = add_installation_update(&stranger.inbox, &person.wallet, &second, at).await.unwrap();
    of_another_inbox.inbox_id = person.inbox.to_string();
    let installation = InstallationId::new(*person.key.public().as_bytes());
    let by_stranger = revocation(&person, &stranger.wallet, installation, 2).await;
    let cases = [
        (create_inbox_update(&person.wallet, 1, &second, at).await.unwrap(), "Multiple create operations detected"),
        (person.creation.clone(), "Multiple create operations detected"),
        (add(&stranger.wallet, &second).await.unwrap(), "Missing existing member"),
        (by_stranger, "Missing existing member"),
        (of_another_inbox, "ed25519 Signature failed signature error: Verification equation was not satisfied"),
    ];
    for (update, text) in cases {
        assert_invalid(publish(&rig, update).await, text);
    }
    let good = add(&person.wallet, &second).await.unwrap();
    publish(&rig, good.clone()).await.unwrap();
    assert_invalid(publish(&rig, good).await, "Replay detected");
    assert_eq!(log(&rig, &person.inbox).await.len(), 2);
}

pub(crate) async fn a_refused_update_leaves_no_trace(rig: Rig) {
    let (person, other) = (registered(&rig).await, wallet());
    let mut update = add_wallet_update(&person.inbox, &person.key, &other, CLIENT_NS + SECOND_NS).await.unwrap();
    update.client_timestamp_ns += SECOND_NS;
    publish(&rig, update).await.expect_err("its signatures do not hold");
    assert_eq!(log(&rig, &person.inbox).await.len(), 1);
    assert_eq!(inbox_of(&rig, &address(&other)).await, None);
}

pub(crate) async fn an_installation_may_link_a_wallet(rig: Rig) {
    let (person, other) = (registered(&rig).await, wallet());
    let update = add_wallet_update(&person.inbox, &person.key, &other, CLIENT_NS + SECOND_NS).await.unwrap();
    publish(&rig, update).await.unwrap();
    for wallet in [&person.wallet, &other] {
        assert_eq!(inbox_of(&rig, &address(wallet)).await.as_deref(), Some(person.inbox.as_str()));
    }
}

pub(crate) async fn updates_after_a_sequence_id(rig: Rig) {
    let (person, other) = (registered(&rig).await, registered(&rig).await);
    let update = add_installation_update(&person.inbox, &person.wallet, &installation(), CLIENT_NS + SECOND_NS).await;
    publish(&rig, update.unwrap()).await.unwrap();
    let (whole, others) = (log(&rig, &person.inbox).await, log(&rig, &other.inbox).await);
    // One sequence over all inboxes.
    assert!(whole[0].sequence_id < others[0].sequence_id && others[0].sequence_id < whole[1].sequence_id);
    let unknown = hex::encode(random::<32>());
    let asked = [(other.inbox.as_str(), 0), (unknown.as_str(), 0), (person.inbox.as_str(), whole[0].sequence_id)];
    let answered = logs(&rig, &asked).await.unwrap();
    let expected = [others, vec![], whole[1..].to_vec()];
    assert_eq!(answered, asked.iter().map(|(inbox, _)| (*inbox).to_owned()).zip(expected).collect::<Vec<_>>());
    let none = logs(&rig, &[(person.inbox.as_str(), whole[1].sequence_id)]).await.unwrap();
    assert!(none[0].1.is_empty());
}

/// The node gathers the rows of all of a request's filters by inbox.
pub(crate) async fn an_inbox_asked_twice_gets_rows_twice(rig: Rig) {
    let person = registered(&rig).await;
    let row = log(&rig, &person.inbox).await.remove(0);
    let inbox = person.inbox.as_str();
    let answered = logs(&rig, &[(inbox, 0), (inbox, 0), (inbox, row.sequence_id)]).await.unwrap();
    for (_, rows) in answered {
        assert_eq!(rows, [row.clone(), row.clone()]);
    }
}

pub(crate) async fn inbox_ids_that_are_not_lower_case_hex(rig: Rig) {
    let person = registered(&rig).await;
    let status = logs(&rig, &[("not hex!", 0)]).await.expect_err("the database cannot decode it");
    assert_eq!(status.code(), Code::Unknown);
    let capitals = person.inbox.as_str().to_uppercase();
    assert_eq!(logs(&rig, &[(&capitals, 0)]).await.unwrap(), [(capitals, vec![])]);
    let mut update = add_installation_update(&person.inbox, &person.wallet, &installation(), CLIENT_NS).await.unwrap();
    update.inbox_id = "zz".to_owned();
    assert_eq!(publish(&rig, update).await.expect_err("the database cannot decode it").code(), Code::Unknown);
}

pub(crate) async fn the_newest_unrevoked_inbox_has_the_address(rig: Rig) {
    let (first, second) = (registered(&rig).await, registered(&rig).await);
    let shared = wallet();
    let link = |person: &Person, second: u64| {
        let (inbox, key, shared) = (person.inbox.clone(), person.key.clone(), shared.clone());
        async move { add_wallet_update(&inbox, &key, &shared, CLIENT_NS + second * SECOND_NS).await.unwrap() }
    };
    let holder = async || inbox_of(&rig, &address(&shared)).await;
    publish(&rig, link(&first, 1).await).await.unwrap();
    publish(&rig, link(&second, 1).await).await.unwrap();
    assert_eq!(holder().await.as_deref(), Some(second.inbox.as_str()));
    // Not a member: nothing happens, and it is no error.
    publish(&rig, revocation(&second, &second.wallet, wallet().address(), 2).await).await.unwrap();
    assert_eq!(holder().await.as_deref(), Some(second.inbox.as_str()));
    publish(&rig, revocation(&second, &second.wallet, shared.address(), 3).await).await.unwrap();
    assert_eq!(holder().await.as_deref(), Some(first.inbox.as_str()));
    publish(&rig, link(&second, 4).await).await.unwrap();
    assert_eq!(holder().await.as_deref(), Some(second.inbox.as_str()));
    publish(&rig, revocation(&first, &first.wallet, shared.address(), 5).await).await.unwrap();
    publish(&rig, revocation(&second, &second.wallet, shared.address(), 6).await).await.unwrap();
    assert_eq!(holder().await, None);
}

pub(crate) async fn concurrent_updates_are_serialised(rig: Rig) {
    let person = Person::new().await;
    let results = join_all((0..8).map(|_| publish(&rig, person.creation.clone()))).await;
    let (created, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 1);
    for result in refused {
        assert_invalid(result, "Multiple create operations detected");
    }
    assert_eq!(log(&rig, &person.inbox).await.len(), 1);
}

pub(crate) async fn the_log_is_full_at_256(rig: Rig) {
    let person = registered(&rig).await;
    let stranger = wallet().address();
    for second in 1..256 {
        publish(&rig, revocation(&person, &person.wallet, stranger, second).await).await.unwrap();
    }
    let one_more = revocation(&person, &person.wallet, stranger, 256).await;
    assert_refused(publish(&rig, one_more).await, Code::Unknown, "inbox log is full");
    // No page ends here.
    assert_eq!(log(&rig, &person.inbox).await.len(), 256);
}

pub(crate) async fn smart_wallet_signatures_answer_one_by_one(rig: Rig) {
    let address = address(&wallet());
    let signature = |account_id: String, hash: usize| SmartWalletSignature {
        account_id,
        block_number: Some(1),
        signature: vec![1; 65],
        hash: vec![2; hash],
    };
    let cases = [
        (signature("not CAIP-10".to_owned(), 32), "Deserialization(InvalidAccountId)"),
        (signature(format!("eip155:99999:{address}"), 31), "Deserialization(InvalidHash)"),
        (signature(format!("eip155:99999:{address}"), 32), r#"Signature(VerifierError(NoVerifier("eip155:99999")))"#),
    ];
    let signatures = cases.iter().map(|(signature, _)| signature.clone()).collect();
    let request = VerifySmartContractWalletSignaturesRequest { signatures };
    let answer = rig.identity().verify_smart_contract_wallet_signatures(request).await.unwrap().into_inner();
    assert_eq!(answer.responses.len(), cases.len());
    for (response, (_, error)) in answer.responses.iter().zip(cases) {
        assert_eq!((response.is_valid, response.block_number, response.error.as_deref()), (false, None, Some(error)));
    }
}
