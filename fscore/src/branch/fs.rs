//! The filesystem: its branches, its snapshots, and its subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::branch::Branch;
use crate::branch::event_bus::{EventBus, EventsDisabled, SubscriptionId};
use crate::branch::snapshot::Snapshot;
use crate::branch::state::BranchInner;
use crate::lower::announced::Announced;
use crate::lower::{Lower, LowerPlace};
use crate::model::attr::now;
use crate::model::config::{ConfigError, FsConfig};
use crate::model::errno::{Errno, Result};
use crate::model::event::EventSink;
use crate::model::id::{BranchId, NodeNumbers, SnapshotId};
use crate::store::tree::{Shared, Tree};
use crate::sync::RwLock;

/// The filesystem. It is cheap to clone, and all clones are the same filesystem.
#[derive(Clone, Debug)]
pub struct FsCore {
    pub(crate) core: Arc<Core>,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) bus: EventBus,
    pub(crate) registry: RwLock<Registry>,
    /// See [`FsCore::seal`].
    sealed: AtomicBool,
}

/// All branches and snapshots. Every operation of every branch looks its branch up here, so nothing
/// is waited for under its lock: it may be taken under a branch's, and no branch's is taken under it.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) branches: BTreeMap<BranchId, Arc<BranchInner>>,
    pub(crate) snapshots: BTreeMap<SnapshotId, Arc<Snapshot>>,
    /// The same by their names, which need not be unique.
    pub(crate) branch_names: BTreeSet<(Arc<str>, BranchId)>,
    pub(crate) snapshot_names: BTreeSet<(Arc<str>, SnapshotId)>,
    pub(crate) last_branch: u64,
    pub(crate) last_snapshot: u64,
}

impl FsCore {
    /// Creates a filesystem with one branch, [`MAIN`](Self::MAIN), which shows the lower directory,
    /// or is empty when there is none.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a configuration that cannot work.
    pub fn new(config: FsConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let numbers = Arc::<NodeNumbers>::default();
        let lower = config
            .overlay
            .as_ref()
            .map(|overlay| {
                let opened = Lower::open(&overlay.lower, config.case_sensitivity, numbers.clone());
                opened.map_err(|errno| ConfigError::Lower {
                    path: overlay.lower.clone(),
                    errno,
                })
            })
            .transpose()?;
        let bus = EventBus::new(config.track_events);
        let lower_path = config.overlay.as_ref().map(|overlay| overlay.lower.clone());
        let shared = Arc::new(Shared::new(config, lower, numbers));
        let tree = Tree::new(shared.clone(), now()).map_err(|errno| ConfigError::Lower {
            path: lower_path.unwrap_or_default(),
            errno,
        })?;
        let main = Arc::new(BranchInner::new(Self::MAIN, Arc::from("main"), tree));
        Ok(Self {
            core: Arc::new(Core {
                shared,
                bus,
                registry: RwLock::new(Registry {
                    branch_names: BTreeSet::from([(main.name.clone(), Self::MAIN)]),
                    branches: BTreeMap::from([(Self::MAIN, main)]),
                    last_branch: Self::MAIN.0,
                    ..Registry::default()
                }),
                sealed: AtomicBool::new(false),
            }),
        })
    }

    /// The branch that every filesystem starts with.
    pub const MAIN: BranchId = BranchId(1);

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &FsConfig {
        &self.core.shared.config
    }

    /// Returns the set of directories whose changes are announced, which the watcher of the lower
    /// directory fills. `None` without a lower directory.
    #[must_use]
    pub fn announced(&self) -> Option<&Announced> {
        Some(&self.core.shared.lower.as_ref()?.announced)
    }

    /// Looks where the directory below the branches is now; `None` when there is none.
    #[must_use]
    pub fn lower_place(&self) -> Option<LowerPlace> {
        let path = &self.config().overlay.as_ref()?.lower;
        Some(self.core.shared.lower.as_ref()?.place(path))
    }

    /// Returns a branch.
    ///
    /// # Errors
    ///
    /// `ENOENT` when there is no branch of that number.
    pub fn branch(&self, id: BranchId) -> Result<Branch> {
        let registry = self.core.registry.read();
        let inner = registry.branches.get(&id).ok_or(Errno::ENOENT)?.clone();
        Ok(Branch {
            core: self.core.clone(),
            inner,
        })
    }

    /// Refuses every change of every branch with `EROFS` from now on, until
    /// [`unseal`](Self::unseal). A program that is about to end seals the filesystem so that
    /// nothing is written that would be lost. Branches can still be read. When this returns, no
    /// change is under way, except for an [`apply`](Branch::apply) or a [`restore`](Self::restore)
    /// that had begun.
    pub fn seal(&self) {
        // Release pairs with the Acquire of `check_seal`: a thread that locks a branch after this
        // loop has locked it sees the seal.
        self.core.sealed.store(true, Ordering::Release);
        let branches: Vec<_> = self
            .core
            .registry
            .read()
            .branches
            .values()
            .cloned()
            .collect();
        for branch in branches {
            branch.pass();
        }
    }

    /// Ends a [`seal`](Self::seal).
    pub fn unseal(&self) {
        self.core.sealed.store(false, Ordering::Release);
    }

    /// Delivers every change of all branches to `sink` from now on. The changes of one branch
    /// arrive in commit order.
    ///
    /// # Errors
    ///
    /// [`EventsDisabled`] when `track_events` is off.
    pub fn subscribe_events(
        &self,
        sink: Arc<dyn EventSink>,
    ) -> Result<SubscriptionId, EventsDisabled> {
        self.core.bus.subscribe(sink)
    }

    /// Ends a subscription; returns whether there was one. Once this has returned, the sink is no
    /// longer called, and no call into it is under way. Only if a sink itself calls this, it does
    /// not wait for the calls that other threads are making.
    ///
    /// # Errors
    ///
    /// [`EventsDisabled`] when `track_events` is off.
    pub fn unsubscribe_events(&self, id: SubscriptionId) -> Result<bool, EventsDisabled> {
        self.core.bus.unsubscribe(id)
    }
}

impl Core {
    /// Fails with `EROFS` when the filesystem is sealed. Called under the branch's lock.
    pub(crate) fn check_seal(&self) -> Result<()> {
        if self.sealed.load(Ordering::Acquire) {
            return Err(Errno::EROFS);
        }
        Ok(())
    }
}
