//! Tests the operations that only a mount uses.

use std::sync::{Arc, Mutex};

use agentfs_core::event::{EventKind, EventSink};
use agentfs_core::id::NodeId;
use agentfs_core::{Caller, FsConfig, FsCore};

#[derive(Default)]
struct Heard(Mutex<Vec<EventKind>>);

impl EventSink for Heard {
    fn on_event(&self, event: &EventKind) {
        self.0.lock().unwrap().push(event.clone());
    }
}

#[test]
fn sinks_are_told_once_the_kernel_has_its_answer() {
    let fs = FsCore::new(FsConfig::default()).unwrap();
    let branch = fs.branch(FsCore::MAIN).unwrap();
    let heard = Arc::new(Heard::default());
    fs.subscribe_events(heard.clone()).unwrap();
    let caller = Caller::root().behind_kernel();
    branch.mkdir_at(&caller, NodeId::ROOT, b"d", 0o755).unwrap();
    assert_eq!(*heard.0.lock().unwrap(), []);
    branch.deliver();
    let created = EventKind::Created { path: "/d".into() };
    assert_eq!(*heard.0.lock().unwrap(), [created]);
}

#[test]
fn rights_are_not_checked_twice() {
    let fs = FsCore::new(FsConfig::default()).unwrap();
    let branch = fs.branch(FsCore::MAIN).unwrap();
    let stranger = Caller::new(1000, 1000);
    let refused = branch.mkdir_at(&stranger, NodeId::ROOT, b"d", 0o755);
    assert_eq!(refused.unwrap_err(), agentfs_core::Errno::EACCES);
    let made = branch.mkdir_at(&stranger.behind_kernel(), NodeId::ROOT, b"d", 0o755);
    assert_eq!(made.unwrap().uid, 1000);
}
