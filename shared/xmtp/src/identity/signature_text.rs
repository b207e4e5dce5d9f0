//! The text every signer of an identity update signs.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{AssociationError, MemberIdentifier, MemberKind};
use crate::proto::associations::{IdentifierKind, identity_action::Kind};
use crate::proto::associations::{IdentityAction, IdentityUpdate, MemberIdentifier as ProtoMember};

/// The text that each signature of `update` signs: the inbox, the time in whole seconds and the actions in their order.
///
/// # Errors
/// If a field that the text tells about is absent, or a passkey identifier is not hex.
pub fn signature_text(update: &IdentityUpdate) -> Result<String, AssociationError> {
    let actions = update.actions.iter().map(action_text).collect::<Result<Vec<_>, _>>()?.join("\n");
    Ok(format!(
        "XMTP : Authenticate to inbox\n\n\
         Inbox ID: {}\n\
         Current time: {}\n\n\
         {actions}\n\n\
         For more info: https://xmtp.org/signatures",
        update.inbox_id,
        whole_seconds(update.client_timestamp_ns),
    ))
}

fn action_text(action: &IdentityAction) -> Result<String, AssociationError> {
    let kind = action.kind.as_ref().ok_or(AssociationError::missing("action", "identity_action::Kind"))?;
    Ok(match kind {
        Kind::CreateInbox(create) => {
            format!(
                "- Create inbox\n  (Owner: {})",
                identifier(&create.initial_identifier, create.initial_identifier_kind())?
            )
        }
        Kind::Add(add) => {
            let member = member("member_identifier", add.new_member_identifier.as_ref())?;
            let (title, label) = match member.kind() {
                MemberKind::Installation => ("Grant messaging access to app", "ID"),
                MemberKind::Ethereum => ("Link address to inbox", "Address"),
                MemberKind::Passkey => ("Link passkey to inbox", "Passkey"),
            };
            format!("- {title}\n  ({label}: {member})")
        }
        Kind::Revoke(revoke) => {
            let member = member("member_to_revoke", revoke.member_to_revoke.as_ref())?;
            let (title, label) = match member.kind() {
                MemberKind::Installation => ("Revoke messaging access from app", "ID"),
                MemberKind::Ethereum => ("Unlink address from inbox", "Address"),
                MemberKind::Passkey => ("Unlink passkey from inbox", "Passkey"),
            };
            format!("- {title}\n  ({label}: {member})")
        }
        Kind::ChangeRecoveryAddress(change) => format!(
            "- Change inbox recovery address\n  (Address: {})",
            identifier(&change.new_recovery_identifier, change.new_recovery_identifier_kind())?
        ),
    })
}

fn identifier(text: &str, kind: IdentifierKind) -> Result<MemberIdentifier, AssociationError> {
    MemberIdentifier::from_text(text, kind)
}

/// Reads a member identifier that has to be there.
pub(super) fn member(item: &'static str, proto: Option<&ProtoMember>) -> Result<MemberIdentifier, AssociationError> {
    proto.ok_or(AssociationError::missing(item, "MemberIdentifier"))?.try_into()
}

/// `YYYY-MM-DDTHH:MM:SSZ`. Numbers above the range of an `i64` wrap, as they do in libxmtp.
fn whole_seconds(nanoseconds: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanoseconds.cast_signed()));
    let whole =
        time.and_then(|time| time.replace_nanosecond(0)).expect("64-bit nanoseconds are the years 1677 to 2262");
    whole.format(&Rfc3339).expect("years of four digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::associations::{
        AddAssociation, ChangeRecoveryAddress, CreateInbox, Passkey, RevokeAssociation, member_identifier,
    };

    const OWNER: &str = "0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a";

    fn update(kinds: Vec<Kind>) -> IdentityUpdate {
        IdentityUpdate {
            actions: kinds.into_iter().map(|kind| IdentityAction { kind: Some(kind) }).collect(),
            client_timestamp_ns: 1_795_474_164_999_999_999,
            inbox_id: "45915bad".to_owned(),
        }
    }

    fn every_member() -> Vec<Option<ProtoMember>> {
        let kinds = [
            member_identifier::Kind::InstallationPublicKey(vec![0xAB; 3]),
            member_identifier::Kind::EthereumAddress(OWNER.to_owned()),
            member_identifier::Kind::Passkey(Passkey { key: vec![0xCD; 2], relying_party: Some("x".to_owned()) }),
        ];
        kinds.into_iter().map(|kind| Some(ProtoMember { kind: Some(kind) })).collect()
    }

    fn create() -> Kind {
        Kind::CreateInbox(CreateInbox { initial_identifier: OWNER.to_owned(), nonce: 1, ..Default::default() })
    }

    #[test]
    fn a_new_inbox() {
        let add = AddAssociation { new_member_identifier: every_member().remove(0), ..Default::default() };
        let text = signature_text(&update(vec![create(), Kind::Add(add)])).unwrap();
        assert_eq!(
            text,
            "XMTP : Authenticate to inbox\n\nInbox ID: 45915bad\nCurrent time: 2026-11-23T22:49:24Z\n\n\
             - Create inbox\n  (Owner: 0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a)\n\
             - Grant messaging access to app\n  (ID: ababab)\n\n\
             For more info: https://xmtp.org/signatures"
        );
    }

    #[test]
    fn each_action_has_its_own_words() {
        let words = |kind| {
            let text = signature_text(&update(vec![kind])).unwrap();
            text.split("\n\n").nth(2).unwrap().to_owned()
        };
        let added = every_member()
            .into_iter()
            .map(|member| words(Kind::Add(AddAssociation { new_member_identifier: member, ..Default::default() })));
        assert_eq!(
            added.collect::<Vec<_>>(),
            [
                "- Grant messaging access to app\n  (ID: ababab)".to_owned(),
                format!("- Link address to inbox\n  (Address: {OWNER})"),
                "- Link passkey to inbox\n  (Passkey: cdcd)".to_owned(),
            ]
        );
        let revoked = every_member()
            .into_iter()
            .map(|member| words(Kind::Revoke(RevokeAssociation { member_to_revoke: member, ..Default::default() })));
        assert_eq!(
            revoked.collect::<Vec<_>>(),
            [
                "- Revoke messaging access from app\n  (ID: ababab)".to_owned(),
                format!("- Unlink address from inbox\n  (Address: {OWNER})"),
                "- Unlink passkey from inbox\n  (Passkey: cdcd)".to_owned(),
            ]
        );
        let change = |text: &str, kind: IdentifierKind| {
            words(Kind::ChangeRecoveryAddress(ChangeRecoveryAddress {
                new_recovery_identifier: text.to_owned(),
                new_recovery_identifier_kind: kind.into(),
                ..Default::default()
            }))
        };
        assert_eq!(
            change(OWNER, IdentifierKind::Unspecified),
            format!("- Change inbox recovery address\n  (Address: {OWNER})")
        );
        assert_eq!(
            change("ABCD", IdentifierKind::Passkey),
            "- Change inbox recovery address\n  (Address: abcd)",
            "passkeys are bytes, and shown in lower case"
        );
    }

    #[test]
    fn the_time_is_cut_to_whole_seconds_and_wraps_like_libxmtp() {
        assert_eq!(whole_seconds(0), "1970-01-01T00:00:00Z");
        assert_eq!(whole_seconds(999_999_999), "1970-01-01T00:00:00Z");
        assert_eq!(whole_seconds(1_000_000_000), "1970-01-01T00:00:01Z");
        assert_eq!(whole_seconds(u64::MAX), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn absent_fields_are_named() {
        let text_of = |kind| signature_text(&update(vec![kind])).unwrap_err().to_string();
        assert_eq!(
            text_of(Kind::Add(AddAssociation::default())),
            "missing field member_identifier of type \
             xmtp_proto::generated::xmtp::identity::associations::MemberIdentifier during conversion from protobuf"
        );
        let empty = Some(ProtoMember { kind: None });
        let error = text_of(Kind::Revoke(RevokeAssociation { member_to_revoke: empty, ..Default::default() }));
        assert!(error.starts_with("missing field member_identifier of type "), "{error}");
        let mut nothing = update(vec![create()]);
        nothing.actions[0].kind = None;
        let error = signature_text(&nothing).unwrap_err().to_string();
        assert!(error.starts_with("missing field action of type "), "{error}");
    }
}
