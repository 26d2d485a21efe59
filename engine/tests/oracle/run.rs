//! Runs a sequence on both sides and compares every answer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use agentfs_core::BackstoreMode;
use agentfs_ring::Capacity;
use agentfs_testkit::environment::number;
use agentfs_testkit::inotify_oracle::generate::sequence;
use agentfs_testkit::inotify_oracle::kernel::Kernel;
use agentfs_testkit::inotify_oracle::op::{Answer, INSTANCES, Op};
use agentfs_testkit::shrink::shrink;
use tempfile::TempDir;

use crate::core::Core;

/// Counts what all sequences met together, to show that they met anything.
#[derive(Debug, Default)]
struct Met {
    records: AtomicU64,
    merged: AtomicU64,
    spilled: AtomicU64,
    /// Counts the sequences that differed once and never again.
    unsteady: AtomicU64,
}

/// The first step whose answers differ: its number, its operation, the kernel's answer and ours.
type Difference = (usize, Op, Answer, Answer);

/// What the filesystem under test is kept in, by each thread for itself.
#[derive(Debug)]
enum Place {
    Memory,
    /// A store for each sequence in a directory of a tmpfs, because each begins with an empty tree.
    Stores(TempDir),
}

impl Place {
    fn fresh(&self) -> BackstoreMode {
        match self {
            Self::Memory => BackstoreMode::Memory,
            Self::Stores(directory) => {
                let store = directory.path().join("store");
                // There is none before the first sequence.
                drop(std::fs::remove_dir_all(&store));
                BackstoreMode::Disk(store)
            }
        }
    }
}

fn compare(
    (kernel, place): (&mut Kernel, &Place),
    capacity: Capacity,
    ops: &[Op],
    met: &Met,
) -> Result<(), Box<Difference>> {
    let mut real = kernel.start();
    let mut ours = Core::start(place.fresh(), capacity);
    let read_all = (0..INSTANCES).map(|instance| Op::Drain {
        instance,
        room: 65_536,
    });
    let mut alike = true;
    for (step, op) in ops.iter().copied().chain(read_all).enumerate() {
        alike &= !real.parts_ways(op);
        if !alike && step < ops.len() {
            continue;
        }
        let (expected, wd) = real.run(op);
        let got = ours.run(op, wd);
        if expected != got {
            return Err(Box::new((step, op, expected, got)));
        }
    }
    let counts = ours.counts();
    met.records.fetch_add(counts.published, Ordering::Relaxed);
    met.merged.fetch_add(counts.coalesced, Ordering::Relaxed);
    met.spilled.fetch_add(counts.spilled, Ordering::Relaxed);
    Ok(())
}

/// Returns the smallest ring for every third sequence: what does not fit waits in the daemon's
/// memory.
fn capacity(seed: u64) -> Capacity {
    if seed.is_multiple_of(3) {
        Capacity::MIN
    } else {
        Capacity::DEFAULT
    }
}

fn check((kernel, place): (&mut Kernel, &Place), seed: u64, met: &Met) -> Option<String> {
    let ops = sequence(seed);
    let mut compare = |ops: &[Op]| compare((kernel, place), capacity(seed), ops, met);
    compare(&ops).err()?;
    // A process that looks at our descriptors in /proc holds them open for a moment, so that the
    // kernel reports a close too late. That does not happen again; a mistake does.
    if (0..3).all(|_| compare(&ops).is_ok()) {
        met.unsteady.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    let small = shrink(ops, |ops| compare(ops).is_err());
    let difference = compare(&small);
    Some(format!("seed {seed}\n{small:#?}\n{difference:#?}"))
}

/// Runs this part of the sequences that the environment asks for, of a filesystem that is kept there.
fn check_all(place: fn() -> Place, percent: u64) {
    let first = number("AGENTFS_ORACLE_SEED").unwrap_or(1);
    let sequences = number("AGENTFS_ORACLE_SEQUENCES").unwrap_or(10_000) * percent;
    let sequences = sequences.div_ceil(100);
    let next = AtomicU64::new(first);
    let failures = Mutex::new(Vec::new());
    let met = Met::default();
    let work = || {
        let (mut kernel, place) = (Kernel::on_tmpfs(), place());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + sequences || failures.lock().unwrap().len() >= 3 {
                return;
            }
            if let Some(failure) = check((&mut kernel, &place), seed, &met) {
                failures.lock().unwrap().push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let unsteady = met.unsteady.load(Ordering::Relaxed);
    assert!(unsteady <= 3, "{unsteady} sequences differed once");
    let each = |counter: &AtomicU64| counter.load(Ordering::Relaxed) / sequences;
    assert!(each(&met.records) >= 10, "too little to compare: {met:?}");
    if sequences >= 1000 {
        assert!(met.merged.into_inner() > 0, "nothing was merged");
        assert!(met.spilled.into_inner() > 0, "no ring was ever full");
    }
}

#[test]
fn both_readers_get_the_same_records() {
    check_all(|| Place::Memory, 90);
}

#[test]
fn both_readers_get_the_same_records_of_a_branch_in_a_store() {
    check_all(
        || Place::Stores(tempfile::tempdir_in("/dev/shm").unwrap()),
        10,
    );
}
