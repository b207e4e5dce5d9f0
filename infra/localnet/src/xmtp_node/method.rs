//! The RPCs this node answers, by name.

use std::{fmt, str::FromStr};

/// An RPC of MlsApi or IdentityApi. Its text form is the RPC's own name, `SendGroupMessages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is the name of the RPC it stands for")]
pub enum Method {
    SendGroupMessages,
    SendWelcomeMessages,
    RegisterInstallation,
    UploadKeyPackage,
    FetchKeyPackages,
    QueryGroupMessages,
    QueryWelcomeMessages,
    SubscribeGroupMessages,
    SubscribeWelcomeMessages,
    BatchPublishCommitLog,
    BatchQueryCommitLog,
    GetNewestGroupMessage,
    PublishIdentityUpdate,
    GetIdentityUpdates,
    GetInboxIds,
    VerifySmartContractWalletSignatures,
}

impl Method {
    /// Every RPC.
    pub const ALL: [Self; 16] = [
        Self::SendGroupMessages,
        Self::SendWelcomeMessages,
        Self::RegisterInstallation,
        Self::UploadKeyPackage,
        Self::FetchKeyPackages,
        Self::QueryGroupMessages,
        Self::QueryWelcomeMessages,
        Self::SubscribeGroupMessages,
        Self::SubscribeWelcomeMessages,
        Self::BatchPublishCommitLog,
        Self::BatchQueryCommitLog,
        Self::GetNewestGroupMessage,
        Self::PublishIdentityUpdate,
        Self::GetIdentityUpdates,
        Self::GetInboxIds,
        Self::VerifySmartContractWalletSignatures,
    ];

    /// Whether the cutover to D14n switches this RPC off for good.
    pub(super) fn publishes(self) -> bool {
        matches!(
            self,
            Self::SendGroupMessages
                | Self::SendWelcomeMessages
                | Self::RegisterInstallation
                | Self::UploadKeyPackage
                | Self::BatchPublishCommitLog
                | Self::PublishIdentityUpdate
        )
    }

    /// Whether the answer is a stream.
    pub(super) fn streams(self) -> bool {
        matches!(self, Self::SubscribeGroupMessages | Self::SubscribeWelcomeMessages)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A name that is no RPC of this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no RPC is called {0}")]
pub struct UnknownMethod(pub String);

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        Self::ALL.into_iter().find(|method| method.to_string() == name).ok_or_else(|| UnknownMethod(name.to_owned()))
    }
}
