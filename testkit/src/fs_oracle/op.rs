//! The operations that both filesystems carry out, and their answers.
//!
//! Paths are static strings so that an operation is plain data: the sequence that a failure prints
//! is Rust that can be pasted into `regressions.rs`.

/// The slots that hold open descriptors.
pub const SLOTS: usize = 6;
/// One more, which no generated operation uses.
pub const WALKER: usize = SLOTS;

/// The users that call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// This user may do everything.
    Root,
    /// uid 1000, gid 1000, in group 3000.
    Alice,
    /// uid 1001, gid 1001, in group 3000.
    Bob,
}

impl Who {
    /// Returns the step that this caller does.
    pub fn does(self, op: Op) -> Step {
        Step { by: self, op }
    }

    pub fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Alice => 1000,
            Self::Bob => 1001,
        }
    }

    /// Returns the primary group, which has the user's number.
    pub fn gid(self) -> u32 {
        self.uid()
    }

    pub fn umask(self) -> u32 {
        match self {
            Self::Root | Self::Alice => 0,
            Self::Bob => 0o027,
        }
    }

    pub fn groups(self) -> &'static [u32] {
        match self {
            Self::Root => &[],
            Self::Alice | Self::Bob => &[3000],
        }
    }
}

/// A time argument of utimens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    Omit,
    Now,
    /// Seconds and nanoseconds, long ago.
    At(i64, u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    Set,
    Cur,
    End,
    Data,
    Hole,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameFlags {
    None,
    NoReplace,
    Exchange,
    /// The operation sets both at once, which is an error.
    Both,
}

/// The kind of object that mknod makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    Regular,
    Fifo,
    Socket,
    Char(u32, u32),
    Block(u32, u32),
}

type Path = &'static str;

/// One system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Open {
        slot: usize,
        path: Path,
        flags: i32,
        mode: u32,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
        len: usize,
    },
    Pread {
        slot: usize,
        at: u64,
        len: usize,
    },
    Write {
        slot: usize,
        seed: u8,
        len: usize,
    },
    Pwrite {
        slot: usize,
        at: u64,
        seed: u8,
        len: usize,
    },
    Ftruncate {
        slot: usize,
        len: u64,
    },
    Truncate {
        path: Path,
        len: u64,
    },
    /// `mode` has the form that the system call takes.
    Fallocate {
        slot: usize,
        mode: u32,
        at: u64,
        len: u64,
    },
    Seek {
        slot: usize,
        whence: Whence,
        to: i64,
    },
    CopyRange {
        from: usize,
        from_at: u64,
        to: usize,
        to_at: u64,
        len: usize,
    },
    Fsync {
        slot: usize,
    },
    Mkdir {
        path: Path,
        mode: u32,
    },
    Rmdir {
        path: Path,
    },
    Unlink {
        path: Path,
    },
    Rename {
        from: Path,
        to: Path,
        flags: RenameFlags,
    },
    Link {
        from: Path,
        to: Path,
    },
    Symlink {
        target: Path,
        path: Path,
    },
    Readlink {
        path: Path,
    },
    Mknod {
        path: Path,
        special: Special,
        mode: u32,
    },
    /// Opens and lists the whole directory.
    Readdir {
        path: Path,
    },
    Stat {
        path: Path,
        follow: bool,
    },
    Fstat {
        slot: usize,
    },
    Chmod {
        path: Path,
        mode: u32,
    },
    Fchmod {
        slot: usize,
        mode: u32,
    },
    Chown {
        path: Path,
        uid: Option<u32>,
        gid: Option<u32>,
        follow: bool,
    },
    Fchown {
        slot: usize,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Utimens {
        path: Path,
        atime: Stamp,
        mtime: Stamp,
        follow: bool,
    },
    Futimens {
        slot: usize,
        atime: Stamp,
        mtime: Stamp,
    },
    /// `mask` consists of R_OK 4, W_OK 2, X_OK 1; the check is made with the effective ids.
    Access {
        path: Path,
        mask: u32,
    },
    SetXattr {
        path: Path,
        name: Path,
        seed: u8,
        len: usize,
        flags: u32,
        follow: bool,
    },
    GetXattr {
        path: Path,
        name: Path,
        follow: bool,
    },
    ListXattr {
        path: Path,
        follow: bool,
    },
    RemoveXattr {
        path: Path,
        name: Path,
        follow: bool,
    },
    Statfs {
        path: Path,
    },
}

/// An operation and its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub by: Who,
    pub op: Op,
}

/// The answer of an operation. Equal answers are equal values, whichever filesystem gave them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Errno(i32),
    Done,
    Number(u64),
    Bytes(Vec<u8>),
    /// Sorted names with the letter of their type.
    Names(Vec<(Vec<u8>, char)>),
    Attr(Attr),
    /// The operation has no meaning here (a slot that is not open), for both.
    Skipped,
}

/// A time, as far as two filesystems can agree on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Time {
    /// A time that utimens set.
    Set(i64, u32),
    /// A time of the clock at some operation, later than anything that utimens sets here.
    Clock,
}

impl Time {
    /// Everything that [`Stamp::At`] may name is before this.
    const CLOCK_STARTS: i64 = 1_500_000_000;

    pub fn new(seconds: i64, nanos: u32) -> Self {
        if seconds >= Self::CLOCK_STARTS {
            Self::Clock
        } else {
            Self::Set(seconds, nanos)
        }
    }
}

/// The answer of stat, without what is the filesystem's own business (device, block size).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Type and permission bits, as in st_mode.
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// The blocks of a regular file. (tmpfs keeps a long symbolic link in a page of its own.)
    pub blocks: u64,
    /// Major and minor number.
    pub device: (u32, u32),
    /// The inode's number in the order in which stat met the inodes.
    pub inode: usize,
    /// Whether ctime moved since stat met the inode before.
    pub changed: bool,
    pub atime: Time,
    pub mtime: Time,
}

/// Numbers inodes in the order of their first appearance, and detects whether their ctime moved.
#[derive(Default, Debug)]
pub struct Inodes {
    /// Each inode with the ctime it had last.
    seen: Vec<(u64, (i64, i64))>,
    /// Whether every change after a look gives another ctime (Linux 6.13 and later: before, two
    /// changes in one tick could not be distinguished).
    pub fine_ctime: bool,
}

impl Inodes {
    pub fn new(fine_ctime: bool) -> Self {
        Self {
            seen: Vec::new(),
            fine_ctime,
        }
    }

    /// Returns the inode's number, and whether it changed since the last look.
    pub fn look(&mut self, inode: u64, ctime: (i64, i64)) -> (usize, bool) {
        if let Some(at) = self.seen.iter().position(|known| known.0 == inode) {
            let before = std::mem::replace(&mut self.seen[at].1, ctime);
            return (at, self.fine_ctime && before != ctime);
        }
        self.seen.push((inode, ctime));
        (self.seen.len() - 1, false)
    }
}

/// Returns the bytes that a write of this seed writes.
pub fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| {
            let low = u8::try_from(at % 251).unwrap();
            seed.wrapping_mul(31).wrapping_add(low) | 1
        })
        .collect()
}
