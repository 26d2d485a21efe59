//! Sets how malloc takes memory from the system.
#![expect(unsafe_code, reason = "calls mallopt, which has no wrapper")]

use nix::libc;

/// Has all threads allocate from the heap of the first one. It is called before there are others.
///
/// glibc gives threads heaps of their own and makes those writable piece by piece, with a system
/// call for each page of a file that is written. The first heap grows by many pages at a time. Small
/// pieces that threads allocate often are in a cache of each thread anyway.
pub fn share_one() {
    // SAFETY: mallopt only reads its arguments, and takes the locks of malloc itself.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    if set == 0 {
        tracing::debug!("malloc keeps its own number of heaps");
    }
}
