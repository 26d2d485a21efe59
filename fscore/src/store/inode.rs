//! One object of a branch: metadata, names, and what it holds.

use std::sync::Arc;

use crate::lower::{HostBody, HostInode};
use crate::model::attr::{Attr, Nanos, Times, Xattrs};
use crate::model::event::ObjectKind;
use crate::model::id::NodeId;
use crate::model::names::Names;
use crate::model::stamp::Stamp;
use crate::store::content::File;
use crate::store::dir::Dir;

#[derive(Clone, Debug)]
pub(crate) struct Inode {
    /// Permission bits: `mode & 0o7777`.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) times: Times,
    pub(crate) names: Names,
    pub(crate) xattrs: Option<Arc<Xattrs>>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    File(File),
    Dir(Box<Dir>),
    Symlink(Arc<[u8]>),
    CharDevice(u64),
    BlockDevice(u64),
    Fifo,
    Socket,
}

impl Body {
    pub(crate) fn kind(&self) -> ObjectKind {
        match self {
            Self::File(_) => ObjectKind::File,
            Self::Dir(_) => ObjectKind::Directory,
            Self::Symlink(_) => ObjectKind::Symlink,
            Self::CharDevice(_) => ObjectKind::CharDevice,
            Self::BlockDevice(_) => ObjectKind::BlockDevice,
            Self::Fifo => ObjectKind::Fifo,
            Self::Socket => ObjectKind::Socket,
        }
    }
}

impl Inode {
    pub(crate) fn kind(&self) -> ObjectKind {
        self.body.kind()
    }

    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }

    pub(crate) fn as_dir(&self) -> Option<&Dir> {
        let Body::Dir(dir) = &self.body else {
            return None;
        };
        Some(dir)
    }

    pub(crate) fn as_dir_mut(&mut self) -> Option<&mut Dir> {
        let Body::Dir(dir) = &mut self.body else {
            return None;
        };
        Some(dir)
    }

    pub(crate) fn as_file(&self) -> Option<&File> {
        let Body::File(file) = &self.body else {
            return None;
        };
        Some(file)
    }

    pub(crate) fn as_file_mut(&mut self) -> Option<&mut File> {
        let Body::File(file) = &mut self.body else {
            return None;
        };
        Some(file)
    }

    /// Returns the text of a symbolic link.
    pub(crate) fn link_text(&self) -> Option<&Arc<[u8]>> {
        let Body::Symlink(text) = &self.body else {
            return None;
        };
        Some(text)
    }

    pub(crate) fn attr(&self, node: NodeId) -> Attr {
        let (size, blocks, rdev) = match &self.body {
            Body::File(file) => (file.size(), file.blocks(), 0),
            Body::Dir(dir) => (dir.size(), 0, 0),
            Body::Symlink(target) => (target.len() as u64, 0, 0),
            Body::CharDevice(rdev) | Body::BlockDevice(rdev) => (0, 0, *rdev),
            Body::Fifo | Body::Socket => (0, 0, 0),
        };
        Attr {
            node,
            kind: self.kind(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            rdev,
            size,
            blocks,
            atime: self.times.atime,
            mtime: self.times.mtime,
            ctime: self.times.ctime,
            btime: self.times.btime,
        }
    }

    /// Returns the stamp, by which a change on the host is noticed.
    pub(crate) fn stamp(&self) -> Stamp {
        let size = match &self.body {
            Body::File(file) => file.size(),
            Body::Symlink(text) => text.len() as u64,
            Body::Dir(_)
            | Body::CharDevice(_)
            | Body::BlockDevice(_)
            | Body::Fifo
            | Body::Socket => return Stamp::NONE,
        };
        let lower = self.as_file().and_then(File::lower);
        Stamp {
            size,
            mtime: self.times.mtime,
            ctime: self.times.ctime,
            inode: lower.map_or(0, |lower| lower.inode),
        }
    }

    /// Sets the times for a change of content or entries.
    pub(crate) fn touch(&mut self, now: Nanos) {
        self.times.mtime = now;
        self.times.ctime = now;
    }
}

impl From<HostInode> for Inode {
    /// Returns the object as a branch copies it up, but without extended attributes, which are read
    /// from the host separately.
    fn from(host: HostInode) -> Self {
        let Times { mtime, ctime, .. } = host.times;
        let body = match host.body {
            HostBody::File { size, inode } => Body::File(File::over_lower(Stamp {
                size,
                mtime,
                ctime,
                inode,
            })),
            HostBody::Directory => Body::Dir(Box::new(Dir::merging())),
            HostBody::Symlink(text) => Body::Symlink(text),
            HostBody::CharDevice(rdev) => Body::CharDevice(rdev),
            HostBody::BlockDevice(rdev) => Body::BlockDevice(rdev),
            HostBody::Fifo => Body::Fifo,
            HostBody::Socket => Body::Socket,
        };
        Self {
            mode: host.mode,
            uid: host.uid,
            gid: host.gid,
            nlink: host.nlink,
            times: host.times,
            names: host.names,
            xattrs: None,
            body,
        }
    }
}

/// How an object of the lower directory was when the branch copied it up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// The version that its change is based on.
    pub(crate) version: Stamp,
    /// The time of that version's last change of any kind. It is `None` for a directory, in which
    /// others may add names, and once this process itself has moved or linked the object.
    pub(crate) ctime: Option<Nanos>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) xattrs: Option<Arc<Xattrs>>,
}

impl Seen {
    pub(crate) fn of(inode: &Inode) -> Self {
        Self {
            version: inode.stamp(),
            ctime: (!inode.is_dir()).then_some(inode.times.ctime),
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            xattrs: inode.xattrs.clone(),
        }
    }

    /// Returns the same for a change that is based on the version that was shown last, and not on
    /// the one that was found.
    pub(crate) fn based_on(self, shown: Option<Stamp>) -> Self {
        match shown {
            Some(version) => Self {
                version,
                ctime: self.ctime.map(|_| version.ctime),
                ..self
            },
            None => self,
        }
    }

    pub(crate) fn version(&self) -> Stamp {
        self.version
    }

    /// Records that this process has moved or linked the object, which had the version `found`.
    pub(crate) fn has_moved(&mut self, found: Stamp) {
        self.version = found;
        self.ctime = None;
    }

    /// Returns whether the host has left the object as it was. Extended attributes are not
    /// compared, because setting one moves the ctime.
    pub(crate) fn is_still(&self, now: &Inode) -> bool {
        self.version.has_bytes_of(&now.stamp())
            && self.ctime.is_none_or(|ctime| ctime == now.times.ctime)
            && (self.mode, self.uid, self.gid) == (now.mode, now.uid, now.gid)
    }
}
