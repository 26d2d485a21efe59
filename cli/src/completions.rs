//! `agentfs completions` and `agentfs man`: completions and manual pages for a package, generated from the
//! description of the command line.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::Cli;
use crate::output::Output;
use crate::output::failure::Failure;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs completions bash > ~/.local/share/bash-completion/completions/agentfs
  agentfs completions fish > ~/.config/fish/completions/agentfs.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write manual pages
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  agentfs man ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The directory for the pages, one for each command
    directory: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs, output: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "agentfs", &mut script);
    output.raw(&script)
}

pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    // `agentfs help run` shows the same as `agentfs run --help`.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    std::fs::create_dir_all(&args.directory)
        .and_then(|()| write(command, &args.directory))
        .map_err(|error| Failure::Other(format!("{}: {error}", args.directory.display())))
}

fn write(command: clap::Command, directory: &Path) -> io::Result<()> {
    let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
    for below in shown {
        write(below.clone(), directory)?;
    }
    let man = Man::new(command);
    let mut page = Vec::new();
    man.render(&mut page)?;
    // The text after the options is examples in all commands, and has that heading already.
    let page = String::from_utf8_lossy(&page)
        .replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n")
        .replace(".SH EXTRA\nExample:\n", ".SH EXAMPLES\n");
    std::fs::write(directory.join(man.get_filename()), page)
}
