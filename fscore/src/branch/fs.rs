//! The filesystem: its branches, its snapshots, and its subscriptions.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::branch::Branch;
use crate::branch::event_bus::{EventBus, EventsDisabled, SubscriptionId};
use crate::branch::freeze::LastLook;
use crate::branch::journal::{Counts, Journal, NewVersion, OldVersion, VersionId};
use crate::branch::last_changes::{FindChanges, LastChanges};
use crate::branch::recovery::{Bases, Recovered, Version, Versions};
use crate::branch::snapshot::Snapshot;
use crate::branch::state::BranchInner;
use crate::branch::store::Store;
use crate::branch::take::TakingCounts;
use crate::lower::announced::Announced;
use crate::lower::{Lower, LowerPlace};
use crate::model::attr::now;
use crate::model::config::{BackstoreMode, ConfigError, FsConfig};
use crate::model::errno::{Errno, Result};
use crate::model::event::EventSink;
use crate::model::id::{BaseId, BranchId, NodeNumbers, Seq, SnapshotId};
use crate::model::store_error::StoreError;
use crate::store::extents::Extents;
use crate::store::tree::{Base, Shared, Tree};
use crate::sync::{Mutex, RwLock};

/// The filesystem. It is cheap to clone, and all clones are the same filesystem.
#[derive(Clone, Debug)]
pub struct FsCore {
    pub(crate) core: Arc<Core>,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) bus: EventBus,
    pub(crate) journal: Option<Arc<Journal>>,
    pub(crate) registry: RwLock<Registry>,
    /// The last look at the lower directory. Locked while the directory is taken, so that it is not
    /// taken twice at a time.
    pub(crate) taking: Mutex<LastLook>,
    pub(crate) taking_counts: TakingCounts,
    /// See [`FsCore::seal`].
    sealed: AtomicBool,
    /// See [`FsCore::lost`].
    lost: Vec<String>,
    /// Keeps other processes out of a store that is only read.
    _salvaged: Option<Store>,
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
    /// What frozen branches and snapshots are based on, and the last that was taken.
    pub(crate) bases: BTreeMap<BaseId, Arc<Base>>,
    pub(crate) last_base: u64,
    /// How often the store was opened.
    openings: u64,
    /// What changed last before the store was opened.
    pub(super) last_changes: LastChanges,
}

impl Core {
    /// Waits until everything so far survives a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        self.journal.as_ref().map_or(Ok(()), |it| it.sync())
    }

    /// See [`Journal::reclaim`].
    pub(crate) fn reclaim(&self) -> bool {
        self.journal.as_ref().is_some_and(|it| it.reclaim())
    }
}

impl Registry {
    /// Returns the registry of a filesystem that has one branch.
    fn of_main(tree: Tree, journal: Option<Arc<Journal>>) -> Self {
        let main = BranchInner::new(FsCore::MAIN, Arc::from("main"), FsCore::MAIN, tree, journal);
        Self {
            branch_names: BTreeSet::from([(main.name.clone(), FsCore::MAIN)]),
            branches: BTreeMap::from([(FsCore::MAIN, Arc::new(main))]),
            last_branch: FsCore::MAIN.0,
            ..Self::default()
        }
    }

    /// Returns all bases, snapshots and branches, those first that others may have more in common
    /// with.
    fn versions(&self) -> Vec<OldVersion> {
        let bases = self.bases.values().map(|base| OldVersion {
            id: VersionId::Base(base.id),
            name: base.name(),
            from: BranchId(0),
            seq: Seq(0),
            made: None,
            tree: base.tree.clone(),
        });
        let snapshots = self.snapshots.iter().map(|(id, snapshot)| OldVersion {
            id: VersionId::Snapshot(*id),
            name: snapshot.name.clone(),
            from: snapshot.from,
            seq: Seq(0),
            made: snapshot.made,
            tree: snapshot.tree.clone(),
        });
        let branches = self.branches.iter().map(|(id, branch)| OldVersion {
            id: VersionId::Branch(*id),
            name: branch.name.clone(),
            from: branch.from,
            seq: branch.outbox.last_own_seq(),
            made: None,
            tree: branch.read().tree.clone(),
        });
        bases.chain(snapshots).chain(branches).collect()
    }

    /// Reads the branches and snapshots of a store. A new store gets the branch `main`.
    fn recover(
        store: Store,
        shared: &Arc<Shared>,
        find: Option<FindChanges>,
        main: impl FnOnce() -> Result<Tree, ConfigError>,
    ) -> Result<(Option<Arc<Journal>>, Self), ConfigError> {
        let path = store.path().to_owned();
        let mut recovered = Recovered::new(shared.clone());
        if let Some(find) = find {
            recovered.find_changes_by(find);
        }
        let opened = store.read(&mut recovered)?;
        let mut counts = recovered.counts;
        counts.openings += 1;
        // Whatever the log does not say of numbers that were given, none of them is given again.
        shared.skip_numbers(shared.numbers().max(counts.nodes));
        counts.nodes = shared.numbers();
        let most = recovered.most;
        // What makes no sense is refused before anything is written.
        let (versions, bases, last_changes) =
            recovered.finish().map_err(|why| StoreError::Damaged {
                path: path.clone(),
                what: why.to_string(),
            })?;
        let journal = Arc::new(opened.begin(shared.extents.clone())?);
        let failed = |errno| StoreError::Disk {
            path: path.clone(),
            errno,
        };
        journal.has_most(most);
        journal.write_opened(&counts).map_err(failed)?;
        // What nothing refers to is used again from now on, so a power cut must not bring back what
        // did.
        journal.sync().map_err(failed)?;
        if versions.is_empty() {
            let tree = main()?;
            let new = NewVersion {
                id: VersionId::Branch(FsCore::MAIN),
                name: "main",
                from: FsCore::MAIN,
                seq: Seq(0),
                made: None,
                base: None,
                tree: &tree,
            };
            journal.write_version(&new).map_err(failed)?;
            let registry = Self {
                openings: counts.openings,
                ..Self::of_main(tree, Some(journal.clone()))
            };
            return Ok((Some(journal), registry));
        }
        let registry = Self {
            last_changes,
            ..Self::of_versions(versions, bases, counts, Some(&journal))
        };
        Ok((Some(journal), registry))
    }

    /// Reads what can be read of a damaged store, which is not written to. Returns also what was lost.
    fn salvage(
        store: &Store,
        shared: &Arc<Shared>,
        main: impl FnOnce() -> Result<Tree, ConfigError>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut recovered = Recovered::new(shared.clone());
        store.salvage(&mut recovered)?;
        let counts = recovered.counts;
        shared.skip_numbers(shared.numbers().max(counts.nodes));
        let (mut versions, bases, lost) = recovered.finish_salvage();
        let id = VersionId::Branch(FsCore::MAIN);
        if let Entry::Vacant(entry) = versions.entry(id) {
            entry.insert(Version {
                name: Arc::from("main"),
                from: FsCore::MAIN,
                seq: Seq(0),
                made: None,
                tree: main()?,
            });
        }
        Ok((Self::of_versions(versions, bases, counts, None), lost))
    }

    fn of_versions(
        versions: Versions,
        bases: Bases,
        counts: Counts,
        journal: Option<&Arc<Journal>>,
    ) -> Self {
        let mut registry = Self {
            last_base: bases.keys().last().map_or(0, |id| id.0),
            bases,
            last_branch: counts.branches,
            last_snapshot: counts.snapshots,
            openings: counts.openings,
            ..Self::default()
        };
        for (id, version) in versions {
            let Version {
                name,
                from,
                seq,
                made,
                tree,
            } = version;
            match id {
                VersionId::Branch(id) => {
                    registry.branch_names.insert((name.clone(), id));
                    let inner = BranchInner::new(id, name, from, tree, journal.cloned());
                    inner.outbox.go_on_after(seq, counts.openings);
                    registry.branches.insert(id, Arc::new(inner));
                }
                VersionId::Snapshot(id) => {
                    registry.snapshot_names.insert((name.clone(), id));
                    let snapshot = Snapshot {
                        name,
                        from,
                        made,
                        tree,
                    };
                    registry.snapshots.insert(id, Arc::new(snapshot));
                }
                VersionId::Base(_) => {}
            }
        }
        registry
    }
}

impl FsCore {
    /// Creates a filesystem as [`new`](Self::new) does. `find` finds what was changed last before.
    pub(crate) fn open(config: FsConfig, find: FindChanges) -> Result<Self, ConfigError> {
        config.validate()?;
        let store = match &config.backstore {
            BackstoreMode::Memory => None,
            BackstoreMode::Disk(path) => Some(Store::open(path)?),
        };
        Self::in_store_finding(config, store, Some(find))
    }

    /// Creates a filesystem that lies in a store, or in memory.
    #[cfg(test)]
    pub(super) fn in_store(config: FsConfig, store: Option<Store>) -> Result<Self, ConfigError> {
        Self::in_store_finding(config, store, None)
    }

    fn in_store_finding(
        config: FsConfig,
        store: Option<Store>,
        find: Option<FindChanges>,
    ) -> Result<Self, ConfigError> {
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
        let extents = store
            .as_ref()
            .map_or_else(Extents::in_memory, Store::extents);
        let is_logged = store.is_some();
        let shared = Arc::new(Shared::new(config, lower, numbers, extents, is_logged));
        let main = || {
            Tree::new(shared.clone(), now()).map_err(|errno| ConfigError::Lower {
                path: lower_path.unwrap_or_default(),
                errno,
            })
        };
        let is_salvaged = shared.config.salvage;
        let mut lost = Vec::new();
        let mut kept_open = None;
        let (journal, registry) = match store {
            None => (None, Registry::of_main(main()?, None)),
            Some(store) if is_salvaged => {
                let (registry, what) = Registry::salvage(&store, &shared, main)?;
                lost = what;
                kept_open = Some(store);
                (None, registry)
            }
            Some(store) => Registry::recover(store, &shared, find, main)?,
        };
        Ok(Self {
            core: Arc::new(Core {
                shared,
                bus,
                journal,
                registry: RwLock::new(registry),
                taking: Mutex::default(),
                taking_counts: TakingCounts::default(),
                sealed: AtomicBool::new(is_salvaged),
                lost,
                _salvaged: kept_open,
            }),
        })
    }

    /// Does what a filesystem on disk needs now and then: [syncs](Self::sync), and writes a checkpoint
    /// when a restart would have to read much. To be called every five seconds, so that a power cut
    /// takes at most those. In memory there is nothing to do.
    ///
    /// # Errors
    ///
    /// Those of [`sync`](Self::sync) and [`checkpoint`](Self::checkpoint).
    pub fn maintain(&self) -> Result<()> {
        self.drop_unused_bases()?;
        self.sync()?;
        let Some(journal) = &self.core.journal else {
            return Ok(());
        };
        // A filesystem in which nothing changes any more has no later sync that would do it.
        let extents = &self.core.shared.extents;
        extents.free_waiting(|| journal.is_durable());
        if journal.wants_checkpoint() {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Writes all branches and snapshots into one file, so that the next opening of the store reads
    /// no log. Operations go on meanwhile.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when the disk is full, `EIO` when it fails; the store is then as before.
    pub fn checkpoint(&self) -> Result<()> {
        let Some(journal) = &self.core.journal else {
            return Ok(());
        };
        let shared = &self.core.shared;
        journal.write_checkpoint(|| {
            // No version is added or deleted while this is locked.
            let registry = self.core.registry.read();
            let counts = Counts {
                openings: registry.openings,
                branches: registry.last_branch,
                snapshots: registry.last_snapshot,
                nodes: shared.numbers(),
            };
            let versions = registry.versions();
            (registry, counts, versions)
        })
    }

    /// Returns why the store takes no more changes, if its disk has failed or it is only read.
    #[must_use]
    pub fn store_failure(&self) -> Option<String> {
        if self.config().salvage {
            let lost = self.lost().join("; ");
            return Some(format!(
                "the store is opened to be read, because it is damaged: {lost}"
            ));
        }
        self.core.journal.as_ref()?.failure()
    }

    /// Returns what could not be read of a store that is [salvaged](FsConfig::salvage).
    #[must_use]
    pub fn lost(&self) -> &[String] {
        &self.core.lost
    }

    /// Waits until everything that was done so far survives a power cut. In memory there is nothing
    /// to wait for.
    ///
    /// # Errors
    ///
    /// `EIO` when the disk has failed, and `ENOSPC` when it is full to the last byte.
    pub fn sync(&self) -> Result<()> {
        self.core.sync()
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
        if self.config().salvage {
            return;
        }
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
