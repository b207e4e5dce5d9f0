//! The rules of the log, each with real signatures.

use alloy_primitives::Signature as EcdsaSignature;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::identity::legacy_signature::delegation_text;
use crate::identity::{
    InstallationKey, LocalWallet, NoSmartWallets, VerifierError, WalletSigner, add_installation_update,
    add_wallet_update, create_inbox_update, revoke_update,
};
use crate::proto::associations::{self as proto, IdentifierKind, signature::Signature as SignatureKind};

const SECOND: u64 = 1_000_000_000;

fn wallet(seed: u8) -> LocalWallet {
    LocalWallet::from_key(&[seed; 32]).unwrap()
}

fn installation(seed: u8) -> InstallationKey {
    InstallationKey::from_seed(&[seed; 32])
}

/// Anybody who can sign a text.
enum Party {
    Wallet(LocalWallet),
    Installation(InstallationKey),
    Passkey(p256::ecdsa::SigningKey),
    SmartWallet { account_id: String },
    Legacy { wallet: LocalWallet, delegate: SigningKey },
}

impl Party {
    fn wallet(seed: u8) -> Self {
        Self::Wallet(wallet(seed))
    }

    fn installation(seed: u8) -> Self {
        Self::Installation(installation(seed))
    }

    fn passkey(seed: u8) -> Self {
        Self::Passkey(p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    fn smart_wallet(chain: u64, address: &str) -> Self {
        Self::SmartWallet { account_id: format!("eip155:{chain}:{address}") }
    }

    fn legacy(wallet_seed: u8, delegate_seed: u8) -> Self {
        Self::Legacy { wallet: wallet(wallet_seed), delegate: SigningKey::from_slice(&[delegate_seed; 32]).unwrap() }
    }

    fn identifier(&self) -> MemberIdentifier {
        match self {
            Self::Wallet(wallet) | Self::Legacy { wallet, .. } => wallet.address().into(),
            Self::Installation(key) => key.public().into(),
            Self::Passkey(key) => {
                MemberIdentifier::Passkey(key.verifying_key().to_encoded_point(true).as_bytes().to_vec())
            }
            Self::SmartWallet { account_id } => {
                MemberIdentifier::Ethereum(account_id.rsplit(':').next().unwrap().to_owned())
            }
        }
    }

    async fn sign(&self, text: &str) -> proto::Signature {
        let kind = match self {
            Self::Wallet(wallet) => SignatureKind::Erc191(proto::RecoverableEcdsaSignature {
                bytes: wallet.sign_text(text).await.unwrap().to_vec(),
            }),
            Self::Installation(key) => return key.sign_identity_update(text),
            Self::Passkey(key) => SignatureKind::Passkey(passkey_signature(key, text)),
            Self::SmartWallet { account_id } => SignatureKind::Erc6492(proto::SmartContractWalletSignature {
                account_id: account_id.clone(),
                block_number: BLOCK,
                signature: contract_signature(alloy_primitives::eip191_hash_message(text).0),
            }),
            Self::Legacy { wallet, delegate } => {
                SignatureKind::DelegatedErc191(legacy_signature(wallet, delegate, text).await)
            }
        };
        proto::Signature { signature: Some(kind) }
    }
}

fn passkey_signature(key: &p256::ecdsa::SigningKey, text: &str) -> proto::RecoverablePasskeySignature {
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(text);
    let client_data =
        serde_json::json!({ "type": "webauthn.get", "challenge": challenge, "origin": "https://a.example" });
    let client_data_json = client_data.to_string().into_bytes();
    let authenticator_data = vec![5; 37];
    let signed = [authenticator_data.as_slice(), &Sha256::digest(&client_data_json)].concat();
    let signature: p256::ecdsa::Signature = key.sign(&signed);
    proto::RecoverablePasskeySignature {
        public_key: key.verifying_key().to_encoded_point(true).as_bytes().to_vec(),
        signature: signature.to_der().as_bytes().to_vec(),
        authenticator_data,
        client_data_json,
    }
}

async fn legacy_signature(wallet: &LocalWallet, delegate: &SigningKey, text: &str) -> proto::LegacyDelegatedSignature {
    let point = delegate.verifying_key().to_encoded_point(false).as_bytes().to_vec();
    let key = proto::LegacyUnsignedPublicKey {
        created_ns: 7,
        union: Some(proto::legacy_unsigned_public_key::Union::Secp256k1Uncompressed(
            proto::legacy_unsigned_public_key::Secp256k1Uncompressed { bytes: point },
        )),
    };
    let key_bytes = key.encode_to_vec();
    let delegation = wallet.sign_text(&delegation_text(&key_bytes)).await.unwrap();
    let compact = proto::legacy_key_signature::EcdsaCompact {
        bytes: delegation[..64].to_vec(),
        recovery: u32::from(delegation[64] - 27),
    };
    let union = Some(proto::legacy_key_signature::Union::WalletEcdsaCompact(compact));
    let hash = alloy_primitives::eip191_hash_message(text);
    let by_delegate = EcdsaSignature::from(delegate.sign_prehash_recoverable(hash.as_slice()).unwrap());
    proto::LegacyDelegatedSignature {
        delegated_key: Some(proto::LegacySignedPublicKey {
            key_bytes,
            signature: Some(proto::LegacyKeySignature { union }),
        }),
        signature: Some(proto::RecoverableEcdsaSignature { bytes: by_delegate.as_bytes().to_vec() }),
    }
}

const BLOCK: u64 = 123;

/// A contract that takes the reversed hash for a signature.
fn contract_signature(hash: [u8; 32]) -> Vec<u8> {
    hash.into_iter().rev().collect()
}

/// Knows chain 1 and 8453, at one block; chain 10 is out of reach.
struct Contracts;

#[async_trait::async_trait]
impl SmartWalletVerifier for Contracts {
    async fn verify(
        &self,
        account_id: &str,
        block_number: Option<u64>,
        hash: [u8; 32],
        signature: &[u8],
    ) -> Result<bool, VerifierError> {
        match account_id.split(':').nth(1) {
            Some("1" | "8453") => Ok(block_number == Some(BLOCK) && signature == contract_signature(hash)),
            Some("10") => Err(VerifierError::Unavailable("connection refused".into())),
            _ => NoSmartWallets.verify(account_id, block_number, hash, signature).await,
        }
    }
}

/// An action and who signs it.
enum Step<'a> {
    Create { owner: &'a Party, nonce: u64 },
    Add { by: &'a Party, new: &'a Party },
    Revoke { by: &'a Party, member: MemberIdentifier },
    Recovery { by: &'a Party, new: MemberIdentifier },
}

/// Builds and signs an update at `second`.
async fn update(inbox_id: &InboxId, second: u64, steps: &[Step<'_>]) -> IdentityUpdate {
    let unsigned = |step: &Step<'_>| match step {
        Step::Create { owner, nonce } => Kind::CreateInbox(proto::CreateInbox {
            initial_identifier: owner.identifier().to_string(),
            nonce: *nonce,
            initial_identifier_kind: match owner {
                Party::Passkey(_) => IdentifierKind::Passkey.into(),
                _ => IdentifierKind::Ethereum.into(),
            },
            ..Default::default()
        }),
        Step::Add { new, .. } => Kind::Add(proto::AddAssociation {
            new_member_identifier: Some(new.identifier().into()),
            ..Default::default()
        }),
        Step::Revoke { member, .. } => Kind::Revoke(proto::RevokeAssociation {
            member_to_revoke: Some(member.clone().into()),
            ..Default::default()
        }),
        Step::Recovery { new, .. } => Kind::ChangeRecoveryAddress(proto::ChangeRecoveryAddress {
            new_recovery_identifier: new.to_string(),
            new_recovery_identifier_kind: IdentifierKind::Ethereum.into(),
            ..Default::default()
        }),
    };
    let actions = steps.iter().map(|step| IdentityAction { kind: Some(unsigned(step)) }).collect();
    let mut update = IdentityUpdate { actions, client_timestamp_ns: second * SECOND, inbox_id: inbox_id.to_string() };
    let text = signature_text(&update).unwrap();
    for (action, step) in update.actions.iter_mut().zip(steps) {
        match (action.kind.as_mut().unwrap(), step) {
            (Kind::CreateInbox(create), Step::Create { owner, .. }) => {
                create.initial_identifier_signature = Some(owner.sign(&text).await);
            }
            (Kind::Add(add), Step::Add { by, new }) => {
                add.existing_member_signature = Some(by.sign(&text).await);
                add.new_member_signature = Some(new.sign(&text).await);
            }
            (Kind::Revoke(revoke), Step::Revoke { by, .. }) => {
                revoke.recovery_identifier_signature = Some(by.sign(&text).await);
            }
            (Kind::ChangeRecoveryAddress(change), Step::Recovery { by, .. }) => {
                change.existing_recovery_identifier_signature = Some(by.sign(&text).await);
            }
            _ => unreachable!("steps and actions correspond"),
        }
    }
    update
}

async fn apply(
    state: Option<&AssociationState>,
    update: &IdentityUpdate,
) -> Result<AssociationState, AssociationError> {
    AssociationState::apply(state.cloned(), update, &Contracts).await
}

async fn refusal(state: Option<&AssociationState>, update: &IdentityUpdate) -> String {
    apply(state, update).await.unwrap_err().to_string()
}

/// The inbox that `owner` created with nonce 1, and its id.
async fn inbox_of(owner: &Party) -> (InboxId, AssociationState) {
    let id = owner.identifier().inbox_id(1).unwrap();
    let create = update(&id, 1, &[Step::Create { owner, nonce: 1 }]).await;
    let state = apply(None, &create).await.unwrap();
    (id, state)
}

/// `state` after a further update that has to be good.
async fn after(state: &AssociationState, second: u64, steps: &[Step<'_>]) -> AssociationState {
    let update = update(state.inbox_id(), second, steps).await;
    apply(Some(state), &update).await.unwrap()
}

fn signature_of(update: &mut IdentityUpdate) -> &mut proto::Signature {
    match update.actions[0].kind.as_mut().unwrap() {
        Kind::CreateInbox(create) => create.initial_identifier_signature.as_mut().unwrap(),
        Kind::Add(add) => add.new_member_signature.as_mut().unwrap(),
        Kind::Revoke(revoke) => revoke.recovery_identifier_signature.as_mut().unwrap(),
        Kind::ChangeRecoveryAddress(change) => change.existing_recovery_identifier_signature.as_mut().unwrap(),
    }
}

fn ecdsa_bytes(update: &mut IdentityUpdate) -> &mut Vec<u8> {
    match signature_of(update).signature.as_mut().unwrap() {
        SignatureKind::Erc191(ecdsa) => &mut ecdsa.bytes,
        other => panic!("not a wallet's signature: {other:?}"),
    }
}

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

/// Replaces `s` by the order of secp256k1 minus `s`, and leaves `v`.
fn raise_s(bytes: &mut [u8]) {
    let signature = k256::ecdsa::Signature::from_slice(&bytes[..64]).unwrap();
    let (r, s) = signature.split_scalars();
    let raised = k256::ecdsa::Signature::from_scalars(r, -s).unwrap();
    assert!(raised.normalize_s().is_some(), "s is high now");
    bytes[..64].copy_from_slice(&raised.to_bytes());
}

// Signatures

#[tokio::test]
async fn whoever_changes_the_content_after_signing_is_refused() {
    let (owner, key) = (Party::wallet(1), Party::installation(11));
    let (id, state) = inbox_of(&owner).await;
    let original =
        update(&id, 2, &[Step::Add { by: &owner, new: &key }, Step::Add { by: &owner, new: &Party::installation(12) }])
            .await;
    const WRONG: &str = "ed25519 Signature failed signature error: Verification equation was not satisfied";
    let mut later = original.clone();
    later.client_timestamp_ns += SECOND;
    assert_eq!(refusal(Some(&state), &later).await, WRONG);
    let mut reordered = original.clone();
    reordered.actions.swap(0, 1);
    assert_eq!(refusal(Some(&state), &reordered).await, WRONG);
    let mut same_second = original.clone();
    same_second.client_timestamp_ns += SECOND - 1;
    assert!(apply(Some(&state), &same_second).await.is_ok(), "the text knows whole seconds only");
}

#[tokio::test]
async fn a_failed_update_changes_nothing_even_when_its_first_action_was_good() {
    let owner = Party::wallet(1);
    let (id, state) = inbox_of(&owner).await;
    let stranger = Party::wallet(9);
    let half_good = [
        Step::Add { by: &owner, new: &Party::installation(11) },
        Step::Add { by: &stranger, new: &Party::installation(12) },
    ];
    let error = refusal(Some(&state), &update(&id, 2, &half_good).await).await;
    assert_eq!(error, "Missing existing member");
}

#[tokio::test]
async fn wallet_signatures_are_65_bytes_with_a_low_s() {
    let owner = Party::wallet(1);
    let id = owner.identifier().inbox_id(1).unwrap();
    let original = update(&id, 1, &[Step::Create { owner: &owner, nonce: 1 }]).await;
    let refused = async |change: fn(&mut Vec<u8>)| {
        let mut changed = original.clone();
        change(ecdsa_bytes(&mut changed));
        refusal(None, &changed).await
    };
    for invalid in [
        refused(|bytes| bytes.truncate(64)).await,
        refused(|bytes| bytes.push(0)).await,
        refused(Vec::clear).await,
        refused(|bytes| bytes[..64].fill(0)).await,
        refused(|bytes| bytes[..64].fill(0xff)).await,
        refused(|bytes| bytes[64] = 5).await,
    ] {
        assert_eq!(invalid, "Signature validation failed");
    }
    assert_eq!(refused(|bytes| raise_s(bytes)).await, "Missing existing member", "v no longer fits");
    assert_eq!(refused(|bytes| bytes[64] ^= 7).await, "Missing existing member", "27 and 28 are each other's flip");

    let mut zero_based = original.clone();
    ecdsa_bytes(&mut zero_based)[64] -= 27;
    assert!(apply(None, &zero_based).await.is_ok(), "v may be 0 or 1");
}

#[tokio::test]
async fn a_kind_of_signature_stands_for_its_kind_of_member_only() {
    // A wallet member cannot be represented by its address alone in another kind of signature, so the mismatch shows
    // where the log claims a wallet and an installation signs.
    let fits = [
        (MemberKind::Ethereum, crate::identity::signature::SignatureKind::InstallationKey),
        (MemberKind::Ethereum, crate::identity::signature::SignatureKind::P256),
        (MemberKind::Installation, crate::identity::signature::SignatureKind::Erc191),
        (MemberKind::Installation, crate::identity::signature::SignatureKind::P256),
        (MemberKind::Passkey, crate::identity::signature::SignatureKind::InstallationKey),
    ];
    let texts: Vec<_> = fits.iter().map(|(role, kind)| kind.fits(*role).unwrap_err().to_string()).collect();
    assert_eq!(texts[0], r#"Signature not allowed for role "ethereum" "installation-key""#);
    assert_eq!(texts[2], r#"Signature not allowed for role "installation" "erc-191""#);
    assert_eq!(texts[4], r#"Signature not allowed for role "passkey" "installation-key""#);
}

#[tokio::test]
async fn absent_signatures_are_named() {
    let owner = Party::wallet(1);
    let id = owner.identifier().inbox_id(1).unwrap();
    let mut create = update(&id, 1, &[Step::Create { owner: &owner, nonce: 1 }]).await;
    signature_of(&mut create).signature = None;
    assert_eq!(
        refusal(None, &create).await,
        "missing field signature of type \
         xmtp_proto::generated::xmtp::identity::associations::signature::Signature during conversion from protobuf"
    );
}

#[tokio::test]
async fn malformed_installation_signatures_are_refused() {
    let (owner, key) = (Party::wallet(1), Party::installation(11));
    let (id, state) = inbox_of(&owner).await;
    let original = update(&id, 2, &[Step::Add { by: &owner, new: &key }]).await;
    let refused = async |change: fn(&mut proto::RecoverableEd25519Signature)| {
        let mut changed = original.clone();
        match signature_of(&mut changed).signature.as_mut().unwrap() {
            SignatureKind::InstallationKey(signature) => change(signature),
            other => panic!("{other:?}"),
        }
        refusal(Some(&state), &changed).await
    };
    assert_eq!(refused(|signature| signature.bytes.truncate(63)).await, "Signature validation failed");
    assert!(refused(|signature| signature.public_key.truncate(31)).await.starts_with("ed25519 Signature failed"));
    assert!(refused(|signature| signature.bytes[0] ^= 1).await.starts_with("ed25519 Signature failed"));
}

#[tokio::test]
async fn a_passkey_signs_the_text_and_with_its_own_key() {
    let owner = Party::passkey(3);
    let id = owner.identifier().inbox_id(1).unwrap();
    let original = update(&id, 1, &[Step::Create { owner: &owner, nonce: 1 }]).await;
    let refused = async |change: fn(&mut proto::RecoverablePasskeySignature)| {
        let mut changed = original.clone();
        match signature_of(&mut changed).signature.as_mut().unwrap() {
            SignatureKind::Passkey(passkey) => change(passkey),
            other => panic!("{other:?}"),
        }
        refusal(None, &changed).await
    };
    assert_eq!(refused(|passkey| passkey.client_data_json.clear()).await, "client_data is invalid");
    assert_eq!(refused(|passkey| passkey.authenticator_data[0] ^= 1).await, "Signature validation failed");
    assert_eq!(refused(|passkey| passkey.signature.clear()).await, "Signature validation failed");
    assert_eq!(refused(|passkey| passkey.public_key.clear()).await, "Invalid public key");
    let mut other_text = original.clone();
    other_text.client_timestamp_ns += SECOND;
    assert_eq!(refusal(None, &other_text).await, "client_data is invalid");
}

// Smart-contract wallets

const CONTRACT: &str = "0x00000000000000000000000000000000000000c0";

#[tokio::test]
async fn a_smart_contract_wallet_stays_on_its_chain() {
    let (mainnet, base) = (Party::smart_wallet(1, CONTRACT), Party::smart_wallet(8453, CONTRACT));
    let (id, state) = inbox_of(&mainnet).await;
    assert_eq!(state.members()[&mainnet.identifier()].chain_id, Some(1));
    let state = after(&state, 2, &[Step::Add { by: &mainnet, new: &Party::installation(11) }]).await;
    for step in [
        Step::Add { by: &base, new: &Party::installation(12) },
        Step::Revoke { by: &base, member: Party::installation(11).identifier() },
        Step::Recovery { by: &base, new: Party::wallet(1).identifier() },
    ] {
        let from_base = update(&id, 3, &[step]).await;
        assert_eq!(
            refusal(Some(&state), &from_base).await,
            "Wrong chain id. Initially added with 1 but now signing from 8453"
        );
    }
}

#[tokio::test]
async fn a_plain_wallet_does_not_become_a_contract() {
    let owner = wallet(1);
    let as_contract = Party::smart_wallet(1, &format!("{:#x}", owner.address()));
    let (id, state) = inbox_of(&Party::Wallet(owner)).await;
    let add = update(&id, 2, &[Step::Add { by: &as_contract, new: &Party::installation(11) }]).await;
    assert_eq!(refusal(Some(&state), &add).await, "Wrong chain id. Initially added with 0 but now signing from 1");
}

#[tokio::test]
async fn contracts_that_say_no_or_cannot_be_asked() {
    let contract = Party::smart_wallet(1, CONTRACT);
    let id = contract.identifier().inbox_id(1).unwrap();
    let mut create = update(&id, 1, &[Step::Create { owner: &contract, nonce: 1 }]).await;
    let error = AssociationState::apply(None, &create, &NoSmartWallets).await.unwrap_err();
    assert_eq!(error.to_string(), "verifier not present for chain ID eip155:1");
    assert!(!error.is_retryable());
    match signature_of(&mut create).signature.as_mut().unwrap() {
        SignatureKind::Erc6492(signature) => signature.block_number += 1,
        other => panic!("{other:?}"),
    }
    assert_eq!(refusal(None, &create).await, "Signature validation failed");

    let unreachable = Party::smart_wallet(10, CONTRACT);
    let create = update(&id, 1, &[Step::Create { owner: &unreachable, nonce: 1 }]).await;
    assert!(apply(None, &create).await.unwrap_err().is_retryable());
}

// Legacy delegated signatures

#[tokio::test]
async fn a_v2_identity_key_signs_for_its_wallet_where_the_nonce_is_0() {
    let (legacy, key) = (Party::legacy(1, 21), Party::installation(11));
    let id = legacy.identifier().inbox_id(0).unwrap();
    let steps = [Step::Create { owner: &legacy, nonce: 0 }, Step::Add { by: &legacy, new: &key }];
    let state = apply(None, &update(&id, 1, &steps).await).await.unwrap();
    assert_eq!(state.recovery_identifier(), &wallet(1).address().into());
    assert_eq!(state.installations(), BTreeSet::from([installation(11).public()]));

    // The delegation serves once, even with another text.
    let again = update(&id, 2, &[Step::Add { by: &legacy, new: &Party::installation(12) }]).await;
    assert_eq!(refusal(Some(&state), &again).await, "Replay detected");
    // And it recovers nothing: here a delegation that was not seen yet, by the recovery identifier.
    let fresh = Party::legacy(1, 22);
    let revoke = update(&id, 2, &[Step::Revoke { by: &fresh, member: key.identifier() }]).await;
    assert_eq!(refusal(Some(&state), &revoke).await, r#"Signature not allowed for role "ethereum" "legacy-delegated""#);
}

#[tokio::test]
async fn a_v2_identity_key_serves_no_other_nonce() {
    const REUSED: &str = "Legacy key is only allowed to be associated using a legacy signature with nonce 0";
    let legacy = Party::legacy(1, 21);
    let id = legacy.identifier().inbox_id(1).unwrap();
    let create = update(&id, 1, &[Step::Create { owner: &legacy, nonce: 1 }]).await;
    assert_eq!(refusal(None, &create).await, REUSED);

    let (id, state) = inbox_of(&Party::wallet(1)).await;
    let add = update(&id, 2, &[Step::Add { by: &legacy, new: &Party::installation(11) }]).await;
    assert_eq!(refusal(Some(&state), &add).await, REUSED);
}

#[tokio::test]
async fn a_v2_identity_key_signs_for_no_recovery_identifier_that_is_not_a_member() {
    let (owner, legacy) = (Party::wallet(1), Party::legacy(1, 21));
    let id = owner.identifier().inbox_id(0).unwrap();
    let create = update(&id, 1, &[Step::Create { owner: &owner, nonce: 0 }]).await;
    let state = apply(None, &create).await.unwrap();
    let state = after(&state, 2, &[Step::Revoke { by: &owner, member: owner.identifier() }]).await;
    let add = update(&id, 3, &[Step::Add { by: &legacy, new: &Party::installation(11) }]).await;
    assert_eq!(
        refusal(Some(&state), &add).await,
        "Legacy key is only allowed to be associated using a legacy signature with nonce 0"
    );
}

#[tokio::test]
async fn a_v2_identity_key_needs_its_wallets_delegation() {
    let legacy = Party::legacy(1, 21);
    let id = legacy.identifier().inbox_id(0).unwrap();
    let mut create = update(&id, 1, &[Step::Create { owner: &legacy, nonce: 0 }]).await;
    let text = signature_text(&create).unwrap();
    let other_key = SigningKey::from_slice(&[22; 32]).unwrap();
    let hash = alloy_primitives::eip191_hash_message(&text);
    let by_other = EcdsaSignature::from(other_key.sign_prehash_recoverable(hash.as_slice()).unwrap());
    match signature_of(&mut create).signature.as_mut().unwrap() {
        SignatureKind::DelegatedErc191(signature) => {
            signature.signature.as_mut().unwrap().bytes = by_other.as_bytes().to_vec();
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(refusal(None, &create).await, "Signature validation failed");
}
