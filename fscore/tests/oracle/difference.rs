//! Checks the difference of two versions: it turns the names of one into those of the other, and
//! names the nodes that a comparison of everything finds different.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use agentfs_core::event::ObjectKind;
use agentfs_core::id::NodeId;
use agentfs_core::{Caller, FsCore, PathChange, RenameFlags, Version};
use agentfs_testkit::fs_oracle::op::{Answer, Time};
use agentfs_testkit::fs_oracle::walk::Seen;

use crate::branches::names_of;
use crate::fscore::filesystem;
use crate::replica::Names;

/// Everything that `Modified` can report, by node.
pub(crate) type Contents = BTreeMap<NodeId, Vec<Answer>>;

pub(crate) fn contents(names: &Names, seen: &[Seen]) -> Contents {
    let mut contents = Contents::new();
    let mut done = BTreeMap::new();
    for one in seen {
        let path = Path::new(one.path).as_os_str().as_bytes();
        let root = (ObjectKind::Directory, NodeId::ROOT);
        let known = if path == b"/" {
            Some(root)
        } else {
            names.get(path).copied()
        };
        let Some((kind, node)) = known else { continue };
        if *done.entry(node).or_insert(path) != path {
            continue;
        }
        let answer = match &one.answer {
            Answer::Attr(attr) => {
                // A change of an object's names is no modification, and times that the clock set
                // are not distinguished.
                let mut attr = attr.clone();
                (attr.inode, attr.nlink, attr.blocks) = (0, 0, 0);
                attr.atime = Time::Clock;
                attr.mtime = Time::Clock;
                if kind.is_dir() {
                    attr.size = 0;
                }
                Answer::Attr(attr)
            }
            Answer::Names(_) if kind == ObjectKind::Directory => Answer::Done,
            other => other.clone(),
        };
        contents.entry(node).or_default().push(answer);
    }
    contents
}

/// Returns the nodes that both versions name and that are not the same.
pub(crate) fn differing(old: &Contents, new: &Contents) -> Vec<NodeId> {
    new.iter()
        .filter(|(node, content)| old.get(node).is_some_and(|before| before != *content))
        .map(|(node, _)| *node)
        .collect()
}

/// Carries out one difference in a set of names.
pub(crate) fn make(
    names: &mut Names,
    change: &PathChange,
    modified: &mut Vec<NodeId>,
) -> Result<(), String> {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let has_dir = |names: &Names, path: &Path| {
        let dir = path.parent().map_or_else(Vec::new, bytes);
        dir == b"/" || names.get(&dir).is_some_and(|(kind, _)| kind.is_dir())
    };
    match change {
        PathChange::Added { path, node, kind } => {
            if !has_dir(names, path) {
                return Err("no directory".into());
            }
            match names.insert(bytes(path), (*kind, *node)) {
                Some(_) => Err("the name is taken".into()),
                None => Ok(()),
            }
        }
        PathChange::Removed { path, node, kind } => {
            let below = [bytes(path), b"/".to_vec()].concat();
            if names.keys().any(|name| name.starts_with(&below)) {
                return Err("the directory is not empty".into());
            }
            match names.remove(&bytes(path)) {
                Some(was) if was == (*kind, *node) => Ok(()),
                was => Err(format!("there was {was:?}")),
            }
        }
        PathChange::Renamed {
            from,
            to,
            node,
            kind,
        } => {
            if !has_dir(names, to) || names.contains_key(&bytes(to)) {
                return Err("the new name is not free, or in no directory".into());
            }
            let (from, to) = (bytes(from), bytes(to));
            if names.get(&from) != Some(&(*kind, *node)) {
                return Err("another object, or none, has the old name".into());
            }
            let below = [&from[..], b"/"].concat();
            let moved: Vec<Vec<u8>> = names
                .keys()
                .filter(|name| **name == from || name.starts_with(&below))
                .cloned()
                .collect();
            for name in moved {
                if let Some(what) = names.remove(&name) {
                    names.insert([&to, &name[from.len()..]].concat(), what);
                }
            }
            Ok(())
        }
        PathChange::Modified { node, differs, .. } => {
            // Of times, only those that were set to something else can be seen here.
            if differs.content || differs.mode || differs.owner || differs.xattrs {
                modified.push(*node);
            }
            Ok(())
        }
    }
}

#[test]
fn a_file_that_takes_the_name_of_the_directory_it_was_in_is_told_in_order() {
    let (fs, root) = (filesystem(None), Caller::root());
    let branch = fs.branch(FsCore::MAIN).unwrap();
    branch.mkdir(&root, "/d", 0o755).unwrap();
    branch.mknod(&root, "/d/f", 0o100_644, 0).unwrap();
    let old = fs.snapshot_create(&root, branch.id(), "").unwrap();
    let mut names = names_of(&branch);
    branch
        .rename(&root, "/d/f", "/f", RenameFlags::REPLACE)
        .unwrap();
    branch.rmdir(&root, "/d").unwrap();
    branch
        .rename(&root, "/f", "/d", RenameFlags::REPLACE)
        .unwrap();
    let new = Version::Branch(branch.id());
    for difference in fs.diff(Version::Snapshot(old), new).unwrap() {
        make(&mut names, &difference, &mut Vec::new()).unwrap();
    }
    assert_eq!(names, names_of(&branch));
}
