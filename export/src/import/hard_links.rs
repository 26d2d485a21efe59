//! Files that have several names in a project.

use std::collections::{HashMap, HashSet};

use agentfs_core::beneath;
use rustix::fs::{Dir, FileType, OFlags};

use crate::cancel::CancelToken;
use crate::error::StepResult;
use crate::import::target::{Target, number};

/// The paths of files, by their inode numbers.
pub(crate) type Names = HashMap<u64, Vec<Vec<u8>>>;

/// Returns the names of these files. The whole project is searched, but for directories that cannot be
/// read.
pub(crate) fn find(target: &Target, files: &HashSet<u64>, stop: &CancelToken) -> StepResult<Names> {
    let mut names = Names::new();
    let mut open: Vec<Vec<u8>> = vec![Vec::new()];
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    while let Some(directory) = open.pop() {
        stop.check()?;
        let Ok(opened) = beneath::open_on_mount(target.root(), &directory, flags) else {
            continue;
        };
        for entry in Dir::new(opened)?.filter_map(Result::ok) {
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let mut path = directory.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let is_wanted = files.contains(&number(entry.ino()));
            match entry.file_type() {
                FileType::Directory => open.push(path),
                FileType::RegularFile if is_wanted => {
                    names.entry(number(entry.ino())).or_default().push(path);
                }
                FileType::Unknown => match target.look(&path) {
                    Ok(Some(found)) if found.is_dir() => open.push(path),
                    Ok(Some(found)) if found.is_file() && files.contains(&found.ino) => {
                        names.entry(found.ino).or_default().push(path);
                    }
                    _ => {}
                },
                FileType::RegularFile
                | FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice => {}
            }
        }
    }
    Ok(names)
}
