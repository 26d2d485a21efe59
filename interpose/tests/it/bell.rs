//! Tests that the bell wakes and entitles nobody: whoever takes it, the next hooked read gets what is in the
//! ring.

use agentfs_proto::registration::Registration;
use agentfs_testkit::scripted::{Scripted, event};
use agentfs_testkit::shim::{Script, scratch};

const NONBLOCK: i32 = 0o4000;

struct Scene {
    tree: tempfile::TempDir,
    daemon: Scripted,
    script: Script,
    fd: i32,
}

/// Starts a program with an instance that watches a directory as wd 1.
fn scene(flags: i32) -> Scene {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(flags);
    assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
    Scene {
        tree,
        daemon,
        script,
        fd,
    }
}

/// Waits until a thread of the program sleeps in read(2) of a descriptor.
fn wait_until_asleep(script: &Script, fd: i32) {
    let reading = format!("{} 0x{fd:x} ", libc::SYS_read);
    let tasks = format!("/proc/{}/task", script.id());
    let is_asleep = || {
        let mut tasks = std::fs::read_dir(&tasks).unwrap().flatten();
        tasks.any(|task| {
            let call = std::fs::read_to_string(task.path().join("syscall"));
            call.is_ok_and(|call| call.starts_with(&reading))
        })
    };
    while !is_asleep() {
        std::thread::yield_now();
    }
}

#[test]
fn a_read_that_no_hook_sees_takes_nothing_from_the_next_read() {
    let mut scene = scene(0);
    let fd = scene.fd;
    for round in 0..3 {
        scene
            .daemon
            .inject(1, &[event(1, 2, format!("a{round}")), event(1, 2, "b")]);
        assert_eq!(scene.script.ask(format!("bareread {fd} 4096")), "16");
        assert_eq!(scene.script.ask(format!("fionread {fd}")), "64");
        assert_eq!(
            scene.script.ask(format!("read {fd} 4096")),
            format!("1:2:0:a{round} 1:2:0:b")
        );
        // The ring is armed again, so the next event rings.
        scene.daemon.inject(1, &[event(1, 2, "c")]);
        assert_eq!(scene.script.ask(format!("poll {fd} 0")), "1");
        assert_eq!(scene.script.ask(format!("read {fd} 4096")), "1:2:0:c");
        assert_eq!(scene.script.ask(format!("poll {fd} 0")), "0");
    }
}

#[test]
fn a_program_that_inherits_the_descriptor_over_exec_deafens_nobody() {
    let mut scene = scene(0);
    let fd = scene.fd;
    scene.daemon.inject(1, &[event(1, 2, "x")]);
    let copy = format!("spawn dd bs=4096 count=1 <&{fd} >/dev/null 2>&1");
    assert_eq!(scene.script.ask(copy), "0");
    assert_eq!(scene.script.ask(format!("read {fd} 4096")), "1:2:0:x");
}

#[test]
fn a_lost_bell_is_made_up_for_before_a_small_buffer_is_judged() {
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    scene.daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(scene.script.ask(format!("bareread {fd} 4096")), "16");
    assert_eq!(scene.script.ask(format!("read {fd} 8")), "EINVAL");
    assert_eq!(scene.script.ask(format!("read {fd} 16")), "EINVAL");
    assert_eq!(scene.script.ask(format!("read {fd} 32")), "1:2:0:x");
    assert_eq!(scene.script.ask(format!("read {fd} 32")), "EAGAIN");
}

#[test]
fn a_thread_asleep_in_read_when_the_first_watch_is_made_hears_of_it() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(0);
    script.begin(format!("threadread {fd}"));
    wait_until_asleep(&script, fd);
    assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
    daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(script.answer(), "1:2:0:x");
    // Nor is anybody deaf afterwards.
    script.begin(format!("threadread {fd}"));
    daemon.inject(1, &[event(1, 2, "y")]);
    assert_eq!(script.answer(), "1:2:0:y");
}

#[test]
fn a_signal_handler_that_reads_while_its_thread_reads_gets_events_or_none() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    daemon.set_capacity(1 << 20);
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
    let count = 3000;
    script.begin(format!("storm {fd} {count}"));
    assert_eq!(script.answer(), "ready");
    for number in 0..count {
        daemon.inject(1, &[event(1, 2, format!("n{number}"))]);
    }
    assert_eq!(script.answer(), format!("{count} 0"));
}

#[test]
fn a_copy_made_before_the_first_watch_delivers_too() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    let copy = script.number(format!("dup {fd}"));
    assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
    daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(script.ask(format!("read {copy} 4096")), "1:2:0:x");
    assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
}

#[test]
fn a_vforked_child_that_makes_an_instance_takes_none_from_its_parent() {
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    assert_eq!(scene.script.ask(format!("vforkinit {fd}")), "0");
    scene.daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(scene.script.ask(format!("read {fd} 4096")), "1:2:0:x");
}

#[test]
fn after_a_restart_every_process_that_reads_a_shared_instance_is_served() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(0);
    assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
    assert_eq!(script.ask(format!("forkread {fd} 4096")), "0");
    let directory = daemon.directory();
    daemon.die();
    let daemon = Scripted::start_in(directory, tree.path());
    assert_eq!(script.ask(format!("read {fd} 4096")), "-1:4000:0:");
    daemon.inject(1, &[event(1, 2, "a")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:a");
    // The child has no queue of the new daemon, until it reads a bell of its parent's.
    daemon.inject(1, &[event(1, 2, "b")]);
    assert_eq!(script.ask("wake"), "-1:4000:0:");
    assert_eq!(daemon.queues(), 2);
    // The parent finds that the child is gone.
    assert_eq!(script.ask(format!("read {fd} 4096")), "-1:4000:0:");
    assert_eq!(daemon.queues(), 3);
    daemon.inject(3, &[event(1, 2, "c")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:c");
}

#[test]
fn a_file_in_the_directory_of_the_socket_is_no_concern_of_the_program() {
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    let directory = scene.daemon.directory();
    std::fs::write(directory.path().join("new"), "").unwrap();
    std::fs::remove_file(directory.path().join("new")).unwrap();
    assert_eq!(scene.script.ask(format!("fionread {fd}")), "0");
    assert_eq!(scene.script.ask(format!("poll {fd} 0")), "0");
    assert_eq!(scene.script.ask(format!("read {fd} 4096")), "EAGAIN");
}

#[test]
fn a_first_watch_that_no_daemon_answered_is_registered_with_the_next_one() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    daemon.fall_silent();
    let fd = script.init(0);
    assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
    assert_eq!(daemon.queues(), 0);
    let directory = daemon.directory();
    daemon.die();
    let daemon = Scripted::start_in(directory, tree.path());
    // The program may have missed something.
    assert_eq!(script.ask(format!("read {fd} 4096")), "-1:4000:0:");
    daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:x");
}

#[test]
fn a_queue_whose_last_process_was_killed_is_closed_by_the_one_that_opened_it() {
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    let child = scene.script.number("forkhold");
    assert_eq!(scene.script.ask(format!("close {fd}")), "0");
    let close = Registration::Close { queue: 1 };
    assert!(!scene.daemon.registrations().contains(&close));
    assert_eq!(scene.script.number(format!("killhold {child}")), child);
    let fd = scene.script.init(NONBLOCK);
    assert_eq!(scene.script.add(fd, 0xfff, scene.tree.path()), 1);
    assert!(scene.daemon.registrations().contains(&close));
}
