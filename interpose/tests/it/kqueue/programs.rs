//! Tests an unmodified program with the library preloaded, and a daemon that the test plays.

use std::path::Path;

use agentfs_testkit::scripted::Scripted;
use agentfs_testkit::shim::{Script, scratch};
use tempfile::TempDir;

const DELETE: u32 = 0x01;
const WRITE: u32 = 0x02;
const EXTEND: u32 = 0x04;
const ATTRIB: u32 = 0x08;
const LINK: u32 = 0x10;
const RENAME: u32 = 0x20;

/// Starts the demo under the shim, which watches `paths`.
fn start(daemon: &Scripted, paths: &[&Path]) -> Script {
    Script::start_kq_demo(&daemon.socket(), paths, |command| {
        command.env("AGENTFS_ANY_FILESYSTEM", "1");
    })
}

struct Stage {
    tree: TempDir,
    daemon: Scripted,
}

fn stage() -> Stage {
    let tree = scratch();
    std::fs::write(tree.path().join("file"), "text").unwrap();
    let daemon = Scripted::start(tree.path());
    Stage { tree, daemon }
}

#[test]
fn a_sleeping_program_gets_each_change_once_with_its_exact_bits() {
    let Stage { tree, daemon } = stage();
    let (file, directory) = (tree.path().join("file"), tree.path().to_owned());
    let mut script = start(&daemon, &[&file, &directory]);
    let cases = [
        (&file, WRITE, "WRITE"),
        (&file, EXTEND | WRITE, "WRITE EXTEND"),
        (&file, ATTRIB, "ATTRIB"),
        (&file, RENAME, "RENAME"),
        (&file, DELETE | LINK, "DELETE LINK"),
        (&directory, WRITE | LINK, "WRITE LINK"),
    ];
    for (path, hint, printed) in cases {
        assert_eq!(daemon.post(path, hint), 1);
        assert_eq!(script.answer(), format!("{}: {printed}", path.display()));
    }
    assert_eq!(script.ask("hello"), "stdin: a line");
    script.end();
}

#[test]
fn a_program_without_a_daemon_runs_as_without_the_library() {
    let Stage { tree, daemon } = stage();
    daemon.die();
    let mut script = start(&daemon, &[&tree.path().join("file")]);
    assert_eq!(script.ask("hello"), "stdin: a line");
    script.end();
}

#[test]
fn a_program_goes_on_when_its_daemon_dies() {
    let Stage { tree, daemon } = stage();
    let file = tree.path().join("file");
    let mut script = start(&daemon, &[&file]);
    daemon.post(&file, WRITE);
    assert_eq!(script.answer(), format!("{}: WRITE", file.display()));
    daemon.die();
    assert_eq!(script.ask("hello"), "stdin: a line");
    script.end();
}

#[test]
fn a_changelist_that_cannot_be_read_fails_as_without_the_library() {
    let Stage { tree, daemon } = stage();
    let file = tree.path().join("file");
    for is_watching in [false, true] {
        let answers = [None, Some(daemon.socket())].map(|socket| {
            let mut script = Script::start_kqueue(socket.as_deref());
            let kq = script.number("kqueue");
            let fd = script.number(format!("open {}", file.display()));
            if is_watching {
                script.number(format!("change {fd:x} -4 21 7f"));
                assert_eq!(script.ask(format!("call {kq} 0")), "nothing");
            }
            script.number("change 7b -10 1 1000000");
            let halfbad = script.ask(format!("halfbad {kq}"));
            let bad = script.ask(format!("bad {kq}"));
            // The change before the bad page was made.
            let ready = script.ask(format!("call {kq} 8 0"));
            script.end();
            [halfbad, bad, ready]
        });
        assert_eq!(answers[0], ["EFAULT", "EFAULT", "-10:7b:1:0:0:0"]);
        assert_eq!(answers[1], answers[0], "watching: {is_watching}");
    }
}
