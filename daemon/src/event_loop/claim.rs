//! The claim on a project: a lock in the user's state directory, which outlives the runtime
//! directory, so that each project has one daemon. While a daemon cannot be reached, because its
//! socket was removed, no second one takes its place and leaves the first one's branches out of
//! reach.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentfs_export::{Identity, state_directory};

use crate::event_loop::listener::is_served;

/// How long a daemon may take to make its socket again.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// The lock, which the daemon of a project holds.
#[derive(Debug)]
pub(crate) struct Claim {
    file: File,
    path: PathBuf,
}

/// The outcome of a claim.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// The project is ours.
    Ours(Claim),
    /// There is nothing to claim: no state directory, or a daemon that can be reached at another
    /// socket.
    Free,
    /// The daemon of the project listens at the very socket that was asked for.
    Running,
    /// The daemon of the project cannot be reached.
    Unreachable {
        /// The process of that daemon.
        pid: u32,
        /// Where that daemon listened.
        socket: PathBuf,
    },
}

impl Claim {
    /// Claims a project for a daemon that is going to listen at `socket`.
    pub(crate) fn take(project: Identity, socket: &Path) -> io::Result<Claimed> {
        let Some(state) = state_directory() else {
            return Ok(Claimed::Free);
        };
        Self::take_in(&state.join("agentfs/daemons"), project, socket)
    }

    fn take_in(directory: &Path, project: Identity, socket: &Path) -> io::Result<Claimed> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(format!("{:x}-{:x}.lock", project.dev, project.ino));
        let until = Instant::now() + PATIENCE;
        loop {
            match agentfs_core::lock_file(&path)? {
                Some(mut file) => {
                    let socket = std::path::absolute(socket)?;
                    file.set_len(0)?;
                    writeln!(file, "{}", std::process::id())?;
                    file.write_all(socket.as_os_str().as_bytes())?;
                    return Ok(Claimed::Ours(Self { file, path }));
                }
                None => {
                    // The holder may be just writing.
                    let (pid, theirs) = holder(&path).unwrap_or_default();
                    if is_served(&theirs) {
                        let is_same = std::path::absolute(socket)? == theirs;
                        let running = if is_same {
                            Claimed::Running
                        } else {
                            Claimed::Free
                        };
                        return Ok(running);
                    }
                    if Instant::now() >= until {
                        let socket = theirs;
                        return Ok(Claimed::Unreachable { pid, socket });
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "the claim on the project stays behind, unlocked");
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let ours = file.metadata().map(|it| (it.dev(), it.ino()));
    let found = path.symlink_metadata().map(|it| (it.dev(), it.ino()));
    matches!((ours, found), (Ok(ours), Ok(found)) if ours == found)
}

fn holder(path: &Path) -> Option<(u32, PathBuf)> {
    let text = std::fs::read(path).ok()?;
    let at = text.iter().position(|byte| *byte == b'\n')?;
    let pid = std::str::from_utf8(text.get(..at)?).ok()?.parse().ok()?;
    let socket = std::ffi::OsStr::from_bytes(text.get(at + 1..)?);
    (!socket.is_empty()).then(|| (pid, socket.into()))
}

#[cfg(test)]
mod tests {
    use super::{Claim, Claimed, Identity};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_project_is_claimed_once_unless_its_daemon_can_be_reached_elsewhere() {
        let around = tempfile::tempdir().expect("a directory");
        let (one, other) = (around.path().join("one"), around.path().join("other"));
        let project = Identity { dev: 1, ino: 2 };
        let take = |socket| Claim::take_in(around.path(), project, socket).expect("an answer");
        let first = take(&one);
        assert!(matches!(first, Claimed::Ours(_)), "{first:?}");
        let unreachable = take(&other);
        let pid = std::process::id();
        let is_first = |it: &Claimed| matches!(it, Claimed::Unreachable { pid: its, socket } if *its == pid && *socket == one);
        assert!(is_first(&unreachable), "{unreachable:?}");
        let listener = UnixListener::bind(&one).expect("a socket");
        assert!(matches!(take(&one), Claimed::Running));
        assert!(matches!(take(&other), Claimed::Free));
        drop((first, listener));
        assert!(matches!(take(&other), Claimed::Ours(_)));
    }
}
