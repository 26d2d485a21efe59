//! Tests how a program's watches are registered with the daemon, and how they end.

use agentfs_proto::registration::Registration;
use agentfs_testkit::scripted::{Scripted, device, event};
use agentfs_testkit::shim::{Script, scratch};

const NONBLOCK: i32 = 0o4000;

fn inode(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn watches_are_registered_when_the_call_returns_with_the_mask_in_force() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    let (file, st_dev) = (tree.path().join("f"), device(tree.path()));
    std::fs::write(&file, "").unwrap();
    let mut expected = Vec::new();
    let mut set = |wd: u32, mask: u32, path: &std::path::Path| {
        expected.push(Registration::Set {
            queue: 1,
            wd,
            mask,
            st_dev,
            st_ino: inode(path),
        });
        expected.clone()
    };
    assert_eq!(script.add(fd, 0x0100_0fff, tree.path()), 1);
    assert_eq!(daemon.registrations(), set(1, 0xfff, tree.path()));
    assert_eq!(script.add(fd, 0x2, &file), 2);
    assert_eq!(daemon.registrations(), set(2, 0x2, &file));
    // The mask is added to by IN_MASK_ADD, and then replaced.
    assert_eq!(script.add(fd, 0x2000_0004, &file), 2);
    assert_eq!(daemon.registrations(), set(2, 0x6, &file));
    assert_eq!(script.add(fd, 0x8000_0008, &file), 2);
    assert_eq!(daemon.registrations(), set(2, 0x8000_0008, &file));
    // The errors are the kernel's, and nothing is registered.
    assert_eq!(
        script.ask(format!("add {fd} 30000002 {}", file.display())),
        "EINVAL"
    );
    assert_eq!(
        script.ask(format!("add {fd} 10000002 {}", file.display())),
        "EEXIST"
    );
    assert_eq!(script.ask(format!("add {fd} 2 /nowhere")), "ENOENT");
    assert_eq!(script.ask(format!("rm {fd} 77")), "EINVAL");
    // syscall(2) registers as well.
    let answer = script.number(format!("sysadd {fd} 10 {}", file.display()));
    assert_eq!(answer, 2);
    let found = daemon.registrations();
    let expected = set(2, 0x10, &file);
    let without_foreign_removal: Vec<_> = found
        .into_iter()
        .filter(|it| *it != Registration::Remove { queue: 1, wd: 77 })
        .collect();
    assert_eq!(without_foreign_removal, expected);
}

#[test]
fn wds_are_those_of_a_program_without_the_library() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    assert_eq!(script.add(fd, 0x2, std::path::Path::new("/proc")), 1);
    for expected in 2..20 {
        let directory = tree.path().join(expected.to_string());
        std::fs::create_dir(&directory).unwrap();
        assert_eq!(script.add(fd, 0x2, &directory), expected);
    }
}

#[test]
fn a_watch_elsewhere_meets_no_daemon() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let elsewhere = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut script = Script::start_with(&daemon.socket(), |command| {
        command.env_remove("AGENTFS_ANY_FILESYSTEM");
    });
    let fd = script.init(NONBLOCK);
    script.add(fd, 0xfff, elsewhere.path());
    script.add(fd, 0xfff, tree.path());
    assert_eq!(daemon.queues(), 0);
    std::fs::create_dir(elsewhere.path().join("a")).unwrap();
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:40000100:0:a");
    assert_eq!(script.ask(format!("fionread {fd}")), "0");
}

#[test]
fn a_removed_watch_delivers_what_was_queued_and_then_one_ignored() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    script.add(fd, 0xfff, tree.path());
    daemon.inject(1, &[event(1, 2, "before")]);
    assert_eq!(script.ask(format!("rm {fd} 1")), "0");
    assert_eq!(
        daemon.registrations().last(),
        Some(&Registration::Remove { queue: 1, wd: 1 })
    );
    assert_eq!(
        script.ask(format!("read {fd} 4096")),
        "1:2:0:before 1:8000:0:"
    );
    // The watch is gone, so an event that the daemon had under way is not delivered.
    daemon.inject(1, &[event(1, 2, "after")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
    assert_eq!(script.ask(format!("rm {fd} 1")), "EINVAL");
    // The wd is not used again.
    assert_eq!(script.add(fd, 0xfff, tree.path()), 2);
    daemon.inject(1, &[event(1, 2, "old"), event(2, 2, "new")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "2:2:0:new");
}

#[test]
fn an_end_that_the_daemon_tells_is_told_once_and_ends_the_kernels_watch() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    let file = tree.path().join("f");
    std::fs::write(&file, "").unwrap();
    assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
    assert_eq!(script.add(fd, 0xfff, &file), 2);
    daemon.inject(
        1,
        &[
            event(2, 4, ""),
            event(2, 0x400, ""),
            event(2, 0x8000, ""),
            event(1, 0x200, "f"),
        ],
    );
    assert_eq!(
        script.ask(format!("read {fd} 4096")),
        "2:4:0: 2:400:0: 2:8000:0: 1:200:0:f"
    );
    assert_eq!(script.ask(format!("poll {fd} 0")), "0");
    assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
    // The kernel's watch on the file is gone; that on the directory is not.
    std::fs::write(&file, "x").unwrap();
    let answer = script.ask(format!("read {fd} 4096"));
    assert!(
        answer.contains("1:2:0:f") && !answer.contains("2:2"),
        "{answer}"
    );
    assert_eq!(script.ask(format!("rm {fd} 2")), "EINVAL");
    assert_eq!(script.add(fd, 0xfff, &file), 3);
}

#[test]
fn a_oneshot_watch_that_fires_in_the_kernel_is_over_in_the_daemon() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    assert_eq!(script.add(fd, 0x8000_0fff, tree.path()), 1);
    std::fs::create_dir(tree.path().join("a")).unwrap();
    daemon.inject(1, &[event(1, 2, "too-late")]);
    assert_eq!(
        script.ask(format!("read {fd} 4096")),
        "1:40000100:0:a 1:8000:0:"
    );
    assert_eq!(
        daemon.registrations().last(),
        Some(&Registration::Remove { queue: 1, wd: 1 })
    );
    assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
}

#[test]
fn more_watches_than_the_channel_holds_are_all_registered() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    let count = 10_000;
    for number in 1..=count {
        let directory = tree.path().join(number.to_string());
        std::fs::create_dir(&directory).unwrap();
        script.begin(format!("add {fd} 2 {}", directory.display()));
    }
    for number in 1..=count {
        assert_eq!(script.answer(), number.to_string());
    }
    let registered = daemon.registrations();
    assert_eq!(registered.len(), count);
    for (wd, registration) in (1..).zip(registered) {
        assert!(
            matches!(registration, Registration::Set { wd: found, .. } if found == wd),
            "{registration:?} is number {wd}"
        );
    }
    let last = i32::try_from(count).unwrap();
    daemon.inject(1, &[event(last, 2, "x")]);
    assert_eq!(
        script.ask(format!("read {fd} 4096")),
        format!("{count}:2:0:x")
    );
}

#[test]
fn every_hook_can_be_turned_off() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    for (hook, way) in [
        ("dlsym", "dlread"),
        ("syscall", "sysread"),
        ("read", "read"),
    ] {
        let mut script = Script::start_with(&daemon.socket(), |command| {
            command.env("AGENTFS_HOOKS_OFF", hook);
        });
        let fd = script.init(NONBLOCK);
        script.add(fd, 0xfff, tree.path());
        let queue = u32::try_from(daemon.queues()).unwrap();
        daemon.inject(queue, &[event(1, 2, "x")]);
        // The bell is read as an event of a wd that the program does not know.
        let answer = script.ask(format!("{way} {fd} 4096"));
        assert!(
            answer.starts_with("2147") && answer.ends_with(":1:0:"),
            "{hook}: {answer}"
        );
    }
    let before = daemon.queues();
    let mut script = Script::start_with(&daemon.socket(), |command| {
        command.env("AGENTFS_HOOKS_OFF", "all");
    });
    let fd = script.init(NONBLOCK);
    assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
    assert_eq!(daemon.queues(), before);
}
