//! Tests that many of something cost in proportion, of sizes at which the square would take minutes.

use agentfs_client::Client;
use agentfs_core::{Caller, FsCore, OpenFlags};
use agentfs_daemon::{Config, Daemon, SessionLimits};
use agentfs_proto::message::{
    BranchCreate, FsOp, FsReadDir, FsReply, FsRequest, Reply, Request, SnapshotList,
};

use crate::support::daemon_with;
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{connect, private_directory};

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
