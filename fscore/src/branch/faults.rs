//! What was done to the files of a store behind its back, and what a disk does at a bad moment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use std::sync::Arc;

use agentfs_testkit::random::Random;

use super::fs::FsCore;
use super::histories::Machine;
use super::journal::{NewVersion, VersionId, kind};
use super::recovery::Recovered;
use crate::disk::directory::Directory as _;
use crate::disk::simulated::SimulatedDisk;
use crate::log::{Boot, Place, Record, Recovery, StoreId};
use crate::model::caller::Caller;
use crate::model::config::{BackstoreMode, ConfigError, FsConfig};
use crate::model::errno::{Errno, Result};
use crate::model::event::{Name, ObjectKind};
use crate::model::flags::{OpenFlags, RenameFlags, XattrFlags};
use crate::model::id::{NodeId, NodeNumbers, Seq};
use crate::model::names::Names;
use crate::model::store_error::StoreError;
use crate::store::dir_paths::DirPaths;
use crate::store::extents::Extents;
use crate::store::inode::Body;
use crate::store::tree::{Shared, Tree};

/// Opens a store of the host.
fn open(path: &Path) -> Result<FsCore, ConfigError> {
    FsCore::new(FsConfig {
        backstore: BackstoreMode::Disk(path.to_owned()),
        ..FsConfig::default()
    })
}

fn put(fs: &FsCore, path: &str, bytes: &[u8]) -> Result<()> {
    let (branch, root) = (fs.branch(FsCore::MAIN)?, Caller::root());
    let flags = OpenFlags::CREATE | OpenFlags::READ_WRITE;
    let handle = branch.open(&root, path, flags, 0o644)?;
    let written = branch.write_at(&root, handle, 0, bytes).map(drop);
    branch.close(&root, handle)?;
    written
}

fn get(fs: &FsCore, path: &str) -> Result<Vec<u8>> {
    let (branch, root) = (fs.branch(FsCore::MAIN)?, Caller::root());
    let handle = branch.open(&root, path, OpenFlags::READ, 0)?;
    let mut bytes = vec![0; 20_000];
    let read = branch.read_at(&root, handle, 0, &mut bytes);
    branch.close(&root, handle)?;
    bytes.truncate(read?);
    Ok(bytes)
}

/// Creates a store with the file `a`.
fn store() -> tempfile::TempDir {
    let path = tempfile::tempdir().unwrap();
    let fs = open(path.path()).unwrap();
    put(&fs, "/a", &[7; 9000]).unwrap();
    fs.sync().unwrap();
    path
}

/// Returns the names in a directory, with the length of each file and when it was changed.
fn listed(path: &Path) -> Vec<(std::ffi::OsString, u64, std::time::SystemTime)> {
    let entries = fs::read_dir(path).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let changed = metadata.modified().unwrap();
        (entry.file_name(), metadata.len(), changed)
    });
    let mut all: Vec<_> = entries.collect();
    all.sort();
    all
}

/// Opens a store that is to be refused, and returns what is said.
fn refusal(path: &Path) -> String {
    let before = listed(path);
    let error = open(path).expect_err("it is refused");
    assert_eq!(listed(path), before, "nothing was changed");
    assert!(
        matches!(error, ConfigError::Store(StoreError::Damaged { .. })),
        "{error}"
    );
    error.to_string()
}

fn files_of(path: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let names = listed(path).into_iter().map(|(name, ..)| name);
    let names = names.filter(|name| name.to_string_lossy().starts_with(prefix));
    names.map(|name| path.join(name)).collect()
}

#[test]
fn store_without_its_content_is_refused() {
    let path = store();
    let away = path.path().join("moved-away");
    fs::rename(path.path().join("content"), &away).unwrap();
    let said = refusal(path.path());
    assert!(said.contains("content"), "{said}");
    fs::rename(&away, path.path().join("content")).unwrap();
    assert_eq!(get(&open(path.path()).unwrap(), "/a"), Ok(vec![7; 9000]));
}

#[test]
fn store_without_the_begin_of_its_log_is_refused() {
    let path = store();
    let fs = open(path.path()).unwrap();
    put(&fs, "/b", b"b").unwrap();
    fs.sync().unwrap();
    drop(fs);
    let first = path.path().join("log-0000000000000001");
    let away = path.path().join("moved-away");
    fs::rename(&first, &away).unwrap();
    let said = refusal(path.path());
    assert!(said.contains("log-0000000000000001"), "{said}");
    fs::rename(&away, &first).unwrap();
    assert_eq!(get(&open(path.path()).unwrap(), "/a"), Ok(vec![7; 9000]));
}

#[test]
fn store_without_its_checkpoint_is_refused() {
    let path = store();
    let fs = open(path.path()).unwrap();
    fs.checkpoint().unwrap();
    put(&fs, "/b", b"b").unwrap();
    drop(fs);
    let [checkpoint] = &files_of(path.path(), "checkpoint-")[..] else {
        panic!("one checkpoint");
    };
    let away = path.path().join("moved-away");
    fs::rename(checkpoint, &away).unwrap();
    let said = refusal(path.path());
    assert!(said.contains("checkpoint"), "{said}");
    fs::rename(&away, checkpoint).unwrap();
    assert_eq!(get(&open(path.path()).unwrap(), "/a"), Ok(vec![7; 9000]));
}

#[test]
fn store_of_which_only_the_content_is_left_is_refused() {
    let path = store();
    for file in files_of(path.path(), "log-") {
        fs::remove_file(file).unwrap();
    }
    let said = refusal(path.path());
    assert!(said.contains("log"), "{said}");
}

#[test]
fn content_that_was_cut_off_cannot_be_read_and_the_rest_can() {
    let path = store();
    let fs = open(path.path()).unwrap();
    put(&fs, "/b", &[8; 9000]).unwrap();
    drop(fs);
    let content = fs::File::options()
        .write(true)
        .open(path.path().join("content"));
    content.unwrap().set_len(15_000).unwrap();
    let fs = open(path.path()).unwrap();
    assert_eq!(get(&fs, "/a"), Ok(vec![7; 9000]));
    assert_eq!(get(&fs, "/b"), Err(Errno::EIO), "no zeros are made up");
}

#[test]
fn removed_lock_lets_no_second_process_in() {
    let path = store();
    let fs = open(path.path()).unwrap();
    fs::remove_file(path.path().join("lock")).unwrap();
    let in_use = ConfigError::Store(StoreError::InUse(path.path().to_owned()));
    assert_eq!(open(path.path()).unwrap_err(), in_use);
    drop(fs);
    open(path.path()).unwrap();
}

#[test]
fn directory_in_which_others_can_write_is_refused() {
    let path = store();
    let with = |mode| fs::set_permissions(path.path(), fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o702, 0o770, 0o777] {
        with(mode);
        let error = open(path.path()).unwrap_err().to_string();
        assert!(error.contains("chmod go-w"), "{error}");
    }
    with(0o755);
    open(path.path()).unwrap();
}

#[test]
fn check_adds_nothing_to_a_store_that_was_not_finished() {
    let path = tempfile::tempdir().unwrap();
    let number = b"AgentFS store 1\n0123456789abcdef";
    fs::write(path.path().join("store"), number).unwrap();
    let before = listed(path.path());
    let checked = FsCore::check_store(path.path(), FsConfig::default()).unwrap();
    assert_eq!((checked.branches.len(), checked.defects.len()), (0, 0));
    assert_eq!(listed(path.path()), before);
}

#[test]
fn directory_that_is_no_store_is_left_as_it_is() {
    let path = tempfile::tempdir().unwrap();
    fs::write(path.path().join("thesis"), "").unwrap();
    let before = listed(path.path());
    let no_store = ConfigError::Store(StoreError::NoStore(path.path().to_owned()));
    assert_eq!(open(path.path()).unwrap_err(), no_store);
    assert_eq!(listed(path.path()), before);
}

#[test]
fn checkpoint_refers_to_no_content_that_is_not_on_disk() {
    for seed in 0..30 {
        let mut machine = Machine::start(SimulatedDisk::new(seed));
        put(machine.fs(), "/a", b"old").unwrap();
        // An attribute makes the record of the write long.
        let (branch, root) = (machine.branch(), Caller::root());
        let name = b"user.long";
        branch
            .setxattr(&root, "/a", true, name, &vec![1; 60_000], XattrFlags::ANY)
            .unwrap();
        machine.fs().sync().unwrap();
        machine.disk.leave_free(0);
        assert_eq!(put(machine.fs(), "/a", b"new"), Err(Errno::ENOSPC));
        let shown = get(machine.fs(), "/a").unwrap();
        machine.disk.leave_free(u64::MAX);
        machine.fs().checkpoint().unwrap();
        drop(branch);
        machine.cut_power();
        assert_eq!(get(machine.fs(), "/a"), Ok(shown), "seed {seed}");
    }
}

/// Returns the records of a store in which there is something of everything.
fn records() -> Vec<Record> {
    let machine = Machine::start(SimulatedDisk::new(1));
    let (fs, branch, root) = (machine.fs(), machine.branch(), Caller::root());
    let name = b"user.name";
    branch.mkdir(&root, "/d", 0o755).unwrap();
    branch.symlink(&root, "a", "/link").unwrap();
    for (path, len) in [("/a", 1), ("/d/b", 9000), ("/c", 300)] {
        put(fs, path, &vec![1; len]).unwrap();
    }
    branch
        .setxattr(&root, "/a", true, name, b"value", XattrFlags::ANY)
        .unwrap();
    let snapshot = fs.snapshot_create(&root, FsCore::MAIN, "s").unwrap();
    branch.link(&root, "/a", "/d/hard").unwrap();
    branch
        .rename(&root, "/d", "/e", RenameFlags::REPLACE)
        .unwrap();
    put(fs, "/e/b", b"new").unwrap();
    branch.unlink(&root, "/c").unwrap();
    fs.branch_create_from_snapshot(&root, snapshot, "b")
        .unwrap();
    fs.snapshot_delete(snapshot).unwrap();
    let mut store = [0; 32];
    let file = machine.disk.open("store").unwrap();
    file.read_at(&mut store, 0).unwrap();
    let place = Place {
        directory: Arc::new(machine.disk.clone()),
        store: StoreId(store[16..].try_into().unwrap()),
        boot: Boot(Some(1_u128.to_le_bytes())),
    };
    let recovery = Recovery::open(place, 1).unwrap();
    let records = recovery.records().map(std::result::Result::unwrap);
    records.collect()
}

/// Reads records as those of a store; returns what they say, or why they make no sense.
fn replay(records: &[Record]) -> std::result::Result<usize, String> {
    let file = SimulatedDisk::new(1).create("content").unwrap();
    let extents = Extents::recovering(file);
    let numbers = Arc::<NodeNumbers>::default();
    let shared = Shared::new(FsConfig::default(), None, numbers, extents, true);
    let mut recovered = Recovered::new(Arc::new(shared));
    for record in records {
        recovered.replay(record).map_err(|why| why.to_string())?;
    }
    let (versions, ..) = recovered.finish().map_err(|why| why.to_string())?;
    Ok(versions.len())
}

#[test]
fn records_that_anybody_may_have_written_are_read_or_refused() {
    let good = records();
    assert_eq!(replay(&good), Ok(2));
    let mut random = Random::new(1);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..12_000 {
        let mut bad = good.clone();
        for _ in 0..random.range(1..4) {
            let record = random.below(bad.len());
            let payload = &mut bad[record].payload;
            if payload.is_empty() {
                continue;
            }
            let at = random.below(payload.len());
            match random.range(0..4) {
                0 => payload[at] ^= 1 << random.range(0..8),
                1 => payload[at] = random.bytes(1)[0],
                2 => drop(payload.drain(at..)),
                _ => {
                    // A number as large as numbers are, or nearly.
                    let large = [&[0xFF; 8][..], &random.pick(&[[0xFF, 1], [0x7F, 0]])].concat();
                    payload.splice(at..=at, large);
                }
            }
        }
        match replay(&bad) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read > 500 && refused > 500, "{read} and {refused}");
}

/// Reads the record of a branch whose tree is what `craft` makes of the directories /a (node 0) and
/// /a/b (node 1).
fn replay_crafted(craft: impl FnOnce(&mut Tree, [NodeId; 2])) -> std::result::Result<Tree, String> {
    let file = SimulatedDisk::new(1).create("content").unwrap();
    let numbers = Arc::<NodeNumbers>::default();
    let extents = Extents::recovering(file);
    let shared = Shared::new(FsConfig::default(), None, numbers, extents, true);
    let shared = Arc::new(shared);
    let mut tree = Tree::new(shared.clone(), 1).unwrap();
    let nodes = [shared.new_node(), shared.new_node()];
    for (above, name, node) in [(NodeId::ROOT, b"a", nodes[0]), (nodes[0], b"b", nodes[1])] {
        let name: Name = Arc::from(&name[..]);
        let mut inode = tree.inode(NodeId::ROOT).unwrap().into_owned();
        inode.body = Body::Dir(Box::default());
        inode.names = Names::One(above, name.clone());
        tree.add(node, inode);
        tree.set_entry(above, &name, node, ObjectKind::Directory)
            .unwrap();
    }
    craft(&mut tree, nodes);
    let mut payload = Vec::new();
    let version = NewVersion {
        id: VersionId::Branch(FsCore::MAIN),
        name: "main",
        from: FsCore::MAIN,
        seq: Seq(1),
        made: None,
        base: None,
        tree: &tree,
    };
    let whole = version.write(usize::MAX, |_, record| {
        payload.extend_from_slice(record.bytes());
        Ok(())
    });
    whole.expect("it goes nowhere");
    let mut recovered = Recovered::new(shared);
    let record = Record {
        number: 1,
        kind: kind::VERSION,
        payload,
    };
    recovered.replay(&record).map_err(|why| why.to_string())?;
    let (mut versions, ..) = recovered.finish().map_err(|why| why.to_string())?;
    Ok(versions.pop_first().unwrap().1.tree)
}

#[test]
fn directory_that_lies_in_itself_or_has_two_names_is_refused() {
    replay_crafted(|_, _| {}).expect("a tree without a fault");
    let cycle = replay_crafted(|tree, [a, b]| {
        let name: Name = Arc::from(&b"a"[..]);
        tree.remove_entry(NodeId::ROOT, &name, false).unwrap();
        tree.set_entry(b, &name, a, ObjectKind::Directory).unwrap();
        tree.inode_mut(a).unwrap().names = Names::One(b, name);
    });
    assert!(
        cycle
            .as_ref()
            .is_err_and(|it| it.contains("lies in itself"))
    );
    let two = |tree: &mut Tree, above, node, is_said| {
        let name: Name = Arc::from(&b"second"[..]);
        tree.set_entry(above, &name, node, ObjectKind::File)
            .unwrap();
        if is_said {
            tree.inode_mut(node).unwrap().names.add(above, name);
        }
    };
    for is_said in [false, true] {
        let again = replay_crafted(|tree, [_, b]| two(tree, NodeId::ROOT, b, is_said));
        assert!(again.is_err_and(|it| it.contains("one name")), "{is_said}");
        let below = replay_crafted(|tree, [a, b]| two(tree, b, a, is_said));
        assert!(below.is_err_and(|it| it.contains("one name")), "{is_said}");
    }
    let root = replay_crafted(|tree, [_, b]| two(tree, b, NodeId::ROOT, false));
    root.expect_err("the root has a name");
}

#[test]
fn too_small_a_link_count_is_corrected() {
    let tree = replay_crafted(|tree, [a, b]| {
        tree.inode_mut(a).unwrap().nlink = 0;
        let inode = tree.inode_mut(b).unwrap();
        inode.nlink = 0;
        inode.body = Body::Fifo;
    });
    let tree = tree.unwrap();
    let links = tree.inodes().iter().map(|(_, inode)| inode.nlink);
    assert_eq!(links.collect::<Vec<_>>(), [2, 2, 1]);
}

#[test]
fn directory_that_lies_in_itself_has_no_path() {
    let place = |node: NodeId| Some((NodeId(1001 - node.0), Arc::from(&b"d"[..])));
    assert_eq!(DirPaths::default().of_placed(NodeId(500), place), None);
}

#[test]
fn checkpoint_that_did_not_end_is_removed_at_opening_and_after_a_full_disk() {
    let path = store();
    let unfinished = path.path().join("next-checkpoint");
    fs::write(&unfinished, [0; 5000]).unwrap();
    drop(open(path.path()).unwrap());
    assert!(!unfinished.exists());

    let machine = Machine::start(SimulatedDisk::new(1));
    put(machine.fs(), "/a", &[7; 9000]).unwrap();
    machine.fs().sync().unwrap();
    machine.disk.leave_free(6 * 4096 + 2048);
    for number in 0..200 {
        let name = format!("/{number}");
        let made = machine.branch().mkdir(&Caller::root(), &name, 0o755);
        if made.is_err() {
            break;
        }
    }
    assert_eq!(machine.fs().checkpoint(), Err(Errno::ENOSPC));
    assert_eq!(
        machine.disk.open("next-checkpoint").err(),
        Some(Errno::ENOENT)
    );
}
