//! Tests other people's programs on a mount: what they print of a change is what they print of the
//! same change on a tmpfs without the library, once, whichever way it is made.

use std::path::{Path, PathBuf};
use std::process::Command;

use agentfs_testkit::shim::{Script, library, scratch};
use tempfile::TempDir;

use crate::mounted::{Change, Mounted};

/// Debian's python, which has Debian's python3-watchdog.
const PYTHON: &str = "/usr/bin/python3";

const WATCHDOG: &str = "
import sys
from watchdog.observers.inotify import InotifyObserver
from watchdog.events import FileSystemEventHandler
class Printer(FileSystemEventHandler):
    def on_any_event(self, event):
        # How often a directory is 'modified' depends on how fast this is read.
        if event.event_type in ('created', 'deleted', 'moved') or not event.is_directory:
            to = getattr(event, 'dest_path', '')
            print(event.event_type, event.is_directory, event.src_path, to, flush=True)
observer = InotifyObserver()
observer.schedule(Printer(), sys.argv[1], recursive=True)
observer.start()
print('ready', flush=True)
sys.stdin.read()
";

const NODE: &str = "
require('fs').watch(process.argv[1], (event, name) => console.log(event, name));
console.log('ready');
process.stdin.resume().on('end', () => process.exit());
";

/// A program that watches a directory and says when it has begun.
struct Watcher {
    command: &'static dyn Fn(&Path) -> Command,
    ready: &'static str,
}

/// The steps, each of which is made by one way or the other. Nothing is done in a new directory:
/// whether a program watches it already depends on how fast the program is.
const STEPS: [&[Change]; 8] = [
    &[Change::Write("d/f")],
    &[Change::Rename("d/f", "d/g"), Change::Chmod("d/g")],
    &[Change::Write("h")],
    &[Change::Truncate("h"), Change::Link("h", "d/l")],
    &[Change::Rename("d/g", "h")],
    &[Change::Unlink("d/l"), Change::Symlink("s")],
    &[Change::Unlink("h"), Change::Unlink("s")],
    &[Change::Rmdir("d"), Change::Mkdir("d")],
];

/// The changes that are made after the steps. Each causes one event, which shows that everything
/// before it was reported.
const MARKS: [Change; 8] = [
    Change::Symlink("mark0"),
    Change::Symlink("mark1"),
    Change::Symlink("mark2"),
    Change::Symlink("mark3"),
    Change::Symlink("mark4"),
    Change::Symlink("mark5"),
    Change::Symlink("mark6"),
    Change::Symlink("mark7"),
];

/// Returns what the program prints in each step.
fn watch(
    script: &Script,
    root: &Path,
    ready: &str,
    mut make: impl FnMut(usize, &Change),
) -> Vec<Vec<String>> {
    while !script.answer().contains(ready) {}
    let root = root.to_str().unwrap();
    let mut steps = Vec::new();
    for (step, (changes, mark)) in STEPS.iter().zip(&MARKS).enumerate() {
        for change in *changes {
            make(step, change);
        }
        make(step, mark);
        let (mut lines, mark) = (Vec::new(), format!("mark{step}"));
        while !lines.last().is_some_and(|it: &String| it.contains(&mark)) {
            lines.push(script.answer().replace(root, "ROOT"));
        }
        steps.push(lines);
    }
    steps
}

fn prints_the_same_once(watcher: &Watcher) {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let native = scratch();
    for root in [native.path(), mounted.point()] {
        Change::Mkdir("d").apply_below(root);
    }
    let script = Script::spawn((watcher.command)(native.path()));
    let expected = watch(&script, native.path(), watcher.ready, |_, change| {
        change.apply_below(native.path());
    });
    let point = mounted.point().to_owned();
    // All changes are made one way, then all the other way, and then in turns.
    let ways: [fn(usize) -> bool; 4] = [|_| true, |_| false, |it| it % 2 == 0, |it| it % 2 != 0];
    for (number, is_outside) in ways.into_iter().enumerate() {
        let mut command = (watcher.command)(&point);
        command
            .env("LD_PRELOAD", library())
            .env("AGENTFS_SOCKET", mounted.socket());
        let script = Script::spawn(command);
        let found = watch(&script, &point, watcher.ready, |step, change| {
            if is_outside(step) {
                mounted.apply(change);
            } else {
                change.apply_below(&point);
            }
        });
        for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(
                found, expected,
                "way {number}, step {step}: {:?}",
                STEPS[step]
            );
        }
        drop(script);
        for mark in 0..STEPS.len() {
            std::fs::remove_file(point.join(format!("mark{mark}"))).unwrap();
        }
    }
    mounted.end();
}

#[test]
fn inotifywait() {
    prints_the_same_once(&Watcher {
        command: &|root| {
            let mut command = Command::new("sh");
            let events = "modify,attrib,close_write,move,move_self,create,delete,delete_self";
            // "Watches established" is printed on the standard error.
            let script =
                format!("exec inotifywait -m -r -e {events} --format '%e %w%f' \"$0\" 2>&1");
            command.args(["-c", &script]).arg(root);
            command
        },
        ready: "Watches established",
    });
}

#[test]
fn node() {
    prints_the_same_once(&Watcher {
        command: &|root| {
            let mut command = Command::new("node");
            command.args(["-e", NODE]).arg(root);
            command
        },
        ready: "ready",
    });
}

#[test]
fn python_watchdog() {
    prints_the_same_once(&Watcher {
        command: &|root| {
            let mut command = Command::new(PYTHON);
            command.args(["-c", WATCHDOG]).arg(root);
            command
        },
        ready: "ready",
    });
}

/// Returns the path of `examples/notify_watch.rs`, built with this test.
fn notify_watch() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/notify_watch");
    assert!(
        program.exists(),
        "missing {}: cargo build -p agentfs --examples",
        program.display()
    );
    program
}

#[test]
fn rust_notify() {
    prints_the_same_once(&Watcher {
        command: &|root| {
            let mut command = Command::new(notify_watch());
            command.arg(root);
            command
        },
        ready: "ready",
    });
}

#[test]
fn tail() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    mounted.make("log");
    let file = mounted.point().join("log");
    let mut command = Command::new("tail");
    command
        .args(["-n", "+1", "-s", "0.05", "-F"])
        .arg(&file)
        .env("LD_PRELOAD", library())
        .env("AGENTFS_SOCKET", mounted.socket());
    let script = Script::spawn(command);
    let mut written = String::new();
    for round in 0..10 {
        let line = format!("line {round}");
        if round % 2 == 0 {
            mounted.write_at("log", written.len() as u64, &format!("{line}\n"));
        } else {
            let mut log = std::fs::OpenOptions::new()
                .append(true)
                .open(&file)
                .unwrap();
            std::io::Write::write_all(&mut log, format!("{line}\n").as_bytes()).unwrap();
        }
        written += &format!("{line}\n");
        assert_eq!(script.answer(), line);
    }
    // Another file takes the file's place.
    let other = TempDir::new_in(mounted.point()).unwrap();
    std::fs::write(other.path().join("log"), "replaced\n").unwrap();
    std::fs::rename(other.path().join("log"), &file).unwrap();
    assert_eq!(script.answer(), "replaced");
    drop((script, other));
    mounted.end();
}
