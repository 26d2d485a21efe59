//! Objects of the host that are held open, so that they can be used when the host has put another
//! object in their place, or has removed them.
//!
//! A program that has opened a file goes on with that file, whatever becomes of its name. So a handle
//! holds the object that it was opened on. While an object is held, the host gives its inode number
//! to no other, and its node stays its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use rustc_hash::FxHashMap;
use rustix::fd::OwnedFd;
use rustix::fs::Stat;

use super::index::{HostId, IndexedObject};
use super::path::vanished;
use super::stat::{number, object_of, stamp_of, stat_kind};
use super::{HostBody, HostInode, Lower, beneath};
use crate::model::errno::{Errno, Result};
use crate::model::event::ObjectKind;
use crate::model::id::NodeId;
use crate::model::names::Names;
use crate::model::stamp::Stamp;

/// The part of the descriptors that this process may have which held objects may take.
const SHARE: u64 = 4;
/// How many objects are held at most, also where a process may have more descriptors.
const MOST: usize = 1 << 16;
/// So few entries are never searched for those of released objects.
const FEW: usize = 64;

/// An object of the host that stays usable as long as this exists.
#[derive(Debug)]
pub struct Held {
    /// A regular file is open for reading, if it may be read; every other object as `O_PATH`.
    fd: Arc<OwnedFd>,
    object: HostId,
    is_readable: bool,
    /// How many objects are held.
    count: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    /// Returns the version that the object has now.
    pub(crate) fn stamp(&self) -> Result<Stamp> {
        Ok(stamp_of(&rustix::fs::fstat(&self.fd)?))
    }
}

/// The objects that are held, by node.
#[derive(Debug)]
pub(super) struct HeldObjects {
    by_node: FxHashMap<NodeId, Weak<Held>>,
    /// At how many entries those of released objects are removed.
    clean_at: usize,
    count: Arc<AtomicUsize>,
}

impl Default for HeldObjects {
    fn default() -> Self {
        Self {
            by_node: FxHashMap::default(),
            clean_at: FEW,
            count: Arc::default(),
        }
    }
}

impl HeldObjects {
    fn get(&self, node: NodeId, object: HostId) -> Option<Arc<Held>> {
        let held = self.by_node.get(&node)?.upgrade()?;
        // An object that was applied has taken the node over.
        (held.object == object).then_some(held)
    }

    fn has_room(&mut self) -> bool {
        if self.by_node.len() >= self.clean_at {
            self.by_node.retain(|_, held| held.strong_count() > 0);
            self.clean_at = FEW.max(self.by_node.len() * 2);
        }
        self.count.load(Ordering::Relaxed) < most()
    }

    /// Adds an object, unless another thread has added it meanwhile.
    fn add(
        &mut self,
        node: NodeId,
        (fd, is_readable): (Arc<OwnedFd>, bool),
        object: HostId,
    ) -> Arc<Held> {
        if let Some(held) = self.get(node, object) {
            return held;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let held = Arc::new(Held {
            fd,
            object,
            is_readable,
            count: self.count.clone(),
        });
        self.by_node.insert(node, Arc::downgrade(&held));
        held
    }
}

/// Returns how many objects are held at most: a program that opens very many files must not take
/// the descriptors that this process needs for others.
fn most() -> usize {
    static LIMIT: OnceLock<usize> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let share = limit.and_then(|limit| usize::try_from(limit / SHARE).ok());
        share.unwrap_or(MOST).clamp(FEW, MOST)
    })
}

impl Lower {
    /// Holds an object that was just looked at. Returns `None` when it cannot be held: there are no
    /// descriptors left for it, or this process may not open it.
    ///
    /// # Errors
    ///
    /// `ESTALE` when the object is gone or another one is in its place.
    pub(crate) fn hold(&self, node: NodeId) -> Result<Option<Arc<Held>>> {
        let known = self.known(node)?;
        {
            let mut all = self.held.lock();
            if let Some(held) = all.get(node, known.object) {
                return Ok(Some(held));
            }
            if !all.has_room() {
                return Ok(None);
            }
        }
        let opened = if known.kind == ObjectKind::File {
            self.file(node).map(|fd| (fd, true))
        } else {
            Err(Errno::EOPNOTSUPP)
        };
        let opened = match opened {
            Err(Errno::ESTALE) => return Err(Errno::ESTALE),
            Err(Errno::EMFILE | Errno::ENFILE) => return Ok(None),
            Err(_) => match self.open_unread(&known) {
                Err(Errno::ESTALE) => return Err(Errno::ESTALE),
                Err(_) => return Ok(None),
                Ok(fd) => (Arc::new(fd), false),
            },
            Ok(opened) => opened,
        };
        Ok(Some(self.held.lock().add(node, opened, known.object)))
    }

    /// Opens an object without the right to read it.
    fn open_unread(&self, known: &IndexedObject) -> Result<OwnedFd> {
        let fd = beneath::open_unread(&self.root, &known.path).map_err(vanished)?;
        let stat = rustix::fs::fstat(&fd)?;
        if object_of(&stat) != known.object || stat_kind(&stat) != Some(known.kind) {
            return Err(Errno::ESTALE);
        }
        Ok(fd)
    }

    /// Returns the bytes of a file that is held.
    pub(super) fn held_file(&self, node: NodeId) -> Option<Arc<OwnedFd>> {
        let object = self.index.lock().known(node)?.object;
        let held = self.held.lock().get(node, object)?;
        held.is_readable.then(|| held.fd.clone())
    }

    /// Looks at an object that the host no longer has where it was, and that is held. It has no names
    /// that are known.
    ///
    /// # Errors
    ///
    /// `ESTALE` when it is not held.
    pub(crate) fn held_inode(&self, node: NodeId) -> Result<HostInode> {
        let known = self.known(node)?;
        let held = self.held.lock().get(node, known.object);
        let held = held.ok_or(Errno::ESTALE)?;
        let stat = rustix::fs::fstat(&held.fd)?;
        let body = match body_of(known.kind, &stat) {
            Some(body) => body,
            None => {
                let text = rustix::fs::readlinkat(&held.fd, c"", Vec::new())?;
                HostBody::Symlink(Arc::from(text.as_bytes()))
            }
        };
        let mode = self.mode_shown((&held.fd, b""), &stat, (node, &known));
        Ok(HostInode::new(&stat, mode, Names::None, body))
    }
}

/// Returns what an object is by its stat; `None` for a symbolic link, whose text must be read.
pub(super) fn body_of(kind: ObjectKind, stat: &Stat) -> Option<HostBody> {
    Some(match kind {
        ObjectKind::File => HostBody::File {
            size: number(stat.st_size),
            inode: number(stat.st_ino),
        },
        ObjectKind::Directory => HostBody::Directory,
        ObjectKind::Symlink => return None,
        ObjectKind::Fifo => HostBody::Fifo,
        ObjectKind::Socket => HostBody::Socket,
        ObjectKind::CharDevice => HostBody::CharDevice(number(stat.st_rdev)),
        ObjectKind::BlockDevice => HostBody::BlockDevice(number(stat.st_rdev)),
    })
}
