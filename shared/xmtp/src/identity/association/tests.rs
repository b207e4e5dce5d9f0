//! The rules of the log, each with real signatures. Here: who signs, and how updates are made.

use alloy_primitives::Signature as EcdsaSignature;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::identity::legacy_signature::delegation_text;
use crate::identity::{InstallationKey, LocalWallet, NoSmartWallets, VerifierError, WalletSigner};
use crate::proto::associations::{self as proto, IdentifierKind, signature::Signature as SignatureKind};

mod rules;
mod signatures;

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

/// Replaces `s` by the order of secp256k1 minus `s`, and leaves `v`.
fn raise_s(bytes: &mut [u8]) {
    let signature = k256::ecdsa::Signature::from_slice(&bytes[..64]).unwrap();
    let (r, s) = signature.split_scalars();
    let raised = k256::ecdsa::Signature::from_scalars(r, -s).unwrap();
    assert!(raised.normalize_s().is_some(), "s is high now");
    bytes[..64].copy_from_slice(&raised.to_bytes());
}
