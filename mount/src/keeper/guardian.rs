//! A process that cuts a mount off when the one that serves it dies.
//!
//! The kernel does that when the last copy of the mount's `/dev/fuse` is closed. But a thread of the
//! server can be waiting inside the kernel for a lock that a request in flight holds, and that request
//! gets no answer any more. Then the connection stays open, and every program that waits for an answer
//! hangs. So the guardian aborts the connection, which wakes all of them with an error.
//!
//! The mount stays, and answers everything with `ENOTCONN`, until somebody takes it away: a program that
//! goes on writing must not write to the directory beneath.
//!
//! The guardian notices the death by the end of its input. The descriptors of a process with a thread
//! that is stuck in the kernel are not closed, so the guardian also gets a signal when the thread dies
//! that started it. That signal does nothing as long as the guardian is not ready for it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::location::Located;

/// Its output is the file that ends the connection, if that is allowed. A line of input means that the
/// mount is gone already, or left to another server.
const SCRIPT: &str = r#"
end() {
  echo 1
  exit 0
}
trap end URG TERM
trap '' INT HUP QUIT
read -r _ && exit 0
end
"#;

#[derive(Debug)]
pub(crate) struct Guardian {
    process: Child,
}

impl Guardian {
    /// Guards a mount until this is [dismissed](Self::dismiss), or the calling thread is gone.
    pub(crate) fn start(mount: &Located) -> io::Result<Self> {
        let shell = |command: &mut Command| {
            let connection = mount.connection.as_ref().map(File::try_clone).transpose()?;
            command
                .args(["-c", SCRIPT, "agentfs-guardian"])
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(connection.map_or_else(Stdio::null, Stdio::from))
                .stderr(Stdio::null())
                // What interrupts the server from a terminal is not for the guardian.
                .process_group(0);
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
