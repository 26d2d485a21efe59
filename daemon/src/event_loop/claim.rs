//! One daemon a project: a lock in the user's state directory, which outlives the runtime directory.
//! While a daemon cannot be reached, because its socket was removed, no second one takes its place
//! and leaves the first one's branches out of reach.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use agentfs_export::{Identity, state_directory};

/// How long a daemon may take to make its socket again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(20);

/// Held by the daemon of a project.
#[derive(Debug)]
pub(crate) struct Claim {
    file: File,
    path: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// It is ours.
    Ours(Claim),
    /// There is none: no state directory, or a daemon that can be reached at another socket.
    Free,
    /// The daemon that has it listens at the very socket that was asked for.
    Running,
    /// The daemon that has it cannot be reached.
    Unreachable {
        /// Its process.
        pid: u32,
        /// Where it listened.
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
            let mut options = File::options();
            options.read(true).write(true).create(true).mode(0o600);
            options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
            let mut file = options.open(&path)?;
            match file.try_lock() {
                // Its last holder removed it in between.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => {
                    let socket = std::path::absolute(socket)?;
                    file.set_len(0)?;
                    writeln!(file, "{}", std::process::id())?;
                    file.write_all(socket.as_os_str().as_bytes())?;
                    return Ok(Claimed::Ours(Self { file, path }));
                }
                Err(TryLockError::WouldBlock) => {
                    // It may be just writing.
                    let (pid, theirs) = holder(&mut file).unwrap_or_default();
                    if UnixStream::connect(&theirs).is_ok() {
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
                Err(TryLockError::Error(error)) => return Err(error),
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

fn holder(file: &mut File) -> Option<(u32, PathBuf)> {
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.read_to_end(&mut text).ok()?;
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
