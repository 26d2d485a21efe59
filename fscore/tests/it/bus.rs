//! Tests which sinks hear which events, and what a sink may do when it is called.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agentfs_core::event::{EventKind, EventSink};
use agentfs_core::{Branch, Caller, EventsDisabled, FsConfig};

use crate::support::World;

/// A sink that counts the events, and panics at the second one.
#[derive(Default)]
struct Fragile(AtomicUsize);

impl EventSink for Fragile {
    fn on_event(&self, _: &EventKind) {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        assert!(before == 0, "as this sink does");
    }
}

#[test]
fn a_panicking_sink_is_removed_and_harms_nobody() {
    let w = World::new();
    let fragile = Arc::new(Fragile::default());
    let id = w.fs.subscribe_events(fragile.clone()).unwrap();
    let recorder = w.listen(false);
    for name in ["/a", "/b", "/c"] {
        w.mkdir(name);
    }
    assert_eq!(fragile.0.load(Ordering::Relaxed), 2);
    assert_eq!(recorder.lines().len(), 3);
    assert_eq!(w.fs.unsubscribe_events(id), Ok(false));
}

#[test]
fn nothing_is_heard_after_unsubscribing() {
    let w = World::new();
    let recorder = Arc::new(crate::support::Recorder::default());
    let id = w.fs.subscribe_events(recorder.clone()).unwrap();
    w.mkdir("/a");
    assert_eq!(w.fs.unsubscribe_events(id), Ok(true));
    w.mkdir("/b");
    assert_eq!(recorder.lines(), ["created /a Directory2"]);
}

#[test]
fn with_tracking_off_there_is_nothing_to_subscribe_to() {
    let w = World::with(FsConfig {
        track_events: false,
        ..FsConfig::default()
    });
    let sink: Arc<dyn EventSink> = Arc::new(Fragile::default());
    let refused = w.fs.subscribe_events(sink).unwrap_err();
    assert_eq!(refused, EventsDisabled);
    assert!(refused.to_string().contains("track_events"));
    w.mkdir("/a");
    assert_eq!(w.b.last_seq().0, 0);
}

/// A sink that reads the filesystem and changes it while it is called.
struct Meddler {
    branch: Branch,
    heard: Mutex<Vec<String>>,
    inside: AtomicUsize,
}

impl EventSink for Meddler {
    fn on_event(&self, event: &EventKind) {
        assert_eq!(
            self.inside.fetch_add(1, Ordering::SeqCst),
            0,
            "not called inside itself"
        );
        if let EventKind::Created { path } = event {
            let root = Caller::root();
            assert!(
                self.branch.stat(&root, path).is_ok(),
                "events follow their commit"
            );
            self.heard.lock().unwrap().push(path.display().to_string());
            if path.components().count() < 5 {
                self.branch.mkdir(&root, path.join("x"), 0o755).unwrap();
            }
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_sink_may_read_and_change_the_filesystem() {
    let w = World::new();
    let meddler = Arc::new(Meddler {
        branch: w.b.clone(),
        heard: Mutex::default(),
        inside: AtomicUsize::new(0),
    });
    w.fs.subscribe_events(meddler.clone()).unwrap();
    w.mkdir("/a");
    assert_eq!(
        *meddler.heard.lock().unwrap(),
        ["/a", "/a/x", "/a/x/x", "/a/x/x/x"]
    );
}

#[test]
fn every_sink_hears_the_order_of_commits_from_many_threads() {
    let w = World::new();
    let recorder = w.listen(false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let w = &w;
            scope.spawn(move || {
                for n in 0..200 {
                    w.mkdir(&format!("/{thread}-{n}"));
                }
            });
        }
    });
    let seqs: Vec<u64> = recorder
        .take()
        .iter()
        .map(|envelope| envelope.seq.0)
        .collect();
    assert_eq!(seqs, (1..=800).collect::<Vec<_>>());
    assert!(recorder.batches.load(Ordering::Relaxed) > 0);
}
