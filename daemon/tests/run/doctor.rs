//! `agentfs doctor`: what is missing, and what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use crate::project::{Project, Said};

/// The lines about one thing.
fn told<'a>(said: &'a Said, what: &str) -> Vec<&'a str> {
    let lines = said.out.lines();
    lines.filter(|line| line.contains(what)).collect()
}

/// Runs a script as root of a user namespace, or as root, with `agentfs` as `$0`.
fn as_root(project: &Project, script: &str) -> Said {
    let mut command = project.command("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let words = ["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_agentfs")];
    Said::by(command.args(words))
}

#[test]
fn a_missing_device_is_told_with_what_to_do() {
    let project = Project::new();
    let said = as_root(&project, "mount -t tmpfs none /dev && exec \"$0\" doctor");
    assert_eq!(said.status, Some(0), "{said:?}");
    let [state, advice] = told(&said, "mounts (FUSE)")[..] else {
        panic!("{said:?}");
    };
    assert!(state.starts_with("MISSING"), "{state}");
    assert!(advice.contains("modprobe fuse"), "{advice}");
    let run = as_root(
        &project,
        "mount -t tmpfs none /dev && exec \"$0\" run -- true",
    );
    assert_eq!(run.status, Some(125), "{run:?}");
    assert!(run.err.contains("/dev/fuse"), "{run:?}");
}

#[test]
fn a_device_that_may_not_be_opened_is_told_with_what_to_do() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let project = Project::new();
    fs::copy(env!("CARGO_BIN_EXE_agentfs"), project.beside("agentfs")).unwrap();
    fs::set_permissions(project.directory(), Permissions::from_mode(0o755)).unwrap();
    let script = "mount -t tmpfs none /mnt && mknod -m 600 /mnt/fuse c 10 229 && \
        mount --bind /mnt/fuse /dev/fuse && \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups -- ../agentfs doctor";
    let said = as_root(&project, script);
    let [state, advice] = told(&said, "mounts (FUSE)")[..] else {
        panic!("{said:?}");
    };
    assert!(state.starts_with("MISSING"), "{state}");
    assert!(advice.contains("chmod 666 /dev/fuse"), "{advice}");
}

#[test]
fn namespaces_that_are_off_are_told_with_what_to_do() {
    let project = Project::new();
    let mut command = project.command("unshare");
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" doctor";
    let words = ["--user", "--map-root-user", "sh", "-c", script];
    let said = Said::by(command.args(words).arg(env!("CARGO_BIN_EXE_agentfs")));
    let [state, advice] = told(&said, "(user namespaces)")[..] else {
        panic!("{said:?}");
    };
    assert!(state.starts_with("limited"), "{state}");
    assert!(advice.contains("user.max_user_namespaces"), "{advice}");
}

#[test]
fn what_a_program_will_hear_is_told() {
    let project = Project::new();
    let about = |program: &str| {
        let said = project.say(&["doctor", program]);
        assert_eq!(said.status, Some(0), "{said:?}");
        told(&said, "the program").join("\n")
    };
    assert!(about("sh").starts_with("ok"), "{}", about("sh"));
    project.write("script", "#!/usr/bin/env -S sh\n");
    assert!(about("./script").starts_with("ok"), "{}", about("./script"));
    assert!(about("/sbin/ldconfig").contains("linked statically"));
    assert!(about("tail").contains("once a second"));
    assert!(about("no-such-program").starts_with("MISSING"));
    project.write("text", "nothing to run");
    assert!(about("./text").starts_with("MISSING"));
}

#[test]
fn a_program_with_other_rights_is_told() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let project = Project::new();
    let program = project.path().join("program");
    fs::copy(Path::new("/bin/sh"), &program).unwrap();
    chown(&program, Some(65_534), None).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    let said = project.say(&["doctor", "./program"]);
    assert!(told(&said, "setuid or setgid").len() == 1, "{said:?}");
}
