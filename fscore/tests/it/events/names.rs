//! Tests the events of names that are created and removed.

use super::*;

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
                "create with O_TRUNC emits no truncation",
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
