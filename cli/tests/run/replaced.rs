//! Checks commands when another directory than the one that the daemon has is at the project's
//! path.

use std::fs;
use std::path::Path;

use crate::project::{Project, Said};
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;

/// Creates a project with a file and with kept work.
fn kept() -> Project {
    let project = Project::with(&[("f", "old\n")]);
    let said = project.run(&["--keep"], "echo kept > made");
    assert_eq!(said.status, Some(0), "{said:?}");
    project
}

/// Puts another directory in the project's place, as after a new clone.
fn replace(project: &Project) {
    fs::rename(project.path(), project.beside("moved")).unwrap();
    fs::create_dir(project.path()).unwrap();
    project.write("f", "new\n");
}

/// Returns the commands that are printed for the earlier work.
#[track_caller]
fn hints_of_before(said: &Said, project: &Path) -> Vec<String> {
    let before = format!("that was at {} before", project.display());
    assert!(said.err.contains(&before), "{}", said.err);
    let hints = said.hints();
    assert_eq!(hints.len(), 2, "{}", said.err);
    hints
}

#[test]
fn a_new_directory_is_shown_while_the_daemon_of_the_old_one_lingers() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old\n")]);
    assert_eq!(project.run(&[], "cat f").out, "old\n");
    replace(&project);
    let said = project.run(&["--apply"], "cat f; echo made > made");
    assert_eq!((said.status, &*said.out), (Some(0), "new\n"), "{said:?}");
    assert_eq!(project.read("made"), "made\n");
    assert!(!project.beside("moved/made").exists());
}

#[test]
fn a_directory_that_is_deleted_and_made_anew_is_another_one() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old\n")]);
    for round in 0..3 {
        let content = format!("{round}\n");
        fs::remove_dir_all(project.path()).unwrap();
        fs::create_dir(project.path()).unwrap();
        project.write("f", &content);
        let said = project.run(&["--apply"], "cat f; mkdir dir");
        assert_eq!((said.status, &*said.out), (Some(0), &*content), "{said:?}");
        assert!(project.has("dir"), "{said:?}");
    }
}

#[test]
fn the_kept_work_of_the_old_directory_is_told_of_and_not_mixed_in() {
    if !can_mount() {
        return;
    }
    let project = kept();
    replace(&project);
    let said = project.run(&["--discard"], "cat f; ls");
    assert_eq!(said.out, "new\nf\n", "{said:?}");
    let hints = hints_of_before(&said, &project.path());
    assert_eq!(project.type_in(&project.path(), &hints[0]), "A /made\n");
    project.type_in(&project.path(), &hints[1]);
    let exported = fs::read_dir(project.beside("home/.local/state/agentfs/changes"));
    let mut exported = exported.unwrap().map(|it| it.unwrap().path());
    let of_project = exported.next().unwrap();
    let of_run = fs::read_dir(of_project).unwrap().next().unwrap().unwrap();
    let made = of_run.path().join("files/made");
    assert_eq!(fs::read_to_string(made).unwrap(), "kept\n");
    assert!(!project.has("made"));
}

#[test]
fn nothing_is_applied_to_a_directory_that_was_replaced() {
    if !can_mount() {
        return;
    }
    let project = kept();
    let socket = project.socket();
    let socket = socket.to_str().unwrap();
    replace(&project);
    let apply = ["--socket", socket, "branch", "apply", "run-1"];
    let refused = project.say(&apply);
    assert_eq!(refused.status, Some(1), "{refused:?}");
    let moved = project.beside("moved");
    assert!(refused.err.contains(moved.to_str().unwrap()), "{refused:?}");
    assert!(!project.has("made") && !moved.join("made").exists());
    for hint in refused.hints() {
        project.type_in(&project.path(), &hint);
    }
    let status = project.ask(&["--socket", socket, "status"]);
    let (path, now) = (project.path(), moved.display());
    let about = format!("{}, which is at {now} now", path.display());
    assert!(status.contains(&about), "{status}");
    fs::remove_dir_all(project.path()).unwrap();
    fs::rename(moved, project.path()).unwrap();
    project.ask(&["branch", "apply", "run-1"]);
    assert_eq!(project.read("made"), "kept\n");
}

#[test]
fn a_run_whose_project_is_replaced_meanwhile_is_exported_and_not_applied() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old\n")]);
    let mut run = project.start(&["--apply"], "echo made > made; echo done; read -r _");
    run.expect("done");
    replace(&project);
    run.say("go on");
    let (status, _, err) = run.finish();
    assert_eq!(status.code(), Some(125), "{err}");
    assert!(err.contains("exported to"), "{err}");
    assert!(!project.has("made"));
    assert!(!project.beside("moved/made").exists());
}

#[test]
fn a_moved_project_has_its_branches_where_it_is_now() {
    if !can_mount() {
        return;
    }
    let project = kept();
    let moved = project.beside("moved");
    fs::rename(project.path(), &moved).unwrap();
    assert_eq!(
        project.ask_in(&moved, &["branch", "diff", "run-1"]),
        "A /made\n"
    );
    let said = project.say_in(&moved, &["run", "--discard", "--", "ls"]);
    assert_eq!(said.out, "f\n", "{said:?}");
    for hint in hints_of_before(&said, &project.path()) {
        project.type_in(&moved, &hint);
    }
}

/// Returns the command by which, as `branch export` says, the changes are applied.
#[track_caller]
fn hint_of_export(said: &str) -> String {
    let hint = said.split_once("to apply the changes: ").unwrap().1;
    hint.trim_end().to_owned()
}

#[test]
fn the_kept_work_of_a_deleted_project_is_exported_and_does_not_overwrite_the_new_one() {
    if !can_mount() {
        return;
    }
    let project = kept();
    project.run(&["--branch", "run-1", "--keep"], "echo kept >> f");
    fs::remove_dir_all(project.path()).unwrap();
    fs::create_dir(project.path()).unwrap();
    let said = project.run(&["--discard"], "ls");
    let hints = hints_of_before(&said, &project.path());
    project.write("f", "of the new one\n");
    let hint = hint_of_export(&project.type_in(&project.path(), &hints[1]));
    let mut shell = project.command("sh");
    let agentfs = env!("CARGO_BIN_EXE_agentfs");
    let refused = Said::by(shell.args(["-c", &hint.replacen("agentfs", agentfs, 1)]));
    assert_eq!(refused.status, Some(1), "{hint}: {refused:?}");
    assert!(refused.out.contains("conflict /f"), "{refused:?}");
    assert_eq!(project.read("f"), "of the new one\n");
    fs::remove_file(project.path().join("f")).unwrap();
}

#[test]
fn what_a_deleted_project_had_is_told_of() {
    if !can_mount() {
        return;
    }
    let project = kept();
    fs::remove_dir_all(project.path()).unwrap();
    fs::create_dir(project.path()).unwrap();
    let said = project.run(&["--discard"], "ls");
    assert_eq!(said.out, "", "{said:?}");
    for hint in hints_of_before(&said, &project.path()) {
        project.type_in(&project.path(), &hint);
    }
}

#[test]
fn a_service_whose_directory_was_replaced_is_not_used() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old\n")]);
    let mut command = project.agentfs();
    command.args(["daemon", "--lower", "."]);
    let daemon = Program::start(&mut command);
    daemon.complains("listening");
    replace(&project);
    let said = project.run(&["--discard"], "cat f");
    assert_eq!(said.out, "new\n", "{said:?}");
    let hints = said.hints();
    assert_eq!(hints.len(), 1, "{}", said.err);
    project.type_in(&project.path(), &hints[0]);
    let mut daemon = daemon;
    assert!(daemon.finish().0.success(), "it was ended");
}

/// A filesystem over a directory, until this is dropped.
struct Over<'a>(&'a Path);

impl<'a> Over<'a> {
    fn mount(path: &'a Path) -> Self {
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "none"]).arg(path).status();
        assert!(mount.unwrap().success());
        Self(path)
    }
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0)
            .status();
        assert!(unmounted.unwrap().success());
    }
}

#[test]
fn a_filesystem_that_is_mounted_over_the_project_is_another_project() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let project = kept();
    let path = project.path();
    let over = Over::mount(&path);
    let said = project.run(&["--apply"], "ls; echo made > made");
    assert_eq!((said.status, &*said.out), (Some(0), ""), "{said:?}");
    assert_eq!(project.read("made"), "made\n");
    for hint in hints_of_before(&said, &path) {
        project.type_in(&path, &hint);
    }
    // The daemon over the filesystem keeps it busy until the daemon ends.
    let status = project.ask(&["status"]);
    assert!(
        status.contains(&format!("over {}\n", path.display())),
        "{status}"
    );
    project.ask(&["shutdown"]);
    drop(over);
    assert!(!project.has("made"));
    assert_eq!(project.ask(&["branch", "diff", "run-1"]), "A /made\n");
}

#[test]
fn a_process_left_in_a_project_that_was_renamed_is_told_of_and_joined() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let inner = project.another("outer/inner");
    let fifo = project.beside("fifo");
    let script = format!(
        "mkfifo {0}; echo new > f; (read -r _ < {0}) > /dev/null 2>&1 < /dev/null & echo on; read -r _",
        fifo.display()
    );
    let mut command = project.agentfs();
    command.current_dir(&inner);
    command.args(["run", "--keep", "--", "sh", "-c", &script]);
    let mut run = Program::start(&mut command);
    run.expect("on");
    let renamed = project.beside("renamed");
    fs::rename(project.beside("outer"), &renamed).unwrap();
    let joined = project.say_in(&renamed.join("inner"), &["join", "run-1", "--", "cat", "f"]);
    assert_eq!(
        (joined.status, &*joined.out),
        (Some(0), "new\n"),
        "{joined:?}"
    );
    run.say("go on");
    let (_, _, err) = run.finish();
    assert!(err.contains("still is at work in run-1"), "{err}");
    fs::write(&fifo, "go on\n").unwrap();
    project.wait_unmounted("run-1");
}

#[test]
fn what_a_shutdown_exports_of_a_moved_project_is_applied_where_that_is_now() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("f", "old\n")]);
    let kept = project.run(&["--in-memory", "--keep"], "echo kept > made");
    assert_eq!(kept.status, Some(0), "{kept:?}");
    let moved = project.beside("moved");
    fs::rename(project.path(), &moved).unwrap();
    fs::create_dir(project.path()).unwrap();
    let said = project.ask_in(&moved, &["shutdown"]);
    let (_, hint) = said.split_once("to apply them: ").unwrap();
    project.type_in(project.directory(), hint.lines().next().unwrap());
    assert_eq!(fs::read_dir(project.path()).unwrap().count(), 0);
    assert!(said.contains(moved.to_str().unwrap()), "{said}");
}
