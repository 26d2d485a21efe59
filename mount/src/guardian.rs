//! A process that takes a mount away when the one that serves it dies.
//!
//! The kernel does not: a FUSE mount without server stays, and answers `ENOTCONN`. Worse, a thread
//! of the server can be waiting inside the kernel for a lock that a request in flight holds, which
//! nobody will answer any more; the connection then stays open, and whoever waits for it hangs. So
//! the guardian first aborts the connection, which wakes all of them with an error, and then
//! detaches the mount.
//!
//! It notices the death by the end of its input, and, since the descriptors of a process with a
//! thread stuck in the kernel are not closed, by the death of the thread that started it. The signal
//! for that is one that does nothing as long as the guardian is not ready for it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::location::{Located, Location};

/// Output: what ends the connection, if that is allowed. Arguments: the device of the mount as
/// mountinfo writes it, and the mount point if it is in this namespace. A line of input means that
/// the mount is gone already. It unmounts at most once: what is there then is another one's.
const SCRIPT: &str = r#"
end() {
  echo 1
  while read -r _ _ device _; do
    [ "$device" = "$1" ] && [ "$2" ] || continue
    umount -f -- "$2" || umount -l -- "$2" || fusermount3 -u -z -q -- "$2"
    exit 0
  done </proc/self/mountinfo
  exit 0
}
trap 'end "$1" "$2"' URG TERM
trap '' INT HUP QUIT
read -r _ && exit 0
end "$1" "$2"
"#;

#[derive(Debug)]
pub(crate) struct Guardian {
    process: Child,
}

impl Guardian {
    /// Guards a mount until this is [dismissed](Self::dismiss), or the calling thread is gone.
    pub(crate) fn start(mount: &Located) -> io::Result<Self> {
        let (major, minor) = (
            rustix::fs::major(mount.device),
            rustix::fs::minor(mount.device),
        );
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
            if let Location::Here(point) = &mount.location {
                command.arg(point);
            }
            command.spawn()
        };
        let process = shell(Command::new("setpriv").args(["--pdeathsig", "URG", "sh"]))
            .or_else(|_| shell(&mut Command::new("sh")))?;
        Ok(Self { process })
    }

    /// The mount is gone; there is nothing to guard.
    pub(crate) fn dismiss(mut self) {
        let told = match self.process.stdin.take() {
            Some(mut input) => input.write_all(b"gone\n"),
            None => Ok(()),
        };
        if let Err(error) = told.and_then(|()| self.process.wait().map(|_| ())) {
            tracing::debug!(%error, "the guardian of a mount was gone before it");
        }
    }
}
