//! The difference of a branch, page by page.

use std::collections::VecDeque;

use agentfs_proto::message::{Diff, DiffEntry};
use agentfs_proto::ssz::Ssz as _;

use crate::base::refusal::Refusal;

/// Bytes of the entries on one page.
const PAGE_BYTES: usize = 40 * 1024;

/// The pages that a session has not asked for yet: of its last comparison.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    number: u64,
    rest: VecDeque<DiffEntry>,
}

impl Pages {
    /// The first page of a new comparison.
    pub(crate) fn begin(&mut self, entries: Vec<DiffEntry>) -> Diff {
        self.rest = entries.into();
        self.page()
    }

    /// The page of this number, which the page before it named.
    pub(crate) fn next(&mut self, number: u64) -> Result<Diff, Refusal> {
        if number != self.number || self.rest.is_empty() {
            let text = format!("there is no page {number}; ask for the difference again");
            return Err(Refusal::not_found(text));
        }
        Ok(self.page())
    }

    fn page(&mut self) -> Diff {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = self.rest.pop_front() {
            bytes += entry.ssz_len();
            entries.push(entry);
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        self.number += 1;
        let next = if self.rest.is_empty() { 0 } else { self.number };
        Diff { entries, next }
    }
}
