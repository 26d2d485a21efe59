//! Checks runs and the demo of a user without privileges.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use crate::demo::{nothing_is_left, shows_a_watcher, shows_both_branches};
use crate::project::{Project, Said};
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;

/// The user nobody, by the number that Debian gives it.
const USER: u32 = 65_534;

/// Becomes the user, with a `/dev/fuse` that has the permissions `$MODE`, whatever it is here.
const BECOME: &str = "mount -t tmpfs none /mnt && mknod /mnt/fuse c 10 229 && chmod $MODE /mnt/fuse && \
    mount --bind /mnt/fuse /dev/fuse && \
    exec setpriv --reuid=65534 --regid=65534 --clear-groups -- \"$@\"";

/// Returns a project that belongs to the user, as the program does. It is `None` when the tests do not run
/// as root: then every other test is about an ordinary user.
fn project() -> Option<Project> {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return None;
    }
    let project = Project::with(&[("f", "old\n"), ("theirs", "other\n")]);
    fs::copy(env!("CARGO_BIN_EXE_agentfs"), project.beside("agentfs")).unwrap();
    for name in ["", "project", "runtime", "home", "project/f"] {
        chown(project.beside(name), Some(USER), Some(USER)).unwrap();
    }
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(project.beside("runtime"), private).unwrap();
    // The group is one that the user's own namespace does not know.
    chown(project.beside("project/f"), Some(USER), Some(0)).unwrap();
    Some(project)
}

fn as_user(project: &Project, words: &[&str]) -> Command {
    let mut command = project.command("unshare");
    command
        .env("MODE", "666")
        .args(["-m", "sh", "-c", BECOME, "sh"])
        .arg(project.beside("agentfs"))
        .args(words);
    command
}

#[test]
fn an_ordinary_user_works_in_a_branch() {
    let Some(project) = project() else { return };
    let script = "id -u; cat f; echo more >> f; echo new > made; stat -c %u f made; \
                  cat theirs; (echo x > theirs) 2>/dev/null || echo refused";
    let words = ["run", "--apply", "--", "sh", "-c", script];
    let said = Said::by(&mut as_user(&project, &words));
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(
        said.out, "65534\nold\n65534\n65534\nother\nrefused\n",
        "{said:?}"
    );
    assert_eq!(project.read("f"), "old\nmore\n");
    assert_eq!(project.read("made"), "new\n");
    assert_eq!(project.read("theirs"), "other\n");
}

/// Starts a watcher in the branch `b`, and returns it when it has heard of a change from outside.
fn hears_from_outside(project: &Project, script: &str) -> Program {
    let words = [
        "run",
        "--branch",
        "b",
        "--discard",
        "--",
        "sh",
        "-c",
        script,
    ];
    let program = Program::start(&mut as_user(project, &words));
    program.complains("Watches established");
    let touch = ["fs", "touch", "/from-outside", "--branch", "b"];
    assert_eq!(Said::by(&mut as_user(project, &touch)).status, Some(0));
    program.expect("CREATE from-outside");
    program
}

#[test]
fn a_stock_program_of_an_ordinary_user_hears_and_is_joined() {
    let Some(project) = project() else { return };
    let script = "echo ready; exec inotifywait -m --format '%e %f' .";
    let program = hears_from_outside(&project, script);
    let join = ["join", "b", "--", "sh", "-c", "ls; : > joined"];
    let joined = Said::by(&mut as_user(&project, &join));
    assert_eq!(joined.out, "f\nfrom-outside\ntheirs\n", "{joined:?}");
    program.expect("CREATE joined");
}

#[test]
fn a_program_without_the_library_hears_a_change_from_outside() {
    let Some(project) = project() else { return };
    let script = "exec env -u LD_PRELOAD inotifywait -m -e create --format '%e %f' .";
    let _program = hears_from_outside(&project, script);
}

/// Returns the demo of the user, whose directory for temporary files is the runtime directory.
fn demo(project: &Project) -> Command {
    let mut command = as_user(project, &["demo"]);
    command.env("TMPDIR", project.beside("runtime"));
    command
}

#[test]
fn the_demo_is_shown_to_an_ordinary_user() {
    let Some(project) = project() else { return };
    shows_a_watcher(&Said::by(&mut demo(&project)));
    nothing_is_left(&project.beside("runtime"));
}

#[test]
fn without_mounts_the_demo_says_why_and_shows_what_works() {
    let Some(project) = project() else { return };
    let said = Said::by(demo(&project).env("MODE", "600"));
    shows_both_branches(&said);
    for line in [
        "No program can be started in a branch on this machine: ",
        "chmod 666 /dev/fuse (as root)",
        "   $ agentfs watch / --branch french &\n",
        "   [the watcher] modified  /TODO\n",
        "   A /TODO\n   M /greetings.txt\n",
        "   M /README\n",
    ] {
        assert!(said.out.contains(line), "{line:?}: {said:?}");
    }
    assert!(!said.out.contains("$ agentfs run"), "{said:?}");
    nothing_is_left(&project.beside("runtime"));
}
