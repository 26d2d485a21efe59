//! Sizes and ranges that a caller makes up cost nothing: only what exists, or is really written,
//! takes time and memory.

use std::sync::mpsc::channel;
use std::time::Duration;

use agentfs_core::{
    AllocateFlags, Caller, Errno, FsConfig, FsLimits, HandleId, Overlay, Seek, XattrFlags,
};

use crate::support::World;

const PAGE: u64 = 4096;
const MAX: u64 = i64::MAX as u64;
const KEEP: AllocateFlags = AllocateFlags::KEEP_SIZE;

fn punch() -> AllocateFlags {
    AllocateFlags::PUNCH_HOLE | AllocateFlags::KEEP_SIZE
}

/// Runs `work`, which must end soon whatever numbers it is about.
#[track_caller]
fn at_once(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = channel();
    std::thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    let ended = is_done.recv_timeout(Duration::from_secs(20));
    ended.expect("it ends, in time of what exists");
}

fn file(w: &World) -> HandleId {
    w.put("/f", "");
    w.open("/f")
}

fn data(from: u64) -> Seek {
    Seek::Data(from.try_into().unwrap())
}

fn hole(from: u64) -> Seek {
    Seek::Hole(from.try_into().unwrap())
}

fn blocks(w: &World, handle: HandleId) -> u64 {
    w.b.fstat(handle).unwrap().blocks
}

#[test]
fn allocating_more_than_the_limit_is_refused_at_once_with_nothing_done() {
    at_once(|| {
        let w = World::new();
        let h = file(&w);
        let recorder = w.listen(false);
        for len in [1 << 40, 4 << 60, MAX] {
            for flags in [AllocateFlags::GROW, KEEP] {
                let refused = w.b.fallocate(&w.root, h, flags, 0, len);
                assert_eq!(refused, Err(Errno::ENOSPC), "{len}");
            }
        }
        assert_eq!(
            w.b.fallocate(&w.root, h, KEEP, MAX - PAGE, PAGE + 1),
            Err(Errno::EFBIG)
        );
        assert_eq!((w.b.fstat(h).unwrap().size, blocks(&w, h)), (0, 0));
        assert!(recorder.lines().is_empty());
        w.put("/other", "the branch goes on");
    });
}

#[test]
fn allocating_all_that_the_limit_allows_takes_no_time_and_is_counted() {
    at_once(|| {
        let w = World::new();
        let h = file(&w);
        let all = 64 << 30;
        for _ in 0..1000 {
            w.b.fallocate(&w.root, h, AllocateFlags::GROW, 0, all)
                .unwrap();
            assert_eq!(
                (w.b.fstat(h).unwrap().size, blocks(&w, h)),
                (all, all / 512)
            );
            assert_eq!(w.b.statfs().blocks_free, 0);
            w.b.ftruncate(&w.root, h, 0).unwrap();
            assert_eq!(blocks(&w, h), 0);
        }
        w.b.fallocate(&w.root, h, AllocateFlags::GROW, 0, all)
            .unwrap();
        // What is allocated can be written, and nothing beside it.
        assert_eq!(w.b.write_at(&w.root, h, all / 2, b"data"), Ok(4));
        let refused = w.b.write_at(&w.root, h, all, b"x");
        assert_eq!(refused, Err(Errno::ENOSPC));
        assert_eq!(blocks(&w, h), all / 512);
        w.b.fallocate(&w.root, h, punch(), 0, all).unwrap();
        assert_eq!(blocks(&w, h), 0);
        assert_eq!(w.b.seek(h, data(0)), Err(Errno::ENXIO));
    });
}

#[test]
fn allocated_ranges_are_cut_punched_and_written_page_by_page() {
    let w = World::new();
    let h = file(&w);
    w.b.fallocate(&w.root, h, KEEP, 0, 16 * PAGE).unwrap();
    w.b.ftruncate(&w.root, h, 16 * PAGE).unwrap();
    // tmpfs removes pages allocated beyond the end even at a truncation that does not grow the
    // file.
    assert_eq!(blocks(&w, h), 16 * 8);
    w.b.fallocate(&w.root, h, punch(), 3 * PAGE, 5 * PAGE)
        .unwrap();
    assert_eq!(blocks(&w, h), 11 * 8);
    w.b.write_at(&w.root, h, 5 * PAGE + 1, b"x").unwrap();
    w.b.write_at(&w.root, h, 9 * PAGE + 1, b"y").unwrap();
    assert_eq!(blocks(&w, h), 12 * 8);
    assert_eq!(w.b.seek(h, data(0)), Ok(5 * PAGE));
    assert_eq!(w.b.seek(h, hole(5 * PAGE)), Ok(6 * PAGE));
    assert_eq!(w.b.seek(h, data(6 * PAGE)), Ok(9 * PAGE));
    // Allocated again, it counts as data.
    w.b.fallocate(&w.root, h, KEEP, 12 * PAGE, 2 * PAGE)
        .unwrap();
    assert_eq!(w.b.seek(h, data(10 * PAGE)), Ok(12 * PAGE));
    assert_eq!(w.b.seek(h, hole(12 * PAGE)), Ok(14 * PAGE));
    w.b.ftruncate(&w.root, h, 10 * PAGE + 7).unwrap();
    assert_eq!(blocks(&w, h), 7 * 8);
    w.b.ftruncate(&w.root, h, 1 << 40).unwrap();
    assert_eq!(blocks(&w, h), 7 * 8);
    let mut byte = [1];
    assert_eq!(w.b.read_at(&w.root, h, 9 * PAGE + 1, &mut byte), Ok(1));
    assert_eq!(&byte, b"y");
}

#[test]
fn huge_holes_are_sought_read_and_cut_at_once() {
    at_once(|| {
        let w = World::new();
        let h = file(&w);
        w.b.ftruncate(&w.root, h, MAX).unwrap();
        assert_eq!(w.b.write_at(&w.root, h, 1 << 62, b"far away"), Ok(8));
        assert_eq!(w.b.seek(h, data(0)), Ok(1 << 62));
        assert_eq!(w.b.seek(h, hole(1 << 62)), Ok((1 << 62) + PAGE));
        assert_eq!(w.b.seek(h, data((1 << 62) + PAGE)), Err(Errno::ENXIO));
        let mut buffer = vec![1; 1 << 20];
        assert_eq!(w.b.read_at(&w.root, h, 1 << 50, &mut buffer), Ok(1 << 20));
        assert!(buffer.iter().all(|byte| *byte == 0));
        w.b.fallocate(&w.root, h, punch(), 0, MAX).unwrap();
        assert_eq!(blocks(&w, h), 0);
        w.b.ftruncate(&w.root, h, 1).unwrap();
    });
}

/// Creates a world over a directory with a file that is nothing but a hole.
fn over_a_huge_hole() -> (tempfile::TempDir, World, HandleId, u64) {
    let lower = tempfile::tempdir().unwrap();
    let size = 8 << 40;
    let file = std::fs::File::create(lower.path().join("f")).unwrap();
    file.set_len(size).unwrap();
    let w = World::with(FsConfig {
        overlay: Some(Overlay {
            lower: lower.path().to_owned(),
        }),
        ..FsConfig::default()
    });
    let h = w.open("/f");
    (lower, w, h, size)
}

#[test]
fn a_huge_file_of_the_lower_layer_is_punched_sought_and_cut_at_once() {
    at_once(|| {
        let (_lower, w, h, size) = over_a_huge_hole();
        w.b.write_at(&w.root, h, size - PAGE, b"end").unwrap();
        w.b.fallocate(&w.root, h, punch(), PAGE, size / 2).unwrap();
        assert_eq!(w.b.seek(h, hole(0)), Ok(0), "it is one on the host");
        assert_eq!(w.b.seek(h, data(PAGE)), Ok(size - PAGE));
        assert_eq!(w.b.seek(h, hole(size - PAGE)), Ok(size));
        assert_eq!(blocks(&w, h), 8);
        w.b.fallocate(&w.root, h, KEEP, PAGE, 1 << 30).unwrap();
        assert_eq!(blocks(&w, h), 8 + (1 << 21));
        let s =
            w.fs.snapshot_create(&w.root, agentfs_core::FsCore::MAIN, "");
        w.b.fallocate(&w.root, h, punch(), 0, size).unwrap();
        assert_eq!(blocks(&w, h), 0);
        w.fs.restore(&w.root, agentfs_core::FsCore::MAIN, s.unwrap())
            .unwrap();
        assert_eq!(w.b.seek(h, data(0)), Ok(size - PAGE));
        w.b.ftruncate(&w.root, h, 3 * PAGE).unwrap();
        assert_eq!(blocks(&w, h), 2 * 8);
    });
}

#[test]
fn copying_a_huge_hole_is_done_in_pieces() {
    at_once(|| {
        let w = World::new();
        let from = file(&w);
        w.b.ftruncate(&w.root, from, MAX).unwrap();
        w.put("/to", "");
        let to = w.open("/to");
        let copied =
            w.b.copy_range(&w.root, (from, 0), (to, 0), u64::from(u32::MAX))
                .unwrap();
        // The call may copy less than was asked for, as the system call may.
        assert!((PAGE..=16 << 20).contains(&copied), "{copied}");
        assert_eq!(w.b.fstat(to).unwrap().size, copied);
    });
}

#[test]
fn a_cookie_beyond_all_entries_is_the_end_of_a_directory() {
    let w = World::new();
    w.mkdir("/d");
    let node = w.b.lstat(&w.root, "/").unwrap().node;
    let mut pass = agentfs_core::Pass::default();
    let entries = w.b.readdir_node(&w.root, node, &mut pass, u64::MAX, 10);
    assert_eq!(entries.unwrap().len(), 0);
}

#[test]
fn the_extended_attributes_of_one_object_are_bounded() {
    let w = World::new();
    w.put("/f", "");
    let root = Caller::root();
    let value = vec![0; 1 << 16];
    let set = |number: u32| {
        let name = format!("user.{number}");
        w.b.setxattr(&root, "/f", true, name.as_bytes(), &value, XattrFlags::ANY)
    };
    let first = (0..1000).find_map(|number| set(number).err());
    assert_eq!(first, Some(Errno::ENOSPC));
    // What is there can be replaced, and removing makes room.
    set(0).unwrap();
    w.b.removexattr(&root, "/f", true, b"user.0").unwrap();
    set(1000).unwrap();
}

#[test]
fn a_full_branch_refuses_a_range_without_looking_at_every_page() {
    at_once(|| {
        let w = World::with(FsConfig {
            limits: FsLimits {
                bytes: 16 * PAGE,
                ..FsLimits::default()
            },
            ..FsConfig::default()
        });
        let h = file(&w);
        w.b.write_at(&w.root, h, 0, &vec![1; 8 * 4096]).unwrap();
        for _ in 0..1000 {
            let refused = w.b.fallocate(&w.root, h, KEEP, 0, 4 << 60);
            assert_eq!(refused, Err(Errno::ENOSPC));
        }
        w.b.fallocate(&w.root, h, KEEP, 0, 16 * PAGE).unwrap();
        assert_eq!(blocks(&w, h), 16 * 8);
    });
}
