//! What a dev stack is told before its functions start: chains, limits, and whose account it is.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, address};
use serde::Serialize;
use usher_chain::{ChainConfig, Chains, Rpc, Trust};
use usher_domain::{ChainId, KioskKey};
use usher_lambda::{
    Adapters, Config, DataKeyConfig, DataKeySource, Document, Machine, Place, SqsNudges, Usher, local_wallet,
    network_name,
};
use usher_localnet::secrets::Secrets;
use usher_store::{Store, budget::RateLimits, dynamo::DynamoTable};
use usher_xmtp::V3;

use super::state::{State, WALLET_KEY};
use crate::{Failure, config, stack::XMTP_TIMEOUT};

/// The factory of the samples in `events/`.
const SAMPLE_FACTORY: (ChainId, Address) = (ChainId(31337), address!("5fbdb2315678afecb367f032d93f642f64180aa3"));

/// usher's XMTP account.
#[derive(Debug, Serialize)]
pub(super) struct Account {
    inbox_id: String,
    wallet: String,
}

/// The ARN of the secret with the URL of a chain's node.
pub(super) fn secret(chain: ChainId) -> String {
    Secrets::arn(&format!("usher-dev/rpc-{chain}"))
}

/// The chains of the samples' factory and of `more`; those that have one of `nodes` are asked there.
pub(super) fn chains(more: &[KioskKey], nodes: &[(ChainId, String)]) -> Result<Chains, Failure> {
    let mut chains = BTreeMap::<ChainId, ChainConfig>::new();
    let named = more.iter().map(|factory| (factory.chain, factory.address));
    for (chain, factory) in [SAMPLE_FACTORY].into_iter().chain(named) {
        let asked = nodes.iter().any(|(id, _)| *id == chain);
        let rpc = || Trust::Rpc(Rpc { secret: secret(chain), confirmations: 1, wrappers: [].into() });
        let trust = || if asked { rpc() } else { Trust::Queue };
        let empty = || ChainConfig { trust: trust(), factories: [].into(), start_block: 0 };
        chains.entry(chain).or_insert_with(empty).factories.insert(factory);
    }
    if let Some((chain, _)) = nodes.iter().find(|(chain, _)| !chains.contains_key(chain)) {
        return Err(format!("--rpc {chain}=… names a chain without a factory; add --factory {chain}:ADDRESS").into());
    }
    Ok(chains.try_into()?)
}

/// Puts this stack's chains and limits into the configuration, beside what a kept stack's operator has put there;
/// returns all chains.
pub(super) async fn configure(
    table: DynamoTable,
    chains: Chains,
    limits: Option<RateLimits>,
) -> Result<Chains, Failure> {
    let store = Store::new(Arc::new(table), Arc::new(Machine), Arc::new(Machine));
    let stored = store.configuration().await?;
    let mut document = match &stored {
        Some(stored) => Document::parse(&stored.document)?,
        None => Document::new(Chains::default()),
    };
    let mut all = BTreeMap::<ChainId, ChainConfig>::from(document.chains);
    for (chain, config) in chains.iter() {
        let known = all.entry(chain).or_insert_with(|| config.clone());
        known.factories.extend(&config.factories);
        if let Trust::Rpc(_) = config.trust {
            known.trust = config.trust.clone();
        }
    }
    document.chains = all.try_into()?;
    document.rate_limits = limits;
    config::put(&store, stored, &document).await?;
    Ok(document.chains)
}

/// Makes the deployment and usher's XMTP account, or finds those made earlier.
pub(super) async fn init(
    config: &Config,
    state: &State,
    dynamodb: aws_sdk_dynamodb::Client,
    sqs: aws_sdk_sqs::Client,
) -> Result<Account, Failure> {
    let data_key = match &config.data_key {
        DataKeyConfig::File(path) => DataKeySource::File(path.clone()),
        DataKeyConfig::Kms(_) => return Err("a dev stack has no KMS".into()),
    };
    let adapters = Adapters {
        table: Arc::new(DynamoTable::new(dynamodb, &config.table)),
        network: Arc::new(V3::new(&config.xmtp_url, XMTP_TIMEOUT)?),
        nudges: Arc::new(SqsNudges::new(sqs, &config.nudge_queue_url)),
        data_key,
        clock: Arc::new(Machine),
        randomness: Arc::new(Machine),
    };
    let wallet = local_wallet(&state.folder().join(WALLET_KEY), &Machine)?;
    let place = Place { network: network_name(&config.xmtp_url), table: config.table.clone() };
    let usher = Usher::from_table(adapters).at(place);
    let account = usher.init(&wallet).await?;
    Ok(Account { inbox_id: account.inbox, wallet: account.wallet })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn named_factories_join_the_samples() {
        let more =
            ["31337:0x00000000000000000000000000000000000000aa", "1328:0x00000000000000000000000000000000000000bb"];
        let chains = chains(&more.map(|factory| factory.parse().unwrap()), &[]).unwrap();
        assert_eq!(
            serde_json::to_value(&chains).unwrap(),
            json!({
                "1328": { "trust": "queue", "factories": ["0x00000000000000000000000000000000000000bb"] },
                "31337": { "trust": "queue", "factories": [
                    "0x00000000000000000000000000000000000000aa",
                    "0x5fbdb2315678afecb367f032d93f642f64180aa3",
                ] },
            })
        );
    }

    #[test]
    fn a_chain_with_a_node_is_asked() {
        let node = |chain| [(ChainId(chain), "http://127.0.0.1:8545".to_owned())];
        let chains = chains(&[], &node(31337)).unwrap();
        let written = serde_json::to_value(&chains).unwrap();
        assert_eq!(written["31337"]["rpc_secret"], secret(ChainId(31337)));
        let refused = super::chains(&[], &node(1)).unwrap_err().to_string();
        assert!(refused.contains("add --factory 1:ADDRESS"), "{refused}");
    }
}
