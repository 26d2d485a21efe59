//! A process that takes a mount away when the one that serves it dies.
//!
//! The kernel does not do that: a FUSE mount without a server stays, and answers `ENOTCONN`. Worse, a
//! thread of the server can be waiting inside the kernel for a lock that a request in flight holds, and
//! that request gets no answer any more. Then the connection stays open, and every program that waits
//! for an answer hangs. So the guardian first aborts the connection, which wakes all of them with an
//! error, and then detaches the mount.
//!
//! The guardian notices the death by the end of its input. The descriptors of a process with a thread
//! that is stuck in the kernel are not closed, so the guardian also gets a signal when the thread dies
//! that started it. That signal does nothing as long as the guardian is not ready for it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::location::{Located, Location};

/// Its output is the file that ends the connection, if that is allowed. Its arguments are the device of
/// the mount as mountinfo writes it, and the name of the mount point in the working directory, if it is
/// in this namespace. A line of input means that the mount is gone already. Of several mounts on that
/// point the last one listed lies on top, and an unmount takes that one away: so it must be ours. The
/// script unmounts at most once, because what is there afterwards belongs to another program. The working
/// directory is held from the beginning, so a rename of a directory above it leads to no other mount.
const SCRIPT: &str = r#"
end() {
  echo 1
  where= top=
  while read -r _ _ device _ point _; do
    [ "$device" = "$1" ] && where=$point
  done </proc/self/mountinfo
  while read -r _ _ device _ point _; do
    [ "$point" = "$where" ] && top=$device
  done </proc/self/mountinfo
  [ "$2" ] && [ "$top" = "$1" ] &&
    { umount -f -- "$2" || umount -l -- "$2" || fusermount3 -u -z -q -- "$2"; }
  exit 0
}
trap 'end "$@"' URG TERM
trap '' INT HUP QUIT
read -r _ && exit 0
end "$@"
"#;

#[derive(Debug)]
pub(crate) struct Guardian {
    process: Child,
}

impl Guardian {
    /// Guards a mount until this is [dismissed](Self::dismiss), or the calling thread is gone.
    pub(crate) fn start(mount: &Located) -> io::Result<Self> {
        let device = mount.location.device();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let device = format!("{major}:{minor}");
        let shell = |command: &mut Command| {
            let connection = mount.connection.as_ref().map(File::try_clone).transpose()?;
            command
                .args(["-c", SCRIPT, "agentfs-guardian", &device])
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(connection.map_or_else(Stdio::null, Stdio::from))
                .stderr(Stdio::null())
                // What interrupts the server from a terminal is not for the guardian.
                .process_group(0);
            if let Location::OwnNamespace(point, ..) = &mount.location
                && let (Some(above), Some(name)) = (point.parent(), point.file_name())
            {
                command.arg(Path::new(".").join(name)).current_dir(above);
            }
            command.spawn()
        };
        let process = shell(Command::new("setpriv").args(["--pdeathsig", "URG", "sh"]))
            .or_else(|_| shell(&mut Command::new("sh")))?;
        Ok(Self { process })
    }

    /// Ends the guardian, because the mount is gone.
    pub(crate) fn dismiss(mut self) {
        let written = match self.process.stdin.take() {
            Some(mut input) => input.write_all(b"gone\n"),
            None => Ok(()),
        };
        if let Err(error) = written.and_then(|()| self.process.wait().map(|_| ())) {
            tracing::debug!(%error, "the guardian of a mount was gone before it");
        }
    }
}
