//! Tests which events every operation emits: the table of the event model, and each detail that a
//! kernel's notification depends on.

#![expect(
    clippy::too_many_lines,
    clippy::semicolon_if_nothing_returned,
    reason = "tables: a row is an operation and the events that it emits"
)]

mod content;
mod names;
mod renames;

use agentfs_core::event::{EventKind, Origin};
use agentfs_core::id::{NodeId, SessionId};
use agentfs_core::{
    AllocateFlags, Caller, Errno, OpenFlags, RenameFlags, SetAttr, SetTime, XattrFlags,
};

use crate::support::World;

/// Creates a world with `/d` (empty), `/e` with `/e/sub`, `/f` with "hello" and the second name
/// `/e/link`, and `/g` with "x".
fn world() -> World {
    let w = World::new();
    w.mkdir("/d");
    w.mkdir("/e");
    w.mkdir("/e/sub");
    w.put("/f", "hello");
    w.b.link(&w.root, "/f", "/e/link").unwrap();
    w.put("/g", "x");
    w
}

/// Drops what an operation returns, which these tests do not look at.
fn ignore<T>(_: T) {}

type Row = (&'static str, fn(&World), &'static [&'static str]);

fn check(activity: bool, rows: &[Row]) {
    for (what, operate, expected) in rows {
        let w = world();
        let recorder = w.listen(activity);
        operate(&w);
        assert_eq!(recorder.lines(), *expected, "{what}");
    }
}

#[test]
fn activity_is_told_to_those_who_ask() {
    check(
        true,
        &[
            (
                "create",
                |w| {
                    let h =
                        w.b.open(&w.root, "/n", OpenFlags::CREATE | OpenFlags::READ, 0o600)
                            .unwrap();
                    w.b.close(&w.root, h).unwrap();
                },
                &["created /n File1", "opened /n File1*", "closed /n File1"],
            ),
            (
                "open with O_TRUNC",
                |w| {
                    let h =
                        w.b.open(
                            &w.root,
                            "/f",
                            OpenFlags::TRUNCATE | OpenFlags::WRITE_ONLY,
                            0,
                        )
                        .unwrap();
                    w.b.close(&w.root, h).unwrap();
                },
                &[
                    "opened /f File2*",
                    "resized /f File2* Shrank OpenTruncate",
                    "closed /f File2 write written",
                ],
            ),
            (
                "read, and read at the end",
                |w| {
                    let h = w.b.open(&w.root, "/f", OpenFlags::READ, 0).unwrap();
                    let mut buffer = [0; 9];
                    assert_eq!(w.b.read(&w.root, h, &mut buffer), Ok(5));
                    assert_eq!(w.b.read(&w.root, h, &mut buffer), Ok(0));
                    w.b.close(&w.root, h).unwrap();
                },
                &["opened /f File2*", "read /f File2*", "closed /f File2"],
            ),
            (
                "closed for writing without a write",
                |w| {
                    let h = w.open("/f");
                    w.b.close(&w.root, h).unwrap();
                },
                &["opened /f File2*", "closed /f File2 write"],
            ),
            (
                "a directory is listed",
                |w| {
                    let h = w.b.open(&w.root, "/e", OpenFlags::DIRECTORY, 0).unwrap();
                    assert_eq!(w.b.readdir(&w.root, h, 0, 100).unwrap().len(), 4);
                    w.b.close(&w.root, h).unwrap();
                },
                &[
                    "opened /e Directory3*",
                    "read /e Directory3*",
                    "closed /e Directory3",
                ],
            ),
            (
                "copy_file_range reads, then writes",
                |w| {
                    let (from, to) = (w.open("/f"), w.open("/g"));
                    w.b.copy_range(&w.root, (from, 0), (to, 0), 1).unwrap();
                },
                &[
                    "opened /f File2*",
                    "opened /g File1*",
                    "read /f File2*",
                    "written /g File1* Same",
                ],
            ),
            (
                "stat, readlink and access emit nothing",
                |w| {
                    w.b.stat(&w.root, "/f").unwrap();
                    w.b.access(&w.root, "/f", agentfs_core::Access::READ)
                        .unwrap();
                },
                &[],
            ),
        ],
    );
}

#[test]
fn failed_operations_tell_nothing() {
    let w = world();
    let recorder = w.listen(true);
    let user = Caller::new(1000, 1000);
    assert_eq!(w.b.mkdir(&w.root, "/d", 0o755), Err(Errno::EEXIST));
    assert_eq!(w.b.mkdir(&user, "/d/x", 0o755), Err(Errno::EACCES));
    assert_eq!(w.b.unlink(&w.root, "/none"), Err(Errno::ENOENT));
    assert_eq!(w.b.rmdir(&w.root, "/e"), Err(Errno::ENOTEMPTY));
    assert_eq!(
        w.b.rename(&w.root, "/e", "/e/sub/x", RenameFlags::REPLACE),
        Err(Errno::EINVAL)
    );
    assert_eq!(w.b.chmod(&user, "/f", 0o777), Err(Errno::EPERM));
    assert_eq!(w.b.truncate(&w.root, "/d", 0), Err(Errno::EISDIR));
    assert!(recorder.lines().is_empty());
}

#[test]
fn the_envelope_says_who_where_and_in_which_order() {
    let w = world();
    let recorder = w.listen(false);
    let before = w.b.last_seq();
    let actor = Caller::root()
        .with_pid(77)
        .with_origin(Origin::Session(SessionId(3)));
    w.b.mkdir(&actor, "/d/one", 0o755).unwrap();
    w.b.mkdir(&actor, "/d/two", 0o755).unwrap();
    let heard = recorder.take();
    assert_eq!(heard.len(), 2);
    for (n, envelope) in heard.iter().enumerate() {
        assert_eq!(envelope.seq.0, before.0 + 1 + n as u64);
        assert_eq!(envelope.pid, 77);
        assert_eq!(envelope.origin, Origin::Session(SessionId(3)));
        assert_eq!(envelope.branch, w.b.id());
    }
    assert!(heard[0].time_ns <= heard[1].time_ns);
    assert_eq!(
        heard[1].kind(),
        Some(EventKind::Created {
            path: "/d/two".into()
        })
    );
}

#[test]
fn paths_have_the_stored_spelling_when_case_does_not_matter() {
    let w = World::with(agentfs_core::FsConfig {
        case_sensitivity: agentfs_core::CaseSensitivity::InsensitivePreserving,
        ..Default::default()
    });
    w.mkdir("/Src");
    w.put("/Src/Main.rs", "1");
    let recorder = w.listen(false);
    assert_eq!(w.b.mkdir(&w.root, "/sRC", 0o755), Err(Errno::EEXIST));
    w.b.chmod(&w.root, "/SRC/MAIN.RS", 0o600).unwrap();
    w.b.rename(
        &w.root,
        "/src/main.rs",
        "/src/MAIN.rs",
        RenameFlags::REPLACE,
    )
    .unwrap();
    w.b.unlink(&w.root, "/src/main.RS").unwrap();
    assert_eq!(
        recorder.lines(),
        [
            "attributes /Src/Main.rs File1 m",
            "renamed /Src/Main.rs to /Src/MAIN.rs File1",
            "removed /Src/MAIN.rs File0",
        ]
    );
}
