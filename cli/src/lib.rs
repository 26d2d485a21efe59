//! **actor** -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! The `agentfs` program for users: its commands, and the preloaded library that it carries.
//!
//! Each command is the module of its name. `daemon` serves branches with `agentfs_daemon`; most others are
//! clients of the daemon that `project` finds for them.

mod apply;
mod branch;
mod common;
mod completions;
mod daemon;
mod demo;
mod doctor;
mod echo_mode;
mod environment;
mod exec;
mod fs;
#[cfg_attr(
    not(all(target_os = "linux", target_env = "gnu")),
    path = "heap_other.rs"
)]
pub mod heap;
#[cfg(target_os = "linux")]
mod join;
#[cfg(target_os = "linux")]
mod keep_mount;
mod list;
mod mount;
mod output;
#[cfg_attr(target_os = "linux", path = "platform/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "platform/other.rs")]
mod platform;
mod project;
#[cfg(target_os = "linux")]
mod run;
mod shim;
mod shutdown;
mod snapshot;
mod status;
mod store;
mod top;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::common::Common;
use self::output::Output;
use self::output::failure::Failure;
use self::platform::PlatformCommand;

/// Branches of a directory for programs that work side by side, with change notification.
///
/// One daemon holds the branches of one project. Every other command finds it as git finds a
/// repository: upwards from the current directory, or from the one that --project names. Inside of
/// `agentfs run`, $AGENTFS_SOCKET names the daemon of the run.
#[derive(Debug, Parser)]
#[command(name = "agentfs", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  agentfs demo                            see what it does, with real commands
  agentfs run -- npm run dev              work in a branch of the current directory
  agentfs daemon --lower ~/project        serve branches over a directory
  agentfs watch /src                      print changes as they happen
  echo hello | agentfs fs write /src/a    change something
  agentfs branch create attempt-1         start a branch
  agentfs mount attempt-1 work            let programs work in it
  agentfs branch diff attempt-1           see what it changed
  agentfs list                            see all projects with their branches
  agentfs doctor                          see what this machine allows";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Daemon(daemon::DaemonArgs),
    Watch(watch::WatchArgs),
    Fs(fs::FsArgs),
    Branch(branch::BranchArgs),
    Snapshot(snapshot::SnapshotArgs),
    Mount(mount::MountArgs),
    Umount(mount::UmountArgs),
    Exec(exec::ExecArgs),
    #[command(flatten)]
    Platform(PlatformCommand),
    Apply(apply::ApplyArgs),
    List(list::ListArgs),
    Status(status::StatusArgs),
    Store(store::StoreCommandArgs),
    Top(top::TopArgs),
    Shutdown(shutdown::ShutdownArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Man(completions::ManArgs),
}

/// Runs the command of this process's command line.
#[must_use]
pub fn run() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let mut output = Output::new(common.json);
    let result = match command {
        Command::Demo(args) => demo::run(&common, args, &mut output),
        Command::Daemon(args) => daemon::run(&common, args),
        Command::Watch(args) => watch::run(&common, args, &mut output),
        Command::Fs(args) => fs::run(&common, args, &mut output),
        Command::Branch(args) => branch::run(&common, args, &mut output),
        Command::Snapshot(args) => snapshot::run(&common, args, &mut output),
        Command::Mount(args) => mount::mount(&common, args, &mut output),
        Command::Umount(args) => mount::unmount(&common, args, &mut output),
        Command::Exec(args) => return exec::run(&common, args),
        Command::Platform(command) => match command.run(&common, &mut output) {
            Ok(status) => return status,
            Err(failure) => Err(failure),
        },
        Command::Apply(args) => apply::run(&args.into_project(&common), &mut output),
        Command::List(args) => list::run(&common, args, &mut output),
        Command::Status(args) => status::run(&common, args, &mut output),
        Command::Store(args) => store::run(&common, args, &mut output),
        Command::Top(args) => top::run(&common, args, &mut output),
        Command::Shutdown(args) => shutdown::run(&common, args, &mut output),
        Command::Doctor(args) => doctor::run(&common, args, &mut output),
        Command::Completions(args) => completions::completions(&args, &mut output),
        Command::Man(args) => completions::man(&args),
    };
    match result.and_then(|()| output.flush().map_err(Failure::Output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(common.json),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn every_command_has_examples_in_its_help() {
        let mut left = vec![Cli::command()];
        while let Some(command) = left.pop() {
            let name = command.get_name().to_owned();
            let examples = command.get_after_help().map(ToString::to_string);
            let is_shown = examples.is_some_and(|it| it.starts_with("Example"));
            assert!(is_shown, "{name} has no examples");
            left.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
