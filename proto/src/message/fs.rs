//! Operations of the filesystem, with the meaning of the system calls they are named after.

use crate::bytes::Bytes;
use crate::ssz::{answers, container, requests};

/// Bits of [`FsOpen::flags`].
pub mod open_flags {
    /// May be read.
    pub const READ: u32 = 1;
    /// May be written.
    pub const WRITE: u32 = 2;
    /// Is made when it is not there.
    pub const CREATE: u32 = 4;
    /// With [`CREATE`]: must not be there.
    pub const EXCLUSIVE: u32 = 8;
    /// Is emptied.
    pub const TRUNCATE: u32 = 16;
    /// Every write goes to the end.
    pub const APPEND: u32 = 32;
    /// A last component that is a symbolic link is refused.
    pub const NO_FOLLOW: u32 = 64;
}

/// Bits of [`FsRename::flags`], numbered as those of `renameat2`.
pub mod rename_flags {
    /// The new name must be free.
    pub const NO_REPLACE: u32 = 1;
    /// The two names change places.
    pub const EXCHANGE: u32 = 2;
}

/// The most bytes that [`FsRead`] answers and [`FsWrite`] takes.
pub const MAX_DATA: usize = 32 * 1024;

container! {
    /// An operation in a branch.
    pub struct FsRequest {
        /// The branch's name; empty for the session's own. A bound session may name no other.
        pub branch: String,
        /// What to do.
        pub op: FsOp,
    }

    /// `stat`, or `lstat`.
    pub struct FsStat {
        /// The path.
        pub path: Bytes,
        /// Whether a last component that is a symbolic link is followed.
        pub follow: bool,
    }

    /// `readdir`: the names after `after` in the directory's order.
    pub struct FsReadDir {
        /// The directory.
        pub path: Bytes,
        /// The [`cookie`](Entry::cookie) of the last entry read, or 0 for the first page.
        pub after: u64,
    }

    /// `readlink`.
    pub struct FsReadLink {
        /// The symbolic link.
        pub path: Bytes,
    }

    /// `open`.
    pub struct FsOpen {
        /// The file.
        pub path: Bytes,
        /// Bits of [`open_flags`].
        pub flags: u32,
        /// Permission bits of a file that is made.
        pub mode: u32,
    }

    /// `close`.
    pub struct FsClose {
        /// What [`FsOpened`] said.
        pub handle: u64,
    }

    /// `pread`.
    pub struct FsRead {
        /// What [`FsOpened`] said.
        pub handle: u64,
        /// Where.
        pub offset: u64,
        /// How many bytes, at most [`MAX_DATA`].
        pub len: u32,
    }

    /// `pwrite`.
    pub struct FsWrite {
        /// What [`FsOpened`] said.
        pub handle: u64,
        /// Where.
        pub offset: u64,
        /// At most [`MAX_DATA`] bytes.
        pub data: Bytes,
    }

    /// `truncate`.
    pub struct FsTruncate {
        /// The file.
        pub path: Bytes,
        /// Its new size.
        pub size: u64,
    }

    /// `mkdir`.
    pub struct FsMkdir {
        /// The new directory.
        pub path: Bytes,
        /// Permission bits.
        pub mode: u32,
    }

    /// `mknod`, for named pipes and sockets.
    pub struct FsMknod {
        /// The new name.
        pub path: Bytes,
        /// Type and permission bits, as `st_mode`.
        pub mode: u32,
        /// The device number of a device.
        pub rdev: u64,
    }

    /// `symlink`.
    pub struct FsSymlink {
        /// The new link.
        pub path: Bytes,
        /// What it says.
        pub target: Bytes,
    }

    /// `link`.
    pub struct FsLink {
        /// The name that is there.
        pub from: Bytes,
        /// The new name.
        pub to: Bytes,
    }

    /// `unlink`.
    pub struct FsUnlink {
        /// The name.
        pub path: Bytes,
    }

    /// `rmdir`.
    pub struct FsRmdir {
        /// The directory.
        pub path: Bytes,
    }

    /// `renameat2`.
    pub struct FsRename {
        /// The old name.
        pub from: Bytes,
        /// The new name.
        pub to: Bytes,
        /// Bits of [`rename_flags`].
        pub flags: u32,
    }

    /// `chmod`.
    pub struct FsChmod {
        /// The object.
        pub path: Bytes,
        /// Permission bits.
        pub mode: u32,
    }

    /// `chown`, or `lchown`.
    pub struct FsChown {
        /// The object.
        pub path: Bytes,
        /// The owner, or `u32::MAX` to leave it.
        pub uid: u32,
        /// The group, or `u32::MAX` to leave it.
        pub gid: u32,
        /// Whether a last component that is a symbolic link is followed.
        pub follow: bool,
    }

    /// `utimensat`.
    pub struct FsUtimens {
        /// The object.
        pub path: Bytes,
        /// Access time in nanoseconds since the epoch; nothing leaves it.
        pub atime_ns: Option<i64>,
        /// Modification time in nanoseconds since the epoch; nothing leaves it.
        pub mtime_ns: Option<i64>,
        /// Whether a last component that is a symbolic link is followed.
        pub follow: bool,
    }

    /// `setxattr`.
    pub struct FsSetXattr {
        /// The object.
        pub path: Bytes,
        /// The attribute's name, as `user.comment`.
        pub name: Bytes,
        /// Its value.
        pub value: Bytes,
        /// 0, 1 (must not be there) or 2 (must be there).
        pub flags: u32,
    }

    /// `getxattr`.
    pub struct FsGetXattr {
        /// The object.
        pub path: Bytes,
        /// The attribute's name.
        pub name: Bytes,
    }

    /// `listxattr`.
    pub struct FsListXattr {
        /// The object.
        pub path: Bytes,
    }

    /// `removexattr`.
    pub struct FsRemoveXattr {
        /// The object.
        pub path: Bytes,
        /// The attribute's name.
        pub name: Bytes,
    }
}

/// An operation with the type of its answer.
pub trait FsCall: Into<FsOp> {
    /// What [`FsReply`] holds when the operation was carried out.
    type Answer: TryFrom<FsReply, Error = FsReply>;
}

requests! {
    /// What to do in the filesystem.
    pub enum FsOp: FsCall {
        /// `stat`
        0 => Stat(FsStat) -> Attr,
        /// `readdir`
        1 => ReadDir(FsReadDir) -> FsEntries,
        /// `readlink`
        2 => ReadLink(FsReadLink) -> FsLinkTarget,
        /// `open`
        3 => Open(FsOpen) -> FsOpened,
        /// `close`
        4 => Close(FsClose) -> FsDone,
        /// `pread`
        5 => Read(FsRead) -> FsData,
        /// `pwrite`
        6 => Write(FsWrite) -> FsWritten,
        /// `truncate`
        7 => Truncate(FsTruncate) -> FsDone,
        /// `mkdir`
        8 => Mkdir(FsMkdir) -> FsDone,
        /// `mknod`
        9 => Mknod(FsMknod) -> FsDone,
        /// `symlink`
        10 => Symlink(FsSymlink) -> FsDone,
        /// `link`
        11 => Link(FsLink) -> FsDone,
        /// `unlink`
        12 => Unlink(FsUnlink) -> FsDone,
        /// `rmdir`
        13 => Rmdir(FsRmdir) -> FsDone,
        /// `rename`
        14 => Rename(FsRename) -> FsDone,
        /// `chmod`
        15 => Chmod(FsChmod) -> FsDone,
        /// `chown`
        16 => Chown(FsChown) -> FsDone,
        /// `utimensat`
        17 => Utimens(FsUtimens) -> FsDone,
        /// `setxattr`
        18 => SetXattr(FsSetXattr) -> FsDone,
        /// `getxattr`
        19 => GetXattr(FsGetXattr) -> FsXattr,
        /// `listxattr`
        20 => ListXattr(FsListXattr) -> FsXattrs,
        /// `removexattr`
        21 => RemoveXattr(FsRemoveXattr) -> FsDone,
    }
}

container! {
    /// What `stat` says.
    pub struct Attr {
        /// The node.
        pub ino: u64,
        /// Type and permission bits, as `st_mode`.
        pub mode: u32,
        /// Names.
        pub nlink: u32,
        /// Owner.
        pub uid: u32,
        /// Group.
        pub gid: u32,
        /// Bytes.
        pub size: u64,
        /// Device number of a device.
        pub rdev: u64,
        /// Access time, nanoseconds since the epoch.
        pub atime_ns: i64,
        /// Modification time.
        pub mtime_ns: i64,
        /// Status change time.
        pub ctime_ns: i64,
    }

    /// One name in a directory.
    pub struct Entry {
        /// The name.
        pub name: Bytes,
        /// Where the listing goes on after this entry.
        pub cookie: u64,
        /// What it names.
        pub attr: Attr,
    }

    /// The operation was carried out.
    pub struct FsDone {
        /// The node concerned, or 0.
        pub ino: u64,
    }

    /// A page of a directory.
    pub struct FsEntries {
        /// The entries, without `.` and `..`.
        pub entries: Vec<Entry>,
        /// Whether there are more.
        pub more: bool,
    }

    /// What a symbolic link says.
    pub struct FsLinkTarget {
        /// The target.
        pub target: Bytes,
    }

    /// An open file. It is closed with the session at the latest.
    pub struct FsOpened {
        /// The number of the handle in its session.
        pub handle: u64,
        /// The file.
        pub attr: Attr,
    }

    /// Bytes of a file.
    pub struct FsData {
        /// The bytes; none at the end of the file.
        pub data: Bytes,
    }

    /// How much was written.
    pub struct FsWritten {
        /// Bytes.
        pub len: u32,
    }

    /// The value of an extended attribute.
    pub struct FsXattr {
        /// The value.
        pub value: Bytes,
    }

    /// The names of extended attributes.
    pub struct FsXattrs {
        /// The names.
        pub names: Vec<Bytes>,
    }
}

answers! {
    /// What became of an [`FsOp`].
    pub enum FsReply {
        /// It was carried out.
        0 => Done(FsDone),
        /// `stat`
        1 => Attr(Attr),
        /// `readdir`
        2 => Entries(FsEntries),
        /// `readlink`
        3 => LinkTarget(FsLinkTarget),
        /// `open`
        4 => Opened(FsOpened),
        /// `read`
        5 => Data(FsData),
        /// `write`
        6 => Written(FsWritten),
        /// `getxattr`
        7 => Xattr(FsXattr),
        /// `listxattr`
        8 => Xattrs(FsXattrs),
    }
}
