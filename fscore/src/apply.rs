//! Bringing what a branch changed onto the host directory below it.
//!
//! Each file arrives whole: it is written beside its place under a temporary name, synchronised, and
//! renamed over it. Before anything is written, everything that would be touched is compared with
//! what the branch saw: what the host changed in the meantime is a conflict.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};

use crate::attr::Attr;
use crate::beneath;
use crate::branch::{Branch, now};
use crate::content::Stamp;
use crate::diff::{Named, Step, steps};
use crate::errno::{Errno, Result};
use crate::event::ObjectKind;
use crate::id::NodeId;
use crate::inode::{Body, Inode};
use crate::lower::{Lower, split};
use crate::tree::Tree;

/// How [`Branch::apply`] shall go about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyMode {
    /// Only say what would be done.
    DryRun,
    /// Do it, unless something conflicts.
    Refuse,
    /// Do it, also where the host changed what the branch changed.
    Force,
}

/// One thing to do on the host. Paths are relative to the lower directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A new directory, link or special file.
    Create(PathBuf, ObjectKind),
    /// A file, written whole.
    Write(PathBuf),
    /// Permissions, owner, times and extended attributes.
    SetAttributes(PathBuf),
    /// A name moves.
    Rename(PathBuf, PathBuf),
    /// A name goes away.
    Remove(PathBuf, ObjectKind),
}

/// What applying did, or would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// In the order in which it is done.
    pub actions: Vec<Action>,
    /// What the host changed since the branch saw it.
    pub conflicts: Vec<PathBuf>,
}

/// Why nothing, or not everything, was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ApplyError {
    /// There is no lower directory.
    NoLower,
    /// The host changed what the branch changed; nothing was done.
    Conflicts(Vec<PathBuf>),
    /// The host refused; what comes before in the list of a dry run is done.
    Host {
        /// What was being done.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// The difference could not be found.
    Diff(Errno),
}

impl std::fmt::Display for ApplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoLower => {
                f.write_str("there is no lower directory; set overlay in the FsConfig")
            }
            Self::Conflicts(paths) => {
                let first = paths.first().cloned().unwrap_or_default();
                let more = paths.len().saturating_sub(1);
                let first = first.display();
                write!(
                    f,
                    "the host changed {first} and {more} more since the branch saw them; \
                     force it or resolve them in the branch"
                )
            }
            Self::Host { path, errno } => write!(f, "{}: {errno}", path.display()),
            Self::Diff(errno) => write!(f, "the changes of the branch cannot be read: {errno}"),
        }
    }
}

impl std::error::Error for ApplyError {}

fn relative(bytes: &[u8]) -> Vec<u8> {
    bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec()
}

fn display(path: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(path.to_vec()))
}

impl Branch {
    /// Brings what the branch changed onto the host directory, and lets it show through from there:
    /// the branch looks the same afterwards and holds nothing of its own. Operations on the branch
    /// wait meanwhile.
    ///
    /// The host directory is below all branches: what they have not touched shows what is applied.
    /// A snapshot that shows part of a file which is replaced on the host cannot read that part any
    /// more (`ESTALE`). Owner and group are only brought over where this process may set them.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; with [`ApplyMode::Refuse`] conflicts, before anything is done.
    pub fn apply(&self, mode: ApplyMode) -> Result<Applied, ApplyError> {
        let shared = self.core.shared.clone();
        let lower = shared.lower.as_ref().ok_or(ApplyError::NoLower)?;
        let mut state = self.inner.write();
        let new = state.tree.without_orphans();
        let old = Tree::new(shared.clone(), now()).map_err(ApplyError::Diff)?;
        let steps = steps(&old, &new).map_err(ApplyError::Diff)?;
        let mut job = Job {
            lower,
            old: &old,
            new: &new,
            made: HashMap::new(),
        };
        let result = Applied {
            actions: steps.iter().filter_map(|step| job.action(step)).collect(),
            conflicts: job.conflicts(&steps),
        };
        match mode {
            ApplyMode::DryRun => return Ok(result),
            ApplyMode::Refuse if !result.conflicts.is_empty() => {
                return Err(ApplyError::Conflicts(result.conflicts));
            }
            ApplyMode::Refuse | ApplyMode::Force => {}
        }
        let done = steps.iter().try_for_each(|step| job.run(step));
        let done = done.and_then(|()| job.stamp_dirs());
        let made = job.made;
        match done.and_then(|()| Tree::new(shared.clone(), now()).map_err(ApplyError::Diff)) {
            Ok(mut fresh) => {
                for (node, linkable) in state.tree.orphans().iter() {
                    if let Ok(inode) = state.tree.inode(NodeId(node)) {
                        fresh.add(NodeId(node), inode.into_owned());
                        fresh.set_orphan(NodeId(node), *linkable);
                    }
                }
                state.tree = fresh;
                Ok(result)
            }
            Err(error) => {
                for (node, stamp) in made {
                    state.tree.rebase(node, stamp);
                }
                Err(error)
            }
        }
    }
}

struct Job<'a> {
    lower: &'a Lower,
    /// What an untouched branch shows: the host as it is.
    old: &'a Tree,
    new: &'a Tree,
    /// What was written to the host already.
    made: HashMap<NodeId, Stamp>,
}

impl Job<'_> {
    fn path_of(&self, node: NodeId) -> Option<Vec<u8>> {
        let inode = self.new.inode(node).ok()?;
        let (dir, name) = inode.names.first()?;
        let mut path = self.new.dir_path(dir)?;
        path.push(b'/');
        path.extend_from_slice(name);
        Some(relative(&path))
    }

    fn action(&self, step: &Step) -> Option<Action> {
        let path = |named: &Named| display(&relative(&named.path()));
        Some(match step {
            Step::Added(named) => {
                let kind = self.new.inode(named.node).ok()?.kind();
                if kind == ObjectKind::File {
                    Action::Write(path(named))
                } else {
                    Action::Create(path(named), kind)
                }
            }
            Step::Removed(named) => {
                Action::Remove(path(named), self.old.inode(named.node).ok()?.kind())
            }
            Step::Renamed(from, to) => Action::Rename(path(from), path(to)),
            Step::Modified(node, differs) if differs.content => {
                Action::Write(display(&self.path_of(*node)?))
            }
            Step::Modified(node, _) => Action::SetAttributes(display(&self.path_of(*node)?)),
        })
    }

    /// What the branch changed or took away must be what it saw, and what it made must not be in the
    /// way of something it never saw.
    fn conflicts(&self, steps: &[Step]) -> Vec<PathBuf> {
        let mut conflicts: Vec<PathBuf> = steps
            .iter()
            .filter_map(|step| {
                let (node, path) = match step {
                    Step::Removed(named) => (named.node, relative(&named.path())),
                    Step::Renamed(_, to) => (to.node, relative(&to.path())),
                    Step::Modified(node, _) => (*node, self.path_of(*node)?),
                    // Made by the branch, unless the host removed what the branch changed.
                    Step::Added(named) => {
                        self.new.seen().get(named.node.0)?;
                        (named.node, relative(&named.path()))
                    }
                };
                (!self.is_as_seen(node)).then(|| display(&path))
            })
            .collect();
        conflicts.sort();
        conflicts.dedup();
        conflicts
    }

    fn is_as_seen(&self, node: NodeId) -> bool {
        if node == NodeId::ROOT {
            return true;
        }
        let seen = self.new.seen().get(node.0);
        let now = self.lower.inode(node).ok().map(|inode| inode.stamp());
        seen.is_some() && seen.copied() == now
    }

    fn run(&mut self, step: &Step) -> Result<(), ApplyError> {
        let path = match step {
            Step::Added(named) | Step::Removed(named) | Step::Renamed(_, named) => {
                relative(&named.path())
            }
            Step::Modified(node, _) => self.path_of(*node).unwrap_or_default(),
        };
        let done = match step {
            Step::Added(named) => self.add(&path, named),
            Step::Removed(named) => self.remove(&path, named),
            Step::Renamed(from, to) => self.rename(from, to),
            Step::Modified(node, differs) if differs.content => self.rewrite(*node),
            Step::Modified(node, _) => self.set_attributes(&path, *node),
        };
        done.map_err(|errno| ApplyError::Host {
            path: display(&path),
            errno,
        })
    }

    /// A new object, or a further name of one that the host has.
    fn add(&mut self, path: &[u8], named: &Named) -> Result<()> {
        let on_host = self.made.contains_key(&named.node) || self.old.inode(named.node).is_ok();
        match self
            .lower
            .path_of(named.node)
            .filter(|_| on_host && !named.is_dir)
        {
            Some(existing) => self.link(&existing, path)?,
            None => self.make(path, named.node)?,
        }
        let stamp = self.lower.adopt(named.node, named.dir, &named.name)?;
        self.made.insert(named.node, stamp);
        Ok(())
    }

    /// New content, under all names of the file.
    fn rewrite(&mut self, node: NodeId) -> Result<()> {
        let names = self.new.inode(node)?.names.all();
        let mut first: Option<Vec<u8>> = None;
        for (dir, name) in names {
            let mut path = self.new.dir_path(dir).ok_or(Errno::ESTALE)?;
            path.push(b'/');
            path.extend_from_slice(&name);
            let path = relative(&path);
            match &first {
                Some(first) => self.link(first, &path)?,
                None => self.make(&path, node)?,
            }
            let stamp = self.lower.adopt(node, dir, &name)?;
            self.made.insert(node, stamp);
            first.get_or_insert(path);
        }
        Ok(())
    }

    /// Makes `path` a name of the file at `existing`, over what is there.
    fn link(&self, existing: &[u8], path: &[u8]) -> Result<()> {
        let ((from_dir, from), (to_dir, to)) = (split(existing), split(path));
        let (from_dir, to_dir) = (self.dir(from_dir)?, self.dir(to_dir)?);
        let temporary = temporary(to);
        rustix::fs::linkat(&from_dir, from, &to_dir, &*temporary, AtFlags::empty())?;
        Ok(rustix::fs::renameat(&to_dir, &*temporary, &to_dir, to)?)
    }

    /// Directories get their times last: what was put into them moved them.
    fn stamp_dirs(&self) -> Result<(), ApplyError> {
        for (key, inode) in self.new.inodes().iter().filter(|(_, inode)| inode.is_dir()) {
            let node = NodeId(key);
            let Some(path) = self.path_of(node) else {
                continue;
            };
            let (dir, name) = split(&path);
            self.dir(dir)
                .and_then(|dir| set_owner_and_times(&dir, name, &inode.attr(node)))
                .map_err(|errno| ApplyError::Host {
                    path: display(&path),
                    errno,
                })?;
        }
        Ok(())
    }

    fn dir(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(beneath::open(self.lower.root(), path, flags)?)
    }

    fn make(&self, path: &[u8], node: NodeId) -> Result<()> {
        let inode = self.new.inode(node)?;
        let (dir, name) = split(path);
        let dir = self.dir(dir)?;
        let mode = mode_of(&inode);
        match &inode.body {
            Body::Dir(_) => rustix::fs::mkdirat(&dir, name, mode)?,
            Body::File(_) => return self.write(&dir, name, node, &inode),
            Body::Symlink(text) => {
                let temporary = temporary(name);
                rustix::fs::symlinkat(&**text, &dir, &*temporary)?;
                rustix::fs::renameat(&dir, &*temporary, &dir, name)?;
            }
            Body::Fifo => special(&dir, name, FileType::Fifo, mode, 0)?,
            Body::Socket => special(&dir, name, FileType::Socket, mode, 0)?,
            Body::CharDevice(rdev) => special(&dir, name, FileType::CharacterDevice, mode, *rdev)?,
            Body::BlockDevice(rdev) => special(&dir, name, FileType::BlockDevice, mode, *rdev)?,
        }
        set_owner_and_times(&dir, name, &inode.attr(node))
    }

    /// Temporary name, content, fsync, rename.
    fn write(&self, dir: &OwnedFd, name: &[u8], node: NodeId, inode: &Inode) -> Result<()> {
        let temporary = temporary(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, &*temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let written = self.fill(&file, node, inode).and_then(|()| {
            set_owner_and_times(dir, &temporary, &inode.attr(node))?;
            rustix::fs::fchmod(&file, mode_of(inode))?;
            rustix::fs::fsync(&file)?;
            rustix::fs::renameat(dir, &*temporary, dir, name)?;
            Ok(())
        });
        if written.is_err() {
            let _ = rustix::fs::unlinkat(dir, &*temporary, AtFlags::empty());
        }
        written
    }

    fn fill(&self, file: &OwnedFd, node: NodeId, inode: &Inode) -> Result<()> {
        let size = inode.as_file().map_or(0, crate::content::File::size);
        rustix::fs::ftruncate(file, size)?;
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < size {
            let read = self.new.read(node, at, &mut buffer)?;
            let part = &buffer[..read];
            // Holes stay holes.
            if part.iter().any(|byte| *byte != 0) {
                write_all(file, part, at)?;
            }
            at += read as u64;
        }
        if let Some(all) = self.new.xattrs(node, inode)? {
            for (name, value) in all.iter() {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::fsetxattr(file, &**name, value, flags)?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &[u8], named: &Named) -> Result<()> {
        let (dir, name) = split(path);
        self.lower.forget_name(named.dir, &named.name, false);
        let flags = if named.is_dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        match rustix::fs::unlinkat(self.dir(dir)?, name, flags) {
            // Gone already: that is what was wanted.
            Err(rustix::io::Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    fn rename(&self, from: &Named, to: &Named) -> Result<()> {
        let (old, new) = (relative(&from.path()), relative(&to.path()));
        let ((old_dir, old), (new_dir, new)) = (split(&old), split(&new));
        rustix::fs::renameat(self.dir(old_dir)?, old, self.dir(new_dir)?, new)?;
        self.lower.forget_name(from.dir, &from.name, true);
        self.lower.adopt(to.node, to.dir, &to.name).map(|_| ())
    }

    fn set_attributes(&self, path: &[u8], node: NodeId) -> Result<()> {
        let inode = self.new.inode(node)?;
        let (dir, name) = split(path);
        let dir = self.dir(dir)?;
        if name.is_empty() {
            return Ok(rustix::fs::fchmod(&dir, mode_of(&inode))?);
        }
        set_owner_and_times(&dir, name, &inode.attr(node))?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        if matches!(inode.kind(), ObjectKind::File | ObjectKind::Directory) {
            let fd = beneath::open(&dir, name, flags)?;
            rustix::fs::fchmod(&fd, mode_of(&inode))?;
            if let Some(all) = self.new.xattrs(node, &inode)? {
                for (name, value) in all.iter() {
                    let flags = rustix::fs::XattrFlags::empty();
                    rustix::fs::fsetxattr(&fd, &**name, value, flags)?;
                }
            }
        }
        Ok(())
    }
}

/// A name beside the one that is meant, that nobody else takes.
fn temporary(name: &[u8]) -> Vec<u8> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut temporary = format!(".agentfs-{}-{count}-", std::process::id()).into_bytes();
    // Room for the longest name there can be.
    temporary.extend_from_slice(&name[..name.len().min(128)]);
    temporary
}

fn mode_of(inode: &Inode) -> Mode {
    Mode::from_raw_mode(inode.mode as rustix::fs::RawMode)
}

#[cfg(not(target_vendor = "apple"))]
fn special(dir: &OwnedFd, name: &[u8], kind: FileType, mode: Mode, rdev: u64) -> Result<()> {
    Ok(rustix::fs::mknodat(dir, name, kind, mode, device(rdev))?)
}

/// macOS makes such files by path only, which would follow links on the way.
#[cfg(target_vendor = "apple")]
fn special(_: &OwnedFd, _: &[u8], _: FileType, _: Mode, _: u64) -> Result<()> {
    Err(rustix::io::Errno::OPNOTSUPP.into())
}

/// A device number in the host's type.
#[cfg(not(target_vendor = "apple"))]
fn device<T: TryFrom<u64> + Default>(rdev: u64) -> T {
    T::try_from(rdev).unwrap_or_default()
}

fn write_all(file: &OwnedFd, mut part: &[u8], mut at: u64) -> Result<()> {
    while !part.is_empty() {
        let written = rustix::io::pwrite(file, part, at)?;
        part = &part[written..];
        at += written as u64;
    }
    Ok(())
}

fn timespec(moment: i64) -> Timespec {
    Timespec {
        tv_sec: moment.div_euclid(1_000_000_000),
        tv_nsec: moment.rem_euclid(1_000_000_000),
    }
}

/// Owner and group where this process may, then the times.
fn set_owner_and_times(dir: &OwnedFd, name: &[u8], attr: &Attr) -> Result<()> {
    let uid = rustix::fs::Uid::from_raw(attr.uid);
    let gid = rustix::fs::Gid::from_raw(attr.gid);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let times = Timestamps {
        last_access: timespec(attr.atime),
        last_modification: timespec(attr.mtime),
    };
    Ok(rustix::fs::utimensat(dir, name, &times, flags)?)
}
