//! Several threads work on one branch and on several: afterwards the link counts are right, no
//! object is left without a name, no update is lost, and the events report all of it in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;

use agentfs_core::id::{BranchId, NodeId};
use agentfs_core::{Branch, Caller, FsCore, OpenFlags, RenameFlags};
use agentfs_testkit::random::Random;

use crate::branches::names_of;
use crate::fscore::{filesystem, filesystem_of};
use crate::replica::{Names, Recorder, Replica, by_branch};

const THREADS: u64 = 4;
const ROUNDS: u64 = 400;
const RECORD: usize = 16;

/// Does one thread's work on a branch: creates, moves and removes names in directories that all
/// threads share, and appends one record to a log each round.
fn work(branch: &Branch, worker: u64) {
    let me = Caller::root().with_pid(u32::try_from(worker).unwrap());
    let mut rng = Random::new(worker);
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY | OpenFlags::APPEND;
    let log = branch.open(&me, "/log", flags, 0o644).unwrap();
    for round in 0..ROUNDS {
        let record = [worker.to_le_bytes(), round.to_le_bytes()].concat();
        assert_eq!(branch.write(&me, log, &record), Ok(RECORD));
        let mut name = || format!("/d{}/n{}", rng.below(3), rng.below(6));
        let (one, two) = (name(), name());
        // Any of these may fail because another thread was faster.
        match round % 8 {
            0 | 1 => {
                let flags = OpenFlags::CREATE | OpenFlags::READ_WRITE;
                if let Ok(file) = branch.open(&me, &one, flags, 0o644) {
                    assert_eq!(branch.write(&me, file, &record), Ok(RECORD));
                    branch.close(&me, file).unwrap();
                }
            }
            2 => drop(branch.mkdir(&me, &one, 0o755)),
            3 => drop(branch.link(&me, &one, &two)),
            4 => drop(branch.rename(&me, &one, &two, RenameFlags::REPLACE)),
            5 => drop(branch.rename(&me, &one, &two, RenameFlags::EXCHANGE)),
            6 => drop(branch.unlink(&me, &one)),
            _ => drop(branch.rmdir(&me, &one)),
        }
    }
    branch.close(&me, log).unwrap();
}

fn prepare(branch: &Branch) {
    for dir in 0..3 {
        branch
            .mkdir(&Caller::root(), format!("/d{dir}"), 0o755)
            .unwrap();
    }
}

/// Checks that every object has as many links as names lead to it, and that no object has none.
fn check_links(branch: &Branch, names: &Names) {
    let mut links: BTreeMap<NodeId, u32> = BTreeMap::from([(NodeId::ROOT, 2)]);
    for (kind, node) in names.values() {
        *links.entry(*node).or_default() += if kind.is_dir() { 2 } else { 1 };
    }
    for (path, (kind, _)) in names {
        if kind.is_dir() {
            let up = path.iter().rposition(|byte| *byte == b'/').unwrap();
            let parent = names
                .get(&path[..up])
                .map_or(NodeId::ROOT, |(_, node)| *node);
            *links.get_mut(&parent).unwrap() += 1;
        }
    }
    for (node, count) in &links {
        assert_eq!(
            branch.getattr(*node).unwrap().nlink,
            *count,
            "links of node {node}"
        );
    }
    let stat = branch.statfs();
    let held = usize::try_from(stat.files - stat.files_free).unwrap();
    assert_eq!(held, links.len(), "objects that no name leads to");
}

/// Checks that every record is there once, and that the records of one thread are in its order.
fn check_log(branch: &Branch, workers: u64) {
    let root = Caller::root();
    let log = branch.open(&root, "/log", OpenFlags::READ, 0).unwrap();
    let size = usize::try_from(branch.fstat(log).unwrap().size).unwrap();
    let mut bytes = vec![0; size];
    assert_eq!(branch.read(&root, log, &mut bytes), Ok(size));
    branch.close(&root, log).unwrap();
    let mut next = BTreeMap::new();
    for record in bytes.chunks_exact(RECORD) {
        let (worker, round) = record.split_at(RECORD / 2);
        let expected = next.entry(worker.to_vec()).or_insert(0_u64);
        assert_eq!(
            round,
            expected.to_le_bytes(),
            "a record of {worker:?} is lost or doubled"
        );
        *expected += 1;
    }
    assert_eq!(next.len(), usize::try_from(workers).unwrap());
    assert!(next.values().all(|rounds| *rounds == ROUNDS));
}

#[test]
fn many_threads_on_one_branch_and_on_others_lose_nothing() {
    many_threads_lose_nothing(&filesystem(None));
}

#[test]
fn many_threads_on_branches_in_a_store_lose_nothing_and_all_of_it_is_there_afterwards() {
    let store = tempfile::tempdir().unwrap();
    let fs = filesystem_of(store.path());
    let expected = many_threads_lose_nothing(&fs);
    fs.sync().unwrap();
    drop(fs);
    let fs = filesystem_of(store.path());
    for (id, names) in expected {
        let branch = fs.branch(id).unwrap();
        assert_eq!(names_of(&branch), names);
        check_links(&branch, &names);
        check_log(&branch, THREADS);
    }
}

/// Returns the names of each branch afterwards.
fn many_threads_lose_nothing(fs: &FsCore) -> Vec<(BranchId, Names)> {
    let main = fs.branch(FsCore::MAIN).unwrap();
    prepare(&main);
    let start = names_of(&main);
    let recorder = Arc::new(Recorder::default());
    fs.subscribe_events(recorder.clone()).unwrap();
    let other = fs
        .branch_create_from_current(&Caller::root(), main.id(), "other")
        .unwrap();
    let branches: Vec<Branch> = [main.id(), other]
        .into_iter()
        .map(|id: BranchId| fs.branch(id).unwrap())
        .collect();

    let together = Barrier::new(usize::try_from(THREADS).unwrap() * branches.len());
    thread::scope(|scope| {
        for branch in &branches {
            for worker in 0..THREADS {
                let together = &together;
                scope.spawn(move || {
                    together.wait();
                    work(branch, worker);
                });
            }
        }
    });

    let mut heard = by_branch(recorder.take());
    let mut all = Vec::new();
    for branch in &branches {
        let names = names_of(branch);
        check_links(branch, &names);
        check_log(branch, THREADS);
        let mut replica = Replica::of(start.clone());
        for event in heard.remove(&branch.id()).unwrap() {
            replica.apply(&event).unwrap();
        }
        assert_eq!(replica.names, names);
        assert_eq!(replica.last(), Some(branch.last_seq()));
        all.push((branch.id(), names));
    }
    all
}

#[test]
fn snapshots_taken_while_others_write_are_states_the_branch_was_in() {
    snapshots_are_states(&filesystem(None));
    let store = tempfile::tempdir().unwrap();
    snapshots_are_states(&filesystem_of(store.path()));
}

fn snapshots_are_states(fs: &FsCore) {
    let main = fs.branch(FsCore::MAIN).unwrap();
    let root = Caller::root();
    prepare(&main);
    // The writer moves one name on from state to state: each snapshot must show exactly one of them.
    main.mkdir(&root, "/d0/token0", 0o755).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for state in 0..ROUNDS {
                let from = format!("/d{}/token{state}", state % 3);
                let to = format!("/d{}/token{}", (state + 1) % 3, state + 1);
                main.rename(&root, from, to, RenameFlags::NOREPLACE)
                    .unwrap();
            }
        });
        for _ in 0..60 {
            let photo = fs.snapshot_create(&root, main.id(), "").unwrap();
            let id = fs.branch_create_from_snapshot(&root, photo, "").unwrap();
            let names = names_of(&fs.branch(id).unwrap());
            assert_eq!(names.len(), 4, "three directories and one token: {names:?}");
            check_links(&fs.branch(id).unwrap(), &names);
            fs.branch_delete(id).unwrap();
        }
    });
}
