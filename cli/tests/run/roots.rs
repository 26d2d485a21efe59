//! Checks which directory `agentfs run` takes for the project.

use std::fs;
use std::path::Path;

use crate::project::{Project, Said};
use agentfs_testkit::environment::can_mount;

/// The directory in which the command runs, and the root of its project.
const WHERE: &str = "pwd; echo made > made";

#[track_caller]
fn run_in(project: &Project, directory: &Path, options: &[&str]) -> Said {
    let mut command = project.agentfs();
    command.current_dir(directory).arg("run").args(options);
    let said = Said::by(command.args(["--", "sh", "-c", WHERE]));
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(said.out, format!("{}\n", directory.display()));
    said
}

#[test]
fn in_a_repository_it_is_the_root_and_the_command_starts_where_it_is_called() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("deep/er/f", "")]);
    fs::create_dir(project.path().join(".git")).unwrap();
    let deep = project.path().join("deep/er");
    let said = run_in(&project, &deep, &["--keep"]);
    assert!(said.err.contains("A /deep/er/made"), "{}", said.err);
    let root = format!("the project is {}", project.path().display());
    assert!(said.err.contains(&root), "{}", said.err);
    let diff = project.ask_in(&deep, &["branch", "diff", "run-1"]);
    assert_eq!(diff, "A /deep/er/made\n");
    let own = run_in(&project, &deep, &["--lower", ".", "--discard"]);
    assert!(own.err.contains("A /made"), "{}", own.err);
}

#[test]
fn below_a_project_that_has_a_daemon_it_is_that_project() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("deep/er/f", "")]);
    project.run(&["--keep"], "echo kept > kept");
    let deep = project.path().join("deep/er");
    let said = run_in(&project, &deep, &["--apply"]);
    assert!(said.err.contains("run-1"), "the hint: {}", said.err);
    assert!(said.err.contains("A /deep/er/made"), "{}", said.err);
    assert_eq!(project.read("deep/er/made"), "made\n");
}

#[test]
fn the_repository_of_another_user_is_not_taken() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let project = Project::with(&[("deep/f", "")]);
    fs::create_dir(project.path().join(".git")).unwrap();
    std::os::unix::fs::chown(project.path(), Some(65_534), None).unwrap();
    let said = run_in(&project, &project.path().join("deep"), &["--discard"]);
    assert!(said.err.contains("A /made"), "{}", said.err);
}
