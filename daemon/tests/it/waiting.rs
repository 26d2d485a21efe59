//! Tests requests that take long, and the sessions that have to wait for them.

use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::{Caller, FsCore, OpenFlags};
use agentfs_daemon::{Config, Daemon};
use agentfs_proto::message::{BranchApply, FsMkdir, FsOp, FsReply, FsRequest, FsStat};

use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{assert_answers, connect, private_directory};
use agentfs_testkit::files::write;

const FILES: usize = 1500;

fn in_branch(branch: &str, op: FsOp) -> FsRequest {
    FsRequest {
        branch: branch.to_owned(),
        op,
    }
}

fn mkdir(path: &str) -> FsOp {
    let (path, mode) = (path.into(), 0o755);
    FsOp::Mkdir(FsMkdir { path, mode })
}

/// While a branch is applied, sessions that have nothing to do with it or only read it are
/// answered, and a session that changes it has to wait.
#[test]
fn applying_a_branch_holds_up_only_who_changes_it() {
    let lower = private_directory();
    let directory = private_directory();
    let mut config = Config::new(directory.path().join("control.sock"));
    config.lower = Some(lower.path().to_owned());
    let daemon = Daemon::start(config).unwrap();
    let root = Caller::root();
    let core = daemon.core();
    core.branch_create_from_current(&root, FsCore::MAIN, "other")
        .unwrap();
    let main = core.branch(FsCore::MAIN).unwrap();
    for number in 0..FILES {
        let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
        let name = format!("/f{number}");
        let handle = main.open(&root, &name, flags, 0o644).unwrap();
        main.write(&root, handle, b"text").unwrap();
        main.close(&root, handle).unwrap();
    }
    let ended = AtomicBool::new(false);
    let begun = || std::fs::read_dir(lower.path()).unwrap().next().is_some();
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| {
            let request = BranchApply {
                name: "main".to_owned(),
                dry_run: false,
                force: false,
            };
            let applied = connect(daemon.socket()).call(request, soon()).unwrap();
            ended.store(true, Ordering::SeqCst);
            applied.step_count
        });
        let mut client = connect(daemon.socket());
        while !begun() {
            assert_answers(&mut client);
        }
        let elsewhere = in_branch("other", mkdir("/elsewhere"));
        client.call(elsewhere, soon()).unwrap();
        let last = format!("/f{}", FILES - 1);
        assert_eq!(main.lstat(&root, &last).unwrap().size, 4);
        assert!(!ended.load(Ordering::SeqCst), "they were not held up");

        let changing = scope.spawn(|| {
            let mut client = connect(daemon.socket());
            client
                .call(in_branch("main", mkdir("/late")), soon())
                .unwrap();
            // The request that waited is carried out, and the session is answered again.
            let path = b"/late".as_slice().into();
            let stat = FsOp::Stat(FsStat { path, follow: true });
            let reply = client.call(in_branch("main", stat), soon()).unwrap();
            assert!(matches!(reply, FsReply::Attr(_)));
        });
        assert_eq!(usize::try_from(applying.join().unwrap()).unwrap(), FILES);
        changing.join().unwrap();
    });
    assert!(!lower.path().join("late").exists(), "it came after");
    assert_eq!(std::fs::read_dir(lower.path()).unwrap().count(), FILES);
}

/// A daemon that is asked to end does not wait for a branch with very many files: what is applied
/// by then stays applied, and nothing is left half done.
#[test]
fn an_apply_that_nobody_waits_for_any_more_writes_nothing() {
    let lower = private_directory();
    let directory = private_directory();
    let mut config = Config::new(directory.path().join("control.sock"));
    config.lower = Some(lower.path().to_owned());
    let daemon = Daemon::start(config).unwrap();
    let mut client = connect(daemon.socket());
    write(&mut client, "/f", b"text").unwrap();
    let never = AtomicBool::new(false);
    let held = std::fs::File::open(lower.path()).unwrap();
    let held = agentfs_core::ApplyLock::take(&held, &never).unwrap();
    let apply = BranchApply {
        name: "main".to_owned(),
        dry_run: false,
        force: false,
    };
    client.send(apply.into(), soon()).unwrap();
    drop(client);
    // The branch can be changed again when the apply has ended, which the lock still keeps waiting.
    write(&mut connect(daemon.socket()), "/g", b"text").unwrap();
    drop(held);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    // A new session finds everything still to be done.
    let done = main.apply(agentfs_core::ApplyMode::Refuse).unwrap();
    assert_eq!(done.actions.len(), 2);
}

#[test]
fn a_daemon_that_is_told_to_end_ends_in_the_middle_of_an_apply() {
    const MANY: usize = 20_000;
    let lower = private_directory();
    let directory = private_directory();
    let mut config = Config::new(directory.path().join("control.sock"));
    config.lower = Some(lower.path().to_owned());
    config.watch_lower = false;
    let daemon = Daemon::start(config).unwrap();
    let root = Caller::root();
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    for number in 0..MANY {
        let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
        let name = format!("/f{number:05}");
        let handle = main.open(&root, &name, flags, 0o644).unwrap();
        main.write(&root, handle, b"text").unwrap();
        main.close(&root, handle).unwrap();
    }
    let names = || {
        let names = std::fs::read_dir(lower.path()).unwrap();
        let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<String>>()
    };
    std::thread::scope(|scope| {
        let mut client = connect(daemon.socket());
        scope.spawn(move || {
            let request = BranchApply {
                name: "main".to_owned(),
                dry_run: false,
                force: false,
            };
            // The daemon ends here.
            client.call(request, soon()).unwrap_err();
        });
        let mut other = connect(daemon.socket());
        while names().is_empty() {
            assert_answers(&mut other);
        }
        daemon.stopper().stop();
        daemon.wait().unwrap();
    });
    let names = names();
    assert!(names.len() < MANY, "it was not waited for");
    for name in &names {
        assert!(name.starts_with('f'), "{name}");
        let found = std::fs::read_to_string(lower.path().join(name)).unwrap();
        assert_eq!(found, "text");
    }
    // The branch holds the rest, and the apply goes on where it was.
    let rest = main.apply(agentfs_core::ApplyMode::DryRun).unwrap();
    assert_eq!(rest.actions.len(), MANY - names.len());
    assert!(rest.conflicts.is_empty());
}
