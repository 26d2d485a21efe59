//! The operations. Each validates, then commits, then emits.

mod create;
mod link;
mod lookup;
pub(crate) mod lower_change;
mod nameless;
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

use crate::model::errno::{Errno, Result};

/// How often an operation by a path looks at the host before it fails because the host replaces
/// what it is about to use. A host that replaces as fast as it can meets every second look.
const LOOKS: u32 = 256;

/// Returns a path as bytes.
fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Carries out an operation by a path, again if the host replaced an object between the look at its
/// name and its use: the name has another object now, and that is the one to be used. An operation
/// that fails has changed nothing.
pub(crate) fn look_again<T>(mut operation: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..LOOKS {
        match operation() {
            Err(Errno::ESTALE) => {}
            result => return result,
        }
    }
    operation()
}
