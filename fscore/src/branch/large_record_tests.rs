//! A base is as large as the lower directory, and so are its records. The disk stands still in the
//! middle of one here, until the test lets it go on.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::thread;

use super::fs::FsCore;
use super::gated_disk::{DEADLINE, stopping_at_long_records};
use crate::model::caller::Caller;

#[test]
fn nothing_waits_for_the_registry_while_a_base_is_written() {
    let host = tempfile::tempdir().unwrap();
    for number in 0..400 {
        let name = format!("{number}{}", "x".repeat(240));
        fs::write(host.path().join(name), b"x").unwrap();
    }
    let (core, disk) = stopping_at_long_records(host.path());
    let root = Caller::root();
    thread::scope(|scope| {
        let making = scope.spawn(|| {
            let never = AtomicBool::new(false);
            core.branch_create_frozen(&root, FsCore::MAIN, "frozen", &never)
        });
        disk.wait();
        let (sender, seen) = channel();
        let other = core.clone();
        scope.spawn(move || {
            let branch = other.branch(FsCore::MAIN).unwrap();
            let listed = branch.list(&Caller::root(), "/").unwrap().len();
            let names = (other.branch_named("frozen"), other.snapshot_named("none"));
            sender
                .send((listed, other.branches().len(), names))
                .unwrap();
        });
        let seen = seen.recv_timeout(DEADLINE);
        // Whatever was seen, the thread that makes the branch can end.
        disk.go_on(1000);
        assert_eq!(seen, Ok((400, 1, (None, None))));
        let made = making.join().unwrap().unwrap();
        assert_eq!(core.branch_named("frozen"), Some(made));
    });
}
