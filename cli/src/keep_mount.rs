//! The process that keeps a mount while no daemon is there, for `agentfs daemon --keep-mounts`.

use std::ffi::OsString;

use clap::Args;

use crate::output::failure::Failure;
use crate::platform;

/// Keep a mount while no daemon is there (what `agentfs daemon --keep-mounts` starts)
#[derive(Debug, Args)]
#[command(after_help = "Example:
  agentfs keep-mount ~/.local/state/agentfs/projects/a/mounts/0-50.mount 120000 agentfs daemon")]
pub(crate) struct KeepMountArgs {
    /// The arguments of `agentfs_mount::keep`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Keeps the mount that comes over standard input.
pub(crate) fn run(args: KeepMountArgs) -> Result<(), Failure> {
    platform::name_process();
    agentfs_mount::keep(args.arguments.into_iter()).map_err(Failure::Input)
}
