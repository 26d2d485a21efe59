//! Checks `agentfs demo`: what it shows, and that nothing of it is left.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use agentfs_testkit::child::PATIENCE;
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::project::{Project, Said};

/// A place for the demo's directory, in which nothing may be left.
struct Place(Project);

impl Place {
    fn new() -> Self {
        let project = Project::new();
        project.another("tmp");
        Self(project)
    }

    /// Returns the command `agentfs demo`.
    fn demo(&self) -> Command {
        let mut command = self.0.agentfs();
        command.arg("demo").env("TMPDIR", self.0.beside("tmp"));
        command
    }

    /// Returns a directory with these programs of the system and no others.
    fn programs(&self, names: &[&str]) -> PathBuf {
        let directory = self.0.another("programs");
        let all = std::env::var_os("PATH").unwrap();
        for name in names {
            let mut found = std::env::split_paths(&all).map(|it| it.join(name));
            let found = found.find(|it| it.is_file()).expect("a program");
            symlink(found, directory.join(name)).unwrap();
        }
        directory
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        nothing_is_left(&self.0.beside("tmp"));
    }
}

/// Checks that neither a file below this directory for temporary files nor a process or a mount of the demo
/// is left.
#[track_caller]
pub(crate) fn nothing_is_left(tmp: &Path) {
    let files: Vec<_> = fs::read_dir(tmp).unwrap().collect();
    assert!(files.is_empty(), "{files:?}");
    let demo = format!("{}/agentfs-demo-", tmp.display());
    for process in fs::read_dir("/proc").unwrap() {
        let process = process.unwrap().path();
        for file in ["environ", "mountinfo"] {
            let text = fs::read(process.join(file)).unwrap_or_default();
            let is_about = String::from_utf8_lossy(&text).contains(&demo);
            assert!(!is_about, "{}", process.display());
        }
    }
}

/// Checks what the transcripts with and without mounts have in common.
#[track_caller]
pub(crate) fn shows_both_branches(said: &Said) {
    assert_eq!((said.status, &*said.err), (Some(0), ""), "{said:?}");
    for line in [
        "   wrote /TODO in branch french of ",
        "   applied 2 changes of branch french of ",
        "   applied 1 change of branch docs of ",
        "   README:Now in two languages.\n   TODO:Add French.\n",
        "   greetings.txt:hello\n   greetings.txt:bonjour\n",
    ] {
        assert!(said.out.contains(line), "{line:?}: {said:?}");
    }
    // Before the changes are applied, the project is as it was at the start.
    let unchanged =
        "   $ grep . *\n   README:A collection of greetings.\n   greetings.txt:hello\n\n";
    assert_eq!(said.out.matches(unchanged).count(), 2, "{said:?}");
}

#[track_caller]
pub(crate) fn shows_a_watcher(said: &Said) {
    shows_both_branches(said);
    for line in [
        "   [the watcher] CREATE TODO\n",
        "   [the watcher] MODIFY TODO\n",
        "   [the watcher] MODIFY greetings.txt\n",
        "     A /TODO\n     M /greetings.txt\n",
        "     M /README\n",
    ] {
        assert!(said.out.contains(line), "{line:?}: {said:?}");
    }
}

#[test]
fn a_stock_watcher_hears_and_both_branches_are_applied() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let said = Said::by(&mut place.demo());
    shows_a_watcher(&said);
    assert!(said.out.contains("-- inotifywait -m "), "{said:?}");
    place.nothing_is_left();
}

/// Returns what README.md shows of the demo.
fn shown_in_the_readme() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (_, shown) = readme
        .split_once("cli/tests/run/demo.rs compares. -->\n\n")
        .expect("the transcript");
    let lines = shown.lines().map_while(|line| {
        let is_shown = line.is_empty() || line.starts_with("    ");
        is_shown.then(|| line.get(4..).unwrap_or_default())
    });
    lines.filter(|it| !it.is_empty()).map(anywhere).collect()
}

/// Returns the line with a name in place of the demo's directory.
fn anywhere(line: &str) -> String {
    let is_demo = |word: &str| word.contains("/agentfs-demo-");
    let words = line.split(' ').map(|word| match word {
        word if is_demo(word) => "/.../project",
        word => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_readme_shows_what_it_prints() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let said = Said::by(&mut place.demo());
    let shown = shown_in_the_readme();
    assert!(shown.len() > 15, "{shown:?}");
    let mut printed = said.out.lines().map(anywhere);
    for line in shown {
        assert!(
            printed.any(|it| it == line),
            "{line:?} in its order in {said:?}"
        );
    }
}

#[test]
fn without_a_stock_watcher_its_own_hears_the_same() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let programs = place.programs(&["sh", "grep", "true"]);
    let said = Said::by(place.demo().env("PATH", programs));
    shows_a_watcher(&said);
    assert!(said.out.contains("-- agentfs plain-watcher ."), "{said:?}");
    place.nothing_is_left();
}

#[test]
fn a_demo_inside_of_a_run_is_one_of_its_own() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let tmp = place.0.beside("tmp");
    let script = format!("TMPDIR={} exec agentfs demo", tmp.display());
    let programs = PathBuf::from(env!("CARGO_BIN_EXE_agentfs"));
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", programs.parent().unwrap().display());
    let mut run = place.0.agentfs();
    run.env("PATH", path)
        .args(["run", "--discard", "--", "sh", "-c", &script]);
    shows_a_watcher(&Said::by(&mut run));
    place.nothing_is_left();
}

/// Starts a demo whose watcher never hears anything, and returns when the demo waits for it.
fn waiting(place: &Place, command: &mut Command) -> Program {
    let programs = place.programs(&["sh", "grep", "true", "sleep"]);
    let script = "#!/bin/sh\necho Watches established.\nexec sleep 1000\n";
    executable(&programs.join("inotifywait"), script);
    let mut path = programs.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let demo = Program::start(command.env("PATH", path));
    demo.expect("wrote /TODO");
    demo
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    if !can_mount() {
        return;
    }
    for signal in [Signal::TERM, Signal::HUP] {
        let place = Place::new();
        let mut demo = waiting(&place, &mut place.demo());
        demo.signal(signal);
        let (status, out, err) = demo.finish();
        assert_eq!(status.code(), Some(1), "{out} {err}");
        assert!(err.contains("was interrupted"), "{out} {err}");
        place.nothing_is_left();
    }
}

#[track_caller]
fn wait_for_event(inotify: &Inotify) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let ready = poll(&mut [PollFd::new(inotify, PollFlags::IN)], Some(&patience));
    assert_eq!(ready, Ok(1), "an event in time");
}

#[test]
fn a_signal_that_comes_first_of_all_leaves_nothing() {
    let place = Place::new();
    let created = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
    let tmp = place.0.beside("tmp");
    created.add_watch(&tmp, AddWatchFlags::IN_CREATE).unwrap();
    let mut demo = Program::start(&mut place.demo());
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let is_created = poll(&mut [PollFd::new(&created, PollFlags::IN)], Some(&patience));
    assert_eq!(is_created, Ok(1), "the demo's directory in time");
    demo.signal(Signal::TERM);
    let (status, out, err) = demo.finish();
    assert_eq!(status.code(), Some(1), "{status:?} {out} {err}");
    assert!(err.contains("was interrupted"), "{out} {err}");
    place.nothing_is_left();
}

#[test]
fn a_signal_while_a_daemon_starts_leaves_nothing() {
    if !can_mount() {
        return;
    }
    // The daemon becomes a child of the demo at some moment in its start, and not always at the same.
    for _ in 0..40 {
        let place = Place::new();
        let mut demo = Program::start(&mut place.demo());
        demo.expect("A project of two files");
        let tmp = place.0.beside("tmp");
        let directory = fs::read_dir(tmp).unwrap().next().unwrap().unwrap().path();
        let created = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        let runtime = directory.join("runtime/agentfs");
        let mask = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        created.add_watch(&runtime, mask).unwrap();
        // The log is there just before the daemon is started, its socket when the daemon has a session of
        // its own, but `run` still waits for it.
        let is_socket = |it: &Path| it.extension() != Some("log".as_ref());
        let files = || fs::read_dir(&runtime).unwrap().map(|it| it.unwrap().path());
        while !files().any(|it| is_socket(&it)) {
            wait_for_event(&created);
            created.read_events().unwrap();
        }
        demo.signal(Signal::TERM);
        let (status, out, err) = demo.finish();
        assert_eq!(status.code(), Some(1), "{status:?} {out} {err}");
        place.nothing_is_left();
    }
}

/// A process that the demo did not start. It is killed with this value.
struct Foreign(OwnedFd);

impl Foreign {
    fn new(pid: &str) -> Self {
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        Self(pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }

    fn kill(&self) {
        // The process may have ended.
        pidfd_send_signal(&self.0, Signal::KILL).unwrap_or(());
    }

    fn has_ended_within(&self, patience: &Timespec) -> bool {
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(patience)).unwrap() > 0
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_process_that_it_did_not_start_stays() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    // The demo's process has a child from before, which has a child of its own.
    let script = "mkfifo ../pipe; \
        sh -c 'sleep 1000 >/dev/null 2>&1 & echo $! $$ > ../pipe; wait' & \
        read pids < ../pipe; echo $pids > ../pids; exec \"$0\" demo";
    let agentfs = env!("CARGO_BIN_EXE_agentfs");
    let mut shell = place.0.command("sh");
    shell.env("TMPDIR", place.0.beside("tmp"));
    let mut demo = waiting(&place, shell.args(["-c", script, agentfs]));
    let pids = fs::read_to_string(place.0.beside("pids")).unwrap();
    let (sleep, parent) = pids.trim().split_once(' ').unwrap();
    let (sleep, parent) = (Foreign::new(sleep), Foreign::new(parent));
    // From then on the sleep is a child of the demo.
    parent.kill();
    assert!(parent.has_ended_within(&Timespec::try_from(PATIENCE).unwrap()));
    demo.signal(Signal::TERM);
    assert_eq!(demo.finish().0.code(), Some(1));
    assert!(!sleep.has_ended_within(&Timespec::default()));
    place.nothing_is_left();
}

#[test]
fn what_cannot_be_removed_is_reported_after_a_signal_too() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mut demo = waiting(&place, &mut place.demo());
    let tmp = place.0.beside("tmp");
    let directory = fs::read_dir(&tmp).unwrap().next().unwrap().unwrap().path();
    let elsewhere = place.0.beside("elsewhere");
    fs::rename(&directory, elsewhere).unwrap();
    fs::write(&directory, "").unwrap();
    demo.signal(Signal::TERM);
    let (status, out, err) = demo.finish();
    assert_eq!(status.code(), Some(1), "{out} {err}");
    let stays = format!("{} cannot be removed: ", directory.display());
    for text in ["the demo was interrupted", &stays] {
        assert!(err.contains(text), "{text:?}: {err}");
    }
    for text in ["cleaned up", "is removed"] {
        assert!(!err.contains(text), "{text:?}: {err}");
    }
    // The daemon may have kept the branch's changes here, as its state directory was gone.
    fs::remove_dir_all(&tmp).unwrap();
    fs::create_dir(&tmp).unwrap();
    place.nothing_is_left();
}

#[test]
fn a_directory_with_a_space_is_one_as_any_other() {
    let place = Place::new();
    let tmp = place.0.another("with a space");
    shows_both_branches(&Said::by(place.demo().env("TMPDIR", &tmp)));
    nothing_is_left(&tmp);
}

#[test]
fn a_directory_that_it_cannot_work_in_is_refused_at_once() {
    let place = Place::new();
    for (name, why) in [
        ("with:colon".to_owned(), "has a colon"),
        ("l".repeat(90), "is too long"),
    ] {
        let tmp = place.0.another(&name);
        let said = Said::by(place.demo().env("TMPDIR", &tmp));
        assert_eq!((said.status, &*said.out), (Some(1), ""), "{said:?}");
        let shown = tmp.display().to_string();
        for text in [&shown, why, "TMPDIR=/tmp agentfs demo"] {
            assert!(said.err.contains(text), "{text:?}: {said:?}");
        }
        nothing_is_left(&tmp);
    }
}

#[test]
fn what_a_terminal_interrupts_cleans_up() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    // SIGINT is handled as in `Project::on_terminal`.
    let agentfs = env!("CARGO_BIN_EXE_agentfs");
    let line = format!("exec env --default-signal=INT {agentfs} demo");
    let mut script = place.0.command("script");
    script
        .env("SHELL", "/bin/sh")
        .env("TMPDIR", place.0.beside("tmp"))
        .args(["-qec", &line, "/dev/null"]);
    let mut terminal = waiting(&place, &mut script);
    terminal.say("\x03");
    terminal.expect("the demo was interrupted");
    assert_eq!(terminal.finish().0.code(), Some(1));
    place.nothing_is_left();
}

#[test]
fn a_step_that_fails_ends_it_and_nothing_is_left() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let programs = place.programs(&["sh", "grep", "true"]);
    executable(
        &programs.join("inotifywait"),
        "#!/bin/sh\necho out of watches\n",
    );
    let said = Said::by(place.demo().env("PATH", programs));
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.out.contains("   out of watches\n"), "{said:?}");
    assert!(said.err.contains("ended before"), "{said:?}");
    place.nothing_is_left();
}

#[test]
fn it_takes_no_project_and_no_socket() {
    let place = Place::new();
    for option in [&["--json"][..], &["--project", "."], &["--socket", "s"]] {
        let said = Said::by(place.demo().args(option));
        assert_eq!(said.status, Some(1), "{said:?}");
        assert!(said.err.contains("neither --json"), "{said:?}");
    }
}
