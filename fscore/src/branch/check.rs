//! What a store on disk takes, and whether it can be read.

use std::path::Path;
use std::sync::Arc;

use super::fs::FsCore;
use super::journal::VersionId;
use super::recovery::Recovered;
use super::store::Store;
use crate::lower::Lower;
use crate::model::config::{ConfigError, FsConfig};
use crate::model::errno::Errno;
use crate::model::id::NodeNumbers;
use crate::model::store_error::StoreError;
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

impl FsCore {
    /// Returns what the store takes; `None` in memory.
    #[must_use]
    pub fn store_usage(&self) -> Option<StoreUsage> {
        let journal = self.core.journal.as_ref()?;
        let (content, free) = self.core.shared.extents.use_of_file();
        let log = journal.log_size();
        Some(StoreUsage { content, free, log })
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
                check.usage = Some(StoreUsage { content, free, log });
            }
        }
        Ok(check)
    }
}
