//! The kernel is on both sides: a program without the library gets the same from inotify on a mount
//! as on a tmpfs.
//!
//! It is checked in both modes: in memory, and in a store on disk.
//!
//! `AGENTFS_ORACLE_SEQUENCES`, of which every tenth runs, and `AGENTFS_ORACLE_SEED` choose the
//! sequences, as they do for the engine's oracle.
#![cfg(target_os = "linux")]

use agentfs_core::{BackstoreMode, FsConfig, FsCore};
use agentfs_mount::{MountOptions, Mounts};
use agentfs_testkit::environment::{can_mount, number};
use agentfs_testkit::inotify_oracle::generate::sequence;
use agentfs_testkit::inotify_oracle::kernel::Kernel;
use agentfs_testkit::inotify_oracle::op::{Answer, INSTANCES, Op};
use agentfs_testkit::shrink::shrink;

type Difference = (usize, Op, Answer, Answer);

fn compare(tmpfs: &mut Kernel, mounted: &mut Kernel, ops: &[Op]) -> Result<usize, Box<Difference>> {
    let (mut expected, mut got) = (tmpfs.start(), mounted.start());
    let read_all = (0..INSTANCES).map(|instance| Op::Drain {
        instance,
        room: 65_536,
    });
    let mut heard = 0;
    for (step, op) in ops.iter().copied().chain(read_all).enumerate() {
        let ((expected, _), (got, _)) = (expected.run(op), got.run(op));
        if expected != got {
            return Err(Box::new((step, op, expected, got)));
        }
        if let Answer::Records(records) = got {
            heard += records.len();
        }
    }
    Ok(heard)
}

/// Runs sequences in a mount of a filesystem that keeps its content there.
fn check(backstore: BackstoreMode, sequences: u64) {
    if !can_mount() {
        return;
    }
    let config = FsConfig {
        backstore,
        ..FsConfig::default()
    };
    let fs = FsCore::new(config).expect("a filesystem");
    let mounts = Mounts::new(&fs).expect("events are on");
    let point = tempfile::tempdir().expect("a directory");
    let options = MountOptions::default();
    let _mount = mounts
        .mount(FsCore::MAIN, point.path(), &options)
        .expect("a mount");
    let (mut tmpfs, mut mounted) = (Kernel::on_tmpfs(), Kernel::below(point.path()));
    let first = number("AGENTFS_ORACLE_SEED").unwrap_or(1);
    let mut heard = 0;
    for seed in first..first + sequences.max(1) {
        let ops = sequence(seed);
        match compare(&mut tmpfs, &mut mounted, &ops) {
            Ok(records) => heard += records,
            // As in the comparison with our own reader, a difference caused by a look into /proc is
            // no mistake.
            Err(_) if (0..3).all(|_| compare(&mut tmpfs, &mut mounted, &ops).is_ok()) => {}
            Err(_) => {
                let small = shrink(ops, |ops| compare(&mut tmpfs, &mut mounted, ops).is_err());
                let difference = compare(&mut tmpfs, &mut mounted, &small);
                panic!("seed {seed}\n{small:#?}\n{difference:#?}");
            }
        }
    }
    assert!(heard > 0, "nothing was heard");
}

/// Returns this part of the sequences that the environment asks for.
fn sequences(percent: u64) -> u64 {
    number("AGENTFS_ORACLE_SEQUENCES").unwrap_or(10_000) * percent / 100
}

#[test]
fn a_program_without_the_shim_hears_on_a_mount_what_it_hears_on_tmpfs() {
    check(BackstoreMode::Memory, sequences(7));
}

#[test]
fn a_program_without_the_shim_hears_on_a_mount_of_a_store_what_it_hears_on_tmpfs() {
    let beside = tempfile::tempdir().expect("a directory");
    let store = BackstoreMode::Disk(beside.path().join("store"));
    check(store, sequences(3));
}
