//! What a store on disk takes, and whether it can be read.

use std::path::Path;
use std::sync::Arc;

use super::fs::{Core, FsCore};
use super::journal::VersionId;
use super::recovery::Recovered;
use super::store::Store;
use crate::lower::Lower;
use crate::model::config::{BackstoreMode, ConfigError, FsConfig};
use crate::model::errno::Errno;
use crate::model::id::{BranchId, NodeNumbers};
use crate::model::store_error::StoreError;
use crate::store::content::PAGE;
use crate::store::tree::Shared;

/// What the store of a filesystem takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreUsage {
    /// Bytes that the content of files takes.
    pub content: u64,
    /// Bytes between those, which the next content takes.
    pub free: u64,
    /// Bytes of the log that a restart would read beside the last checkpoint.
    pub log: u64,
    /// Bytes that the store takes on its disk, with the room that its log has taken beforehand.
    pub taken: u64,
    /// Bytes that the store may take; `None` without a limit.
    pub most: Option<u64>,
    /// The size of the disk, and what is free there for this user.
    pub disk: Option<(u64, u64)>,
}

/// How little may be free on a disk before it counts as nearly full, if that is also less than a tenth.
const LITTLE: u64 = 1 << 30;
/// The smallest limit of a store: the log takes some of it beforehand.
pub const LEAST_MAX_STORE: u64 = 64 << 20;

impl StoreUsage {
    /// Returns a warning when the store is about to be full: at nine tenths of its limit, or when its
    /// disk has less than a tenth and less than 1 GiB left.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let Self { taken, most, .. } = *self;
        if let Some(most) = most
            && taken >= most / 10 * 9
        {
            return Some(format!(
                "the store takes {taken} of the {most} bytes that it may (--max-store): delete branches and \
                 snapshots (agentfs branch list, agentfs snapshot list), or allow more (agentfs store \
                 limit SIZE)"
            ));
        }
        let (size, free) = self.disk?;
        (free < LITTLE && free < size / 10).then(|| {
            format!(
                "the disk of the store is nearly full, with {free} bytes left: free some, or delete branches \
                 and snapshots (agentfs branch list, agentfs snapshot list)"
            )
        })
    }

    /// Returns how many bytes the store can take beside what it takes.
    pub(crate) fn left(&self) -> u64 {
        let most = self.most.unwrap_or(u64::MAX);
        let free = self.disk.map_or(u64::MAX, |(_, free)| free);
        most.saturating_sub(self.taken).min(free)
    }

    /// Returns how many bytes there are in all.
    pub(crate) fn size(&self) -> u64 {
        let most = self.most.unwrap_or(u64::MAX);
        self.disk.map_or(u64::MAX, |(size, _)| size).min(most)
    }
}

/// Returns the size of the disk that a store lies on and what is free there for this user.
fn disk_of(store: &BackstoreMode) -> Option<(u64, u64)> {
    let BackstoreMode::Disk(path) = store else {
        return None;
    };
    let disk = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Some((bytes(disk.f_blocks), bytes(disk.f_bavail)))
}

/// What was found in a store that no process has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreCheck {
    /// The names of the branches.
    pub branches: Vec<String>,
    /// The names of the snapshots.
    pub snapshots: Vec<String>,
    /// What the store takes.
    pub usage: Option<StoreUsage>,
    /// What is wrong. Empty for a store of which nothing is lost.
    pub defects: Vec<String>,
}

impl Core {
    pub(crate) fn usage(&self) -> Option<StoreUsage> {
        let journal = self.journal.as_ref()?;
        let extents = &self.shared.extents;
        let (content, free) = extents.use_of_file();
        let most = journal.most();
        Some(StoreUsage {
            content,
            free,
            log: journal.log_size(),
            taken: extents.on_disk() + journal.records_on_disk(),
            most: (most < u64::MAX).then_some(most),
            disk: disk_of(&self.shared.config.backstore),
        })
    }
}

impl FsCore {
    /// Returns what the store takes; `None` in memory.
    #[must_use]
    pub fn store_usage(&self) -> Option<StoreUsage> {
        self.core.usage()
    }

    /// Lets the store take at most so many bytes on its disk from now on, also after a restart; `None`
    /// for as many as the disk has. An operation that would need more fails with `ENOSPC`. Those that
    /// free space go on to work.
    ///
    /// # Errors
    ///
    /// `EINVAL` in memory, and below [`LEAST_MAX_STORE`]; those of the log.
    pub fn set_max_store(&self, most: Option<u64>) -> Result<(), Errno> {
        let journal = self.core.journal.as_ref().ok_or(Errno::EINVAL)?;
        if most.is_some_and(|most| most < LEAST_MAX_STORE) {
            return Err(Errno::EINVAL);
        }
        journal.set_most(most.unwrap_or(u64::MAX))
    }

    /// Lets a branch have so many bytes of content more than it has now; `None` for as many as the
    /// store has. An operation that would need more fails with `EDQUOT`. Branches that are made from it
    /// later, and its snapshots, have the same limit.
    ///
    /// # Errors
    ///
    /// `ENOENT` without such a branch; those of the log.
    pub fn limit_branch(&self, branch: BranchId, bytes: Option<u64>) -> Result<(), Errno> {
        let branch = self.branch(branch)?;
        let mut state = branch.inner.write();
        let before = state.begin();
        let pages = state.tree.pages();
        let quota = bytes.map(|bytes| pages.saturating_add(bytes.div_ceil(PAGE)));
        state.tree.set_quota(quota);
        match state.write_changes(None) {
            Ok(()) => {
                state.keep(before);
                Ok(())
            }
            Err(errno) => {
                state.take_back(before);
                Err(errno)
            }
        }
    }

    /// Writes a [checkpoint](Self::checkpoint), and gives everything that is free back to the disk. In
    /// memory there is nothing to do.
    ///
    /// # Errors
    ///
    /// Those of [`checkpoint`](Self::checkpoint) and [`sync`](Self::sync).
    pub fn compact(&self) -> Result<(), Errno> {
        let Some(journal) = &self.core.journal else {
            return Ok(());
        };
        self.checkpoint()?;
        self.sync()?;
        let extents = &self.core.shared.extents;
        extents.free_waiting(|| journal.is_durable());
        extents.give_back();
        Ok(())
    }

    /// Reads a store that no process has as a restart would, and reports what is wrong with it.
    /// Nothing in it is changed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when it cannot be read at all, another process has it, or there is none.
    pub fn check_store(path: &Path, config: FsConfig) -> Result<StoreCheck, ConfigError> {
        if !path.join("store").exists() {
            return Err(StoreError::NoStore(path.to_owned()).into());
        }
        if Store::is_unfinished(path) {
            // The process that made it was killed at that. To open it would add what is missing.
            return Ok(StoreCheck::default());
        }
        let store = Store::open(path)?;
        let numbers = Arc::<NodeNumbers>::default();
        let lower = match &config.overlay {
            None => None,
            Some(overlay) => {
                let opened = Lower::open(&overlay.lower, config.case_sensitivity, numbers.clone());
                let path = overlay.lower.clone();
                Some(opened.map_err(|errno| ConfigError::Lower { path, errno })?)
            }
        };
        let extents = store.extents();
        let shared = Arc::new(Shared::new(config, lower, numbers, extents.clone(), true));
        let mut recovered = Recovered::new(shared);
        let mut check = StoreCheck::default();
        let opened = match store.read(&mut recovered) {
            Ok(opened) => opened,
            Err(StoreError::Damaged { what, .. }) => {
                check.defects.push(what);
                return Ok(check);
            }
            Err(error) => return Err(error.into()),
        };
        check.defects.extend(opened.damage());
        let log = opened.log_size();
        let most = recovered.most;
        match recovered.finish() {
            Err(why) => check.defects.push(why.to_string()),
            Ok((versions, ..)) => {
                for (id, version) in &versions {
                    let names = match id {
                        VersionId::Branch(_) => &mut check.branches,
                        VersionId::Snapshot(_) | VersionId::Base(_) => &mut check.snapshots,
                    };
                    names.push(version.name.to_string());
                }
                let (content, free) = extents.use_of_file();
                check.usage = Some(StoreUsage {
                    content,
                    free,
                    log,
                    taken: content + log,
                    most: (most < u64::MAX).then_some(most),
                    disk: disk_of(&BackstoreMode::Disk(path.to_owned())),
                });
            }
        }
        Ok(check)
    }
}
