//! The host directory below every branch: read lazily, never written.
//!
//! Nothing of it is copied into a branch before the branch changes it. What stays is an index that
//! gives every object of the host that was ever seen a [`NodeId`], the same in all branches; hard
//! links are one node, known by device and inode number.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::apply::{HostState, Traces};
use crate::attr::Nanos;
use crate::beneath;
use crate::bus::lock;
use crate::config::CaseSensitivity;
use crate::content::{File, Stamp};
use crate::dir::{Dir, same_name};
use crate::errno::{Errno, Result};
use crate::event::{Name, ObjectKind};
use crate::id::NodeId;
use crate::inode::{Body, Inode, Names, Times, Xattrs};
use crate::tree::{Found, Shared};

/// Lower files that are kept open.
const MAX_OPEN: usize = 64;

#[derive(Debug)]
pub(crate) struct Lower {
    root: OwnedFd,
    index: Mutex<Index>,
    open: Mutex<VecDeque<(NodeId, Arc<OwnedFd>)>>,
    pub(crate) traces: Traces,
}

/// Device and inode number.
type Object = (u64, u64);

#[derive(Debug, Default)]
struct Index {
    nodes: HashMap<NodeId, Known>,
    by_object: HashMap<Object, NodeId>,
    by_name: HashMap<(NodeId, Name), NodeId>,
}

/// Where an object of the host was seen last.
#[derive(Clone, Debug)]
struct Known {
    object: Object,
    kind: ObjectKind,
    /// Relative to the lower root, without leading slash.
    path: Arc<[u8]>,
    names: Names,
}

impl Index {
    /// A directory moved on the host: so did everything that was seen below it.
    fn move_below(&mut self, old: &[u8], new: &[u8]) {
        for below in self.nodes.values_mut() {
            if let Some(rest) = below.path.strip_prefix(old)
                && let [b'/', rest @ ..] = rest
            {
                below.path = join(new, rest);
            }
        }
    }
}

/// A number of the host, whose type differs from system to system.
fn number<T: TryInto<u64>>(value: T) -> u64 {
    value.try_into().unwrap_or(0)
}

fn small<T: TryInto<u32>>(value: T) -> u32 {
    value.try_into().unwrap_or(u32::MAX)
}

fn object_of(stat: &Stat) -> Object {
    (number(stat.st_dev), number(stat.st_ino))
}

fn nanos<S: Into<i64>, N: TryInto<u64>>(seconds: S, nanoseconds: N) -> Nanos {
    let part = i64::try_from(number(nanoseconds)).unwrap_or(0);
    seconds
        .into()
        .saturating_mul(1_000_000_000)
        .saturating_add(part)
}

fn kind_of(kind: FileType) -> Option<ObjectKind> {
    Some(match kind {
        FileType::RegularFile => ObjectKind::File,
        FileType::Directory => ObjectKind::Directory,
        FileType::Symlink => ObjectKind::Symlink,
        FileType::Fifo => ObjectKind::Fifo,
        FileType::Socket => ObjectKind::Socket,
        FileType::CharacterDevice => ObjectKind::CharDevice,
        FileType::BlockDevice => ObjectKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

fn stat_kind(stat: &Stat) -> Option<ObjectKind> {
    kind_of(FileType::from_raw_mode(stat.st_mode))
}

fn stamp_of(stat: &Stat) -> Stamp {
    Stamp {
        size: number(stat.st_size),
        mtime: nanos(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Directory and last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn join(dir: &[u8], name: &[u8]) -> Arc<[u8]> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path.into()
}

/// What a vanished or replaced object of the host gives.
fn vanished(errno: rustix::io::Errno) -> Errno {
    match Errno::from(errno) {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Errno::ESTALE,
        other => other,
    }
}

impl Lower {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let object = object_of(&rustix::fs::fstat(&root)?);
        let known = Known {
            object,
            kind: ObjectKind::Directory,
            path: Arc::from([]),
            names: Names::None,
        };
        Ok(Self {
            root,
            index: Mutex::new(Index {
                nodes: HashMap::from([(NodeId::ROOT, known)]),
                by_object: HashMap::from([(object, NodeId::ROOT)]),
                by_name: HashMap::new(),
            }),
            open: Mutex::default(),
            traces: Traces::default(),
        })
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    fn known(&self, node: NodeId) -> Result<Known> {
        lock(&self.index)
            .nodes
            .get(&node)
            .cloned()
            .ok_or(Errno::ESTALE)
    }

    /// What a node is, or was when the host still had it.
    pub(crate) fn kind_of(&self, node: NodeId) -> Option<ObjectKind> {
        lock(&self.index).nodes.get(&node).map(|known| known.kind)
    }

    /// Whether the host has this object, unless that was found not to be so.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        let index = lock(&self.index);
        let known = index.nodes.get(&node);
        known.is_some_and(|known| index.by_object.get(&known.object) == Some(&node))
    }

    /// Where a node was seen last on the host, relative to the root.
    pub(crate) fn path_of(&self, node: NodeId) -> Option<Arc<[u8]>> {
        lock(&self.index)
            .nodes
            .get(&node)
            .map(|known| known.path.clone())
    }

    /// What is at a path, relative to the root.
    pub(crate) fn state_of(&self, path: &[u8]) -> HostState {
        let (dir, name) = split(path);
        let stat = stat_at(self.open_dir(dir).ok()?, name).ok()?;
        let (device, inode) = object_of(&stat);
        Some((device, inode, nanos(stat.st_ctime, stat.st_ctime_nsec)))
    }

    /// The object as the host has it now; `ESTALE` when it is gone or another is in its place.
    pub(crate) fn inode(&self, node: NodeId) -> Result<Inode> {
        let known = self.known(node)?;
        let (dir, name) = split(&known.path);
        if name.is_empty() {
            let stat = rustix::fs::fstat(&self.root)?;
            return Ok(inode(
                &stat,
                known.names,
                Body::Dir(Box::new(Dir::merging())),
            ));
        }
        let dir = self.open_dir(dir).map_err(vanished)?;
        let stat = stat_at(&dir, name).map_err(vanished)?;
        if object_of(&stat) != known.object || stat_kind(&stat) != Some(known.kind) {
            return Err(Errno::ESTALE);
        }
        inode_in(&dir, name, &stat, &known)
    }

    /// The object of that name and how it is, in one look at the host. A directory that the host has
    /// no more counts as empty.
    pub(crate) fn lookup_inode(
        &self,
        dir: NodeId,
        name: &[u8],
        shared: &Shared,
    ) -> Result<Option<(Found, Inode)>> {
        let Some((fd, known)) = self.same_dir(dir)? else {
            return Ok(None);
        };
        match stat_at(&fd, name) {
            Ok(stat) => {
                let Some(found) = self.register(&known, dir, name, &stat, shared) else {
                    return Ok(None);
                };
                let inode = inode_in(&fd, name, &stat, &self.known(found.node)?)?;
                return Ok(Some((found, inode)));
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        if shared.config.case_sensitivity == CaseSensitivity::Sensitive {
            return Ok(None);
        }
        // By another spelling.
        let Some(found) = self.lookup(dir, name, shared)? else {
            return Ok(None);
        };
        let inode = self.inode(found.node)?;
        Ok(Some((found, inode)))
    }

    /// The `user.` attributes of a file or directory, which are what a branch shows of the host's.
    pub(crate) fn xattrs(&self, node: NodeId) -> Result<Option<Arc<Xattrs>>> {
        let known = self.known(node)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let Ok(fd) = beneath::open(&self.root, &known.path, flags) else {
            // Not readable, or not a file: there is nothing to show.
            return Ok(None);
        };
        let mut names = vec![0; 1 << 16];
        let Ok(len) = rustix::fs::flistxattr(&fd, names.as_mut_slice()) else {
            return Ok(None);
        };
        let mut all = Xattrs::new();
        let mut value = vec![0; 1 << 16];
        for name in names[..len].split(|byte| *byte == 0) {
            if name.starts_with(b"user.")
                && let Ok(len) = rustix::fs::fgetxattr(&fd, name, value.as_mut_slice())
            {
                all.insert(name.into(), value[..len].into());
            }
        }
        Ok((!all.is_empty()).then(|| Arc::new(all)))
    }

    fn open_dir(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        beneath::open(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The directory of that node, if the host still has it.
    fn same_dir(&self, dir: NodeId) -> Result<Option<(OwnedFd, Known)>> {
        let known = self.known(dir)?;
        let fd = match self.open_dir(&known.path) {
            Ok(fd) => fd,
            Err(errno) if vanished(errno) == Errno::ESTALE => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let same = object_of(&rustix::fs::fstat(&fd)?) == known.object;
        Ok(same.then_some((fd, known)))
    }

    /// The object of that name. A directory that the host has no more counts as empty: what
    /// branches put there stays reachable.
    pub(crate) fn lookup(
        &self,
        dir: NodeId,
        name: &[u8],
        shared: &Shared,
    ) -> Result<Option<Found>> {
        let Some((fd, known)) = self.same_dir(dir)? else {
            return Ok(None);
        };
        match stat_at(&fd, name) {
            Ok(stat) => Ok(self.register(&known, dir, name, &stat, shared)),
            Err(rustix::io::Errno::NOENT) => match shared.config.case_sensitivity {
                CaseSensitivity::Sensitive => Ok(None),
                case @ CaseSensitivity::InsensitivePreserving => {
                    let all = self.list(dir, shared)?;
                    Ok(all
                        .into_iter()
                        .find(|found| same_name(&found.name, name, case)))
                }
            },
            Err(errno) => Err(errno.into()),
        }
    }

    /// Everything in a directory.
    pub(crate) fn list(&self, dir: NodeId, shared: &Shared) -> Result<Vec<Found>> {
        let Some((fd, known)) = self.same_dir(dir)? else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let object = (known.object.0, entry.ino());
            let found = match kind_of(entry.file_type()) {
                Some(kind) => Some(self.seen(&known, dir, name, object, kind, shared)),
                None => stat_at(&fd, name)
                    .ok()
                    .and_then(|stat| self.register(&known, dir, name, &stat, shared)),
            };
            all.extend(found);
        }
        Ok(all)
    }

    fn register(
        &self,
        known: &Known,
        dir: NodeId,
        name: &[u8],
        stat: &Stat,
        shared: &Shared,
    ) -> Option<Found> {
        let kind = stat_kind(stat)?;
        Some(self.seen(known, dir, name, object_of(stat), kind, shared))
    }

    /// Gives the object its node, and remembers where it was seen.
    fn seen(
        &self,
        known: &Known,
        dir: NodeId,
        name: &[u8],
        object: Object,
        kind: ObjectKind,
        shared: &Shared,
    ) -> Found {
        let name: Name = Arc::from(name);
        let mut index = lock(&self.index);
        let index = &mut *index;
        // Another kind of object with a number used before is another object.
        let same = index.by_object.get(&object).copied();
        let same = same.filter(|node| index.nodes.get(node).is_some_and(|it| it.kind == kind));
        let node = same.unwrap_or_else(|| shared.new_node());
        index.by_object.insert(object, node);
        let path = join(&known.path, &name);
        let place = index.nodes.entry(node).or_insert_with(|| Known {
            object,
            kind,
            path: path.clone(),
            names: Names::None,
        });
        if place.path != path {
            // Another hard link, or the host moved it; a directory has one name.
            let old = std::mem::replace(&mut place.path, path.clone());
            if kind.is_dir() {
                place.names = Names::None;
                index.move_below(&old, &path);
            }
        }
        if let Some(place) = index.nodes.get_mut(&node) {
            place.names.add(dir, name.clone());
        }
        index.by_name.insert((dir, name.clone()), node);
        Found { node, kind, name }
    }

    /// The node that was last seen by this name.
    pub(crate) fn seen_as(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        let index = lock(&self.index);
        index.by_name.get(&(dir, Name::from(name))).copied()
    }

    /// The same, and what it was.
    pub(crate) fn seen_with_kind(&self, dir: NodeId, name: &[u8]) -> Option<(NodeId, ObjectKind)> {
        let node = self.seen_as(dir, name)?;
        let kind = lock(&self.index).nodes.get(&node)?.kind;
        Some((node, kind))
    }

    /// The host has no such name any more. With its last name goes the object, unless it was only
    /// `moved`: another that gets its inode number is another node.
    pub(crate) fn forget_name(&self, dir: NodeId, name: &[u8], moved: bool) {
        let mut index = lock(&self.index);
        let index = &mut *index;
        let Some(node) = index.by_name.remove(&(dir, Name::from(name))) else {
            return;
        };
        if let Some(known) = index.nodes.get_mut(&node) {
            known.names.remove(dir, name);
            if known.names.first().is_none() && !moved {
                index.by_object.remove(&known.object);
            }
        }
    }

    /// The host has this object at this name now, put there for `node` by who calls; gives its
    /// stamp.
    pub(crate) fn adopt(&self, node: NodeId, dir: NodeId, name: &Name) -> Result<Stamp> {
        let (fd, parent) = self.same_dir(dir)?.ok_or(Errno::ESTALE)?;
        let stat = stat_at(&fd, name)?;
        let path = join(&parent.path, name);
        let mut index = lock(&self.index);
        let index = &mut *index;
        let known = Known {
            object: object_of(&stat),
            kind: stat_kind(&stat).ok_or(Errno::ESTALE)?,
            path: path.clone(),
            names: Names::None,
        };
        index.by_object.insert(known.object, node);
        index.by_name.insert((dir, name.clone()), node);
        let old = index.nodes.insert(node, known);
        let mut names = old.as_ref().map_or(Names::None, |old| old.names.clone());
        if let Some(old) = old.filter(|old| old.kind.is_dir() && old.path != path) {
            names = Names::None;
            index.move_below(&old.path, &path);
        }
        names.add(dir, name.clone());
        if let Some(known) = index.nodes.get_mut(&node) {
            known.names = names;
        }
        lock(&self.open).retain(|(other, _)| *other != node);
        Ok(stamp_of(&stat))
    }

    /// Reads bytes of a lower file, all that the buffer takes. With a stamp, the file must still be
    /// as it was then.
    pub(crate) fn read(
        &self,
        node: NodeId,
        stamp: Option<&Stamp>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        let fd = self.file(node)?;
        if let Some(stamp) = stamp
            && stamp_of(&rustix::fs::fstat(&fd)?) != *stamp
        {
            return Err(Errno::ESTALE);
        }
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&*fd, &mut buffer[done..], offset + done as u64) {
                // Cut on the host while it was read.
                Ok(0) => break,
                Ok(read) => done += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        buffer[done..].fill(0);
        Ok(())
    }

    fn file(&self, node: NodeId) -> Result<Arc<OwnedFd>> {
        let mut open = lock(&self.open);
        if let Some((_, fd)) = open.iter().find(|(other, _)| *other == node) {
            return Ok(fd.clone());
        }
        let known = self.known(node)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let fd = beneath::open(&self.root, &known.path, flags).map_err(vanished)?;
        if object_of(&rustix::fs::fstat(&fd)?) != known.object {
            return Err(Errno::ESTALE);
        }
        let fd = Arc::new(fd);
        if open.len() == MAX_OPEN {
            open.pop_front();
        }
        open.push_back((node, fd.clone()));
        Ok(fd)
    }
}

fn stat_at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// An object of the host, in the directory where it was looked at.
fn inode_in(dir: &OwnedFd, name: &[u8], stat: &Stat, known: &Known) -> Result<Inode> {
    let body = match known.kind {
        ObjectKind::File => Body::File(File::over_lower(stamp_of(stat))),
        ObjectKind::Directory => Body::Dir(Box::new(Dir::merging())),
        ObjectKind::Symlink => {
            let text = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(vanished)?;
            Body::Symlink(Arc::from(text.as_bytes()))
        }
        ObjectKind::Fifo => Body::Fifo,
        ObjectKind::Socket => Body::Socket,
        ObjectKind::CharDevice => Body::CharDevice(number(stat.st_rdev)),
        ObjectKind::BlockDevice => Body::BlockDevice(number(stat.st_rdev)),
    };
    Ok(inode(stat, known.names.clone(), body))
}

fn inode(stat: &Stat, names: Names, body: Body) -> Inode {
    let mtime = nanos(stat.st_mtime, stat.st_mtime_nsec);
    let ctime = nanos(stat.st_ctime, stat.st_ctime_nsec);
    Inode {
        mode: small(stat.st_mode) & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        nlink: small(stat.st_nlink),
        times: Times {
            atime: nanos(stat.st_atime, stat.st_atime_nsec),
            mtime,
            ctime,
            // Not every host keeps it; no object is younger than its last changes.
            btime: mtime.min(ctime),
        },
        names,
        xattrs: None,
        body,
    }
}
