//! Checks `agentfs doctor`: what it finds missing, and what it advises.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use agentfs_testkit::environment::can_mount;
use rustix::fs::XattrFlags;

use crate::project::{Project, Said};

/// The file capability `CAP_CHOWN`, permitted and effective (capabilities(7),
/// `VFS_CAP_REVISION_2`).
const CHOWN: [u8; 20] = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Returns the lines about one check.
fn lines_about<'a>(said: &'a Said, what: &str) -> Vec<&'a str> {
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
    let [state, advice] = lines_about(&said, "mounts (FUSE)")[..] else {
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
    let [state, advice] = lines_about(&said, "mounts (FUSE)")[..] else {
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
    let [state, advice] = lines_about(&said, "(user namespaces)")[..] else {
        panic!("{said:?}");
    };
    assert!(state.starts_with("limited"), "{state}");
    assert!(advice.contains("user.max_user_namespaces"), "{advice}");
}

#[test]
fn a_run_that_may_make_no_namespace_says_who_tells_why() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    let mut command = project.command("unshare");
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
        exec setpriv --bounding-set=-sys_admin -- \"$0\" run -- true";
    let words = ["--user", "--map-root-user", "sh", "-c", script];
    let said = Said::by(command.args(words).arg(env!("CARGO_BIN_EXE_agentfs")));
    assert_eq!(said.status, Some(125), "{said:?}");
    assert!(
        said.err.contains("no private mount can be made"),
        "{said:?}"
    );
    assert!(said.err.contains("`agentfs doctor` shows"), "{said:?}");
}

#[test]
fn what_a_program_will_hear_is_told() {
    let project = Project::new();
    let about = |program: &str| {
        let said = project.say(&["doctor", program]);
        assert_eq!(said.status, Some(0), "{said:?}");
        lines_about(&said, "the program").join("\n")
    };
    assert!(about("sh").starts_with("ok"), "{}", about("sh"));
    project.write("script", "#!/usr/bin/env -S sh\n");
    assert!(about("./script").starts_with("ok"), "{}", about("./script"));
    assert!(about("/sbin/ldconfig").contains("linked statically"));
    assert!(about("/sbin/ldconfig").contains("the kernel notifies it"));
    assert!(about("no-such-program").starts_with("MISSING"));
    project.write("text", "nothing to run");
    assert!(about("./text").starts_with("MISSING"));
}

#[test]
fn a_program_of_another_c_library_is_told_with_what_to_do() {
    let project = Project::new();
    let mut program = fs::read("/bin/sh").unwrap();
    let loader = b"/lib64/ld-linux-x86-64.so.2\0";
    let Some(at) = program.windows(loader.len()).position(|it| it == loader) else {
        return;
    };
    let musl = b"/lib/ld-musl-x86_64.so.1\0";
    program[at..at + musl.len()].copy_from_slice(musl);
    fs::write(project.path().join("program"), program).unwrap();
    let said = project.say(&["doctor", "./program"]);
    let [state, advice] = lines_about(&said, "the program")[..] else {
        panic!("{said:?}");
    };
    assert!(state.contains("linked with musl"), "{state}");
    assert!(advice.contains("env -u LD_PRELOAD"), "{advice}");
}

#[test]
fn tools_that_refuse_mounts_are_told_with_what_to_do() {
    let project = Project::new();
    let tools = [
        ("tail", "-s 0.1"),
        ("tsc", "must lie in the project"),
        ("watchman", "watchman shutdown-server"),
    ];
    for (name, advice) in tools {
        project.write(name, "#!/bin/sh\n");
        let said = project.say(&["doctor", &format!("./{name}")]);
        let lines = lines_about(&said, advice);
        assert_eq!(lines.len(), 1, "{name}: {said:?}");
        assert!(lines[0].starts_with("the program: "), "{lines:?}");
    }
}

#[test]
fn a_program_with_other_rights_is_told_with_what_to_do() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let project = Project::new();
    fs::copy(env!("CARGO_BIN_EXE_agentfs"), project.beside("agentfs")).unwrap();
    fs::set_permissions(project.directory(), Permissions::from_mode(0o755)).unwrap();
    let setuid = project.path().join("setuid");
    let capable = project.path().join("capable");
    for program in [&setuid, &capable] {
        fs::copy(Path::new("/bin/sh"), program).unwrap();
    }
    fs::set_permissions(&setuid, Permissions::from_mode(0o4755)).unwrap();
    rustix::fs::setxattr(&capable, "security.capability", &CHOWN, XattrFlags::CREATE).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    for program in ["./setuid", "./capable"] {
        let mut command = project.command("setpriv");
        let command = command.args(nobody).args(["--", "../agentfs", "doctor"]);
        let said = Said::by(command.arg(program));
        let [state, advice] = lines_about(&said, "the program")[..] else {
            panic!("{said:?}");
        };
        assert!(state.contains("setuid or setgid, or has cap"), "{state}");
        assert!(advice.contains("runs without its privileges"), "{advice}");
    }
    let by_root = project.say(&["doctor", "./setuid"]);
    let [state] = lines_about(&by_root, "the program")[..] else {
        panic!("{by_root:?}");
    };
    assert!(
        state.starts_with("ok"),
        "it has root's rights anyway: {state}"
    );
}

#[test]
fn directories_that_get_no_watch_are_told_before_a_run_and_when_it_starts() {
    if !can_mount() {
        return;
    }
    let project = Project::new();
    for number in 0..30 {
        project.write(&format!("d{number}/f"), "text");
    }
    let limited = |words: &str| {
        let script = format!("echo 10 > /proc/sys/user/max_inotify_watches && exec \"$0\" {words}");
        let mut command = project.command("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        Said::by(command.arg(env!("CARGO_BIN_EXE_agentfs")))
    };
    let doctor = limited("doctor");
    let [state, advice] = lines_about(&doctor, "watching this directory")[..] else {
        panic!("{doctor:?}");
    };
    assert!(state.starts_with("limited"), "{state}");
    assert!(state.contains("31 directories on "), "{state}");
    assert!(state.contains("10 of 10 inotify watches"), "{state}");
    let allow = "sysctl fs.inotify.max_user_watches=";
    assert!(advice.contains(allow), "{advice}");
    let run = limited("run -- cat d0/f d29/f");
    assert_eq!((run.status, &*run.out), (Some(0), "texttext\n"), "{run:?}");
    let lines: Vec<&str> = run.err.lines().collect();
    let [line] = lines[..] else {
        panic!("{run:?}");
    };
    let place = project.path().canonicalize().unwrap();
    let expected = format!(
        "agentfs: 21 of 31 directories of {} are not",
        place.display()
    );
    assert!(line.starts_with(&expected), "{line}");
    assert!(line.contains(allow), "{line}");
    // Another daemon, which has enough watches, prints no warning.
    let project = Project::new();
    let run = project.say(&["run", "--", "true"]);
    assert_eq!((run.status, &*run.err), (Some(0), ""), "{run:?}");
    let doctor = project.say(&["doctor"]);
    assert!(reports_ok(&doctor), "{doctor:?}");
}

fn reports_ok(said: &Said) -> bool {
    lines_about(said, "watching this directory")
        .iter()
        .any(|line| line.starts_with("ok"))
}
