//! What lies on a node for somebody who was let in.

use usher_xmtp::proto::{
    contents::WelcomeWrapperAlgorithm,
    mls_api::{
        PagingInfo, QueryWelcomeMessagesRequest, SortDirection, mls_api_client::MlsApiClient, welcome_message::Version,
    },
};

use crate::world::AnyError;

/// How a welcome is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapped {
    /// To the init key of the key package.
    Curve25519,
    /// To the X-Wing key that the key package names.
    XWing,
    /// As a pointer to a single copy for many.
    Pointer,
    /// In a way that nobody should use.
    Otherwise,
}

/// The welcomes that lie on the node at `url` for an installation (64 hex digits), oldest first.
pub async fn on_node(url: &str, installation: &str) -> Result<Vec<Wrapped>, AnyError> {
    let request = QueryWelcomeMessagesRequest {
        installation_key: hex::decode(installation)?,
        paging_info: Some(PagingInfo { direction: SortDirection::Ascending.into(), limit: 0, id_cursor: 0 }),
    };
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())?.connect().await?;
    let answer = MlsApiClient::new(channel).query_welcome_messages(request).await?;
    let wrapped = |version| match version {
        Some(Version::V1(v1)) => match WelcomeWrapperAlgorithm::try_from(v1.wrapper_algorithm) {
            Ok(WelcomeWrapperAlgorithm::Curve25519) => Wrapped::Curve25519,
            Ok(WelcomeWrapperAlgorithm::XwingMlkem768Draft6) => Wrapped::XWing,
            _ => Wrapped::Otherwise,
        },
        Some(Version::WelcomePointer(_)) => Wrapped::Pointer,
        None => Wrapped::Otherwise,
    };
    Ok(answer.into_inner().messages.into_iter().map(|welcome| wrapped(welcome.version)).collect())
}
