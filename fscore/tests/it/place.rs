//! Tests whether a filesystem notices that its lower directory is no longer at its path.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use agentfs_core::{FsConfig, FsCore, Overlay, Place};
use tempfile::TempDir;

fn over(directory: &TempDir) -> FsCore {
    let lower = directory.path().canonicalize().unwrap().join("lower");
    fs::create_dir(&lower).unwrap();
    let overlay = Some(Overlay { lower });
    FsCore::new(FsConfig {
        overlay,
        ..FsConfig::default()
    })
    .unwrap()
}

#[track_caller]
fn place(core: &FsCore) -> Place {
    core.lower_place().unwrap().place
}

#[test]
fn a_directory_that_is_where_it_was_has_the_numbers_of_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let core = over(&directory);
    let found = core.lower_place().unwrap();
    let there = fs::metadata(&found.path).unwrap();
    assert_eq!((found.device, found.inode), (there.dev(), there.ino()));
    assert_eq!(found.place, Place::InPlace);
    assert_eq!(
        FsCore::new(FsConfig::default()).unwrap().lower_place(),
        None
    );
}

#[test]
fn one_that_was_moved_is_elsewhere_until_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let core = over(&directory);
    let path = core.lower_place().unwrap().path;
    let moved = path.with_file_name("moved");
    fs::rename(&path, &moved).unwrap();
    let elsewhere = Place::Elsewhere(Some(moved.clone()));
    assert_eq!(place(&core), elsewhere);
    fs::create_dir(&path).unwrap();
    assert_eq!(place(&core), elsewhere, "another directory is no answer");
    fs::remove_dir(&path).unwrap();
    fs::rename(&moved, &path).unwrap();
    assert_eq!(place(&core), Place::InPlace);
}

/// ext4 gives the number of a directory that is gone to the next one, and at once.
#[test]
fn one_that_is_made_anew_at_its_path_is_not_it() {
    let directory = tempfile::tempdir().unwrap();
    let core = over(&directory);
    let before = core.lower_place().unwrap();
    for _ in 0..10 {
        fs::remove_dir(&before.path).unwrap();
        assert_eq!(place(&core), Place::Deleted);
        fs::create_dir(&before.path).unwrap();
        assert_ne!(fs::metadata(&before.path).unwrap().ino(), before.inode);
        assert_eq!(place(&core), Place::Deleted);
    }
}
