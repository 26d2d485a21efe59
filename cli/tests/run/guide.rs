//! Runs every command in docs/GUIDE.md, and checks that it prints what the guide shows.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::project::Project;

const GUIDE: &str = include_str!("../../../docs/GUIDE.md");
/// The home directory of the guide's reader.
const HOME: &str = "/home/me";

/// An action of the reader.
#[derive(Debug, PartialEq)]
enum Action {
    /// The reader types a command into the terminal with this prompt.
    Type { terminal: String, command: String },
    /// The reader presses Ctrl-C where a command is running.
    Interrupt,
    /// The reader looks at what is running.
    Look,
}

/// An action, and what the reader sees then.
#[derive(Debug, PartialEq)]
struct Step {
    action: Action,
    expected: Vec<String>,
    /// Whether the command goes on after it has printed this.
    goes_on: bool,
}

/// A shell of the guide.
struct Terminal {
    shell: Program,
    home: String,
    typed: usize,
    is_running: bool,
}

impl Terminal {
    fn open(project: &Project) -> Self {
        let home = project.beside("home");
        let programs = Path::new(env!("CARGO_BIN_EXE_agentfs")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        // A background job has SIGINT ignored, which no shell can undo, and the tests may run in
        // one.
        let mut command = project.command("env");
        command
            .args(["--default-signal=INT", "bash"])
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("LC_ALL", "C")
            .current_dir(&home)
            .process_group(0);
        let mut shell = Program::start(&mut command);
        shell.say("exec 2>&1");
        let home = home.display().to_string();
        Self {
            shell,
            home,
            typed: 0,
            is_running: false,
        }
    }

    /// Returns the line that follows the output of the last command.
    fn end(&self) -> String {
        format!("--- end of command {} ---", self.typed)
    }

    fn enter(&mut self, command: &str) {
        assert!(!self.is_running, "{command}: another one is running");
        self.typed += 1;
        self.is_running = true;
        // A shell on a terminal outlives Ctrl-C.
        self.shell.say("trap : INT");
        self.shell.say(command);
        let end = self.end();
        self.shell.say(&format!("echo '{end}'"));
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.shell.pid().try_into().unwrap()).unwrap()
    }

    fn interrupt(&self) {
        kill_process_group(self.group(), Signal::INT).unwrap();
    }

    fn see(&mut self, step: &Step) {
        let action = &step.action;
        for expected in &step.expected {
            let line = self.shell.line().replace(&self.home, HOME);
            assert!(
                matches(expected, &line),
                "{action:?}: {line:?} is printed, and not {expected:?}"
            );
        }
        if !step.goes_on {
            let line = self.shell.line().replace(&self.home, HOME);
            assert_eq!(line, self.end(), "{action:?}: more than the guide shows");
            self.is_running = false;
        }
    }
}

/// Ends the shell, so that a test that fails leaves no watcher behind.
impl Drop for Terminal {
    fn drop(&mut self) {
        // The shell may have ended.
        kill_process_group(self.group(), Signal::TERM).unwrap_or(());
    }
}

/// Returns whether the line is the expected one, in which `...` stands for anything.
fn matches(expected: &str, line: &str) -> bool {
    let (first, others) = expected.split_once("...").unwrap_or((expected, ""));
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    if first == expected {
        return rest.is_empty();
    }
    let mut others = others.split("...").peekable();
    while let Some(part) = others.next() {
        if others.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Returns the steps of the console blocks.
fn steps(guide: &str) -> Vec<Step> {
    let blocks = guide.split("\n```console\n").skip(1);
    let blocks = blocks.map(|it| it.split_once("\n```").expect("the end of a block").0);
    blocks.flat_map(steps_of_block).collect()
}

fn steps_of_block(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        let action = match line.split_once("$ ") {
            Some((terminal, command)) if terminal.chars().all(char::is_alphabetic) => {
                Action::Type {
                    terminal: terminal.to_owned(),
                    command: command.to_owned(),
                }
            }
            _ if line == "^C" => Action::Interrupt,
            _ if steps.is_empty() => Action::Look,
            _ => {
                steps.last_mut().unwrap().expected.push(line.to_owned());
                continue;
            }
        };
        let is_output = action == Action::Look;
        steps.push(Step {
            action,
            expected: is_output.then(|| line.to_owned()).into_iter().collect(),
            goes_on: false,
        });
    }
    for step in &mut steps {
        step.goes_on = step.expected.pop_if(|line| line == "...").is_some();
    }
    steps
}

#[test]
fn the_guide_prints_what_it_shows() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let mut terminals: BTreeMap<String, Terminal> = BTreeMap::new();
    let steps = steps(GUIDE);
    assert!(!steps.is_empty(), "a guide has commands");
    for step in &steps {
        let terminal = match &step.action {
            Action::Type { terminal, command } => {
                let terminal = terminals
                    .entry(terminal.clone())
                    .or_insert_with(|| Terminal::open(&project));
                terminal.enter(command);
                terminal
            }
            Action::Interrupt | Action::Look => terminals
                .values_mut()
                .find(|it| it.is_running)
                .expect("a command that is running"),
        };
        if step.action == Action::Interrupt {
            terminal.interrupt();
        }
        terminal.see(step);
    }
    let running = terminals.iter().find(|(_, it)| it.is_running);
    assert_eq!(running.map(|(name, _)| name), None);
}

#[test]
fn dots_stand_for_anything() {
    assert!(matches("a", "a") && !matches("a", "ab"));
    assert!(matches("a ... c", "a b c") && !matches("a ... c", "a b d"));
    assert!(matches("run-...", "run-1") && matches("...1 ... 3", "0 1 2 3"));
}

#[test]
fn a_block_is_read_as_a_reader_does() {
    let guide = "x\n```console\nann$ a\nb\n...\n```\n\n```console\nc\n^C\n```\n";
    let of = |action, expected: &[&str], goes_on| Step {
        action,
        expected: expected.iter().map(|&it| it.to_owned()).collect(),
        goes_on,
    };
    let typed = Action::Type {
        terminal: "ann".to_owned(),
        command: "a".to_owned(),
    };
    assert_eq!(
        steps(guide),
        [
            of(typed, &["b"], true),
            of(Action::Look, &["c"], false),
            of(Action::Interrupt, &[], false),
        ]
    );
}
