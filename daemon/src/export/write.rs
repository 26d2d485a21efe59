//! From a branch to a directory.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use agentfs_core::event::ObjectKind;
use agentfs_core::{ApplyError, ApplyMode, Branch, Caller, Errno, OpenFlags};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{DiffEntry, DiffKind, Exported};

use super::{ExportError, FILES, FORMAT, LIST, List, Object, Stamp, Step, below};

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// Writes what a branch changed to a new directory. `entries` are the differences, in an order in
/// which they can be made.
///
/// # Errors
///
/// [`ExportError`]; what is written by then stays.
pub(crate) fn write(
    branch: &Branch,
    caller: &Caller,
    entries: &[DiffEntry],
    project: &Path,
    directory: &Path,
) -> Result<Exported, ExportError> {
    make_directory(directory).map_err(|error| ExportError::Io(directory.to_owned(), error))?;
    let mut writer = Writer {
        branch,
        caller,
        directory,
        bytes: 0,
    };
    let mut changes = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if entry.kind == DiffKind::TooDeep {
            // There is no path to it: it stays in the branch.
            continue;
        }
        let (earlier, later) = entries.split_at(index);
        let is_rename = entry.kind == DiffKind::Renamed;
        let subject = if is_rename { &entry.from } else { &entry.path };
        let original = original(subject, earlier);
        let before = Stamp::at(&below(project, &original));
        let after = match entry.kind {
            DiffKind::Removed | DiffKind::Renamed | DiffKind::TooDeep => None,
            DiffKind::Added | DiffKind::Content | DiffKind::Attributes => {
                Some(writer.object(entry, &final_path(&entry.path, later))?)
            }
        };
        changes.push(Step {
            change: entry.kind,
            path: entry.path.clone(),
            from: entry.from.clone(),
            mode: entry.mode,
            original,
            before,
            after,
        });
    }
    let list = List {
        format: FORMAT,
        branch: branch.name().to_owned(),
        project: project.into(),
        conflicts: conflicts(branch),
        changes,
    };
    let path = directory.join(LIST);
    let text = serde_json::to_vec_pretty(&list)
        .map_err(|error| ExportError::List(path.clone(), error.to_string()))?;
    create(&path)
        .and_then(|mut file| file.write_all(&text))
        .map_err(|error| ExportError::Io(path, error))?;
    Ok(Exported {
        changes: list.changes.len() as u64,
        bytes: writer.bytes,
    })
}

/// What the host changed since the branch saw it.
fn conflicts(branch: &Branch) -> Vec<Bytes> {
    let paths = match branch.apply(ApplyMode::DryRun) {
        Ok(applied) => applied.conflicts,
        Err(ApplyError::Conflicts(paths)) => paths,
        Err(
            ApplyError::NoLower
            | ApplyError::Host { .. }
            | ApplyError::TooDeep(_)
            | ApplyError::Diff(_),
        ) => Vec::new(),
    };
    let absolute = |path: &std::path::PathBuf| Path::new("/").join(path).as_path().into();
    paths.iter().map(absolute).collect()
}

/// Where a path was before these steps.
fn original(path: &Bytes, earlier: &[DiffEntry]) -> Bytes {
    let mut path = path.clone();
    for entry in earlier
        .iter()
        .rev()
        .filter(|it| it.kind == DiffKind::Renamed)
    {
        if let Some(moved) = moved(&path, &entry.path, &entry.from) {
            path = moved;
        }
    }
    path
}

/// Where a path is after these steps; the first is the path's own.
fn final_path(path: &Bytes, later: &[DiffEntry]) -> Bytes {
    let mut path = path.clone();
    for entry in later
        .iter()
        .skip(1)
        .filter(|it| it.kind == DiffKind::Renamed)
    {
        if let Some(moved) = moved(&path, &entry.from, &entry.path) {
            path = moved;
        }
    }
    path
}

/// The path when what is at `from` moves to `to`, if it moves along.
fn moved(path: &[u8], from: &[u8], to: &[u8]) -> Option<Bytes> {
    let rest = path.strip_prefix(from)?;
    (rest.is_empty() || rest.first() == Some(&b'/')).then(|| Bytes([to, rest].concat()))
}

struct Writer<'a> {
    branch: &'a Branch,
    caller: &'a Caller,
    directory: &'a Path,
    bytes: u64,
}

impl Writer<'_> {
    fn object(&mut self, entry: &DiffEntry, path: &Bytes) -> Result<Object, ExportError> {
        let at = path.as_path();
        let failed = |errno| ExportError::Branch(at.to_owned(), errno);
        let attr = self.branch.lstat(self.caller, at).map_err(failed)?;
        let target = if attr.kind == ObjectKind::Symlink {
            self.branch.readlink(self.caller, at).map_err(failed)?
        } else {
            [].into()
        };
        let is_new = attr.kind == ObjectKind::File && entry.kind != DiffKind::Attributes;
        let content = is_new.then(|| self.content(path)).transpose()?;
        Ok(Object {
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.st_mode(),
            mtime_ns: attr.mtime,
            target: Bytes::from(&*target),
            rdev: attr.rdev,
            xattrs: self.xattrs(attr.node).map_err(failed)?,
            content,
        })
    }

    fn xattrs(&self, node: agentfs_core::id::NodeId) -> Result<Vec<(Bytes, Bytes)>, Errno> {
        let names = match self.branch.listxattr_node(self.caller, node) {
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            other => other?,
        };
        let value = |name: Box<[u8]>| {
            let value = self.branch.getxattr_node(self.caller, node, &name)?;
            Ok((Bytes::from(&*name), Bytes::from(&*value)))
        };
        names.into_iter().map(value).collect()
    }

    /// Copies a file; gives where it is in the directory.
    fn content(&mut self, path: &Bytes) -> Result<Bytes, ExportError> {
        let name = below(Path::new(FILES), path);
        let copy = self.directory.join(&name);
        let failed = |error| ExportError::Io(copy.clone(), error);
        if let Some(parent) = copy.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file = create(&copy).map_err(failed)?;
        let unread = |errno| ExportError::Branch(path.as_path().to_owned(), errno);
        let flags = OpenFlags::from_bits(0);
        let handle = self.branch.open(self.caller, path.as_path(), flags, 0);
        let handle = handle.map_err(unread)?;
        let mut buffer = vec![0; PIECE];
        let mut offset = 0;
        let copied = loop {
            match self
                .branch
                .read_at(self.caller, handle, offset, &mut buffer)
            {
                Ok(0) => break Ok(()),
                Ok(len) => {
                    offset += len as u64;
                    let piece = buffer.get(..len).unwrap_or_default();
                    if let Err(error) = file.write_all(piece) {
                        break Err(failed(error));
                    }
                }
                Err(errno) => break Err(unread(errno)),
            }
        };
        self.bytes += offset;
        let closed = self.branch.close(self.caller, handle).map_err(unread);
        copied.and(closed)?;
        Ok(name.as_path().into())
    }
}

/// Makes it with those above it, for this user alone; it must be new.
fn make_directory(directory: &Path) -> io::Result<()> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(0o700).create(directory)
}

fn create(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
