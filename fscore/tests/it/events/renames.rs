//! Tests the events of names that are moved.

use super::*;

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
