//! An object as bytes: its metadata without its entries and its content.

use std::sync::Arc;

use super::bytes::{Decoder, Encoder, Malformed};
use crate::model::attr::{Times, Xattrs};
use crate::model::event::ObjectKind;
use crate::model::id::NodeId;
use crate::model::names::{NameChange, Names};
use crate::model::stamp::Stamp;
use crate::store::content::{File, MAX_SIZE};
use crate::store::dir::Dir;
use crate::store::inode::{Body, Inode, Seen};

impl ObjectKind {
    fn number(self) -> u8 {
        match self {
            Self::File => 0,
            Self::Directory => 1,
            Self::Symlink => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
        }
    }

    fn of_number(number: u8) -> Result<Self, Malformed> {
        Ok(match number {
            0 => Self::File,
            1 => Self::Directory,
            2 => Self::Symlink,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            other => return Err(Malformed::Kind("object", other.into())),
        })
    }
}

impl Encoder {
    pub(crate) fn node(&mut self, node: NodeId) {
        self.number(node.0);
    }

    pub(crate) fn kind(&mut self, kind: ObjectKind) {
        self.byte(kind.number());
    }

    fn stamp(&mut self, stamp: &Stamp) {
        self.number(stamp.size);
        self.signed(stamp.mtime);
        self.signed(stamp.ctime);
        self.number(stamp.inode);
    }

    fn xattrs(&mut self, xattrs: Option<&Arc<Xattrs>>) {
        // None and an empty set are different.
        self.number(xattrs.map_or(0, |all| all.len() as u64 + 1));
        for (name, value) in xattrs.into_iter().flat_map(|all| all.iter()) {
            self.text(name);
            self.text(value);
        }
    }

    /// Writes an object's metadata.
    pub(crate) fn inode(&mut self, inode: &Inode) {
        self.before_names(inode);
        let names = inode.names.all();
        self.number(names.len() as u64);
        for (dir, name) in names {
            self.node(dir);
            self.text(&name);
        }
        self.after_names(inode);
    }

    /// Writes an object's metadata as [`inode`](Self::inode) does, but of its names only the changes.
    pub(crate) fn relinked(&mut self, inode: &Inode, changed: &[NameChange]) {
        self.before_names(inode);
        self.number(changed.len() as u64);
        for NameChange {
            is_added,
            dir,
            name,
        } in changed
        {
            self.byte((*is_added).into());
            self.node(*dir);
            self.text(name);
        }
        self.after_names(inode);
    }

    fn before_names(&mut self, inode: &Inode) {
        self.kind(inode.kind());
        self.number(inode.mode);
        self.number(inode.uid);
        self.number(inode.gid);
        self.number(inode.nlink);
        let Times {
            atime,
            mtime,
            ctime,
            btime,
        } = inode.times;
        for time in [atime, mtime, ctime, btime] {
            self.signed(time);
        }
    }

    fn after_names(&mut self, inode: &Inode) {
        self.xattrs(inode.xattrs.as_ref());
        match &inode.body {
            Body::File(file) => {
                self.number(file.size());
                self.byte(match file.lower() {
                    None => 0,
                    Some(_) if file.is_kept() => 2,
                    Some(_) => 1,
                });
                if let Some(lower) = file.lower() {
                    self.stamp(lower);
                }
            }
            Body::Dir(dir) => self.byte(dir.merges_lower.into()),
            Body::Symlink(text) => self.text(text),
            Body::CharDevice(rdev) | Body::BlockDevice(rdev) => self.number(*rdev),
            Body::Fifo | Body::Socket => {}
        }
    }

    pub(crate) fn seen(&mut self, seen: &Seen) {
        self.stamp(&seen.version());
        self.byte(seen.ctime.is_some().into());
        self.signed(seen.ctime.unwrap_or(0));
        self.number(seen.mode);
        self.number(seen.uid);
        self.number(seen.gid);
        self.xattrs(seen.xattrs.as_ref());
    }
}

impl Decoder<'_> {
    pub(crate) fn node(&mut self) -> Result<NodeId, Malformed> {
        self.number().map(NodeId)
    }

    pub(crate) fn kind(&mut self) -> Result<ObjectKind, Malformed> {
        ObjectKind::of_number(self.byte()?)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Malformed::Kind("flag", other.into())),
        }
    }

    /// Reads permission bits, without those of the kind.
    fn mode(&mut self) -> Result<u32, Malformed> {
        let mode = self.small()?;
        if mode > 0o7777 {
            return Err(Malformed::Number);
        }
        Ok(mode)
    }

    fn stamp(&mut self) -> Result<Stamp, Malformed> {
        Ok(Stamp {
            size: self.number()?,
            mtime: self.signed()?,
            ctime: self.signed()?,
            inode: self.number()?,
        })
    }

    fn xattrs(&mut self) -> Result<Option<Arc<Xattrs>>, Malformed> {
        let Some(count) = self.number()?.checked_sub(1) else {
            return Ok(None);
        };
        let mut all = Xattrs::new();
        for _ in 0..count {
            let name = self.text()?;
            all.insert(name.into(), self.text()?.into());
        }
        Ok(Some(Arc::new(all)))
    }

    /// Reads an object's metadata. A directory has no entries and a file no bytes yet, unless `old`
    /// is the same object, whose entries or bytes it keeps.
    pub(crate) fn inode(&mut self, old: Option<Inode>) -> Result<Inode, Malformed> {
        self.inode_with(old, |decoder, _| {
            let mut names = Names::None;
            for _ in 0..decoder.count()? {
                let dir = decoder.node()?;
                names.add(dir, decoder.name()?.into());
            }
            Ok(names)
        })
    }

    /// Reads the metadata of an object that has the names of `old`, but for some changes.
    pub(crate) fn relinked(&mut self, old: Inode) -> Result<Inode, Malformed> {
        self.inode_with(Some(old), |decoder, mut names| {
            for _ in 0..decoder.count()? {
                names.change(NameChange {
                    is_added: decoder.flag()?,
                    dir: decoder.node()?,
                    name: decoder.name()?.into(),
                });
            }
            Ok(names)
        })
    }

    fn inode_with(
        &mut self,
        old: Option<Inode>,
        names: impl FnOnce(&mut Self, Names) -> Result<Names, Malformed>,
    ) -> Result<Inode, Malformed> {
        let kind = self.kind()?;
        let (mode, uid, gid, nlink) = (self.mode()?, self.small()?, self.small()?, self.small()?);
        let times = Times {
            atime: self.signed()?,
            mtime: self.signed()?,
            ctime: self.signed()?,
            btime: self.signed()?,
        };
        let (before, old) = match old {
            Some(old) => (old.names, Some(old.body)),
            None => (Names::None, None),
        };
        let mut names = names(self, before)?;
        // They are as the log has them.
        drop(names.take_changed());
        let xattrs = self.xattrs()?;
        let body = match (kind, old) {
            (ObjectKind::File, old) => {
                let mut file = match old {
                    Some(Body::File(file)) => file,
                    _ => File::default(),
                };
                let size = self.at_most(MAX_SIZE)?;
                let (lower, is_kept) = match self.byte()? {
                    0 => (None, false),
                    1 => (Some(self.stamp()?), false),
                    2 => (Some(self.stamp()?), true),
                    other => return Err(Malformed::Kind("content", other.into())),
                };
                file.recover(size, lower, is_kept);
                Body::File(file)
            }
            (ObjectKind::Directory, old) => {
                let mut dir = match old {
                    Some(Body::Dir(dir)) => dir,
                    _ => Box::<Dir>::default(),
                };
                dir.merges_lower = self.flag()?;
                Body::Dir(dir)
            }
            (ObjectKind::Symlink, _) => Body::Symlink(self.text()?.into()),
            (ObjectKind::CharDevice, _) => Body::CharDevice(self.number()?),
            (ObjectKind::BlockDevice, _) => Body::BlockDevice(self.number()?),
            (ObjectKind::Fifo, _) => Body::Fifo,
            (ObjectKind::Socket, _) => Body::Socket,
        };
        Ok(Inode {
            mode,
            uid,
            gid,
            nlink,
            times,
            names,
            xattrs,
            body,
        })
    }

    pub(crate) fn seen(&mut self) -> Result<Seen, Malformed> {
        let version = self.stamp()?;
        let has_ctime = self.flag()?;
        let ctime = self.signed()?;
        Ok(Seen {
            version,
            ctime: has_ctime.then_some(ctime),
            mode: self.mode()?,
            uid: self.small()?,
            gid: self.small()?,
            xattrs: self.xattrs()?,
        })
    }
}
