//! Checks that kept work outlives a daemon that has it in memory, however the daemon ends by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use agentfs_client::Client;
use agentfs_proto::message::{Hello, MountList, MountWait};
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::project::{Project, Said};
use crate::waiting;
use agentfs_testkit::child::{PATIENCE, soon};

/// The daemon of a project.
struct Daemon(Pid);

impl Daemon {
    fn of(project: &Project) -> Self {
        let socket = project.own_socket();
        let (_, welcome) = Client::connect(&socket, Hello::new("test"), soon()).unwrap();
        Self(Pid::from_raw(welcome.daemon_pid.cast_signed()).unwrap())
    }

    #[track_caller]
    fn end(&self) {
        kill_process(self.0, Signal::TERM).unwrap();
        self.wait();
    }

    #[track_caller]
    fn wait(&self) {
        let Ok(process) = pidfd_open(self.0, PidfdFlags::empty()) else {
            return;
        };
        let timeout = Timespec::try_from(PATIENCE).unwrap();
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout));
        assert_eq!(ended, Ok(1), "the end of the daemon in time");
    }
}

/// Creates a project with a branch `b` whose changes are kept.
fn kept() -> Project {
    let project = Project::with(&[("f", "old")]);
    let options = ["--in-memory", "--branch", "b", "--keep"];
    let said = project.run(&options, "echo new > f; echo made > g");
    assert_eq!(said.status, Some(0), "{said:?}");
    project
}

fn changes(project: &Project) -> PathBuf {
    project.beside("home/.local/state/agentfs/changes/project")
}

/// Returns the only export of a branch.
#[track_caller]
fn export_of(project: &Project, branch: &str) -> PathBuf {
    let log = fs::read_to_string(project.own_socket().with_extension("log"));
    let entries = fs::read_dir(changes(project))
        .into_iter()
        .flatten()
        .flatten();
    let all: Vec<PathBuf> = entries.map(|it| it.path()).collect();
    let name = |it: &PathBuf| it.file_name().unwrap().to_str().unwrap().to_owned();
    let mut found = all
        .iter()
        .filter(|it| name(it).starts_with(&format!("{branch}-")));
    let one = found
        .next()
        .unwrap_or_else(|| panic!("an export of {branch} in {all:?}: {log:?}"));
    assert!(found.next().is_none(), "{all:?}");
    one.clone()
}

#[track_caller]
fn assert_applies(project: &Project, export: &Path) {
    project.ask(&["apply", export.to_str().unwrap()]);
    assert_eq!(project.read("f"), "new\n");
    assert_eq!(project.read("g"), "made\n");
}

/// Types the command that was printed after some words, in a directory that has nothing to do with
/// the project.
#[track_caller]
fn type_printed(project: &Project, text: &str, words: &str) -> Said {
    let mut lines = text.lines();
    let line = lines.find_map(|it| it.split_once(words)).unwrap().1;
    let command = line.replace("agentfs ", &format!("{} ", env!("CARGO_BIN_EXE_agentfs")));
    Said::by(
        project
            .command("sh")
            .args(["-c", &command])
            .current_dir("/"),
    )
}

#[test]
fn shutdown_exports_first_and_says_what_to_type() {
    if !can_mount() {
        return;
    }
    let project = kept();
    let daemon = Daemon::of(&project);
    let said = project.ask(&["shutdown"]);
    daemon.wait();
    assert!(said.contains("b: 2 changes exported to "), "{said}");
    let applied = type_printed(&project, &said, "to apply them: ");
    assert_eq!(applied.status, Some(0), "{applied:?}");
    assert_eq!(project.read("f"), "new\n");
    assert_eq!(project.read("g"), "made\n");
}

#[test]
fn shutdown_tells_programs_in_json() {
    if !can_mount() {
        return;
    }
    let project = kept();
    let daemon = Daemon::of(&project);
    let said = project.ask(&["--json", "shutdown"]);
    daemon.wait();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["exported"][0]["branch"], "b");
    assert_eq!(said["exported_count"], 1);
    let directory = said["exported"][0]["directory"].as_str().unwrap();
    assert_applies(&project, Path::new(directory));
}

#[test]
fn shutdown_throws_away_only_what_is_to_be_thrown_away() {
    if !can_mount() {
        return;
    }
    let project = kept();
    let daemon = Daemon::of(&project);
    project.ask(&["shutdown", "--discard"]);
    daemon.wait();
    assert!(!changes(&project).exists());
}

#[test]
fn shutdown_is_refused_when_nothing_can_be_exported() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut run: Command = project.agentfs();
    run.env("XDG_STATE_HOME", "/proc/nowhere")
        .env("TMPDIR", "/proc/nowhere")
        .args([
            "run",
            "--in-memory",
            "--branch",
            "b",
            "--keep",
            "--",
            "sh",
            "-c",
            "echo new > f",
        ]);
    assert_eq!(Said::by(&mut run).status, Some(0));
    let daemon = Daemon::of(&project);
    let said = project.say(&["shutdown"]);
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.err.contains("shutdown --discard"), "{}", said.err);
    // The daemon goes on, and its branches can be changed.
    project.ask(&["fs", "touch", "/h", "--branch", "b"]);
    let diff = project.ask(&["branch", "diff", "b"]);
    assert_eq!(diff, "A /h\nM /f\n");
    project.ask(&["shutdown", "--discard"]);
    daemon.wait();
}

#[test]
fn a_signal_to_the_daemon_exports_what_was_kept() {
    if !can_mount() {
        return;
    }
    let project = kept();
    Daemon::of(&project).end();
    assert_applies(&project, &export_of(&project, "b"));
}

#[test]
fn what_needs_no_export_has_none() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut run = project.start(
        &["--in-memory", "--branch", "unchanged", "--keep"],
        "read -r _",
    );
    let discarded = project.run(&["--discard"], "echo new > f");
    assert_eq!(discarded.status, Some(0), "{discarded:?}");
    let daemon = Daemon::of(&project);
    run.say("go on");
    run.finish();
    daemon.end();
    assert!(!changes(&project).exists());
}

#[test]
fn a_run_that_loses_its_daemon_says_where_its_work_is() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let script = "echo new > f; echo made > g; cd /; echo done; read -r _";
    let mut run = project.start(&["--in-memory", "--apply"], script);
    run.expect("done");
    Daemon::of(&project).end();
    run.say("go on");
    let (status, _, err) = run.finish();
    assert_eq!(status.code(), Some(125), "{err}");
    let export = export_of(&project, "run-1");
    let place = format!("agentfs: exported to {}\n", export.display());
    assert!(err.contains(&place), "{err}");
    let applied = type_printed(&project, &err, "to apply them: ");
    assert_eq!(applied.status, Some(0), "{applied:?}");
    assert_eq!(project.read("g"), "made\n");
}

#[test]
fn a_daemon_whose_runtime_directory_is_removed_makes_it_again() {
    if !can_mount() {
        return;
    }
    let project = kept();
    let daemon = Daemon::of(&project);
    let (runtime, socket) = (project.runtime(), project.own_socket());
    let library = |name: &str| name.starts_with("shim-");
    let installed = waiting::entry(&runtime, library);

    fs::remove_file(&socket).unwrap();
    waiting::appears(&runtime, &socket);
    assert_eq!(Daemon::of(&project).0, daemon.0);
    fs::remove_file(&installed).unwrap();
    waiting::appears(&runtime, &installed);

    // The removal may fail, because the daemon creates entries in the directory meanwhile; what
    // counts is that the socket is there again.
    drop(fs::remove_dir_all(&runtime));
    waiting::appears(&project.beside("runtime"), &socket);
    assert_eq!(Daemon::of(&project).0, daemon.0);
    waiting::appears(&runtime, &installed);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        runtime.metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );

    // systemd removes all of the directory when a user has logged out, and makes it again later.
    fs::rename(project.beside("runtime"), project.beside("gone")).unwrap();
    fs::remove_dir_all(project.beside("gone")).unwrap();
    waiting::appears(project.directory(), &socket);
    assert_eq!(project.ask(&["branch", "diff", "b"]), "A /g\nM /f\n");
    assert_eq!(Daemon::of(&project).0, daemon.0);
}

#[test]
fn while_a_daemon_cannot_be_reached_no_second_one_takes_its_project() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut run = project.start(&["--keep"], "echo new > f; echo done; read -r _");
    run.expect("done");
    let daemon = Daemon::of(&project);
    let runtime = project.beside("runtime");
    // Nothing can be created in the directory any more.
    fs::rename(&runtime, project.beside("gone")).unwrap();
    fs::write(&runtime, "in the way").unwrap();
    fs::remove_dir_all(project.beside("gone")).unwrap();

    let other = project.beside("other");
    fs::create_dir(&other).unwrap();
    let mut second: Command = project.agentfs();
    second
        .env("XDG_RUNTIME_DIR", &other)
        .args(["run", "--", "cat", "f"]);
    let said = Said::by(&mut second);
    assert_eq!(said.status, Some(125), "{said:?}");
    let way_out = format!("kill {}", daemon.0.as_raw_nonzero());
    assert!(said.err.contains(&way_out), "{}", said.err);

    // When the directory can be created again, the daemon can be reached again.
    fs::remove_file(&runtime).unwrap();
    fs::create_dir(&runtime).unwrap();
    waiting::appears(&runtime, &project.own_socket());
    assert_eq!(Daemon::of(&project).0, daemon.0);
    run.say("go on");
    assert!(run.finish().0.success());
    assert_eq!(project.ask(&["branch", "diff", "run-1"]), "M /f\n");
}

#[test]
fn a_daemon_that_nobody_can_reach_any_more_exports_and_ends() {
    if !can_mount() {
        return;
    }
    let project = kept();
    let daemon = Daemon::of(&project);
    let runtime = project.beside("runtime");
    fs::rename(&runtime, project.beside("gone")).unwrap();
    fs::write(&runtime, "in the way").unwrap();
    fs::remove_dir_all(project.beside("gone")).unwrap();
    daemon.wait();
    fs::remove_file(&runtime).unwrap();
    fs::create_dir(&runtime).unwrap();
    assert_applies(&project, &export_of(&project, "b"));
}

#[test]
fn a_daemon_ends_at_once_while_somebody_waits_for_the_end_of_a_mount() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let mut run = project.start(&["--keep"], "read -r _");
    let socket = project.own_socket();
    let (mut client, _) = Client::connect(&socket, Hello::new("test"), soon()).unwrap();
    let mounts = client.call(MountList { after: 0 }, soon()).unwrap().mounts;
    let wait = MountWait {
        id: mounts[0].id,
        timeout_ms: u32::MAX,
    };
    client.send(wait.into(), soon()).unwrap();
    // When a request of another session is answered, the wait has begun.
    let daemon = Daemon::of(&project);
    daemon.end();
    run.end_input();
    run.finish();
}

#[test]
fn what_is_written_after_the_export_is_refused_and_not_lost_in_silence() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    // The program writes until it is refused, and reports what was accepted.
    let script = "echo begun > h; echo done; i=1; \
                  while echo $i > g && echo $i >> h; do i=$((i+1)); done 2>/dev/null; echo last $i";
    let mut run: Program = project.start(&["--in-memory", "--keep"], script);
    run.expect("done");
    let runtime = project.own_socket();
    let (_, welcome) = Client::connect(&runtime, Hello::new("test"), soon()).unwrap();
    let daemon = Daemon(Pid::from_raw(welcome.daemon_pid.cast_signed()).unwrap());
    daemon.end();
    let line = run.wait_for("last");
    run.finish();
    let accepted: usize = line.trim_start_matches("last ").parse().unwrap();
    let export = export_of(&project, "run-1");
    let written = fs::read_to_string(export.join("files/h")).unwrap_or_default();
    let written = written.lines().count();
    assert!(
        written >= accepted,
        "{accepted} were accepted, and {written} are there"
    );
}
