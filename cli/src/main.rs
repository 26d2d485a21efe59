//! The `agentfs` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    agentfs_cli::run()
}
