//! Checks `agentfs run` and `agentfs join`: what a command sees, and what is around it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use agentfs_testkit::environment::can_mount;
use rustix::process::{Pid, Signal, kill_process};

use crate::project::{Project, Said};

#[test]
fn the_command_changes_its_branch_and_not_the_project() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("a", "old"), ("dir/b", "b")]);
    let said = project.run(
        &["--discard"],
        "cat a; echo new > a; rm dir/b; mkdir made; cat a; ls",
    );
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(said.out, "oldnew\na\ndir\nmade\n");
    assert_eq!(project.read("a"), "old");
    assert!(project.has("dir/b"));
    assert!(!project.has("made"));
    for line in ["M /a", "D /dir/b", "A /made/", "discarded"] {
        assert!(said.err.contains(line), "{line}: {}", said.err);
    }
}

#[test]
fn the_exit_status_is_the_commands() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    assert_eq!(project.run(&[], "exit 9").status, Some(9));
    assert_eq!(project.run(&[], "kill -KILL $$").status, Some(128 + 9));
    assert_eq!(project.say(&["run", "--", "/no/such"]).status, Some(127));
    let unchanged = project.run(&[], "true");
    assert_eq!(unchanged.err, "", "nothing is reported");
    let branches = project.ask(&["branch", "list"]);
    assert!(!branches.contains("run-"), "{branches}");
}

#[test]
fn signals_are_passed_on_and_input_and_output_are_the_commands() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    // A shell may lose a signal that comes just before its `wait`; `sigsuspend` loses none.
    let script = r#"exec perl -e '
        use POSIX;
        sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1, SIGTERM));
        $SIG{USR1} = sub { print "got USR1\n" };
        $SIG{TERM} = sub { print "got TERM\n"; exit 5 };
        $| = 1;
        print "on\n";
        while (<STDIN>) { print "read $_" }
        while (1) { sigsuspend(POSIX::SigSet->new) }'"#;
    let mut program = project.start(&[], script);
    program.expect("on");
    program.say("something");
    program.expect("read something");
    program.end_input();
    program.signal(Signal::USR1);
    program.expect("got USR1");
    program.signal(Signal::TERM);
    program.expect("got TERM");
    let (status, ..) = program.finish();
    assert_eq!(status.code(), Some(5));
}

#[test]
fn the_working_directory_stays() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("deep/er/f", "")]);
    let link = project.beside("link");
    symlink(project.path(), &link).unwrap();
    let mut command = project.agentfs();
    command.current_dir(link.join("deep/er"));
    command.args([
        "run",
        "--lower",
        link.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        "pwd -P; ls",
    ]);
    assert_eq!(
        Said::by(&mut command).out,
        format!("{}\nf\n", project.path().join("deep/er").display())
    );
}

#[test]
fn two_runs_at_once_see_only_their_own_changes() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("shared", "base")]);
    let script = |name: &str| format!("echo {name} > shared; echo done; read -r _; cat shared; ls");
    let mut one = project.start(&["--export", "../one"], &script("one"));
    let mut two = project.start(&["--export", "../two"], &script("two"));
    one.expect("done");
    two.expect("done");
    let status = project.ask(&["status"]);
    assert!(
        status.contains("run-1") && status.contains("run-2"),
        "{status}"
    );
    one.say("go on");
    two.say("go on");
    let (status, out, _) = one.finish();
    assert_eq!((status.code(), &*out), (Some(0), "one\nshared\n"));
    let (status, out, _) = two.finish();
    assert_eq!((status.code(), &*out), (Some(0), "two\nshared\n"));
    assert_eq!(project.read("shared"), "base");
}

#[test]
fn another_command_joins_a_branch_at_work() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut run = project.start(
        &["--branch", "mine", "--discard"],
        "echo new > f; echo done; read -r _; cat g",
    );
    run.expect("done");
    let joined = project.ask(&[
        "join",
        "mine",
        "--",
        "sh",
        "-c",
        "cat f; echo from join > g; pwd",
    ]);
    assert_eq!(joined, format!("new\n{}\n", project.path().display()));
    run.say("go on");
    let (status, out, _) = run.finish();
    assert_eq!((status.code(), &*out), (Some(0), "from join\n"));
    let late = project.say(&["join", "mine", "--", "true"]);
    assert_eq!(late.status, Some(125), "{late:?}");
}

#[test]
fn a_branch_at_work_is_not_entered_a_second_time_by_run() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let mut run = project.start(&["--branch", "b"], "read -r _");
    let second = project.run(&["--branch", "b"], "true");
    assert_eq!(second.status, Some(125));
    assert!(second.err.contains("agentfs join b"), "{}", second.err);
    run.say("go on");
    run.finish();
}

#[test]
fn what_a_killed_run_changed_can_be_continued() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let mut run = project.start(&[], "echo new > f; echo done $$; read -r _");
    let line = run.wait_for("done");
    let command: i32 = line.trim_start_matches("done ").parse().unwrap();
    run.signal(Signal::KILL);
    run.end_input();
    run.finish();
    // The command may go on, because it has its branch.
    let command = Pid::from_raw(command).unwrap();
    if let Err(error) = kill_process(command, Signal::KILL) {
        assert_eq!(error, rustix::io::Errno::SRCH, "it ended already");
    }
    project.wait_unmounted("run-1");
    let next = project.run(&[], "true");
    assert!(next.err.contains("agentfs branch"), "{next:?}");
    assert!(next.err.contains("run-1"), "{next:?}");
    let continued = project.run(&["--branch", "run-1", "--apply"], "cat f");
    assert_eq!(continued.out, "new\n", "{continued:?}");
    assert_eq!(project.read("f"), "new\n");
}

#[test]
fn no_backing_path_is_to_be_seen() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "text")]);
    let script = "exec 3<f; cp /bin/readlink /bin/cat .; realpath f; pwd -P; \
                  readlink /proc/self/cwd /proc/$$/fd/3; ./readlink /proc/self/exe; \
                  ./cat /proc/self/maps | grep -o '/.*/cat$' | sort -u; ./cat no-such-file; \
                  ./cat /proc/self/mountinfo";
    let said = project.run(&["--discard"], script);
    let here = project.path().display().to_string();
    let seen: Vec<&str> = said.out.lines().take(6).collect();
    let expected = [
        format!("{here}/f"),
        here.clone(),
        here.clone(),
        format!("{here}/f"),
        format!("{here}/readlink"),
        format!("{here}/cat"),
    ];
    assert_eq!(seen, expected, "{said:?}");
    let mut mounts = said.out.lines().filter(|line| line.contains(&here));
    let mount = mounts.next_back().unwrap();
    assert!(mount.contains(&format!(" / {here} ")), "{mount}");
    assert!(mount.contains(" - fuse.agentfs agentfs "), "{mount}");
    let error = "./cat: no-such-file: No such file or directory";
    assert!(said.err.contains(error), "{}", said.err);
}

#[test]
fn a_daemon_over_another_project_is_left_alone() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "first")]);
    let other = project.beside("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("f"), "second").unwrap();
    let mut first = project.start(&[], "read -r _; cat f");
    let mut command = project.agentfs();
    command
        .args(["run", "--lower"])
        .arg(&other)
        .args(["--", "cat"]);
    let second = Said::by(command.arg(other.join("f")));
    assert_eq!(second.out, "second\n", "{second:?}");
    first.say("go on");
    let (_, out, _) = first.finish();
    assert_eq!(out, "first\n");
    assert!(project.directory().join("runtime/agentfs").is_dir());
}

#[test]
fn a_control_socket_within_the_project_is_refused() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let around = project.directory().to_str().unwrap();
    let said = project.say(&["run", "--lower", around, "--", "true"]);
    assert_eq!(said.status, Some(125));
    assert!(said.err.contains("AGENTFS_SOCKET"), "{}", said.err);
    let root = project.say(&["run", "--lower", "/", "--", "true"]);
    assert_eq!(root.status, Some(125));
}

#[test]
fn a_run_within_a_run_is_refused_and_commands_there_are_about_its_branch() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old")]);
    let agentfs = env!("CARGO_BIN_EXE_agentfs");
    let script = format!("{agentfs} run -- true; echo $?; echo new > f; {agentfs} fs cat /f");
    let said = project.run(&["--discard"], &script);
    assert_eq!(said.out, "125\nnew\n", "{said:?}");
    assert!(said.err.contains("already is in a run"), "{}", said.err);
}

#[test]
fn without_a_mount_the_command_runs_in_the_directory_itself() {
    let project = Project::with(&[("f", "old")]);
    let said = project.run(
        &["--no-mount"],
        "echo new > f; grep -c shim- /proc/self/maps >&2",
    );
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(project.read("f"), "new\n");
    assert!(Path::new(&project.runtime()).is_dir());
}
