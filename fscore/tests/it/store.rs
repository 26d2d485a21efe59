//! A filesystem on disk: what is there after its process has ended.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentfs_core::event::{Change, Place};
use agentfs_core::id::{BranchId, Seq};
use agentfs_core::{
    ApplyError, ApplyMode, BackstoreMode, ConfigError, Errno, FsConfig, FsCore, OpenFlags, Overlay,
    RenameFlags, SetAttr, StoreError,
};
use agentfs_testkit::child::ended;
use agentfs_testkit::random::Random;

use crate::support::{World, get, names, put};

fn config(store: &Path, lower: Option<&Path>) -> FsConfig {
    FsConfig {
        backstore: BackstoreMode::Disk(store.to_owned()),
        overlay: lower.map(|lower| Overlay {
            lower: lower.to_owned(),
        }),
        ..FsConfig::default()
    }
}

fn over(store: &Path, lower: &Path) -> World {
    World::with(config(store, Some(lower)))
}

#[test]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "any other change fails the test"
)]
fn what_was_changed_last_before_a_process_ended_is_told_to_its_readers_by_the_next_one() {
    let (store, lower) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(lower.path().join("of the host"), "old").unwrap();
    let keeping = FsConfig {
        track_events: true,
        keep_nameless: true,
        ..config(store.path(), Some(lower.path()))
    };
    let (heard, last) = {
        let w = World::with(keeping.clone());
        // Without a reader, changes have no numbers.
        w.listen(false);
        w.put("/heard", "1");
        let heard = w.b.last_seq();
        w.put("/missed", "1");
        w.b.rename(&w.root, "/missed", "/moved", RenameFlags::REPLACE)
            .unwrap();
        w.put("/of the host", "new");
        w.b.unlink(&w.root, "/heard").unwrap();
        // Content is used again.
        w.put("/moved", "2");
        (heard, w.b.last_seq())
    };
    let told = |changes: Vec<(Seq, Change)>| -> Vec<String> {
        assert!(changes.is_sorted_by_key(|(seq, _)| *seq));
        let name = |at: &Place| String::from_utf8_lossy(&at.name).into_owned();
        let text = |change: &Change| match change {
            Change::Created { at, .. } => Some(format!("+{}", name(at))),
            Change::Removed { at, .. } => Some(format!("-{}", name(at))),
            Change::Renamed { from, to, .. } => Some(format!("{}>{}", name(from), name(to))),
            Change::Written { at, .. } => Some(format!("w{}", name(at.as_ref()?))),
            Change::Attributes { .. } | Change::Resized { .. } => None,
            other => panic!("{other:?}"),
        };
        let mut all: Vec<String> = changes.iter().filter_map(|(_, it)| text(it)).collect();
        all.dedup();
        all
    };
    let w = World::with(keeping.clone());
    let missed = w.b.changes_before_opening(heard).unwrap();
    let expected = [
        "+missed",
        "wmissed",
        "missed>moved",
        "wof the host",
        "-heard",
        "wmoved",
    ];
    assert_eq!(told(missed), expected);
    assert_eq!(w.b.changes_before_opening(last), Some(Vec::new()));
    w.fs.forget_changes_before_opening();
    assert_eq!(w.b.changes_before_opening(heard), None);
    w.listen(false);
    for number in 0..2000 {
        w.put("/many", &number.to_string());
    }
    let before = w.b.last_seq();
    drop(w);
    let w = World::with(keeping);
    assert_eq!(w.b.changes_before_opening(last), None, "too long ago");
    assert_eq!(w.b.changes_before_opening(before), Some(Vec::new()));
}

#[test]
fn removed_files_that_were_open_are_kept_for_a_mount_that_outlives_the_process() {
    let store = tempfile::tempdir().unwrap();
    let keeping = FsConfig {
        keep_nameless: true,
        ..config(store.path(), None)
    };
    let node = {
        let w = World::with(keeping.clone());
        w.put("/removed", "still open");
        let h = w.open("/removed");
        w.b.unlink(&w.root, "/removed").unwrap();
        w.b.fstat(h).unwrap().node
    };
    let read = |w: &World| {
        let h = w.b.open_node(&w.root, node, OpenFlags::READ)?;
        let mut content = [0; 20];
        let read = w.b.read_at(&w.root, h, 0, &mut content)?;
        w.b.close(&w.root, h)?;
        Ok(content[..read].to_vec())
    };
    {
        let w = World::with(keeping.clone());
        assert_eq!(w.b.nameless(), [node]);
        w.b.keep_nameless(true);
        assert_eq!(read(&w), Ok(b"still open".to_vec()));
        // Another handle of the process before may hold it.
        assert_eq!(w.b.nameless(), [node]);
        // The same is true of a file that is removed now.
        w.put("/later", "");
        w.b.unlink(&w.root, "/later").unwrap();
        let later = w.b.nameless().into_iter().find(|it| *it != node).unwrap();
        w.b.drop_nameless(later).unwrap();
        assert_eq!(w.b.nameless(), [node]);
        let h = w.b.open_node(&w.root, node, OpenFlags::READ).unwrap();
        w.b.drop_nameless(node).unwrap();
        w.b.close(&w.root, h).unwrap();
        assert_eq!(w.b.nameless(), [node]);
    }
    let w = World::with(keeping);
    w.b.drop_nameless(node).unwrap();
    assert_eq!(w.b.nameless(), []);
    assert_eq!(read(&w), Err(Errno::ESTALE));
}

#[test]
fn what_was_changed_over_a_lower_directory_is_there_again() {
    let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let below = |name: &str| host.path().join(name);
    fs::create_dir_all(below("dir/sub")).unwrap();
    for name in [
        "edited",
        "removed",
        "moved",
        "chmod",
        "dir/a",
        "dir/sub/b",
        "untouched",
    ] {
        fs::write(below(name), format!("{name} of the host")).unwrap();
    }
    let nodes = {
        let w = over(store.path(), host.path());
        let h = w.open("/edited");
        w.b.write_at(&w.root, h, 0, b"EDITED").unwrap();
        w.b.close(&w.root, h).unwrap();
        w.b.unlink(&w.root, "/removed").unwrap();
        w.b.rename(&w.root, "/moved", "/dir/moved", RenameFlags::REPLACE)
            .unwrap();
        let set = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        w.b.setattr(&w.root, "/chmod", true, &set).unwrap();
        w.b.rename(&w.root, "/dir", "/elsewhere", RenameFlags::REPLACE)
            .unwrap();
        w.put("/elsewhere/sub/new", "new");
        w.b.symlink(&w.root, "edited", "/link").unwrap();
        w.b.link(&w.root, "/elsewhere/sub/new", "/hard").unwrap();
        ["/edited", "/elsewhere", "/chmod", "/hard"].map(|it| w.b.stat(&w.root, it).unwrap())
    };
    fs::write(below("untouched"), "changed meanwhile").unwrap();
    for _ in 0..2 {
        let w = over(store.path(), host.path());
        assert_eq!(
            w.names("/"),
            ["chmod", "edited", "elsewhere", "hard", "link", "untouched"]
        );
        assert_eq!(w.names("/elsewhere"), ["a", "moved", "sub"]);
        assert_eq!(w.names("/elsewhere/sub"), ["b", "new"]);
        for (path, content) in [
            ("/edited", "EDITED of the host"),
            ("/link", "EDITED of the host"),
            ("/chmod", "chmod of the host"),
            ("/elsewhere/moved", "moved of the host"),
            ("/elsewhere/a", "dir/a of the host"),
            ("/elsewhere/sub/b", "dir/sub/b of the host"),
            ("/hard", "new"),
            ("/untouched", "changed meanwhile"),
        ] {
            assert_eq!(w.get(path), content, "{path}");
        }
        let again = ["/edited", "/elsewhere", "/chmod", "/hard"];
        assert_eq!(again.map(|it| w.b.stat(&w.root, it).unwrap()), nodes);
    }
}

#[test]
fn what_a_change_is_based_on_is_known_after_a_restart() {
    let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["conflict", "clean"] {
        fs::write(host.path().join(name), "of the host").unwrap();
    }
    {
        let w = over(store.path(), host.path());
        for name in ["/conflict", "/clean"] {
            assert_eq!(w.get(name), "of the host");
            w.put(name, "of the branch");
        }
    }
    fs::write(host.path().join("conflict"), "edited on the host").unwrap();
    let w = over(store.path(), host.path());
    let conflicts = vec![PathBuf::from("conflict")];
    assert_eq!(
        w.b.apply(ApplyMode::Refuse),
        Err(ApplyError::Conflicts(conflicts))
    );
    w.b.apply(ApplyMode::Force).unwrap();
    drop(w);
    let w = over(store.path(), host.path());
    for name in ["conflict", "clean"] {
        assert_eq!(
            fs::read_to_string(host.path().join(name)).unwrap(),
            "of the branch"
        );
    }
    // The branch holds nothing of it any more.
    fs::write(host.path().join("clean"), "later").unwrap();
    assert_eq!(w.get("/clean"), "later");
}

#[test]
fn branches_snapshots_and_what_they_share_are_there_again() {
    let store = tempfile::tempdir().unwrap();
    let big = "x".repeat(1 << 20);
    let (snapshot, branch) = {
        let w = World::with(config(store.path(), None));
        w.put("/big", &big);
        let snapshot =
            w.fs.snapshot_create(&w.root, FsCore::MAIN, "before")
                .unwrap();
        let branch =
            w.fs.branch_create_from_snapshot(&w.root, snapshot, "agent")
                .unwrap();
        put(&w.fs.branch(branch).unwrap(), "/own", "own");
        w.put("/big", "small");
        (snapshot, branch)
    };
    let w = World::with(config(store.path(), None));
    assert_eq!(w.get("/big"), "small");
    let agent = w.fs.branch(branch).unwrap();
    assert_eq!(
        (agent.name(), names(&agent, "/")),
        ("agent", vec!["big".into(), "own".into()])
    );
    assert_eq!(get(&agent, "/big"), big);
    assert_eq!(w.fs.snapshots()[0].name, "before");
    w.fs.restore(&w.root, FsCore::MAIN, snapshot).unwrap();
    assert_eq!(w.get("/big"), big);
    w.fs.snapshot_delete(snapshot).unwrap();
    drop(agent);
    w.fs.branch_delete(branch).unwrap();
    drop(w);
    let w = World::with(config(store.path(), None));
    assert_eq!(w.fs.branch(branch).map(|it| it.id()), Err(Errno::ENOENT));
    assert_eq!((w.fs.snapshots(), w.get("/big")), (Vec::new(), big));
    let new =
        w.fs.branch_create_from_current(&w.root, FsCore::MAIN, "")
            .unwrap();
    assert!(
        new > branch && new != BranchId(2),
        "no number is used again"
    );
}

#[test]
fn what_is_still_done_in_a_deleted_branch_is_forgotten_with_it() {
    let store = tempfile::tempdir().unwrap();
    let w = World::with(config(store.path(), None));
    let id =
        w.fs.branch_create_from_current(&w.root, FsCore::MAIN, "short")
            .unwrap();
    let deleted = w.fs.branch(id).unwrap();
    w.fs.branch_delete(id).unwrap();
    put(&deleted, "/late", &"late".repeat(5000));
    w.put("/f", "in main");
    drop((w, deleted));
    let w = World::with(config(store.path(), None));
    assert_eq!(
        (w.names("/"), w.get("/f")),
        (vec!["f".to_owned()], "in main".to_owned())
    );
    assert_eq!(w.fs.branches().len(), 1);
}

#[test]
fn a_checkpoint_takes_the_place_of_the_log_and_keeps_what_is_shared() {
    let store = tempfile::tempdir().unwrap();
    let size_of = |prefix: &str| -> u64 {
        let entries = fs::read_dir(store.path())
            .unwrap()
            .map(|entry| entry.unwrap());
        let fits = entries.filter(|it| it.file_name().to_string_lossy().starts_with(prefix));
        fits.map(|entry| entry.metadata().unwrap().len()).sum()
    };
    let w = World::with(config(store.path(), None));
    for number in 0..2000 {
        w.put(&format!("/{number}"), "some text");
    }
    w.fs.checkpoint().unwrap();
    let one = size_of("checkpoint-");
    let snapshots: Vec<_> = (0..50)
        .map(|_| w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap())
        .collect();
    w.fs.branch_create_from_snapshot(&w.root, snapshots[7], "agent")
        .unwrap();
    w.fs.checkpoint().unwrap();
    let many = size_of("checkpoint-");
    assert!(
        many < one + 51 * 100,
        "{one} bytes, and {many} with 50 snapshots"
    );
    w.put("/after", "the checkpoint");
    drop(w);
    let w = World::with(config(store.path(), None));
    assert_eq!(
        (w.get("/1999"), w.get("/after")),
        ("some text".into(), "the checkpoint".into())
    );
    assert_eq!((w.fs.snapshots().len(), w.fs.branches().len()), (50, 2));
    w.fs.snapshot_delete(snapshots[49]).unwrap();
    w.fs.checkpoint().unwrap();
    drop(w);
    let w = World::with(config(store.path(), None));
    let next = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    assert!(next > snapshots[49], "no number is used again");
}

#[test]
fn a_damaged_checkpoint_is_said_and_nothing_is_overwritten() {
    let store = tempfile::tempdir().unwrap();
    let w = World::with(config(store.path(), None));
    w.put("/f", "text");
    w.fs.checkpoint().unwrap();
    drop(w);
    let entries = fs::read_dir(store.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_checkpoint = |path: &PathBuf| path.to_string_lossy().contains("checkpoint-");
    let checkpoint = entries.into_iter().find(is_checkpoint).unwrap();
    let good = fs::read(&checkpoint).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&checkpoint, &bad).unwrap();
        let refused = FsCore::new(config(store.path(), None)).err();
        let is_damage =
            |it: &ConfigError| matches!(it, ConfigError::Store(StoreError::Damaged { .. }));
        assert!(
            refused.as_ref().is_some_and(is_damage),
            "byte {at}: {refused:?}"
        );
        let left = FsCore::new(FsConfig {
            salvage: true,
            ..config(store.path(), None)
        });
        assert!(!left.unwrap().lost().is_empty(), "byte {at}");
        assert_eq!(fs::read(&checkpoint).unwrap(), bad);
    }
    fs::write(&checkpoint, &good).unwrap();
    assert_eq!(World::with(config(store.path(), None)).get("/f"), "text");
}

#[test]
fn a_file_that_only_a_handle_held_is_gone_and_its_room_is_free() {
    let store = tempfile::tempdir().unwrap();
    let blocks = || {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(store.path().join("content")).unwrap().blocks()
    };
    {
        let w = World::with(config(store.path(), None));
        w.put("/held", &"x".repeat(8 << 20));
        let _held = w.open("/held");
        w.b.unlink(&w.root, "/held").unwrap();
        assert!(blocks() >= (8 << 20) / 512);
    }
    let w = World::with(config(store.path(), None));
    assert_eq!(w.names("/"), [""; 0]);
    // What is free is used again, and given back with what is freed.
    w.put("/new", &"y".repeat(8 << 20));
    assert!(blocks() < (9 << 20) / 512, "{}", blocks());
}

#[test]
fn a_store_has_one_writer_and_other_directories_are_none() {
    let store = tempfile::tempdir().unwrap();
    let first = FsCore::new(config(store.path(), None)).unwrap();
    let second = FsCore::new(config(store.path(), None));
    let in_use = ConfigError::Store(StoreError::InUse(store.path().to_owned()));
    assert_eq!(second.err(), Some(in_use));
    drop(first);
    FsCore::new(config(store.path(), None)).unwrap();

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("letter"), "dear").unwrap();
    let refused = FsCore::new(config(other.path(), None));
    let no_store = ConfigError::Store(StoreError::NoStore(other.path().to_owned()));
    assert_eq!(refused.err(), Some(no_store));
    assert_eq!(
        fs::read_to_string(other.path().join("letter")).unwrap(),
        "dear"
    );

    fs::write(
        store.path().join("store"),
        "AgentFS store 9\n0123456789abcdef",
    )
    .unwrap();
    let newer = FsCore::new(config(store.path(), None));
    let no_store = ConfigError::Store(StoreError::NoStore(store.path().to_owned()));
    assert_eq!(newer.err(), Some(no_store));
}

/// Where the child finds its store.
const STORE: &str = "AGENTFS_STORE_TEST_DIRECTORY";

fn content(number: u64) -> String {
    let len = Random::new(number).range(0..40_000);
    format!("{number} ").repeat(usize::try_from(len / 8).unwrap())
}

/// Makes, moves and removes files until the process is killed, and says so after each.
fn work_for_ever(store: &Path) {
    let w = World::with(config(store, None));
    let root = &w.root;
    for number in 0_u64.. {
        w.put("/next", &content(number));
        w.b.rename(root, "/next", format!("/{number}"), RenameFlags::REPLACE)
            .unwrap();
        if number >= 20 {
            w.b.unlink(root, format!("/{}", number - 20)).unwrap();
        }
        std::io::stdout().write_all(&number.to_le_bytes()).unwrap();
        std::io::stdout().flush().unwrap();
    }
}

/// The other process is this test, by its name.
#[test]
fn a_process_that_is_killed_loses_nothing_that_it_was_answered() {
    if let Some(store) = std::env::var_os(STORE) {
        return work_for_ever(Path::new(&store));
    }
    let mut random = Random::new(7);
    for round in 0..12 {
        let store = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::a_process_that_is_killed_loses_nothing_that_it_was_answered"])
            .args(["--exact", "--nocapture", "--quiet"])
            .env(STORE, store.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = child.stdout.take().unwrap();
        let mut bytes = vec![0; 8 * usize::try_from(random.range(1..60)).unwrap() + 64];
        said.read_exact(&mut bytes).unwrap();
        child.kill().unwrap();
        ended(&mut child);
        said.read_to_end(&mut bytes).unwrap();
        // The runner says something before the test does.
        let start = bytes
            .windows(8)
            .position(|it| it == 0_u64.to_le_bytes())
            .unwrap();
        let done = ((bytes.len() - start) / 8) as u64;
        let w = World::with(config(store.path(), None));
        // The one after those may have begun, and removes the one that is 20 before it.
        for number in done.saturating_sub(19)..done {
            let found = w.get(&format!("/{number}"));
            assert_eq!(
                found,
                content(number),
                "round {round}, file {number} of {done}"
            );
        }
        let left = w.names("/").len();
        assert!(left <= 22, "round {round}: {left} files");
        w.put("/after", "it goes on");
        assert_eq!(w.get("/after"), "it goes on");
    }
}

#[test]
fn files_on_disk_are_opened_by_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("not/there/yet");
    let w = World::with(config(&store, None));
    let h =
        w.b.open(
            &w.root,
            "/f",
            OpenFlags::CREATE | OpenFlags::READ_WRITE,
            0o666,
        )
        .unwrap();
    w.b.write(&w.root, h, b"secret").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store), 0o700);
    for entry in fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_branch_in_a_store_shows_what_the_disk_of_the_store_has() {
    let store = tempfile::tempdir().unwrap();
    let fs = FsCore::new(config(store.path(), None)).unwrap();
    let disk = rustix::fs::statvfs(store.path()).unwrap();
    let shown = fs.branch(FsCore::MAIN).unwrap().statfs();
    assert_eq!(shown.blocks * 4096, disk.f_blocks * disk.f_frsize);
    assert!(shown.blocks_free <= shown.blocks);
}
