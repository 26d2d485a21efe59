//! Checks that the work of runs is kept on disk, and is found again there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use agentfs_client::Client;
use agentfs_proto::message::Hello;
use agentfs_testkit::child::{PATIENCE, soon};
use agentfs_testkit::environment::can_mount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::project::{Project, Said};

/// Ends the daemon of a project by a signal, and waits until it has ended.
#[track_caller]
fn end(project: &Project, signal: Signal) {
    let (client, welcome) =
        Client::connect(&project.own_socket(), Hello::new("test"), soon()).unwrap();
    drop(client);
    let daemon = Pid::from_raw(welcome.daemon_pid.cast_signed()).unwrap();
    let process = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
    kill_process(daemon, signal).unwrap();
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout));
    assert_eq!(ended, Ok(1), "the end of the daemon in time");
}

/// Returns the directory in which the stores of projects are.
fn stores(project: &Project) -> PathBuf {
    project.beside("home/.local/state/agentfs/projects")
}

/// Returns the only store.
#[track_caller]
fn store(project: &Project) -> PathBuf {
    let entries = fs::read_dir(stores(project)).unwrap();
    let all: Vec<PathBuf> = entries.map(|it| it.unwrap().path()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[test]
fn kept_work_is_found_again_however_the_daemon_ended() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let kept = project.run(&["--keep"], "echo new > f; mkdir d; echo made > d/g");
    assert_eq!(kept.status, Some(0), "{kept:?}");
    let diff = "A /d/\nA /d/g\nM /f\n";
    let store = store(&project);
    let mode = fs::metadata(&store).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    for signal in [Signal::KILL, Signal::TERM] {
        end(&project, signal);
        // The next command of the project has the branch again.
        assert_eq!(project.ask(&["branch", "diff", "run-1"]), diff);
    }
    let said = project.ask(&["shutdown"]);
    let place = format!("stays in the store {}", store.display());
    assert!(said.contains(&place), "{said}");
    assert!(!project.beside("home/.local/state/agentfs/changes").exists());
    let status = project.say(&["status"]);
    assert_eq!(
        status.status,
        Some(1),
        "status starts no daemon: {status:?}"
    );
    assert!(status.err.contains(store.to_str().unwrap()), "{status:?}");

    // Another run has another name, and reports what is left.
    let second = project.run(&["--keep"], "cat f; echo second > h");
    assert_eq!(second.out.trim(), "old");
    assert!(
        second
            .err
            .contains("run-1, of a run that is over, has changes"),
        "{second:?}"
    );
    assert!(second.err.contains("run-2"), "{second:?}");
    end(&project, Signal::KILL);
    project.ask(&["branch", "apply", "run-1"]);
    assert_eq!(project.read("f"), "new\n");
    assert_eq!(project.read("d/g"), "made\n");
    let refused = project.say(&["shutdown", "--discard"]);
    assert_eq!(refused.status, Some(1), "{refused:?}");
    assert!(refused.err.contains("branch delete"), "{refused:?}");
}

#[test]
fn a_run_whose_daemon_is_killed_applies_its_work_with_the_next_one() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let script = "echo new > f; echo made > g; cd /; echo done; read -r _";
    let mut run = project.start(&["--apply"], script);
    run.expect("done");
    end(&project, Signal::KILL);
    run.say("go on");
    let (status, _, err) = run.finish();
    assert!(status.success(), "{err}");
    assert_eq!(project.read("f"), "new\n", "{err}");
    assert_eq!(project.read("g"), "made\n");
}

#[test]
fn unchanged_branches_of_runs_that_lost_their_daemon_do_not_accumulate() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut run = project.start(&[], "cd /; read -r _");
    end(&project, Signal::KILL);
    run.kill();
    assert!(project.ask(&["branch", "list"]).contains("run-1"));
    let second = project.run(&[], "cat f");
    assert_eq!(second.status, Some(0), "{second:?}");
    assert!(!project.ask(&["branch", "list"]).contains("run-1"));
}

#[test]
fn without_a_usable_place_for_the_store_a_run_names_the_ways_out() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut run: Command = project.agentfs();
    run.env("XDG_STATE_HOME", "/proc/nowhere")
        .args(["run", "--", "cat", "f"]);
    let said = Said::by(&mut run);
    assert_eq!(said.status, Some(125), "{said:?}");
    assert!(said.err.contains("--in-memory"), "{}", said.err);
    let in_memory = project.run(&["--in-memory"], "cat f");
    assert_eq!(in_memory.out.trim(), "old", "{in_memory:?}");
    assert!(!stores(&project).exists());
}

#[test]
fn a_store_that_others_may_write_to_is_refused() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    assert_eq!(project.run(&["--keep"], "echo new > f").status, Some(0));
    project.ask(&["shutdown"]);
    let store = store(&project);
    fs::set_permissions(&store, Permissions::from_mode(0o770)).unwrap();
    let said = project.run(&[], "cat f");
    assert_eq!(said.status, Some(125), "{said:?}");
    let way_out = format!("chmod go-w {}", store.display());
    assert!(said.err.contains(&way_out), "{}", said.err);
}

#[test]
fn a_store_is_shown_and_checked_with_and_without_its_daemon() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    assert_eq!(project.run(&["--keep"], "echo new > f").status, Some(0));
    project.ask(&["snapshot", "create", "s", "--branch", "run-1"]);
    let store = store(&project);
    let look = |verb| {
        let said = project.ask(&["--json", "store", verb]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["store"], store.to_str().unwrap());
        assert_eq!(said["branches"], 2, "{said}");
        assert_eq!(said["snapshots"], 1, "{said}");
        assert_eq!(said["defects"], serde_json::json!([]));
        said
    };
    for verb in ["show", "check", "compact"] {
        assert!(look(verb)["daemon"].is_u64());
    }
    project.ask(&["shutdown"]);
    for verb in ["show", "check"] {
        assert!(look(verb)["daemon"].is_null());
    }
    // A damaged checkpoint is named, and is an error.
    let entries = fs::read_dir(&store).unwrap().map(|it| it.unwrap().path());
    let is_checkpoint = |it: &PathBuf| it.to_str().unwrap().contains("/checkpoint-");
    let checkpoint = entries.filter(is_checkpoint).last().unwrap();
    let mut bytes = fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    fs::write(&checkpoint, bytes).unwrap();
    let said = project.say(&["store", "check"]);
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.out.contains("defect"), "{said:?}");
}

#[test]
fn when_memory_runs_out_the_kernel_takes_the_command_before_the_daemon() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let said = project.run(&["--keep"], "cat /proc/self/oom_score_adj; echo new > f");
    let command: i32 = said.out.trim().parse().unwrap();
    let (_, welcome) = Client::connect(&project.own_socket(), Hello::new("test"), soon()).unwrap();
    let of_daemon = format!("/proc/{}/oom_score_adj", welcome.daemon_pid);
    let daemon: i32 = fs::read_to_string(of_daemon)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(
        command >= (daemon + 300).min(1000),
        "{command} and {daemon}"
    );
}
