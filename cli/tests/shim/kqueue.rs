//! Tests a program with kqueues on a mount. What is "the kernel's" here is the user-space kqueue.

use std::path::Path;
use std::time::Instant;

use agentfs_testkit::child::PATIENCE;
use agentfs_testkit::shim::Script;

use crate::mounted::{Change, Mounted};

const VNODE: i32 = -4;
const USER: i32 = -10;
const ADD: u16 = 0x01;
const CLEAR: u16 = 0x20;
const ONESHOT: u16 = 0x10;
const ALL: u32 = 0x7f;
const TRIGGER: u32 = 0x0100_0000;

const DELETE: u32 = 0x01;
const WRITE: u32 = 0x02;
const EXTEND: u32 = 0x04;
const ATTRIB: u32 = 0x08;
const LINK: u32 = 0x10;
const RENAME: u32 = 0x20;

/// Adds a change to the next call.
fn change(script: &mut Script, ident: i64, filter: i32, flags: u16, fflags: u32, data: u64) {
    script.number(format!(
        "change {ident:x} {filter} {flags:x} {fflags:x} {data:x}"
    ));
}

/// Opens a queue in the program.
fn queue(script: &mut Script) -> i32 {
    script.number("kqueue")
}

/// Opens a file and watches it.
fn watch(script: &mut Script, kq: i32, path: &Path, flags: u16) -> i32 {
    let fd = script.number(format!("open {}", path.display()));
    change(script, fd.into(), VNODE, ADD | flags, ALL, 0);
    assert_eq!(script.ask(format!("call {kq} 0")), "nothing");
    fd
}

/// Returns the event of a knote of [`watch`].
fn event(fd: i32, flags: u16, fflags: u32) -> String {
    format!("{VNODE}:{fd:x}:{:x}:{fflags:x}:0:0", ADD | flags)
}

/// Returns what is ready now.
fn ready(script: &mut Script, kq: i32) -> String {
    script.ask(format!("call {kq} 64 0"))
}

/// Lets the program call kevent() without timeout, and returns when it sleeps there.
pub(crate) fn sleep(script: &mut Script, kq: i32, room: u32) {
    script.begin(format!("call {kq} {room}"));
    let read = nix::libc::SYS_read.to_string();
    until_asleep(script, |call, _| call != read);
}

/// Waits until the program sleeps in a system call that `is_it` recognizes by its number and its
/// first argument.
pub(crate) fn until_asleep(script: &Script, is_it: impl Fn(&str, &str) -> bool) {
    let path = format!("/proc/{}/syscall", script.id());
    let until = Instant::now() + PATIENCE;
    loop {
        let now = std::fs::read_to_string(&path).unwrap();
        let mut words = now.split(' ');
        let (call, first) = (words.next().unwrap(), words.next().unwrap_or_default());
        if call.parse::<u32>().is_ok() && is_it(call, first) {
            return;
        }
        assert!(Instant::now() < until, "the program does not sleep: {now}");
        std::thread::yield_now();
    }
}

/// A change, and the bits that the file and its directory get for it, in order.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Mounted), Vec<String>);

#[test]
fn a_sleeper_gets_each_change_in_one_call_with_its_exact_bits() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    mounted.apply(&Change::Mkdir("d"));
    mounted.apply(&Change::Mkdir("e"));
    mounted.apply(&Change::Write("d/f"));
    let mut script = Script::start_kqueue(Some(&mounted.socket()));
    let kq = queue(&mut script);
    let point = mounted.point().to_owned();
    let file = watch(&mut script, kq, &point.join("d/f"), CLEAR);
    let directory = watch(&mut script, kq, &point.join("d"), CLEAR);
    let f = |bits| event(file, CLEAR, bits);
    let d = |bits| event(directory, CLEAR, bits);
    let cases: [Case<'_>; 12] = [
        ("write", &|it| it.write_at("d/f", 0, "t"), vec![f(WRITE)]),
        (
            "extend",
            &|it| it.write_at("d/f", 2, "longer"),
            vec![f(EXTEND | WRITE)],
        ),
        ("shrink", &|it| it.set_len("d/f", 1), vec![f(ATTRIB)]),
        ("grow", &|it| it.set_len("d/f", 9), vec![f(EXTEND | ATTRIB)]),
        (
            "chmod",
            &|it| it.apply(&Change::Chmod("d/f")),
            vec![f(ATTRIB)],
        ),
        (
            "link",
            &|it| it.apply(&Change::Link("d/f", "e/l")),
            vec![f(LINK)],
        ),
        (
            "create",
            &|it| it.apply(&Change::Symlink("d/s")),
            vec![d(WRITE)],
        ),
        (
            "mkdir",
            &|it| it.apply(&Change::Mkdir("d/sub")),
            vec![d(WRITE | LINK)],
        ),
        (
            "rmdir",
            &|it| it.apply(&Change::Rmdir("d/sub")),
            vec![d(WRITE | LINK)],
        ),
        (
            "rename",
            &|it| it.apply(&Change::Rename("d/f", "d/g")),
            vec![d(WRITE), f(RENAME)],
        ),
        (
            "unlink one name",
            &|it| it.apply(&Change::Unlink("d/g")),
            vec![f(DELETE | LINK), d(WRITE)],
        ),
        (
            "unlink the last name elsewhere",
            &|it| it.apply(&Change::Unlink("e/l")),
            vec![f(DELETE | LINK)],
        ),
    ];
    for (what, make, expected) in cases {
        sleep(&mut script, kq, 8);
        make(&mut mounted);
        assert_eq!(script.answer(), expected.join(" "), "{what}");
        assert_eq!(ready(&mut script, kq), "nothing", "{what}");
    }
    script.end();
    mounted.end();
}

#[test]
fn changes_before_a_call_are_one_event_for_each_knote() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    mounted.apply(&Change::Write("f"));
    let mut script = Script::start_kqueue(Some(&mounted.socket()));
    let kq = queue(&mut script);
    let point = mounted.point().to_owned();
    let once = watch(&mut script, kq, &point.join("f"), ONESHOT);
    let cleared = watch(&mut script, kq, &point.join("f"), CLEAR);
    let level = watch(&mut script, kq, &point.join("f"), 0);
    for _ in 0..100 {
        mounted.write_at("f", 0, "t");
    }
    mounted.apply(&Change::Chmod("f"));
    let bits = WRITE | ATTRIB;
    let expected = [
        event(once, ONESHOT, bits),
        event(cleared, CLEAR, bits),
        event(level, 0, bits),
    ];
    assert_eq!(ready(&mut script, kq), expected.join(" "));
    // Without EV_CLEAR the event stays.
    assert_eq!(ready(&mut script, kq), event(level, 0, bits));
    assert_eq!(script.ask(format!("poll {kq}")), "1");
    assert_eq!(ready(&mut script, kq), event(level, 0, bits));
    assert_eq!(script.ask(format!("close {level}")), "0");
    assert_eq!(ready(&mut script, kq), "nothing");
    assert_eq!(script.ask(format!("poll {kq}")), "0");
    mounted.write_at("f", 0, "t");
    assert_eq!(ready(&mut script, kq), event(cleared, CLEAR, WRITE));
    script.end();
    mounted.end();
}

/// Checks a timer, a signal, a socket and an own EVFILT_USER knote, with or without the library.
fn others(
    script: &mut Script,
    watched: &dyn Fn(&mut Script, i32),
    happen: &mut dyn FnMut(),
) -> Vec<String> {
    let kq = queue(script);
    let socket = script.number("socketpair");
    change(script, 1, -7, ADD | ONESHOT, 0, 1);
    change(script, 12, -6, ADD | CLEAR, 0, 0);
    change(script, socket.into(), -1, ADD | CLEAR, 0, 0);
    change(script, 123, USER, ADD | CLEAR, 0x42, 0);
    assert_eq!(script.ask(format!("call {kq} 0")), "nothing");
    watched(script, kq);
    let mut heard = Vec::new();
    for round in 0..3 {
        happen();
        script.number("raise");
        script.number(format!("send {}", socket + 1));
        change(script, 123, USER, 0, TRIGGER, 0);
        assert_eq!(script.ask(format!("call {kq} 0")), "nothing");
        // The timer fires once, at any time.
        let wanted = if round == 0 { 4 } else { 3 };
        let mut found = 0;
        while found < wanted {
            let answer = script.ask(format!("call {kq} 8"));
            let events = answer.split(' ').filter(|it| !it.starts_with("-4:"));
            let mut events: Vec<String> = events.map(str::to_owned).collect();
            found += events.len();
            heard.append(&mut events);
        }
        script.number(format!("receive {socket}"));
        let start = heard.len() - found;
        heard[start..].sort();
    }
    heard
}

#[test]
fn timers_signals_sockets_and_own_events_come_as_without_the_library() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    mounted.apply(&Change::Write("f"));
    let file = mounted.point().join("f");
    let mut plain = Script::start_kqueue(None);
    let watched = |script: &mut Script, kq| {
        watch(script, kq, &file, CLEAR);
    };
    let expected = others(&mut plain, &watched, &mut || {});
    assert_eq!(expected.len(), 10);
    let mut script = Script::start_kqueue(Some(&mounted.socket()));
    let found = others(&mut script, &watched, &mut || {
        mounted.apply(&Change::Chmod("f"));
    });
    assert_eq!(found, expected);
    script.end();
    plain.end();
    mounted.end();
}

#[test]
fn a_program_that_takes_the_reserved_ident_keeps_it() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    mounted.apply(&Change::Write("f"));
    let mut script = Script::start_kqueue(Some(&mounted.socket()));
    let kq = queue(&mut script);
    let file = watch(&mut script, kq, &mounted.point().join("f"), 0);
    let idents = mounted.reserved_idents();
    let reserved = idents.into_iter().find(|it| *it != 0).unwrap();
    assert_eq!(reserved >> 32, 0xAFFE);
    mounted.apply(&Change::Chmod("f"));
    let posted = event(file, 0, ATTRIB);
    assert_eq!(ready(&mut script, kq), posted);
    let ident = i64::try_from(reserved).unwrap();
    change(&mut script, ident, USER, ADD | CLEAR, 0, 0);
    assert_eq!(
        ready(&mut script, kq),
        posted,
        "its own is not triggered yet"
    );
    assert!(!mounted.reserved_idents().contains(&reserved));
    change(&mut script, ident, USER, 0, TRIGGER, 0);
    let own = format!("{USER}:{reserved:x}:{:x}:0:0:0", ADD | CLEAR);
    assert_eq!(ready(&mut script, kq), format!("{own} {posted}"));
    assert_eq!(ready(&mut script, kq), posted);
    script.end();
    mounted.end();
}

#[test]
fn an_eventlist_of_one_gets_everything_in_turn() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let names = ["a", "b", "c"];
    let mut script = Script::start_kqueue(Some(&mounted.socket()));
    let kq = queue(&mut script);
    let mut expected = Vec::new();
    for name in names {
        mounted.apply(&Change::Write(name));
        let fd = watch(&mut script, kq, &mounted.point().join(name), CLEAR);
        expected.push(event(fd, CLEAR, ATTRIB));
    }
    sleep(&mut script, kq, 1);
    for name in names {
        mounted.apply(&Change::Chmod(name));
    }
    assert_eq!(script.answer(), expected[0]);
    for event in &expected[1..] {
        assert_eq!(script.ask(format!("poll {kq}")), "1");
        assert_eq!(script.ask(format!("call {kq} 1")), *event);
    }
    assert_eq!(script.ask(format!("poll {kq}")), "0");
    script.end();
    mounted.end();
}

#[test]
fn two_threads_in_one_queue_get_each_event_once() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let mut script = Script::start_kqueue(Some(&mounted.socket()));
    let kq = queue(&mut script);
    let count = 200;
    let names: Vec<String> = (0..count).map(|number| format!("f{number}")).collect();
    for name in &names {
        mounted.make(name);
        watch(&mut script, kq, &mounted.point().join(name), CLEAR);
    }
    script.begin(format!("two {kq} {count}"));
    assert_eq!(script.answer(), "ready");
    for name in &names {
        mounted.set_len(name, 5);
    }
    assert_eq!(script.answer(), format!("{count} 0"));
    script.end();
    mounted.end();
}
