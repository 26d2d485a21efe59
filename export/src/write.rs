//! Exports a branch: writes what it changed to a new directory of the host.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use agentfs_core::beneath;
use agentfs_core::event::ObjectKind;
use agentfs_core::id::NodeId;
use agentfs_core::{ApplyError, ApplyMode, Branch, Caller, Errno, OpenFlags};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{DiffEntry, DiffKind, Exported, Unread};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::changes::{
    FILES, FORMAT, Identity, LIST, List, Object, PARTS, Stamp, Step, UnreadFile, inside, split,
};
use crate::copy::Copy;
use crate::error::{StepError, StepResult};
use crate::import::target::Target;
use crate::moves::Moves;
use crate::platform::DIRECTORY;
use crate::rename::rename_between;
use crate::{CancelToken, ExportError};

/// How many of the files that could not be read an answer names.
const NAMED: usize = 32;

/// How many bytes of extended attributes the list holds, which is in memory as a whole. Each name of a
/// file repeats them.
const MAX_XATTRS: usize = 64 << 20;

/// The directory below a branch, to which the changes are to be applied later.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Empty when there is none.
    pub project: &'a Path,
    /// Which directory that was when the branch was made.
    pub identity: Option<Identity>,
}

/// Writes what a branch changed to a new directory, which gets its name when everything is in it.
/// `entries` are the differences, in an order in which they can be applied. A file that cannot be read
/// is left out, and the answer names it.
///
/// # Errors
///
/// [`ExportError`]. Nothing is left of what was written then.
pub fn write(
    branch: &Branch,
    caller: &Caller,
    entries: &[DiffEntry],
    origin: Origin<'_>,
    directory: &Path,
    stop: &CancelToken,
) -> Result<Exported, ExportError> {
    let failed = |error| ExportError::Io(directory.to_owned(), error);
    let partial = Partial::beside(directory).map_err(failed)?;
    let mut writer = Writer {
        branch,
        caller,
        partial: &partial,
        stop,
        bytes: 0,
        unread: Vec::new(),
        contents: HashMap::new(),
        xattr_bytes: 0,
    };
    let list = writer.list(entries, origin)?;
    let changes = list.changes.len() as u64;
    let text = serde_json::to_vec_pretty(&list)
        .map_err(|error| ExportError::List(directory.join(LIST), error.to_string()))?;
    let written = partial.create(LIST.as_bytes()).and_then(|mut file| {
        file.write_all(&text)?;
        partial.finish(directory)
    });
    written.map_err(failed)?;
    let unread = list.unread;
    let name = |it: &UnreadFile| Unread {
        path: it.path.clone(),
        why: it.why.clone(),
    };
    Ok(Exported {
        changes,
        bytes: writer.bytes,
        unread_count: unread.len() as u64,
        unread: unread.iter().take(NAMED).map(name).collect(),
    })
}

/// The directory while it is written. It is removed when this value is dropped, unless it is
/// [finished](Self::finish).
#[derive(Debug)]
struct Partial {
    root: OwnedFd,
    path: PathBuf,
}

impl Partial {
    fn beside(directory: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if directory.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent)?;
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut path = directory.as_os_str().to_owned();
        path.push(format!(".partial-{}-{count}", std::process::id()));
        let path = PathBuf::from(path);
        rustix::fs::mkdirat(CWD, &path, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { root, path })
    }

    /// Creates a new file for this user alone, and the directories above it.
    fn create(&self, path: &[u8]) -> io::Result<File> {
        let (parent, name) = split(path);
        let dir = self.directory(parent)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&dir, name, flags | OFlags::CLOEXEC, mode)?;
        Ok(file.into())
    }

    fn directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        match beneath::open(&self.root, path, DIRECTORY) {
            Err(rustix::io::Errno::NOENT) => {}
            result => return Ok(result?),
        }
        let (parent, name) = split(path);
        let parent = self.directory(parent)?;
        rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
        Ok(beneath::open(&parent, name, DIRECTORY)?)
    }

    fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let ((from_dir, from), (to_dir, to)) = (split(from), split(to));
        let (from_dir, to_dir) = (self.directory(from_dir)?, self.directory(to_dir)?);
        Ok(rustix::fs::renameat(from_dir, from, to_dir, to)?)
    }

    fn remove(&self, path: &[u8]) -> io::Result<()> {
        let (dir, name) = split(path);
        let dir = self.directory(dir)?;
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
    }

    /// Renames the finished directory to its own name, which must be free.
    fn finish(&self, directory: &Path) -> io::Result<()> {
        use rustix::io::Errno;
        let (from, to) = (&self.path, directory.as_os_str());
        match rename_between(CWD, from.as_os_str().as_bytes(), CWD, to.as_bytes()) {
            // The filesystem cannot do it in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP)
                if directory.symlink_metadata().is_err() =>
            {
                fs::rename(from, directory)
            }
            result => Ok(result?),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "part of an export stays behind");
            }
            _ => {}
        }
    }
}

/// Returns the paths that the host changed since the branch saw them.
fn conflicts(branch: &Branch, entries: &[DiffEntry]) -> Vec<Bytes> {
    let absolute = |path: &PathBuf| Path::new("/").join(path).as_path().into();
    match branch.apply(ApplyMode::DryRun) {
        Ok(applied) => applied.conflicts.iter().map(absolute).collect(),
        Err(ApplyError::Conflicts(paths)) => paths.iter().map(absolute).collect(),
        Err(ApplyError::NoLower) => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, branch = branch.name(), "conflicts cannot be told from changes");
            entries.iter().map(|it| it.path.clone()).collect()
        }
    }
}

/// Returns the directories that hold something which no path leads to, and which stays in the branch.
fn too_deep(entries: &[DiffEntry]) -> impl Iterator<Item = UnreadFile> {
    let all = entries.iter().filter(|it| it.kind == DiffKind::TooDeep);
    all.map(|entry| UnreadFile {
        path: entry.path.clone(),
        why: "what changed in here lies deeper than a path can lead (4,095 bytes)".to_owned(),
        parts: None,
    })
}

/// Returns the renames among the differences.
fn moves_of(entries: &[DiffEntry]) -> Moves<'_> {
    let mut moves = Moves::default();
    for (index, entry) in entries.iter().enumerate() {
        if entry.kind == DiffKind::Renamed {
            moves.add(index, &entry.from, &entry.path);
        }
    }
    moves
}

struct Writer<'a> {
    branch: &'a Branch,
    caller: &'a Caller,
    partial: &'a Partial,
    stop: &'a CancelToken,
    bytes: u64,
    unread: Vec<UnreadFile>,
    /// Where the contents of files with several names are.
    contents: HashMap<NodeId, Bytes>,
    xattr_bytes: usize,
}

/// What became of the content of a file.
enum Content {
    Whole(Bytes),
    /// Not all of it could be read, and the file is in the list of those.
    Unread,
}

impl Writer<'_> {
    fn list(&mut self, entries: &[DiffEntry], origin: Origin<'_>) -> Result<List, ExportError> {
        let target = Target::open(origin.project).ok();
        // Another directory at its place says nothing about what the branch was made from.
        let target = target.filter(|it| it.identity().ok() == origin.identity);
        let moves = moves_of(entries);
        let mut changes = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            self.stop.check()?;
            let is_rename = entry.kind == DiffKind::Renamed;
            let subject = if is_rename { &entry.from } else { &entry.path };
            let original = moves.back(subject, index);
            let after = match entry.kind {
                // No path leads to the object. It is named below.
                DiffKind::TooDeep => continue,
                DiffKind::Removed | DiffKind::Renamed => None,
                DiffKind::Added | DiffKind::Content | DiffKind::Attributes => {
                    let path = moves.on(&entry.path, index);
                    match self.object(entry, &path)? {
                        Some(object) => Some(object),
                        None => continue,
                    }
                }
            };
            changes.push(Step {
                change: entry.kind,
                path: entry.path.clone(),
                from: entry.from.clone(),
                mode: entry.mode,
                before: target.as_ref().and_then(|it| stamp_at(it, &original)),
                original,
                after,
            });
        }
        let mut unread = std::mem::take(&mut self.unread);
        let mut conflicts = conflicts(self.branch, entries);
        let unreadable: HashSet<&[u8]> = unread.iter().map(|it| &*it.path).collect();
        conflicts.retain(|path| !unreadable.contains(&**path));
        unread.extend(too_deep(entries));
        Ok(List {
            format: FORMAT,
            branch: self.branch.name().to_owned(),
            project: origin.project.into(),
            identity: origin.identity,
            conflicts,
            changes,
            unread,
        })
    }

    /// Returns what an object is in the branch. One that cannot be read, or that the export cannot hold,
    /// is `None`; it is named in the list, and the others are exported.
    fn object(&mut self, entry: &DiffEntry, path: &Bytes) -> Result<Option<Object>, ExportError> {
        let why = match self.read_object(entry, path) {
            Err(StepError::Other(ExportError::Branch(_, errno))) => reason(errno),
            Err(StepError::Io(error)) if is_of_one_file(&error) => {
                format!("the directory of the export cannot hold it: {error}")
            }
            other => return other.map_err(|error| error.at(self.partial.path.clone())),
        };
        self.unread.push(UnreadFile {
            path: path.clone(),
            why,
            parts: None,
        });
        Ok(None)
    }

    fn read_object(&mut self, entry: &DiffEntry, path: &Bytes) -> StepResult<Option<Object>> {
        let at = path.as_path();
        let failed = |errno| ExportError::Branch(at.to_owned(), errno);
        let attr = self.branch.lstat(self.caller, at).map_err(failed)?;
        let target = if attr.kind == ObjectKind::Symlink {
            self.branch.readlink(self.caller, at).map_err(failed)?
        } else {
            [].into()
        };
        let is_new = attr.kind == ObjectKind::File && entry.kind != DiffKind::Attributes;
        let xattrs = self.xattrs(attr.node).map_err(failed)?;
        let sizes = xattrs.iter().map(|(name, value)| name.len() + value.len());
        let xattr_bytes = self.xattr_bytes + sizes.sum::<usize>();
        if xattr_bytes > MAX_XATTRS {
            self.xattr_bytes = xattr_bytes;
            return Err(ExportError::Branch(at.to_owned(), Errno::E2BIG).into());
        }
        let known = self.contents.get(&attr.node).filter(|_| is_new).cloned();
        let content = match known {
            Some(content) => Some(content),
            None => match is_new.then(|| self.content(path)).transpose()? {
                Some(Content::Unread) => return Ok(None),
                Some(Content::Whole(content)) => Some(content),
                None => None,
            },
        };
        if let Some(content) = content.as_ref().filter(|_| attr.nlink > 1) {
            self.contents.insert(attr.node, content.clone());
        }
        self.xattr_bytes = xattr_bytes;
        Ok(Some(Object {
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.st_mode(),
            mtime_ns: attr.mtime,
            target: Bytes::from(&*target),
            rdev: attr.rdev,
            xattrs,
            content,
        }))
    }

    fn xattrs(&self, node: NodeId) -> Result<Vec<(Bytes, Bytes)>, Errno> {
        let names = match self.branch.listxattr_node(self.caller, node) {
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            other => other?,
        };
        if self.xattr_bytes > MAX_XATTRS && !names.is_empty() {
            return Err(Errno::E2BIG);
        }
        let value = |name: Box<[u8]>| {
            let value = self.branch.getxattr_node(self.caller, node, &name)?;
            Ok((Bytes::from(&*name), Bytes::from(&*value)))
        };
        names.into_iter().map(value).collect()
    }

    /// Copies the content of a file.
    fn content(&mut self, path: &Bytes) -> StepResult<Content> {
        let unread = |errno| ExportError::Branch(path.as_path().to_owned(), errno);
        let relative = inside(path).ok_or_else(|| unread(Errno::EINVAL))?;
        let name = [FILES.as_bytes(), b"/", relative].concat();
        let file = self.partial.create(&name)?;
        let flags = OpenFlags::from_bits(0);
        let handle = self.branch.open(self.caller, path.as_path(), flags, 0);
        let handle = match handle {
            Ok(handle) => handle,
            Err(errno) => {
                self.partial.remove(&name)?;
                return Err(unread(errno).into());
            }
        };
        let mut copy = Copy {
            branch: self.branch,
            caller: self.caller,
            stop: self.stop,
            handle,
            file,
            bytes: 0,
            missing: None,
        };
        let copied = copy.all();
        let closed = self.branch.close(self.caller, handle);
        let copied = copied.and(closed.map_err(|errno| unread(errno).into()));
        if copied.is_err() {
            self.partial.remove(&name)?;
        }
        copied?;
        self.bytes += copy.bytes;
        let Some(errno) = copy.missing else {
            return Ok(Content::Whole(as_bytes(&name)));
        };
        let parts = [PARTS.as_bytes(), b"/", relative].concat();
        self.partial.rename(&name, &parts)?;
        self.unread.push(UnreadFile {
            path: path.clone(),
            why: reason(errno),
            parts: Some(as_bytes(&parts)),
        });
        Ok(Content::Unread)
    }
}

/// Returns whether an error is about one file and says nothing about the next one.
fn is_of_one_file(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::FBIG | rustix::io::Errno::NAMETOOLONG)
    )
}

fn as_bytes(path: &[u8]) -> Bytes {
    Path::new(OsStr::from_bytes(path)).into()
}

fn stamp_at(target: &Target, path: &Bytes) -> Option<Stamp> {
    let found = target.look(inside(path)?).ok().flatten();
    found.map(|it| it.stamp())
}

/// Returns why a file of a branch cannot be read, for people.
fn reason(errno: Errno) -> String {
    if errno == Errno::ESTALE {
        return "the project's file was changed or removed after the branch had changed a part of \
                it, or its name or attributes, and the rest of what the branch showed is gone"
            .to_owned();
    }
    if errno == Errno::E2BIG {
        return "the list of the export cannot hold its extended attributes: there are more than 64 \
                MiB of them"
            .to_owned();
    }
    errno.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentfs_core::{FsConfig, FsCore, XattrFlags};

    #[test]
    fn what_the_names_of_one_file_share_is_not_exported_for_each_without_bound() {
        const LINKS: usize = 1500;
        const XATTR: usize = 60_000;
        let (core, root) = (FsCore::new(FsConfig::default()).unwrap(), Caller::root());
        let main = core.branch(FsCore::MAIN).unwrap();
        let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
        let file = main.open(&root, "/n0", flags, 0o644).unwrap();
        main.write(&root, file, b"content").unwrap();
        main.close(&root, file).unwrap();
        let (value, flags) = (vec![7; XATTR], XattrFlags::from_bits(0));
        main.setxattr(&root, "/n0", true, b"user.large", &value, flags)
            .unwrap();
        let mut entries = Vec::new();
        for number in 0..LINKS {
            let path = format!("/n{number}");
            if number > 0 {
                main.link(&root, "/n0", &path).unwrap();
            }
            entries.push(DiffEntry {
                kind: DiffKind::Added,
                mode: 0o100_644,
                size: 7,
                path: path.as_bytes().into(),
                from: Bytes::default(),
            });
        }
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("export");
        let origin = Origin {
            project: Path::new(""),
            identity: None,
        };
        let stop = CancelToken::default();
        let exported = write(&main, &root, &entries, origin, &directory, &stop).unwrap();
        assert_eq!(exported.bytes, 7, "the content is exported once");
        let in_list = usize::try_from(exported.changes).unwrap();
        assert!(in_list * XATTR <= MAX_XATTRS && (in_list + 2) * XATTR > MAX_XATTRS);
        assert_eq!(exported.unread_count + exported.changes, LINKS as u64);
        assert!(exported.unread[0].why.contains("extended attributes"));
        assert_eq!(fs::read_dir(directory.join(FILES)).unwrap().count(), 1);
    }
}
