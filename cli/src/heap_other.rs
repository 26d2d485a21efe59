//! How the memory of branches is taken from the system, where that is not glibc's malloc.

/// Does nothing: only glibc gives threads heaps of their own that grow page by page.
pub fn share_one() {}
