//! One event as it lies in a ring.
//!
//! A record is [`AgentFsEvent`], the path bytes, the aux bytes, and zeros up to a multiple of 8. It
//! is written in the byte order of the machine: both sides run on it.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of [`AgentFsEvent`] in bytes.
pub const HEAD_LEN: usize = 64;

/// The length of a record is a multiple of this many bytes.
pub const ALIGN: usize = 8;

/// What a record reports. Any number is a `Kind`; those without a name come from a newer writer, and
/// a reader skips them.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Kind(pub u32);

impl Kind {
    /// A name was made.
    pub const CREATED: Self = Self(0);
    /// A name was removed.
    pub const REMOVED: Self = Self(1);
    /// Content or attributes changed.
    pub const MODIFIED: Self = Self(2);
    /// A name moved.
    pub const RENAMED: Self = Self(3);
    /// A branch was made; the path is its name, `data` its id.
    pub const BRANCH_CREATED: Self = Self(4);
    /// A snapshot was made; the path is its name, `data` its id.
    pub const SNAPSHOT_CREATED: Self = Self(5);
    /// Activity: an object was opened.
    pub const OPENED: Self = Self(16);
    /// Activity: an object was read.
    pub const READ: Self = Self(17);
    /// Activity: a handle was closed.
    pub const CLOSED: Self = Self(18);
    /// Control: events of this queue are lost, look at everything again.
    pub const OVERFLOW: Self = Self(32);
    /// Control: the watch is gone and its number will not be heard of again (`IN_IGNORED`).
    pub const IGNORED: Self = Self(33);

    /// Returns the name of the kind in messages and JSON, or `None` for one that this version does not know.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::CREATED => "created",
            Self::REMOVED => "removed",
            Self::MODIFIED => "modified",
            Self::RENAMED => "renamed",
            Self::BRANCH_CREATED => "branch_created",
            Self::SNAPSHOT_CREATED => "snapshot_created",
            Self::OPENED => "opened",
            Self::READ => "read",
            Self::CLOSED => "closed",
            Self::OVERFLOW => "overflow",
            Self::IGNORED => "ignored",
            _ => return None,
        })
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "kind {}", self.0),
        }
    }
}

/// Facts about the object of a record, as bits of [`AgentFsEvent::flags`]. Unknown bits are ignored.
pub mod flags {
    /// The object is a directory.
    pub const DIRECTORY: u32 = 1;
    /// The event was not heard but found as a difference between two states.
    pub const HEALED: u32 = 2;
    /// The object has no name left.
    pub const LAST_NAME: u32 = 4;
    /// The change was of attributes or extended attributes, not of content.
    pub const ATTRIBUTES: u32 = 8;
    /// The rename is one of the two halves of an exchange, reported one after the other: what was at the
    /// new path is at the old one now.
    pub const EXCHANGE: u32 = 16;
}

/// The fixed head of a record. Every bit pattern is a value.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct AgentFsEvent {
    /// Commit order in the branch; 0 for a control record.
    pub seqno: u64,
    /// When the change was committed: nanoseconds since the epoch.
    pub ts_nanos: u64,
    /// The object: `st_ino` on a mount.
    pub node: u64,
    /// The watch that hears it: what its registration named (kqueue, FSEvents, native), or the `wd`.
    pub watch: u64,
    /// What happened.
    pub kind: Kind,
    /// What the watch's API delivers: `NOTE_*`, `IN_*` or `kFSEventStreamEventFlag*` bits; 0 for a
    /// native watch.
    pub mask: u32,
    /// Joins the two halves of a rename (inotify); else 0.
    pub cookie: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Bytes of the path. Set by [`encode`].
    pub path_len: u32,
    /// Bytes of the second path of a rename. Set by [`encode`].
    pub aux_len: u32,
    /// A number whose meaning the kind and the API give: the acting process for a native watch, the
    /// event id for FSEvents, the id of a new branch or snapshot.
    pub data: u64,
}

const _: () = {
    assert!(size_of::<AgentFsEvent>() == HEAD_LEN);
    assert!(align_of::<AgentFsEvent>() == ALIGN);
    assert!(std::mem::offset_of!(AgentFsEvent, seqno) == 0);
    assert!(std::mem::offset_of!(AgentFsEvent, ts_nanos) == 8);
    assert!(std::mem::offset_of!(AgentFsEvent, node) == 16);
    assert!(std::mem::offset_of!(AgentFsEvent, watch) == 24);
    assert!(std::mem::offset_of!(AgentFsEvent, kind) == 32);
    assert!(std::mem::offset_of!(AgentFsEvent, mask) == 36);
    assert!(std::mem::offset_of!(AgentFsEvent, cookie) == 40);
    assert!(std::mem::offset_of!(AgentFsEvent, flags) == 44);
    assert!(std::mem::offset_of!(AgentFsEvent, path_len) == 48);
    assert!(std::mem::offset_of!(AgentFsEvent, aux_len) == 52);
    assert!(std::mem::offset_of!(AgentFsEvent, data) == 56);
};

/// Why bytes are not a record, or why a record cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordError {
    /// Fewer bytes than [`HEAD_LEN`].
    TooShort {
        /// Bytes there are.
        found: usize,
    },
    /// The lengths in the head ask for another number of bytes than there are.
    Length {
        /// What the lengths add up to, padding included; `None` when that is more than memory holds.
        expected: Option<usize>,
        /// Bytes there are.
        found: usize,
    },
    /// A path is too long for its 32-bit length.
    PathTooLong,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { found } => {
                write!(
                    f,
                    "an event record has at least {HEAD_LEN} bytes, not {found}"
                )
            }
            Self::Length {
                expected: Some(expected),
                found,
            } => {
                write!(
                    f,
                    "the lengths of an event record ask for {expected} bytes, not {found}"
                )
            }
            Self::Length {
                expected: None,
                found,
            } => {
                write!(
                    f,
                    "the lengths of an event record exceed memory; it has {found} bytes"
                )
            }
            Self::PathTooLong => write!(f, "a path in an event record is shorter than 4 GiB"),
        }
    }
}

impl std::error::Error for RecordError {}

/// Returns how many bytes a record with these names takes, padding included.
///
/// # Errors
///
/// [`RecordError::PathTooLong`] when a name does not fit its 32-bit length.
#[inline]
pub fn encoded_len(path: &[u8], aux: &[u8]) -> Result<usize, RecordError> {
    let (Ok(path_len), Ok(aux_len)) = (u32::try_from(path.len()), u32::try_from(aux.len())) else {
        return Err(RecordError::PathTooLong);
    };
    padded_len(path_len, aux_len).ok_or(RecordError::PathTooLong)
}

fn padded_len(path_len: u32, aux_len: u32) -> Option<usize> {
    let path_len = usize::try_from(path_len).ok()?;
    let aux_len = usize::try_from(aux_len).ok()?;
    HEAD_LEN
        .checked_add(path_len)?
        .checked_add(aux_len)?
        .checked_next_multiple_of(ALIGN)
}

/// Hands a record to `put` in parts, from its beginning to its end: [`encoded_len`] bytes. The lengths in the
/// head become those of `path` and `aux`.
///
/// # Errors
///
/// [`RecordError::PathTooLong`] as [`encoded_len`]. Nothing was put then.
#[inline]
pub fn encode(
    event: &AgentFsEvent,
    path: &[u8],
    aux: &[u8],
    mut put: impl FnMut(&[u8]),
) -> Result<(), RecordError> {
    let (Ok(path_len), Ok(aux_len)) = (u32::try_from(path.len()), u32::try_from(aux.len())) else {
        return Err(RecordError::PathTooLong);
    };
    let event = AgentFsEvent {
        path_len,
        aux_len,
        ..*event
    };
    put(event.as_bytes());
    let used = path.len() + aux.len();
    if used > 0 {
        put(path);
        put(aux);
        put(&[0; ALIGN][..used.next_multiple_of(ALIGN) - used]);
    }
    Ok(())
}

/// A record whose paths are borrowed from the bytes they lie in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EventRef<'a> {
    head: AgentFsEvent,
    path: &'a [u8],
    aux: &'a [u8],
}

impl<'a> EventRef<'a> {
    /// Reads the record that fills `bytes`. Any bytes are a record or an error.
    ///
    /// # Errors
    ///
    /// [`RecordError`] when the bytes are not one record.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let found = bytes.len();
        let (head, rest) =
            AgentFsEvent::read_from_prefix(bytes).map_err(|_| RecordError::TooShort { found })?;
        let expected = padded_len(head.path_len, head.aux_len);
        let wrong_length = RecordError::Length { expected, found };
        if expected != Some(found) {
            return Err(wrong_length);
        }
        let path_len = usize::try_from(head.path_len).map_err(|_| wrong_length)?;
        let aux_len = usize::try_from(head.aux_len).map_err(|_| wrong_length)?;
        let (path, rest) = rest.split_at_checked(path_len).ok_or(wrong_length)?;
        let aux = rest.get(..aux_len).ok_or(wrong_length)?;
        Ok(Self { head, path, aux })
    }

    /// Returns the fixed head.
    #[must_use]
    #[inline]
    pub fn head(&self) -> &AgentFsEvent {
        &self.head
    }

    /// Returns the path: empty for kqueue, the entry's name for inotify, the full path for FSEvents
    /// and native watches.
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        self.path
    }

    /// Returns the new path of a rename (FSEvents and native watches).
    #[must_use]
    pub fn aux(&self) -> &'a [u8] {
        self.aux
    }
}

impl fmt::Debug for EventRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventRef")
            .field("head", &self.head)
            .field("path", &self.path.escape_ascii().to_string())
            .field("aux", &self.aux.escape_ascii().to_string())
            .finish()
    }
}
