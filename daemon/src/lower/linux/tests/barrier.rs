//! Tests that a frozen branch is made without a look at the files only where nothing has happened.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use agentfs_core::{Caller, FsConfig, FsCore, OpenFlags, Overlay};

use super::super::Barrier;
use crate::lower::LowerWatch;

fn core_over(lower: &Path) -> FsCore {
    FsCore::new(FsConfig {
        overlay: Some(Overlay {
            lower: lower.to_owned(),
        }),
        ..FsConfig::default()
    })
    .unwrap()
}

/// Makes a frozen branch and reads a file in it. Returns also how many files were looked at.
fn frozen(core: &FsCore, path: &str) -> (Option<String>, u64) {
    let (root, never) = (Caller::root(), AtomicBool::new(false));
    let before = core.freeze_progress().files;
    let made = core.branch_create_frozen(&root, FsCore::MAIN, "", &never);
    let id = made.unwrap();
    let branch = core.branch(id).unwrap();
    let read = branch.open(&root, path, OpenFlags::READ, 0).map(|handle| {
        let mut bytes = [0; 64];
        let len = branch.read_at(&root, handle, 0, &mut bytes).unwrap();
        branch.close(&root, handle).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    });
    drop(branch);
    let looked = core.freeze_progress().files - before;
    (read.ok(), looked)
}

#[test]
fn whatever_happens_before_a_freeze_is_in_it() {
    let lower = tempfile::tempdir().unwrap();
    let host = |name: &str| lower.path().join(name);
    fs::write(host("f"), "old").unwrap();
    let core = core_over(lower.path());
    let watch = LowerWatch::start(&core, lower.path(), Box::new(|| {}), None).unwrap();
    let is_whole = core.announced().unwrap().is_whole();
    assert!(is_whole, "the temporary directory is watched");
    assert_eq!(frozen(&core, "/f").0.as_deref(), Some("old"));
    let mut unlooked = 0;
    for round in 0..30 {
        let text = format!("round {round}");
        fs::write(host("f"), &text).unwrap();
        assert_eq!(frozen(&core, "/f").0, Some(text.clone()));
        let dir = format!("d{round}");
        fs::create_dir(host(&dir)).unwrap();
        assert_eq!(frozen(&core, &format!("/{dir}/x")).0, None);
        // The thread may not have watched the new directory yet.
        fs::write(host(&format!("{dir}/x")), &text).unwrap();
        assert_eq!(frozen(&core, &format!("/{dir}/x")).0, Some(text.clone()));
        unlooked += u32::from(frozen(&core, "/f") == (Some(text), 0));
    }
    // On a machine that is busy, a look takes the place of waiting.
    assert!(unlooked > 0, "no freeze was made without a look");
    drop(watch);
    assert_eq!(frozen(&core, "/f").0.as_deref(), Some("round 29"));
    fs::write(host("f"), "unwatched").unwrap();
    assert_eq!(frozen(&core, "/f").0.as_deref(), Some("unwatched"));
}

#[test]
fn nobody_waits_for_a_queue_that_is_gone() {
    let barrier = Barrier::new();
    assert!(!barrier.wait(), "nothing is watched");
    let mut queue = super::super::Queue::new();
    barrier.watch(queue.inotify());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| barrier.wait());
        queue.wait(None, None);
        barrier.watch(None);
        assert!(!waiting.join().unwrap());
    });
    barrier.watch(queue.inotify());
    queue.fill();
    while queue.pop().is_some() {}
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| barrier.wait());
        queue.wait(None, None);
        queue.fill();
        let gone = std::iter::from_fn(|| queue.pop()).map(|raw| raw.wd);
        barrier.pass(gone.collect::<Vec<_>>());
        // On a machine that is busy, the caller may have given up.
        let _ = waiting.join().unwrap();
    });
    assert!(
        !queue.take_has_read(),
        "nothing has happened to a directory"
    );
}
