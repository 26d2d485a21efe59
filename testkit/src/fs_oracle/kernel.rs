//! The oracle: operations as real system calls on a private tmpfs.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{
    self, Access, AtFlags, CWD, Dev, FallocateFlags, FileType, Mode, OFlags, SeekFrom, Timespec,
    Timestamps, XattrFlags,
};
use rustix::io::Errno;
use rustix::process::umask;
use rustix::thread::{self, Gid, Uid};

use super::op::{
    Answer, Attr, Inodes, Op, RenameFlags, Special, Stamp, Step, Time, WALKER, Whence, Who, bytes,
};

/// A thread's view of its tmpfs.
#[derive(Debug)]
pub struct Kernel {
    slots: [Option<OwnedFd>; WALKER + 1],
    inodes: Inodes,
    me: Option<Who>,
    hardlinks_protected: bool,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.become_caller(Who::Root).unwrap();
    }
}

impl Kernel {
    /// Begins in the root directory that the thread has.
    pub fn new(fine_ctime: bool, hardlinks_protected: bool) -> Self {
        Self {
            slots: Default::default(),
            inodes: Inodes::new(fine_ctime),
            me: None,
            hardlinks_protected,
        }
    }

    /// Begins anew: nothing is open and no inode was seen.
    pub fn restart(&mut self) {
        self.slots = Default::default();
        self.inodes = Inodes::new(self.inodes.fine_ctime);
    }

    pub fn run(&mut self, step: Step) -> Answer {
        self.become_caller(step.by).unwrap();
        let answer = match step.op {
            Op::Link { from, .. } if self.link_is_restricted(step.by, from) => Ok(Answer::Skipped),
            op => self
                .by_slot(op)
                .or_else(|| by_path(op))
                .unwrap_or_else(|| self.stat(op)),
        };
        answer.unwrap_or_else(|errno| Answer::Errno(errno.raw_os_error()))
    }

    /// Takes the ids of `who`. With a non-zero effective uid the thread has no capability.
    pub fn become_caller(&mut self, who: Who) -> io::Result<()> {
        if self.me == Some(who) {
            return Ok(());
        }
        let root = Uid::ROOT;
        thread::set_thread_res_uid(root, root, root)?;
        let groups: Vec<Gid> = who.groups().iter().map(|g| Gid::from_raw(*g)).collect();
        thread::set_thread_groups(&groups)?;
        let gid = Gid::from_raw(who.gid());
        thread::set_thread_res_gid(Gid::ROOT, gid, Gid::ROOT)?;
        thread::set_thread_res_uid(root, Uid::from_raw(who.uid()), root)?;
        umask(Mode::from_raw_mode(who.umask()));
        self.me = Some(who);
        Ok(())
    }

    /// Returns whether `fs.protected_hardlinks` of this machine could decide: a setting of the
    /// machine does not belong to the behaviour of a filesystem.
    fn link_is_restricted(&self, by: Who, from: &str) -> bool {
        self.hardlinks_protected
            && by != Who::Root
            && fs::statat(CWD, from, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| stat.st_uid != by.uid())
    }

    fn by_slot(&mut self, op: Op) -> Option<Result<Answer, Errno>> {
        let slot = match op {
            Op::Open {
                slot,
                path,
                flags,
                mode,
            } => return Some(self.open(slot, path, flags, mode)),
            Op::Close { slot } => {
                return Some(Ok(match self.slots[slot].take() {
                    Some(_) => Answer::Done,
                    None => Answer::Skipped,
                }));
            }
            Op::CopyRange {
                from,
                from_at,
                to,
                to_at,
                len,
            } => {
                return Some(self.copy_range(from, from_at, to, to_at, len));
            }
            Op::Read { slot, .. }
            | Op::Pread { slot, .. }
            | Op::Write { slot, .. }
            | Op::Pwrite { slot, .. }
            | Op::Ftruncate { slot, .. }
            | Op::Fallocate { slot, .. }
            | Op::Seek { slot, .. }
            | Op::Fsync { slot }
            | Op::Fstat { slot }
            | Op::Fchmod { slot, .. }
            | Op::Fchown { slot, .. }
            | Op::Futimens { slot, .. } => slot,
            _ => return None,
        };
        let Some(fd) = &self.slots[slot] else {
            return Some(Ok(Answer::Skipped));
        };
        if matches!(op, Op::Fstat { .. }) {
            return None;
        }
        Some(on_descriptor(fd, op))
    }

    fn open(&mut self, slot: usize, path: &str, flags: i32, mode: u32) -> Result<Answer, Errno> {
        if is_special(path, flags) {
            // The opening of a fifo or a device is not the filesystem's business.
            return Ok(Answer::Skipped);
        }
        let flags = OFlags::from_bits_retain(u32::try_from(flags).unwrap());
        let fd = fs::openat(CWD, path, flags, Mode::from_raw_mode(mode))?;
        self.slots[slot] = Some(fd);
        Ok(Answer::Done)
    }

    fn copy_range(
        &self,
        from: usize,
        mut from_at: u64,
        to: usize,
        mut to_at: u64,
        len: usize,
    ) -> Result<Answer, Errno> {
        let (Some(from), Some(to)) = (&self.slots[from], &self.slots[to]) else {
            return Ok(Answer::Skipped);
        };
        fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), len).map(number)
    }

    fn stat(&mut self, op: Op) -> Result<Answer, Errno> {
        let stat = match op {
            Op::Stat { path, follow } => fs::statat(CWD, path, at_flags(follow))?,
            Op::Fstat { slot } => match &self.slots[slot] {
                Some(fd) => fs::fstat(fd)?,
                None => return Ok(Answer::Skipped),
            },
            other => unreachable!("{other:?} is answered elsewhere"),
        };
        Ok(Answer::Attr(self.attr(&stat)))
    }

    pub fn attr(&mut self, stat: &fs::Stat) -> Attr {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (is_file, is_dir) = (kind == FileType::RegularFile, kind == FileType::Directory);
        let ctime = (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap());
        let (inode, changed) = self.inodes.look(stat.st_ino, ctime);
        Attr {
            mode: stat.st_mode,
            nlink: stat.st_nlink,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap(),
            blocks: if is_file {
                u64::try_from(stat.st_blocks).unwrap()
            } else {
                0
            },
            device: (fs::major(stat.st_rdev), fs::minor(stat.st_rdev)),
            inode,
            // A directory gets the time of the object that it lost, which may be a coarse one.
            changed: changed && !is_dir,
            atime: Time::new(stat.st_atime, u32::try_from(stat.st_atime_nsec).unwrap()),
            mtime: Time::new(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap()),
        }
    }
}

fn at_flags(follow: bool) -> AtFlags {
    if follow {
        AtFlags::empty()
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    }
}

fn number(value: usize) -> Answer {
    Answer::Number(u64::try_from(value).unwrap())
}

/// Returns whether the path leads to something that is neither a regular file nor a directory nor a link.
fn is_special(path: &str, flags: i32) -> bool {
    let follow = flags & libc::O_NOFOLLOW == 0;
    fs::statat(CWD, path, at_flags(follow)).is_ok_and(|stat| {
        !matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::RegularFile | FileType::Directory | FileType::Symlink
        )
    })
}

fn timestamps(atime: Stamp, mtime: Stamp) -> Timestamps {
    let spec = |stamp| match stamp {
        Stamp::Omit => Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        Stamp::Now => Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_NOW,
        },
        Stamp::At(seconds, nanos) => Timespec {
            tv_sec: seconds,
            tv_nsec: i64::from(nanos),
        },
    };
    Timestamps {
        last_access: spec(atime),
        last_modification: spec(mtime),
    }
}

fn on_descriptor(fd: &OwnedFd, op: Op) -> Result<Answer, Errno> {
    let done = |()| Answer::Done;
    let uid = |id: Option<u32>| id.map(Uid::from_raw);
    let gid = |id: Option<u32>| id.map(Gid::from_raw);
    match op {
        Op::Read { len, .. } => {
            let mut into = vec![0; len];
            let got = rustix::io::read(fd, &mut into)?;
            into.truncate(got);
            Ok(Answer::Bytes(into))
        }
        Op::Pread { at, len, .. } => {
            let mut into = vec![0; len];
            let got = rustix::io::pread(fd, &mut into, at)?;
            into.truncate(got);
            Ok(Answer::Bytes(into))
        }
        Op::Write { seed, len, .. } => rustix::io::write(fd, &bytes(seed, len)).map(number),
        Op::Pwrite { at, seed, len, .. } => {
            rustix::io::pwrite(fd, &bytes(seed, len), at).map(number)
        }
        Op::Ftruncate { len, .. } => fs::ftruncate(fd, len).map(done),
        Op::Fallocate { mode, at, len, .. } => {
            fs::fallocate(fd, FallocateFlags::from_bits_retain(mode), at, len).map(done)
        }
        Op::Seek { whence, to, .. } => seek(fd, whence, to),
        Op::Fsync { .. } => fs::fsync(fd).map(done),
        Op::Fchmod { mode, .. } => fs::fchmod(fd, Mode::from_raw_mode(mode)).map(done),
        Op::Fchown {
            uid: user,
            gid: group,
            ..
        } => fs::fchown(fd, uid(user), gid(group)).map(done),
        Op::Futimens { atime, mtime, .. } => fs::futimens(fd, &timestamps(atime, mtime)).map(done),
        other => unreachable!("{other:?} has no descriptor"),
    }
}

fn seek(fd: &OwnedFd, whence: Whence, to: i64) -> Result<Answer, Errno> {
    // A negative offset stays negative: its bits are handed on to the system call.
    let offset = i64::cast_unsigned;
    let from = match whence {
        Whence::Set => SeekFrom::Start(offset(to)),
        Whence::Cur => SeekFrom::Current(to),
        Whence::End => SeekFrom::End(to),
        Whence::Data => SeekFrom::Data(offset(to)),
        Whence::Hole => SeekFrom::Hole(offset(to)),
    };
    fs::seek(fd, from).map(Answer::Number)
}

fn by_path(op: Op) -> Option<Result<Answer, Errno>> {
    let done = |()| Answer::Done;
    Some(match op {
        Op::Truncate { path, len } => truncate(path, len),
        Op::Mkdir { path, mode } => fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)).map(done),
        Op::Rmdir { path } => fs::unlinkat(CWD, path, AtFlags::REMOVEDIR).map(done),
        Op::Unlink { path } => fs::unlinkat(CWD, path, AtFlags::empty()).map(done),
        Op::Rename { from, to, flags } => {
            fs::renameat_with(CWD, from, CWD, to, rename_flags(flags)).map(done)
        }
        Op::Link { from, to } => fs::linkat(CWD, from, CWD, to, AtFlags::empty()).map(done),
        Op::Symlink { target, path } => fs::symlinkat(target, CWD, path).map(done),
        Op::Readlink { path } => {
            fs::readlinkat(CWD, path, Vec::new()).map(|to| Answer::Bytes(to.into_bytes()))
        }
        Op::Mknod {
            path,
            special,
            mode,
        } => mknod(path, special, mode).map(done),
        Op::Readdir { path } => readdir(path).map(Answer::Names),
        Op::Chmod { path, mode } => {
            fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).map(done)
        }
        Op::Chown {
            path,
            uid,
            gid,
            follow,
        } => {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            fs::chownat(CWD, path, uid, gid, at_flags(follow)).map(done)
        }
        Op::Utimens {
            path,
            atime,
            mtime,
            follow,
        } => fs::utimensat(CWD, path, &timestamps(atime, mtime), at_flags(follow)).map(done),
        Op::Access { path, mask } => {
            let mask = Access::from_bits_retain(mask);
            fs::accessat(CWD, path, mask, AtFlags::EACCESS).map(done)
        }
        Op::SetXattr {
            path,
            name,
            seed,
            len,
            flags,
            follow,
        } => {
            let value = bytes(seed, len);
            let flags = XattrFlags::from_bits_retain(flags);
            let set = if follow { fs::setxattr } else { fs::lsetxattr };
            set(path, name, &value, flags).map(done)
        }
        Op::GetXattr { path, name, follow } => get_xattr(path, name, follow).map(Answer::Bytes),
        Op::ListXattr { path, follow } => list_xattr(path, follow).map(Answer::Names),
        Op::RemoveXattr { path, name, follow } => {
            let remove = if follow {
                fs::removexattr
            } else {
                fs::lremovexattr
            };
            remove(path, name).map(done)
        }
        // The limit is 255 for both; the numbers of blocks and files are each filesystem's own.
        Op::Statfs { path } => {
            fs::statfs(path).map(|stat| Answer::Number(u64::try_from(stat.f_namelen).unwrap()))
        }
        _ => return None,
    })
}

fn rename_flags(flags: RenameFlags) -> fs::RenameFlags {
    match flags {
        RenameFlags::None => fs::RenameFlags::empty(),
        RenameFlags::NoReplace => fs::RenameFlags::NOREPLACE,
        RenameFlags::Exchange => fs::RenameFlags::EXCHANGE,
        RenameFlags::Both => fs::RenameFlags::EXCHANGE | fs::RenameFlags::NOREPLACE,
    }
}

fn mknod(path: &str, special: Special, mode: u32) -> Result<(), Errno> {
    let (kind, device): (FileType, Dev) = match special {
        Special::Regular => (FileType::RegularFile, 0),
        Special::Fifo => (FileType::Fifo, 0),
        Special::Socket => (FileType::Socket, 0),
        Special::Char(major, minor) => (FileType::CharacterDevice, fs::makedev(major, minor)),
        Special::Block(major, minor) => (FileType::BlockDevice, fs::makedev(major, minor)),
    };
    fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device)
}

/// Makes the system call by path: opening the file would be another operation.
fn truncate(path: &str, len: u64) -> Result<Answer, Errno> {
    let len = i64::try_from(len).map_err(|_| Errno::INVAL)?;
    match nix::unistd::truncate(path, len) {
        Ok(()) => Ok(Answer::Done),
        Err(errno) => Err(Errno::from_raw_os_error(errno as i32)),
    }
}

pub fn readdir(path: &str) -> Result<Vec<(Vec<u8>, char)>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = fs::openat(CWD, path, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in fs::Dir::new(fd)? {
        let entry = entry?;
        names.push((
            entry.file_name().to_bytes().to_vec(),
            letter(entry.file_type()),
        ));
    }
    names.sort();
    Ok(names)
}

fn letter(kind: FileType) -> char {
    match kind {
        FileType::RegularFile => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Unknown => '?',
    }
}

pub fn get_xattr(path: &str, name: &str, follow: bool) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 65536];
    let get = if follow {
        fs::getxattr::<_, _, &mut [u8]>
    } else {
        fs::lgetxattr::<_, _, &mut [u8]>
    };
    let got = get(path, name, value.as_mut_slice())?;
    value.truncate(got);
    Ok(value)
}

pub fn list_xattr(path: &str, follow: bool) -> Result<Vec<(Vec<u8>, char)>, Errno> {
    let mut list = vec![0; 65536];
    let get = if follow {
        fs::listxattr::<_, &mut [u8]>
    } else {
        fs::llistxattr::<_, &mut [u8]>
    };
    let got = get(path, list.as_mut_slice())?;
    list.truncate(got);
    let mut names: Vec<_> = list
        .split(|byte| *byte == 0)
        // A security module adds names of its own.
        .filter(|name| name.starts_with(b"user."))
        .map(|name| (name.to_vec(), 'x'))
        .collect();
    names.sort();
    Ok(names)
}
