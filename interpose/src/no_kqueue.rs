//! The kqueue side of a library that has none: on Linux it is a feature, `kqueue-on-linux`, for tests.

use std::os::fd::RawFd;

/// No descriptor here is a kqueue.
pub(crate) fn closing(_fd: RawFd) {}

/// No descriptor here is a kqueue.
pub(crate) fn duplicated(_from: RawFd, _to: RawFd) {}

/// No descriptor of ours hangs in a kqueue.
pub(crate) fn vacate(_fd: RawFd) {}

/// There is no state.
pub(crate) fn in_forked_child() {}
