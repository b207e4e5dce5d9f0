//! Chains' nodes, by JSON-RPC. Where a node is, is a secret: its URL often has a key in it, and is told to nobody.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use alloy_json_rpc::RpcError;
use alloy_primitives::{Address, B256, Bytes, U64};
use alloy_rpc_client::RpcClient;
use alloy_transport::{TransportError, TransportErrorKind};
use alloy_transport_http::Http;
use async_trait::async_trait;
use usher_chain::Receipt;

/// How long connecting to a node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Whoever asks chains. `secret` names the secret with the URL of the node to ask.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// The number of the newest block that the node has (`eth_blockNumber`).
    async fn newest_block(&self, secret: &str) -> Result<u64, NodeError>;
    /// The receipt of a transaction, if the node has it in a block (`eth_getTransactionReceipt`).
    async fn receipt(&self, secret: &str, transaction: B256) -> Result<Option<Receipt>, NodeError>;
}

/// A node that gave no answer. Says nothing of its URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Nobody here asks chains.
    #[error("chains are not asked here")]
    Nobody,
    /// The secret with the URL was not read.
    #[error("secret {secret} was not read: {code}")]
    Secret {
        /// Its ARN.
        secret: String,
        /// What AWS calls the failure.
        code: String,
    },
    /// The secret has no URL in it.
    #[error("the text of secret {secret} is not an http:// or https:// URL")]
    NoUrl {
        /// Its ARN.
        secret: String,
    },
    /// The node was not reached, or did not answer in time.
    #[error("the chain's node did not answer")]
    Unanswered,
    /// The node, or something before it, refused.
    #[error("the chain's node answered with HTTP status {0}")]
    Http(u16),
    /// The node refused the call.
    #[error("the chain's node answered with JSON-RPC error {0}")]
    Refused(i64),
    /// The node's answer is not what the call gives.
    #[error("the chain's node gave an answer that cannot be read")]
    Unreadable,
}

impl From<TransportError> for NodeError {
    fn from(error: TransportError) -> Self {
        // All texts of these errors are left out: they quote addresses and what the node said.
        match error {
            RpcError::ErrorResp(payload) => Self::Refused(payload.code),
            RpcError::Transport(TransportErrorKind::HttpError(http)) => Self::Http(http.status),
            RpcError::NullResp | RpcError::DeserError { .. } => Self::Unreadable,
            _ => Self::Unanswered,
        }
    }
}

/// Asks nobody: for deployments that believe their queues.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nobody;

#[async_trait]
impl Nodes for Nobody {
    async fn newest_block(&self, _: &str) -> Result<u64, NodeError> {
        Err(NodeError::Nobody)
    }

    async fn receipt(&self, _: &str, _: B256) -> Result<Option<Receipt>, NodeError> {
        Err(NodeError::Nobody)
    }
}

/// Asks the nodes whose URLs are in AWS Secrets Manager.
#[derive(Debug)]
pub struct RpcNodes {
    secrets: aws_sdk_secretsmanager::Client,
    /// Made at first use: it reads the machine's certificates.
    http: OnceLock<reqwest::Client>,
    /// A node is kept until it fails: its URL may have been replaced since.
    known: Mutex<BTreeMap<String, RpcClient>>,
}

impl RpcNodes {
    /// Nodes whose URLs these secrets tell.
    pub fn new(secrets: aws_sdk_secretsmanager::Client) -> Self {
        Self { secrets, http: OnceLock::new(), known: Mutex::default() }
    }

    /// The chain's id as the node says it (`eth_chainId`).
    pub async fn chain_id(&self, secret: &str) -> Result<u64, NodeError> {
        self.ask(secret, async |node| node.request_noparams::<U64>("eth_chainId").await).await.map(|id| id.to())
    }

    /// A contract's code (`eth_getCode`), now; empty if there is no contract.
    pub async fn code(&self, secret: &str, contract: Address) -> Result<Bytes, NodeError> {
        self.ask(secret, async |node| node.request("eth_getCode", (contract, "latest")).await).await
    }

    async fn ask<R>(
        &self,
        secret: &str,
        call: impl AsyncFnOnce(RpcClient) -> Result<R, TransportError>,
    ) -> Result<R, NodeError> {
        let known = || self.known.lock().expect("no holder of this lock panics");
        let kept = known().get(secret).cloned();
        let node = match kept {
            Some(node) => node,
            None => {
                let node = self.reach(secret).await?;
                known().insert(secret.to_owned(), node.clone());
                node
            }
        };
        call(node).await.map_err(|error| {
            known().remove(secret);
            error.into()
        })
    }

    async fn reach(&self, secret: &str) -> Result<RpcClient, NodeError> {
        let read = self.secrets.get_secret_value().secret_id(secret).send().await.map_err(|error| {
            let code = aws_sdk_secretsmanager::error::ProvideErrorMetadata::code(&error).unwrap_or("no answer");
            NodeError::Secret { secret: secret.to_owned(), code: code.to_owned() }
        })?;
        let url = read.secret_string().and_then(|text| text.trim().parse::<reqwest::Url>().ok());
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| NodeError::NoUrl { secret: secret.to_owned() })?;
        Ok(RpcClient::new(Http::with_client(self.http.get_or_init(http).clone(), url), false))
    }
}

fn http() -> reqwest::Client {
    // The process has one TLS stack; who installed it first does not matter.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT).build();
    client.expect("nothing in this depends on what is given")
}

#[async_trait]
impl Nodes for RpcNodes {
    async fn newest_block(&self, secret: &str) -> Result<u64, NodeError> {
        self.ask(secret, async |node| node.request_noparams::<U64>("eth_blockNumber").await).await.map(|it| it.to())
    }

    async fn receipt(&self, secret: &str, transaction: B256) -> Result<Option<Receipt>, NodeError> {
        self.ask(secret, async |node| node.request("eth_getTransactionReceipt", (transaction,)).await).await
    }
}
