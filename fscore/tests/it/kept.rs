//! Files of which the branch changes only the metadata or a name: their content is there whatever
//! the host does with its files later.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use agentfs_core::{
    ApplyMode, BackstoreMode, Errno, FsConfig, OpenFlags, Overlay, RenameFlags, SetAttr, SetTime,
    XattrFlags,
};

use crate::support::World;

/// What the host has in each file at first.
const CONTENT: &str = "of the host";

type Change = fn(&World);
type HostChange = fn(&Path);

/// Changes in a branch that leave the content of `/file` as it is; the file is `/kept` afterwards.
const CHANGES: [(&str, Change); 5] = [
    ("rename", |w| rename(w, "/file", "/kept")),
    ("chmod", |w| {
        let set = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        w.b.setattr(&w.root, "/file", true, &set).unwrap();
        rename(w, "/file", "/kept");
    }),
    ("utimes", |w| {
        let set = SetAttr {
            mtime: Some(SetTime::To(1_000_000_000)),
            ..SetAttr::default()
        };
        w.b.setattr(&w.root, "/file", true, &set).unwrap();
        rename(w, "/file", "/kept");
    }),
    ("setxattr", |w| {
        let (name, flags) = (b"user.kept", XattrFlags::default());
        w.b.setxattr(&w.root, "/file", true, name, b"yes", flags)
            .unwrap();
        rename(w, "/file", "/kept");
    }),
    ("link", |w| {
        w.b.link(&w.root, "/file", "/kept").unwrap();
    }),
];

/// What the host may do with the file then.
const HOST_CHANGES: [(&str, HostChange); 3] = [
    ("edit", |file| fs::write(file, "edited").unwrap()),
    ("replace", |file| {
        let new = file.with_extension("new");
        fs::write(&new, CONTENT.to_uppercase()).unwrap();
        fs::rename(&new, file).unwrap();
    }),
    ("remove", |file| fs::remove_file(file).unwrap()),
];

fn rename(w: &World, from: &str, to: &str) {
    w.b.rename(&w.root, from, to, RenameFlags::REPLACE).unwrap();
}

fn config(lower: &Path, backstore: BackstoreMode) -> FsConfig {
    FsConfig {
        overlay: Some(Overlay {
            lower: lower.to_owned(),
        }),
        backstore,
        ..FsConfig::default()
    }
}

#[test]
fn content_is_there_when_the_host_changes_or_removes_its_file() {
    for (change, change_it) in CHANGES {
        for (on_host, change_host) in HOST_CHANGES {
            let what = format!("{change}, then {on_host}");
            let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let file = host.path().join("file");
            fs::write(&file, CONTENT).unwrap();
            let disk = || config(host.path(), BackstoreMode::Disk(store.path().to_owned()));
            let w = World::with(disk());
            change_it(&w);
            change_host(&file);
            assert_eq!(w.get("/kept"), CONTENT, "{what}");
            w.fs.checkpoint().unwrap();
            drop(w);
            // The same from the store, and a part of the file can be changed.
            let w = World::with(disk());
            assert_eq!(w.get("/kept"), CONTENT, "{what}, restarted");
            let handle = w.open("/kept");
            w.b.write_at(&w.root, handle, 0, b"IN").unwrap();
            w.b.close(&w.root, handle).unwrap();
            assert_eq!(w.get("/kept"), "IN the host", "{what}, written");
            drop(w);
            let w = World::with(disk());
            assert_eq!(w.get("/kept"), "IN the host", "{what}, written, restarted");
        }
    }
}

#[test]
fn content_is_applied_when_the_host_has_removed_its_file() {
    let host = tempfile::tempdir().unwrap();
    let file = host.path().join("file");
    fs::write(&file, CONTENT).unwrap();
    let w = World::with(config(host.path(), BackstoreMode::Memory));
    rename(&w, "/file", "/kept");
    fs::remove_file(&file).unwrap();
    w.b.apply(ApplyMode::Force).unwrap();
    let applied = fs::read_to_string(host.path().join("kept")).unwrap();
    assert_eq!(applied, CONTENT);
}

#[test]
fn a_file_that_was_only_renamed_is_renamed_on_the_host() {
    let host = tempfile::tempdir().unwrap();
    let file = host.path().join("file");
    fs::write(&file, CONTENT).unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    let w = World::with(config(host.path(), BackstoreMode::Memory));
    rename(&w, "/file", "/kept");
    w.b.apply(ApplyMode::Refuse).unwrap();
    let applied = fs::metadata(host.path().join("kept")).unwrap();
    assert_eq!(applied.ino(), inode, "no copy of it was written");
    let gone = w.b.open(&w.root, "/file", OpenFlags::READ, 0);
    assert_eq!(gone, Err(Errno::ENOENT));
}
