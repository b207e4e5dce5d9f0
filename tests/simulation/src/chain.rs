//! A chain that reorganises, and the logs an indexer sends of it.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, keccak256};
use serde_json::{Value, json};
use usher_tests::haus::{self, Event};

use crate::dice::Dice;

/// One minting of an event: the same event may be minted for somebody else after a reorganisation.
#[derive(Debug, Clone)]
pub(crate) struct Mint {
    pub(crate) event: Event,
    /// Whose, by number.
    pub(crate) creator: usize,
}

/// What a transaction does. Events are numbers of [`Chain::mints`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Mint { mint: usize },
    Buy { mint: usize, ticket: u64, buyer: usize },
    Transfer { mint: usize, ticket: u64, from: usize, to: usize },
    Burn { mint: usize, ticket: u64, holder: usize },
    Refund { mint: usize, ticket: u64, holder: usize },
}

#[derive(Debug, Clone)]
struct Transaction {
    act: Act,
    hash: B256,
    logs: Vec<Value>,
}

#[derive(Debug)]
struct Block {
    number: u64,
    hash: B256,
    transactions: Vec<Transaction>,
}

/// A ticket in somebody's wallet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) owner: usize,
    pub(crate) refunded: bool,
}

/// What the chain says now.
#[derive(Debug, Default, Clone)]
pub(crate) struct State {
    /// The minting that counts, by event id.
    pub(crate) minted: BTreeMap<u64, usize>,
    /// Tickets by minting and number.
    pub(crate) tickets: BTreeMap<(usize, u64), Ticket>,
}

impl State {
    fn apply(&mut self, act: Act, mints: &[Mint]) -> bool {
        match act {
            Act::Mint { mint } => {
                let id = mints[mint].event.id.to::<u64>();
                let free = !self.minted.contains_key(&id);
                self.minted.entry(id).or_insert(mint);
                free
            }
            Act::Buy { mint, ticket, buyer } => {
                let valid = self.minted.values().any(|it| *it == mint) && !self.tickets.contains_key(&(mint, ticket));
                if valid {
                    self.tickets.insert((mint, ticket), Ticket { owner: buyer, refunded: false });
                }
                valid
            }
            Act::Transfer { mint, ticket, from, to } => self.owned(mint, ticket, from, |it| {
                *it = Some(Ticket { owner: to, refunded: false });
            }),
            Act::Burn { mint, ticket, holder } => self.owned(mint, ticket, holder, |it| *it = None),
            Act::Refund { mint, ticket, holder } => {
                let refunded = self.tickets.get(&(mint, ticket)).is_some_and(|it| it.refunded);
                !refunded && self.owned(mint, ticket, holder, |it| *it = Some(Ticket { owner: holder, refunded: true }))
            }
        }
    }

    fn owned(&mut self, mint: usize, ticket: u64, by: usize, change: impl FnOnce(&mut Option<Ticket>)) -> bool {
        let mut it = self.tickets.get(&(mint, ticket)).copied();
        if it.is_none_or(|it| it.owner != by) {
            return false;
        }
        change(&mut it);
        match it {
            // A burnt number is never issued again, and nobody owns it.
            None => self.tickets.insert((mint, ticket), Ticket { owner: usize::MAX, refunded: true }),
            Some(it) => self.tickets.insert((mint, ticket), it),
        };
        true
    }

    /// Who holds a live ticket of a minting.
    pub(crate) fn holders(&self, mint: usize) -> impl Iterator<Item = usize> {
        let live = self.tickets.iter().filter(move |((of, _), it)| *of == mint && !it.refunded);
        live.map(|(_, it)| it.owner)
    }
}

/// The newest blocks that a reorganisation replaces at most.
const DEPTH_MAX: usize = 8;

/// Something that happened on the chain.
#[derive(Debug)]
pub(crate) struct Happened {
    pub(crate) what: String,
    /// What an indexer sends of it.
    pub(crate) sent: Vec<Sent>,
    /// How many blocks were replaced.
    pub(crate) depth: usize,
}

/// A log on its way to a queue.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) queue: &'static str,
    pub(crate) body: String,
}

/// The chain.
pub(crate) struct Chain {
    pub(crate) mints: Vec<Mint>,
    wallets: Vec<Address>,
    haus: haus::Chain,
    blocks: Vec<Block>,
    made: u64,
    next_ticket: u64,
    /// Everybody who ever bought or got a ticket, by minting: what facts, live or retracted, may say.
    pub(crate) ever_held: BTreeMap<usize, Vec<usize>>,
}

impl Chain {
    pub(crate) fn new(events: usize, wallets: Vec<Address>, dice: &mut Dice) -> Self {
        let mut mints = Vec::new();
        for id in 0..events as u64 {
            let first = dice.below(wallets.len());
            let other = (first + 1 + dice.below(wallets.len() - 1)) % wallets.len();
            for creator in [first, other] {
                mints.push(Mint { event: Event::new(id, wallets[creator]), creator });
            }
        }
        Self {
            mints,
            wallets,
            haus: haus::Chain::default(),
            blocks: Vec::new(),
            made: 0,
            next_ticket: 1,
            ever_held: BTreeMap::new(),
        }
    }

    pub(crate) fn state(&self) -> State {
        let mut state = State::default();
        for transaction in self.blocks.iter().flat_map(|block| &block.transactions) {
            state.apply(transaction.act, &self.mints);
        }
        state
    }

    /// Whether a minting's transaction is in any block, and which.
    pub(crate) fn hash_of_mint(&self, mint: usize) -> Option<B256> {
        let mut all = self.blocks.iter().flat_map(|block| &block.transactions);
        all.find(|it| it.act == Act::Mint { mint }).map(|it| it.hash)
    }

    /// Something happens on the chain.
    pub(crate) fn advance(&mut self, dice: &mut Dice) -> Happened {
        if self.blocks.len() > 2 && dice.happens(120) {
            return self.reorganise(dice);
        }
        let act = self.draw(dice);
        let transaction = self.make(act);
        let number = self.blocks.last().map_or(1, |block| block.number + 1);
        let sent = self.mine(number, vec![transaction], dice);
        Happened { what: format!("{act:?}"), sent, depth: 0 }
    }

    fn draw(&mut self, dice: &mut Dice) -> Act {
        let state = self.state();
        let ids: Vec<u64> = self.mints.iter().map(|mint| mint.event.id.to()).collect();
        let unminted: Vec<usize> = (0..ids.len()).filter(|mint| !state.minted.contains_key(&ids[*mint])).collect();
        if !unminted.is_empty() && (state.minted.is_empty() || dice.happens(300)) {
            return Act::Mint { mint: unminted[dice.below(unminted.len())] };
        }
        let owned: Vec<(usize, u64, Ticket)> = state
            .tickets
            .iter()
            .filter(|(_, it)| it.owner != usize::MAX)
            .map(|((mint, ticket), it)| (*mint, *ticket, *it))
            .collect();
        if owned.is_empty() || dice.happens(500) {
            let minted: Vec<usize> = state.minted.values().copied().collect();
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            let act =
                Act::Buy { mint: minted[dice.below(minted.len())], ticket, buyer: dice.below(self.wallets.len()) };
            return act;
        }
        let (mint, ticket, it) = owned[dice.below(owned.len())];
        match dice.below(4) {
            0 if !it.refunded => Act::Refund { mint, ticket, holder: it.owner },
            1 => Act::Burn { mint, ticket, holder: it.owner },
            _ => Act::Transfer { mint, ticket, from: it.owner, to: dice.below(self.wallets.len()) },
        }
    }

    fn make(&mut self, act: Act) -> Transaction {
        let wallets = &self.wallets;
        let mints = &self.mints;
        let logs = match act {
            Act::Mint { mint } => self.haus.mint(&mints[mint].event),
            Act::Buy { mint, ticket, buyer } => self.haus.purchase(&mints[mint].event, ticket, wallets[buyer]),
            Act::Transfer { mint, ticket, from, to } => {
                self.haus.transfer(&mints[mint].event, ticket, wallets[from], wallets[to])
            }
            Act::Burn { mint, ticket, holder } => self.haus.burn(&mints[mint].event, ticket, wallets[holder]),
            Act::Refund { mint, ticket, holder } => self.haus.refund(&mints[mint].event, ticket, wallets[holder]),
        };
        let gains = match act {
            Act::Buy { mint, buyer, .. } => Some((mint, buyer)),
            Act::Transfer { mint, to, .. } => Some((mint, to)),
            _ => None,
        };
        if let Some((mint, who)) = gains {
            self.ever_held.entry(mint).or_default().push(who);
        }
        self.made += 1;
        Transaction { act, hash: keccak256(format!("transaction {}", self.made)), logs: logs.logs }
    }

    fn mine(&mut self, number: u64, transactions: Vec<Transaction>, dice: &mut Dice) -> Vec<Sent> {
        self.made += 1;
        let hash = keccak256(format!("block {number} {}", self.made));
        self.blocks.push(Block { number, hash, transactions });
        let block = self.blocks.last().expect("just pushed");
        sent(block, false, dice)
    }

    /// The newest blocks are replaced: their logs are taken back, and some of their transactions are mined again.
    fn reorganise(&mut self, dice: &mut Dice) -> Happened {
        let deepest = if dice.happens(250) { DEPTH_MAX } else { 3 };
        let depth = 1 + dice.below(deepest.min(self.blocks.len() - 1));
        let dropped = self.blocks.split_off(self.blocks.len() - depth);
        let mut number = dropped[0].number;
        let mut messages: Vec<Sent> = dropped.iter().flat_map(|block| sent(block, true, dice)).collect();
        let mut again: Vec<Transaction> = dropped.into_iter().flat_map(|block| block.transactions).collect();
        dice.shuffle(&mut again);
        for transaction in again {
            if dice.happens(650) && self.state().apply(transaction.act, &self.mints) {
                messages.extend(self.mine(number, vec![transaction], dice));
                number += 1;
            }
        }
        Happened { what: format!("reorganisation of {depth} blocks"), sent: messages, depth }
    }
}

/// The messages of a block's logs: one each, or one for each transaction.
fn sent(block: &Block, removed: bool, dice: &mut Dice) -> Vec<Sent> {
    let mut messages = Vec::new();
    let mut index = 0;
    for transaction in &block.transactions {
        let mut logs = Vec::new();
        for log in &transaction.logs {
            let mut log = log.clone();
            log["blockNumber"] = format!("{:#x}", block.number).into();
            log["blockHash"] = json!(block.hash);
            log["transactionHash"] = json!(transaction.hash);
            log["logIndex"] = format!("{index:#x}").into();
            log["removed"] = removed.into();
            index += 1;
            logs.push(log);
        }
        let queue = match transaction.act {
            Act::Mint { .. } => "mint",
            Act::Buy { .. } => "purchase",
            Act::Transfer { .. } | Act::Burn { .. } | Act::Refund { .. } => "refund",
        };
        // The queue is priority and permission, never meaning.
        let queue = if dice.happens(100) { ["mint", "purchase", "refund"][dice.below(3)] } else { queue };
        if dice.happens(500) {
            let body = json!({"chainId": haus::CHAIN.0, "logs": logs}).to_string();
            messages.push(Sent { queue, body });
        } else {
            let body = |log| json!({"chainId": haus::CHAIN.0, "log": log}).to_string();
            messages.extend(logs.into_iter().map(|log| Sent { queue, body: body(log) }));
        }
    }
    messages
}
