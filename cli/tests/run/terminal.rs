//! Checks a run on a terminal.

use std::sync::mpsc::channel;

use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::project::Project;
use agentfs_testkit::child::PATIENCE;
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;

/// Starts `agentfs run` of a script on a terminal.
fn run(project: &Project, options: &str, script: &str) -> Program {
    project.write("script", script);
    project.on_terminal(&format!("run {options} -- sh ./script"))
}

#[test]
fn the_terminal_is_the_commands() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let script = "test -t 0 && test -t 1 && test -t 2 && stty rows 12 columns 34 && stty size; \
                  ps -o tpgid=,pgid= -p $$ | { read -r here own; test $here = $own; } && echo first; \
                  read -r word; echo \"read $word\"; exit 3";
    let mut terminal = run(&project, "--discard", script);
    terminal.expect("12 34");
    terminal.expect("first");
    terminal.say("something");
    terminal.expect("read something");
    assert_eq!(terminal.finish().0.code(), Some(3));
}

#[test]
fn what_a_terminal_interrupts_is_the_command_and_nothing_is_lost() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    // It starts no program while it waits: dash loses a signal that comes while it forks (vfork).
    let script = "trap 'echo interrupted; exit 7' INT; echo new > f; echo waiting; \
                  while :; do read -r line; done";
    let mut terminal = run(&project, "--keep", script);
    terminal.expect("waiting");
    // The terminal sends SIGINT for this character.
    terminal.say("\x03");
    terminal.expect("interrupted");
    terminal.expect("A /f");
    terminal.expect("kept");
    assert_eq!(terminal.finish().0.code(), Some(7));
    assert_eq!(project.ask(&["branch", "diff", "run-1"]), "A /f\n");
}

#[test]
fn a_command_that_stops_stops_its_run_and_goes_on_with_it() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let mut program = project.start(&[], "kill -STOP $$; echo goes on; exit 4");
    let pid = Pid::from_raw(program.pid().try_into().unwrap()).unwrap();
    let (sender, stopped) = channel();
    std::thread::spawn(move || sender.send(waitpid(Some(pid), WaitOptions::UNTRACED)));
    let (_, status) = stopped.recv_timeout(PATIENCE).unwrap().unwrap().unwrap();
    assert!(status.stopped(), "{status:?}");
    program.signal(Signal::CONT);
    program.expect("goes on");
    assert_eq!(program.finish().0.code(), Some(4));
}
