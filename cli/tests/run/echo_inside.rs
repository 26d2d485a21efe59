//! Checks that an echo stays in the mount, whatever programs there put in its way, and that programs with
//! the library are notified of what could not be echoed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::project::Project;
use agentfs_testkit::daemon::{DaemonProcess, private_directory};
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;

const FILES: usize = 100;
/// The user nobody, by the number that Debian gives it.
const USER: &str = "65534";
/// How long an attack goes on.
const ATTACK: Duration = Duration::from_secs(5);
/// A script that gives a directory and a link out of the mount the same name in turn.
const SWAP: &str = "while mv d d_old && ln -s \"$0\" d && rm d && mv d_old d; do :; done";

fn name(number: usize) -> String {
    format!("f{number}")
}

/// Fills a directory that nobody may touch, with the names that are made and removed meanwhile.
fn fill(dir: &Path) {
    for number in 0..FILES {
        fs::write(dir.join(name(number)), "kept").unwrap();
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Makes and removes files in a directory of the host for as long as the attack goes on.
fn change(dir: &Path) {
    let end = Instant::now() + ATTACK;
    while Instant::now() < end {
        fill(dir);
        for number in 0..FILES {
            fs::remove_file(dir.join(name(number))).unwrap();
        }
    }
}

/// Asserts that every name is there, and no other.
#[track_caller]
fn assert_untouched(dir: &Path) {
    let all: BTreeSet<String> = (0..FILES).map(name).collect();
    assert_eq!(names(dir), all);
}

#[test]
fn files_elsewhere_stay_while_a_link_to_them_takes_the_place_of_a_directory() {
    if !can_mount() {
        return;
    }
    let project = Project::with(&[("d/kept", "")]);
    let elsewhere = tempfile::tempdir().unwrap();
    fill(elsewhere.path());
    let watch = "exec env -u LD_PRELOAD inotifywait -m d";
    let watcher = project.start(&["--branch", "b", "--discard"], watch);
    watcher.complains("Watches established");
    let swap = ["join", "b", "--", "sh", "-c", SWAP];
    let swap = Program::start(project.agentfs().args(swap).arg(elsewhere.path()));
    change(&project.path().join("d"));
    drop((swap, watcher));
    assert_untouched(elsewhere.path());
    assert!(echoes(&project.ask(&["status", "--json"])) > 0);
}

fn echoes(status: &str) -> u64 {
    let status: serde_json::Value = serde_json::from_str(status).unwrap();
    let counters = status["counters"].as_array().unwrap();
    let found = counters.iter().find(|it| it["name"] == "echoes");
    found.unwrap()["value"].as_u64().unwrap()
}

/// Root's daemon over root's project, of which one directory belongs to the user; and a directory
/// that root keeps from the user.
struct OfRoot {
    daemon: DaemonProcess,
    project: tempfile::TempDir,
    point: PathBuf,
    secret: PathBuf,
    _outer: tempfile::TempDir,
}

impl OfRoot {
    fn new() -> Option<Self> {
        if !can_mount() || !rustix::process::geteuid().is_root() {
            return None;
        }
        let (project, outer) = (private_directory(), private_directory());
        let for_all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(outer.path(), for_all.clone()).unwrap();
        let (point, secret) = (outer.path().join("mount"), outer.path().join("secret"));
        fs::create_dir(&point).unwrap();
        fs::create_dir(&secret).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
        fill(&secret);
        // The user may rename in it.
        fs::set_permissions(project.path(), for_all).unwrap();
        fs::create_dir_all(project.path().join("theirs/d")).unwrap();
        let user = USER.parse().ok();
        chown(project.path().join("theirs"), user, user).unwrap();
        chown(project.path().join("theirs/d"), user, user).unwrap();
        let lower = project.path().to_str().unwrap();
        let daemon = DaemonProcess::start_in(private_directory(), &["--lower", lower]);
        let mounted = daemon.run(&["mount", "main", point.to_str().unwrap()]);
        assert!(mounted.status.success(), "{mounted:?}");
        Some(Self {
            daemon,
            project,
            point,
            secret,
            _outer: outer,
        })
    }

    /// Returns a program of the user in a directory of the mount.
    fn as_user(&self, directory: &str, words: &[&str]) -> Command {
        let ids = ["--reuid", USER, "--regid", USER, "--clear-groups", "--"];
        let mut command = Command::new("setpriv");
        command.args(ids).args(words);
        command.current_dir(self.point.join(directory));
        command
    }
}

#[test]
fn an_ordinary_user_has_nothing_removed_that_is_roots() {
    let Some(it) = OfRoot::new() else { return };
    let watch = ["inotifywait", "-m", "d"];
    let watcher = Program::start(&mut it.as_user("theirs", &watch));
    watcher.complains("Watches established");
    let secret = it.secret.to_str().unwrap();
    let swap = Program::start(&mut it.as_user("theirs", &["sh", "-c", SWAP, secret]));
    change(&it.project.path().join("theirs/d"));
    drop((swap, watcher));
    assert_untouched(&it.secret);
    let status = it.daemon.run(&["status", "--json"]).stdout;
    assert!(echoes(&String::from_utf8(status).unwrap()) > 0);
}

#[test]
fn what_is_mounted_over_a_directory_stays_and_who_has_the_library_hears_by_record() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let project = Project::with(&[("d/old", ""), ("e", "")]);
    let options = ["--branch", "b", "--discard"];
    let unreached = "exec env -u LD_PRELOAD inotifywait -m --format '%w %e %f' d .";
    let unreached = project.start(&options, unreached);
    unreached.complains("Watches established");
    let reached = "exec inotifywait -m -e create,delete,delete_self --format '%w %e %f' d .";
    let reached = Program::start(
        project
            .agentfs()
            .args(["join", "b", "--", "sh", "-c", reached]),
    );
    reached.complains("Watches established");
    // The daemon finds out which programs watch.
    for name in ["first", "settled"] {
        let directory = format!("/d/{name}");
        project.ask(&["fs", "mkdir", &directory, "--branch", "b"]);
        unreached.expect(&format!("CREATE,ISDIR {name}"));
        reached.expect(&format!("CREATE,ISDIR {name}"));
    }
    // The covering mount ends with the mount namespace.
    let cover = "mount -t tmpfs none d && echo mine > d/old && mkdir d/first && ls d";
    assert_eq!(
        project.ask(&["join", "b", "--", "sh", "-c", cover]),
        "first\nold\n"
    );
    let outside: [&[&str]; 3] = [
        &["fs", "rm", "/d/old", "--branch", "b"],
        &["fs", "rmdir", "/d/first", "--branch", "b"],
        &["fs", "mkdir", "/d/new", "--branch", "b"],
    ];
    for words in outside {
        project.ask(words);
    }
    for expected in [
        "d/ DELETE old",
        "d/ DELETE,ISDIR first",
        "d/ CREATE,ISDIR new",
    ] {
        assert_eq!(reached.line(), expected);
    }
    let seen = project.ask(&["join", "b", "--", "sh", "-c", "ls d; cat d/old"]);
    assert_eq!(seen, "first\nold\nmine\n");
    // What can still be echoed is echoed, and each program hears it once.
    project.ask(&["fs", "mkdir", "/last", "--branch", "b"]);
    assert_eq!(reached.line(), "./ CREATE,ISDIR last");
    unreached.expect("./ CREATE,ISDIR last");
}
