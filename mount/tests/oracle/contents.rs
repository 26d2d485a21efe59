//! What a whole mount shows, to be compared with what it shows after a restart.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// How much of a file is read: the generator writes to the first megabytes, or very far out.
const READ: usize = 3 << 20;

/// What is seen of one object.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Object {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    blocks: u64,
    device: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: u64,
}

/// Returns all objects below a directory by their paths.
pub(crate) fn of(point: &Path) -> BTreeMap<PathBuf, Object> {
    let mut all = BTreeMap::new();
    let mut open = vec![point.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let object = Object::at(&path);
            if object.mode & libc::S_IFMT == libc::S_IFDIR {
                open.push(path.clone());
            }
            all.insert(path.strip_prefix(point).unwrap().to_owned(), object);
        }
    }
    all
}

impl Object {
    fn at(path: &Path) -> Self {
        let found = path.symlink_metadata().unwrap();
        let mut content = DefaultHasher::new();
        match found.mode() & libc::S_IFMT {
            libc::S_IFREG => {
                let mut start = vec![0; READ];
                let read = File::open(path).unwrap().read_at(&mut start, 0).unwrap();
                start[..read].hash(&mut content);
            }
            libc::S_IFLNK => fs::read_link(path).unwrap().hash(&mut content),
            _ => {}
        }
        Self {
            inode: found.ino(),
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            links: found.nlink(),
            size: found.size(),
            blocks: found.blocks(),
            device: found.rdev(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            content: content.finish(),
        }
    }
}

/// Compares, and names what differs.
#[track_caller]
pub(crate) fn assert_same(expected: &BTreeMap<PathBuf, Object>, got: &BTreeMap<PathBuf, Object>) {
    assert!(!expected.is_empty(), "nothing is there to be compared");
    for (path, object) in expected {
        assert_eq!(Some(object), got.get(path), "{}", path.display());
    }
    let more: Vec<&PathBuf> = got
        .keys()
        .filter(|it| !expected.contains_key(*it))
        .collect();
    assert!(more.is_empty(), "{more:?}");
}
