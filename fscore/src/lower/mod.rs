//! The host's directory below every branch: it is read lazily, and never written from here.
//!
//! An object is copied into a branch only when the branch changes it. What is kept here is an index
//! that gives every object of the host that was ever seen a [`NodeId`], which is the same in all
//! branches. Hard links to one object, known by its device and inode number, are one node.

#[cfg(target_os = "linux")]
mod acl;
#[cfg(not(target_os = "linux"))]
#[path = "acl_unsupported.rs"]
mod acl;
pub(crate) mod announced;
pub mod beneath;
mod births;
mod bytes;
mod held;
mod host_inode;
#[cfg_attr(target_os = "linux", path = "host_object/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "host_object/other.rs")]
mod host_object;
mod index;
pub(crate) mod own_writes;
mod path;
mod place;
mod stat;
pub(crate) mod taking;
pub(crate) mod transaction;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};

pub(crate) use self::acl::most_for_new;
use self::announced::Announced;
use self::births::Births;
pub use self::held::Held;
use self::held::HeldObjects;
pub(crate) use self::host_inode::{HostBody, HostInode};
pub use self::host_object::HostObject;
pub(crate) use self::index::Loss;
use self::index::{HostId, Index, IndexedObject};
use self::own_writes::{HostState, OwnWrites};
pub(crate) use self::path::split;
use self::path::{join, vanished};
pub use self::place::{LowerPlace, Place};
pub use self::stat::Fingerprint;
pub(crate) use self::stat::mode_of;
use self::stat::{kind_of, nanos, object_of, stat_kind};
use crate::model::attr::Xattrs;
use crate::model::config::CaseSensitivity;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::{NodeId, NodeNumbers};
use crate::model::names::Found;
use crate::sync::Mutex;

/// How many lower files are kept open.
const MAX_OPEN: usize = 64;

#[derive(Debug)]
pub(crate) struct Lower {
    root: OwnedFd,
    /// The device and inode number of the root.
    object: HostId,
    index: Mutex<Index>,
    open: Mutex<VecDeque<(NodeId, Arc<OwnedFd>)>>,
    held: Mutex<HeldObjects>,
    births: Births,
    /// The devices whose filesystem is known to have no ACLs.
    without_acls: Mutex<Vec<u64>>,
    /// How names compare.
    case: CaseSensitivity,
    /// Where new nodes get their numbers, which are those of all branches.
    numbers: Arc<NodeNumbers>,
    pub(crate) own_writes: OwnWrites,
    pub(crate) announced: Announced,
}

impl Lower {
    pub(crate) fn open(
        path: &Path,
        case: CaseSensitivity,
        numbers: Arc<NodeNumbers>,
    ) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let object = object_of(&rustix::fs::fstat(&root)?);
        if let Err(errno) = transaction::recover_if_idle(&root) {
            tracing::warn!(%errno, "what was applied in part cannot be taken back now");
        }
        Ok(Self {
            root,
            object,
            index: Mutex::new(Index::new(object)),
            open: Mutex::default(),
            held: Mutex::default(),
            births: Births::default(),
            without_acls: Mutex::default(),
            case,
            numbers,
            own_writes: OwnWrites::default(),
            announced: Announced::default(),
        })
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    fn root_object(&self) -> HostId {
        self.object
    }

    fn known(&self, node: NodeId) -> Result<IndexedObject> {
        let index = self.index.lock();
        index.known(node).cloned().ok_or(Errno::ESTALE)
    }

    /// Returns what a node is, or was while the host still had it.
    pub(crate) fn kind_of(&self, node: NodeId) -> Option<ObjectKind> {
        self.index.lock().known(node).map(|known| known.kind)
    }

    /// Returns whether the host has this object, as far as is known: until it was found to be gone.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.index.lock().has(node)
    }

    /// Returns what the log has to say of an object that a branch has changed: where it was seen
    /// last, relative to the root, and its inode number. `None` if it lies on another device than
    /// the root, whose number may be another one after a restart.
    pub(crate) fn seen_at(&self, node: NodeId) -> Option<(Arc<[u8]>, u64, ObjectKind)> {
        let index = self.index.lock();
        let known = index.known(node)?;
        let (device, inode) = known.object;
        (device == self.object.0).then(|| (known.path.clone(), inode, known.kind))
    }

    /// Puts an object into the index as [`seen_at`](Self::seen_at) has returned it.
    pub(crate) fn recover(&self, node: NodeId, path: &[u8], inode: u64, kind: ObjectKind) {
        let object = (self.object.0, inode);
        self.index.lock().recover(node, path.into(), (object, kind));
    }

    /// Ends the recovery of the index.
    pub(crate) fn recovered(&self) {
        self.index.lock().recovered();
    }

    /// Returns where a node was last seen on the host, relative to the root.
    pub(crate) fn path_of(&self, node: NodeId) -> Option<Arc<[u8]>> {
        let index = self.index.lock();
        index.known(node).map(|known| known.path.clone())
    }

    /// Returns the names by which an object was seen.
    pub(crate) fn names_of(&self, node: NodeId) -> Vec<(NodeId, Name)> {
        let index = self.index.lock();
        index
            .known(node)
            .map_or_else(Vec::new, |known| known.names.all())
    }

    /// Returns whether names that are created or removed in a directory are announced.
    pub(crate) fn announces_names(&self, dir: NodeId) -> bool {
        self.path_of(dir)
            .is_some_and(|dir| self.announced.has_bytes(&dir))
    }

    /// Returns whether changes of an object are announced, whichever name they are made by; for a
    /// directory, also those of the names in it.
    pub(crate) fn announces(&self, node: NodeId) -> bool {
        let index = self.index.lock();
        let Some(known) = index.known(node) else {
            return false;
        };
        let is_announced = |dir| {
            let dir = index.known(dir);
            dir.is_some_and(|dir| self.announced.has_bytes(&dir.path))
        };
        known.names.iter().all(|(dir, _)| is_announced(dir))
            && (!known.kind.is_dir() || is_announced(node))
    }

    /// Returns the state of what is at a path, relative to the root.
    pub(crate) fn state_of(&self, path: &[u8]) -> HostState {
        let (dir, name) = split(path);
        let stat = stat_at(self.open_dir(dir).ok()?, name).ok()?;
        let (device, inode) = object_of(&stat);
        Some((device, inode, nanos(stat.st_ctime, stat.st_ctime_nsec)))
    }

    /// Returns the fingerprint of the object as it is now, if the host still has it where it was
    /// last seen.
    pub(crate) fn fingerprint_of(&self, node: NodeId) -> Option<Fingerprint> {
        let known = self.known(node).ok()?;
        let (dir, name) = split(&known.path);
        let stat = if name.is_empty() {
            rustix::fs::fstat(&self.root)
        } else {
            stat_at(self.open_dir(dir).ok()?, name)
        };
        let stat = stat.ok()?;
        let is_same = object_of(&stat) == known.object && stat_kind(&stat) == Some(known.kind);
        is_same.then(|| Fingerprint::of(&stat))
    }

    /// Looks at an object by its node. It is `ESTALE` when the object is gone or another one is in
    /// its place.
    pub(crate) fn inode(&self, node: NodeId) -> Result<HostInode> {
        let known = self.known(node)?;
        let (dir, name) = split(&known.path);
        if name.is_empty() {
            let stat = rustix::fs::fstat(&self.root)?;
            let mode = self.mode_shown((&self.root, name), &stat, (node, &known));
            return Ok(HostInode::new(
                &stat,
                mode,
                known.names,
                HostBody::Directory,
            ));
        }
        let dir = self.open_dir(dir).map_err(vanished)?;
        let stat = stat_at(&dir, name).map_err(vanished)?;
        if object_of(&stat) != known.object || stat_kind(&stat) != Some(known.kind) {
            return Err(Errno::ESTALE);
        }
        self.inode_in((&dir, name), &stat, (node, &known))
    }

    /// Looks up a name and at its object, in one look at the host. A directory that the host no
    /// longer has counts as empty.
    pub(crate) fn lookup_inode(
        &self,
        dir: NodeId,
        name: &[u8],
    ) -> Result<Option<(Found, HostInode)>> {
        let Some((fd, known)) = self.same_dir(dir)?.filter(|_| !is_staging(dir, name)) else {
            return Ok(None);
        };
        match stat_at(&fd, name) {
            Ok(stat) => {
                let Some(found) = self.register((&fd, &known), dir, name, &stat) else {
                    return Ok(None);
                };
                let known = self.known(found.node)?;
                let inode = self.inode_in((&fd, name), &stat, (found.node, &known))?;
                return Ok(Some((found, inode)));
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        if self.case == CaseSensitivity::Sensitive {
            return Ok(None);
        }
        // It may be there by another spelling.
        let Some(found) = self.lookup(dir, name)? else {
            return Ok(None);
        };
        let inode = self.inode(found.node)?;
        Ok(Some((found, inode)))
    }

    /// Reads the `user.` attributes of a file or directory. A branch shows no other extended
    /// attributes of the host.
    pub(crate) fn xattrs(&self, node: NodeId) -> Result<Option<Arc<Xattrs>>> {
        let known = self.known(node)?;
        if !matches!(known.kind, ObjectKind::File | ObjectKind::Directory) {
            return Ok(None);
        }
        match self.content(node, &known) {
            Ok(fd) => Ok(xattrs_of(&fd)),
            Err(Errno::ESTALE) => Err(Errno::ESTALE),
            // It cannot be read: there is nothing to show.
            Err(_) => Ok(None),
        }
    }

    fn open_dir(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        beneath::open(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens the directory of that node, if the host still has it.
    fn same_dir(&self, dir: NodeId) -> Result<Option<(OwnedFd, IndexedObject)>> {
        let known = self.known(dir)?;
        let fd = match self.open_dir(&known.path) {
            Ok(fd) => fd,
            Err(errno) if vanished(errno) == Errno::ESTALE => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let same = object_of(&rustix::fs::fstat(&fd)?) == known.object;
        Ok(same.then_some((fd, known)))
    }

    /// Looks up a name. A directory that the host no longer has counts as empty, so what branches
    /// have put there stays reachable.
    pub(crate) fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<Found>> {
        let Some((fd, known)) = self.same_dir(dir)?.filter(|_| !is_staging(dir, name)) else {
            return Ok(None);
        };
        match stat_at(&fd, name) {
            Ok(stat) => Ok(self.register((&fd, &known), dir, name, &stat)),
            Err(rustix::io::Errno::NOENT) => match self.case {
                CaseSensitivity::Sensitive => Ok(None),
                case @ CaseSensitivity::InsensitivePreserving => {
                    let all = self.list(dir)?;
                    Ok(all
                        .into_iter()
                        .find(|found| case.is_same(&found.name, name)))
                }
            },
            Err(errno) => Err(errno.into()),
        }
    }

    /// Lists a directory.
    pub(crate) fn list(&self, dir: NodeId) -> Result<Vec<Found>> {
        let Some((fd, known)) = self.same_dir(dir)? else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || is_staging(dir, name) {
                continue;
            }
            let object = (known.object.0, entry.ino());
            let found = match kind_of(entry.file_type()) {
                Some(kind) if self.is_as_known((&known, name), object, kind) => {
                    Some(self.seen(&known, dir, name, object, kind))
                }
                _ => stat_at(&fd, name)
                    .ok()
                    .and_then(|stat| self.register((&fd, &known), dir, name, &stat)),
            };
            all.extend(found);
        }
        Ok(all)
    }

    /// Returns whether an object that is listed was seen before at this path only.
    fn is_as_known(
        &self,
        (dir, name): (&IndexedObject, &[u8]),
        object: HostId,
        kind: ObjectKind,
    ) -> bool {
        let known = || self.index.lock().at(object);
        kind.is_dir() || known().is_none_or(|(_, path)| *path == *join(&dir.path, name))
    }

    fn register(
        &self,
        (fd, known): (&OwnedFd, &IndexedObject),
        dir: NodeId,
        name: &[u8],
        stat: &Stat,
    ) -> Option<Found> {
        let (kind, object) = (stat_kind(stat)?, object_of(stat));
        let birth = if kind.is_dir() {
            None
        } else {
            self.tell_apart((fd, name), &join(&known.path, name), object)
        };
        let found = self.seen(known, dir, name, object, kind);
        if let Some(birth) = birth {
            self.births.set(found.node, object, birth);
        }
        Some(found)
    }

    /// Returns the entry of an object, and records in the index where it was seen.
    fn seen(
        &self,
        known: &IndexedObject,
        dir: NodeId,
        name: &[u8],
        object: HostId,
        kind: ObjectKind,
    ) -> Found {
        let name: Name = Arc::from(name);
        let path = join(&known.path, &name);
        let mut index = self.index.lock();
        let node = index.seen((dir, &name), path, (object, kind), || self.numbers.next());
        Found { node, kind, name }
    }

    /// Makes a node of its own for the object of this name, which was taken for `old`.
    pub(crate) fn renumber(&self, at: (NodeId, &Name), old: NodeId) -> NodeId {
        let new = self.numbers.next();
        self.index.lock().renumber(at, old, new);
        new
    }

    /// Returns the nodes that had the name of an object before it, the latest first.
    pub(crate) fn predecessors(&self, node: NodeId) -> Vec<NodeId> {
        self.index.lock().predecessors(node)
    }

    /// Returns the node that was last seen by this name.
    pub(crate) fn seen_as(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.index.lock().named(dir, name)
    }

    /// Returns the node that was last seen by this name, and what it was.
    pub(crate) fn seen_with_kind(&self, dir: NodeId, name: &[u8]) -> Option<(NodeId, ObjectKind)> {
        let index = self.index.lock();
        let node = index.named(dir, name)?;
        Some((node, index.known(node)?.kind))
    }

    /// Forgets a name that the host no longer has. If it was the last name and the object was not
    /// only `moved`, the object is forgotten too: another object that gets its inode number is
    /// another node.
    pub(crate) fn forget_name(&self, dir: NodeId, name: &[u8], moved: bool) {
        self.index.lock().forget_name(dir, name, moved);
    }

    /// Takes a name from the object that lost it on the host, and returns that object, if anybody
    /// has ever seen it. If it was the last name and the object did not only move, the object is
    /// forgotten too: another object that gets its inode number is another node.
    pub(crate) fn lose_name(
        &self,
        (dir, name): (NodeId, &[u8]),
        loss: Loss,
    ) -> Option<(NodeId, ObjectKind)> {
        let now = self.object_at(dir, name);
        self.index.lock().lose_name((dir, name), now, loss)
    }

    /// Records the new name of an object that the host has moved: `to` is the directory, the name in
    /// it, and the new path. The paths are relative to the root.
    pub(crate) fn gain_name(&self, node: NodeId, from: &[u8], to: (NodeId, &[u8], &[u8])) {
        self.index.lock().gain_name(node, from, to);
    }

    fn object_at(&self, dir: NodeId, name: &[u8]) -> Option<HostId> {
        let (fd, _) = self.same_dir(dir).ok()??;
        Some(object_of(&stat_at(&fd, name).ok()?))
    }

    /// Records that the caller has put the object at this name there for `node`.
    pub(crate) fn adopt(&self, node: NodeId, dir: NodeId, name: &Name) -> Result<()> {
        let (fd, parent) = self.same_dir(dir)?.ok_or(Errno::ESTALE)?;
        let stat = stat_at(&fd, name)?;
        let path = join(&parent.path, name);
        let object = (object_of(&stat), stat_kind(&stat).ok_or(Errno::ESTALE)?);
        self.index.lock().adopt(node, (dir, name), path, object);
        self.close(node);
        Ok(())
    }

    /// Closes the lower file of a node, if it is kept open.
    fn close(&self, node: NodeId) {
        self.open.lock().retain(|(other, _)| *other != node);
    }

    /// Opens what a file or directory holds.
    fn content(&self, node: NodeId, known: &IndexedObject) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.held_file(node) {
            return Ok(fd);
        }
        let opened = beneath::open_content(&self.root, &known.path);
        let (fd, stat) = opened.map_err(vanished)?;
        if object_of(&stat) != known.object {
            return Err(Errno::ESTALE);
        }
        Ok(Arc::new(fd))
    }

    /// Returns a file, opened for reading. One that is held is read also when it is gone.
    fn file(&self, node: NodeId) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.held_file(node) {
            return Ok(fd);
        }
        let mut open = self.open.lock();
        if let Some((_, fd)) = open.iter().find(|(other, _)| *other == node) {
            return Ok(fd.clone());
        }
        let fd = self.content(node, &self.known(node)?)?;
        let closed = if open.len() == MAX_OPEN {
            open.pop_front()
        } else {
            None
        };
        open.push_back((node, fd.clone()));
        drop(open);
        // Closing the last descriptor of a removed file frees it, which takes long.
        drop(closed);
        Ok(fd)
    }
}

/// Returns whether a name is that of the directory in which an apply stages, which no branch shows.
fn is_staging(dir: NodeId, name: &[u8]) -> bool {
    dir == NodeId::ROOT && transaction::is_temporary(name)
}

fn stat_at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Reads the `user.` attributes of an open object; what cannot be read is not there.
fn xattrs_of(fd: &OwnedFd) -> Option<Arc<Xattrs>> {
    // Nearly no object has any.
    if rustix::fs::flistxattr_query(fd) == Ok(0) {
        return None;
    }
    let mut names = vec![0; 1 << 16];
    let Ok(len) = rustix::fs::flistxattr(fd, names.as_mut_slice()) else {
        return None;
    };
    let mut all = Xattrs::new();
    let mut value = vec![0; 1 << 16];
    for name in names[..len].split(|byte| *byte == 0) {
        if name.starts_with(b"user.")
            && let Ok(len) = rustix::fs::fgetxattr(fd, name, value.as_mut_slice())
        {
            all.insert(name.into(), value[..len].into());
        }
    }
    (!all.is_empty()).then(|| Arc::new(all))
}
