//! What every operation tells: the table of the event model, and each detail that a kernel's
//! notification depends on.

#![expect(
    clippy::too_many_lines,
    clippy::semicolon_if_nothing_returned,
    reason = "tables: a row is an operation and what it tells"
)]

use agentfs_core::event::{EventKind, Origin};
use agentfs_core::id::{NodeId, SessionId};
use agentfs_core::{
    AllocateFlags, Caller, Errno, OpenFlags, RenameFlags, SetAttr, SetTime, XattrFlags,
};

use crate::support::World;

/// A world with `/d` (empty), `/e` with `/e/sub`, `/f` with "hello" and the second name `/e/link`,
/// and `/g` with "x".
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

/// What an operation gives is not what these tests are about.
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
fn names_that_come() {
    check(
        false,
        &[
            (
                "create",
                |w| ignore(w.b.open(&w.root, "/d/n", OpenFlags::CREATE, 0o600)),
                &["created /d/n File1"],
            ),
            (
                "create with O_TRUNC tells of no truncation",
                |w| {
                    ignore(w.b.open(
                        &w.root,
                        "/n",
                        OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::READ_WRITE,
                        0o600,
                    ));
                },
                &["created /n File1"],
            ),
            (
                "open what exists with O_CREAT",
                |w| ignore(w.b.open(&w.root, "/f", OpenFlags::CREATE, 0)),
                &[],
            ),
            ("mkdir", |w| w.mkdir("/d/n"), &["created /d/n Directory2"]),
            (
                "symlink",
                |w| ignore(w.b.symlink(&w.root, "f", "/d/n").unwrap()),
                &["created /d/n Symlink1"],
            ),
            (
                "mkfifo",
                |w| ignore(w.b.mknod(&w.root, "/n", 0o010_644, 0).unwrap()),
                &["created /n Fifo1"],
            ),
            (
                "socket",
                |w| ignore(w.b.mknod(&w.root, "/n", 0o140_644, 0).unwrap()),
                &["created /n Socket1"],
            ),
            (
                "device",
                |w| ignore(w.b.mknod(&w.root, "/n", 0o020_644, 259).unwrap()),
                &["created /n CharDevice1"],
            ),
            (
                "mknod of a file",
                |w| ignore(w.b.mknod(&w.root, "/n", 0o644, 0).unwrap()),
                &["created /n File1"],
            ),
            (
                "link",
                |w| ignore(w.b.link(&w.root, "/g", "/d/n").unwrap()),
                &["created /d/n File2 link"],
            ),
            (
                "tmpfile, silent until it is linked",
                |w| {
                    let (h, attr) =
                        w.b.tmpfile_at(&w.root, NodeId::ROOT, OpenFlags::READ_WRITE, 0o600)
                            .unwrap();
                    w.b.write(&w.root, h, b"x").unwrap();
                    w.b.link_node(&w.root, attr.node, NodeId::ROOT, b"n")
                        .unwrap();
                },
                &["written - File0* Grew", "created /n File1* tmpfile"],
            ),
        ],
    );
}

#[test]
fn names_that_go() {
    check(
        false,
        &[
            (
                "unlink, last link",
                |w| w.b.unlink(&w.root, "/g").unwrap(),
                &["removed /g File0"],
            ),
            (
                "unlink, another link remains",
                |w| w.b.unlink(&w.root, "/f").unwrap(),
                &["removed /f File1"],
            ),
            (
                "unlink while open; the last close ends it",
                |w| {
                    let h = w.open("/g");
                    w.b.unlink(&w.root, "/g").unwrap();
                    w.b.write(&w.root, h, b"more").unwrap();
                    w.b.close(&w.root, h).unwrap();
                },
                &[
                    "removed /g File0*",
                    "written /g File0* Grew",
                    "closed /g File0 write written",
                ],
            ),
            (
                "of two handles the last one ends it",
                |w| {
                    let (one, two) = (w.open("/g"), w.open("/g"));
                    w.b.unlink(&w.root, "/g").unwrap();
                    w.b.close(&w.root, two).unwrap();
                    w.b.close(&w.root, one).unwrap();
                },
                &["removed /g File0*", "closed /g File0 write"],
            ),
            (
                "rmdir",
                |w| w.b.rmdir(&w.root, "/e/sub").unwrap(),
                &["removed /e/sub Directory0"],
            ),
            (
                "rmdir while open",
                |w| {
                    let h = w.b.open(&w.root, "/d", OpenFlags::DIRECTORY, 0).unwrap();
                    w.b.rmdir(&w.root, "/d").unwrap();
                    w.b.close(&w.root, h).unwrap();
                },
                &["removed /d Directory0*", "closed /d Directory0"],
            ),
        ],
    );
}

#[test]
fn content() {
    check(
        false,
        &[
            (
                "write within the file",
                |w| ignore(w.b.write(&w.root, w.open("/f"), b"HE")),
                &["written /f File2* Same"],
            ),
            (
                "write beyond the end",
                |w| ignore(w.b.write_at(&w.root, w.open("/f"), 4, b"HE")),
                &["written /f File2* Grew"],
            ),
            (
                "write of nothing",
                |w| assert_eq!(w.b.write(&w.root, w.open("/f"), b""), Ok(0)),
                &[],
            ),
            (
                "a write is told under the name it was opened by",
                |w| ignore(w.b.write(&w.root, w.open("/e/link"), b"H")),
                &["written /e/link File2* Same"],
            ),
            (
                "truncate down",
                |w| w.b.truncate(&w.root, "/f", 1).unwrap(),
                &["resized /f File2 Shrank Truncate"],
            ),
            (
                "truncate up",
                |w| w.b.truncate(&w.root, "/f", 9).unwrap(),
                &["resized /f File2 Grew Truncate"],
            ),
            (
                "truncate to the same",
                |w| w.b.truncate(&w.root, "/f", 5).unwrap(),
                &["resized /f File2 Same Truncate"],
            ),
            (
                "ftruncate",
                |w| w.b.ftruncate(&w.root, w.open("/f"), 1).unwrap(),
                &["resized /f File2* Shrank Truncate"],
            ),
            (
                "open with O_TRUNC",
                |w| {
                    ignore(w.b.open(
                        &w.root,
                        "/f",
                        OpenFlags::TRUNCATE | OpenFlags::WRITE_ONLY,
                        0,
                    ))
                },
                &["resized /f File2* Shrank OpenTruncate"],
            ),
            (
                "open of an empty file with O_TRUNC",
                |w| {
                    w.b.truncate(&w.root, "/g", 0).unwrap();
                    w.b.open(
                        &w.root,
                        "/g",
                        OpenFlags::TRUNCATE | OpenFlags::WRITE_ONLY,
                        0,
                    )
                    .unwrap();
                },
                &[
                    "resized /g File1 Shrank Truncate",
                    "resized /g File1* Same OpenTruncate",
                ],
            ),
            (
                "fallocate",
                |w| {
                    w.b.fallocate(&w.root, w.open("/f"), AllocateFlags::GROW, 0, 9)
                        .unwrap()
                },
                &["resized /f File2* Grew Allocate"],
            ),
            (
                "fallocate keeping the size",
                |w| {
                    w.b.fallocate(&w.root, w.open("/f"), AllocateFlags::KEEP_SIZE, 0, 9)
                        .unwrap()
                },
                &["resized /f File2* Same Allocate"],
            ),
            (
                "copy_file_range",
                |w| {
                    let (from, to) = (w.open("/f"), w.open("/g"));
                    assert_eq!(w.b.copy_range(&w.root, (from, 0), (to, 1), 100), Ok(5));
                    assert_eq!(w.get("/g"), "xhello");
                },
                &["written /g File1* Grew"],
            ),
        ],
    );
}

#[test]
fn attributes() {
    check(
        false,
        &[
            (
                "chmod, also to the same mode",
                |w| w.b.chmod(&w.root, "/f", 0o644).unwrap(),
                &["attributes /f File2 m"],
            ),
            (
                "chown",
                |w| w.b.chown(&w.root, "/f", true, Some(1), None).unwrap(),
                &["attributes /f File2 o"],
            ),
            (
                "chown of nothing",
                |w| w.b.chown(&w.root, "/f", true, None, None).unwrap(),
                &["attributes /f File2 o"],
            ),
            (
                "utimens, both",
                |w| {
                    w.b.utimens(
                        &w.root,
                        "/f",
                        true,
                        Some(SetTime::Now),
                        Some(SetTime::To(5)),
                    )
                    .unwrap()
                },
                &["attributes /f File2 AM"],
            ),
            (
                "utimens, access time only",
                |w| {
                    w.b.utimens(&w.root, "/f", true, Some(SetTime::To(5)), None)
                        .unwrap()
                },
                &["attributes /f File2 A"],
            ),
            (
                "utimens, modification time only",
                |w| {
                    w.b.utimens(&w.root, "/f", true, None, Some(SetTime::To(5)))
                        .unwrap()
                },
                &["attributes /f File2 M"],
            ),
            (
                "utimens, none",
                |w| w.b.utimens(&w.root, "/f", true, None, None).unwrap(),
                &[],
            ),
            (
                "of a directory",
                |w| w.b.chmod(&w.root, "/e", 0o700).unwrap(),
                &["attributes /e Directory3 m"],
            ),
            (
                "of the root",
                |w| w.b.chmod(&w.root, "/", 0o700).unwrap(),
                &["attributes - Directory4 m"],
            ),
            (
                "setxattr",
                |w| {
                    w.b.setxattr(&w.root, "/f", true, b"user.a", b"1", XattrFlags::ANY)
                        .unwrap()
                },
                &["xattr /f File2 set"],
            ),
            (
                "removexattr",
                |w| {
                    w.b.setxattr(&w.root, "/d", true, b"user.a", b"1", XattrFlags::ANY)
                        .unwrap();
                    w.b.removexattr(&w.root, "/d", true, b"user.a").unwrap();
                },
                &["xattr /d Directory2 set", "xattr /d Directory2 removed"],
            ),
            (
                "several at once by node",
                |w| {
                    let node = w.b.stat(&w.root, "/g").unwrap().node;
                    let set = SetAttr {
                        size: Some(0),
                        mode: Some(0o600),
                        mtime: Some(SetTime::To(1)),
                        ..SetAttr::default()
                    };
                    w.b.setattr_node(&w.root, node, None, &set).unwrap();
                },
                &["resized /g File1 Shrank Truncate", "attributes /g File1 mM"],
            ),
        ],
    );
}

#[test]
fn renames() {
    check(
        false,
        &[
            (
                "in one directory",
                |w| {
                    w.b.rename(&w.root, "/g", "/n", RenameFlags::REPLACE)
                        .unwrap()
                },
                &["renamed /g to /n File1"],
            ),
            (
                "across directories",
                |w| {
                    w.b.rename(&w.root, "/g", "/d/n", RenameFlags::REPLACE)
                        .unwrap()
                },
                &["renamed /g to /d/n File1"],
            ),
            (
                "over a file: its last name",
                |w| {
                    w.b.rename(&w.root, "/f", "/g", RenameFlags::REPLACE)
                        .unwrap()
                },
                &["renamed /f to /g File2 over File0"],
            ),
            (
                "over a file with another name",
                |w| {
                    w.b.rename(&w.root, "/g", "/f", RenameFlags::REPLACE)
                        .unwrap()
                },
                &["renamed /g to /f File1 over File1"],
            ),
            (
                "over an open file, which lives on",
                |w| {
                    let h = w.open("/g");
                    w.b.rename(&w.root, "/f", "/g", RenameFlags::REPLACE)
                        .unwrap();
                    w.b.write(&w.root, h, b"yy").unwrap();
                    w.b.close(&w.root, h).unwrap();
                },
                &[
                    "renamed /f to /g File2 over File0*",
                    "written /g File0* Grew",
                    "closed /g File0 write written",
                ],
            ),
            (
                "directory, other parent",
                |w| {
                    w.b.rename(&w.root, "/e/sub", "/d/n", RenameFlags::REPLACE)
                        .unwrap()
                },
                &["renamed /e/sub to /d/n Directory2"],
            ),
            (
                "directory over an empty one",
                |w| {
                    w.b.rename(&w.root, "/e", "/d", RenameFlags::REPLACE)
                        .unwrap()
                },
                &["renamed /e to /d Directory3 over Directory0"],
            ),
            (
                "exchange",
                |w| {
                    w.b.rename(&w.root, "/f", "/e/sub", RenameFlags::EXCHANGE)
                        .unwrap()
                },
                &[
                    "renamed /f to /e/sub File2 first, with Directory2",
                    "renamed /e/sub to /f Directory2 second, with File2",
                ],
            ),
            (
                "to itself",
                |w| {
                    w.b.rename(&w.root, "/f", "/f", RenameFlags::REPLACE)
                        .unwrap()
                },
                &[],
            ),
            (
                "to another name of the same file",
                |w| {
                    w.b.rename(&w.root, "/f", "/e/link", RenameFlags::REPLACE)
                        .unwrap()
                },
                &[],
            ),
            (
                "refused by NOREPLACE",
                |w| {
                    assert_eq!(
                        w.b.rename(&w.root, "/f", "/g", RenameFlags::NOREPLACE),
                        Err(Errno::EEXIST)
                    )
                },
                &[],
            ),
            (
                "what is below a moved directory has its new path",
                |w| {
                    let h = w.open("/e/link");
                    w.b.write(&w.root, h, b"1").unwrap();
                    w.b.rename(&w.root, "/e", "/d/moved", RenameFlags::REPLACE)
                        .unwrap();
                    w.b.write(&w.root, h, b"2").unwrap();
                    w.b.rename(&w.root, "/d/moved/link", "/away", RenameFlags::REPLACE)
                        .unwrap();
                    w.b.write(&w.root, h, b"3").unwrap();
                },
                &[
                    "written /e/link File2* Same",
                    "renamed /e to /d/moved Directory3",
                    "written /d/moved/link File2* Same",
                    "renamed /d/moved/link to /away File2*",
                    "written /away File2* Same",
                ],
            ),
        ],
    );
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
                "stat, readlink and access tell nothing",
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
