//! The kqueue side of a library that has none: on Linux it is a feature, `kqueue-on-linux`, for tests.

use std::os::fd::RawFd;

/// Does nothing: no descriptor here is a kqueue.
pub(crate) fn closing(_fd: RawFd) {}

/// Does nothing: no descriptor here is a kqueue.
pub(crate) fn duplicated(_from: RawFd, _to: RawFd) {}

/// Does nothing: the shim has no descriptor in a kqueue.
pub(crate) fn vacate(_fd: RawFd) {}

/// Does nothing: there is no state.
pub(crate) fn in_forked_child() {}
