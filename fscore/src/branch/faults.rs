//! What was done to the files of a store behind its back, and what a disk does at a bad moment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::fs::FsCore;
use super::histories::Machine;
use crate::disk::simulated::SimulatedDisk;
use crate::model::caller::Caller;
use crate::model::config::{BackstoreMode, ConfigError, FsConfig};
use crate::model::errno::{Errno, Result};
use crate::model::flags::{OpenFlags, XattrFlags};
use crate::model::store_error::StoreError;

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
            .setxattr(&root, "/a", true, name, &[1; 60_000], XattrFlags::ANY)
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
