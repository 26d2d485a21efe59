//! The operations. Each validates, then commits, then emits.

mod create;
mod link;
mod lookup;
pub(crate) mod lower_change;
mod open;
pub(crate) mod perm;
mod range;
pub(crate) mod readdir;
mod rename;
mod setattr;
pub(crate) mod show;
mod unlink;
pub(crate) mod walk;
mod write;
mod xattr;

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Returns a path as bytes.
fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
