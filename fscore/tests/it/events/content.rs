//! Tests the events of changes to content and attributes.

use super::*;

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
                "a write is reported under the name it was opened by",
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
