//! The node's paging: which ids a page may hold, and what the answer says about the next one.

use usher_xmtp::proto::mls_api::{PagingInfo, SortDirection};

/// No page is longer.
pub(super) const MAX_PAGE: u32 = 100;

/// One page asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) ascending: bool,
    pub(super) limit: u32,
    /// 0: from the start (or, descending, from the end).
    cursor: i64,
}

impl Page {
    /// Descending unless ascending is asked for. A limit of 0 or above 100 means 100.
    pub(super) fn newest_first(info: Option<&PagingInfo>) -> Self {
        let info = info.copied().unwrap_or_default();
        let ascending = info.direction == SortDirection::Ascending as i32;
        let limit = if (1..=MAX_PAGE).contains(&info.limit) { info.limit } else { MAX_PAGE };
        // The node reads the cursor as a signed number and takes only positive ones for a cursor.
        Self { ascending, limit, cursor: i64::try_from(info.id_cursor).unwrap_or(0) }
    }

    /// Ascending, with the same limits.
    pub(super) fn oldest_first(info: Option<&PagingInfo>) -> Self {
        Self { ascending: true, ..Self::newest_first(info) }
    }

    /// The longest page after `cursor`, oldest first.
    pub(super) fn after(cursor: u64) -> Self {
        Self::oldest_first(Some(&PagingInfo { id_cursor: cursor, ..PagingInfo::default() }))
    }

    /// The ids a row may have, both ends included. `horizon` is the highest id that is visible.
    pub(super) fn bounds(&self, horizon: i64) -> (i64, i64) {
        match (self.ascending, self.cursor) {
            (true, cursor) => (cursor.saturating_add(1), horizon),
            (false, 0) => (0, horizon),
            (false, cursor) => (0, horizon.min(cursor - 1)),
        }
    }

    /// The answer's paging info. Only a full page names a cursor.
    pub(super) fn info(&self, ids: impl ExactSizeIterator<Item = u64>) -> PagingInfo {
        let direction = if self.ascending { SortDirection::Ascending } else { SortDirection::Descending };
        let full = ids.len() >= self.limit as usize;
        let id_cursor = if full { ids.last().unwrap_or(0) } else { 0 };
        PagingInfo { direction: direction.into(), limit: self.limit, id_cursor }
    }
}
