//! Who may change what in a group (0xff02, XIP-47), as libxmtp evaluates it.

use std::collections::BTreeMap;

use crate::{
    extensions::attributes,
    proto::contents::{self, membership_policy, metadata_policy, permissions_update_policy},
};

/// What is needed of the one who changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// Anybody may.
    Allow,
    /// Nobody may.
    Deny,
    /// Admins and super admins may.
    Admin,
    /// Super admins may.
    SuperAdmin,
    /// All of these must be met.
    All(Vec<Policy>),
    /// One of these must be met.
    Any(Vec<Policy>),
}

/// The roles of the one who acts, from the lists before his commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles {
    /// In the admin list.
    pub admin: bool,
    /// In the super admin list.
    pub super_admin: bool,
}

impl Policy {
    /// Whether one of these roles meets the policy.
    pub fn allows(&self, roles: Roles) -> bool {
        match self {
            Self::Allow => true,
            Self::Deny => false,
            Self::Admin => roles.admin || roles.super_admin,
            Self::SuperAdmin => roles.super_admin,
            Self::All(policies) => policies.iter().all(|policy| policy.allows(roles)),
            Self::Any(policies) => policies.iter().any(|policy| policy.allows(roles)),
        }
    }
}

/// A group's policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// For adding an inbox.
    pub add_member: Policy,
    /// For removing an inbox that is no super admin.
    pub remove_member: Policy,
    /// For changing an attribute; what is not listed is for super admins if it begins with `_`, else for admins.
    pub update_metadata: BTreeMap<String, Policy>,
    /// For appending to the admin list.
    pub add_admin: Policy,
    /// For deleting from the admin list.
    pub remove_admin: Policy,
    /// Stored, but not consulted: changing policies is for super admins.
    pub update_permissions: Policy,
}

/// A policy set that libxmtp would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the policy {0} is missing, unspecified or an empty condition")]
pub struct PolicyError(&'static str);

impl Policies {
    /// libxmtp's preset "admin only": members read and write, admins do all else, super admins name admins.
    pub fn admin_only() -> Self {
        let metadata = [
            (attributes::NAME, Policy::Admin),
            (attributes::DESCRIPTION, Policy::Admin),
            (attributes::IMAGE_URL, Policy::Admin),
            (attributes::APP_DATA, Policy::Admin),
            (attributes::DISAPPEAR_FROM_NS, Policy::Admin),
            (attributes::DISAPPEAR_IN_NS, Policy::Admin),
            (attributes::MINIMUM_VERSION, Policy::SuperAdmin),
        ];
        Self {
            add_member: Policy::Admin,
            remove_member: Policy::Admin,
            update_metadata: metadata.into_iter().map(|(name, policy)| (name.to_owned(), policy)).collect(),
            add_admin: Policy::SuperAdmin,
            remove_admin: Policy::SuperAdmin,
            update_permissions: Policy::SuperAdmin,
        }
    }

    /// The policy for an attribute.
    pub fn metadata(&self, attribute: &str) -> &Policy {
        let unlisted = if attribute.starts_with('_') { &Policy::SuperAdmin } else { &Policy::Admin };
        self.update_metadata.get(attribute).unwrap_or(unlisted)
    }

    pub(crate) fn to_proto(&self) -> contents::GroupMutablePermissionsV1 {
        let metadata = self.update_metadata.iter().map(|(name, policy)| (name.clone(), metadata_to_proto(policy)));
        let policies = contents::PolicySet {
            add_member_policy: Some(membership_to_proto(&self.add_member)),
            remove_member_policy: Some(membership_to_proto(&self.remove_member)),
            update_metadata_policy: metadata.collect(),
            add_admin_policy: Some(permissions_to_proto(&self.add_admin)),
            remove_admin_policy: Some(permissions_to_proto(&self.remove_admin)),
            update_permissions_policy: Some(permissions_to_proto(&self.update_permissions)),
        };
        contents::GroupMutablePermissionsV1 { policies: Some(policies) }
    }

    pub(crate) fn from_proto(proto: &contents::GroupMutablePermissionsV1) -> Result<Self, PolicyError> {
        let set = proto.policies.as_ref().ok_or(PolicyError("set"))?;
        let metadata = set.update_metadata_policy.iter();
        Ok(Self {
            add_member: set.add_member_policy.as_ref().and_then(membership).ok_or(PolicyError("add_member"))?,
            remove_member: set
                .remove_member_policy
                .as_ref()
                .and_then(membership)
                .ok_or(PolicyError("remove_member"))?,
            update_metadata: metadata
                .map(|(name, policy)| {
                    Ok((name.clone(), metadata_policy(policy).ok_or(PolicyError("update_metadata"))?))
                })
                .collect::<Result<_, _>>()?,
            add_admin: set.add_admin_policy.as_ref().and_then(permissions).ok_or(PolicyError("add_admin"))?,
            remove_admin: set.remove_admin_policy.as_ref().and_then(permissions).ok_or(PolicyError("remove_admin"))?,
            update_permissions: set
                .update_permissions_policy
                .as_ref()
                .and_then(permissions)
                .ok_or(PolicyError("update_permissions"))?,
        })
    }
}

/// The three kinds of policy differ only in their protobuf types and the numbers of their base values.
macro_rules! conversions {
    ($proto:ident, $module:ident, $from:ident, $to:ident, $base:ident, [$($number:ident => $policy:ident),*], $fallback:ident) => {
        fn $from(proto: &contents::$proto) -> Option<Policy> {
            let list = |policies: &[contents::$proto]| -> Option<Vec<Policy>> {
                let policies = policies.iter().map($from).collect::<Option<Vec<_>>>()?;
                (!policies.is_empty()).then_some(policies)
            };
            match proto.kind.as_ref()? {
                $module::Kind::Base(base) => match $module::$base::try_from(*base).ok()? {
                    $($module::$base::$number => Some(Policy::$policy),)*
                    _ => None,
                },
                $module::Kind::AndCondition(condition) => list(&condition.policies).map(Policy::All),
                $module::Kind::AnyCondition(condition) => list(&condition.policies).map(Policy::Any),
            }
        }

        fn $to(policy: &Policy) -> contents::$proto {
            let kind = match policy {
                Policy::All(policies) => {
                    $module::Kind::AndCondition($module::AndCondition { policies: policies.iter().map($to).collect() })
                }
                Policy::Any(policies) => {
                    $module::Kind::AnyCondition($module::AnyCondition { policies: policies.iter().map($to).collect() })
                }
                $(Policy::$policy => $module::Kind::Base($module::$base::$number.into()),)*
                #[allow(unreachable_patterns, reason = "one of the kinds has no number for `Allow`")]
                _ => $module::Kind::Base($module::$base::$fallback.into()),
            };
            contents::$proto { kind: Some(kind) }
        }
    };
}

conversions!(
    MembershipPolicy, membership_policy, membership, membership_to_proto, BasePolicy,
    [Allow => Allow, Deny => Deny, AllowIfAdminOrSuperAdmin => Admin, AllowIfSuperAdmin => SuperAdmin], Deny
);
conversions!(
    MetadataPolicy, metadata_policy, metadata_policy, metadata_to_proto, MetadataBasePolicy,
    [Allow => Allow, Deny => Deny, AllowIfAdmin => Admin, AllowIfSuperAdmin => SuperAdmin], Deny
);
conversions!(
    PermissionsUpdatePolicy, permissions_update_policy, permissions, permissions_to_proto, PermissionsBasePolicy,
    [Deny => Deny, AllowIfAdmin => Admin, AllowIfSuperAdmin => SuperAdmin], AllowIfSuperAdmin
);

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: Roles = Roles { admin: false, super_admin: false };
    const ADMIN: Roles = Roles { admin: true, super_admin: false };
    const SUPER_ADMIN: Roles = Roles { admin: false, super_admin: true };

    #[test]
    fn admin_only_survives_the_wire() {
        let policies = Policies::admin_only();
        assert_eq!(Policies::from_proto(&policies.to_proto()).unwrap(), policies);
        assert_eq!(policies.update_metadata.len(), 7, "SDKs show the preset's name only for exactly these");
    }

    #[test]
    fn roles_meet_policies() {
        let met = |policy: &Policy| [MEMBER, ADMIN, SUPER_ADMIN].map(|roles| policy.allows(roles));
        assert_eq!(met(&Policy::Allow), [true; 3]);
        assert_eq!(met(&Policy::Deny), [false; 3]);
        assert_eq!(met(&Policy::Admin), [false, true, true]);
        assert_eq!(met(&Policy::SuperAdmin), [false, false, true]);
        assert_eq!(met(&Policy::All(vec![Policy::Admin, Policy::Deny])), [false; 3]);
        assert_eq!(met(&Policy::Any(vec![Policy::SuperAdmin, Policy::Admin])), [false, true, true]);
    }

    #[test]
    fn an_unlisted_attribute_falls_back_by_its_name() {
        let policies = Policies::admin_only();
        assert_eq!(policies.metadata("_commit_log_signer"), &Policy::SuperAdmin);
        assert_eq!(policies.metadata("something"), &Policy::Admin);
    }

    #[test]
    fn unspecified_or_empty_is_refused() {
        let mut proto = Policies::admin_only().to_proto();
        let set = proto.policies.as_mut().unwrap();
        set.add_member_policy = Some(contents::MembershipPolicy { kind: Some(membership_policy::Kind::Base(0)) });
        assert_eq!(Policies::from_proto(&proto), Err(PolicyError("add_member")));
        let set = proto.policies.as_mut().unwrap();
        let empty = membership_policy::AnyCondition { policies: vec![] };
        set.add_member_policy =
            Some(contents::MembershipPolicy { kind: Some(membership_policy::Kind::AnyCondition(empty)) });
        assert_eq!(Policies::from_proto(&proto), Err(PolicyError("add_member")));
    }
}
