//! Carries out the same operations on a branch of FsCore.

use std::path::Path;

use agentfs_core::event::ObjectKind;
use agentfs_core::{
    Access, AllocateFlags, BackstoreMode, Branch, Caller, FsConfig, FsCore, HandleId, OpenFlags,
    Overlay, RenameFlags as CoreRename, Result, Seek, SetAttr, SetTime, XattrFlags, file_type,
};
use agentfs_testkit::fs_oracle::op::{
    Answer, Attr, Inodes, Op, RenameFlags, Special, Stamp, Step, Time, WALKER, Whence, Who, bytes,
};

/// A branch with a table of descriptors.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) branch: Branch,
    slots: [Option<HandleId>; WALKER + 1],
    inodes: Inodes,
}

/// Creates a filesystem that is like an empty directory, or lies over the directory `lower`.
pub(crate) fn filesystem(lower: Option<&str>) -> FsCore {
    filesystem_in(BackstoreMode::Memory, lower)
}

/// Creates a filesystem in memory, or opens that of a store.
pub(crate) fn filesystem_in(backstore: BackstoreMode, lower: Option<&str>) -> FsCore {
    let overlay = lower.map(|lower| Overlay {
        lower: lower.into(),
    });
    FsCore::new(FsConfig {
        backstore,
        overlay,
        ..FsConfig::default()
    })
    .unwrap()
}

/// Opens the filesystem of a store, which is like an empty directory if it is new.
pub(crate) fn filesystem_of(store: &Path) -> FsCore {
    filesystem_in(BackstoreMode::Disk(store.to_owned()), None)
}

pub(crate) fn caller(who: Who) -> Caller {
    Caller::new(who.uid(), who.gid())
        .with_groups(who.groups())
        .with_umask(who.umask())
}

impl Core {
    pub(crate) fn new(branch: Branch, fine_ctime: bool) -> Self {
        Self {
            branch,
            slots: [None; WALKER + 1],
            inodes: Inodes::new(fine_ctime),
        }
    }

    /// Resets this side as if it were new: nothing is open and no inode was seen.
    pub(crate) fn restart(&mut self) {
        for handle in self.slots.iter_mut().filter_map(Option::take) {
            self.branch.close(&Caller::root(), handle).unwrap();
        }
        self.inodes = Inodes::new(self.inodes.fine_ctime);
    }

    pub(crate) fn run(&mut self, step: Step) -> Answer {
        let caller = caller(step.by);
        let answer = self
            .by_slot(&caller, step.op)
            .or_else(|| self.by_path(&caller, step.op))
            .unwrap_or_else(|| self.stat(&caller, step.op));
        answer.unwrap_or_else(|errno| Answer::Errno(errno.raw()))
    }

    fn by_slot(&mut self, caller: &Caller, op: Op) -> Option<Result<Answer>> {
        let slot = match op {
            Op::Open {
                slot,
                path,
                flags,
                mode,
            } => {
                let flags = OpenFlags::from_bits(u32::try_from(flags).unwrap());
                let opened = self.branch.open(caller, path, flags, mode);
                return Some(opened.map(|handle| {
                    if let Some(old) = self.slots[slot].replace(handle) {
                        self.branch.close(caller, old).unwrap();
                    }
                    Answer::Done
                }));
            }
            Op::Close { slot } => {
                return Some(match self.slots[slot].take() {
                    Some(handle) => self.branch.close(caller, handle).map(|()| Answer::Done),
                    None => Ok(Answer::Skipped),
                });
            }
            Op::CopyRange {
                from,
                from_at,
                to,
                to_at,
                len,
            } => {
                let (Some(from), Some(to)) = (self.slots[from], self.slots[to]) else {
                    return Some(Ok(Answer::Skipped));
                };
                let len = u64::try_from(len).unwrap();
                let copied = self
                    .branch
                    .copy_range(caller, (from, from_at), (to, to_at), len);
                return Some(copied.map(Answer::Number));
            }
            Op::Read { slot, .. }
            | Op::Pread { slot, .. }
            | Op::Write { slot, .. }
            | Op::Pwrite { slot, .. }
            | Op::Ftruncate { slot, .. }
            | Op::Fallocate { slot, .. }
            | Op::Seek { slot, .. }
            | Op::Fsync { slot }
            | Op::Fchmod { slot, .. }
            | Op::Fchown { slot, .. }
            | Op::Futimens { slot, .. } => slot,
            _ => return None,
        };
        let Some(handle) = self.slots[slot] else {
            return Some(Ok(Answer::Skipped));
        };
        Some(self.on_handle(caller, handle, op))
    }

    fn on_handle(&self, caller: &Caller, handle: HandleId, op: Op) -> Result<Answer> {
        let branch = &self.branch;
        let set = |set: SetAttr| {
            let node = branch.node_of(handle)?;
            branch
                .setattr_node(caller, node, Some(handle), &set)
                .map(|_| Answer::Done)
        };
        match op {
            Op::Read { len, .. } => {
                let mut into = vec![0; len];
                let got = branch.read(caller, handle, &mut into)?;
                into.truncate(got);
                Ok(Answer::Bytes(into))
            }
            Op::Pread { at, len, .. } => {
                let mut into = vec![0; len];
                let got = branch.read_at(caller, handle, at, &mut into)?;
                into.truncate(got);
                Ok(Answer::Bytes(into))
            }
            Op::Write { seed, len, .. } => {
                branch.write(caller, handle, &bytes(seed, len)).map(number)
            }
            Op::Pwrite { at, seed, len, .. } => branch
                .write_at(caller, handle, at, &bytes(seed, len))
                .map(number),
            Op::Ftruncate { len, .. } => branch.ftruncate(caller, handle, len).map(done),
            Op::Fallocate { mode, at, len, .. } => {
                let flags = AllocateFlags::from_bits(mode);
                branch.fallocate(caller, handle, flags, at, len).map(done)
            }
            Op::Seek { whence, to, .. } => {
                let to = match whence {
                    Whence::Set => Seek::Set(to),
                    Whence::Cur => Seek::Current(to),
                    Whence::End => Seek::End(to),
                    Whence::Data => Seek::Data(to),
                    Whence::Hole => Seek::Hole(to),
                };
                branch.seek(handle, to).map(Answer::Number)
            }
            Op::Fsync { .. } => branch.fsync(handle).map(done),
            Op::Fchmod { mode, .. } => set(SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            }),
            Op::Fchown { uid, gid, .. } => set(SetAttr {
                uid,
                gid,
                ..SetAttr::default()
            }),
            Op::Futimens { atime, mtime, .. } => set(SetAttr {
                atime: time(atime),
                mtime: time(mtime),
                ..SetAttr::default()
            }),
            other => unreachable!("{other:?} has no descriptor"),
        }
    }

    fn by_path(&self, caller: &Caller, op: Op) -> Option<Result<Answer>> {
        let branch = &self.branch;
        Some(match op {
            Op::Truncate { path, len } => branch.truncate(caller, path, len).map(done),
            Op::Mkdir { path, mode } => branch.mkdir(caller, path, mode).map(made),
            Op::Rmdir { path } => branch.rmdir(caller, path).map(done),
            Op::Unlink { path } => branch.unlink(caller, path).map(done),
            Op::Rename { from, to, flags } => branch
                .rename(caller, from, to, rename_flags(flags))
                .map(done),
            Op::Link { from, to } => branch.link(caller, from, to).map(made),
            Op::Symlink { target, path } => branch.symlink(caller, target, path).map(made),
            Op::Readlink { path } => branch
                .readlink(caller, path)
                .map(|text| Answer::Bytes(text.to_vec())),
            Op::Mknod {
                path,
                special,
                mode,
            } => {
                let (kind, rdev) = device(special);
                branch
                    .mknod(caller, path, mode | file_type(kind), rdev)
                    .map(made)
            }
            Op::Readdir { path } => self.readdir(caller, path).map(Answer::Names),
            Op::Chmod { path, mode } => branch.chmod(caller, path, mode).map(done),
            Op::Chown {
                path,
                uid,
                gid,
                follow,
            } => branch.chown(caller, path, follow, uid, gid).map(done),
            Op::Utimens {
                path,
                atime,
                mtime,
                follow,
            } => branch
                .utimens(caller, path, follow, time(atime), time(mtime))
                .map(done),
            Op::Access { path, mask } => branch
                .access(caller, path, Access::from_bits(mask))
                .map(done),
            Op::Statfs { path } => {
                // Once the path leads somewhere, statfs reports on the whole filesystem.
                let stat = branch.stat(caller, path).map(|_| branch.statfs());
                stat.map(|stat| Answer::Number(u64::from(stat.name_max)))
            }
            Op::SetXattr {
                path,
                name,
                seed,
                len,
                flags,
                follow,
            } => {
                let (value, flags) = (bytes(seed, len), XattrFlags::from_bits(flags));
                branch
                    .setxattr(caller, path, follow, name.as_bytes(), &value, flags)
                    .map(done)
            }
            Op::GetXattr { path, name, follow } => branch
                .getxattr(caller, path, follow, name.as_bytes())
                .map(|value| Answer::Bytes(value.to_vec())),
            Op::ListXattr { path, follow } => branch.listxattr(caller, path, follow).map(|all| {
                let mut names: Vec<_> = all.iter().map(|name| (name.to_vec(), 'x')).collect();
                names.sort();
                Answer::Names(names)
            }),
            Op::RemoveXattr { path, name, follow } => branch
                .removexattr(caller, path, follow, name.as_bytes())
                .map(done),
            _ => return None,
        })
    }

    /// Opens the directory and reads it in small parts, so that cookies count.
    fn readdir(&self, caller: &Caller, path: &str) -> Result<Vec<(Vec<u8>, char)>> {
        let handle = self.branch.open(caller, path, OpenFlags::DIRECTORY, 0)?;
        let (mut names, mut cookie) = (Vec::new(), 0);
        let result = loop {
            let part = match self.branch.readdir(caller, handle, cookie, 3) {
                Ok(part) => part,
                Err(errno) => break Err(errno),
            };
            let Some(last) = part.last() else {
                break Ok(());
            };
            cookie = last.cookie;
            names.extend(
                part.iter()
                    .map(|entry| (entry.name.to_vec(), letter(entry.kind))),
            );
        };
        self.branch.close(caller, handle)?;
        names.sort();
        result.map(|()| names)
    }

    fn stat(&mut self, caller: &Caller, op: Op) -> Result<Answer> {
        let attr = match op {
            Op::Stat { path, follow: true } => self.branch.stat(caller, path)?,
            Op::Stat {
                path,
                follow: false,
            } => self.branch.lstat(caller, path)?,
            Op::Fstat { slot } => match self.slots[slot] {
                Some(handle) => self.branch.fstat(handle)?,
                None => return Ok(Answer::Skipped),
            },
            other => unreachable!("{other:?} is answered elsewhere"),
        };
        let (inode, changed) = self.inodes.look(attr.node.0, (attr.ctime, 0));
        let since = |nanos: i64| {
            let second = 1_000_000_000;
            let part = u32::try_from(nanos.rem_euclid(second)).unwrap();
            Time::new(nanos.div_euclid(second), part)
        };
        Ok(Answer::Attr(Attr {
            mode: attr.st_mode(),
            nlink: u64::from(attr.nlink),
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            blocks: if attr.kind == ObjectKind::File {
                attr.blocks
            } else {
                0
            },
            device: (rustix::fs::major(attr.rdev), rustix::fs::minor(attr.rdev)),
            inode,
            changed: changed && !attr.kind.is_dir(),
            atime: since(attr.atime),
            mtime: since(attr.mtime),
        }))
    }
}

fn done((): ()) -> Answer {
    Answer::Done
}

fn made(_: agentfs_core::Attr) -> Answer {
    Answer::Done
}

fn number(value: usize) -> Answer {
    Answer::Number(u64::try_from(value).unwrap())
}

fn time(stamp: Stamp) -> Option<SetTime> {
    match stamp {
        Stamp::Omit => None,
        Stamp::Now => Some(SetTime::Now),
        Stamp::At(seconds, nanos) => Some(SetTime::To(seconds * 1_000_000_000 + i64::from(nanos))),
    }
}

fn rename_flags(flags: RenameFlags) -> CoreRename {
    match flags {
        RenameFlags::None => CoreRename::REPLACE,
        RenameFlags::NoReplace => CoreRename::NOREPLACE,
        RenameFlags::Exchange => CoreRename::EXCHANGE,
        RenameFlags::Both => CoreRename::EXCHANGE | CoreRename::NOREPLACE,
    }
}

fn device(special: Special) -> (ObjectKind, u64) {
    match special {
        Special::Regular => (ObjectKind::File, 0),
        Special::Fifo => (ObjectKind::Fifo, 0),
        Special::Socket => (ObjectKind::Socket, 0),
        Special::Char(major, minor) => (ObjectKind::CharDevice, rustix::fs::makedev(major, minor)),
        Special::Block(major, minor) => {
            (ObjectKind::BlockDevice, rustix::fs::makedev(major, minor))
        }
    }
}

fn letter(kind: ObjectKind) -> char {
    match kind {
        ObjectKind::File => 'f',
        ObjectKind::Directory => 'd',
        ObjectKind::Symlink => 'l',
        ObjectKind::Fifo => 'p',
        ObjectKind::Socket => 's',
        ObjectKind::CharDevice => 'c',
        ObjectKind::BlockDevice => 'b',
    }
}
