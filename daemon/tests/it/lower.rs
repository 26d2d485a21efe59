//! Tests changes that the host makes below the branches.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use agentfs_core::event::{Change, Envelope, EventKind, EventSink, Origin};
use agentfs_core::id::BranchId;
use agentfs_core::{Branch, Caller, FsCore, OpenFlags};
use agentfs_daemon::{Config, Daemon};
use agentfs_proto::message::BranchApply;
use tempfile::TempDir;

use agentfs_testkit::child::{PATIENCE, soon};
use agentfs_testkit::daemon::{connect, private_directory};

/// Where the daemon keeps its branches.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Memory,
    Store,
}

/// Runs each of these tests in both modes.
macro_rules! in_both_modes {
    ($($test:ident)*) => {
        mod in_memory {
            $(#[test]
            fn $test() {
                super::$test(super::Mode::Memory);
            })*
        }

        mod in_a_store {
            $(#[test]
            fn $test() {
                super::$test(super::Mode::Store);
            })*
        }
    };
}

in_both_modes! {
    every_kind_of_change_is_heard
    what_moves_in_or_out_is_new_or_gone
    a_tree_that_is_made_at_once_is_heard_whole
    a_burst_is_heard_whole
    what_a_branch_hides_is_not_heard_there
    what_a_branch_applies_is_heard_by_the_others_once
    what_an_applied_branch_replaced_and_removed_is_heard_as_such
    a_file_that_stays_open_is_heard_of_while_it_is_written
    it_can_be_turned_off
    links_lead_nowhere
    directories_that_come_go_and_move_stay_announced
}

/// A daemon over a directory, and the events that its branches emit.
struct World {
    daemon: Daemon,
    lower: TempDir,
    heard: Receiver<(BranchId, String)>,
    _directory: TempDir,
}

struct Hearer(Mutex<Sender<(BranchId, String)>>);

impl EventSink for Hearer {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        if envelope.origin == Origin::Lower {
            let line = line(&envelope.change);
            let sender = self.0.lock().unwrap().clone();
            // The test may have received enough and gone.
            drop(sender.send((envelope.branch, line)));
        }
    }
}

fn line(change: &Change) -> String {
    let show = |path: PathBuf| path.display().to_string();
    match change {
        Change::Created { at, .. } => format!("created {}", show(at.path())),
        Change::Removed { at, .. } => format!("removed {}", show(at.path())),
        Change::Renamed { from, to, .. } => {
            format!("renamed {} {}", show(from.path()), show(to.path()))
        }
        Change::Written { at, .. } => format!("written {}", show(at.as_ref().unwrap().path())),
        Change::Attributes { at, .. } => {
            format!("attributes {}", show(at.as_ref().unwrap().path()))
        }
        other @ (Change::Resized { .. }
        | Change::Xattr { .. }
        | Change::BranchCreated { .. }
        | Change::SnapshotCreated { .. }
        | Change::Opened { .. }
        | Change::Read { .. }
        | Change::Closed { .. }) => panic!("the host cannot do this: {other:?}"),
    }
}

impl World {
    fn new(mode: Mode) -> Self {
        Self::with(mode, true)
    }

    fn with(mode: Mode, watch_lower: bool) -> Self {
        let lower = private_directory();
        fs::create_dir(lower.path().join("dir")).unwrap();
        fs::write(lower.path().join("file"), "first").unwrap();
        fs::write(lower.path().join("dir/deep"), "first").unwrap();
        let directory = private_directory();
        let mut config = Config::new(directory.path().join("control.sock"));
        config.lower = Some(lower.path().to_owned());
        config.watch_lower = watch_lower;
        config.store = match mode {
            Mode::Memory => None,
            Mode::Store => Some(directory.path().join("store")),
        };
        let daemon = Daemon::start(config).unwrap();
        let (sender, heard) = channel();
        let hearer = Arc::new(Hearer(Mutex::new(sender)));
        daemon.core().subscribe_events(hearer).unwrap();
        Self {
            daemon,
            lower,
            heard,
            _directory: directory,
        }
    }

    fn host(&self, name: &str) -> PathBuf {
        self.lower.path().join(name)
    }

    fn main(&self) -> Branch {
        self.daemon.core().branch(FsCore::MAIN).unwrap()
    }

    fn next(&self) -> (BranchId, String) {
        self.heard.recv_timeout(PATIENCE).unwrap()
    }

    /// Returns the events of branch main, up to this one.
    fn heard_until(&self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.last().map(String::as_str) != Some(last) {
            let (branch, line) = self.next();
            if branch == FsCore::MAIN {
                lines.push(line);
            }
        }
        lines
    }

    /// Returns the events so far, up to a change made now.
    fn heard_so_far(&self) -> Vec<String> {
        fs::create_dir(self.host("end")).unwrap();
        let mut lines = self.heard_until("created /end");
        lines.pop();
        lines
    }
}

fn every_kind_of_change_is_heard(mode: Mode) {
    let world = World::new(mode);
    fs::write(world.host("file"), "second").unwrap();
    assert_eq!(world.next().1, "written /file");
    fs::write(world.host("new"), "text").unwrap();
    assert_eq!(
        world.heard_until("written /new"),
        ["created /new", "written /new"]
    );
    fs::rename(world.host("new"), world.host("dir/newer")).unwrap();
    assert_eq!(world.next().1, "renamed /new /dir/newer");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(world.host("dir/newer"), mode).unwrap();
    assert_eq!(world.next().1, "attributes /dir/newer");
    fs::remove_file(world.host("dir/newer")).unwrap();
    assert_eq!(world.next().1, "removed /dir/newer");
    fs::create_dir(world.host("empty")).unwrap();
    assert_eq!(world.next().1, "created /empty");
    fs::remove_dir(world.host("empty")).unwrap();
    assert_eq!(world.next().1, "removed /empty");
    // This is how an editor saves.
    fs::write(world.host("file~"), "third").unwrap();
    world.heard_until("written /file~");
    fs::rename(world.host("file~"), world.host("file")).unwrap();
    assert_eq!(world.next().1, "renamed /file~ /file");
    let root = Caller::root();
    assert_eq!(world.main().stat(&root, "/file").unwrap().size, 5);
    assert_eq!(world.heard_so_far(), Vec::<String>::new());
}

fn what_moves_in_or_out_is_new_or_gone(mode: Mode) {
    let world = World::new(mode);
    let outside = tempfile::tempdir_in(world.lower.path().parent().unwrap()).unwrap();
    fs::rename(world.host("dir"), outside.path().join("dir")).unwrap();
    assert_eq!(world.next().1, "removed /dir");
    fs::rename(outside.path().join("dir"), world.host("back")).unwrap();
    assert_eq!(
        world.heard_until("created /back/deep"),
        ["created /back", "created /back/deep"]
    );
    fs::write(world.host("back/deep"), "again").unwrap();
    assert_eq!(world.next().1, "written /back/deep");
}

/// Directories are made and filled quicker than they can be watched: nothing is missed, and nothing
/// is emitted twice.
fn a_tree_that_is_made_at_once_is_heard_whole(mode: Mode) {
    let world = World::new(mode);
    let mut made = BTreeSet::new();
    for outer in 0..30 {
        for inner in 0..5 {
            let dir = format!("/t{outer}/u{inner}");
            fs::create_dir_all(world.host(&dir[1..])).unwrap();
            for file in 0..4 {
                let path = format!("{dir}/f{file}");
                fs::write(world.host(&path[1..]), "x").unwrap();
                made.insert(path);
            }
            made.insert(dir);
        }
        made.insert(format!("/t{outer}"));
    }
    let mut heard = BTreeSet::new();
    while heard.len() < made.len() {
        let (_, line) = world.next();
        if let Some(path) = line.strip_prefix("created ") {
            assert!(heard.insert(path.to_owned()), "{path} twice");
        }
    }
    assert_eq!(heard, made);
    fs::remove_dir_all(world.host("t0")).unwrap();
    world.heard_until("removed /t0");
}

fn a_burst_is_heard_whole(mode: Mode) {
    const FILES: usize = 5_000;
    let world = World::new(mode);
    for number in 0..FILES {
        fs::write(world.host(&format!("dir/b{number}")), "x").unwrap();
    }
    let begun = Instant::now();
    let (mut created, mut written) = (BTreeSet::new(), BTreeSet::new());
    while created.len() < FILES || written.len() < FILES {
        assert!(begun.elapsed() < PATIENCE);
        let (_, line) = world.next();
        match line.split_once(' ').unwrap() {
            ("created", path) => assert!(created.insert(path.to_owned()), "{path} twice"),
            ("written", path) => drop(written.insert(path.to_owned())),
            (other, path) => panic!("{other} {path}"),
        }
    }
}

fn what_a_branch_hides_is_not_heard_there(mode: Mode) {
    let world = World::new(mode);
    let root = Caller::root();
    let core = world.daemon.core();
    let side = core
        .branch_create_from_current(&root, FsCore::MAIN, "side")
        .unwrap();
    let main = world.main();
    let handle = main.open(&root, "/file", OpenFlags::WRITE_ONLY, 0).unwrap();
    main.write(&root, handle, b"mine").unwrap();
    main.close(&root, handle).unwrap();
    main.unlink(&root, "/dir/deep").unwrap();
    fs::write(world.host("file"), "theirs").unwrap();
    assert_eq!(world.next(), (side, "written /file".to_owned()));
    fs::write(world.host("dir/deep"), "theirs").unwrap();
    assert_eq!(world.next(), (side, "written /dir/deep".to_owned()));
    assert_eq!(world.heard_so_far(), Vec::<String>::new());
}

/// Applying a branch changes the host, which is a change in the other branches only.
fn what_a_branch_applies_is_heard_by_the_others_once(mode: Mode) {
    let world = World::new(mode);
    let root = Caller::root();
    let core = world.daemon.core();
    let side = core
        .branch_create_from_current(&root, FsCore::MAIN, "side")
        .unwrap();
    let main = world.main();
    main.unlink(&root, "/dir/deep").unwrap();
    let put = |path: &str| {
        let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
        let handle = main.open(&root, path, flags, 0o644).unwrap();
        main.write(&root, handle, b"applied").unwrap();
        main.close(&root, handle).unwrap();
    };
    put("/file");
    put("/new");
    let request = BranchApply {
        name: "main".to_owned(),
        dry_run: false,
        force: false,
    };
    let mut client = connect(world.daemon.socket());
    client.call(request, soon()).unwrap();
    fs::create_dir(world.host("end")).unwrap();
    let mut heard = BTreeSet::new();
    loop {
        let (branch, line) = world.next();
        if line == "created /end" {
            if branch == side {
                break;
            }
            continue;
        }
        assert_eq!(branch, side, "{line}");
        if !line.starts_with("attributes ") {
            assert!(heard.insert(line.clone()), "{line} twice");
        }
    }
    let expected = ["created /new", "removed /dir/deep", "written /file"];
    assert_eq!(
        heard.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
    // From here on the file is the host's again.
    fs::write(world.host("new"), "by hand").unwrap();
    assert_eq!(world.heard_until("written /new"), ["written /new"]);
}

/// An editor saves like this: another file takes the name, and watches of the old one get its end.
fn what_an_applied_branch_replaced_and_removed_is_heard_as_such(mode: Mode) {
    let world = World::new(mode);
    let root = Caller::root();
    let core = world.daemon.core();
    let side = core
        .branch_create_from_current(&root, FsCore::MAIN, "side")
        .unwrap();
    for name in ["one", "two"] {
        fs::write(world.host(name), name).unwrap();
        while world.next() != (side, format!("written /{name}")) {}
    }
    let before = core.branch(side).unwrap().stat(&root, "/file").unwrap();
    let main = world.main();
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let handle = main.open(&root, "/saved", flags, 0o644).unwrap();
    main.close(&root, handle).unwrap();
    let replace = agentfs_core::RenameFlags::REPLACE;
    main.rename(&root, "/saved", "/file", replace).unwrap();
    main.unlink(&root, "/dir/deep").unwrap();
    main.rename(&root, "/one", "/two", replace).unwrap();
    main.apply(agentfs_core::ApplyMode::Refuse).unwrap();
    fs::create_dir(world.host("end")).unwrap();
    let mut heard = Vec::new();
    loop {
        let (branch, line) = world.next();
        if branch == side && line == "created /end" {
            break;
        }
        if branch == side && !line.starts_with("attributes ") {
            heard.push(line);
        }
    }
    let expected = [
        "removed /dir/deep",
        "removed /two",
        "renamed /one /two",
        "removed /file",
        "created /file",
    ];
    assert_eq!(heard, expected);
    let after = core.branch(side).unwrap().stat(&root, "/file").unwrap();
    assert_ne!(before.node, after.node);
}

fn a_file_that_stays_open_is_heard_of_while_it_is_written(mode: Mode) {
    use std::io::Write as _;
    let world = World::new(mode);
    let mut log = fs::File::options()
        .append(true)
        .open(world.host("file"))
        .unwrap();
    for _ in 0..100 {
        log.write_all(b"line\n").unwrap();
    }
    assert_eq!(world.next().1, "written /file");
}

fn it_can_be_turned_off(mode: Mode) {
    let world = World::with(mode, false);
    fs::write(world.host("file"), "second").unwrap();
    let counters = watched_counters(&world.daemon);
    assert!(!counters.contains(&"lower_changes".to_owned()));
    let on = World::new(mode);
    assert!(watched_counters(&on.daemon).contains(&"lower_changes".to_owned()));
}

fn watched_counters(daemon: &Daemon) -> Vec<String> {
    let request = agentfs_proto::message::Status { after: 0 };
    let report = connect(daemon.socket()).call(request, soon()).unwrap();
    report.counters.into_iter().map(|it| it.name).collect()
}

/// A link on the host is not followed: what is behind it is not below.
fn links_lead_nowhere(mode: Mode) {
    let world = World::new(mode);
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), world.host("link")).unwrap();
    assert_eq!(world.next().1, "created /link");
    fs::write(outside.path().join("f"), "x").unwrap();
    assert_eq!(world.heard_so_far(), Vec::<String>::new());
    assert!(Path::new(&world.host("link")).exists());
}

fn directories_that_come_go_and_move_stay_announced(mode: Mode) {
    let world = World::new(mode);
    let announced = world.daemon.core().announced().unwrap();
    assert!(announced.is_whole());
    let are = |wanted: &[&str]| {
        assert_eq!(announced.count(), wanted.len());
        for dir in wanted {
            assert!(announced.has(dir), "{dir}");
        }
    };
    // The event of a file that is made now comes after all earlier ones.
    let mut made = 0;
    let mut settled = || {
        made += 1;
        let name = format!("settled-{made}");
        fs::write(world.host(&name), "x").unwrap();
        world.heard_until(&format!("written /{name}"));
    };
    are(&["", "dir"]);
    fs::create_dir_all(world.host("new/below")).unwrap();
    // A directory is watched after the events that wait were applied, and before anything in it is
    // reported.
    fs::write(world.host("new/below/f"), "x").unwrap();
    world.heard_until("created /new/below/f");
    are(&["", "dir", "new", "new/below"]);
    fs::rename(world.host("new"), world.host("dir/moved")).unwrap();
    settled();
    are(&["", "dir", "dir/moved", "dir/moved/below"]);
    // A change in the directory is reported.
    fs::write(world.host("dir/moved/below/f"), "x").unwrap();
    world.heard_until("written /dir/moved/below/f");
    fs::remove_dir_all(world.host("dir/moved")).unwrap();
    settled();
    are(&["", "dir"]);
    let outside = tempfile::tempdir_in(world.lower.path().parent().unwrap()).unwrap();
    fs::rename(world.host("dir"), outside.path().join("dir")).unwrap();
    world.heard_until("removed /dir");
    are(&[""]);
    assert!(announced.is_whole());
}
