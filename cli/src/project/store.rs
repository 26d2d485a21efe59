//! Where the store of a project is: the directory in which its branches outlive the daemon.

use std::fs::{self, DirBuilder};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use agentfs_core::{ConfigError, StoreError};
use agentfs_daemon::StartError;
use agentfs_export::command::quoted;
use agentfs_export::state_directory;
use clap::Args;
use rustix::fs::OFlags;

use crate::output::failure::Failure;
use crate::project::Identity;
use crate::project::size::limit;

/// The file in a store that names the daemon that has it, for people and for error texts.
const HOLDER: &str = "daemon";
/// The file that every store has (docs/store-format.md).
const STORE: &str = "store";
/// The file that names the project, for people.
const PROJECT: &str = "project";
/// Bytes of the longest text in such a file.
const MOST_TEXT: u64 = 1 << 16;
/// Bytes of the longest name of a project in the name of its store.
const NAME_MAX: usize = 64;

/// Where a daemon keeps its branches.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "keeping", multiple = false)]
pub(crate) struct StoreArgs {
    /// Keep the branches in this directory, instead of the project's own in
    /// $XDG_STATE_HOME/agentfs/projects (or ~/.local/state/agentfs/projects). They outlive the daemon:
    /// what a program has written is there again after a crash or SIGKILL, and after a power cut but for
    /// the last five seconds
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Keep the branches in memory. They end with the daemon, which first exports what they changed,
    /// unless it is killed
    #[arg(long)]
    pub(crate) in_memory: bool,
}

/// How much the store of the branches may take.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// Let the store take at most so much of its disk, as in 20G; `none` for as much as there is. It holds
    /// until another limit is set, also for later daemons. Writes beyond fail with ENOSPC, and deleting goes
    /// on to work
    #[arg(long, value_name = "SIZE", value_parser = limit, conflicts_with = "in_memory")]
    pub(crate) max_store: Option<u64>,
}

impl StoreArgs {
    /// Returns the directory of the store for a daemon over `lower`, which is created; `None` for a
    /// daemon that keeps its branches in memory.
    pub(crate) fn prepare(&self, lower: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
        if self.in_memory {
            return Ok(None);
        }
        let Some(named) = &self.store else {
            let Some(lower) = lower else {
                return Ok(None);
            };
            let resolved = fs::canonicalize(lower);
            let resolved = resolved.map_err(|error| Failure::directory(lower, &error))?;
            let store = default_for(&resolved)?;
            make_private(&store, &resolved)?;
            return Ok(Some(store));
        };
        let store = std::path::absolute(named).unwrap_or_else(|_| named.clone());
        make_private(&store, lower.unwrap_or(Path::new("")))?;
        Ok(Some(store))
    }
}

/// Returns the directory of the store of a project, whose path is resolved. It is another one for another
/// directory at the same path, and the same one for a directory that was moved and kept its name.
pub(crate) fn default_for(project: &Path) -> Result<PathBuf, Failure> {
    let failed = |error| Failure::directory(project, &error);
    let Identity { device, inode } = Identity::of(project).map_err(failed)?;
    let Some(projects) = projects() else {
        return Err(Failure::Other(format!(
            "neither XDG_STATE_HOME nor HOME names a directory for the store; {WAYS_OUT}"
        )));
    };
    let name = project.file_name().unwrap_or("root".as_ref());
    let name = name.to_string_lossy();
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
    let plain = |it: char| if is_plain(it) { it } else { '_' };
    let name: String = name.chars().map(plain).take(NAME_MAX).collect();
    let born = birth(project);
    let id = format!("{name}-{device:x}-{inode:x}-{born:x}");
    Ok(projects.join(id))
}

/// What to do where the store cannot be.
const WAYS_OUT: &str = "keep the branches in another directory with --store DIR, or in memory with \
                        --in-memory";

/// Returns when a directory was created, in nanoseconds; 0 if that is not known. A filesystem may give
/// the inode number of a deleted directory to a new one. Overlay filesystems report another time after
/// the first change of a directory.
fn birth(directory: &Path) -> u128 {
    let is_stable = !crate::platform::is_overlay(directory);
    let created = fs::metadata(directory).and_then(|it| it.created());
    let since = created
        .ok()
        .and_then(|it| it.duration_since(UNIX_EPOCH).ok());
    since.filter(|_| is_stable).map_or(0, |it| it.as_nanos())
}

/// Returns the store of a project in which a daemon has been before.
pub(crate) fn kept_for(project: &Path) -> Option<PathBuf> {
    let store = default_for(project).ok()?;
    store.join(STORE).is_file().then_some(store)
}

/// Creates the directory of a store for this user alone, or checks that nobody else can write to it.
fn make_private(store: &Path, project: &Path) -> Result<(), Failure> {
    if !project.as_os_str().is_empty() && store.starts_with(project) {
        return Err(Failure::Other(format!(
            "the store {} would lie in the project {} itself; {WAYS_OUT}",
            store.display(),
            project.display()
        )));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(store);
    made.map_err(|error| unusable(store, &error))?;
    let parent = store.parent().unwrap_or(Path::new("/"));
    for directory in [parent, store] {
        let found = fs::metadata(directory).map_err(|error| unusable(store, &error))?;
        let uid = rustix::process::geteuid().as_raw();
        let shown = directory.display();
        let is_parent_of_root = directory == parent && found.uid() == 0;
        if found.uid() != uid && !is_parent_of_root {
            let owner = found.uid();
            return Err(Failure::Other(format!(
                "{shown} belongs to user {owner}, who could change what the branches hold; {WAYS_OUT}"
            )));
        }
        let is_sticky = directory == parent && found.mode() & 0o1000 != 0;
        if found.mode() & 0o022 != 0 && !is_sticky {
            let mode = found.mode() & 0o777;
            return Err(Failure::Other(format!(
                "other users may write to {shown} (mode {mode:03o}), and so change what the branches hold; \
                 run: chmod go-w {}; or {WAYS_OUT}",
                quoted(directory.as_os_str())
            )));
        }
    }
    Ok(())
}

fn unusable(store: &Path, error: &io::Error) -> Failure {
    Failure::Other(format!(
        "the store {} cannot be made: {error}; {WAYS_OUT}",
        store.display()
    ))
}

/// Returns the failure of a daemon with this store that did not start.
pub(crate) fn not_opened(store: &Path, error: StartError) -> Failure {
    let StartError::Filesystem(ConfigError::Store(why)) = &error else {
        return Failure::Start(error);
    };
    match holder(store) {
        Some((pid, socket)) if matches!(why, StoreError::InUse(_)) => Failure::Other(format!(
            "the store {} is in use by the daemon of process {pid}; use that one: agentfs --socket {} \
             status; or end it: agentfs --socket {} shutdown; or {WAYS_OUT}",
            store.display(),
            quoted(socket.as_os_str()),
            quoted(socket.as_os_str())
        )),
        _ => Failure::Other(format!("{error}; {WAYS_OUT}")),
    }
}

/// Reads a short text of a store that may be anybody's: a FIFO or a device there keeps nobody waiting.
fn read_small(path: &Path) -> io::Result<String> {
    let mut options = fs::File::options();
    options.read(true);
    options.custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed());
    let mut text = String::new();
    let file = options.open(path)?;
    file.take(MOST_TEXT).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the process and the socket of the daemon that has, or last had, a store.
pub(crate) fn holder(store: &Path) -> Option<(u32, PathBuf)> {
    let text = read_small(&store.join(HOLDER)).ok()?;
    let (pid, socket) = text.trim_end_matches('\n').split_once('\n')?;
    Some((pid.parse().ok()?, socket.into()))
}

/// Returns the directory below the branches of a store, if it is known and still there.
pub(crate) fn project_of(store: &Path) -> Option<PathBuf> {
    let project = PathBuf::from(project_name(store)?);
    project.is_dir().then_some(project)
}

/// Returns the path that the directory below the branches of a store had, if it is known.
pub(crate) fn project_name(store: &Path) -> Option<String> {
    let text = read_small(&store.join(PROJECT)).ok()?;
    let name = text.trim_end_matches('\n');
    (!name.is_empty()).then(|| name.to_owned())
}

/// Returns the stores of all projects of this user that lie in their usual place.
pub(crate) fn all_kept() -> Vec<PathBuf> {
    let Some(projects) = projects() else {
        return Vec::new();
    };
    let entries = fs::read_dir(projects).into_iter().flatten().flatten();
    let stores = entries.map(|it| it.path());
    stores.filter(|it| it.join(STORE).is_file()).collect()
}

/// Returns the directory in which the stores of projects lie.
fn projects() -> Option<PathBuf> {
    Some(state_directory()?.join("agentfs/projects"))
}

/// Returns what the files of a store take on their disk, which is less than their lengths where they
/// have holes.
pub(crate) fn size_of(store: &Path) -> u64 {
    let entries = fs::read_dir(store).into_iter().flatten().flatten();
    let blocks = entries.filter_map(|it| it.metadata().ok());
    blocks.map(|it| it.blocks() * 512).sum()
}

/// Writes into a store which daemon has it, and of which project it is.
pub(crate) fn sign(store: &Path, socket: &Path, lower: Option<&Path>) {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let holder = format!("{}\n{}\n", std::process::id(), socket.display());
    let project = lower.map(|it| fs::canonicalize(it).unwrap_or_else(|_| it.to_owned()));
    let project = project.map_or_else(String::new, |it| format!("{}\n", it.display()));
    for (name, text) in [(HOLDER, holder), (PROJECT, project)] {
        if let Err(error) = write_whole(store, name, &text) {
            // Only error texts are poorer without it.
            tracing::debug!(%error, name, "the store is not signed");
        }
    }
}

/// Writes a file that is there as a whole or not at all.
fn write_whole(store: &Path, name: &str, text: &str) -> io::Result<()> {
    let new = store.join(format!("{name}.new"));
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&new)?.write_all(text.as_bytes())?;
    fs::rename(new, store.join(name))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use agentfs_core::{ConfigError, Errno, StoreError};
    use agentfs_daemon::StartError;

    use super::{HOLDER, PROJECT, holder, make_private, not_opened, project_of, sign};

    #[test]
    fn a_store_that_others_may_write_to_is_refused_with_the_way_out() {
        let around = tempfile::tempdir().expect("a directory");
        let store = around.path().join("projects/a");
        make_private(&store, Path::new("")).expect("a new store");
        let mode = fs::metadata(&store).expect("a look").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        for open in [store.clone(), around.path().join("projects")] {
            fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("a mode");
            let refused = make_private(&store, Path::new("")).expect_err("it is open to others");
            let said = refused.to_string();
            let way_out = format!("chmod go-w {}", open.display());
            assert!(
                said.contains(&way_out) && said.contains("--in-memory"),
                "{said}"
            );
            fs::set_permissions(&open, Permissions::from_mode(0o700)).expect("a mode");
        }
        let inside = make_private(&store, around.path()).expect_err("it is in the project");
        assert!(inside.to_string().contains("--in-memory"), "{inside}");
    }

    #[test]
    fn a_fifo_in_a_store_keeps_nobody_waiting() {
        let store = tempfile::tempdir().expect("a directory");
        for name in [HOLDER, PROJECT] {
            let made = std::process::Command::new("mkfifo")
                .arg(store.path().join(name))
                .status();
            assert!(made.expect("mkfifo").success());
        }
        assert_eq!(holder(store.path()), None);
        assert_eq!(project_of(store.path()), None);
    }

    #[test]
    fn a_store_in_use_is_refused_by_the_name_of_its_daemon() {
        let store = tempfile::tempdir().expect("a directory");
        sign(store.path(), Path::new("/run/a.sock"), None);
        let (pid, at) = (std::process::id(), store.path().to_owned());
        let failed = |why| StartError::Filesystem(ConfigError::Store(why));
        assert_eq!(holder(store.path()), Some((pid, "/run/a.sock".into())));
        let said = not_opened(store.path(), failed(StoreError::InUse(at.clone()))).to_string();
        let names = said.contains(&format!("process {pid}")) && said.contains("/run/a.sock");
        assert!(names && said.contains("--in-memory"), "{said}");
        let full = not_opened(
            store.path(),
            failed(StoreError::Disk {
                path: at,
                errno: Errno::ENOSPC,
            }),
        )
        .to_string();
        assert!(full.contains("--in-memory"), "{full}");
    }
}
