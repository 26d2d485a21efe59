//! What the host changed while no daemon was there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_core::beneath;
use agentfs_core::{FsCore, LowerChange, is_temporary};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Result;

const LISTING: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Emits that each file was written which the host has changed since this moment. Returns whether all
/// names are as they were: nobody knows which names a directory had that was changed.
///
/// No program can set the time of the last change (`ctime`), so what has an older one was not changed.
///
/// # Errors
///
/// Those of opening the directory; nothing is known then.
pub(crate) fn emit_written(core: &FsCore, root: &Path, since: SystemTime) -> Result<bool> {
    let root = rustix::fs::open(root, LISTING, Mode::empty())?;
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
    let mut has_names = changed_at(&rustix::fs::fstat(&root)?) < since;
    let mut dirs = vec![PathBuf::new()];
    while let Some(path) = dirs.pop() {
        // What cannot be read now, the daemon before could not read either, or it is gone, which the
        // directory above shows.
        let Ok(dir) = beneath::open(&root, path.as_os_str().as_bytes(), LISTING) else {
            continue;
        };
        for entry in Dir::read_from(&dir)? {
            let name = entry?.file_name().to_owned();
            let name = OsStr::from_bytes(name.to_bytes());
            if name == "." || name == ".." || is_temporary(name.as_bytes()) {
                continue;
            }
            let Ok(found) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                has_names = false;
                continue;
            };
            let path = path.join(name);
            let is_new = changed_at(&found) >= since;
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                has_names &= !is_new;
                dirs.push(path);
            } else if is_new {
                core.lower_changed(&LowerChange::Written(path));
            }
        }
    }
    Ok(has_names)
}

fn changed_at(stat: &Stat) -> i128 {
    i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec)
}
