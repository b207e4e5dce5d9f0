//! IdentityApi.

use std::{collections::BTreeSet, sync::Arc};

use prost::Message;
use tonic::{Request, Response, Status};
use usher_xmtp::{
    identity::{AccountId, AssociationState, MemberIdentifier, VerifierError},
    proto::{
        associations::{IdentifierKind, IdentityUpdate},
        identity_api::{
            GetIdentityUpdatesRequest, GetIdentityUpdatesResponse, GetInboxIdsRequest, GetInboxIdsResponse,
            PublishIdentityUpdateRequest, PublishIdentityUpdateResponse,
            VerifySmartContractWalletSignatureRequestSignature as SmartWalletSignature,
            VerifySmartContractWalletSignaturesRequest, VerifySmartContractWalletSignaturesResponse,
            get_identity_updates_request, get_identity_updates_response as updates, get_inbox_ids_response as inboxes,
            identity_api_server::IdentityApi, verify_smart_contract_wallet_signatures_response::ValidationResponse,
        },
    },
};

use super::{Core, method::Method, store::LoggedUpdate};

/// No inbox's log gets longer.
const MAX_INBOX_LOG: usize = 256;

type Answer<A> = Result<Response<A>, Status>;

/// IdentityApi over the node's store.
#[derive(Clone)]
pub(super) struct IdentityService {
    pub(super) core: Arc<Core>,
}

#[tonic::async_trait]
impl IdentityApi for IdentityService {
    async fn publish_identity_update(
        &self,
        request: Request<PublishIdentityUpdateRequest>,
    ) -> Answer<PublishIdentityUpdateResponse> {
        self.core.gate.serve(Method::PublishIdentityUpdate, 1, request, |request| self.publish(request)).await
    }

    async fn get_identity_updates(
        &self,
        request: Request<GetIdentityUpdatesRequest>,
    ) -> Answer<GetIdentityUpdatesResponse> {
        self.core.gate.serve(Method::GetIdentityUpdates, 1, request, async |request| self.updates(&request)).await
    }

    async fn get_inbox_ids(&self, request: Request<GetInboxIdsRequest>) -> Answer<GetInboxIdsResponse> {
        self.core.gate.serve(Method::GetInboxIds, 1, request, async |request| self.inbox_ids(request)).await
    }

    async fn verify_smart_contract_wallet_signatures(
        &self,
        request: Request<VerifySmartContractWalletSignaturesRequest>,
    ) -> Answer<VerifySmartContractWalletSignaturesResponse> {
        let work = async |request: VerifySmartContractWalletSignaturesRequest| {
            let mut responses = Vec::with_capacity(request.signatures.len());
            for signature in &request.signatures {
                responses.push(self.verify(signature).await);
            }
            Ok(Response::new(VerifySmartContractWalletSignaturesResponse { responses }))
        };
        self.core.gate.serve(Method::VerifySmartContractWalletSignatures, 1, request, work).await
    }
}

impl IdentityService {
    /// Stores an update that holds for the inbox as its log has made it.
    async fn publish(&self, request: PublishIdentityUpdateRequest) -> Answer<PublishIdentityUpdateResponse> {
        let update = request.identity_update.ok_or_else(|| Status::unknown("IdentityUpdate is required"))?;
        let inbox_id = decode_inbox_id(&update.inbox_id)?;
        // From reading the log to appending nobody else may append.
        let mut verified = self.core.verified_inboxes.lock().await;
        let log = self.core.store.inbox_log(&inbox_id, 0).map_err(database)?;
        if log.len() >= MAX_INBOX_LOG {
            return Err(Status::unknown("inbox log is full"));
        }
        let before = match verified.get(&inbox_id) {
            Some((entries, state)) if *entries == log.len() => Some(state.clone()),
            Some(_) | None => self.replay(&log).await?,
        };
        let addresses_before = before.as_ref().map(ethereum_members).unwrap_or_default();
        let after = self.apply(before, &update).await?;
        let addresses_after = ethereum_members(&after);
        let added: Vec<_> = addresses_after.difference(&addresses_before).cloned().collect();
        let removed: Vec<_> = addresses_before.difference(&addresses_after).cloned().collect();
        self.core
            .store
            .append_identity_update(&inbox_id, &update.encode_to_vec(), &added, &removed)
            .map_err(database)?;
        verified.insert(inbox_id, (log.len() + 1, after));
        Ok(Response::new(PublishIdentityUpdateResponse {}))
    }

    async fn replay(&self, log: &[LoggedUpdate]) -> Result<Option<AssociationState>, Status> {
        let mut state = None;
        for row in log {
            state = Some(self.apply(state, &decode_update(row)?).await?);
        }
        Ok(state)
    }

    async fn apply(
        &self,
        state: Option<AssociationState>,
        update: &IdentityUpdate,
    ) -> Result<AssociationState, Status> {
        AssociationState::apply(state, update, &*self.core.smart_wallets)
            .await
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn updates(&self, request: &GetIdentityUpdatesRequest) -> Answer<GetIdentityUpdatesResponse> {
        let responses = request
            .requests
            .iter()
            .map(|filter| {
                let updates = self.log_for(&filter.inbox_id, &request.requests)?;
                Ok(updates::Response { inbox_id: filter.inbox_id.clone(), updates })
            })
            .collect::<Result<_, Status>>()?;
        Ok(Response::new(GetIdentityUpdatesResponse { responses }))
    }

    /// The rows of an inbox that any of the filters selects: a row comes once per filter that selects it, whichever
    /// position the filter has. Rows are found by bytes and handed out by text, so a name in capitals gets none.
    fn log_for(
        &self,
        inbox_id: &str,
        filters: &[get_identity_updates_request::Request],
    ) -> Result<Vec<updates::IdentityUpdateLog>, Status> {
        let inbox = decode_inbox_id(inbox_id)?;
        if hex::encode(&inbox) != inbox_id {
            return Ok(Vec::new());
        }
        let mut rows = Vec::new();
        for filter in filters.iter().filter(|filter| filter.inbox_id.eq_ignore_ascii_case(inbox_id)) {
            rows.extend(self.core.store.inbox_log(&inbox, filter.sequence_id).map_err(database)?);
        }
        rows.sort_by_key(|row| row.sequence_id);
        rows.iter()
            .map(|row| {
                Ok(updates::IdentityUpdateLog {
                    sequence_id: row.sequence_id,
                    server_timestamp_ns: row.server_timestamp_ns,
                    update: Some(decode_update(row)?),
                })
            })
            .collect()
    }

    /// The kind asked for is ignored and not answered.
    fn inbox_ids(&self, request: GetInboxIdsRequest) -> Answer<GetInboxIdsResponse> {
        let responses = request
            .requests
            .into_iter()
            .map(|wanted| {
                let inbox_id = self.core.store.inbox_of(&wanted.identifier).map_err(database)?.map(hex::encode);
                let identifier_kind = IdentifierKind::Unspecified.into();
                Ok(inboxes::Response { identifier: wanted.identifier, inbox_id, identifier_kind })
            })
            .collect::<Result<_, Status>>()?;
        Ok(Response::new(GetInboxIdsResponse { responses }))
    }

    /// A signature that cannot be checked is answered as invalid, with the error in the validation service's debug form.
    async fn verify(&self, signature: &SmartWalletSignature) -> ValidationResponse {
        let invalid = |error: String| ValidationResponse { is_valid: false, block_number: None, error: Some(error) };
        if signature.account_id.parse::<AccountId>().is_err() {
            return invalid("Deserialization(InvalidAccountId)".to_owned());
        }
        let Ok(hash) = <[u8; 32]>::try_from(signature.hash.as_slice()) else {
            return invalid("Deserialization(InvalidHash)".to_owned());
        };
        let wallets = &self.core.smart_wallets;
        match wallets.verify(&signature.account_id, signature.block_number, hash, &signature.signature).await {
            Ok(is_valid) => ValidationResponse { is_valid, block_number: signature.block_number, error: None },
            Err(VerifierError::NoVerifier(chain)) => {
                invalid(format!("Signature(VerifierError(NoVerifier({chain:?})))"))
            }
            Err(error) => invalid(format!("Signature(VerifierError({error:?}))")),
        }
    }
}

/// Only these are in the address log: installations and passkeys never resolve to an inbox.
fn ethereum_members(state: &AssociationState) -> BTreeSet<String> {
    let address = |member: &MemberIdentifier| match member {
        MemberIdentifier::Ethereum(address) => Some(address.clone()),
        MemberIdentifier::Installation(_) | MemberIdentifier::Passkey(_) => None,
    };
    state.members().keys().filter_map(address).collect()
}

/// A name that is not hex is refused by the database, whose words reach the client.
fn decode_inbox_id(inbox_id: &str) -> Result<Vec<u8>, Status> {
    hex::decode(inbox_id).map_err(|error| match error {
        hex::FromHexError::InvalidHexCharacter { c, .. } => {
            Status::unknown(format!("ERROR: invalid hexadecimal digit: \"{c}\" (SQLSTATE=22023)"))
        }
        hex::FromHexError::OddLength | hex::FromHexError::InvalidStringLength => {
            Status::unknown("ERROR: invalid hexadecimal data: odd number of digits (SQLSTATE=22023)")
        }
    })
}

fn decode_update(row: &LoggedUpdate) -> Result<IdentityUpdate, Status> {
    IdentityUpdate::decode(row.update.as_slice()).map_err(|error| Status::unknown(error.to_string()))
}

fn database(error: rusqlite::Error) -> Status {
    Status::unknown(error.to_string())
}
