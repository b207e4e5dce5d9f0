//! The V3 network: one node, spoken to over gRPC.

use std::time::Duration;

use alloy_primitives::Address;
use async_trait::async_trait;
use tonic::{
    Code, Request, Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    GroupId,
    identity::{InboxId, InstallationId},
    network::{
        FailureKind, GROUPS_PER_CALL, GroupMessage, IDENTITY_LOGS_PER_CALL, LoggedUpdate, Network, NetworkError,
        Newest, OutgoingMessage, PAGE_SIZE,
    },
    proto::{
        associations::IdentityUpdate,
        identity_api::{self, identity_api_client::IdentityApiClient},
        mls_api::{self, mls_api_client::MlsApiClient},
    },
};

/// libxmtp's own bound for one gRPC message, both ways.
const MESSAGE_BYTES_MAX: usize = 25 * 1024 * 1024;
/// libxmtp sends at most this many welcomes per call.
const WELCOMES_PER_CALL: usize = 50;
/// The node hands all message bytes of a request to a validator that reads at most 4 MiB.
const GROUP_MESSAGE_BYTES_PER_CALL: usize = 4_000_000;
/// The release whose validation rules this client follows, as nodes know it.
const LIBXMTP_VERSION: &str = "1.9.1";

/// A connection to one V3 node. Cheap to clone; reconnects by itself.
#[derive(Debug, Clone)]
pub struct V3 {
    channel: Channel,
    timeout: Duration,
}

/// A node address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the XMTP node's address {url:?} cannot be used")]
pub struct AddressError {
    url: String,
    source: tonic::transport::Error,
}

impl V3 {
    /// A client of the node at `url` (`http://…` or `https://…`); connects at the first call. Each call may take
    /// `timeout`, and is tried once more on a fresh connection when the transport fails: a frozen process wakes up
    /// with dead ones.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, AddressError> {
        let error = |source| AddressError { url: url.to_owned(), source };
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(error)?
            .connect_timeout(timeout)
            .http2_keep_alive_interval(Duration::from_secs(16))
            .user_agent(concat!("usher/", env!("CARGO_PKG_VERSION")))
            .map_err(error)?;
        if url.starts_with("https:") {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(error)?;
        }
        Ok(Self { channel: endpoint.connect_lazy(), timeout })
    }

    fn mls(&self) -> MlsApiClient<Channel> {
        MlsApiClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn identity(&self) -> IdentityApiClient<Channel> {
        IdentityApiClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
            .metadata_mut()
            .insert("x-libxmtp-version", tonic::metadata::MetadataValue::from_static(LIBXMTP_VERSION));
        request
    }

    async fn fetch_key_packages(&self, installations: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError> {
        let installation_keys = installations.iter().map(|id| id.as_bytes().to_vec()).collect();
        let message = mls_api::FetchKeyPackagesRequest { installation_keys };
        let answer = self
            .call("FetchKeyPackages", message, async |node, request| node.mls().fetch_key_packages(request).await)
            .await?;
        if answer.key_packages.len() != installations.len() {
            return Err(count_mismatch("FetchKeyPackages", installations.len(), answer.key_packages.len()));
        }
        let packages = answer.key_packages.into_iter().map(|package| package.key_package_tls_serialized);
        Ok(packages.map(|bytes| (!bytes.is_empty()).then_some(bytes)).collect())
    }

    /// Calls once, and once more if the connection and not the node failed. Every call of this API may be repeated:
    /// reads change nothing, and nodes store identical group messages and welcomes once.
    async fn call<T: Clone, R, F>(&self, method: &'static str, message: T, call: F) -> Result<R, NetworkError>
    where
        F: AsyncFn(Self, Request<T>) -> Result<tonic::Response<R>, Status>,
    {
        let first = call(self.clone(), self.request(message.clone())).await;
        let answer = match first {
            Err(status) if is_transport(&status) => call(self.clone(), self.request(message)).await,
            other => other,
        };
        answer.map(tonic::Response::into_inner).map_err(|status| failure(method, &status))
    }
}

fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(|source| source.is::<tonic::transport::Error>())
}

fn failure(method: &'static str, status: &Status) -> NetworkError {
    let message = status.message();
    let kind = match status.code() {
        Code::ResourceExhausted if message.contains("exceeds rate limit") => FailureKind::RateLimited,
        Code::Unavailable if message.contains("XMTP D14N") => FailureKind::Retired,
        Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented => FailureKind::Refused,
        // The node answers its own plain errors with Unknown; the one below never changes.
        Code::Unknown if message.contains("inbox log is full") => FailureKind::Refused,
        Code::OutOfRange if message.contains("decoded message length too large") => FailureKind::TooLarge,
        _ => FailureKind::Unknown,
    };
    NetworkError { method, kind, message: format!("{:?}: {message}", status.code()) }
}

fn count_mismatch(method: &'static str, asked: usize, answered: usize) -> NetworkError {
    NetworkError { method, kind: FailureKind::Unknown, message: format!("asked for {asked}, answered {answered}") }
}

/// A node that numbers backwards would have a log read for ever.
fn ascending_above(method: &'static str, mut after: u64, ids: impl Iterator<Item = u64>) -> Result<(), NetworkError> {
    for id in ids {
        if id <= after {
            let message = format!("message {id} was answered after {after}");
            return Err(NetworkError { method, kind: FailureKind::Unknown, message });
        }
        after = id;
    }
    Ok(())
}

#[async_trait]
impl Network for V3 {
    async fn publish_identity_update(&self, update: IdentityUpdate) -> Result<(), NetworkError> {
        let message = identity_api::PublishIdentityUpdateRequest { identity_update: Some(update) };
        self.call("PublishIdentityUpdate", message, async |node, request| {
            node.identity().publish_identity_update(request).await
        })
        .await
        .map(drop)
    }

    async fn identity_updates(&self, after: &[(InboxId, u64)]) -> Result<Vec<Vec<LoggedUpdate>>, NetworkError> {
        let mut logs = Vec::with_capacity(after.len());
        for part in after.chunks(IDENTITY_LOGS_PER_CALL) {
            let requests = part.iter().map(|(inbox, sequence_id)| {
                let inbox_id = inbox.to_string();
                identity_api::get_identity_updates_request::Request { inbox_id, sequence_id: *sequence_id }
            });
            let message = identity_api::GetIdentityUpdatesRequest { requests: requests.collect() };
            let answer = self
                .call("GetIdentityUpdates", message, async |node, request| {
                    node.identity().get_identity_updates(request).await
                })
                .await?;
            if answer.responses.len() != part.len() {
                return Err(count_mismatch("GetIdentityUpdates", part.len(), answer.responses.len()));
            }
            logs.extend(answer.responses.into_iter().map(|response| {
                let entries = response
                    .updates
                    .into_iter()
                    .filter_map(|entry| Some(LoggedUpdate { sequence_id: entry.sequence_id, update: entry.update? }));
                entries.collect()
            }));
        }
        Ok(logs)
    }

    async fn inbox_ids(&self, wallets: &[Address]) -> Result<Vec<Option<InboxId>>, NetworkError> {
        // The node compares text, and stores addresses in lower case.
        let requests = wallets.iter().map(|wallet| identity_api::get_inbox_ids_request::Request {
            identifier: format!("{wallet:#x}"),
            identifier_kind: 1,
        });
        let message = identity_api::GetInboxIdsRequest { requests: requests.collect() };
        let answer = self
            .call("GetInboxIds", message, async |node, request| node.identity().get_inbox_ids(request).await)
            .await?;
        if answer.responses.len() != wallets.len() {
            return Err(count_mismatch("GetInboxIds", wallets.len(), answer.responses.len()));
        }
        Ok(answer.responses.into_iter().map(|response| response.inbox_id?.parse().ok()).collect())
    }

    async fn verify_smart_wallet_signature(
        &self,
        account_id: &str,
        block_number: Option<u64>,
        hash: [u8; 32],
        signature: &[u8],
    ) -> Result<bool, NetworkError> {
        let signature = identity_api::VerifySmartContractWalletSignatureRequestSignature {
            account_id: account_id.to_owned(),
            block_number,
            signature: signature.to_vec(),
            hash: hash.to_vec(),
        };
        let message = identity_api::VerifySmartContractWalletSignaturesRequest { signatures: vec![signature] };
        let answer = self
            .call("VerifySmartContractWalletSignatures", message, async |node, request| {
                node.identity().verify_smart_contract_wallet_signatures(request).await
            })
            .await?;
        let Some(verdict) = answer.responses.first() else {
            return Err(count_mismatch("VerifySmartContractWalletSignatures", 1, 0));
        };
        Ok(verdict.is_valid)
    }

    async fn upload_key_package(&self, key_package: Vec<u8>) -> Result<(), NetworkError> {
        let upload = mls_api::KeyPackageUpload { key_package_tls_serialized: key_package };
        let message = mls_api::UploadKeyPackageRequest { key_package: Some(upload), is_inbox_id_credential: true };
        self.call("UploadKeyPackage", message, async |node, request| node.mls().upload_key_package(request).await)
            .await
            .map(drop)
    }

    async fn key_packages(&self, installations: &[InstallationId]) -> Result<Vec<Option<Vec<u8>>>, NetworkError> {
        let mut packages = Vec::with_capacity(installations.len());
        let mut parts = vec![installations];
        while let Some(part) = parts.pop() {
            match self.fetch_key_packages(part).await {
                Ok(found) => packages.extend(found),
                // Nodes take key packages of 4 MB, too: one at a time, each can be read.
                Err(error) if error.kind == FailureKind::TooLarge && part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(packages)
    }

    async fn send_group_messages(&self, messages: Vec<OutgoingMessage>) -> Result<(), NetworkError> {
        let inputs = messages.into_iter().map(|message| {
            let v1 = mls_api::group_message_input::V1 {
                data: message.data,
                sender_hmac: message.sender_hmac,
                should_push: message.should_push,
            };
            let bytes = v1.data.len();
            (mls_api::GroupMessageInput { version: Some(mls_api::group_message_input::Version::V1(v1)) }, bytes)
        });
        for messages in batches(inputs, usize::MAX, GROUP_MESSAGE_BYTES_PER_CALL) {
            let message = mls_api::SendGroupMessagesRequest { messages };
            self.call("SendGroupMessages", message, async |node, request| {
                node.mls().send_group_messages(request).await
            })
            .await?;
        }
        Ok(())
    }

    async fn group_messages(&self, group: GroupId, after: u64) -> Result<Vec<GroupMessage>, NetworkError> {
        let mut limit = PAGE_SIZE;
        let answer = loop {
            let message =
                mls_api::QueryGroupMessagesRequest { group_id: group.0.to_vec(), paging_info: ascending(after, limit) };
            let answer = self
                .call("QueryGroupMessages", message, async |node, request| {
                    node.mls().query_group_messages(request).await
                })
                .await;
            limit = match answer {
                Err(error) if error.kind == FailureKind::TooLarge && limit > 1 => fewer(limit),
                answer => break answer?,
            };
        };
        let messages = answer.messages.into_iter().filter_map(|message| match message.version? {
            mls_api::group_message::Version::V1(v1) => {
                Some(GroupMessage { id: v1.id, created_ns: v1.created_ns, data: v1.data, sender_hmac: v1.sender_hmac })
            }
        });
        let messages: Vec<_> = messages.collect();
        ascending_above("QueryGroupMessages", after, messages.iter().map(|message| message.id))?;
        Ok(messages)
    }

    async fn newest_group_messages(&self, groups: &[GroupId]) -> Result<Vec<Option<Newest>>, NetworkError> {
        let mut newest = Vec::with_capacity(groups.len());
        for part in groups.chunks(GROUPS_PER_CALL) {
            let group_ids = part.iter().map(|group| group.0.to_vec()).collect();
            let message = mls_api::GetNewestGroupMessageRequest { group_ids, include_content: false };
            let answer = self
                .call("GetNewestGroupMessage", message, async |node, request| {
                    node.mls().get_newest_group_message(request).await
                })
                .await?;
            if answer.responses.len() != part.len() {
                return Err(count_mismatch("GetNewestGroupMessage", part.len(), answer.responses.len()));
            }
            newest.extend(answer.responses.into_iter().map(|response| {
                let mls_api::group_message::Version::V1(v1) = response.group_message?.version?;
                Some(Newest { id: v1.id, created_ns: v1.created_ns })
            }));
        }
        Ok(newest)
    }

    async fn send_welcomes(&self, welcomes: Vec<mls_api::WelcomeMessageInput>) -> Result<(), NetworkError> {
        let sized = welcomes.into_iter().map(|welcome| {
            let bytes = prost::Message::encoded_len(&welcome);
            (welcome, bytes)
        });
        for messages in batches(sized, WELCOMES_PER_CALL, MESSAGE_BYTES_MAX / 2) {
            let message = mls_api::SendWelcomeMessagesRequest { messages };
            self.call("SendWelcomeMessages", message, async |node, request| {
                node.mls().send_welcome_messages(request).await
            })
            .await?;
        }
        Ok(())
    }

    async fn welcomes(&self, installation: [u8; 32], after: u64) -> Result<Vec<mls_api::WelcomeMessage>, NetworkError> {
        let mut limit = PAGE_SIZE;
        loop {
            let message = mls_api::QueryWelcomeMessagesRequest {
                installation_key: installation.to_vec(),
                paging_info: ascending(after, limit),
            };
            let answer = self
                .call("QueryWelcomeMessages", message, async |node, request| {
                    node.mls().query_welcome_messages(request).await
                })
                .await;
            limit = match answer {
                Err(error) if error.kind == FailureKind::TooLarge && limit > 1 => fewer(limit),
                answer => return answer.map(|answer| answer.messages),
            };
        }
    }
}

/// How many items to ask for when so many are too large together. Anybody may write items of 4 MB; four always fit.
fn fewer(limit: usize) -> usize {
    (limit / 5).max(1)
}

fn ascending(after: u64, limit: usize) -> Option<mls_api::PagingInfo> {
    let limit = u32::try_from(limit).expect("a page is small");
    Some(mls_api::PagingInfo { direction: mls_api::SortDirection::Ascending.into(), limit, id_cursor: after })
}

/// Splits into requests of at most `count` items and, unless a single item is larger, `bytes` bytes.
fn batches<T>(items: impl Iterator<Item = (T, usize)>, count: usize, bytes: usize) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for (item, size) in items {
        match batches.last_mut() {
            Some(batch) if batch.len() < count && size <= room => {
                batch.push(item);
                room -= size;
            }
            _ => {
                batches.push(vec![item]);
                room = bytes.saturating_sub(size);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_split_by_count_and_by_bytes() {
        let split = |sizes: &[usize]| batches(sizes.iter().map(|&size| (size, size)), 2, 10);
        assert_eq!(split(&[1, 1, 1]), [vec![1, 1], vec![1]]);
        assert_eq!(split(&[6, 6, 30, 1]), [vec![6], vec![6], vec![30], vec![1]]);
        assert!(split(&[]).is_empty());
    }

    #[test]
    fn a_log_that_does_not_ascend_is_no_answer() {
        let read = |after, ids: &[u64]| ascending_above("X", after, ids.iter().copied());
        assert!(read(3, &[4, 9]).is_ok());
        assert!(read(0, &[]).is_ok());
        for ids in [&[3, 4][..], &[2], &[5, 5], &[5, 4]] {
            assert_eq!(read(3, ids).unwrap_err().kind, FailureKind::Unknown, "{ids:?}");
        }
    }

    #[test]
    fn the_nodes_words_tell_what_is_left_open() {
        let kind = |status: Status| failure("X", &status).kind;
        assert_eq!(kind(Status::resource_exhausted("1 exceeds rate limit R1.2.3.4PUB")), FailureKind::RateLimited);
        let retired = "publishing to XMTP V3 is no longer available. Please upgrade your client to XMTP D14N.";
        assert_eq!(kind(Status::unavailable(retired)), FailureKind::Retired);
        assert_eq!(kind(Status::unavailable("service is shutting down")), FailureKind::Unknown);
        assert_eq!(kind(Status::unknown("inbox log is full")), FailureKind::Refused);
        let large = "Error, decoded message length too large: found 31502400 bytes, the limit is: 26214400 bytes";
        assert_eq!(kind(Status::out_of_range(large)), FailureKind::TooLarge);
        assert_eq!(kind(Status::invalid_argument("invalid identity")), FailureKind::Refused);
    }
}
