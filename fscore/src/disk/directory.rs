//! The second half of the seam: the directory of a store, and what its files can do because they
//! have a name and outlive the process.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use super::DiskFile;
use crate::model::errno::Result;

/// The directory of a store. It is flat: a name has no slash.
///
/// A change of names survives the process at once, and a power cut only after
/// [`sync_names`](Self::sync_names): until then any part of the changes may be undone.
pub(crate) trait Directory: Debug + Send + Sync {
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> Result<Arc<dyn NamedFile>>;

    /// Creates an empty file, which only the owner of the store can open.
    ///
    /// # Errors
    ///
    /// `EEXIST` if the name is in use.
    fn create(&self, name: &str) -> Result<Arc<dyn NamedFile>>;

    /// Creates a file as [`create`](Self::create) does. Its room is
    /// [allocated](NamedFile::allocate) before it is written, and small parts are added at its end,
    /// one after the other, which may be quicker then.
    fn create_to_append(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        self.create(name)
    }

    /// Returns all names, in order. One that is not UTF-8 is none of the store's, and is left out.
    fn list(&self) -> Result<Vec<String>>;

    /// Renames a file. If another file has the new name, that file loses the name.
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Removes a name. An open file remains usable.
    fn remove(&self, name: &str) -> Result<()>;

    /// Waits until all changes of names so far survive a power cut.
    fn sync_names(&self) -> Result<()>;

    /// Locks a file for this process and those it hands the file to, and creates it if it is not
    /// there. The lock ends with the last copy of the returned file.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if another process has the lock. One that was killed and cannot end yet loses the name of the
    /// file, which another file then has.
    fn lock(&self, name: &str) -> Result<Arc<dyn NamedFile>>;

    /// Locks a file that is there, for a process that has another lock of the directory. A process that was
    /// killed and cannot end yet does not keep it out.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if another process has the lock.
    fn lock_after(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        self.lock(name)
    }
}

/// A file with a name in a [`Directory`].
pub(crate) trait NamedFile: DiskFile {
    /// Returns the length in bytes.
    fn len(&self) -> Result<u64>;

    /// Cuts the file off, or makes it longer without reserving room for the new bytes.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Reserves room for a range that begins at the end of the file, and makes the file longer by
    /// it. The new bytes are zero. When this fails, a part of the range may have been added.
    ///
    /// # Errors
    ///
    /// `ENOSPC` or `EDQUOT` if there is no room, now rather than at the write.
    fn allocate(&self, range: Range<u64>) -> Result<()>;
}
