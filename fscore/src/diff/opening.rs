//! Opening a filesystem. It is here because what was changed last before is found as a difference is.

use super::steps::steps;
use super::synthetic_events::changes;
use crate::branch::fs::FsCore;
use crate::model::config::{ConfigError, FsConfig};
use crate::model::errno::Result;
use crate::model::event::Change;
use crate::store::tree::Tree;

impl FsCore {
    /// Creates a filesystem with one branch, [`MAIN`](Self::MAIN), which shows the lower directory,
    /// or is empty when there is none.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a configuration that cannot work.
    pub fn new(config: FsConfig) -> Result<Self, ConfigError> {
        Self::open(config, find_changes)
    }
}

fn find_changes(old: &Tree, new: &Tree) -> Result<Vec<Change>> {
    Ok(changes(old, new, steps(old, new)?, &|_| false))
}
