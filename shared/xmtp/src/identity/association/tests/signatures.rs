//! What counts as a signature, kind by kind.

use super::*;

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
    const FLIP: u8 = 27 ^ 28;
    let high_s = refused(|bytes| {
        raise_s(bytes);
        bytes[64] ^= FLIP;
    });
    assert_eq!(high_s.await, "Missing existing member", "valid as ECDSA, but readers lower s and keep v");
    assert_eq!(refused(|bytes| bytes[64] ^= FLIP).await, "Missing existing member");

    let mut zero_based = original.clone();
    ecdsa_bytes(&mut zero_based)[64] -= 27;
    assert!(apply(None, &zero_based).await.is_ok(), "v may be 0 or 1");
}

#[test]
fn a_kind_of_signature_stands_for_its_kind_of_member_only() {
    use crate::identity::signature::SignatureKind as Signed;
    use MemberKind::{Ethereum, Installation, Passkey};

    let refusal = |kind: Signed, role| kind.fits(role).map_err(|error| error.to_string());
    for (kind, role) in [
        (Signed::Erc191, Ethereum),
        (Signed::Erc1271, Ethereum),
        (Signed::LegacyDelegated, Ethereum),
        (Signed::InstallationKey, Installation),
        (Signed::P256, Passkey),
    ] {
        for other in [Ethereum, Installation, Passkey] {
            let expected = format!(r#"Signature not allowed for role "{other}" "{kind}""#);
            assert_eq!(refusal(kind, other), if other == role { Ok(()) } else { Err(expected) });
        }
    }
    assert_eq!(
        refusal(Signed::InstallationKey, Ethereum).unwrap_err(),
        r#"Signature not allowed for role "ethereum" "installation-key""#
    );
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
