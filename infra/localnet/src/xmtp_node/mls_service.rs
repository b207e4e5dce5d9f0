//! MlsApi.

use std::{collections::HashMap, sync::Arc};

use tonic::{Request, Response, Status};
use usher_xmtp::proto::{
    contents::{WelcomePointerWrapperAlgorithm, WelcomeWrapperAlgorithm},
    mls_api::{
        BatchPublishCommitLogRequest, BatchQueryCommitLogRequest, BatchQueryCommitLogResponse, FetchKeyPackagesRequest,
        FetchKeyPackagesResponse, GetNewestGroupMessageRequest, GetNewestGroupMessageResponse, GroupMessage,
        KeyPackageUpload, QueryCommitLogRequest, QueryCommitLogResponse, QueryGroupMessagesRequest,
        QueryGroupMessagesResponse, QueryWelcomeMessagesRequest, QueryWelcomeMessagesResponse,
        RegisterInstallationRequest, RegisterInstallationResponse, SendGroupMessagesRequest,
        SendWelcomeMessagesRequest, SortDirection, SubscribeGroupMessagesRequest, SubscribeWelcomeMessagesRequest,
        UploadKeyPackageRequest, WelcomeMessage, WelcomeMessageInput, fetch_key_packages_response::KeyPackage,
        get_newest_group_message_response as newest, group_message, group_message_input, mls_api_server::MlsApi,
        welcome_message_input::Version as WelcomeVersion,
    },
};

use super::{
    Core,
    feed::Stored,
    method::Method,
    paging::Page,
    store::ReadFrom,
    subscription::{self, Filter, Messages},
    validation,
};

const MAX_COMMIT_LOG_INSERTS: usize = 10;
const MAX_COMMIT_LOG_QUERIES: usize = 20;

type Answer<A> = Result<Response<A>, Status>;

/// MlsApi over the node's store.
#[derive(Clone)]
pub(super) struct MlsService {
    pub(super) core: Arc<Core>,
}

#[tonic::async_trait]
impl MlsApi for MlsService {
    type SubscribeGroupMessagesStream = Messages<GroupMessage>;
    type SubscribeWelcomeMessagesStream = Messages<WelcomeMessage>;

    async fn send_group_messages(&self, request: Request<SendGroupMessagesRequest>) -> Answer<()> {
        let cost = request.get_ref().messages.len();
        self.core.gate.serve(Method::SendGroupMessages, cost, request, async |request| self.send_group(request)).await
    }

    async fn send_welcome_messages(&self, request: Request<SendWelcomeMessagesRequest>) -> Answer<()> {
        let cost = request.get_ref().messages.len();
        self.core
            .gate
            .serve(Method::SendWelcomeMessages, cost, request, async |request| self.send_welcome(request))
            .await
    }

    async fn register_installation(
        &self,
        request: Request<RegisterInstallationRequest>,
    ) -> Answer<RegisterInstallationResponse> {
        let work = async |request: RegisterInstallationRequest| {
            let installation_key = self.store_key_package(request.key_package)?;
            Ok(Response::new(RegisterInstallationResponse { installation_key }))
        };
        self.core.gate.serve(Method::RegisterInstallation, 1, request, work).await
    }

    async fn upload_key_package(&self, request: Request<UploadKeyPackageRequest>) -> Answer<()> {
        let work = async |request: UploadKeyPackageRequest| {
            self.store_key_package(request.key_package)?;
            Ok(Response::new(()))
        };
        self.core.gate.serve(Method::UploadKeyPackage, 1, request, work).await
    }

    async fn fetch_key_packages(&self, request: Request<FetchKeyPackagesRequest>) -> Answer<FetchKeyPackagesResponse> {
        self.core.gate.serve(Method::FetchKeyPackages, 1, request, async |request| self.fetch(&request)).await
    }

    async fn query_group_messages(
        &self,
        request: Request<QueryGroupMessagesRequest>,
    ) -> Answer<QueryGroupMessagesResponse> {
        self.core.gate.serve(Method::QueryGroupMessages, 1, request, async |request| self.query_group(&request)).await
    }

    async fn query_welcome_messages(
        &self,
        request: Request<QueryWelcomeMessagesRequest>,
    ) -> Answer<QueryWelcomeMessagesResponse> {
        self.core
            .gate
            .serve(Method::QueryWelcomeMessages, 1, request, async |request| self.query_welcome(&request))
            .await
    }

    async fn subscribe_group_messages(
        &self,
        request: Request<SubscribeGroupMessagesRequest>,
    ) -> Answer<Messages<GroupMessage>> {
        let work = async |request: SubscribeGroupMessagesRequest| {
            let filters = request
                .filters
                .into_iter()
                .map(|filter| Filter { topic: filter.group_id, id_cursor: filter.id_cursor })
                .collect();
            Ok(subscription::open(self.core.store.clone(), filters, self.core.stream_end.subscribe()))
        };
        self.core.gate.serve(Method::SubscribeGroupMessages, 1, request, work).await
    }

    async fn subscribe_welcome_messages(
        &self,
        request: Request<SubscribeWelcomeMessagesRequest>,
    ) -> Answer<Messages<WelcomeMessage>> {
        let work = async |request: SubscribeWelcomeMessagesRequest| {
            if request.filters.is_empty() {
                return Err(Status::invalid_argument("no valid filters provided"));
            }
            if request.filters.iter().any(|filter| filter.installation_key.is_empty()) {
                return Err(Status::invalid_argument("a filter is nil or installation key is empty"));
            }
            let filters = request
                .filters
                .into_iter()
                .map(|filter| Filter { topic: filter.installation_key, id_cursor: filter.id_cursor })
                .collect();
            Ok(subscription::open(self.core.store.clone(), filters, self.core.stream_end.subscribe()))
        };
        self.core.gate.serve(Method::SubscribeWelcomeMessages, 1, request, work).await
    }

    async fn batch_publish_commit_log(&self, request: Request<BatchPublishCommitLogRequest>) -> Answer<()> {
        self.core
            .gate
            .serve(Method::BatchPublishCommitLog, 1, request, async |request| self.publish_commit_log(&request))
            .await
    }

    async fn batch_query_commit_log(
        &self,
        request: Request<BatchQueryCommitLogRequest>,
    ) -> Answer<BatchQueryCommitLogResponse> {
        self.core
            .gate
            .serve(Method::BatchQueryCommitLog, 1, request, async |request| self.query_commit_log(request))
            .await
    }

    async fn get_newest_group_message(
        &self,
        request: Request<GetNewestGroupMessageRequest>,
    ) -> Answer<GetNewestGroupMessageResponse> {
        self.core.gate.serve(Method::GetNewestGroupMessage, 1, request, async |request| self.newest(&request)).await
    }
}

impl MlsService {
    /// All messages are checked before the first is stored; after that each stands for itself.
    fn send_group(&self, request: SendGroupMessagesRequest) -> Answer<()> {
        if request.messages.is_empty() {
            return Err(Status::invalid_argument("no group messages to send"));
        }
        let inputs = request
            .messages
            .into_iter()
            .map(|message| match message.version {
                Some(group_message_input::Version::V1(v1)) => Ok(v1),
                None => Err(Status::invalid_argument("invalid group message")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let framings = validation::group_messages(inputs.iter().map(|input| input.data.as_slice()))
            .map_err(|text| Status::invalid_argument(format!("invalid group message: {text}")))?;
        for (input, framing) in inputs.iter().zip(&framings) {
            if framing.group_id.is_empty() {
                return Err(Status::invalid_argument("group id is empty"));
            }
            self.core.store.append_group_message(framing, input).map_err(not_inserted)?;
        }
        Ok(Response::new(()))
    }

    fn send_welcome(&self, request: SendWelcomeMessagesRequest) -> Answer<()> {
        if request.messages.is_empty() {
            return Err(Status::invalid_argument("no welcome messages to send"));
        }
        request.messages.iter().try_for_each(check_welcome)?;
        // The hosted node inserts them concurrently, so no client may rely on this order.
        for message in &request.messages {
            self.core.store.append_welcome(message).map_err(not_inserted)?;
        }
        Ok(Response::new(()))
    }

    fn store_key_package(&self, upload: Option<KeyPackageUpload>) -> Result<Vec<u8>, Status> {
        let key_package = upload.ok_or_else(|| Status::invalid_argument("no key package"))?.key_package_tls_serialized;
        let installation_key = validation::installation_key(&key_package)
            .map_err(|text| Status::invalid_argument(format!("invalid identity: {text}")))?;
        self.core
            .store
            .put_key_package(&installation_key, &key_package)
            .map_err(|error| Status::internal(format!("failed to insert key packages: {error}")))?;
        Ok(installation_key)
    }

    /// One entry per key asked for, in order, empty for an unknown one. Of a key asked for twice, only the last
    /// position is filled.
    fn fetch(&self, request: &FetchKeyPackagesRequest) -> Answer<FetchKeyPackagesResponse> {
        let keys = &request.installation_keys;
        let last_positions: HashMap<_, _> = keys.iter().enumerate().map(|(position, key)| (key, position)).collect();
        let mut key_packages = vec![KeyPackage::default(); keys.len()];
        for (key, position) in last_positions {
            let found = self
                .core
                .store
                .key_package(key)
                .map_err(|error| Status::internal(format!("failed to fetch key packages: {error}")))?;
            key_packages[position].key_package_tls_serialized = found.unwrap_or_default();
        }
        Ok(Response::new(FetchKeyPackagesResponse { key_packages }))
    }

    fn query_group(&self, request: &QueryGroupMessagesRequest) -> Answer<QueryGroupMessagesResponse> {
        if request.group_id.is_empty() {
            return Err(Status::unknown("group is required"));
        }
        let page = Page::newest_first(request.paging_info.as_ref());
        let messages = self.core.store.group_messages(&request.group_id, page, ReadFrom::Primary).map_err(not_read)?;
        let paging_info = Some(page.info(messages.iter().map(Stored::id)));
        Ok(Response::new(QueryGroupMessagesResponse { messages, paging_info }))
    }

    fn query_welcome(&self, request: &QueryWelcomeMessagesRequest) -> Answer<QueryWelcomeMessagesResponse> {
        if request.installation_key.is_empty() {
            return Err(Status::unknown("installation is required"));
        }
        let page = Page::newest_first(request.paging_info.as_ref());
        let messages =
            self.core.store.welcome_messages(&request.installation_key, page, ReadFrom::Primary).map_err(not_read)?;
        let paging_info = Some(page.info(messages.iter().map(Stored::id)));
        Ok(Response::new(QueryWelcomeMessagesResponse { messages, paging_info }))
    }

    /// Entries before the first bad one stay stored.
    fn publish_commit_log(&self, request: &BatchPublishCommitLogRequest) -> Answer<()> {
        if request.requests.is_empty() {
            return Err(Status::invalid_argument("no log entries to publish"));
        }
        if request.requests.len() > MAX_COMMIT_LOG_INSERTS {
            return Err(Status::invalid_argument(format!(
                "cannot exceed {MAX_COMMIT_LOG_INSERTS} inserts in single batch"
            )));
        }
        for entry in &request.requests {
            let signature = entry
                .signature
                .as_ref()
                .filter(|_| !entry.group_id.is_empty() && !entry.serialized_commit_log_entry.is_empty())
                .ok_or_else(|| Status::invalid_argument("invalid commit log entry"))?;
            self.core
                .store
                .append_commit_log_entry(&entry.group_id, &entry.serialized_commit_log_entry, signature)
                .map_err(|error| Status::internal(format!("failed to insert commit log: {error}")))?;
        }
        Ok(Response::new(()))
    }

    fn query_commit_log(&self, request: BatchQueryCommitLogRequest) -> Answer<BatchQueryCommitLogResponse> {
        if request.requests.is_empty() {
            return Err(Status::invalid_argument("no requests to query"));
        }
        if request.requests.len() > MAX_COMMIT_LOG_QUERIES {
            return Err(Status::invalid_argument(format!(
                "cannot exceed {MAX_COMMIT_LOG_QUERIES} queries in single batch"
            )));
        }
        let responses =
            request.requests.into_iter().map(|query| self.one_commit_log(query)).collect::<Result<_, _>>()?;
        Ok(Response::new(BatchQueryCommitLogResponse { responses }))
    }

    fn one_commit_log(&self, query: QueryCommitLogRequest) -> Result<QueryCommitLogResponse, Status> {
        if query.group_id.is_empty() {
            return Err(Status::invalid_argument("invalid request"));
        }
        let failed = |text: &str| Status::internal(format!("failed to query commit log: {text}"));
        if query.paging_info.is_some_and(|info| info.direction == SortDirection::Descending as i32) {
            return Err(failed("descending direction is not supported"));
        }
        let page = Page::oldest_first(query.paging_info.as_ref());
        let commit_log_entries =
            self.core.store.commit_log_entries(&query.group_id, page).map_err(|error| failed(&error.to_string()))?;
        let paging_info = Some(page.info(commit_log_entries.iter().map(|entry| entry.sequence_id)));
        Ok(QueryCommitLogResponse { group_id: query.group_id, commit_log_entries, paging_info })
    }

    fn newest(&self, request: &GetNewestGroupMessageRequest) -> Answer<GetNewestGroupMessageResponse> {
        if request.group_ids.is_empty() {
            return Err(Status::invalid_argument("no group ids provided"));
        }
        let newest_of = |group_id: &Vec<u8>| {
            let group_message = self
                .core
                .store
                .newest_group_message(group_id)
                .map_err(|_| Status::internal("database query failed"))?
                .map(|message| if request.include_content { message } else { without_content(message) });
            Ok(newest::Response { group_message })
        };
        let responses = request.group_ids.iter().map(newest_of).collect::<Result<_, Status>>()?;
        Ok(Response::new(GetNewestGroupMessageResponse { responses }))
    }
}

fn not_inserted(error: rusqlite::Error) -> Status {
    Status::internal(format!("failed to insert message: {error}"))
}

/// The node gives errors of its database away as they are.
fn not_read(error: rusqlite::Error) -> Status {
    Status::unknown(error.to_string())
}

fn without_content(message: GroupMessage) -> GroupMessage {
    let version = message.version.map(|group_message::Version::V1(v1)| {
        group_message::Version::V1(group_message::V1 {
            data: Vec::new(),
            sender_hmac: Vec::new(),
            should_push: false,
            ..v1
        })
    });
    GroupMessage { version }
}

fn check_welcome(message: &WelcomeMessageInput) -> Result<(), Status> {
    match &message.version {
        Some(WelcomeVersion::V1(v1)) => {
            let needs_hpke_key = v1.wrapper_algorithm != WelcomeWrapperAlgorithm::SymmetricKey as i32;
            if v1.data.is_empty() || v1.installation_key.is_empty() || (needs_hpke_key && v1.hpke_public_key.is_empty())
            {
                return Err(Status::invalid_argument("invalid welcome message"));
            }
        }
        Some(WelcomeVersion::WelcomePointer(pointer)) => {
            if pointer.installation_key.is_empty()
                || pointer.welcome_pointer.is_empty()
                || pointer.hpke_public_key.is_empty()
            {
                return Err(Status::invalid_argument("invalid welcome pointer message"));
            }
            if pointer.wrapper_algorithm != WelcomePointerWrapperAlgorithm::XwingMlkem768Draft6 as i32 {
                let name = WelcomePointerWrapperAlgorithm::try_from(pointer.wrapper_algorithm)
                    .map_or_else(|_| pointer.wrapper_algorithm.to_string(), |known| known.as_str_name().to_owned());
                return Err(Status::invalid_argument(format!(
                    "invalid welcome pointer wrapper algorithm: invalid welcome pointer wrapper algorithm {name}"
                )));
            }
        }
        None => return Err(Status::invalid_argument("invalid welcome message: missing version")),
    }
    Ok(())
}
