//! `agentfs demo`: shows the main job in a directory of its own.
//!
//! [`Workspace`] makes that directory and removes it, [`Shell`] runs the commands that are shown, and
//! this module has the two transcripts: with mounts, and what works without them.

mod lines;
mod shell;
#[cfg(target_os = "linux")]
pub(crate) mod watcher;
mod workspace;

use clap::Args;

use self::shell::{Background, Shell};
use self::workspace::Workspace;
use crate::common::Common;
use crate::doctor;
use crate::output::Output;
use crate::output::failure::Failure;

/// Show in a few seconds what AgentFS does, with real commands in a temporary directory
///
/// Two agents change one small project at the same time, each in a branch of its own. A program that
/// knows nothing of AgentFS watches one of the branches and hears of a change that comes from outside.
/// At the end both branches are applied to the project.
///
/// Nothing else has to be installed, no setting is changed and no project of yours is touched. The
/// directory, its daemon and its mounts are gone when the demo ends, also after Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs demo
  agentfs doctor                          why a step is left out on this machine
  cargo run --release -p agentfs -- demo  the same from a clone, without installing")]
pub(crate) struct DemoArgs {}

/// What the watcher of the demo is called and how it is started.
#[derive(Clone, Copy, Debug)]
struct Watcher {
    command: &'static str,
    about: &'static str,
}

/// The stock program, if there is one.
const INOTIFYWAIT: Watcher = Watcher {
    command: "inotifywait -m -e create,modify --format '%e %f' .",
    about: "inotifywait, as it is installed here, watches there:",
};

/// What takes its place.
const OWN_WATCHER: Watcher = Watcher {
    command: "agentfs plain-watcher .",
    about: "inotifywait is not installed, so a small watcher of ours takes its place, which makes plain \
            inotify calls and knows nothing of AgentFS:",
};

/// What a watcher says when it hears everything from then on.
const IS_WATCHING: &str = "Watches established.";

pub(crate) fn run(
    common: &Common,
    DemoArgs {}: DemoArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    if common.json || common.socket.is_some() || common.project.is_some() {
        let text = "the demo is for people, and has a project and a daemon of its own: it takes \
                    neither --json nor --socket nor --project";
        return Err(Failure::Other(text.to_owned()));
    }
    // A signal that comes while the directory is made must not leave it behind.
    let signal = shell::signals()?;
    let workspace = Workspace::create()?;
    let mut shell = Shell::new(&workspace, output, signal);
    let shown = show(&mut shell, &workspace);
    drop(shell);
    let directory = workspace.directory().display().to_string();
    let removed = workspace.remove();
    let gone = format!("{directory} is removed, and its processes have ended");
    both(shown, removed, &gone)?;
    output.line(format_args!("\n{gone}."))?;
    output.line("The same in a project of yours: agentfs run -- COMMAND")
}

/// Returns why the demo failed, together with what became of its directory.
fn both(
    shown: Result<(), Failure>,
    removed: Result<(), Failure>,
    gone: &str,
) -> Result<(), Failure> {
    match (shown, removed) {
        (Ok(()), removed) => removed,
        (Err(Failure::Other(why)), Ok(())) => Err(Failure::Other(format!("{why} ({gone})"))),
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(left)) => Err(Failure::Other(format!("{failure} ({left})"))),
    }
}

fn show(shell: &mut Shell<'_>, workspace: &Workspace) -> Result<(), Failure> {
    shell.say("Two agents change one project at the same time, each in a branch of its own.")?;
    let directory = workspace.directory().display();
    shell.say(format_args!(
        "Each line after a $ is a real command. All happens in {directory}, which is removed afterwards."
    ))?;
    shell.step("A project of two files:")?;
    shell.run("grep . *")?;
    match shell.try_quietly("agentfs run --discard -- true")? {
        None => with_mounts(shell, workspace),
        Some(why) => {
            // `run` may have started a daemon before it found that nothing can be mounted.
            workspace.end_processes();
            explain(shell, &why)?;
            without_mounts(shell, workspace)
        }
    }
}

fn with_mounts(shell: &mut Shell<'_>, workspace: &Workspace) -> Result<(), Failure> {
    let watcher = if workspace.has_program("inotifywait") {
        INOTIFYWAIT
    } else {
        OWN_WATCHER
    };
    shell.step(format_args!(
        "The first agent works in the branch \"french\". {}",
        watcher.about
    ))?;
    let words = format!("agentfs run --branch french --keep -- {}", watcher.command);
    let mut watching = shell.start(&words)?;
    shell.wait_for(&mut watching, "", IS_WATCHING)?;

    shell.step(
        "A file comes into the branch from outside of its mount. The kernel announces no such change, \
         but this watcher hears it:",
    )?;
    shell.run("echo 'Add French.' | agentfs fs write /TODO --branch french")?;
    hear(shell, &mut watching, "MODIFY TODO")?;

    shell.step("The first agent changes a file in its branch:")?;
    shell.run("agentfs join french -- sh -c 'echo bonjour >> greetings.txt'")?;
    hear(shell, &mut watching, "MODIFY greetings.txt")?;

    shell.step("Meanwhile the second agent works at the same path in the branch \"docs\":")?;
    shell
        .run("agentfs run --branch docs --keep -- sh -c 'echo Now in two languages. >> README'")?;

    shell.step("The project itself has none of that yet:")?;
    shell.run("grep . *")?;

    shell.step("Ctrl-C ends the first agent's run, which shows what its branch changed:")?;
    shell.interrupt(watching)?;
    apply_both(shell)
}

/// Prints what the watcher hears, up to this.
fn hear(shell: &mut Shell<'_>, watching: &mut Background, event: &str) -> Result<(), Failure> {
    shell.wait_for(watching, "[the watcher] ", event)
}

/// Shows why nothing can be mounted, and what to do about it.
fn explain(shell: &mut Shell<'_>, why: &str) -> Result<(), Failure> {
    shell.step(format_args!(
        "No program can be started in a branch on this machine: {why}"
    ))?;
    for obstacle in doctor::obstacles_to_mounts() {
        shell.say(format_args!("   {obstacle}"))?;
    }
    shell.say(
        "   An unmodified watcher has nothing to watch here, then. The following steps work without mounts.",
    )
}

fn without_mounts(shell: &mut Shell<'_>, workspace: &Workspace) -> Result<(), Failure> {
    shell.step("A daemon serves branches of the project, and each agent gets one:")?;
    let ready = workspace.ready_socket()?;
    let _daemon = shell.start_daemon("agentfs daemon --lower .", &ready)?;
    shell.run("agentfs branch create french")?;
    shell.run("agentfs branch create docs")?;

    shell.step("A subscriber of AgentFS watches the first branch:")?;
    let mut watching = shell.start("agentfs watch / --branch french")?;
    shell.wait_for(&mut watching, "", "watching /")?;

    shell.step("Both agents work in their branches, through the daemon:")?;
    shell.run("echo 'Add French.' | agentfs fs write /TODO --branch french")?;
    hear(shell, &mut watching, "modified  /TODO")?;
    shell.run("echo bonjour | agentfs fs write --append /greetings.txt --branch french")?;
    hear(shell, &mut watching, "modified  /greetings.txt")?;
    shell.run("echo Now in two languages. | agentfs fs write --append /README --branch docs")?;

    shell.step("The project itself has none of that yet:")?;
    shell.run("grep . *")?;

    shell.step("Ctrl-C ends the subscriber. This is what each branch changed:")?;
    shell.interrupt(watching)?;
    shell.run("agentfs branch diff french")?;
    shell.run("agentfs branch diff docs")?;
    apply_both(shell)
}

fn apply_both(shell: &mut Shell<'_>) -> Result<(), Failure> {
    shell.step("Both branches are applied to the project:")?;
    shell.run("agentfs branch apply french")?;
    shell.run("agentfs branch apply docs")?;
    shell.run("grep . *")
}
