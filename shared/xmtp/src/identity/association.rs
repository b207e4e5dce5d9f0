//! The state of an inbox: what its log of identity updates adds up to (XIP-46).

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;

use super::signature::{VerifiedSignature, verify};
use super::signature_text::{member, signature_text};
use super::{AssociationError, InboxId, InstallationId, Member, MemberIdentifier, MemberKind, SmartWalletVerifier};
use crate::proto::associations::{IdentityAction, IdentityUpdate, identity_action::Kind};

#[cfg(test)]
mod tests;

/// Who belongs to an inbox after some entry of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssociationState {
    inbox_id: InboxId,
    members: BTreeMap<MemberIdentifier, Member>,
    recovery_identifier: MemberIdentifier,
    seen_signatures: BTreeSet<Vec<u8>>,
}

impl AssociationState {
    /// The state after one more entry of the log. `state` is `None` before the first.
    ///
    /// # Errors
    /// If the update breaks a rule of XIP-46. Then the whole update is void. Ask
    /// [`AssociationError::is_retryable`] before believing that: a smart-contract wallet may have been out of reach.
    pub async fn apply(
        state: Option<Self>,
        update: &IdentityUpdate,
        wallets: &dyn SmartWalletVerifier,
    ) -> Result<Self, AssociationError> {
        let text = signature_text(update)?;
        let mut actions = Vec::with_capacity(update.actions.len());
        for action in &update.actions {
            actions.push(Action::verify(action, &text, wallets).await?);
        }
        let mut state = state;
        for action in &actions {
            state = Some(action.apply(state, update.client_timestamp_ns)?);
        }
        let mut state = state.ok_or(AssociationError::NotCreated)?;
        if state.inbox_id.as_str() != update.inbox_id {
            return Err(AssociationError::WrongInboxId);
        }
        // Only now: within one update, one signature may serve several actions.
        state.seen_signatures.extend(actions.into_iter().flat_map(Action::replay_bytes));
        Ok(state)
    }

    /// The state after all `updates` of a log, in their order.
    ///
    /// # Errors
    /// If one of them breaks a rule (see [`Self::apply`]): then the inbox has no state. Also if there are none.
    pub async fn replay(
        updates: impl IntoIterator<Item = &IdentityUpdate>,
        wallets: &dyn SmartWalletVerifier,
    ) -> Result<Self, AssociationError> {
        let mut state = None;
        for update in updates {
            state = Some(Self::apply(state, update, wallets).await?);
        }
        state.ok_or(AssociationError::NotCreated)
    }

    /// The inbox.
    #[must_use]
    pub fn inbox_id(&self) -> &InboxId {
        &self.inbox_id
    }

    /// All members, by identifier.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<MemberIdentifier, Member> {
        &self.members
    }

    /// Who may revoke members and change the recovery identifier. Need not be a member.
    #[must_use]
    pub fn recovery_identifier(&self) -> &MemberIdentifier {
        &self.recovery_identifier
    }

    /// The installations of the inbox.
    #[must_use]
    pub fn installations(&self) -> BTreeSet<InstallationId> {
        self.members.keys().filter_map(MemberIdentifier::installation).collect()
    }

    /// The wallets of the inbox.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<Address> {
        self.members.keys().filter_map(MemberIdentifier::address).collect()
    }

    fn check_replay(&self, signatures: &[&VerifiedSignature]) -> Result<(), AssociationError> {
        let replayed = signatures.iter().any(|signature| self.seen_signatures.contains(&signature.replay_bytes));
        if replayed { Err(AssociationError::Replay) } else { Ok(()) }
    }

    /// A smart-contract wallet stays on the chain it was added on, and a plain wallet stays one.
    fn check_chain(&self, signature: &VerifiedSignature) -> Result<(), AssociationError> {
        match self.members.get(&signature.signer) {
            Some(member) if member.chain_id != signature.chain_id => {
                Err(AssociationError::ChainIdMismatch(member.chain_id.unwrap_or(0), signature.chain_id.unwrap_or(0)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What revoking and changing the recovery identifier ask of their signature.
    fn check_recovery(&self, signature: &VerifiedSignature) -> Result<(), AssociationError> {
        self.check_replay(&[signature])?;
        self.check_chain(signature)?;
        if signature.is_legacy() {
            let (role, kind) = (MemberKind::Ethereum, signature.kind);
            return Err(AssociationError::SignatureNotAllowed(role.to_string(), kind.to_string()));
        }
        if signature.signer == self.recovery_identifier { Ok(()) } else { Err(AssociationError::MissingExistingMember) }
    }
}

/// An action whose signatures hold.
enum Action {
    Create { identifier: MemberIdentifier, nonce: u64, signature: VerifiedSignature },
    Add { member: MemberIdentifier, by_member: VerifiedSignature, by_new: VerifiedSignature },
    Revoke { member: MemberIdentifier, signature: VerifiedSignature },
    ChangeRecovery { identifier: MemberIdentifier, signature: VerifiedSignature },
}

impl Action {
    async fn verify(
        action: &IdentityAction,
        text: &str,
        wallets: &dyn SmartWalletVerifier,
    ) -> Result<Self, AssociationError> {
        let kind = action.kind.as_ref().ok_or(AssociationError::missing("action", "identity_action::Kind"))?;
        Ok(match kind {
            Kind::CreateInbox(create) => Self::Create {
                identifier: MemberIdentifier::from_text(&create.initial_identifier, create.initial_identifier_kind())?,
                nonce: create.nonce,
                signature: verify(create.initial_identifier_signature.as_ref(), text, wallets).await?,
            },
            Kind::Add(add) => Self::Add {
                member: member("member_identifier", add.new_member_identifier.as_ref())?,
                by_new: verify(add.new_member_signature.as_ref(), text, wallets).await?,
                by_member: verify(add.existing_member_signature.as_ref(), text, wallets).await?,
            },
            Kind::Revoke(revoke) => Self::Revoke {
                member: member("member_to_revoke", revoke.member_to_revoke.as_ref())?,
                signature: verify(revoke.recovery_identifier_signature.as_ref(), text, wallets).await?,
            },
            Kind::ChangeRecoveryAddress(change) => Self::ChangeRecovery {
                identifier: MemberIdentifier::from_text(
                    &change.new_recovery_identifier,
                    change.new_recovery_identifier_kind(),
                )?,
                signature: verify(change.existing_recovery_identifier_signature.as_ref(), text, wallets).await?,
            },
        })
    }

    fn apply(
        &self,
        state: Option<AssociationState>,
        client_timestamp_ns: u64,
    ) -> Result<AssociationState, AssociationError> {
        match self {
            Self::Create { identifier, nonce, signature } => {
                if state.is_some() {
                    return Err(AssociationError::MultipleCreate);
                }
                create(identifier, *nonce, signature)
            }
            Self::Add { member, by_member, by_new } => {
                add(state.ok_or(AssociationError::NotCreated)?, member, by_member, by_new, client_timestamp_ns)
            }
            Self::Revoke { member, signature } => revoke(state.ok_or(AssociationError::NotCreated)?, member, signature),
            Self::ChangeRecovery { identifier, signature } => {
                let mut state = state.ok_or(AssociationError::NotCreated)?;
                state.check_recovery(signature)?;
                state.recovery_identifier = identifier.clone();
                Ok(state)
            }
        }
    }

    fn replay_bytes(self) -> Vec<Vec<u8>> {
        match self {
            Self::Create { signature, .. }
            | Self::Revoke { signature, .. }
            | Self::ChangeRecovery { signature, .. } => {
                vec![signature.replay_bytes]
            }
            Self::Add { by_member, by_new, .. } => vec![by_member.replay_bytes, by_new.replay_bytes],
        }
    }
}

fn create(
    identifier: &MemberIdentifier,
    nonce: u64,
    signature: &VerifiedSignature,
) -> Result<AssociationState, AssociationError> {
    if signature.signer != *identifier {
        return Err(AssociationError::MissingExistingMember);
    }
    signature.kind.fits(identifier.kind())?;
    if signature.is_legacy() && nonce != 0 {
        return Err(AssociationError::LegacySignatureReuse);
    }
    let creator = Member {
        identifier: identifier.clone(),
        added_by: None,
        client_timestamp_ns: None,
        chain_id: signature.chain_id,
    };
    Ok(AssociationState {
        inbox_id: identifier.inbox_id(nonce)?,
        members: BTreeMap::from([(identifier.clone(), creator)]),
        recovery_identifier: identifier.clone(),
        seen_signatures: BTreeSet::new(),
    })
}

/// The order of the checks is libxmtp's: it decides which error a node answers with when several rules are broken.
fn add(
    mut state: AssociationState,
    identifier: &MemberIdentifier,
    by_member: &VerifiedSignature,
    by_new: &VerifiedSignature,
    client_timestamp_ns: u64,
) -> Result<AssociationState, AssociationError> {
    state.check_replay(&[by_member, by_new])?;
    if by_new.signer != *identifier {
        return Err(AssociationError::NewMemberIdSignatureMismatch);
    }
    if by_new.signer == by_member.signer {
        return Err(AssociationError::AddSelf);
    }
    check_legacy_nonce(&state, by_member, by_new)?;
    by_new.kind.fits(identifier.kind())?;
    state.check_chain(by_member)?;
    if !state.members.contains_key(&by_member.signer) {
        if by_member.signer != state.recovery_identifier {
            return Err(AssociationError::MissingExistingMember);
        }
        // The recovery identifier has to sign itself when it is not a member.
        if by_member.is_legacy() {
            return Err(AssociationError::LegacySignatureReuse);
        }
    }
    by_member.kind.fits(by_member.signer.kind())?;
    if (by_member.signer.kind(), identifier.kind()) == (MemberKind::Installation, MemberKind::Installation) {
        return Err(AssociationError::MemberNotAllowed(MemberKind::Installation, MemberKind::Installation));
    }
    let member = Member {
        identifier: identifier.clone(),
        added_by: Some(by_member.signer.clone()),
        client_timestamp_ns: Some(client_timestamp_ns),
        chain_id: by_new.chain_id,
    };
    state.members.insert(identifier.clone(), member);
    Ok(state)
}

/// Legacy signatures serve only in the inbox that the adding wallet creates with nonce 0.
fn check_legacy_nonce(
    state: &AssociationState,
    by_member: &VerifiedSignature,
    by_new: &VerifiedSignature,
) -> Result<(), AssociationError> {
    let adder = &by_member.signer;
    let legacy = by_member.is_legacy() || by_new.is_legacy();
    if legacy && adder.kind() != MemberKind::Installation && state.inbox_id != adder.inbox_id(0)? {
        return Err(AssociationError::LegacySignatureReuse);
    }
    Ok(())
}

/// Takes the member away, and with it the installations it added. Revoking a stranger changes nothing.
fn revoke(
    mut state: AssociationState,
    identifier: &MemberIdentifier,
    signature: &VerifiedSignature,
) -> Result<AssociationState, AssociationError> {
    state.check_recovery(signature)?;
    state.members.retain(|key, member| {
        let is_installation = key.kind() == MemberKind::Installation;
        key != identifier && !(is_installation && member.added_by.as_ref() == Some(identifier))
    });
    Ok(state)
}
