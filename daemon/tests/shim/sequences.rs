//! The kernel as the oracle: the same changes on a tmpfs, read by the same program.

use std::path::Path;

use crate::mounted::{Change, Mounted};
use crate::shim::{Script, scratch};

const NONBLOCK: i32 = 0o4000;

/// What is there before anybody watches.
const BEFORE: [Change; 5] = [
    Change::Mkdir("d"),
    Change::Mkdir("e"),
    Change::Write("d/f"),
    Change::Write("d/t"),
    Change::Mkdir("d/sub"),
];

/// Watches, in this order: wd 1, 2 and so on.
const WATCHED: [&str; 5] = ["d", "d/f", "e", "d/t", "d/sub"];

/// A program that watches everything in `root`.
fn watcher(mut script: Script, root: &Path) -> (Script, i32) {
    let fd = script.init(NONBLOCK);
    for (expected, name) in (1..).zip(WATCHED) {
        assert_eq!(script.add(fd, 0xfff, &root.join(name)), expected);
    }
    (script, fd)
}

/// Everything that can be read now, with cookies numbered in the order they come.
fn heard(script: &mut Script, fd: i32, cookies: &mut Vec<String>) -> Vec<String> {
    let mut events = Vec::new();
    loop {
        let answer = script.ask(format!("read {fd} 65536"));
        if answer == "EAGAIN" {
            return events;
        }
        for event in answer.split(' ') {
            let mut parts: Vec<&str> = event.splitn(4, ':').collect();
            let number;
            if let Some(cookie) = parts.get_mut(2).filter(|it| **it != "0") {
                let known = cookies.iter().position(|it| it == cookie);
                let index = known.unwrap_or_else(|| {
                    cookies.push((*cookie).to_owned());
                    cookies.len() - 1
                });
                number = format!("c{index}");
                *cookie = &number;
            }
            events.push(parts.join(":"));
        }
    }
}

#[test]
fn changes_from_outside_are_heard_as_the_kernel_would_tell_them() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let native = scratch();
    for change in &BEFORE {
        change.apply_below(native.path());
        mounted.apply(change);
    }
    let (mut oracle, oracle_fd) = watcher(Script::start(Path::new("/nowhere")), native.path());
    let point = mounted.point().to_owned();
    let (mut script, fd) = watcher(Script::start(&mounted.socket()), &point);
    let changes = [
        Change::Write("d/f"),
        Change::Truncate("d/f"),
        Change::Chmod("d/f"),
        Change::Chmod("d/sub"),
        Change::Write("d/new"),
        Change::Symlink("d/s"),
        Change::Mkdir("d/n"),
        Change::Link("d/f", "e/g"),
        Change::Rename("d/new", "d/renamed"),
        Change::Rename("d/renamed", "e/moved"),
        Change::Rename("d/f", "e/f"),
        Change::Write("e/f"),
        Change::Rename("e/f", "d/t"),
        Change::Unlink("e/g"),
        Change::Unlink("d/t"),
        Change::Rename("d/n", "d/sub"),
        Change::Rmdir("d/sub"),
        Change::Unlink("d/s"),
        Change::Unlink("e/moved"),
        Change::Rmdir("e"),
    ];
    let (mut oracle_cookies, mut cookies) = (Vec::new(), Vec::new());
    for change in &changes {
        change.apply_below(native.path());
        mounted.apply(change);
        let expected = heard(&mut oracle, oracle_fd, &mut oracle_cookies);
        let found = heard(&mut script, fd, &mut cookies);
        assert_eq!(found, expected, "{change:?}");
        assert!(!expected.is_empty(), "{change:?} is heard at all");
        assert_eq!(script.ask(format!("poll {fd} 0")), "0", "{change:?}");
    }
    drop(script);
    mounted.end();
}
