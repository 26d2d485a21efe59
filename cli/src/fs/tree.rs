//! Lists, makes and removes directories.

use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{Entry, FsMkdir, FsReadDir, FsReadLink, FsRmdir, FsStat, FsUnlink};

use super::{EEXIST, ENOENT, Files, errno_of};
use crate::output::Output;
use crate::output::failure::Failure;
use crate::output::{Table, mode_text, time_text};

const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

fn entries(files: &mut Files, path: &Bytes) -> Result<Vec<Entry>, Failure> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map_or(0, |entry| entry.cookie);
        let page = files.op(
            path,
            FsReadDir {
                path: path.clone(),
                after,
            },
        )?;
        all.extend(page.entries);
        if !page.more {
            return Ok(all);
        }
    }
}

fn join(directory: &Bytes, name: &Bytes) -> Bytes {
    let mut path = directory.0.clone();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    Bytes(path)
}

pub(crate) fn list(
    files: &mut Files,
    path: &Bytes,
    long: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let attr = files.stat(path, true)?;
    let mut all = if attr.mode & TYPE == DIRECTORY {
        entries(files, path)?
    } else {
        vec![Entry {
            name: path.clone(),
            cookie: 0,
            attr,
        }]
    };
    all.sort_by(|a, b| a.name.cmp(&b.name));
    if output.is_json() {
        return output.json(&all);
    }
    if !long {
        return all.iter().try_for_each(|entry| {
            let slash = if entry.attr.mode & TYPE == DIRECTORY {
                "/"
            } else {
                ""
            };
            output.line(format_args!("{}{slash}", entry.name))
        });
    }
    let mut table = Table::default();
    for entry in &all {
        let attr = &entry.attr;
        let mut name = entry.name.to_string();
        if attr.mode & TYPE == SYMLINK {
            let link = join(path, &entry.name);
            let target = files.op(&link, FsReadLink { path: link.clone() })?.target;
            name = format!("{name} -> {target}");
        }
        table.row([
            mode_text(attr.mode),
            attr.nlink.to_string(),
            format!("{}:{}", attr.uid, attr.gid),
            attr.size.to_string(),
            time_text(attr.mtime_ns),
            name,
        ]);
    }
    if all.is_empty() {
        Ok(())
    } else {
        output.line(table)
    }
}

/// Makes a directory and those above it.
pub(crate) fn make_all(
    files: &mut Files,
    path: &Bytes,
    mode: u32,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut at = Vec::new();
    for name in path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
    {
        at.push(b'/');
        at.extend_from_slice(name);
        let directory = Bytes(at.clone());
        match files.try_op(FsMkdir {
            path: directory.clone(),
            mode,
        }) {
            Ok(_) => {}
            Err(error) if errno_of(&error) == EEXIST => {
                if files.stat(&directory, true)?.mode & TYPE != DIRECTORY {
                    return Err(Failure::Call(directory.to_string(), error));
                }
            }
            Err(error) => return Err(Failure::Call(directory.to_string(), error)),
        }
    }
    let now = files.stat(path, true)?;
    files.report("made", path, now, output)
}

pub(crate) fn remove(
    files: &mut Files,
    paths: &[Bytes],
    recursive: bool,
    force: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut removed = 0;
    for path in paths {
        match files.try_op(FsStat {
            path: path.clone(),
            follow: false,
        }) {
            Ok(attr) if recursive && attr.mode & TYPE == DIRECTORY => {
                removed += remove_tree(files, path)?;
            }
            Ok(_) => {
                files.op(path, FsUnlink { path: path.clone() })?;
                removed += 1;
            }
            Err(error) if force && errno_of(&error) == ENOENT => {}
            Err(error) => return Err(Failure::Call(path.to_string(), error)),
        }
    }
    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
    let done = serde_json::json!({ "removed": removed });
    files.report("removed", paths.join(" "), done, output)
}

/// Removes a directory and everything in it, without a recursion as deep as the tree.
fn remove_tree(files: &mut Files, root: &Bytes) -> Result<u64, Failure> {
    let mut removed = 0;
    let mut open = vec![root.clone()];
    while let Some(directory) = open.last().cloned() {
        let mut has_subdirectory = false;
        for entry in entries(files, &directory)? {
            let path = join(&directory, &entry.name);
            if entry.attr.mode & TYPE == DIRECTORY {
                open.push(path);
                has_subdirectory = true;
            } else {
                files.op(&path, FsUnlink { path: path.clone() })?;
                removed += 1;
            }
        }
        if !has_subdirectory {
            open.pop();
            files.op(
                &directory,
                FsRmdir {
                    path: directory.clone(),
                },
            )?;
            removed += 1;
        }
    }
    Ok(removed)
}
