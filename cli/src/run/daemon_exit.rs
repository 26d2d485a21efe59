//! Finds the work of a run whose daemon ended before the run.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agentfs_export::{Source, default_directories, name_prefix};

/// Returns the last export of a branch to a default directory that was made since this time.
pub(super) fn exported(project: &Path, branch: &str, since: SystemTime) -> Option<PathBuf> {
    let prefix = name_prefix(branch);
    let directories = default_directories(project)
        .into_iter()
        .map(|it| it.of_project(project));
    let entries = directories.flat_map(|it| fs::read_dir(it).into_iter().flatten().flatten());
    let named = entries.filter(|it| it.file_name().as_bytes().starts_with(prefix.as_bytes()));
    let found = named.filter_map(|entry| {
        let made = entry.metadata().ok()?.modified().ok()?;
        let path = entry.path();
        // The time of a file may be that of the last tick of the clock.
        let is_new = made + Duration::from_secs(1) >= since;
        let source = Source::open(&path).ok().filter(|_| is_new)?;
        let is_it = source.list.branch == branch && source.list.project.as_path() == project;
        is_it.then_some((made, path))
    });
    found.max_by_key(|(made, _)| *made).map(|(_, path)| path)
}
