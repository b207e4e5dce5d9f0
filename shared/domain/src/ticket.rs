//! Who holds a ticket: the fold of everything the chain said about it.
//!
//! Order of arrival and duplicates mean nothing. A retraction is a tombstone that kills the fact of its own chain,
//! emitter, transaction, position (block hash included) and content, whichever of the two came first. Of the facts left
//! alive:
//!
//! - The newest `Transfer` names the holder; the zero address (a burn) means nobody. `TicketMinted` stands in only
//!   while no live `Transfer` is known.
//! - `TicketRefunded` at or after that takes the ticket from the wallet it names, until a later `Transfer`. A refund
//!   that names somebody else than the holder takes nothing: the holder did not get the money.
//! - One height has one block, and one position one log. Where live facts at or above the deciding height contradict
//!   that, the ticket is disputed, and its holder is whoever holds it in *every* version of the deciding block: so
//!   nobody comes in on a disputed fact, a loss counts in any version, and a purchase that a reorganisation moved to a
//!   sister block does not throw its buyer out. The dispute ends with a retraction, or with a `Transfer` further up.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256};

use crate::fact::{Fact, Position, What, live};

/// What the facts of one ticket add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holding {
    /// The wallet that holds the ticket; none if it was never issued, is burnt, refunded, or in dispute.
    pub holder: Option<Address>,
    /// Where the deciding fact stands: what named the holder, or the refund that took the ticket from him. None if no
    /// live fact says that the ticket was ever issued.
    pub position: Option<Position>,
    /// Live facts contradict each other. Only a retraction, a later transfer or a reading of the chain ends that.
    pub disputed: bool,
}

/// Folds all known facts of *one* ticket, in any order and with any duplicates. Facts about events are passed over.
pub fn fold(facts: &[Fact]) -> Holding {
    let live = live(facts).filter(|fact| fact.ticket().is_some()).collect::<Vec<_>>();
    let transferred = live.iter().any(|fact| matches!(fact.what, What::TicketTransferred { .. }));
    let moves = || live.iter().filter_map(move |fact| Some((fact.position, moved_to(fact, transferred)?)));
    let Some(height) = moves().map(|(position, _)| position.block_number).max() else { return Holding::default() };

    let contenders = live.iter().copied().filter(|fact| fact.position.block_number >= height).collect::<Vec<_>>();
    let versions = contenders
        .iter()
        .filter(|fact| fact.position.block_number == height)
        .map(|fact| fact.position.block_hash)
        .collect::<BTreeSet<_>>();
    let outcomes = versions
        .into_iter()
        .map(|block| outcome(block, height, transferred, &contenders))
        .collect::<BTreeSet<(Option<Address>, Option<Position>)>>();
    let holders = outcomes.iter().map(|(holder, _)| *holder).collect::<BTreeSet<_>>();

    Holding {
        holder: if holders.len() == 1 { holders.into_iter().next().flatten() } else { None },
        position: outcomes.into_iter().filter_map(|(_, position)| position).max(),
        disputed: contenders.iter().any(|a| contenders.iter().any(|b| contradict(a, b))),
    }
}

/// The wallet that `fact` gives the ticket to, if it is of the kind that decides.
fn moved_to(fact: &Fact, transferred: bool) -> Option<Address> {
    match fact.what {
        What::TicketTransferred { to, .. } => Some(to),
        What::TicketMinted { buyer, .. } if !transferred => Some(buyer),
        _ => None,
    }
}

/// Who holds the ticket, and since which position, if `block` is the one that stands at `height`.
fn outcome(block: B256, height: u64, transferred: bool, contenders: &[&Fact]) -> (Option<Address>, Option<Position>) {
    let here = || contenders.iter().filter(|fact| fact.position.block_hash == block);
    let newest = here()
        .filter(|fact| fact.position.block_number == height)
        .filter_map(|fact| Some((fact.position, moved_to(fact, transferred)?)))
        .max();
    let Some((position, wallet)) = newest else { return (None, None) };
    let contested =
        here().any(|a| a.position == position && here().any(|b| b.position == position && a.what != b.what));
    if contested || wallet == Address::ZERO {
        return (None, Some(position));
    }
    let refund = contenders
        .iter()
        .filter(|fact| matches!(fact.what, What::TicketRefunded { holder, .. } if holder == wallet))
        .map(|fact| fact.position)
        .filter(|refund| refund.block_number > height || (refund.block_hash == block && *refund >= position))
        .min();
    match refund {
        Some(refund) => (None, Some(refund)),
        None => (Some(wallet), Some(position)),
    }
}

/// Whether two live facts of one ticket cannot both be true.
fn contradict(a: &Fact, b: &Fact) -> bool {
    let (at, bt) = (a.position, b.position);
    at.block_number == bt.block_number && (at.block_hash != bt.block_hash || (at == bt && a.what != b.what))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::ChainId;

    const NOBODY: Address = Address::ZERO;
    const ALICE: Address = Address::repeat_byte(0xa1);
    const BOB: Address = Address::repeat_byte(0xb0);
    const A: u8 = 0xaa;
    const B: u8 = 0xbb;

    fn at(block_number: u64, log_index: u64, block: u8) -> Position {
        Position { block_number, log_index, block_hash: B256::repeat_byte(block) }
    }

    fn fact(position: Position, what: What) -> Fact {
        Fact {
            chain: ChainId(31337),
            emitter: Address::repeat_byte(0x11),
            transaction: B256::repeat_byte(7),
            position,
            retracted: false,
            block_time_s: None,
            what,
        }
    }

    fn transfer(position: Position, from: Address, to: Address) -> Fact {
        fact(position, What::TicketTransferred { token_id: U256::MAX, from, to })
    }

    fn minted(position: Position, buyer: Address) -> Fact {
        fact(position, What::TicketMinted { token_id: U256::MAX, buyer })
    }

    fn refunded(position: Position, holder: Address) -> Fact {
        fact(position, What::TicketRefunded { token_id: U256::MAX, holder })
    }

    fn retracted(mut fact: Fact) -> Fact {
        fact.retracted = true;
        fact
    }

    #[track_caller]
    fn assert_holder(facts: &[Fact], holder: Option<Address>, disputed: bool) {
        let holding = fold(facts);
        assert_eq!((holding.holder, holding.disputed), (holder, disputed), "{holding:?}");
    }

    #[test]
    fn nothing_known_is_nobody() {
        assert_eq!(fold(&[]), Holding::default());
        assert_eq!(fold(&[refunded(at(5, 0, A), ALICE)]), Holding::default());
        assert_eq!(fold(&[retracted(transfer(at(5, 0, A), NOBODY, ALICE))]), Holding::default());
    }

    #[test]
    fn the_newest_transfer_names_the_holder() {
        let sold = transfer(at(5, 0, A), NOBODY, ALICE);
        let resold = transfer(at(5, 3, A), ALICE, BOB);
        assert_eq!(
            fold(&[resold.clone(), sold.clone()]),
            Holding { holder: Some(BOB), position: Some(resold.position), disputed: false }
        );
        assert_holder(&[sold.clone(), transfer(at(6, 0, A), ALICE, NOBODY)], None, false);
        assert_holder(&[transfer(at(9, 9, A), NOBODY, NOBODY)], None, false);
        assert_holder(&[retracted(resold.clone()), sold, resold], Some(ALICE), false);
    }

    #[test]
    fn a_sale_stands_in_only_while_no_transfer_is_live() {
        let sale = minted(at(5, 2, A), ALICE);
        let issue = transfer(at(5, 0, A), NOBODY, BOB);
        assert_holder(std::slice::from_ref(&sale), Some(ALICE), false);
        assert_holder(&[sale.clone(), issue.clone()], Some(BOB), false);
        assert_holder(&[sale, issue.clone(), retracted(issue)], Some(ALICE), false);
        assert_holder(&[minted(at(5, 2, A), NOBODY)], None, false);
    }

    #[test]
    fn a_refund_holds_until_a_later_transfer() {
        let sold = transfer(at(5, 0, A), NOBODY, ALICE);
        let refund = refunded(at(6, 0, A), ALICE);
        assert_eq!(
            fold(&[refund.clone(), sold.clone()]),
            Holding { holder: None, position: Some(refund.position), disputed: false }
        );
        assert_holder(&[sold.clone(), refund.clone(), transfer(at(6, 1, A), ALICE, BOB)], Some(BOB), false);
        assert_holder(&[sold.clone(), refund.clone(), transfer(at(7, 0, A), ALICE, ALICE)], Some(ALICE), false);
        assert_holder(&[sold.clone(), refund.clone(), retracted(refund)], Some(ALICE), false);
        assert_holder(&[sold.clone(), refunded(at(4, 9, A), ALICE)], Some(ALICE), false);
        assert_holder(&[refunded(at(5, 0, A), ALICE), transfer(at(5, 1, A), BOB, ALICE)], Some(ALICE), false);
        assert_holder(&[minted(at(5, 2, A), ALICE), refunded(at(6, 0, A), ALICE)], None, false);
        let again = [refunded(at(8, 0, A), ALICE), refunded(at(7, 0, A), ALICE), sold];
        assert_eq!(fold(&again).position, Some(at(7, 0, A)), "the first refund took it");
    }

    #[test]
    fn a_refund_of_somebody_else_takes_nothing() {
        let facts =
            [transfer(at(5, 0, A), NOBODY, ALICE), transfer(at(6, 0, A), ALICE, BOB), refunded(at(7, 0, A), ALICE)];
        assert_holder(&facts, Some(BOB), false);
    }

    #[test]
    fn two_logs_in_one_place_let_nobody_in() {
        let one = transfer(at(5, 0, A), NOBODY, ALICE);
        let sister = transfer(at(5, 0, B), NOBODY, BOB);
        assert_holder(&[one.clone(), sister.clone()], None, true);
        assert_holder(&[one.clone(), sister.clone(), retracted(one.clone())], Some(BOB), false);
        assert_holder(&[one.clone(), sister, transfer(at(6, 0, A), ALICE, BOB)], Some(BOB), false);
        assert_holder(&[one.clone(), transfer(at(5, 0, A), NOBODY, BOB)], None, true);
        assert_holder(&[one.clone(), refunded(at(5, 0, A), BOB)], None, true);
        // Taking back what was made up leaves what is true.
        let forged = transfer(at(5, 0, A), ALICE, NOBODY);
        assert_holder(&[one.clone(), forged.clone()], None, true);
        assert_holder(&[one.clone(), forged.clone(), retracted(forged)], Some(ALICE), false);
        // Another place in a sister block is as contradictory as the same place.
        assert_holder(&[one.clone(), transfer(at(5, 7, B), NOBODY, BOB)], None, true);
        assert_holder(&[one.clone(), refunded(at(5, 7, B), ALICE)], None, true);
        assert_holder(&[one.clone(), minted(at(5, 7, B), ALICE)], None, true);
        assert_holder(&[one, refunded(at(6, 0, A), ALICE), refunded(at(6, 0, B), ALICE)], None, true);
    }

    #[test]
    fn a_purchase_moved_to_a_sister_block_keeps_its_buyer() {
        let facts = [transfer(at(5, 0, A), NOBODY, ALICE), transfer(at(5, 4, B), NOBODY, ALICE)];
        assert_holder(&facts, Some(ALICE), true);
        assert_holder(&[facts[0].clone(), facts[1].clone(), retracted(facts[0].clone())], Some(ALICE), false);
        // What the sister block says before its own sale is no refund of this block's.
        let before = refunded(at(5, 2, B), ALICE);
        assert_holder(&[facts[0].clone(), facts[1].clone(), before], Some(ALICE), true);
        let after = refunded(at(5, 5, B), ALICE);
        assert_holder(&[facts[0].clone(), facts[1].clone(), after], None, true);
    }

    fn wallets() -> impl Strategy<Value = Address> {
        prop::sample::select(vec![NOBODY, ALICE, BOB])
    }

    /// A small world, so that positions, blocks and wallets collide all the time.
    fn any_fact() -> impl Strategy<Value = Fact> {
        let position = (1..4_u64, 0..3_u64, prop::sample::select(vec![A, B])).prop_map(|(n, i, b)| at(n, i, b));
        let what = (0..3_u8, wallets(), wallets()).prop_map(|(kind, from, to)| match kind {
            0 => What::TicketTransferred { token_id: U256::MAX, from, to },
            1 => What::TicketMinted { token_id: U256::MAX, buyer: to },
            _ => What::TicketRefunded { token_id: U256::MAX, holder: to },
        });
        (position, what).prop_map(|(position, what)| fact(position, what))
    }

    fn facts() -> impl Strategy<Value = Vec<Fact>> {
        prop::collection::vec((any_fact(), prop::bool::weighted(0.25)), 0..14)
            .prop_map(|facts| facts.into_iter().map(|(f, dead)| if dead { retracted(f) } else { f }).collect())
    }

    /// The facts, and how they arrive: in any order, some of them twice.
    fn arrivals(once: Vec<Fact>) -> impl Strategy<Value = (Vec<Fact>, Vec<Fact>)> {
        let again = prop::sample::subsequence(once.clone(), 0..=once.len());
        let all = again.prop_map({
            let once = once.clone();
            move |again| [once.clone(), again].concat()
        });
        (Just(once), all.prop_shuffle())
    }

    fn same_log(a: &Fact, b: &Fact) -> bool {
        a.position == b.position && a.what == b.what
    }

    /// An honest chain: at each position one log; the wallet is who is named next.
    fn history() -> impl Strategy<Value = Vec<(u8, Address)>> {
        prop::collection::vec((0..4_u8, wallets()), 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn order_and_duplicates_mean_nothing((once, arrived) in facts().prop_flat_map(arrivals)) {
            prop_assert_eq!(fold(&arrived), fold(&once));
        }

        #[test]
        fn a_retracted_fact_might_as_well_never_have_been(
            facts in prop::collection::vec((any_fact(), any::<bool>()), 0..14),
            places in prop::collection::vec(any::<prop::sample::Index>(), 14),
        ) {
            let doomed = facts.iter().filter(|(_, dead)| *dead).map(|(f, _)| f.clone()).collect::<Vec<_>>();
            let kept = facts.iter().map(|(f, _)| f).filter(|f| !doomed.iter().any(|d| same_log(d, f))).cloned();
            let mut all = facts.iter().map(|(f, _)| f.clone()).collect::<Vec<_>>();
            for (dead, place) in doomed.iter().zip(places) {
                let place = place.index(all.len() + 1);
                all.insert(place, retracted(dead.clone()));
            }
            prop_assert_eq!(fold(&all), fold(&kept.collect::<Vec<_>>()));
        }

        /// Whoever is let in holds the ticket whichever block of each height turns out to stand.
        #[test]
        fn nobody_comes_in_on_a_dispute(facts in facts()) {
            let Some(holder) = fold(&facts).holder else { return Ok(()) };
            for choice in 0..8_u8 {
                let stands = |f: &&Fact| {
                    let block = if choice >> (f.position.block_number - 1) & 1 == 0 { A } else { B };
                    // A height that only one version is known of keeps it.
                    let contested = facts.iter().any(|g| {
                        g.position.block_number == f.position.block_number
                            && g.position.block_hash != f.position.block_hash
                            && live(&facts).any(|l| l == g)
                    });
                    !contested || f.position.block_hash == B256::repeat_byte(block)
                };
                let world = facts.iter().filter(stands).cloned().collect::<Vec<_>>();
                prop_assert_eq!(fold(&world).holder, Some(holder), "world {:03b}: {:?}", choice, world);
            }
        }

        /// Against a straightforward replay of an honest chain, with the noise of an orphaned branch all retracted.
        #[test]
        fn agrees_with_a_replay_of_the_chain(
            history in history(),
            noise in prop::collection::vec(any_fact(), 0..8),
            seed in any::<prop::sample::Index>(),
        ) {
            let (mut facts, mut holder) = (Vec::new(), NOBODY);
            for (height, (kind, wallet)) in (1..).zip(&history) {
                match kind {
                    0 => facts.push(refunded(at(height, 1, A), holder)),
                    1 => facts.push(refunded(at(height, 1, A), Address::repeat_byte(0xee))),
                    2 => {
                        facts.push(transfer(at(height, 0, A), holder, *wallet));
                        facts.push(minted(at(height, 2, A), *wallet));
                    }
                    _ => facts.push(transfer(at(height, 0, A), holder, *wallet)),
                }
                match kind {
                    0 => holder = NOBODY,
                    1 => {}
                    _ => holder = *wallet,
                }
            }
            for mut fact in noise {
                fact.position.block_hash = B256::repeat_byte(B);
                facts.push(retracted(fact.clone()));
                facts.push(fact);
            }
            let middle = seed.index(facts.len());
            facts.rotate_left(middle);
            let holding = fold(&facts);
            prop_assert_eq!(holding.holder, (holder != NOBODY).then_some(holder));
            prop_assert!(!holding.disputed);
        }
    }
}
