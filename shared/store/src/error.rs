//! What can go wrong with the store.

use std::{error::Error, fmt};

use crate::table::{Key, Kind, TableError};

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database did not do as asked.
    #[error("database request failed")]
    Table(#[from] TableError),
    /// Others changed the same items again and again.
    #[error("gave up after {attempts} attempts, each overtaken by another writer")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
    /// A stored item cannot be understood.
    #[error("item {} / {} is unreadable: {problem}", .key.pk, .key.sk)]
    Unreadable {
        /// Which item.
        key: Key,
        /// What is wrong with it.
        problem: String,
    },
    /// More events than one transaction can mark announce one kiosk.
    #[error("kiosk {0} is announced by too many events")]
    KioskCrowded(usher_domain::KioskKey),
}

impl StoreError {
    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        match self {
            StoreError::Table(error) => error.kind(),
            StoreError::Contended { .. } => Kind::Conflict,
            StoreError::Unreadable { .. } | StoreError::KioskCrowded(_) => Kind::Bug,
        }
    }
}

/// Shows an error with everything that caused it: a log's line has one field for it.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut causes = std::iter::successors(self.0.source(), |cause| (*cause).source());
        causes.try_for_each(|cause| write!(f, ": {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the roof fell")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_shown_with_its_causes() {
        let error = Outer(std::io::Error::other("a beam broke"));
        assert_eq!(Chain(&error).to_string(), "the roof fell: a beam broke");
    }
}
