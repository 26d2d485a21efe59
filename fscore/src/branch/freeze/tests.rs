//! A freeze that is killed, or whose disk fails or is full, at each of its calls to the disk; and one
//! during which the host moves what is to be taken.

use std::path::Path;
use std::sync::Arc;

use super::{AtomicBool, Caller, FsCore};
use crate::branch::gated_disk;
use crate::branch::store::Store;
use crate::disk::simulated::{Fault, SimulatedDisk};
use crate::log::{Boot, Sizes};
use crate::model::config::{FsConfig, Overlay};
use crate::model::flags::OpenFlags;
use crate::model::id::BranchId;

/// So small that the record of a base is split.
const SIZES: Sizes = Sizes {
    room: 2000,
    step: 16_384,
    spare: 8192,
    ample: 4096,
};

fn open(disk: &SimulatedDisk, boot: u128, lower: &Path) -> FsCore {
    let boot = Boot(Some(boot.to_le_bytes()));
    let store = Store::open_in(Path::new("/store"), Arc::new(disk.clone()), boot, SIZES);
    let config = FsConfig {
        overlay: Some(Overlay {
            lower: lower.to_owned(),
        }),
        ..FsConfig::default()
    };
    let fs = FsCore::in_store(config, Some(store.expect("a store")));
    fs.expect("a store that can be read")
}

fn read(fs: &FsCore, branch: BranchId, path: &str) -> Vec<u8> {
    let (branch, root) = (fs.branch(branch).expect("a branch"), Caller::root());
    let handle = branch.open(&root, path, OpenFlags::READ, 0);
    let handle = handle.expect("a file");
    let mut bytes = vec![0; 20_000];
    let read = branch.read_at(&root, handle, 0, &mut bytes);
    bytes.truncate(read.expect("bytes"));
    branch.close(&root, handle).expect("it is open");
    bytes
}

/// Freezes a branch on a disk that fails after so many calls. Returns whether the branch was made.
fn freeze_on(disk: &SimulatedDisk, fault: Option<(u64, Fault)>, lower: &Path) -> bool {
    let fs = open(disk, 1, lower);
    if let Some((calls, fault)) = fault {
        disk.fail_after(calls, fault);
    }
    let (never, root) = (AtomicBool::new(false), Caller::root());
    let made = fs.branch_create_frozen(&root, FsCore::MAIN, "frozen", &never);
    disk.fail_after(u64::MAX >> 1, Fault::Error);
    drop(fs);
    disk.kill();
    made.is_ok()
}

#[test]
fn a_base_is_there_as_a_whole_or_not_at_all() {
    let lower = tempfile::tempdir().expect("a directory");
    let content = |number: usize| vec![b'a' + u8::try_from(number).unwrap_or(0); 300 * number];
    for number in 0..20 {
        let path = lower.path().join(format!("f{number}"));
        std::fs::write(path, content(number)).expect("written");
    }
    let mut made = [0, 0];
    for calls in 0..60 {
        for fault in [Fault::Crash, Fault::Error] {
            let disk = SimulatedDisk::new(calls);
            drop(open(&disk, 1, lower.path()));
            disk.kill();
            let is_made = freeze_on(&disk, Some((calls, fault)), lower.path());
            let fs = open(&disk, 1, lower.path());
            let found = fs.branch_named("frozen");
            assert!(found.is_some() || !is_made, "{calls}, {fault:?}");
            made[usize::from(found.is_some())] += 1;
            match found {
                Some(branch) => {
                    for number in 0..20 {
                        let path = format!("/f{number}");
                        assert_eq!(read(&fs, branch, &path), content(number), "{calls}");
                    }
                }
                None => {
                    fs.drop_unused_bases().expect("the disk works");
                    let is_base = !fs.core.registry.read().bases.is_empty();
                    let in_use = fs.core.shared.extents.in_use();
                    assert_eq!(in_use > 0, is_base, "{calls}, {fault:?}: {in_use}");
                }
            }
        }
    }
    assert!(made[0] > 0 && made[1] > 0, "{made:?}");
}

#[test]
fn a_full_disk_ends_a_freeze_and_gives_the_room_back() {
    let lower = tempfile::tempdir().expect("a directory");
    for number in 0..20 {
        let path = lower.path().join(format!("f{number}"));
        std::fs::write(path, vec![b'x'; 9000]).expect("written");
    }
    let disk = SimulatedDisk::new(1);
    drop(open(&disk, 1, lower.path()));
    disk.kill();
    disk.leave_free(50_000);
    assert!(!freeze_on(&disk, None, lower.path()), "it does not fit");
    disk.leave_free(1 << 20);
    assert!(freeze_on(&disk, None, lower.path()), "it fits");
    let fs = open(&disk, 1, lower.path());
    let branch = fs.branch_named("frozen").expect("it was made");
    assert_eq!(read(&fs, branch, "/f7"), vec![b'x'; 9000]);
}

#[test]
fn what_the_host_moves_meanwhile_is_not_missed() {
    let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let below = |name: &str| host.path().join(name);
    std::fs::create_dir_all(below("a/deep")).unwrap();
    std::fs::create_dir_all(below("b")).unwrap();
    for name in ["gate", "a/first", "a/deep/second", "b/up", "b/linked"] {
        std::fs::write(below(name), name).unwrap();
    }
    std::fs::hard_link(below("b/linked"), below("linked")).unwrap();
    let (fs, copies) = gated_disk::filesystem(host.path(), store.path());
    let frozen = {
        let fs = fs.clone();
        std::thread::spawn(move || {
            let never = AtomicBool::new(false);
            fs.branch_create_frozen(&Caller::root(), FsCore::MAIN, "frozen", &never)
        })
    };
    // The names in the root were read, and no directory below was.
    copies.wait();
    std::fs::rename(below("a"), below("z")).unwrap();
    std::fs::rename(below("b/up"), below("up")).unwrap();
    std::fs::remove_file(below("linked")).unwrap();
    copies.go_on(100);
    let frozen = frozen.join().unwrap().expect("it is made");
    std::fs::remove_dir_all(below("z")).unwrap();
    for (path, content) in [
        ("/gate", "gate"),
        ("/z/first", "a/first"),
        ("/z/deep/second", "a/deep/second"),
        ("/up", "b/up"),
        ("/b/linked", "b/linked"),
    ] {
        assert_eq!(read(&fs, frozen, path), content.as_bytes(), "{path}");
    }
    let gone = fs.branch(frozen).unwrap().lstat(&Caller::root(), "/a");
    assert!(gone.is_err(), "it was moved: {gone:?}");
}
