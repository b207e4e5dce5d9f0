//! Asking the chains before what a batch says is believed.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use alloy_primitives::B256;
use futures::{FutureExt as _, StreamExt as _, future::join_all, stream};
use usher_chain::{Chains, Doubt, Fact, Receipt, Rpc, Trust, acts_at_once, verify};
use usher_domain::ChainId;

use crate::{
    nodes::{NodeError, Nodes},
    telemetry::panic_text,
};

/// How often a node is asked about what others have seen before it.
const LOOKS: usize = 6;
/// How long is waited between two looks: about a block of a fast chain.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// How long a look may take: two of them leave time to store and to converge what they confirm.
const LOOK: Duration = Duration::from_secs(6);
/// How many questions a node is asked at a time: public ones take ten or twenty in a second.
const AT_ONCE: usize = 8;

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The chain says so.
    True,
    /// The chain does not say so, or not yet.
    Doubt(Doubt),
    /// The chain was not asked.
    None(NodeError),
    /// Something panicked over the question or what the node said.
    Panicked(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::True => f.write_str("it is true"),
            Self::Doubt(doubt) => doubt.fmt(f),
            Self::None(error) => error.fmt(f),
            Self::Panicked(panic) => write!(f, "panicked: {panic}"),
        }
    }
}

impl Answer {
    fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::Panicked(panic_text(panic).to_owned())
    }

    /// Whether asking once more, at once, is of no use.
    fn is_final(&self) -> bool {
        match self {
            Self::True | Self::Panicked(_) => true,
            Self::Doubt(doubt) => doubt.is_final(),
            Self::None(_) => false,
        }
    }
}

/// How the chain of a fact is asked; `None` if whoever sends its logs is believed.
pub(crate) fn node_of<'a>(chains: &'a Chains, fact: &Fact) -> Option<&'a Rpc> {
    match &chains.get(fact.chain)?.trust {
        Trust::Queue => None,
        Trust::Rpc(rpc) => Some(rpc),
    }
}

/// Whether a fact is stored without an answer.
pub(crate) fn is_stored_at_once(chains: &Chains, fact: &Fact) -> bool {
    node_of(chains, fact).is_none() || acts_at_once(fact)
}

/// Asks the chains about facts of theirs; in the order of the facts. Asks again for a while if they have not heard of
/// it yet: the node that an indexer listens to is another one.
pub(crate) async fn ask(nodes: &dyn Nodes, chains: &Chains, facts: &[&Fact]) -> Vec<Answer> {
    let mut answers = look(nodes, chains, facts).await;
    for _ in 1..LOOKS {
        let open: Vec<usize> = (0..facts.len()).filter(|index| !answers[*index].is_final()).collect();
        let unanswered = open.iter().any(|index| matches!(answers[*index], Answer::None(_)));
        if open.is_empty() {
            break;
        }
        pause(BETWEEN_LOOKS).await;
        let asked: Vec<&Fact> = open.iter().map(|index| facts[*index]).collect();
        for (index, answer) in open.into_iter().zip(look(nodes, chains, &asked).await) {
            answers[index] = answer;
        }
        if unanswered {
            // Who does not answer twice has trouble that no half second mends.
            break;
        }
    }
    answers
}

#[expect(clippy::disallowed_methods, reason = "a node's news is no condition of ours that could be awaited")]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

async fn look(nodes: &dyn Nodes, chains: &Chains, facts: &[&Fact]) -> Vec<Answer> {
    let ids: BTreeSet<ChainId> = facts.iter().map(|fact| fact.chain).collect();
    let looks = ids.into_iter().map(async |id| {
        let of_chain: Vec<usize> = (0..facts.len()).filter(|index| facts[*index].chain == id).collect();
        let facts: Vec<&Fact> = of_chain.iter().map(|index| facts[*index]).collect();
        of_chain.into_iter().zip(look_at_chain(nodes, chains, &facts).await).collect::<Vec<_>>()
    });
    let mut answers: Vec<_> = join_all(looks).await.concat();
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

async fn look_at_chain(nodes: &dyn Nodes, chains: &Chains, facts: &[&Fact]) -> Vec<Answer> {
    let Some(rpc) = facts.first().and_then(|fact| node_of(chains, fact)) else {
        return vec![Answer::True; facts.len()];
    };
    // The block first: what the node says of transactions is then no older than it.
    let newest = tokio::time::timeout(LOOK, nodes.newest_block(&rpc.secret));
    let newest = match AssertUnwindSafe(newest).catch_unwind().await {
        Ok(Ok(Ok(newest))) => newest,
        Ok(Ok(Err(error))) => return vec![Answer::None(error); facts.len()],
        Ok(Err(_)) => return vec![Answer::None(NodeError::Unanswered); facts.len()],
        Err(panic) => return vec![Answer::panicked(&*panic); facts.len()],
    };
    let mut transactions: BTreeMap<B256, Vec<usize>> = BTreeMap::new();
    for (index, fact) in facts.iter().enumerate() {
        transactions.entry(fact.transaction).or_default().push(index);
    }
    let mut transactions: Vec<_> = transactions.into_iter().collect();
    // Gains first: they wait for the answer, and a loss that is confirmed is asked about again when its message comes again.
    transactions.sort_by_key(|(_, of)| of.iter().all(|index| acts_at_once(facts[*index])));
    let check = |index: &usize, receipt: Option<&Receipt>| {
        // A made-up fact that names a true one's transaction must not hold that up.
        let verified = catch_unwind(AssertUnwindSafe(|| verify(facts[*index], receipt, newest, rpc, chains)));
        match verified {
            Ok(verified) => verified.map_or_else(Answer::Doubt, |()| Answer::True),
            Err(panic) => Answer::panicked(&*panic),
        }
    };
    let ask_about = async |(transaction, of): (B256, Vec<usize>)| {
        let receipt = AssertUnwindSafe(nodes.receipt(&rpc.secret, transaction)).catch_unwind().await;
        let answers: Vec<Answer> = match receipt {
            Ok(Ok(receipt)) => of.iter().map(|index| check(index, receipt.as_ref())).collect(),
            Ok(Err(error)) => vec![Answer::None(error); of.len()],
            Err(panic) => vec![Answer::panicked(&*panic); of.len()],
        };
        of.into_iter().zip(answers).collect::<Vec<_>>()
    };
    let looks = stream::iter(transactions).map(ask_about).buffer_unordered(AT_ONCE);
    let answered: Vec<_> = looks.take_until(Box::pin(pause(LOOK))).collect().await;
    let mut answers = vec![Answer::None(NodeError::Unanswered); facts.len()];
    for (index, answer) in answered.into_iter().flatten() {
        answers[index] = answer;
    }
    answers
}

#[cfg(test)]
mod tests;
