//! What `linux.rs` has, for other systems.

use super::{Finding, State};

/// The device by which a filesystem is mounted.
pub(super) const FUSE_DEVICE: &str = if cfg!(target_vendor = "apple") {
    "/dev/macfuse0"
} else {
    "/dev/fuse"
};

/// Returns nothing: the other checks are of Linux.
pub(super) fn all() -> Vec<Finding> {
    Vec::new()
}

/// Reports that only Linux has mount namespaces.
pub(super) fn user_namespaces() -> Finding {
    Finding::with(
        "private mounts (user namespaces)",
        State::Missing,
        "not on this system",
        "a branch is mounted for all",
    )
}
