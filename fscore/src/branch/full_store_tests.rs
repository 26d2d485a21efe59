//! A store whose disk fills up, or that has all that it may take: what fails changes nothing, and what
//! frees space goes on to work.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Branch;
use super::check::LEAST_MAX_STORE;
use super::fs::FsCore;
use super::histories::Machine;
use crate::disk::simulated::SimulatedDisk;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{EventKind, EventSink};
use crate::model::flags::{AllocateFlags, OpenFlags, RenameFlags, XattrFlags};

const LONG: &[u8] = b"user.long";

fn put(branch: &Branch, path: &str, at: u64, bytes: &[u8]) -> Result<()> {
    let root = Caller::root();
    let flags = OpenFlags::CREATE | OpenFlags::READ_WRITE;
    let handle = branch.open(&root, path, flags, 0o644)?;
    let written = branch.write_at(&root, handle, at, bytes).map(drop);
    branch.close(&root, handle)?;
    written
}

fn get(branch: &Branch, path: &str) -> Result<Vec<u8>> {
    let root = Caller::root();
    let handle = branch.open(&root, path, OpenFlags::READ, 0)?;
    let size = branch.fstat(handle)?.size;
    let mut bytes = vec![0; usize::try_from(size).expect("small")];
    let read = branch.read_at(&root, handle, 0, &mut bytes);
    branch.close(&root, handle)?;
    bytes.truncate(read?);
    Ok(bytes)
}

fn set_long(branch: &Branch, path: &str, len: usize) -> Result<()> {
    let value = vec![7; len];
    branch.setxattr(&Caller::root(), path, true, LONG, &value, XattrFlags::ANY)
}

/// Counts the events.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<EventKind>>);

impl EventSink for Heard {
    fn on_event(&self, event: &EventKind) {
        self.0.lock().push(event.clone());
    }
}

#[test]
fn operation_whose_record_finds_no_room_changes_nothing() {
    let mut refused = 0;
    for seed in 0..60 {
        let mut machine = Machine::start(SimulatedDisk::new(seed));
        let (branch, root) = (machine.branch(), Caller::root());
        branch.mkdir(&root, "/d", 0o755).unwrap();
        for path in ["/a", "/b", "/d/c"] {
            put(&branch, path, 0, &[1; 9000]).unwrap();
            set_long(&branch, path, 2900).unwrap();
        }
        let handle = branch.open(&root, "/a", OpenFlags::READ_WRITE, 0).unwrap();
        branch.write(&root, handle, b"begin").unwrap();
        machine.fs().sync().unwrap();
        let heard = Arc::new(Heard::default());
        machine.fs().subscribe_events(heard.clone()).unwrap();
        machine.disk.leave_free(seed * 700);
        for step in 0..40 {
            let (shown, seq) = (machine.shown(), branch.last_own_seq());
            let before = heard.0.lock().len();
            let done = match step % 8 {
                0 => set_long(&branch, "/b", 2000 + step),
                1 => branch.write(&root, handle, b"more").map(drop),
                2 => branch.rename(&root, "/d/c", "/b", RenameFlags::EXCHANGE),
                3 => branch.chmod(&root, "/a", 0o600 + u32::try_from(step).unwrap() % 8),
                4 => branch
                    .link(&root, "/a", format!("/d/link {step}"))
                    .map(drop),
                5 => branch.ftruncate(&root, handle, 5000 + step as u64),
                6 => branch.fallocate(&root, handle, AllocateFlags::default(), 0, 20_000),
                _ => put(&branch, "/new", 0, b"new"),
            };
            if done == Err(Errno::ENOSPC) && step % 8 != 7 {
                refused += 1;
                assert_eq!(machine.shown(), shown, "seed {seed}, step {step}");
                assert_eq!(branch.last_own_seq(), seq, "seed {seed}, step {step}");
                assert_eq!(heard.0.lock().len(), before, "seed {seed}, step {step}");
            }
        }
        let shown = machine.shown();
        machine.disk.leave_free(u64::MAX);
        drop(branch);
        machine.kill();
        assert_eq!(machine.shown(), shown, "seed {seed}");
    }
    assert!(refused > 200, "{refused}");
}

#[test]
fn handle_is_where_it_was_after_an_operation_that_was_taken_back() {
    let machine = Machine::start(SimulatedDisk::new(1));
    let (branch, root) = (machine.branch(), Caller::root());
    put(&branch, "/a", 0, &[1; 9000]).unwrap();
    set_long(&branch, "/a", 2900).unwrap();
    let handle = branch.open(&root, "/a", OpenFlags::READ_WRITE, 0).unwrap();
    branch.write(&root, handle, b"12345").unwrap();
    machine.disk.leave_free(0);
    let mut written = 5;
    while branch.write(&root, handle, b"67890") == Ok(5) {
        written += 5;
    }
    machine.disk.leave_free(u64::MAX);
    assert_eq!(branch.write(&root, handle, b"x"), Ok(1));
    let bytes = get(&branch, "/a").unwrap();
    assert_eq!(
        bytes[written], b'x',
        "it goes on after the last write that was done"
    );
}

#[test]
fn content_of_a_change_that_is_in_no_record_is_not_given_to_others() {
    for seed in 0..20 {
        let mut machine = Machine::start(SimulatedDisk::new(seed));
        let (branch, root) = (machine.branch(), Caller::root());
        put(&branch, "/a", 0, &vec![1; 40_000]).unwrap();
        // Its record is longer than everything that is spared.
        set_long(&branch, "/a", 60_000).unwrap();
        machine.fs().sync().unwrap();
        machine.disk.leave_free(0);
        assert_eq!(branch.truncate(&root, "/a", 0), Err(Errno::ENOSPC));
        let shown = get(&branch, "/a").unwrap();
        for number in 0..10 {
            machine.fs().sync().unwrap();
            machine.fs().maintain().unwrap();
            let done = put(&branch, "/b", number * 4096, &[2; 4096]);
            assert!(matches!(done, Ok(()) | Err(Errno::ENOSPC)), "{done:?}");
        }
        let other = get(&branch, "/b");
        machine.disk.leave_free(u64::MAX);
        drop(branch);
        machine.kill();
        let after = get(&machine.branch(), "/a").unwrap();
        assert!(after == shown || after == vec![1; 40_000], "seed {seed}");
        assert_eq!(get(&machine.branch(), "/b"), other, "seed {seed}");
    }
}

#[test]
fn restore_that_finds_no_room_fails_and_changes_nothing() {
    let mut machine = Machine::start(SimulatedDisk::new(1));
    let (branch, root) = (machine.branch(), Caller::root());
    let name = |number| format!("/{number}{}", "x".repeat(240));
    for number in 0..200 {
        put(&branch, &name(number), 0, b"then").unwrap();
    }
    let snapshot = machine.fs().snapshot_create(&root, FsCore::MAIN, "then");
    let snapshot = snapshot.unwrap();
    for number in 0..200 {
        branch.unlink(&root, name(number)).unwrap();
    }
    machine.fs().sync().unwrap();
    machine.disk.leave_free(0);
    let shown = machine.shown();
    let restored = machine.fs().restore(&root, FsCore::MAIN, snapshot);
    assert_eq!(restored, Err(Errno::ENOSPC));
    assert_eq!(machine.shown(), shown);
    machine.disk.leave_free(u64::MAX);
    drop(branch);
    machine.kill();
    assert_eq!(machine.shown(), shown);
    machine.fs().restore(&root, FsCore::MAIN, snapshot).unwrap();
    let shown = machine.shown();
    assert_eq!(shown.len(), 200);
    machine.kill();
    assert_eq!(machine.shown(), shown);
}

/// Writes to a file until there is no room; returns how much was written.
fn fill(branch: &Branch, path: &str, step: usize) -> (u64, Errno) {
    let mut at = 0;
    loop {
        match put(branch, path, at, &vec![3; step]) {
            Ok(()) => at += step as u64,
            Err(errno) => return (at, errno),
        }
    }
}

#[test]
fn limit_of_the_store_is_kept_and_what_frees_space_works_in_a_full_one() {
    let mut machine = Machine::start(SimulatedDisk::new(1));
    let (fs, branch, root) = (machine.fs().clone(), machine.branch(), Caller::root());
    let too_small = fs.set_max_store(Some(LEAST_MAX_STORE - 1));
    assert_eq!(too_small, Err(Errno::EINVAL));
    fs.set_max_store(Some(LEAST_MAX_STORE)).unwrap();
    assert_eq!(fs.store_usage().unwrap().warning(), None);
    let (written, errno) = fill(&branch, "/big", 1 << 20);
    assert_eq!(errno, Errno::ENOSPC);
    assert!(written >= LEAST_MAX_STORE / 10 * 9, "{written}");
    let usage = fs.store_usage().unwrap();
    assert!(usage.taken <= LEAST_MAX_STORE, "{usage:?}");
    assert!(usage.warning().is_some_and(|it| it.contains("--max-store")));
    let free = branch.statfs();
    assert_eq!(free.blocks, LEAST_MAX_STORE / 4096);
    assert!(free.blocks_free < 1024, "{free:?}");

    let other = fs.branch_create_from_current(&root, FsCore::MAIN, "other");
    fs.branch_delete(other.unwrap()).unwrap();
    fs.checkpoint().unwrap();
    assert_eq!(branch.truncate(&root, "/big", written - 10_001), Ok(()));
    // What was freed is there at once, without a wait for the next sync.
    branch.unlink(&root, "/big").unwrap();
    let (again, _) = fill(&branch, "/big", 1 << 20);
    assert!(again >= written - (2 << 20), "{again} and {written}");

    // The limit holds for the next process, with and without a checkpoint.
    for _ in 0..2 {
        drop((branch.clone(), fs.clone()));
        machine.kill();
        assert_eq!(
            machine.fs().store_usage().unwrap().most,
            Some(LEAST_MAX_STORE)
        );
        let again = put(&machine.branch(), "/more", 0, &vec![4; 8 << 20]);
        assert_eq!(again, Err(Errno::ENOSPC));
        machine.fs().checkpoint().unwrap();
    }
    machine.fs().set_max_store(None).unwrap();
    assert_eq!(
        put(&machine.branch(), "/more", 0, &vec![4; 8 << 20]),
        Ok(())
    );
    assert_eq!(machine.fs().store_usage().unwrap().warning(), None);
}

#[test]
fn quota_of_a_branch_is_kept_after_a_restart_and_concerns_no_other() {
    let mut machine = Machine::start(SimulatedDisk::new(1));
    let (fs, root) = (machine.fs().clone(), Caller::root());
    put(&machine.branch(), "/a", 0, &vec![1; 50_000]).unwrap();
    let small = fs.branch_create_from_current(&root, FsCore::MAIN, "small");
    let small = small.unwrap();
    fs.limit_branch(small, Some(100_000)).unwrap();
    let (written, errno) = fill(&fs.branch(small).unwrap(), "/b", 4096);
    assert_eq!(
        (written, errno),
        (100_000 / 4096 * 4096 + 4096, Errno::EDQUOT)
    );
    assert_eq!(fs.branch(small).unwrap().statfs().blocks_free, 0);
    put(&machine.branch(), "/b", 0, &vec![1; 500_000]).unwrap();
    let snapshot = fs.snapshot_create(&root, FsCore::MAIN, "of main").unwrap();
    drop(fs);
    for _ in 0..2 {
        machine.kill();
        let fs = machine.fs();
        let branch = fs.branch(small).unwrap();
        let more = put(&branch, "/c", 0, b"more");
        assert_eq!(more, Err(Errno::EDQUOT));
        fs.checkpoint().unwrap();
    }
    let (fs, branch) = (machine.fs(), machine.fs().branch(small).unwrap());
    branch.unlink(&root, "/b").unwrap();
    assert_eq!(put(&branch, "/c", 0, b"more"), Ok(()));
    // A restore to the snapshot of a branch without a quota does not end the quota.
    fs.restore(&root, small, snapshot).unwrap();
    assert_eq!(put(&branch, "/d", 0, b"more"), Err(Errno::EDQUOT));
    fs.limit_branch(small, None).unwrap();
    assert_eq!(put(&branch, "/d", 0, b"more"), Ok(()));
}

#[test]
fn change_of_a_file_with_very_many_names_is_a_short_record() {
    let mut machine = Machine::start(SimulatedDisk::new(1));
    let (fs, branch, root) = (machine.fs().clone(), machine.branch(), Caller::root());
    put(&branch, "/a", 0, b"a").unwrap();
    for number in 0..3000 {
        branch.link(&root, "/a", format!("/link {number}")).unwrap();
    }
    let before = fs.store_usage().unwrap().log;
    branch.chmod(&root, "/a", 0o600).unwrap();
    branch.unlink(&root, "/link 7").unwrap();
    branch.link(&root, "/a", "/one more").unwrap();
    branch
        .rename(&root, "/link 8", "/renamed", RenameFlags::REPLACE)
        .unwrap();
    let written = fs.store_usage().unwrap().log - before;
    assert!(written < 2000, "{written}");
    let node = branch.lstat(&root, "/a").unwrap().node;
    drop((fs, branch));
    for _ in 0..2 {
        machine.kill();
        let branch = machine.branch();
        let found = branch.lstat(&root, "/renamed").unwrap();
        assert_eq!((found.node, found.nlink, found.mode), (node, 3001, 0o600));
        assert_eq!(branch.lstat(&root, "/link 7"), Err(Errno::ENOENT));
        assert!(branch.path_of(node).is_some());
        machine.fs().checkpoint().unwrap();
    }
}

#[test]
fn snapshot_keeps_the_time_at_which_it_was_made() {
    let mut machine = Machine::start(SimulatedDisk::new(1));
    let snapshot = machine
        .fs()
        .snapshot_create(&Caller::root(), FsCore::MAIN, "s");
    let snapshot = snapshot.unwrap();
    let made = machine.fs().snapshots()[0].made;
    assert!(made.is_some_and(|made| made > 1_700_000_000_000_000_000));
    for _ in 0..2 {
        machine.kill();
        let all = machine.fs().snapshots();
        assert_eq!((all[0].id, all[0].made), (snapshot, made));
        machine.fs().checkpoint().unwrap();
    }
}
