//! Whether two files hold the same bytes.

use super::{File, PAGE, len_of};
use crate::model::errno::Result;

/// How many bytes are compared at a time.
const STEP: u64 = 1 << 16;

impl File {
    /// Returns whether the two certainly hold the same bytes. A lower file is not read for it.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        if self.size != other.size {
            return false;
        }
        match (&self.lower, &other.lower) {
            (Some(a), Some(b)) => return a.has_bytes_of(b),
            (None, None) => {}
            _ => return false,
        }
        let mut differing = self.pieces.differing(&other.pieces);
        differing.sort_by_key(|pages| pages.start);
        let mut done = 0;
        differing.into_iter().all(|pages| {
            let from = (pages.start * PAGE).max(done);
            let until = (pages.end * PAGE).min(self.size);
            done = done.max(until);
            self.same_bytes(other, from, until).unwrap_or(false)
        })
    }

    fn same_bytes(&self, other: &Self, from: u64, until: u64) -> Result<bool> {
        let lower = |_: &_, _, _: &mut [u8]| Ok(0);
        let step = len_of(STEP.min(until.saturating_sub(from)));
        let (mut a, mut b) = (vec![0; step], vec![0; step]);
        let mut at = from;
        while at < until {
            let len = len_of(STEP.min(until - at));
            self.read(at, &mut a[..len], &lower)?;
            other.read(at, &mut b[..len], &lower)?;
            if a[..len] != b[..len] {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }
}
