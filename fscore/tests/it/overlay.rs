//! Tests a host directory below a branch: it is shown lazily, never written, and copied up piece by
//! piece.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use agentfs_core::event::Origin;
use agentfs_core::{
    AllocateFlags, Caller, Errno, FsCore, LowerChange, OpenFlags, RenameFlags, Seek, XattrFlags,
};

use crate::support::{Recorder, World, get, line, names};

/// Creates a lower directory with `f` ("lower"), `dir/{a,b}`, `dir/sub/deep`, `link` to `dir/a`,
/// and `hard`, a second name of `f`.
fn lower() -> (tempfile::TempDir, World) {
    let host = tempfile::tempdir().unwrap();
    let at = |path: &str| host.path().join(path);
    fs::create_dir_all(at("dir/sub")).unwrap();
    for (path, text) in [
        ("f", "lower"),
        ("dir/a", "A"),
        ("dir/b", "B"),
        ("dir/sub/deep", "D"),
    ] {
        fs::write(at(path), text).unwrap();
    }
    fs::hard_link(at("f"), at("hard")).unwrap();
    symlink("dir/a", at("link")).unwrap();
    let world = World::over(host.path());
    (host, world)
}

fn host_names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_host_shows_and_is_not_written() {
    let (host, w) = lower();
    assert_eq!(w.names("/"), ["dir", "f", "hard", "link"]);
    assert_eq!(w.get("/link"), "A");
    let attr = w.b.stat(&w.root, "/f").unwrap();
    let real = fs::metadata(host.path().join("f")).unwrap();
    assert_eq!((attr.size, attr.nlink, attr.uid), (5, 2, real.uid()));
    assert_eq!(attr.mtime, real.mtime() * 1_000_000_000 + real.mtime_nsec());

    w.put("/f", "upper");
    w.put("/dir/new", "N");
    w.b.unlink(&w.root, "/dir/a").unwrap();
    w.b.rename(&w.root, "/dir/b", "/moved", RenameFlags::REPLACE)
        .unwrap();
    w.b.chmod(&w.root, "/dir/sub", 0o700).unwrap();
    assert_eq!(w.names("/dir"), ["new", "sub"]);
    assert_eq!(w.get("/moved"), "B");
    assert_eq!(w.b.stat(&w.root, "/link"), Err(Errno::ENOENT));

    assert_eq!(fs::read_to_string(host.path().join("f")).unwrap(), "lower");
    assert_eq!(host_names(&host.path().join("dir")), ["a", "b", "sub"]);
}

#[test]
fn what_git_remembers_of_a_file_is_as_on_the_host() {
    let (host, w) = lower();
    let number = |path: &str| fs::metadata(host.path().join(path)).unwrap().ino();
    for path in ["dir", "dir/a", "dir/sub/deep", "link", "hard"] {
        let seen = w.b.lstat(&w.root, format!("/{path}")).unwrap();
        let real = fs::symlink_metadata(host.path().join(path)).unwrap();
        let changed = real.ctime() * 1_000_000_000 + real.ctime_nsec();
        assert_eq!((seen.node.0, seen.ctime), (real.ino(), changed), "{path}");
    }
    w.put("/dir/a", "changed");
    assert_eq!(w.b.stat(&w.root, "/dir/a").unwrap().node.0, number("dir/a"));
}

#[test]
fn a_number_that_the_host_gives_again_is_not_given_again() {
    let (host, w) = lower();
    let gone = host.path().join("dir/a");
    let before = w.b.stat(&w.root, "/dir/a").unwrap();
    let number = fs::metadata(&gone).unwrap().ino();
    fs::remove_file(&gone).unwrap();
    let removed = LowerChange::Removed {
        path: "dir/a".into(),
        is_dir: false,
    };
    w.fs.lower_changed(&removed);
    // A filesystem that gives the lowest free number gives the same one again.
    fs::write(&gone, "another").unwrap();
    w.fs.lower_changed(&created("dir/a"));
    let after = w.b.stat(&w.root, "/dir/a").unwrap();
    assert_ne!(after.node, before.node);
    let is_again = fs::metadata(&gone).unwrap().ino() == number;
    assert_eq!(
        after.node.0 == fs::metadata(&gone).unwrap().ino(),
        !is_again
    );
}

#[test]
fn hard_links_below_are_one_node_in_all_branches() {
    let (_host, w) = lower();
    let node = w.b.stat(&w.root, "/f").unwrap().node;
    assert_eq!(w.b.stat(&w.root, "/hard").unwrap().node, node);
    w.put("/hard", "changed");
    assert_eq!(w.get("/f"), "changed");
    w.b.unlink(&w.root, "/f").unwrap();
    assert_eq!(w.b.stat(&w.root, "/hard").unwrap().nlink, 1);
    assert_eq!(w.get("/hard"), "changed");
}

#[test]
fn a_node_of_the_host_has_one_number_in_all_branches() {
    let (_host, w) = lower();
    let id =
        w.fs.branch_create_from_current(&w.root, FsCore::MAIN, "side")
            .unwrap();
    let side = w.fs.branch(id).unwrap();
    let there = side.stat(&w.root, "/dir/a").unwrap().node;
    w.put("/dir/a", "mine");
    assert_eq!(w.b.stat(&w.root, "/dir/a").unwrap().node, there);
    assert_eq!(get(&side, "/dir/a"), "A");
}

#[test]
fn a_renamed_directory_takes_its_lower_children_along() {
    let (_host, w) = lower();
    let deep = w.b.stat(&w.root, "/dir/sub/deep").unwrap().node;
    w.b.rename(&w.root, "/dir", "/other", RenameFlags::REPLACE)
        .unwrap();
    assert_eq!(w.names("/other"), ["a", "b", "sub"]);
    assert_eq!(w.get("/other/sub/deep"), "D");
    assert_eq!(w.b.stat(&w.root, "/other/sub/deep").unwrap().node, deep);
    assert_eq!(w.b.path_of(deep).unwrap(), Path::new("/other/sub/deep"));
    assert_eq!(w.names("/"), ["f", "hard", "link", "other"]);
    // A new directory of the old name is empty: what is below does not show through.
    w.mkdir("/dir");
    assert!(w.names("/dir").is_empty());
    assert_eq!(w.b.rmdir(&w.root, "/dir"), Ok(()));
}

#[test]
fn a_removed_and_remade_name_hides_the_lower_one() {
    let (_host, w) = lower();
    w.b.unlink(&w.root, "/dir/sub/deep").unwrap();
    w.b.rmdir(&w.root, "/dir/sub").unwrap();
    assert_eq!(w.names("/dir"), ["a", "b"]);
    w.mkdir("/dir/sub");
    assert!(w.names("/dir/sub").is_empty());
    assert_eq!(w.b.stat(&w.root, "/dir").unwrap().nlink, 3);
}

#[test]
fn appending_to_a_large_file_does_not_copy_it() {
    let host = tempfile::tempdir().unwrap();
    let big = fs::File::create(host.path().join("big")).unwrap();
    big.set_len(1 << 30).unwrap();
    let w = World::over(host.path());
    let before = w.b.statfs().blocks_free;
    let h =
        w.b.open(
            &w.root,
            "/big",
            OpenFlags::WRITE_ONLY | OpenFlags::APPEND,
            0,
        )
        .unwrap();
    w.b.write(&w.root, h, b"tail").unwrap();
    let h = w.open("/big");
    w.b.write_at(&w.root, h, 5000, b"middle").unwrap();
    assert_eq!(before - w.b.statfs().blocks_free, 2);
    let mut buffer = [9; 8];
    assert_eq!(w.b.read_at(&w.root, h, (1 << 30) - 2, &mut buffer), Ok(6));
    assert_eq!(&buffer[..6], b"\0\0tail");
    assert_eq!(w.b.read_at(&w.root, h, 4999, &mut buffer), Ok(8));
    assert_eq!(&buffer, b"\0middle\0");
}

/// Creates a file of `size` bytes that is one hole but for `text` at each offset.
fn sparse(path: &Path, size: u64, texts: &[(u64, &str)]) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, text) in texts {
        file.write_all_at(text.as_bytes(), *offset).unwrap();
    }
}

#[test]
fn the_holes_of_the_host_s_file_are_holes_in_the_branch() {
    const SIZE: u64 = 200 << 30;
    let host = tempfile::tempdir().unwrap();
    let page = "x".repeat(4096);
    sparse(
        &host.path().join("f"),
        SIZE,
        &[(1 << 20, &page), (1 << 30, &page)],
    );
    let w = World::over(host.path());
    let h = w.open("/f");
    let ranges = || {
        let (mut all, mut at) = (Vec::new(), 0);
        while let Some(range) = w.b.next_data(h, at).unwrap() {
            at = range.end;
            all.push(range);
        }
        all
    };
    let lower = [1 << 20..(1 << 20) + 4096, 1 << 30..(1 << 30) + 4096];
    assert_eq!(ranges(), lower);
    // With a page of the branch in the lower file's hole, and a hole of the branch over its data.
    w.b.write_at(&w.root, h, 100 << 30, b"own").unwrap();
    let punch = AllocateFlags::PUNCH_HOLE | AllocateFlags::KEEP_SIZE;
    w.b.fallocate(&w.root, h, punch, 1 << 20, 4096).unwrap();
    assert_eq!(ranges(), [lower[1].clone(), 100 << 30..(100 << 30) + 4096]);
    assert_eq!(w.b.seek(h, Seek::Data(0)), Ok(1 << 30));
    assert_eq!(w.b.seek(h, Seek::Hole(1 << 30)), Ok((1 << 30) + 4096));
    assert_eq!(w.b.seek(h, Seek::Data(101 << 30)), Err(Errno::ENXIO));
    assert_eq!(w.b.seek(h, Seek::Hole(101 << 30)), Ok(101 << 30));
    // What the branch grew beyond the lower file is a hole, and the page before the hole is data.
    w.b.truncate(&w.root, "/f", (1 << 30) + 100).unwrap();
    w.b.truncate(&w.root, "/f", SIZE).unwrap();
    assert_eq!(ranges(), vec![1 << 30..(1 << 30) + 4096; 1]);
}

#[test]
fn cutting_and_growing_again_shows_zeros_and_not_the_host() {
    let (_host, w) = lower();
    w.b.truncate(&w.root, "/f", 2).unwrap();
    w.b.truncate(&w.root, "/f", 4).unwrap();
    assert_eq!(w.get("/f"), "lo\0\0");
}

#[test]
fn a_file_that_was_changed_in_part_stays_whole_whatever_becomes_of_it_below() {
    let (host, w) = lower();
    let page = "x".repeat(4096);
    fs::write(host.path().join("long"), page.repeat(3)).unwrap();
    let h = w.open("/long");
    w.b.write(&w.root, h, b"mine").unwrap();
    let mut buffer = [0; 4];
    assert_eq!(w.b.read_at(&w.root, h, 8192, &mut buffer), Ok(4));
    fs::write(host.path().join("long"), "replaced").unwrap();
    assert_eq!(w.b.read_at(&w.root, h, 8192, &mut buffer), Ok(4));
    fs::remove_file(host.path().join("long")).unwrap();
    assert_eq!(w.get("/long"), format!("mine{}", &page.repeat(3)[4..]));
}

#[test]
fn what_vanishes_below_is_a_clear_error() {
    let (host, w) = lower();
    // The file was never copied up, so it is gone when the host removes it.
    let node = w.b.stat(&w.root, "/dir/a").unwrap().node;
    fs::remove_file(host.path().join("dir/a")).unwrap();
    assert_eq!(w.b.stat(&w.root, "/dir/a"), Err(Errno::ENOENT));
    assert_eq!(w.b.getattr(node), Err(Errno::ESTALE));
    // What the branch put into a directory outlives the directory's removal.
    w.put("/dir/mine", "1");
    fs::remove_dir_all(host.path().join("dir")).unwrap();
    assert_eq!(w.names("/dir"), ["mine"]);
}

#[test]
fn an_untouched_file_shows_the_host_as_it_is() {
    let (host, w) = lower();
    fs::write(host.path().join("dir/a"), "edited").unwrap();
    fs::write(host.path().join("dir/c"), "new").unwrap();
    assert_eq!(w.get("/dir/a"), "edited");
    assert_eq!(w.names("/dir"), ["a", "b", "c", "sub"]);
}

#[test]
fn nothing_leads_out_of_the_lower_directory() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    let (host, w) = lower();
    symlink(outside.path(), host.path().join("out")).unwrap();
    // A link is walked inside the branch, where that path does not exist.
    assert_eq!(w.b.stat(&w.root, "/out/secret"), Err(Errno::ENOENT));
    assert_eq!(w.b.stat(&w.root, "/dir/../../../f").unwrap().size, 5);
    // The host swaps a directory for a link behind the branch's back.
    let node = w.b.stat(&w.root, "/dir").unwrap().node;
    fs::remove_dir_all(host.path().join("dir")).unwrap();
    symlink(outside.path(), host.path().join("dir")).unwrap();
    assert_eq!(w.b.lookup(&w.root, node, b"secret"), Err(Errno::ESTALE));
}

#[test]
fn special_files_and_attributes_below() {
    let (host, w) = lower();
    let fifo = host.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let attr = w.b.lstat(&w.root, "/fifo").unwrap();
    assert_eq!(attr.kind, agentfs_core::event::ObjectKind::Fifo);
    w.b.rename(&w.root, "/fifo", "/dir/pipe", RenameFlags::REPLACE)
        .unwrap();
    assert_eq!(w.b.lstat(&w.root, "/dir/pipe").unwrap().node, attr.node);
    fs::set_permissions(host.path().join("f"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(w.b.stat(&w.root, "/f").unwrap().mode, 0o640);
    w.b.setxattr(&w.root, "/f", true, b"user.k", b"v", XattrFlags::ANY)
        .unwrap();
    assert_eq!(
        &*w.b.getxattr(&w.root, "/hard", true, b"user.k").unwrap(),
        b"v"
    );
}

#[test]
fn listing_in_small_parts_gives_every_entry_once() {
    let (host, w) = lower();
    for n in 0..100 {
        fs::write(host.path().join(format!("dir/n{n}")), "").unwrap();
        w.put(&format!("/dir/m{n}"), "");
    }
    let h = w.b.open(&w.root, "/dir", OpenFlags::DIRECTORY, 0).unwrap();
    let (mut cookie, mut seen) = (0, Vec::new());
    loop {
        let part = w.b.readdir(&w.root, h, cookie, 7).unwrap();
        let Some(last) = part.last() else { break };
        cookie = last.cookie;
        seen.extend(part.iter().map(|entry| entry.name.to_vec()));
    }
    assert_eq!(seen.len(), 2 + 3 + 200);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2 + 3 + 200);
}

#[test]
fn rights_of_the_host_hold() {
    let (host, w) = lower();
    fs::set_permissions(host.path().join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    let user = Caller::new(4711, 4711);
    assert_eq!(w.b.stat(&user, "/dir/a"), Err(Errno::EACCES));
    assert_eq!(w.b.unlink(&user, "/f"), Err(Errno::EACCES));
    assert_eq!(names(&w.b, "/dir"), ["a", "b", "sub"]);
}

fn created(path: &str) -> LowerChange {
    LowerChange::Created {
        path: path.into(),
        is_dir: false,
    }
}

/// Reports a change below, and returns the events that it causes, each after the number of its
/// branch.
fn events_of(w: &World, recorder: &Recorder, change: &LowerChange) -> Vec<String> {
    w.fs.lower_changed(change);
    let heard = recorder.take();
    assert!(heard.iter().all(|e| e.origin == Origin::Lower));
    heard
        .iter()
        .map(|e| format!("{}: {}", e.branch, line(&e.change)))
        .collect()
}

#[test]
fn changes_below_are_told_where_no_branch_hides_them() {
    let (host, w) = lower();
    let side =
        w.fs.branch_create_from_current(&w.root, FsCore::MAIN, "side")
            .unwrap();
    let side = w.fs.branch(side).unwrap();
    assert_eq!(w.names("/dir"), ["a", "b", "sub"]);
    w.put("/dir/a", "mine");
    side.rename(&w.root, "/dir", "/moved", RenameFlags::REPLACE)
        .unwrap();
    let recorder = w.listen(false);
    let events = |change| events_of(&w, &recorder, &change);
    let at = |path: &str| host.path().join(path);
    fs::write(at("dir/a"), "theirs").unwrap();
    assert_eq!(
        events(LowerChange::Written("dir/a".into())),
        ["2: written /moved/a File1 Same"]
    );
    fs::write(at("dir/new"), "").unwrap();
    assert_eq!(
        events(created("dir/new")),
        ["1: created /dir/new File1", "2: created /moved/new File1",]
    );
    fs::rename(at("dir/new"), at("dir/newer")).unwrap();
    let renamed = LowerChange::Renamed {
        from: "dir/new".into(),
        to: "dir/newer".into(),
        is_dir: false,
    };
    assert_eq!(
        events(renamed),
        [
            "1: renamed /dir/new to /dir/newer File1",
            "2: renamed /moved/new to /moved/newer File1",
        ]
    );
    fs::remove_file(at("dir/newer")).unwrap();
    let removed = |path: &str| LowerChange::Removed {
        path: path.into(),
        is_dir: false,
    };
    assert_eq!(
        events(removed("dir/newer")),
        [
            "1: removed /dir/newer File0",
            "2: removed /moved/newer File0",
        ]
    );
    w.b.unlink(&w.root, "/dir/b").unwrap();
    recorder.take();
    fs::write(at("dir/b"), "x").unwrap();
    assert_eq!(
        events(LowerChange::Written("dir/b".into())),
        ["2: written /moved/b File1 Same"]
    );
}

#[test]
fn handles_on_what_the_host_took_away_can_be_closed() {
    let (host, w) = lower();
    let recorder = w.listen(true);
    let h = w.b.open(&w.root, "/dir/a", OpenFlags::READ, 0).unwrap();
    fs::remove_file(host.path().join("dir/a")).unwrap();
    let attr = w.b.fstat(h).unwrap();
    assert_eq!((attr.size, attr.nlink), (1, 0));
    assert_eq!(w.b.close(&w.root, h), Ok(()));
    assert_eq!(w.b.getattr(attr.node), Err(Errno::ESTALE));
    assert_eq!(w.b.close(&w.root, h), Err(Errno::EBADF));
    assert_eq!(
        recorder.lines(),
        ["opened /dir/a File1*", "closed /dir/a File0"]
    );
}

#[test]
fn a_directory_that_the_host_moves_keeps_its_nodes() {
    let (host, w) = lower();
    let deep = w.b.stat(&w.root, "/dir/sub/deep").unwrap().node;
    fs::rename(host.path().join("dir"), host.path().join("other")).unwrap();
    assert_eq!(w.b.getattr(deep), Err(Errno::ESTALE));
    assert_eq!(w.names("/"), ["f", "hard", "link", "other"]);
    assert_eq!(w.b.getattr(deep).unwrap().size, 1);
    assert_eq!(w.b.path_of(deep).unwrap(), Path::new("/other/sub/deep"));
}

#[test]
fn changes_below_are_told_of_what_nobody_has_looked_at() {
    let (host, w) = lower();
    let recorder = w.listen(false);
    let events = |change| events_of(&w, &recorder, &change);
    let at = |path: &str| host.path().join(path);
    fs::remove_file(at("dir/sub/deep")).unwrap();
    let removed = LowerChange::Removed {
        path: "dir/sub/deep".into(),
        is_dir: false,
    };
    assert_eq!(events(removed), ["1: removed /dir/sub/deep File0"]);
    let node = w.b.stat(&w.root, "/dir/b").unwrap().node;
    fs::write(at("saved~"), "new").unwrap();
    assert_eq!(events(created("saved~")), ["1: created /saved~ File1"]);
    fs::rename(at("saved~"), at("dir/b")).unwrap();
    let saved = LowerChange::Renamed {
        from: "saved~".into(),
        to: "dir/b".into(),
        is_dir: false,
    };
    assert_eq!(
        events(saved),
        ["1: renamed /saved~ to /dir/b File1 over File0"]
    );
    assert_ne!(w.b.stat(&w.root, "/dir/b").unwrap().node, node);
}

#[test]
fn a_host_directory_can_be_shown_without_regard_to_case() {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("Src")).unwrap();
    fs::write(host.path().join("Src/Main.rs"), "1").unwrap();
    let w = World::with(agentfs_core::FsConfig {
        case_sensitivity: agentfs_core::CaseSensitivity::InsensitivePreserving,
        overlay: Some(agentfs_core::Overlay {
            lower: host.path().to_owned(),
        }),
        ..Default::default()
    });
    assert_eq!(w.get("/src/MAIN.RS"), "1");
    w.put("/SRC/main.rs", "2");
    assert_eq!(w.names("/src"), ["Main.rs"]);
    w.b.unlink(&w.root, "/src/main.rs").unwrap();
    assert_eq!(w.b.stat(&w.root, "/Src/Main.rs"), Err(Errno::ENOENT));
}
