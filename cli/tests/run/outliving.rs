//! Checks that a run outlives each process of AgentFS that is killed while its command is at work.

use std::ffi::OsString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use agentfs_testkit::child::PATIENCE;
use agentfs_testkit::daemon::Ready;
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, WatchFlags};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::project::{Project, Said};

/// The rounds of the script, and how many of them there are before each kill.
const ROUNDS: usize = 120;
const BETWEEN: usize = 25;

/// Checks each result, and prints which round is done. It has one file open all the time, and changes one
/// that the project has.
const SCRIPT: &str = r#"
set -eu
exec 9>>log
i=0
while [ "$i" -lt 120 ]; do
  mkdir "d$i"
  echo "first $i" >"d$i/f"
  echo "second $i" >>"d$i/f"
  mv "d$i/f" "d$i/g"
  [ "$(cat "d$i/g")" = "first $i
second $i" ]
  echo "$i" >source
  [ "$(cat source)" = "$i" ]
  echo "$i" >&9
  echo "$i"
  i=$((i + 1))
done
"#;

/// A project whose daemon keeps its mounts.
pub(crate) struct Kept {
    /// Ends the daemons first.
    pub(crate) project: Project,
    daemon: Program,
    /// The channel gets a message when the daemon ends.
    _ready: Ready,
}

impl Kept {
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let project = Project::with(files);
        let (ready, store) = (Ready::new(), project.beside("store"));
        let mut daemon = project.agentfs();
        daemon
            .args(["daemon", "--keep-mounts", "--lower"])
            .arg(project.path())
            .arg("--store")
            .arg(store)
            .arg("--socket")
            .arg(project.own_socket())
            .env("NOTIFY_SOCKET", ready.path())
            .env("RUST_LOG", "warn");
        let daemon = Program::start(&mut daemon);
        ready.wait();
        let kept = Self {
            project,
            daemon,
            _ready: ready,
        };
        // The daemon knows by a time which changes of the host it has emitted. What happened just before
        // that time counts as missed, and so would the making of the project. To set it alone is a MODIFY.
        let noted = Awaited::of(
            &kept.project.beside("store"),
            "host-seen",
            WatchFlags::MODIFY,
        );
        for (name, content) in files {
            kept.project.write(name, content);
        }
        noted.wait();
        kept
    }

    /// Returns the process that listens at the socket of the project.
    fn server(&self) -> Pid {
        let connection = UnixStream::connect(self.project.own_socket()).unwrap();
        socket_peercred(&connection).unwrap().pid
    }

    /// Returns the processes that keep mounts of this project.
    pub(crate) fn keepers(&self) -> Vec<Pid> {
        let mounts = self.project.beside("store/mounts");
        let mounts = mounts.to_str().unwrap();
        let is_keeper = |pid: &Pid| {
            let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
            // A process may end meanwhile.
            let words = fs::read(path).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            let words: Vec<&str> = words.split('\0').collect();
            words.contains(&"keep-mount") && words.iter().any(|it| it.starts_with(mounts))
        };
        let entries = fs::read_dir("/proc").unwrap().map(|it| it.unwrap());
        let pids = entries.filter_map(|it| Pid::from_raw(it.file_name().to_str()?.parse().ok()?));
        pids.filter(is_keeper).collect()
    }

    /// Kills the daemon, calls `meanwhile`, and waits until the next one listens.
    pub(crate) fn kill_daemon_and(&self, meanwhile: impl FnOnce()) {
        let socket = self.project.own_socket();
        let (directory, name) = (socket.parent().unwrap(), socket.file_name().unwrap());
        // A daemon renames its socket to this name when it listens.
        let socket = Awaited::of(directory, name, WatchFlags::MOVED_TO);
        kill(self.server());
        meanwhile();
        socket.wait();
    }

    /// Kills the daemon, and waits until the next one listens.
    pub(crate) fn kill_daemon(&self) {
        self.kill_daemon_and(|| {});
    }

    /// Starts the script in a run.
    fn run(&self, options: &[&str]) -> Program {
        let mut run = self.project.agentfs();
        run.arg("run").args(options);
        Program::start(run.args(["--", "sh", "-c", SCRIPT]))
    }

    /// Checks that the project has what all rounds of the script have made.
    #[track_caller]
    fn assert_has_all(&self) {
        let log: Vec<String> = (0..ROUNDS).map(|round| format!("{round}\n")).collect();
        assert_eq!(self.project.read("log"), log.concat());
        assert_eq!(self.project.read("source"), format!("{}\n", ROUNDS - 1));
        for round in 0..ROUNDS {
            let content = self.project.read(&format!("d{round}/g"));
            assert_eq!(content, format!("first {round}\nsecond {round}\n"));
            assert!(!self.project.has(&format!("d{round}/f")));
        }
    }
}

/// Notices what happens to a name in a directory.
struct Awaited {
    inotify: OwnedFd,
    name: OsString,
}

impl Awaited {
    fn of(directory: &Path, name: impl Into<OsString>, what: WatchFlags) -> Self {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&inotify, directory, what).unwrap();
        let name = name.into();
        Self { inotify, name }
    }

    #[track_caller]
    fn wait(self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        let end = Timespec::try_from(PATIENCE).unwrap();
        loop {
            if events.is_buffer_empty() {
                let mut polled = [PollFd::new(&self.inotify, PollFlags::IN)];
                let found = poll(&mut polled, Some(&end));
                assert_eq!(found, Ok(1), "{:?} is touched", self.name);
            }
            let event = events.next().unwrap();
            let name = event.file_name();
            if name.is_some_and(|it| it.to_bytes() == self.name.as_bytes()) {
                return;
            }
        }
    }
}

/// Kills a process, and waits until it is gone.
#[track_caller]
fn kill(pid: Pid) {
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&process, Signal::KILL).unwrap();
    let end = Timespec::try_from(PATIENCE).unwrap();
    let mut polled = [PollFd::new(&process, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&end)), Ok(1), "the process is gone");
}

/// Waits until the script has done some rounds.
#[track_caller]
fn wait_for_rounds(run: &Program) {
    for _ in 0..BETWEEN {
        run.line();
    }
}

#[test]
fn a_run_goes_on_and_applies_everything_while_its_daemon_is_killed_again_and_again() {
    if !can_mount() {
        return;
    }
    let mut kept = Kept::with(&[("source", "old\n"), ("other", "other\n")]);
    let mut run = kept.run(&["--apply"]);
    for _ in 0..3 {
        wait_for_rounds(&run);
        kill(kept.server());
    }
    let (status, _, err) = run.finish();
    assert!(status.success(), "{status} {err}");
    kept.assert_has_all();
    assert!(err.contains("agentfs: applied"), "{err}");
    assert!(
        !kept.daemon.finish().0.success(),
        "the first daemon was killed"
    );
    // Nothing is left of the run.
    assert!(!kept.project.ask(&["branch", "list"]).contains("run-1"));
}

#[test]
fn a_run_whose_daemon_is_killed_ends_as_the_user_wants() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let export = kept.project.beside("export");
    let script = "echo new >source; echo ready; read -r _; echo more >made; exit 7";
    let mut runs = ["--discard", "--keep", "--export"].map(|option| {
        let mut options = vec![option];
        if option == "--export" {
            options.push(export.to_str().unwrap());
        }
        kept.project.start(&options, script)
    });
    kill(kept.server());
    for run in &mut runs {
        run.say("go on");
        let (status, _, err) = run.finish();
        assert_eq!(status.code(), Some(7), "{err}");
        assert!(err.contains("the daemon ended during the run"), "{err}");
    }
    assert_eq!(kept.project.read("source"), "old\n");
    assert_eq!(
        fs::read_to_string(export.join("files/made")).unwrap(),
        "more\n"
    );
    let branches = kept.project.ask(&["branch", "list"]);
    assert!(!branches.contains("run-1"), "discarded: {branches}");
    assert!(branches.contains("run-2"), "kept: {branches}");
    assert!(!branches.contains("run-3"), "exported: {branches}");
}

#[test]
fn the_branch_of_a_run_stays_its_own_while_there_is_another_daemon() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let mut run = kept
        .project
        .start(&["--branch", "b", "--discard"], "read -r _");
    kept.kill_daemon();
    let second = kept.project.run(&["--branch", "b"], "true");
    assert_eq!(second.status, Some(125), "{second:?}");
    assert!(second.err.contains("is at work already"), "{second:?}");
    let deleted = kept.project.say(&["branch", "delete", "b"]);
    let names_the_run = format!("process {}", run.pid());
    assert!(deleted.err.contains(&names_the_run), "{deleted:?}");
    run.say("go on");
    assert!(run.finish().0.success());
}

#[test]
fn a_program_that_starts_after_the_daemon_was_killed_hears_what_is_changed_from_outside() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let script = "read -r _; exec inotifywait -m --format '%e %f' .";
    let mut run = kept.project.start(&["--branch", "b", "--discard"], script);
    kill(kept.server());
    run.say("go on");
    run.complains("Watches established");
    kept.project.ask(&["fs", "touch", "/new", "--branch", "b"]);
    run.expect("CREATE new");
}

#[test]
fn a_run_does_without_the_keeper_of_its_mount() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let mut run = kept.run(&["--apply"]);
    wait_for_rounds(&run);
    let keepers = kept.keepers();
    assert!(!keepers.is_empty());
    keepers.into_iter().for_each(kill);
    let (status, _, err) = run.finish();
    assert!(status.success(), "{status} {err}");
    kept.assert_has_all();
}

#[test]
fn what_was_done_before_daemon_and_keepers_were_killed_is_applied() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let mut run = kept.run(&["--apply"]);
    wait_for_rounds(&run);
    kept.keepers().into_iter().for_each(kill);
    kill(kept.server());
    // The command is told, and the status is its own: that of mkdir(1) or of the shell.
    let (status, out, err) = run.finish();
    assert!(matches!(status.code(), Some(1 | 2)), "{status} {err}");
    assert!(err.contains("agentfs: applied"), "{err}");
    let said = BETWEEN + out.lines().count();
    assert!(said < ROUNDS);
    let log: Vec<String> = (0..said).map(|round| format!("{round}\n")).collect();
    assert!(kept.project.read("log").starts_with(&log.concat()));
    for round in 0..said {
        let content = kept.project.read(&format!("d{round}/g"));
        assert_eq!(content, format!("first {round}\nsecond {round}\n"));
    }
}

#[test]
fn the_command_of_a_run_that_is_killed_goes_on_and_its_branch_is_left() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let mut run = kept.run(&["--apply"]);
    wait_for_rounds(&run);
    let pid = Pid::from_raw(run.pid().cast_signed()).unwrap();
    kill(pid);
    kill(kept.server());
    // Its output ends with the command.
    let (status, out, _) = run.finish();
    assert!(!status.success());
    assert_eq!(BETWEEN + out.lines().count(), ROUNDS);
    kept.project.wait_unmounted("run-1");
    let next: Said = kept.project.run(&[], "true");
    let left = "run-1, of a run that is over, has changes";
    assert!(next.err.contains(left), "{next:?}");
    kept.project.ask(&["branch", "apply", "run-1"]);
    kept.assert_has_all();
}
