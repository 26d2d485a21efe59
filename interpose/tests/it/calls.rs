//! Tests descriptors: copied ones, closed ones, and those that the program does not know of.

use agentfs_proto::registration::Registration;
use agentfs_testkit::scripted::{Scripted, event};
use agentfs_testkit::shim::{Script, scratch};

const NONBLOCK: i32 = 0o4000;

#[test]
fn copies_of_a_descriptor_share_the_queue() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    script.add(fd, 0xfff, tree.path());
    let copies = [
        script.number(format!("dup {fd}")),
        script.number(format!("dup2 {fd} 100")),
        script.number(format!("dupfd {fd} 200")),
    ];
    assert_eq!(copies.get(1..), Some([100, 200].as_slice()));
    for copy in copies {
        daemon.inject(1, &[event(1, 2, "x")]);
        assert_eq!(script.ask(format!("read {copy} 4096")), "1:2:0:x");
        assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
    }
    // The queue ends with the last of its descriptors.
    for number in [fd, copies[0], 100] {
        assert_eq!(script.ask(format!("close {number}")), "0");
    }
    daemon.inject(1, &[event(1, 2, "still")]);
    assert_eq!(script.ask("read 200 4096"), "1:2:0:still");
    assert!(
        !daemon
            .registrations()
            .contains(&Registration::Close { queue: 1 })
    );
    assert_eq!(script.ask("close 200"), "0");
    assert_eq!(
        daemon.registrations().last(),
        Some(&Registration::Close { queue: 1 })
    );
    assert_eq!(script.ask("read 200 4096"), "EBADF");
}

#[test]
fn a_number_that_is_used_again_is_somebody_elses() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    for round in 1..=20 {
        let fd = script.init(NONBLOCK);
        script.add(fd, 0xfff, tree.path());
        daemon.inject(round, &[event(1, 2, "x")]);
        assert_eq!(script.ask(format!("close {fd}")), "0");
        assert_eq!(script.number("opennull"), fd);
        assert_eq!(script.ask(format!("read {fd} 4096")), "");
        assert_eq!(script.ask(format!("close {fd}")), "0");
    }
    // The descriptor is replaced by dup2.
    let null = script.number("opennull");
    let fd = script.init(NONBLOCK);
    script.add(fd, 0xfff, tree.path());
    assert_eq!(script.number(format!("dup2 {null} {fd}")), fd);
    assert_eq!(script.ask(format!("read {fd} 4096")), "");
}

#[test]
fn a_number_that_was_closed_unseen_is_somebody_elses() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    script.add(fd, 0xfff, tree.path());
    daemon.inject(1, &[event(1, 2, "x")]);
    // libc closes the descriptor without calling a hook.
    assert_eq!(script.ask(format!("fclose {fd}")), "0");
    assert_eq!(script.number("fullpipe"), fd);
    assert_eq!(script.ask(format!("fionread {fd}")), "32");
    assert_eq!(script.ask(format!("read {fd} 4096")), "0:0:0: 0:0:0:");
    assert_eq!(
        daemon.registrations().last(),
        Some(&Registration::Close { queue: 1 })
    );
}

#[test]
fn a_call_that_fails_closes_nothing() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    script.add(fd, 0xfff, tree.path());
    for (command, error) in [
        (format!("dup2 900 {fd}"), "EBADF"),
        (format!("dup2 -1 {fd}"), "EBADF"),
        (format!("dup3 0 {fd} 1"), "EINVAL"),
        (format!("dup3 {fd} {fd} 0"), "EINVAL"),
        (format!("closerange {fd} {fd} 64"), "EINVAL"),
        (format!("closerange {fd} 1 0"), "EINVAL"),
    ] {
        assert_eq!(script.ask(&command), error, "{command}");
        daemon.inject(1, &[event(1, 2, "x")]);
        let answer = script.ask(format!("read {fd} 4096"));
        assert_eq!(answer, "1:2:0:x", "{command}");
    }
    assert_eq!(script.ask(format!("closerange {fd} {fd} 0")), "0");
    assert_eq!(script.ask(format!("read {fd} 4096")), "EBADF");
}

#[test]
fn instances_made_and_copied_by_syscall_are_known() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    for round in 1..=3 {
        // The wds of the program are what they are without the library.
        let fd = script.number(format!("sysinit {NONBLOCK}"));
        assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
        let other = tree.path().join(format!("d{round}"));
        std::fs::create_dir(&other).unwrap();
        let answer = script.ask(format!("read {fd} 4096"));
        assert_eq!(answer, format!("1:40000100:0:d{round}"));
        assert_eq!(script.add(fd, 0xfff, &other), 2);
        assert_eq!(script.number(format!("sysdup3 {fd} 100")), 100);
        assert_eq!(script.ask(format!("close {fd}")), "0");
        daemon.inject(round, &[event(2, 2, "x")]);
        assert_eq!(script.ask("read 100 4096"), "2:2:0:x");
        // A new instance is another one, though no hook saw the end of the earlier one.
        assert_eq!(script.ask("fclose 100"), "0");
    }
}

#[test]
fn what_the_library_opened_is_not_there_for_the_program() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    let before = numbers(&script);
    script.add(fd, 0xfff, tree.path());
    let own: Vec<i32> = numbers(&script)
        .into_iter()
        .filter(|number| !before.contains(number))
        .collect();
    // The next number is the one that it would be without the library.
    let next = script.number("opennull");
    assert!(!before.contains(&next) && next < 20, "{next}");
    assert_eq!(own.len(), 3, "{own:?}");
    for number in own {
        assert_eq!(script.ask(format!("close {number}")), "EBADF", "{number}");
    }
    assert_eq!(script.ask(format!("closefrom {next}")), "0");
    daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:x");
    // Even a burst of the smallest buffer works, for which the library rings the bell itself.
    daemon.inject(1, &[event(1, 2, "a"), event(1, 2, "b")]);
    assert_eq!(script.ask(format!("read {fd} 32")), "1:2:0:a");
    assert_eq!(script.ask(format!("poll {fd} 0")), "1");
    assert_eq!(script.ask(format!("read {fd} 32")), "1:2:0:b");
    // When the program closes all descriptors it can, it gets nothing and nothing breaks.
    assert_eq!(script.ask("closefrom 3"), "0");
    assert_eq!(script.ask(format!("read {fd} 32")), "EBADF");
    assert_eq!(script.init(NONBLOCK), 3);
}

/// Returns the descriptors that a program has.
fn numbers(script: &Script) -> Vec<i32> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", script.id())).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.parse().unwrap())
        .collect()
}
