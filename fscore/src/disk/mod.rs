//! The seam between the store and the files that hold it. What a crash, a power cut or a full disk
//! does to a store is tested with another implementation of [`DiskFile`].

pub(crate) mod directory;
pub(crate) mod host_directory;
mod host_file;
pub(crate) mod lock_file;
#[cfg(target_os = "linux")]
#[path = "mapping/linux.rs"]
mod mapping;
#[cfg(not(target_os = "linux"))]
#[path = "mapping/other.rs"]
mod mapping;
mod memory_file;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod platform;
#[cfg(not(target_os = "linux"))]
#[path = "other.rs"]
mod platform;
#[cfg(test)]
pub(crate) mod simulated;

use std::fmt::Debug;
use std::io::IoSlice;
use std::ops::Range;

use rustix::fd::BorrowedFd;

pub(crate) use self::host_file::{read_full, write_all};
pub(crate) use self::memory_file::MemoryFile;
pub(crate) use self::platform::random_id;
use crate::model::errno::Result;

/// One file of a store. Offsets are in bytes, and every call may come from several threads.
///
/// A change of bytes survives the process at once, unless the file is in its memory, and a power cut
/// only after [`sync`](Self::sync): until then any part of the changes may be undone.
pub(crate) trait DiskFile: Debug + Send + Sync {
    /// Reads until the buffer is full or the file ends; returns the number of bytes.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize>;

    /// Writes all of the parts, one after the other. When this fails, any of their bytes may have
    /// been written.
    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> Result<()>;

    /// Returns the blocks of a range to the filesystem, if that supports holes. The bytes in the
    /// range have no meaning from then on.
    fn punch(&self, range: Range<u64>) -> Result<()>;

    /// Copies bytes of a file of the host, and shares their blocks with it where the filesystem
    /// can. Returns how many there were, fewer than asked for only at the end of that file.
    fn copy_from(&self, host: BorrowedFd<'_>, from: Range<u64>, at: u64) -> Result<u64>;

    /// Waits until the bytes and the length survive a power cut. After an error nobody knows which
    /// of them do, and asking again does not help: a kernel may have dropped what it could not
    /// write.
    fn sync(&self) -> Result<()>;
}
