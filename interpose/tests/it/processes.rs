//! Tests threads, children, and processes that end in any way.

use agentfs_proto::registration::Registration;
use agentfs_testkit::scripted::{Scripted, event};
use agentfs_testkit::shim::{Script, scratch};

const NONBLOCK: i32 = 0o4000;

#[test]
fn threads_that_read_one_instance_get_every_event_once() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    daemon.set_capacity(1 << 20);
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(0);
    script.add(fd, 0xfff, tree.path());
    let count = 2000;
    script.begin(format!("readers {fd} {count}"));
    assert_eq!(script.answer(), "ready");
    for number in 0..count {
        daemon.inject(1, &[event(1, 2, format!("n{number}"))]);
    }
    for number in 0..4 {
        // No event equals the one before, and each is read by one thread, which then ends.
        while !end_one(&daemon, number) {
            std::thread::yield_now();
        }
    }
    assert_eq!(script.answer(), format!("{count} 0"));
}

/// Sends one "end" when all before it was read.
fn end_one(daemon: &Scripted, _number: u32) -> bool {
    let is_empty = daemon.queue(1, |queue| {
        let tail = queue.producer.tail();
        queue.producer.observe_head().unwrap() == tail
    });
    if is_empty {
        daemon.inject(1, &[event(1, 2, "end")]);
    }
    is_empty
}

#[test]
fn a_forked_child_goes_on_with_its_parents_instance() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    for command in ["fork", "daemonize"] {
        let mut script = Script::start(&daemon.socket());
        let fd = script.init(NONBLOCK);
        let first = tree.path().join(format!("first-{command}"));
        let second = tree.path().join(format!("second-{command}"));
        std::fs::create_dir(&first).unwrap();
        std::fs::create_dir(&second).unwrap();
        script.add(fd, 0xfff, &first);
        let queue = u32::try_from(daemon.queues()).unwrap();
        daemon.inject(queue, &[event(1, 2, "before")]);
        assert_eq!(script.ask(command), "0");
        assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:before");
        assert_eq!(script.add(fd, 0x2, &second), 2);
        assert!(matches!(
            daemon.registrations().last(),
            Some(Registration::Set { wd: 2, queue: found, .. }) if *found == queue
        ));
        daemon.inject(queue, &[event(1, 2, "a"), event(2, 2, "b")]);
        assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:a 2:2:0:b");
        // An instance of its own needs a session of its own.
        let own = script.init(NONBLOCK);
        assert_eq!(script.add(own, 0x2, &second), 1);
        daemon.inject(queue + 1, &[event(1, 2, "c")]);
        assert_eq!(script.ask(format!("read {own} 4096")), "1:2:0:c");
    }
}

#[test]
fn a_vforked_child_that_closes_everything_takes_nothing_from_its_parent() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    script.add(fd, 0xfff, tree.path());
    assert_eq!(script.ask("vfork"), "7");
    daemon.inject(1, &[event(1, 2, "a"), event(1, 2, "b")]);
    assert_eq!(script.ask(format!("read {fd} 32")), "1:2:0:a");
    assert_eq!(script.ask(format!("read {fd} 32")), "1:2:0:b");
    assert_eq!(script.ask("spawn exec true"), "0");
    assert!(
        !daemon
            .registrations()
            .contains(&Registration::Close { queue: 1 })
    );
    daemon.inject(1, &[event(1, 2, "c")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:c");
}

#[test]
fn a_thread_can_be_cancelled_in_its_read() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(0);
    script.add(fd, 0xfff, tree.path());
    assert_eq!(script.ask(format!("cancel {fd}")), "1");
    daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:x");
}

#[test]
fn a_process_killed_while_it_pops_leaves_the_queue_to_the_others() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(0);
    script.add(fd, 0xfff, tree.path());
    script.begin(format!("read {fd} 4096"));
    drop(script);
    // The daemon goes on serving new programs.
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(0);
    script.add(fd, 0xfff, tree.path());
    daemon.inject(2, &[event(1, 2, "x")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:x");
}

#[test]
fn many_short_lived_watchers_leave_nothing_behind() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let before = open_files();
    let mut served = 0;
    for _ in 0..10 {
        let first = u32::try_from(daemon.queues()).unwrap() + 1;
        let scripts: Vec<_> = (0..10)
            .map(|_| {
                let mut script = Script::start(&daemon.socket());
                let fd = script.init(NONBLOCK);
                script.add(fd, 0xfff, tree.path());
                (script, fd)
            })
            .collect();
        let last = u32::try_from(daemon.queues()).unwrap();
        for queue in first..=last {
            daemon.inject(queue, &[event(1, 2, "x")]);
        }
        for (mut script, fd) in scripts {
            let answer = script.ask(format!("read {fd} 4096"));
            // On a machine that is busy for half a second, a program is not served at once.
            let is_served = answer != "EAGAIN";
            assert!(!is_served || answer == "1:2:0:x", "{answer}");
            served += usize::from(is_served);
            script.end();
        }
    }
    // Only ring, bell and refill stay in the scripted daemon.
    let queues = daemon.queues();
    assert!(0 < served && served <= queues, "{served} of {queues}");
    assert!(queues <= 100, "{queues}");
    assert!(open_files() < before + 8 * queues, "{}", open_files());
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
