//! Tests that the daemon is killed and another one starts, while programs wait.

use std::path::Path;

use agentfs_testkit::daemon::DaemonProcess;
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::mount_table::wait_until_cut_off;
use agentfs_testkit::shim::{Script, scratch};
use tempfile::TempDir;

const OVERFLOW: &str = "-1:4000:0:";

/// Starts a program for which only the mount belongs to AgentFS.
fn program(daemon: &DaemonProcess) -> Script {
    Script::start_with(&daemon.socket(), |command| {
        command.env_remove("AGENTFS_ANY_FILESYSTEM");
    })
}

fn mount(daemon: &DaemonProcess, point: &Path) {
    daemon.succeeds(&["mount", "main", point.to_str().unwrap()]);
}

/// Reads until the wanted event comes, and returns all events up to then.
fn read_until(script: &mut Script, fd: i32, wanted: &str) -> Vec<String> {
    let mut events: Vec<String> = Vec::new();
    while !events.iter().any(|it| it == wanted) {
        let answer = script.ask(format!("read {fd} 4096"));
        events.extend(answer.split(' ').map(str::to_owned));
    }
    events
}

#[test]
fn watches_on_the_mount_of_a_killed_daemon_end_when_the_mount_is_taken_away() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let (point, native) = (TempDir::new().unwrap(), scratch());
    mount(&daemon, point.path());
    daemon.succeeds(&["fs", "mkdir", "/d"]);
    let mut script = program(&daemon);
    let fd = script.init(0);
    assert_eq!(script.add(fd, 0x300, point.path()), 1);
    assert_eq!(script.add(fd, 0x300, &point.path().join("d")), 2);
    assert_eq!(script.add(fd, 0x300, native.path()), 3);
    script.begin(format!("read {fd} 4096"));
    daemon.succeeds(&["fs", "mkdir", "/n"]);
    assert_eq!(script.answer(), "1:40000100:0:n");
    let directory = daemon.kill();
    wait_until_cut_off(point.path());
    rustix::mount::unmount(point.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    let mut heard = Vec::new();
    for wd in [1, 2] {
        let end = format!("{wd}:8000:0:");
        if !heard.contains(&end) {
            heard.extend(read_until(&mut script, fd, &end));
        }
    }
    // Without a daemon the kernel's events go on.
    std::fs::create_dir(native.path().join("k")).unwrap();
    assert_eq!(script.ask(format!("read {fd} 4096")), "3:40000100:0:k");
    script.begin(format!("read {fd} 4096"));
    let daemon = DaemonProcess::start_in(directory, &[]);
    assert_eq!(script.answer(), OVERFLOW);
    assert_eq!(script.ask(format!("nonblock {fd}")), "0");
    mount(&daemon, point.path());
    daemon.succeeds(&["fs", "mkdir", "/d"]);
    daemon.succeeds(&["fs", "mkdir", "/d/x"]);
    assert_eq!(
        script.ask(format!("read {fd} 4096")),
        "EAGAIN",
        "the old watches are gone"
    );
    let wd = script.add(fd, 0x300, &point.path().join("d"));
    assert_eq!(wd, 4);
    daemon.succeeds(&["fs", "mkdir", "/d/y"]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "4:40000100:0:y");
    assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
    script.end();
}

#[test]
fn a_watch_on_a_dead_mount_that_is_kept_busy_ends_and_hears_nothing_of_the_new_one() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let (point, native) = (TempDir::new().unwrap(), scratch());
    mount(&daemon, point.path());
    daemon.succeeds(&["fs", "mkdir", "/d"]);
    let mut script = program(&daemon);
    let fds = [0, 0].map(|flags| {
        let fd = script.init(flags);
        assert_eq!(script.add(fd, 0x300, &point.path().join("d")), 1);
        assert_eq!(script.add(fd, 0x300, native.path()), 2);
        fd
    });
    // The old mount cannot end while this file is open.
    let busy = std::fs::File::open(point.path().join("d")).unwrap();
    let directory = daemon.kill();
    wait_until_cut_off(point.path());
    let daemon = DaemonProcess::start_in(directory, &[]);
    mount(&daemon, point.path());
    daemon.succeeds(&["fs", "mkdir", "/d"]);
    for fd in fds {
        let heard = read_until(&mut script, fd, "1:8000:0:");
        assert_eq!(heard, [OVERFLOW, "1:8000:0:"]);
        assert_eq!(script.add(fd, 0x300, &point.path().join("d")), 3);
    }
    daemon.succeeds(&["fs", "mkdir", "/d/x"]);
    std::fs::create_dir(native.path().join("end")).unwrap();
    for fd in fds {
        let mut heard = read_until(&mut script, fd, "2:40000100:0:end");
        heard.sort();
        assert_eq!(heard, ["2:40000100:0:end", "3:40000100:0:x"]);
    }
    drop(busy);
    script.end();
}

#[test]
fn a_program_asleep_in_kevent_is_told_once_of_a_new_daemon_and_its_own_events_go_on() {
    if !can_mount() {
        return;
    }
    let daemon = DaemonProcess::start();
    let point = TempDir::new().unwrap();
    mount(&daemon, point.path());
    daemon.succeeds(&["fs", "mkdir", "/a"]);
    daemon.succeeds(&["fs", "mkdir", "/b"]);
    let (a, b) = (point.path().join("a"), point.path().join("b"));
    let mut demo = Script::start_kq_demo(&daemon.socket(), &[&a, &b], |_| {});
    daemon.succeeds(&["fs", "mkdir", "/a/x"]);
    assert_eq!(demo.answer(), format!("{}: WRITE LINK", a.display()));
    let directory = daemon.kill();
    assert_eq!(demo.ask("a line"), "stdin: a line");
    // The program's open files keep the dead mount.
    wait_until_cut_off(point.path());
    let daemon = DaemonProcess::start_in(directory, &[]);
    let mut heard = [demo.answer(), demo.answer()];
    heard.sort();
    assert_eq!(heard, [&a, &b].map(|it| format!("{}: WRITE", it.display())));
    // The files that have the old numbers now are none that the program watches.
    mount(&daemon, point.path());
    daemon.succeeds(&["fs", "mkdir", "/a"]);
    daemon.succeeds(&["fs", "mkdir", "/b"]);
    daemon.succeeds(&["fs", "mkdir", "/b/x"]);
    assert_eq!(demo.ask("a line"), "stdin: a line");
    demo.end();
}
