//! What all sessions and sinks share, and how it is put together.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use agentfs_core::id::{BranchId, SessionId};
use agentfs_core::{BackstoreMode, EventsDisabled, FsConfig, FsCore, Overlay};
use agentfs_engine::Queue;
use agentfs_engine::service::{self, WatchService};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{Code, Hello};
use mio::Registry;
use parking_lot::MutexGuard;

use crate::base::config::Config;
use crate::base::public_session::{PublicSession, Sessions};
use crate::base::refusal::Refusal;
use crate::base::session_limits::SessionLimits;
use crate::base::start_error::StartError;
use crate::base::wake::{Wake, WakeQueue};

use crate::lower::{LowerWatch, Resync};
use crate::mounts::echo::Echoing;
use crate::mounts::mounting::Mounting;
use crate::mounts::table::MountTable;
use crate::shared::branches::{self, Origins, branch_named};
use crate::shared::broadcasts::Broadcasts;
use crate::shared::catch_up::{self, CatchUp, Finder, Host};
use crate::shared::counters::Counters;
use crate::shared::exporter::Exporter;
use crate::shared::healing::Healing;
use crate::shared::holds::Holds;
use crate::shared::jobs::Jobs;
use crate::shared::maintenance::Maintenance;
use crate::shared::pending_deletes::PendingDeletes;
use crate::shared::refills::Refills;
use crate::shared::registrations::{Delivered, Registrations};
use crate::shared::stops::Stops;
use crate::shared::tokens::Tokens;

/// How many watches of a session that ends are closed by the event loop.
const MAX_CLOSED_AT_ONCE: usize = 10_000;

/// Everything that requests and sinks need, created once at the start.
pub(crate) struct Services {
    /// Ends first, because it uses the others.
    lower_watch: Option<LowerWatch>,
    echoing: Arc<Echoing>,
    /// Ends when it is dropped.
    _maintenance: Option<Maintenance>,
    core: FsCore,
    exporter: Exporter,
    stops: Stops,
    jobs: Jobs,
    watches: Arc<WatchService>,
    broadcasts: Arc<Broadcasts>,
    registrations: Arc<Registrations>,
    mounts: MountTable,
    mounting: Arc<Mounting>,
    refills: Refills,
    healing: Healing,
    holds: Holds,
    limits: SessionLimits,
    counters: Counters,
    tokens: Arc<Tokens>,
    sessions: Arc<Sessions>,
    /// A random number, which is another one for each start of the daemon: its keys are those of the
    /// system.
    instance: u64,
    catch_up: Arc<CatchUp>,
    /// The directory below, if mounts are kept and it is watched.
    host: Option<Host>,
    started: Instant,
    end: Arc<End>,
    wakes: Arc<WakeQueue>,
    /// Whether what the branches changed is exported before the end.
    saves_changes: bool,
    /// Whether new branches are frozen.
    is_frozen: bool,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Creates the filesystem, over a directory or empty. The user that runs the daemon is its root.
fn core_over(lower: Option<PathBuf>, config: &Config) -> Result<FsCore, StartError> {
    let (store, max_store) = (config.store.clone(), config.max_store);
    let salvage = config.salvage;
    let mut config = FsConfig {
        keep_nameless: config.keeping.is_some(),
        salvage,
        overlay: lower.map(|lower| Overlay { lower }),
        backstore: store.map_or(BackstoreMode::Memory, BackstoreMode::Disk),
        ..FsConfig::default()
    };
    config.permissions.root_uid = rustix::process::geteuid().as_raw();
    config.permissions.root_gid = rustix::process::getegid().as_raw();
    let core = FsCore::new(config).map_err(StartError::Filesystem)?;
    for lost in core.lost() {
        tracing::error!("of the store is lost: {lost}");
    }
    if let Some(most) = max_store {
        let limited = core.set_max_store(most);
        limited.map_err(|errno| StartError::Io(io::Error::from(errno)))?;
    }
    Ok(core)
}

fn queue_limits(config: &Config) -> service::QueueLimits {
    service::QueueLimits {
        queues: usize::try_from(config.limits.queues).unwrap_or(usize::MAX),
        watches: usize::try_from(config.limits.watches).unwrap_or(usize::MAX),
        ..service::QueueLimits::default()
    }
}

/// Creates the service of all watches, which the echo notifies by the kernel's means where it can.
fn watch_service(
    core: &FsCore,
    config: &Config,
    mounting: &Mounting,
    echoing: &Arc<Echoing>,
) -> Result<Arc<WatchService>, StartError> {
    let watches = WatchService::new(core.clone(), queue_limits(config)).map_err(StartError::Io)?;
    let (announced, wanted) = (Arc::clone(echoing), Arc::clone(echoing));
    Ok(Arc::new(
        watches
            .before_delivery(mounting.settler())
            .notified_by_kernel(
                move |it| announced.announced_on(it),
                move |it| wanted.wants_activity(it),
            ),
    ))
}

/// Subscribes to the changes behind the mounts.
fn subscribe(
    core: &FsCore,
    registrations: &Arc<Registrations>,
    watches: &Arc<WatchService>,
    broadcasts: &Arc<Broadcasts>,
) -> Result<(), EventsDisabled> {
    // Registrations subscribe in front of the watch service: a watch that is registered gets the event.
    core.subscribe_events(registrations.clone())?;
    core.subscribe_events(watches.clone())?;
    core.subscribe_events(Arc::new(Delivered(Arc::clone(registrations))))?;
    core.subscribe_events(broadcasts.clone())?;
    Ok(())
}

/// Returns what has everything look again.
fn resync(
    mounting: &Arc<Mounting>,
    watches: &Arc<WatchService>,
    broadcasts: &Arc<Broadcasts>,
) -> Resync {
    let (mounting, watches) = (Arc::clone(mounting), Arc::clone(watches));
    let broadcasts = Arc::clone(broadcasts);
    Box::new(move || {
        mounting.forget_all();
        watches.overflow_all();
        broadcasts.overflow_all();
    })
}

impl Services {
    pub(crate) fn new(
        config: &Config,
        wakes: &Arc<WakeQueue>,
        registry: Registry,
    ) -> Result<Self, StartError> {
        let lower = match &config.lower {
            Some(lower) => Some(
                std::fs::canonicalize(lower)
                    .map_err(|error| StartError::Lower(lower.clone(), error))?,
            ),
            None => None,
        };
        let core = core_over(lower.clone(), config)?;
        // A damaged store is only read.
        let store = config.store.as_deref().filter(|_| !config.salvage);
        let tokens = Arc::new(Tokens::recover(&core, store));
        let holds = Holds::recover(&core, store);
        let instance = RandomState::new().hash_one(std::process::id());
        let former = store.and_then(|store| catch_up::succeed(store, instance));
        let former = former.filter(|_| config.keeping.is_some());
        let unusable = |errno| StartError::Io(io::Error::from(errno));
        let exporter = Exporter::new(&core, lower.as_deref()).map_err(unusable)?;
        let disabled = |error| StartError::Io(io::Error::other(error));
        let mounts = MountTable::default();
        // The mounts subscribe first: a program that is notified of a change finds it on every
        // mount.
        let mounting = Mounting::new(&core, &mounts, wakes, config).map_err(disabled)?;
        let mounting = Arc::new(mounting);
        let echoing = Arc::new(mounting.echo(config.echo).map_err(StartError::Io)?);
        let watches = watch_service(&core, config, &mounting, &echoing)?;
        let sessions = Arc::<Sessions>::default();
        echoing.serve(&watches, &sessions);
        let broadcasts = Arc::new(Broadcasts::new(wakes, mounting.settler()));
        let registrations = Arc::new(Registrations::new(&core, &watches, &mounts, wakes, former));
        subscribe(&core, &registrations, &watches, &broadcasts).map_err(disabled)?;
        let catch_up = Arc::<CatchUp>::default();
        if former.is_some() {
            catch_up.begin(&watches, &mounts);
        }
        let forget = catch_up::forget(&core, &watches);
        let maintenance = Maintenance::start(&core, forget).map_err(StartError::Io)?;
        let resync = resync(&mounting, &watches, &broadcasts);
        let host = Host::open(config, lower.as_deref());
        let seen = host.as_ref().map(|it| Arc::clone(&it.seen));
        let lower_watch = lower
            .as_deref()
            .filter(|_| config.watch_lower)
            .map(|root| LowerWatch::start(&core, root, resync, seen))
            .transpose()
            .map_err(StartError::Io)?;
        Ok(Self {
            lower_watch,
            echoing,
            _maintenance: maintenance,
            exporter,
            stops: Stops::default(),
            core,
            jobs: Jobs::new(wakes),
            watches,
            broadcasts,
            registrations,
            mounts,
            mounting,
            refills: Refills::new(registry),
            healing: Healing::default(),
            holds,
            limits: config.limits,
            counters: Counters::default(),
            tokens,
            sessions,
            instance,
            catch_up,
            host,
            started: Instant::now(),
            end: Arc::default(),
            wakes: Arc::clone(wakes),
            saves_changes: config.saves_changes && config.store.is_none(),
            is_frozen: config.frozen,
        })
    }

    /// Returns whether new branches are frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    pub(crate) fn core(&self) -> &FsCore {
        &self.core
    }

    pub(crate) fn origins(&self) -> &Arc<Origins> {
        &self.exporter.origins
    }

    /// Returns what exports branches.
    pub(crate) fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// Returns the exports and applies that sessions wait for.
    pub(crate) fn stops(&self) -> &Stops {
        &self.stops
    }

    pub(crate) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    pub(crate) fn watches(&self) -> &WatchService {
        &self.watches
    }

    pub(crate) fn broadcasts(&self) -> &Broadcasts {
        &self.broadcasts
    }

    pub(crate) fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    pub(crate) fn mounts(&self) -> &MountTable {
        &self.mounts
    }

    pub(crate) fn mounting(&self) -> &Arc<Mounting> {
        &self.mounting
    }

    pub(crate) fn refills(&self) -> &Refills {
        &self.refills
    }

    /// Closes the queues and watches of a session. If there are very many, another thread does so.
    pub(crate) fn close_watches(&self, session: SessionId) {
        if self.watches.watches_of(session) <= MAX_CLOSED_AT_ONCE {
            self.watches.close_session(session);
            return;
        }
        let watches = Arc::clone(&self.watches);
        if !self.jobs.clear_up(move || watches.close_session(session)) {
            self.watches.close_session(session);
        }
    }

    /// Refills the ring of a reader that has made room. If the reader has missed changes, another
    /// thread works out the difference.
    pub(crate) fn refill(&self, queue: Arc<Queue>) {
        // The registrations of a reader that goes on are in its channel.
        if self.watches.is_held(&queue) {
            self.registrations.look(queue.session);
            if self.catch_up.postpone(&queue) {
                return;
            }
        }
        let Some(difference) = self.watches.refill_at_once(&queue) else {
            return catch_up::note_missed(&self.watches, &self.registrations, &queue);
        };
        let (branch, watches) = (queue.branch, Arc::clone(&self.watches));
        let work = Box::new(move || watches.work_out(&queue, &difference));
        self.healing
            .add(branch, work, |thread| self.jobs.clear_up(thread));
    }

    /// Finds what the host changed while no daemon was there, in another thread. Called when the mounts of
    /// the daemon before are taken over.
    pub(crate) fn catch_up(self: &Arc<Self>) {
        let finder = Finder {
            core: self.core.clone(),
            watches: Arc::clone(&self.watches),
            registrations: Arc::clone(&self.registrations),
            state: Arc::clone(&self.catch_up),
        };
        let is_first = !self.mounts.shows(None);
        if is_first {
            // No program has waited for this daemon.
            self.watches.forget_changes();
        }
        let services = Arc::clone(self);
        if !self
            .jobs
            .clear_up(move || finder.run(services.host.as_ref(), is_first))
        {
            self.watches.forget_changes();
            self.catch_up.end(|queue| self.watches.refill(queue));
        }
    }

    /// Returns the branches that are to be deleted as soon as nothing uses them.
    pub(crate) fn pending_deletes(&self) -> &PendingDeletes {
        &self.exporter.pending_deletes
    }

    /// Returns which branches runs have.
    pub(crate) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Returns the directory below the branches; an empty path without one.
    pub(crate) fn lower(&self) -> &Bytes {
        &self.exporter.lower
    }

    /// Deletes a branch, unless it is in use. What only the branch had is freed by another thread.
    pub(crate) fn delete_branch(&self, branch: BranchId) -> Result<(), Refusal> {
        let remains = branches::delete(&self.core, self.origins(), &self.mounts, branch)?;
        let _is_under_way = self.jobs.clear_up(move || drop(remains));
        self.tokens.forget(branch);
        self.holds.forget(branch);
        Ok(())
    }

    /// Deletes the branches that waited for it and are not used any more.
    pub(crate) fn tidy(&self) {
        // A branch of a run stays: the run would settle another branch that is made under its name.
        let is_in_use =
            |branch| self.mounts.shows(Some(branch)) || self.holds.pid_of(branch).is_some();
        let is_as_made = |branch| self.is_known_as_made(branch);
        for branch in self
            .pending_deletes()
            .due(&self.core, is_in_use, is_as_made)
        {
            if let Err(refusal) = self.delete_branch(branch) {
                tracing::debug!(%branch, reason = refusal.0.message, "a retired branch stays");
            }
        }
    }

    /// Returns whether it is known that a branch is as it was made. If that is still to be found
    /// out, another thread does so, and wakes the event loop.
    fn is_known_as_made(&self, branch: BranchId) -> bool {
        self.exporter.is_known_as_made(branch, |find| {
            let wakes = Arc::clone(&self.wakes);
            let _is_under_way = self.jobs.clear_up(move || {
                find();
                wakes.send(Wake::Known);
            });
        })
    }

    /// Returns whether nothing would be lost with this daemon, as far as is known: nothing is
    /// mounted, and no branch differs from what it was made from.
    pub(crate) fn is_idle(&self) -> bool {
        let is_as_made = |branch| self.is_known_as_made(branch);
        !self.mounts.shows(None) && self.core.branches().iter().all(|it| is_as_made(it.id))
    }

    pub(crate) fn limits(&self) -> SessionLimits {
        self.limits
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Locks the open sessions, for the status.
    pub(crate) fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<PublicSession>>> {
        self.sessions.lock()
    }

    /// Returns what wakes the event loop.
    pub(crate) fn wakes(&self) -> &WakeQueue {
        &self.wakes
    }

    /// Returns when the daemon was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Returns how far the end of the daemon is prepared.
    pub(crate) fn end(&self) -> &Arc<End> {
        &self.end
    }

    /// Returns whether the changes of branches are exported before the daemon ends.
    pub(crate) fn saves_changes(&self) -> bool {
        self.saves_changes
    }

    /// Exports what would be lost, because the daemon ends. Does nothing when a request has
    /// exported it already, or has asked that it be lost.
    pub(crate) fn save_changes(&self) {
        if self.saves_changes && !self.end.is_settled() {
            self.exporter.save_and_end();
            self.end.settle();
        }
    }

    /// Returns the number of this start of the daemon.
    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }

    /// Returns the branch that a greeting asks for, with its name.
    pub(crate) fn branch_of_session(&self, hello: &Hello) -> Result<(BranchId, String), Refusal> {
        let id = match &hello.token {
            Some(token) => self.tokens.branch(token).ok_or_else(|| {
                let text = "the token is not known to this daemon; make one with: \
                            agentfs branch token NAME";
                Refusal::new(Code::FORBIDDEN, text)
            })?,
            None if hello.branch.is_empty() => FsCore::MAIN,
            None => branch_named(&self.core, &hello.branch)?,
        };
        let branch = self.core.branch(id)?;
        Ok((id, branch.name().to_owned()))
    }

    /// Returns what binds sessions to branches.
    pub(crate) fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// Returns what is counted, here and in the watch service.
    pub(crate) fn all_counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.counters.values();
        let (nodes, trees) = self.watches.watches();
        let counts = self.watches.counts();
        counters.extend([
            ("records_published", counts.published),
            ("records_coalesced", counts.coalesced),
            ("records_spilled", counts.spilled),
            ("differences_delivered", counts.healed),
            ("overflows_delivered", counts.overflowed),
            ("doorbells_rung", counts.doorbells),
            ("node_watches", nodes as u64),
            ("tree_watches", trees as u64),
            ("spilled_bytes", self.watches.spilled_bytes() as u64),
        ]);
        let (looks, requests) = self.registrations.counts();
        counters.extend([
            ("registrations_read", requests),
            ("registration_looks", looks),
        ]);
        let frozen = self.core.freeze_progress();
        counters.extend([
            ("freeze_files", frozen.files),
            ("freeze_bytes", frozen.bytes),
            ("new_branches_frozen", u64::from(self.is_frozen)),
        ]);
        let (echoes, failed) = self.echoing.counts();
        counters.extend([("echoes", echoes), ("echoes_failed", failed)]);
        match &self.lower_watch {
            Some(lower) => counters.extend(lower.counts().values()),
            None if self.core.announced().is_some() => counters.push(("lower_watch_off", 1)),
            None => {}
        }
        counters
    }
}

/// Whether the daemon can end without exporting anything.
#[derive(Debug, Default)]
pub(crate) struct End {
    is_settled: AtomicBool,
}

impl End {
    /// Records that nothing is left to be exported.
    pub(crate) fn settle(&self) {
        // Release here and below: pairs with the Acquire of the same flag.
        self.is_settled.store(true, Ordering::Release);
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }
}
