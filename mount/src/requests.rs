//! The requests of the protocol, each of which is one operation of FsCore.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::SystemTime;

use agentfs_core::{AllocateFlags, RenameFlags, SetAttr, XattrFlags, kind_of_mode};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::adapter::{Adapter, GENERATION, LONG, NEVER, ask_kernel};
use crate::adopted_handles::Access;
use crate::convert::{errno, file_type, no_entry, set_time};
use crate::echo::{echo_opened, echo_released};
use crate::reply::{listing_error, name_list, node, open_flags, reply_written, reply_xattr, seek};
use crate::resent::{is_resent, or_gone};

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.negotiated(ask_kernel(config));
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if self.echo.is_busy()
            && let Some(answer) = self.echo_lookup(request.pid(), parent, name)
        {
            return self.echo_entry(parent, answer, reply);
        }
        let mark = self.cache.mark();
        let lifetime = self.name_lifetime(self.branch.tells_names(node(parent)));
        let caller = self.caller(request);
        match self.look_up(&caller, node(parent), name.as_bytes()) {
            Err(agentfs_core::Errno::ENOENT) if lifetime > NEVER => {
                reply.entry_with_ttls(&LONG, &LONG, &no_entry(), GENERATION);
            }
            found => self.reply_entry(mark, parent, lifetime, found, reply),
        }
    }

    fn forget(&self, _: &Request, inode: INodeNo, lookups: u64) {
        self.cache.forget(node(inode), lookups);
        self.forget_nameless(node(inode));
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if self.echo.is_own(request.pid()) {
            return self.echo_attr(inode, reply);
        }
        let found = self.branch.show_node(node(inode)).or_else(|error| {
            let orphan = self.cache.orphan(node(inode));
            orphan.map(agentfs_core::Shown::own).ok_or(error)
        });
        match self.tried(request.pid(), found) {
            Ok(shown) => self.reply_shown(&shown, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        file: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if self.echo.is_own(request.pid()) {
            return self.echo_attr(inode, reply);
        }
        let _delivery = self.deliver_after();
        let set = SetAttr {
            size,
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        let caller = self.caller(request);
        // Only a truncation needs the handle, because it was opened for writing.
        let file = file.filter(|_| size.is_some());
        let handle = file.map(|file| self.handle(&caller, (inode, file), Access::Write));
        let changed = handle
            .transpose()
            .and_then(|handle| self.branch.setattr_node(&caller, node(inode), handle, &set));
        let orphan = |error| self.cache.change_orphan(node(inode), &set).ok_or(error);
        self.reply_attr(changed.or_else(orphan), &NEVER, reply);
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        let text = self.branch.readlink_node(node(inode));
        match self.tried(request.pid(), text) {
            Ok(text) => reply.data(&text),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.make(request, parent, reply, |caller| {
            let (dir, rdev) = (node(parent), u64::from(rdev));
            let made = self
                .branch
                .mknod_at(caller, dir, name.as_bytes(), mode, rdev);
            self.or_made(request, (parent, name), made, |it| {
                kind_of_mode(mode) == Some(it.kind) && it.uid == caller.uid
            })
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(request, parent, reply, |caller| {
            let made = self
                .branch
                .mkdir_at(caller, node(parent), name.as_bytes(), mode);
            self.or_made(request, (parent, name), made, |it| {
                it.kind.is_dir() && it.uid == caller.uid
            })
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        text: &Path,
        reply: ReplyEntry,
    ) {
        self.make(request, parent, reply, |caller| {
            let (dir, text) = (node(parent), text.as_os_str().as_bytes());
            let made = self.branch.symlink_at(caller, dir, name.as_bytes(), text);
            self.or_made(request, (parent, name), made, |it| {
                let there = self.branch.readlink_node(it.node);
                there.is_ok_and(|there| *there == *text)
            })
        });
    }

    fn link(
        &self,
        request: &Request,
        inode: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        self.make(request, parent, reply, |caller| {
            let (node, dir) = (node(inode), node(parent));
            let made = self.branch.link_node(caller, node, dir, name.as_bytes());
            self.or_made(request, (parent, name), made, |it| it.node == node)
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.take_name(request, (parent, name), reply, |caller| {
            let removed = self.branch.unlink_at(caller, node(parent), name.as_bytes());
            or_gone(request, agentfs_core::Errno::ENOENT, removed)
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.take_name(request, (parent, name), reply, |caller| {
            let removed = self.branch.rmdir_at(caller, node(parent), name.as_bytes());
            or_gone(request, agentfs_core::Errno::ENOENT, removed)
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.take_name(request, (new_parent, new_name), reply, |caller| {
            let (from, to) = (node(parent), node(new_parent));
            let flags = RenameFlags::from_bits(flags.bits());
            let (name, new) = (name.as_bytes(), new_name.as_bytes());
            let renamed = self.branch.rename_at(caller, from, name, to, new, flags);
            self.or_renamed(request, (new_parent, new_name), flags, renamed)
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.echo.is_own(request.pid()) {
            return echo_opened(reply);
        }
        let _delivery = self.deliver_after();
        let (caller, flags) = (self.caller(request), open_flags(flags));
        match self.open_node(&caller, node(inode), flags) {
            Ok(handle) => self.reply_open(inode, handle, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let _delivery = self.deliver_after();
        let mark = self.cache.mark();
        let (caller, mode) = (self.caller(request), mode & 0o7777);
        let flags = open_flags(OpenFlags(flags));
        let created = self
            .branch
            .create_at(&caller, node(parent), name.as_bytes(), flags, mode);
        match self.or_created(request, &caller, (parent, name), flags, created) {
            Ok((handle, attr)) => self.reply_create(mark, parent, (handle, attr), reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _delivery = self.deliver_after();
        let caller = self.caller(request);
        let size = usize::try_from(size).unwrap_or_default();
        self.read_file(&caller, (inode, file), (offset, size), reply);
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _delivery = self.deliver_after();
        let caller = self.caller(request);
        let appends = open_flags(flags).contains(agentfs_core::OpenFlags::APPEND);
        let access = if appends {
            Access::Append
        } else {
            Access::Write
        };
        let handle = match self.handle(&caller, (inode, file), access) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(error)),
        };
        let is_at_end = appends && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if is_at_end && self.is_appended(request, inode, (offset, data)) {
            return reply_written(Ok(data.len() as u64), reply);
        }
        let (written, was_current) = self.write_data(
            &caller,
            (inode, handle),
            (offset, data),
            (appends, write_flags),
        );
        let is_misplaced = appends && self.is_misplaced(handle, offset, written, was_current);
        reply_written(written.map(|written| written as u64), reply);
        if is_misplaced {
            self.cache.drop_content(node(inode));
        }
    }

    fn release(
        &self,
        request: &Request,
        inode: INodeNo,
        file: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let Some(reply) = echo_released(file, reply) else {
            return;
        };
        self.carry_out(request, reply, |caller| {
            self.close(caller, (inode, file), flags)
        });
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.reply_opendir(inode, reply);
    }

    fn readdir(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let caller = self.caller(request);
        let is_told = self.branch.tells_names(node(inode));
        let read = self
            .readdir_cache
            .read(&self.branch, &caller, node(inode), offset, |entry| {
                let name = OsStr::from_bytes(&entry.name);
                let inode = INodeNo(entry.node.0);
                reply.add(inode, entry.cookie, file_type(entry.kind), name)
            });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(listing_error(error)),
        }
        self.listed(inode, is_told);
    }

    fn readdirplus(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let caller = self.caller(request);
        let is_told = self.branch.tells_names(node(inode));
        let lifetime = self.name_lifetime(is_told);
        let read = self
            .readdir_cache
            .read(&self.branch, &caller, node(inode), offset, |entry| {
                self.add_with_attributes(inode, lifetime, entry, &mut reply)
            });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(listing_error(error)),
        }
        self.listed(inode, is_told);
    }

    // Everything is in memory, and there is nothing to wait for. After this answer the kernel does
    // not ask again and lets the calls succeed.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let all = self.branch.statfs();
        reply.statfs(
            all.blocks,
            all.blocks_free,
            all.blocks_free,
            all.files,
            all.files_free,
            all.block_size,
            all.name_max,
            all.block_size,
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.carry_out(request, reply, |caller| {
            let flags = XattrFlags::from_bits(flags.cast_unsigned());
            let (node, name) = (node(inode), name.as_bytes());
            let set = self.branch.setxattr_node(caller, node, name, value, flags);
            let there = || self.branch.getxattr_node(caller, node, name);
            match set {
                Err(agentfs_core::Errno::EEXIST)
                    if is_resent(request) && there().is_ok_and(|it| *it == *value) =>
                {
                    Ok(())
                }
                set => set,
            }
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (caller, name) = (self.caller(request), name.as_bytes());
        let value = self.branch.getxattr_node(&caller, node(inode), name);
        reply_xattr(self.tried(request.pid(), value), size, reply);
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let caller = self.caller(request);
        let names = self.branch.listxattr_node(&caller, node(inode));
        let names = self.tried(request.pid(), names);
        reply_xattr(names.map(|names| name_list(&names)), size, reply);
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.carry_out(request, reply, |caller| {
            let removed = self
                .branch
                .removexattr_node(caller, node(inode), name.as_bytes());
            or_gone(request, agentfs_core::Errno::ENODATA, removed)
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        inode: INodeNo,
        file: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.carry_out(request, reply, |caller| {
            let flags = AllocateFlags::from_bits(mode.cast_unsigned());
            let handle = self.handle(caller, (inode, file), Access::Write)?;
            self.branch.fallocate(caller, handle, flags, offset, length)
        });
    }

    fn lseek(
        &self,
        request: &Request,
        inode: INodeNo,
        file: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some(seek) = seek(whence, offset) else {
            return reply.error(Errno::EINVAL);
        };
        let _delivery = self.deliver_after();
        let handle = self.handle(&self.caller(request), (inode, file), Access::Read);
        match handle.and_then(|handle| self.branch.seek(handle, seek)) {
            Ok(position) => reply.offset(i64::try_from(position).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from_inode: INodeNo,
        from: FileHandle,
        from_offset: u64,
        to_inode: INodeNo,
        to: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _delivery = self.deliver_after();
        let caller = self.caller(request);
        let from = (from_inode, from, from_offset);
        let to = (to_inode, to, to_offset);
        reply_written(self.copy_part(&caller, from, to, length), reply);
    }
}
