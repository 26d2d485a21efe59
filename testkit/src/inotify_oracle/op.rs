//! The operations that both sides carry out, and the events that both readers get.

use std::collections::HashMap;

/// Descriptors that a sequence may have open at a time.
pub const SLOTS: usize = 4;

/// inotify instances.
pub const INSTANCES: usize = 3;

/// Names below the top of the tree; the empty one is the top.
pub type Path = &'static str;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Read,
    Write,
    Create,
    CreateTruncate,
    Truncate,
    Directory,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Open {
        slot: usize,
        path: Path,
        how: How,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
    },
    /// Writes through an open file, at its end or at its beginning.
    Write {
        slot: usize,
        append: bool,
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
    Mkdir {
        path: Path,
    },
    Rmdir {
        path: Path,
    },
    Unlink {
        path: Path,
    },
    Symlink {
        path: Path,
    },
    Mkfifo {
        path: Path,
    },
    Link {
        from: Path,
        to: Path,
    },
    Rename {
        from: Path,
        to: Path,
    },
    Exchange {
        from: Path,
        to: Path,
    },
    Chmod {
        path: Path,
    },
    Fchmod {
        slot: usize,
    },
    /// Selects which of access and modification time is set.
    Utimens {
        path: Path,
        atime: bool,
        mtime: bool,
    },
    SetXattr {
        path: Path,
    },
    RemoveXattr {
        path: Path,
    },
    /// Calls `inotify_add_watch`.
    Watch {
        instance: usize,
        path: Path,
        mask: u32,
    },
    /// Calls `inotify_rm_watch` for a watch on what the path names.
    Unwatch {
        instance: usize,
        path: Path,
    },
    /// Calls `read` with a buffer of so many bytes.
    Drain {
        instance: usize,
        room: usize,
    },
}

/// One `struct inotify_event`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub wd: i32,
    pub mask: u32,
    /// 0, or the number of the rename, counted by each reader from 1 as its cookies appear.
    pub cookie: usize,
    pub name: Vec<u8>,
}

impl Record {
    /// Returns how many bytes the event takes in a reader's buffer.
    pub fn room(name: &[u8]) -> usize {
        16 + match name.len() {
            0 => 0,
            len => (len + 1).next_multiple_of(16),
        }
    }
}

/// Numbers cookies in the order of their appearance.
#[derive(Debug, Default)]
pub struct Cookies(HashMap<u32, usize>);

impl Cookies {
    pub fn number(&mut self, cookie: u32) -> usize {
        if cookie == 0 {
            return 0;
        }
        let next = self.0.len() + 1;
        *self.0.entry(cookie).or_insert(next)
    }
}

/// The outcome of a step: whether it succeeded, and what was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Done,
    Failed,
    Records(Vec<Record>),
}
