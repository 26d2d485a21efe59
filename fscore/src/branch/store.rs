//! A store: the directory in which the branches of a filesystem outlive its process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;

use super::checkpoint::{self, Unreadable};
use super::journal::Journal;
use super::recovery::{BadRecord, Recovered};
use crate::disk;
use crate::disk::directory::{Directory, NamedFile};
use crate::disk::host_directory::{HostDirectory, boot_id};
use crate::log::{
    Boot, LogError, Place, Record, Recovery, Sizes, StoreId, is_segment, segment_name,
};
use crate::model::errno::{Errno, Result};
use crate::model::store_error::StoreError;
use crate::store::extents::Extents;

/// The names in the directory of a store.
mod name {
    /// Locked by the one process that has the store.
    pub(super) const LOCK: &str = "lock";
    /// The number of the store.
    pub(super) const STORE: &str = "store";
    pub(super) const STORE_NEW: &str = "store.new";
    /// The bytes of files.
    pub(super) const CONTENT: &str = "content";
}

/// How many of the last records are told one by one to readers that may have missed them.
const LAST_CHANGES: u64 = 1024;

/// The first bytes of the file with the number of the store: the name and version of the format.
const MAGIC: [u8; 16] = *b"AgentFS store 1\n";

/// A store that this process has, and nothing of it read yet.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    place: Place,
    sizes: Sizes,
    content: Arc<dyn NamedFile>,
    /// Keeps others out.
    lock: Arc<dyn NamedFile>,
}

impl Store {
    /// Opens the store in a directory of the host, which is created if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let errno = |errno| StoreError::Disk {
            path: path.to_owned(),
            errno,
        };
        let directory = open_directory(path).map_err(errno)?;
        if directory.is_writable_by_others().map_err(errno)? {
            return Err(StoreError::NotPrivate(path.to_owned()));
        }
        Self::open_in(path, Arc::new(directory), Boot(boot_id()), Sizes::default())
    }

    /// Opens the store in a directory.
    pub(crate) fn open_in(
        path: &Path,
        directory: Arc<dyn Directory>,
        boot: Boot,
        sizes: Sizes,
    ) -> Result<Self, StoreError> {
        let disk = |errno| StoreError::Disk {
            path: path.to_owned(),
            errno,
        };
        let in_use = |errno| match errno {
            Errno::EAGAIN => StoreError::InUse(path.to_owned()),
            errno => disk(errno),
        };
        let no_store = || StoreError::NoStore(path.to_owned());
        let names = directory.list().map_err(disk)?;
        let is_new = !names.iter().any(|name| name == name::STORE);
        if is_new && !is_unused(&names) {
            return Err(no_store());
        }
        let its_lock = directory.lock(name::LOCK).map_err(in_use)?;
        let store = match directory.open(name::STORE) {
            Ok(file) => read_id(&*file).map_err(disk)?,
            Err(Errno::ENOENT) => Some(create(&*directory).map_err(disk)?),
            Err(errno) => return Err(disk(errno)),
        };
        let store = store.ok_or_else(no_store)?;
        let names = directory.list().map_err(disk)?;
        let has_content = names.iter().any(|name| name == name::CONTENT);
        if !has_content {
            if names.iter().any(|name| has_records(name)) {
                return Err(lost(path, "the file `content` is gone"));
            }
            // No record may survive a power cut that the name does not.
            let created = directory.create(name::CONTENT);
            created.and_then(|_| directory.sync_names()).map_err(disk)?;
        }
        // Whoever removes the file with the lock lets nobody else in.
        let content = directory.lock_after(name::CONTENT).map_err(in_use)?;
        if content.len().map_err(disk)? > 0 && !names.iter().any(|name| has_records(name)) {
            return Err(lost(path, "the log and the checkpoint are gone"));
        }
        Ok(Self {
            content,
            path: path.to_owned(),
            sizes,
            place: Place {
                directory,
                store,
                boot,
            },
            lock: its_lock,
        })
    }

    /// Returns whether there is nothing in a store yet, not even the file for content.
    pub(super) fn is_unfinished(path: &Path) -> bool {
        let file = path.join(name::STORE);
        let is_it = |file: &Path| std::fs::read(file).is_ok_and(|it| it.starts_with(&MAGIC));
        let is_ours = file.is_file() && is_it(&file);
        let Some(entries) = std::fs::read_dir(path).ok().filter(|_| is_ours) else {
            return false;
        };
        let mut names = entries.flatten().map(|it| it.file_name());
        let is_of_store = |name: std::ffi::OsString| {
            let name = name.to_string_lossy();
            name == name::CONTENT || has_records(&name)
        };
        !names.any(is_of_store)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the extents of the store, none of which is known yet.
    pub(crate) fn extents(&self) -> Arc<Extents> {
        Extents::recovering(self.content.clone())
    }

    /// Reads what can be read of a damaged store.
    ///
    /// # Errors
    ///
    /// [`StoreError::Disk`] when the directory cannot be read.
    pub(crate) fn salvage(&self, recovered: &mut Recovered) -> Result<(), StoreError> {
        let directory = &*self.place.directory;
        let each = |record: &Record| {
            recovered.salvage(record);
            Ok(())
        };
        let from = match checkpoint::read(directory, self.place.store, each) {
            Ok(from) => from,
            Err(why) => {
                recovered.lose(&why);
                let next = checkpoint::next(directory);
                next.map_err(|errno| of_checkpoint(&self.path, &Unreadable::Disk(errno)))?
            }
        };
        let recovery = match Recovery::open(self.place.clone(), from) {
            Ok(recovery) => recovery,
            Err(why) => {
                recovered.lose(&why);
                return Ok(());
            }
        };
        if let Some(damage) = &recovery.damage {
            recovered.lose(damage);
        }
        for record in recovery.records() {
            match record {
                Ok(record) => recovered.salvage(&record),
                Err(why) => recovered.lose(&why),
            }
        }
        Ok(())
    }

    /// Reads the log, and begins to write to it. Returns whether anything was in it.
    pub(crate) fn read(self, recovered: &mut Recovered) -> Result<Opened, StoreError> {
        let path = self.path.clone();
        let of_log = |error| of_log(&path, &error);
        let place = self.place.clone();
        let replay = |record: &Record| {
            let replayed = recovered.replay(record);
            replayed.map_err(|error| Unreadable::Record(error.to_string()))
        };
        let from = checkpoint::read(&*place.directory, place.store, replay);
        let from = from.map_err(|error| of_checkpoint(&path, &error))?;
        let recovery = Recovery::open(self.place, from).map_err(of_log)?;
        if recovery.damage.as_ref().is_some_and(|it| it.record == 1) {
            let what = format!(
                "{} is damaged or gone, and so is the checkpoint that would replace it",
                segment_name(1)
            );
            return Err(lost(&path, &what));
        }
        recovered.keep_changes_from(recovery.end().saturating_sub(LAST_CHANGES));
        for record in recovery.records() {
            let record = record.map_err(of_log)?;
            let bad = |error: BadRecord| StoreError::Damaged {
                path: path.clone(),
                what: error.to_string(),
            };
            recovered.replay(&record).map_err(bad)?;
        }
        if let Some(damage) = &recovery.damage {
            tracing::error!(store = %path.display(), "{damage}");
        }
        if recovery.dropped > 0 {
            tracing::warn!(
                store = %path.display(),
                changes = recovery.dropped,
                "the machine has restarted; changes that were not synced are not there"
            );
        }
        Ok(Opened {
            path: self.path,
            place,
            sizes: self.sizes,
            recovery,
            lock: self.lock,
        })
    }
}

/// A store whose log was read.
#[derive(Debug)]
pub(crate) struct Opened {
    path: PathBuf,
    place: Place,
    sizes: Sizes,
    recovery: Recovery,
    lock: Arc<dyn NamedFile>,
}

impl Opened {
    /// Returns what the log has lost to a damaged place.
    pub(crate) fn damage(&self) -> Option<String> {
        self.recovery.damage.as_ref().map(ToString::to_string)
    }

    /// Returns how many bytes of the log a restart reads beside the checkpoint.
    pub(crate) fn log_size(&self) -> u64 {
        self.recovery.size()
    }

    /// Begins to write.
    pub(crate) fn begin(self, extents: Arc<Extents>) -> Result<Journal, StoreError> {
        let log = self.recovery.into_log(extents.clone(), self.sizes);
        let log = log.map_err(|error| of_log(&self.path, &error))?;
        // A crash in the middle of a checkpoint has left it. It may be as large as the log.
        if let Err(errno) = checkpoint::remove_unfinished(&*self.place.directory) {
            tracing::warn!(store = %self.path.display(), %errno, "an unfinished checkpoint stays");
        }
        let checkpoint = checkpoint::len(&*self.place.directory).map_err(|errno| {
            let path = self.path.clone();
            StoreError::Disk { path, errno }
        })?;
        Ok(Journal::new(
            self.place, log, extents, checkpoint, self.lock,
        ))
    }
}

fn of_checkpoint(path: &Path, error: &Unreadable) -> StoreError {
    let path = path.to_owned();
    match error {
        Unreadable::Disk(errno) => StoreError::Disk {
            path,
            errno: *errno,
        },
        Unreadable::Newer { .. } | Unreadable::Damaged { .. } | Unreadable::Record(_) => {
            let what = error.to_string();
            StoreError::Damaged { path, what }
        }
    }
}

fn of_log(path: &Path, error: &LogError) -> StoreError {
    let path = path.to_owned();
    match error {
        LogError::Disk { errno, .. } => StoreError::Disk {
            path,
            errno: *errno,
        },
        LogError::Newer { .. } | LogError::Foreign { .. } => {
            let what = error.to_string();
            StoreError::Damaged { path, what }
        }
    }
}

/// Opens the directory, and creates it and those above it if they are not there.
fn open_directory(path: &Path) -> Result<HostDirectory> {
    let (mut missing, mut created) = (Vec::new(), Vec::new());
    let mut at = Some(path);
    while let Some(dir) = at.filter(|dir| !dir.as_os_str().is_empty()) {
        match rustix::fs::mkdir(dir, Mode::RWXU) {
            Ok(()) => {
                created.push(dir);
                break;
            }
            Err(rustix::io::Errno::EXIST) => break,
            Err(rustix::io::Errno::NOENT) => missing.push(dir),
            Err(errno) => return Err(errno.into()),
        }
        at = dir.parent();
    }
    created.extend(&missing);
    for dir in missing.into_iter().rev() {
        match rustix::fs::mkdir(dir, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let directory = HostDirectory::open(path)?;
    // What is in a directory survives a power cut only if its own name does. A directory above that
    // cannot be read was made by somebody else, some time ago.
    for dir in created {
        let above = dir.parent().filter(|it| !it.as_os_str().is_empty());
        match HostDirectory::open(above.unwrap_or(Path::new("."))) {
            Ok(above) => above.sync_names()?,
            Err(Errno::EACCES) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(directory)
}

/// Returns whether a directory has nothing but what an attempt to create a store has left.
fn is_unused(names: &[String]) -> bool {
    let known = |name: &String| matches!(name.as_str(), name::LOCK | name::STORE_NEW);
    names.iter().all(known)
}

/// Returns whether a file with that name is a part of the log or a checkpoint.
fn has_records(name: &str) -> bool {
    is_segment(name) || checkpoint::is_checkpoint(name)
}

/// Says that the store was refused because it would be opened without what was in it, which would
/// be overwritten.
fn lost(path: &Path, what: &str) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        what: format!("{what}; put it back, or a copy of the whole directory"),
    }
}

/// Writes the number of a new store, which is there as a whole or not at all.
fn create(directory: &dyn Directory) -> Result<StoreId> {
    match directory.remove(name::STORE_NEW) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let id = disk::random_id()?;
    let file = directory.create(name::STORE_NEW)?;
    let parts = [&MAGIC[..], &id].map(std::io::IoSlice::new);
    file.write_at(&parts, 0)?;
    file.sync()?;
    directory.rename(name::STORE_NEW, name::STORE)?;
    directory.sync_names()?;
    Ok(StoreId(id))
}

fn read_id(file: &dyn NamedFile) -> Result<Option<StoreId>> {
    let mut bytes = [0; 32];
    let read = file.read_at(&mut bytes, 0)?;
    let (magic, id) = bytes.split_at(16);
    let is_ours = read == bytes.len() && magic == MAGIC;
    Ok(id.try_into().ok().filter(|_| is_ours).map(StoreId))
}
