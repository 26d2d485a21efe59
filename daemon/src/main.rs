//! The `agentfs` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    agentfs_daemon::cli::run()
}
