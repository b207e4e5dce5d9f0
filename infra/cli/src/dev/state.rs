//! Where a dev stack keeps its files.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::Failure;

/// The file of usher's wallet.
pub(super) const WALLET_KEY: &str = "wallet.key";
/// The file of the key that wraps data keys.
pub(super) const DATA_KEY: &str = "data.key";

/// Where the stack keeps its files: a folder that stays, or one for the keys that goes with the process.
pub(super) enum State {
    Kept(PathBuf),
    Passing(TempDir),
}

impl State {
    pub(super) fn open(folder: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(folder) = folder else { return Ok(Self::Passing(TempDir::new()?)) };
        // It holds keys.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self::Kept(folder.canonicalize()?))
    }

    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::Kept(folder) => folder,
            Self::Passing(folder) => folder.path(),
        }
    }

    /// A database's file; none if it is to live in memory.
    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Kept(folder) => Some(folder.join(name)),
            Self::Passing(_) => None,
        }
    }
}
