//! Checks that the programs of a run hear what they missed while their daemon was killed: each change
//! once, and no overflow where it is known what changed.

use std::fs;

use agentfs_testkit::environment::can_mount;
use agentfs_testkit::program::Program;
use rustix::process::{Signal, kill_process};

use crate::outliving::Kept;

/// Watches a directory as a program in another language does. Its input says when it reads.
const WATCHER: &str = "exec python3 -u -c '
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
fd = libc.inotify_init1(0)
libc.inotify_add_watch(fd, b\".\", int(sys.argv[1], 16))
opened = os.open(\"source\", os.O_RDONLY)
os.pread(opened, 100, 0)
print(\"watching\")
sys.stdin.readline()
while True:
    data = os.read(fd, 4096)
    while data:
        wd, mask, cookie, size = struct.unpack_from(\"iIII\", data)
        name = data[16:16 + size].rstrip(b\"\\0\").decode()
        print(name, hex(mask))
        if name == \"source\":
            print(os.pread(opened, 100, 0).decode(), end=\"\")
        data = data[16 + size:]
' ";

/// `IN_CREATE` and `IN_DELETE`.
const NAMES: &str = "300";
/// The same, `IN_MODIFY` and `IN_CLOSE_WRITE`.
const CONTENT: &str = "30a";

const OVERFLOW: &str = " 0x4000";

/// Starts the watcher with a mask in hexadecimal digits.
fn watch(kept: &Kept, mask: &str) -> Program {
    let script = format!("{WATCHER}{mask}");
    let options = ["--branch", "b", "--discard"];
    let watcher = kept.project.start(&options, &script);
    watcher.expect("watching");
    watcher
}

fn touch(kept: &Kept, path: &str) {
    kept.project.ask(&["fs", "touch", path, "--branch", "b"]);
}

/// Has the watcher read, and returns what it hears up to a last change.
#[track_caller]
fn heard(kept: &Kept, watcher: &Program) -> Vec<String> {
    touch(kept, "/end");
    let mut lines = Vec::new();
    loop {
        let line = watcher.line();
        if line == "end 0x100" {
            return lines;
        }
        lines.push(line);
    }
}

/// Kills the daemon, and calls `meanwhile` before the next one is started.
fn kill_and(kept: &Kept, meanwhile: impl FnOnce()) {
    let keepers = kept.keepers();
    let all = |signal| {
        for keeper in &keepers {
            kill_process(*keeper, signal).unwrap();
        }
    };
    assert!(!keepers.is_empty());
    all(Signal::STOP);
    kept.kill_daemon_and(|| {
        meanwhile();
        all(Signal::CONT);
    });
}

#[test]
fn a_watcher_hears_what_it_had_not_read_and_what_it_missed_once_and_in_order() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let mut watcher = watch(&kept, NAMES);
    touch(&kept, "/before");
    kept.kill_daemon();
    touch(&kept, "/after");
    kept.project.ask(&["fs", "rm", "/before", "--branch", "b"]);
    watcher.say("read");
    let expected = ["before 0x100", "after 0x100", "before 0x200"];
    assert_eq!(heard(&kept, &watcher), expected);
}

#[test]
fn a_watcher_that_slept_through_a_whole_daemon_gets_one_overflow() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let mut watcher = watch(&kept, NAMES);
    touch(&kept, "/before");
    for name in ["/during", "/after"] {
        kept.kill_daemon();
        touch(&kept, name);
    }
    watcher.say("read");
    // Nobody knows any more what the host did in the time of the second daemon.
    let expected = ["before 0x100", OVERFLOW];
    assert_eq!(expected.map(|_| watcher.line()), expected);
    assert_eq!(heard(&kept, &watcher), Vec::<String>::new());
}

#[test]
fn a_watcher_that_reads_hears_each_change_once_however_often_its_daemon_is_killed() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let mut watcher = watch(&kept, NAMES);
    watcher.say("read");
    let mut expected = Vec::new();
    for round in 0..3 {
        for name in ["before", "after"] {
            let name = format!("{name}{round}");
            touch(&kept, &format!("/{name}"));
            let line = format!("{name} 0x100");
            assert_eq!(watcher.line(), line);
            if name.starts_with("before") {
                kept.kill_daemon();
            }
            expected.push(line);
        }
    }
    assert_eq!(heard(&kept, &watcher), Vec::<String>::new());
}

#[test]
fn a_watcher_hears_what_the_host_writes_while_no_daemon_is_there_and_reads_it() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n")]);
    let mut watcher = watch(&kept, CONTENT);
    watcher.say("read");
    kill_and(&kept, || {
        fs::write(kept.project.path().join("source"), "by the host\n").unwrap();
    });
    let expected = ["source 0x2", "by the host", "source 0x8", "by the host"];
    assert_eq!(expected.map(|_| watcher.line()), expected);
}

#[test]
fn of_names_that_the_host_changes_while_no_daemon_is_there_a_watcher_hears_by_one_overflow() {
    if !can_mount() {
        return;
    }
    let kept = Kept::with(&[("source", "old\n"), ("other", "old\n")]);
    let mut watcher = watch(&kept, NAMES);
    watcher.say("read");
    kill_and(&kept, || {
        fs::remove_file(kept.project.path().join("other")).unwrap();
    });
    assert_eq!(watcher.line(), OVERFLOW);
    assert_eq!(heard(&kept, &watcher), Vec::<String>::new());
}
