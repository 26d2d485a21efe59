//! The options of every command.

use std::path::PathBuf;

use clap::Args;

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Common {
    /// Print JSON for programs, instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The control socket of the daemon; a daemon that this command starts listens there. Without it, the
    /// daemon of the project is looked for
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "project")]
    pub(crate) socket: Option<PathBuf>,
    /// Find the project from DIR upwards, instead of the current directory; `run` starts its command
    /// there
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
}
