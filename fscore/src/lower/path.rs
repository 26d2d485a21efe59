//! Paths of the host, relative to the root and without leading slash, and the error of one that leads
//! nowhere any more.

use std::sync::Arc;

use crate::model::errno::Errno;

/// Splits a path into the directory and the last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Returns the path of a name in a directory.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Arc<[u8]> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path.into()
}

/// Returns the error for an object of the host that has vanished or was replaced.
pub(super) fn vanished(errno: rustix::io::Errno) -> Errno {
    match Errno::from(errno) {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Errno::ESTALE,
        other => other,
    }
}
