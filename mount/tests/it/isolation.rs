//! Tests two branches that are in use at once: nothing of the one appears in the other.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentfs_core::{FsCore, OpenFlags};
use agentfs_testkit::random::Random;

use crate::support::{Fixture, Mounted};

/// Names that both branches have, each with its own content.
const SHARED: u64 = 40;
/// The operations of every worker.
const ROUNDS: u64 = 2_000;

/// Returns a content that shows its owner by letter and size: the letter of the branch, an odd
/// number of times in the one and an even number in the other.
fn content(owner: u8, length: u64) -> Vec<u8> {
    let half = usize::try_from(length).unwrap() * 2;
    vec![owner; half + usize::from(owner == b'a')]
}

fn is_of(owner: u8, bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == owner)
}

fn change(rng: &mut Random, dir: &Path, owner: u8, worker: u64) {
    let letter = char::from(owner);
    let number = rng.range(0..SHARED);
    let shared = dir.join(format!("shared-{number}"));
    let own = dir.join(format!("{letter}-{worker}-{number}"));
    let bytes = content(owner, 1 + rng.range(0..5000));
    match rng.range(0..5) {
        // The content is replaced as a whole, so that no reader sees a part: by a rename, or in
        // pages of one length.
        0 | 1 => {
            let temporary = dir.join(format!("{letter}-tmp-{worker}"));
            fs::write(&temporary, &bytes).unwrap();
            fs::rename(&temporary, &shared).unwrap();
        }
        2 => fs::write(&own, &bytes).unwrap(),
        3 => drop(fs::remove_file(&own)),
        _ => {
            if let Ok(file) = fs::File::options().write(true).open(&shared) {
                let size = usize::try_from(file.metadata().unwrap().len()).unwrap();
                file.write_all_at(&bytes[..bytes.len().min(size)], 0)
                    .unwrap();
            }
        }
    }
}

fn look(rng: &mut Random, dir: &Path, owner: u8) -> u64 {
    let mut seen = 0;
    let shared = dir.join(format!("shared-{}", rng.range(0..SHARED)));
    let read = fs::read(&shared).unwrap();
    assert!(is_of(owner, &read), "content of the other branch");
    let size = fs::metadata(&shared).unwrap().len();
    let is_odd = !size.is_multiple_of(2);
    assert_eq!(is_odd, owner == b'a', "a size of the other branch: {size}");
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_own = name.starts_with("shared-") || name.starts_with(char::from(owner));
        assert!(is_own, "a name of the other branch: {name}");
        seen += 1;
    }
    let other = dir.join(format!(
        "{}-0-{}",
        if owner == b'a' { 'b' } else { 'a' },
        rng.range(0..SHARED)
    ));
    assert!(!other.exists(), "{} leads somewhere", other.display());
    seen
}

#[test]
fn nothing_of_a_branch_is_ever_seen_in_another() {
    if let Some(fixture) = Fixture::empty() {
        shows_nothing_of_the_other(&fixture);
    }
}

#[test]
fn nothing_of_a_branch_in_a_store_is_ever_seen_in_another() {
    if let Some(fixture) = Fixture::in_store() {
        shows_nothing_of_the_other(&fixture);
    }
}

fn shows_nothing_of_the_other(fixture: &Fixture) {
    let main = fixture.main();
    let root = agentfs_core::Caller::root();
    let snapshot = fixture
        .fs
        .snapshot_create(&root, FsCore::MAIN, "start")
        .unwrap();
    let other = fixture
        .fs
        .branch_create_from_snapshot(&root, snapshot, "other")
        .unwrap();
    // These were made after the branches parted: different objects with the same names and numbers.
    let branches = [(b'a', main), (b'b', fixture.fs.branch(other).unwrap())];
    for (owner, branch) in &branches {
        for number in 0..SHARED {
            let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
            let name = format!("/shared-{number}");
            let file = branch.open(&root, name, flags, 0o644).unwrap();
            let bytes = content(*owner, 100);
            branch.write_at(&root, file, 0, &bytes).unwrap();
            branch.close(&root, file).unwrap();
        }
    }
    let mounts = [fixture.mount(), fixture.mount_branch(other)];
    let (seen, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let sides: [(u8, &Mounted); 2] = [(b'a', &mounts[0]), (b'b', &mounts[1])];
        let mut writers = Vec::new();
        for (owner, mount) in sides {
            let dir = mount.dir.path();
            for worker in 0..2 {
                writers.push(scope.spawn(move || {
                    let mut rng = Random::new(worker + u64::from(owner));
                    for _ in 0..ROUNDS {
                        change(&mut rng, dir, owner, worker);
                    }
                }));
            }
            let (seen, done) = (&seen, &done);
            scope.spawn(move || {
                let mut rng = Random::new(u64::from(owner) + 100);
                while !done.load(Ordering::SeqCst) {
                    seen.fetch_add(look(&mut rng, dir, owner), Ordering::Relaxed);
                }
            });
        }
        let results: Vec<_> = writers.into_iter().map(|it| it.join()).collect();
        done.store(true, Ordering::SeqCst);
        results.into_iter().for_each(|it| it.unwrap());
    });
    assert!(seen.into_inner() > ROUNDS, "hardly anything was looked at");
}
