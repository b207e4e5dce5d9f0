//! Every decision of a run, from its seed.

use rand::{Rng as _, RngCore as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Throws that repeat with the seed.
#[derive(Debug)]
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Whether something happens that happens `per_mille` times in a thousand.
    pub(crate) fn happens(&mut self, per_mille: u32) -> bool {
        // One throw whatever the odds, so that changing one rate moves nothing else.
        self.0.random_range(0..1000) < per_mille
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// One of these, by weight; at least one weight is not 0.
    pub(crate) fn weighted<T: Copy>(&mut self, choices: &[(u32, T)]) -> T {
        let total: u32 = choices.iter().map(|(weight, _)| weight).sum();
        let mut throw = self.0.random_range(0..total);
        for (weight, choice) in choices {
            if throw < *weight {
                return *choice;
            }
            throw -= weight;
        }
        unreachable!("the throw is below the sum of the weights")
    }

    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        values.shuffle(&mut self.0);
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}
