//! Whether a claim is true: what the chain itself says about the transaction that it names.

use alloy_primitives::{Address, B256};
use serde::Deserialize;
use serde_json::value::RawValue;
use usher_domain::{Fact, What};

use crate::{
    config::{Chains, Rpc},
    envelope::Claim,
    log,
    reading::Reading,
};

/// A transaction's receipt as `eth_getTransactionReceipt` gives it: what of it is looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    block_hash: Option<B256>,
    from: Address,
    to: Option<Address>,
    logs: Vec<Box<RawValue>>,
}

/// Why a claim is not believed. Its text is meant for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The node has not heard of the block yet.
    #[error("the node asked is at block {newest}, and the log is of block {claimed}")]
    Ahead {
        /// The block of the log.
        claimed: u64,
        /// The newest block of the node.
        newest: u64,
    },
    /// Others may still take the block's place.
    #[error("the log's block is the newest but {deep}, and {confirmations} confirmations are asked for")]
    Young {
        /// How many blocks follow it.
        deep: u64,
        /// How many blocks there must be, its own among them.
        confirmations: u64,
    },
    /// No block has the transaction.
    #[error("the chain has no transaction {0}")]
    NoTransaction(B256),
    /// The transaction is in another block than the log is said to be: the chain was reorganised, or somebody lies.
    #[error("the chain has transaction {transaction} in block {found}, not in {claimed}")]
    OtherBlock {
        /// The transaction.
        transaction: B256,
        /// The log's block.
        claimed: B256,
        /// The transaction's block.
        found: B256,
    },
    /// The transaction is where it is said to be, and did not say this.
    #[error("transaction {0} is on the chain, and has no such log")]
    NoSuchLog(B256),
    /// Factories let anybody mint an event in somebody else's name.
    #[error(
        "it names {creator} as the event's creator, and {sender} sent the transaction to {to}; \
         if that is a contract that creates events for others, add it to the chain's `wrappers`"
    )]
    OtherCreator {
        /// Whom the event names.
        creator: Address,
        /// Who sent the transaction.
        sender: Address,
        /// What it was sent to.
        to: Address,
    },
    /// A retraction of what the chain still says.
    #[error("the chain still has the log that is said to be removed, in block {0}")]
    StillThere(B256),
}

impl Doubt {
    /// Whether no later answer of the chain can be another.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NoSuchLog(_) | Self::OtherCreator { .. })
    }
}

/// Whether a fact does nothing but put somebody out: it acts at once and is verified afterwards. What lets anybody in
/// is verified first, and so is a resale, which does both, and a retraction, which cannot be taken back.
pub fn acts_at_once(fact: &Fact) -> bool {
    match fact.what {
        _ if fact.retracted => false,
        What::TicketRefunded { .. } => true,
        What::TicketTransferred { to, .. } => to == Address::ZERO,
        What::TicketMinted { .. } | What::EventMinted(_) => false,
    }
}

/// Whether the chain, at `newest` its newest block, says what `fact` says, by the receipt of the fact's transaction.
///
/// # Errors
/// Why not, or not yet.
pub fn verify(fact: &Fact, receipt: Option<&Receipt>, newest: u64, rpc: &Rpc, chains: &Chains) -> Result<(), Doubt> {
    let claimed = fact.position.block_number;
    // What a node says of blocks that it does not have is nothing.
    let Some(deep) = newest.checked_sub(claimed) else { return Err(Doubt::Ahead { claimed, newest }) };
    match (logged(fact, receipt, chains), fact.retracted) {
        (Err(_), true) => return Ok(()),
        (Ok(_), true) => return Err(Doubt::StillThere(fact.position.block_hash)),
        (Err(doubt), false) => return Err(doubt),
        (Ok(receipt), false) => created_by_its_creator(fact, receipt, rpc)?,
    }
    if deep.saturating_add(1) < rpc.confirmations && !acts_at_once(fact) {
        return Err(Doubt::Young { deep, confirmations: rpc.confirmations });
    }
    Ok(())
}

/// The receipt that has the log of `fact`, be that retracted or not.
fn logged<'a>(fact: &Fact, receipt: Option<&'a Receipt>, chains: &Chains) -> Result<&'a Receipt, Doubt> {
    let (transaction, claimed) = (fact.transaction, fact.position.block_hash);
    let Some((receipt, found)) = receipt.and_then(|receipt| Some((receipt, receipt.block_hash?))) else {
        return Err(Doubt::NoTransaction(transaction));
    };
    if found != claimed {
        return Err(Doubt::OtherBlock { transaction, claimed, found });
    }
    let says = |log: &RawValue| {
        let reading = log::read(&Claim { chain: fact.chain, log: log.get() }, chains);
        let Reading::Fact(said) = reading else { return false };
        said == Fact { retracted: false, block_time_s: said.block_time_s, ..fact.clone() }
    };
    if receipt.logs.iter().any(|log| says(log)) { Ok(receipt) } else { Err(Doubt::NoSuchLog(transaction)) }
}

fn created_by_its_creator(fact: &Fact, receipt: &Receipt, rpc: &Rpc) -> Result<(), Doubt> {
    let What::EventMinted(mint) = &fact.what else { return Ok(()) };
    let to = receipt.to.unwrap_or_default();
    if receipt.from == mint.creator || rpc.wrappers.contains(&to) {
        return Ok(());
    }
    Err(Doubt::OtherCreator { creator: mint.creator, sender: receipt.from, to })
}
