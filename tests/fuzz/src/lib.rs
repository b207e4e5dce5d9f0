//! Hostile input, as a node or a user would send it: nothing of it stops a room for others.
//!
//! Each [`Target`] is a function of bytes that panics when something is wrong. `tests/smoke.rs` runs all of them for a
//! few seconds; the binaries in `cargo-fuzz/` hand them to libFuzzer (see `docs/fuzzing.md`).

pub mod cast;
pub mod mutate;
pub mod network;
pub mod rogue;
pub mod room;
pub mod targets;

/// Something to be fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, also that of its libFuzzer binary.
    pub name: &'static str,
    /// What is done with an input. Panics if something is wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin with: each is real, or leads to something real.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many varied inputs the smoke run takes besides the seeds.
    pub smoke: usize,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All targets.
pub const TARGETS: [Target; 10] = [
    targets::queue_bodies::TARGET,
    targets::logs::TARGET,
    targets::snapshots::TARGET,
    targets::states::TARGET,
    targets::key_packages::TARGET,
    targets::welcomes::TARGET,
    targets::contents::TARGET,
    targets::group_messages::TARGET,
    targets::commits::TARGET,
    targets::identity_updates::TARGET,
];

/// Inputs that take each of `seeds` unchanged (see [`mutate::hostile`]), behind `prefix`.
fn unchanged(prefix: &[u8], seeds: usize) -> Vec<Vec<u8>> {
    let number = |seed: usize| u8::try_from(seed).expect("there are few seeds");
    (0..seeds).map(|seed| [prefix, &[0, number(seed)]].concat()).collect()
}
