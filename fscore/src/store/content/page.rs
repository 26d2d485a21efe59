//! Pages: the pieces in which the content of a file is kept.

use std::ops::Range;
use std::sync::Arc;

/// Bytes in a page: as many as in the kernel's, so that sparse files count and seek as on tmpfs.
pub(crate) const PAGE: u64 = 4096;
pub(super) const PAGE_LEN: usize = 4096;
/// Units of 512 bytes in a page.
pub(super) const PAGE_BLOCKS: u64 = PAGE / 512;

/// The page's first bytes; the rest of it is zero.
pub(super) type Page = Arc<Vec<u8>>;

/// Returns whether two pages are equal when both are filled up with zeros.
pub(super) fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let both = a.len().min(b.len());
    let rest = a[both..].iter().chain(&b[both..]);
    a[..both] == b[..both] && rest.copied().all(|byte| byte == 0)
}

/// Returns the page numbers that `[start, end)` touches.
pub(super) fn pages_of(start: u64, end: u64) -> Range<u64> {
    start / PAGE..end.div_ceil(PAGE)
}

/// Converts a length that is at most one page.
#[expect(
    clippy::cast_possible_truncation,
    reason = "at most PAGE, or the length of a buffer"
)]
pub(super) fn small(length: u64) -> usize {
    length as usize
}

/// Puts `part` into a page's bytes, growing them to at most a page.
pub(super) fn overwrite(bytes: &mut Vec<u8>, from: usize, part: &[u8]) {
    let end = from + part.len();
    if end > bytes.capacity() {
        let capacity = end.next_power_of_two().min(PAGE_LEN);
        bytes.reserve_exact(capacity - bytes.len());
    }
    if from == bytes.len() {
        bytes.extend_from_slice(part);
        return;
    }
    if end > bytes.len() {
        bytes.resize(end, 0);
    }
    bytes[from..end].copy_from_slice(part);
}
