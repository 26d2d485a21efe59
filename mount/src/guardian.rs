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

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::location::{Located, Location};

/// Output: what ends the connection, if that is allowed. Arguments: the device of the mount as
/// mountinfo writes it, and the mount point, if it is in this namespace, as mountinfo writes it and
/// as it is. A line of input means that the mount is gone already. Of several mounts on that point
/// the last one listed lies on top, and is what unmounting takes away: only ours may be. It unmounts
/// at most once: what is there then is another one's.
const SCRIPT: &str = r#"
end() {
  echo 1
  top=
  while read -r _ _ device _ point _; do
    [ "$point" = "$2" ] && top=$device
  done </proc/self/mountinfo
  [ "$top" = "$1" ] && { umount -f -- "$3" || umount -l -- "$3" || fusermount3 -u -z -q -- "$3"; }
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
                command.arg(as_in_mountinfo(point)).arg(point);
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

/// As the kernel writes a path there (`fs/proc_namespace.c: show_mountinfo`).
fn as_in_mountinfo(path: &Path) -> OsString {
    let mut text = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' => text.extend_from_slice(b"\\040"),
            b'\t' => text.extend_from_slice(b"\\011"),
            b'\n' => text.extend_from_slice(b"\\012"),
            b'\\' => text.extend_from_slice(b"\\134"),
            other => text.push(*other),
        }
    }
    OsString::from_vec(text)
}
