//! Tests that many of something cost in proportion, of sizes at which the square would take minutes,
//! and that what one program does without end keeps no other waiting.

use std::sync::{Arc, Condvar, Mutex};

use agentfs_client::Client;
use agentfs_core::event::{Envelope, EventKind, EventSink};
use agentfs_core::{Caller, FsCore, OpenFlags};
use agentfs_daemon::{Config, Daemon, SessionLimits};
use agentfs_proto::message::{
    BranchCreate, FsChmod, FsOp, FsReadDir, FsReply, FsRequest, Reply, Request, SnapshotList,
};

use crate::support::daemon_with;
use agentfs_testkit::child::{PATIENCE, soon};
use agentfs_testkit::daemon::{assert_answers, connect, private_directory};

fn ask(client: &mut Client, request: impl Into<Request>) -> Reply {
    client.send(request.into(), soon()).unwrap();
    client.receive(soon()).unwrap().reply
}

#[test]
fn a_merged_directory_of_60_000_names_is_listed_page_by_page() {
    const NAMES: usize = 60_000;
    let (lower, directory) = (tempfile::tempdir().unwrap(), private_directory());
    std::fs::create_dir(lower.path().join("d")).unwrap();
    std::fs::write(lower.path().join("d/of-the-host"), "").unwrap();
    let mut config = Config::new(directory.path().join("control.sock"));
    config.lower = Some(lower.path().to_owned());
    let daemon = Daemon::start(config).unwrap();
    let (main, root) = (daemon.core().branch(FsCore::MAIN).unwrap(), Caller::root());
    let dir = main.lstat(&root, "/d").unwrap().node;
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    for number in 0..NAMES {
        let name = format!("f{number}");
        let made = main.create_at(&root, dir, name.as_bytes(), flags, 0o644);
        main.close(&root, made.unwrap().0).unwrap();
    }
    let mut client = connect(daemon.socket());
    let (mut names, mut after) = (std::collections::HashSet::new(), 0);
    loop {
        let op = FsOp::ReadDir(FsReadDir {
            path: b"/d".as_slice().into(),
            after,
        });
        let branch = String::new();
        let reply = ask(&mut client, FsRequest { branch, op });
        let Reply::Fs(FsReply::Entries(page)) = reply else {
            panic!("{reply:?}");
        };
        after = page.entries.last().map_or(after, |entry| entry.cookie);
        for entry in page.entries {
            assert!(names.insert(entry.name.0), "once each");
        }
        if !page.more {
            break;
        }
    }
    assert_eq!(names.len(), NAMES + 1);
}

#[test]
fn among_100_000_snapshots_each_is_found_by_name_and_listed_once() {
    const SNAPSHOTS: u64 = 100_000;
    let (daemon, _directory) = daemon_with(SessionLimits::default());
    let (core, root) = (daemon.core(), Caller::root());
    for number in 0..SNAPSHOTS {
        let name = format!("s{number}");
        core.snapshot_create(&root, FsCore::MAIN, &name).unwrap();
    }
    let mut client = connect(daemon.socket());
    for number in 0..2000 {
        let request = BranchCreate {
            name: format!("b{number}"),
            from_snapshot: format!("s{number}"),
            from_branch: String::new(),
            frozen: false,
            max_size: 0,
            exclude: Vec::new(),
        };
        let reply = ask(&mut client, request);
        assert!(matches!(reply, Reply::BranchCreated(_)), "{reply:?}");
    }
    let (mut count, mut after) = (0, 0);
    loop {
        let reply = ask(&mut client, SnapshotList { after });
        let Reply::Snapshots(page) = reply else {
            panic!("{reply:?}");
        };
        count += page.snapshots.len() as u64;
        after = page.snapshots.last().map_or(after, |it| it.id);
        if !page.more {
            break;
        }
    }
    assert_eq!((count, after), (SNAPSHOTS, SNAPSHOTS));
}

/// A sink that is called for one change until the next one is committed, so that whichever thread
/// delivers never comes to an end.
struct Endless {
    state: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Endless {
    fn note(&self, committed: u64) {
        let mut state = self.state.lock().unwrap();
        state.0 = state.0.max(committed);
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().unwrap().1
    }
}

/// Ends the commits, also if the test fails.
struct StopAtEnd<'a>(&'a Endless);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl EventSink for Endless {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        let state = self.state.lock().unwrap();
        let waits = |(committed, is_stopped): &mut (u64, bool)| {
            *committed <= envelope.seq.0 && !*is_stopped
        };
        let _state = self.changed.wait_timeout_while(state, PATIENCE, waits);
    }
}

#[test]
fn sessions_are_answered_while_programs_commit_without_end() {
    let (daemon, _directory) = daemon_with(SessionLimits::default());
    let (main, root) = (daemon.core().branch(FsCore::MAIN).unwrap(), Caller::root());
    main.mkdir(&root, "/d", 0o755).unwrap();
    let mut client = connect(daemon.socket());
    let sink = Arc::new(Endless {
        state: Mutex::default(),
        changed: Condvar::new(),
    });
    daemon.core().subscribe_events(sink.clone()).unwrap();
    // The event loop is the first that delivers.
    let op = FsOp::Chmod(FsChmod {
        path: b"/d".as_slice().into(),
        mode: 0o700,
    });
    let branch = String::new();
    let asked = client.send(FsRequest { branch, op }.into(), soon());
    asked.unwrap();
    std::thread::scope(|scope| {
        let committer = scope.spawn(|| {
            // The first change of this thread comes after that of the event loop.
            while main.last_seq().0 < 2 && !sink.is_stopped() {
                std::thread::yield_now();
            }
            while !sink.is_stopped() {
                main.chmod(&root, "/d", 0o755).unwrap();
                sink.note(main.last_seq().0);
            }
        });
        let stops = StopAtEnd(&sink);
        let reply = client.receive(soon()).unwrap().reply;
        assert_answers(&mut connect(daemon.socket()));
        drop(stops);
        committer.join().unwrap();
        assert!(matches!(reply, Reply::Fs(FsReply::Done(_))), "{reply:?}");
    });
}
