//! Starting the programs that are measured.

use std::path::Path;

use crate::Failure;
use crate::child::{Process, this_program};

/// Starts a program that does what `words` say, with a library preloaded and with a daemon to talk
/// to, or without.
pub(super) fn start(
    library: Option<&Path>,
    socket: Option<&Path>,
    words: &[&str],
) -> Result<Process, Failure> {
    let mut command = this_program()?;
    command.arg("hook-program").args(words);
    if let Some(library) = library {
        command.env("LD_PRELOAD", library);
    }
    if let Some(socket) = socket {
        command
            .env("AGENTFS_SOCKET", socket)
            .env("AGENTFS_ANY_FILESYSTEM", "1");
    }
    Process::start(command)
}
