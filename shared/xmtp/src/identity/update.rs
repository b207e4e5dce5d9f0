//! Making identity updates.

use super::member::address_text;
use super::wallet::sign_with_wallet;
use super::{InboxId, InstallationKey, MemberIdentifier, SignerError, WalletSigner, signature_text};
use crate::proto::associations::{
    AddAssociation, CreateInbox, IdentifierKind, IdentityAction, IdentityUpdate, RevokeAssociation,
    identity_action::Kind,
};

/// The first update of a new inbox: `wallet` creates it and adds the installation of `key`.
///
/// The inbox id is [`InboxId::of_wallet`] of the wallet's address and `nonce` (SDKs use 1). `client_timestamp_ns` is the
/// caller's clock in nanoseconds since 1970, here and below.
///
/// # Errors
/// If the wallet does not sign.
pub async fn create_inbox_update(
    wallet: &dyn WalletSigner,
    nonce: u64,
    key: &InstallationKey,
    client_timestamp_ns: u64,
) -> Result<IdentityUpdate, SignerError> {
    let inbox_id = InboxId::of_wallet(wallet.address(), nonce);
    let create = CreateInbox {
        initial_identifier: address_text(wallet.address()),
        nonce,
        initial_identifier_kind: IdentifierKind::Ethereum.into(),
        ..Default::default()
    };
    let actions = vec![Kind::CreateInbox(create), add(key.public().into())];
    sign_with_both(unsigned(&inbox_id, actions, client_timestamp_ns), wallet, key, Adder::Wallet).await
}

/// Adds the installation of `key` to an inbox that `wallet` is a member of.
///
/// # Errors
/// If the wallet does not sign.
pub async fn add_installation_update(
    inbox_id: &InboxId,
    wallet: &dyn WalletSigner,
    key: &InstallationKey,
    client_timestamp_ns: u64,
) -> Result<IdentityUpdate, SignerError> {
    let actions = vec![add(key.public().into())];
    sign_with_both(unsigned(inbox_id, actions, client_timestamp_ns), wallet, key, Adder::Wallet).await
}

/// Links `wallet` to an inbox that the installation of `key` is a member of.
///
/// # Errors
/// If the wallet does not sign.
pub async fn add_wallet_update(
    inbox_id: &InboxId,
    key: &InstallationKey,
    wallet: &dyn WalletSigner,
    client_timestamp_ns: u64,
) -> Result<IdentityUpdate, SignerError> {
    let actions = vec![add(wallet.address().into())];
    sign_with_both(unsigned(inbox_id, actions, client_timestamp_ns), wallet, key, Adder::Installation).await
}

/// Revokes members (installations, wallets). `recovery` has to be the inbox's recovery identifier, at first the wallet
/// that created it.
///
/// # Errors
/// If the wallet does not sign.
pub async fn revoke_update(
    inbox_id: &InboxId,
    recovery: &dyn WalletSigner,
    members: impl IntoIterator<Item = MemberIdentifier>,
    client_timestamp_ns: u64,
) -> Result<IdentityUpdate, SignerError> {
    let revoke = |member: MemberIdentifier| {
        Kind::Revoke(RevokeAssociation { member_to_revoke: Some(member.into()), recovery_identifier_signature: None })
    };
    let mut update = unsigned(inbox_id, members.into_iter().map(revoke).collect(), client_timestamp_ns);
    let signature = sign_with_wallet(recovery, &text(&update)).await?;
    for action in &mut update.actions {
        if let Some(Kind::Revoke(revoke)) = &mut action.kind {
            revoke.recovery_identifier_signature = Some(signature.clone());
        }
    }
    Ok(update)
}

/// Who of the two signers is the existing member; the other is the new one.
#[derive(Clone, Copy)]
enum Adder {
    Wallet,
    Installation,
}

async fn sign_with_both(
    mut update: IdentityUpdate,
    wallet: &dyn WalletSigner,
    key: &InstallationKey,
    adder: Adder,
) -> Result<IdentityUpdate, SignerError> {
    let text = text(&update);
    let by_wallet = sign_with_wallet(wallet, &text).await?;
    let by_installation = key.sign_identity_update(&text);
    let (by_member, by_new) = match adder {
        Adder::Wallet => (by_wallet, by_installation),
        Adder::Installation => (by_installation, by_wallet),
    };
    for action in &mut update.actions {
        match &mut action.kind {
            Some(Kind::CreateInbox(create)) => create.initial_identifier_signature = Some(by_member.clone()),
            Some(Kind::Add(add)) => {
                add.existing_member_signature = Some(by_member.clone());
                add.new_member_signature = Some(by_new.clone());
            }
            Some(Kind::Revoke(_) | Kind::ChangeRecoveryAddress(_)) | None => {}
        }
    }
    Ok(update)
}

fn add(member: MemberIdentifier) -> Kind {
    Kind::Add(AddAssociation { new_member_identifier: Some(member.into()), ..Default::default() })
}

fn unsigned(inbox_id: &InboxId, kinds: Vec<Kind>, client_timestamp_ns: u64) -> IdentityUpdate {
    let actions = kinds.into_iter().map(|kind| IdentityAction { kind: Some(kind) }).collect();
    IdentityUpdate { actions, client_timestamp_ns, inbox_id: inbox_id.to_string() }
}

fn text(update: &IdentityUpdate) -> String {
    signature_text(update).expect("the actions made here are complete")
}
