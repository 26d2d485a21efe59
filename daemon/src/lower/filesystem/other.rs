//! What kind of filesystem a directory is on: looked at on Linux only, where branches are mounted.

use std::path::Path;

use super::Filesystem;

/// Of the directory at a path.
pub(super) fn of(_: &Path) -> Filesystem {
    Filesystem {
        name: "not looked at",
        is_local: true,
    }
}
