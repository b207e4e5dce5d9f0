//! Chains that are asked: whether their nodes answer, are of the right chain, and have the factories.

use alloy_primitives::Address;
use usher_chain::{ChainConfig, Rpc, Trust};
use usher_domain::ChainId;
use usher_lambda::{Document, NodeError, RpcNodes, telemetry::Chain};

use super::Check;
use crate::{dev::in_words, stack::Deployment};

pub(super) async fn look(deployment: &Deployment) -> Vec<Check> {
    // Without a configuration that can be read there is nothing to look at, and the ledger's checks say so.
    let Ok(Some(stored)) = deployment.store().configuration().await else { return Vec::new() };
    let Ok(document) = Document::parse(&stored.document) else { return Vec::new() };
    let nodes = RpcNodes::new(deployment.secrets());
    let mut checks = Vec::new();
    for (id, config) in document.chains.iter() {
        let name = format!("chain {id}");
        checks.push(match &config.trust {
            Trust::Queue => Check::ok(name, in_words(&config.trust)),
            Trust::Rpc(rpc) => match missing_factories(&nodes, id, config, rpc).await {
                Ok(missing) if missing.is_empty() => {
                    Check::ok(name, "its node answers and has the code of all factories")
                }
                Ok(missing) => Check::fail(
                    name,
                    format!("its node has no code at factory {}", missing.join(", ")),
                    "mend the factory's address in the configuration: no event of it could be confirmed",
                ),
                Err(error) => Check::fail(name, error.seen, error.fix),
            },
        });
    }
    checks
}

struct Trouble {
    seen: String,
    fix: &'static str,
}

impl From<NodeError> for Trouble {
    fn from(error: NodeError) -> Self {
        let fix = match error {
            NodeError::Secret { .. } => "see whether the secret exists and is among the stack's RpcSecretArns",
            NodeError::NoUrl { .. } => "put the node's URL, and nothing else, into the secret",
            _ => "see whether the node is up and takes calls with this URL; gains wait for it",
        };
        Self { seen: Chain(&error).to_string(), fix }
    }
}

/// The factories that the chain does not have.
async fn missing_factories(
    nodes: &RpcNodes,
    id: ChainId,
    config: &ChainConfig,
    rpc: &Rpc,
) -> Result<Vec<String>, Trouble> {
    let told = nodes.chain_id(&rpc.secret).await?;
    if told != id.0 {
        let seen = format!("its node is of chain {told}");
        return Err(Trouble { seen, fix: "put the URL of this chain's node into the secret" });
    }
    let mut missing = Vec::new();
    for factory in &config.factories {
        if nodes.code(&rpc.secret, *factory).await?.is_empty() {
            missing.push(Address::to_string(factory));
        }
    }
    Ok(missing)
}
