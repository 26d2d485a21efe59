//! Writing to the host what a branch changed, step by step.

use std::collections::HashSet;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};

use super::{Action, ApplyError, Plan, display, relative};
use crate::attr::Attr;
use crate::beneath;
use crate::branch::Hold;
use crate::diff::{Named, Step};
use crate::errno::Result;
use crate::event::{Name, ObjectKind};
use crate::id::{BranchId, NodeId};
use crate::inode::{Body, Inode};
use crate::lower::split;

pub(super) struct Job<'a> {
    pub(super) plan: Plan<'a>,
    /// Whoever reads the branch meanwhile finds each object either before or after its step.
    pub(super) hold: &'a Hold<'a>,
    pub(super) branch: BranchId,
    /// What was written to the host already.
    pub(super) made: HashSet<NodeId>,
    /// Directories that got their times.
    pub(super) stamped: Vec<Action>,
}

impl<'a> std::ops::Deref for Job<'a> {
    type Target = Plan<'a>;

    fn deref(&self) -> &Plan<'a> {
        &self.plan
    }
}

/// Something that is on the host under a temporary name, or in its place already.
struct Staged {
    dir: OwnedFd,
    temporary: Option<Vec<u8>>,
}

impl Job<'_> {
    pub(super) fn run(&mut self, step: &Step) -> Result<(), ApplyError> {
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
        let on_host = self.made.contains(&named.node) || self.old.inode(named.node).is_ok();
        let existing = self.lower.path_of(named.node);
        let staged = match existing.filter(|_| on_host && !named.is_dir) {
            Some(existing) => self.link(&existing, path)?,
            None => self.make(path, named.node)?,
        };
        self.put(staged, named.node, (named.dir, &named.name))
    }

    /// Gives what is staged its name, and shows it through the branch.
    fn put(&mut self, staged: Staged, node: NodeId, to: (NodeId, &Name)) -> Result<()> {
        let mut state = self.hold.state();
        if let Some(temporary) = staged.temporary {
            let renamed = rustix::fs::renameat(&staged.dir, &*temporary, &staged.dir, &**to.1);
            if let Err(errno) = renamed {
                let _ = rustix::fs::unlinkat(&staged.dir, &*temporary, AtFlags::empty());
                return Err(errno.into());
            }
        }
        let stamp = self.lower.adopt(node, to.0, to.1)?;
        state.tree.rebase(node, stamp);
        drop(state);
        self.made.insert(node);
        Ok(())
    }

    /// New content, under all names of the file.
    fn rewrite(&mut self, node: NodeId) -> Result<()> {
        let names = self.new.inode(node)?.names.all();
        let mut first: Option<Vec<u8>> = None;
        for (dir, name) in names {
            // One that lies too deep for a path stays in the branch.
            let Some(path) = self.new.path_in(dir, &name) else {
                continue;
            };
            let path = relative(&path);
            let was = Some((node, ObjectKind::File));
            self.lower.traces.removing(self.branch, &path, was);
            let staged = match &first {
                Some(first) => self.link(first, &path)?,
                None => self.make(&path, node)?,
            };
            self.put(staged, node, (dir, &name))?;
            first.get_or_insert(path);
        }
        Ok(())
    }

    /// A further name of the file at `existing`, beside `path`.
    fn link(&self, existing: &[u8], path: &[u8]) -> Result<Staged> {
        let ((from_dir, from), (to_dir, to)) = (split(existing), split(path));
        let (from_dir, to_dir) = (self.dir(from_dir)?, self.dir(to_dir)?);
        let temporary = temporary(to);
        rustix::fs::linkat(&from_dir, from, &to_dir, &*temporary, AtFlags::empty())?;
        Ok(Staged {
            dir: to_dir,
            temporary: Some(temporary),
        })
    }

    /// Directories get their times last: what was put into them moved them.
    pub(super) fn stamp_dirs(&mut self) -> Result<(), ApplyError> {
        let new = self.new;
        for (key, inode) in new.inodes().iter().filter(|(_, inode)| inode.is_dir()) {
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
            self.stamped.push(Action::SetAttributes(display(&path)));
        }
        Ok(())
    }

    fn dir(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(beneath::open(self.lower.root(), path, flags)?)
    }

    fn make(&self, path: &[u8], node: NodeId) -> Result<Staged> {
        let inode = self.new.inode(node)?;
        let (dir, name) = split(path);
        let dir = self.dir(dir)?;
        let mode = mode_of(&inode);
        let mut beside = None;
        match &inode.body {
            Body::Dir(_) => rustix::fs::mkdirat(&dir, name, mode)?,
            Body::File(_) => {
                let temporary = self.write(&dir, name, node, &inode)?;
                let temporary = Some(temporary);
                return Ok(Staged { dir, temporary });
            }
            Body::Symlink(text) => {
                let temporary = temporary(name);
                rustix::fs::symlinkat(&**text, &dir, &*temporary)?;
                beside = Some(temporary);
            }
            Body::Fifo => special(&dir, name, FileType::Fifo, mode, 0)?,
            Body::Socket => special(&dir, name, FileType::Socket, mode, 0)?,
            Body::CharDevice(rdev) => special(&dir, name, FileType::CharacterDevice, mode, *rdev)?,
            Body::BlockDevice(rdev) => special(&dir, name, FileType::BlockDevice, mode, *rdev)?,
        }
        set_owner_and_times(&dir, beside.as_deref().unwrap_or(name), &inode.attr(node))?;
        Ok(Staged {
            dir,
            temporary: beside,
        })
    }

    /// Temporary name, content, fsync.
    fn write(&self, dir: &OwnedFd, name: &[u8], node: NodeId, inode: &Inode) -> Result<Vec<u8>> {
        let temporary = temporary(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, &*temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let written = self.fill(&file, node, inode).and_then(|()| {
            set_owner_and_times(dir, &temporary, &inode.attr(node))?;
            rustix::fs::fchmod(&file, mode_of(inode))?;
            Ok(rustix::fs::fsync(&file)?)
        });
        if let Err(errno) = written {
            let _ = rustix::fs::unlinkat(dir, &*temporary, AtFlags::empty());
            return Err(errno);
        }
        Ok(temporary)
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
        let was = self.lower.seen_with_kind(named.dir, &named.name);
        self.lower.traces.removing(self.branch, path, was);
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
        let (old_dir, new_dir) = (self.dir(old_dir)?, self.dir(new_dir)?);
        let _between = self.hold.state();
        rustix::fs::renameat(old_dir, old, new_dir, new)?;
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
        if matches!(inode.kind(), ObjectKind::File | ObjectKind::Directory) {
            let (fd, _) = beneath::open_content(&dir, name)?;
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
