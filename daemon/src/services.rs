//! What all sessions share.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::Instant;

use agentfs_core::id::{BranchId, SessionId};
use agentfs_core::{FsConfig, FsCore, Overlay};
use agentfs_engine::service::{self, WatchService};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{Code, Counter, Hello, SessionStatus, Status, StatusReport, Token};
use mio::Registry;

use super::branches::{self, Origins, branch_named};
use super::broadcast::Broadcasts;
use super::counters::Counters;
use super::daemon::{Config, StartError};
use super::echo::Echoing;
use super::event_loop::Control;
use super::exporter::Exporter;
use super::holds::Holds;
use super::jobs::Jobs;
use super::limits::Limits;
use super::lower::LowerWatch;
use super::mounting::Mounting;
use super::mounts::MountTable;
use super::open_session::PublicSession;
use super::refills::Refills;
use super::refusal::Refusal;
use super::registrations::Registrations;
use super::retired::Retired;
use super::stops::Stops;

/// Sessions on one page of a status report.
const SESSIONS_PER_PAGE: usize = 8;

/// What binds sessions to branches.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Token, BranchId>>);

impl Tokens {
    /// Forgets the tokens of a branch that is gone.
    pub(crate) fn forget(&self, branch: BranchId) {
        lock(&self.0).retain(|_, of| *of != branch);
    }
}

/// The open sessions.
pub(crate) type Sessions = Mutex<BTreeMap<SessionId, Arc<PublicSession>>>;

/// Shared by the sessions and the sinks.
pub(crate) struct Services {
    /// The first to end: it uses the others.
    lower_watch: Option<LowerWatch>,
    echoing: Arc<Echoing>,
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
    holds: Holds,
    limits: Limits,
    counters: Counters,
    tokens: Arc<Tokens>,
    sessions: Arc<Sessions>,
    /// Tells this start of the daemon from all others.
    instance: u64,
    started: Instant,
    end: Arc<End>,
    /// Whether what the branches changed is exported before the end.
    saves_changes: bool,
    /// The name of the page of counters, once there is one.
    page: OnceLock<String>,
    page_wanted: AtomicBool,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The filesystem, over a directory or empty. Who runs the daemon is its root.
fn core_over(lower: Option<PathBuf>) -> Result<FsCore, StartError> {
    let mut config = FsConfig {
        overlay: lower.map(|lower| Overlay { lower }),
        ..FsConfig::default()
    };
    config.permissions.root_uid = rustix::process::geteuid().as_raw();
    config.permissions.root_gid = rustix::process::getegid().as_raw();
    FsCore::new(config).map_err(StartError::Filesystem)
}

impl Services {
    pub(crate) fn new(
        config: &Config,
        control: &Arc<Control>,
        registry: Registry,
    ) -> Result<Self, StartError> {
        let lower = match &config.lower {
            Some(lower) => Some(
                std::fs::canonicalize(lower)
                    .map_err(|error| StartError::Lower(lower.clone(), error))?,
            ),
            None => None,
        };
        let core = core_over(lower.clone())?;
        let unusable = |errno| StartError::Io(io::Error::from(errno));
        let exporter = Exporter::new(&core, lower.as_deref()).map_err(unusable)?;
        let limits = service::QueueLimits {
            queues: usize::try_from(config.limits.queues).unwrap_or(usize::MAX),
            watches: usize::try_from(config.limits.watches).unwrap_or(usize::MAX),
            ..service::QueueLimits::default()
        };
        let disabled = |error| StartError::Io(io::Error::other(error));
        let mounts = MountTable::default();
        // The first to subscribe: who hears of a change finds it on every mount.
        let mounting = Arc::new(Mounting::new(&core, &mounts, control).map_err(disabled)?);
        let watches = WatchService::new(core.clone(), limits).map_err(StartError::Io)?;
        let echoing = mounting.echo(config.echo).map_err(StartError::Io)?;
        let echoing = Arc::new(echoing);
        let (told, wanted) = (Arc::clone(&echoing), Arc::clone(&echoing));
        let watches = watches
            .before_delivery(mounting.settler())
            .notified_by_kernel(
                move |it| told.told_on(it),
                move |it| wanted.wants_activity(it),
            );
        let watches = Arc::new(watches);
        let sessions = Arc::<Sessions>::default();
        echoing.serve(&watches, &sessions);
        let broadcasts = Arc::new(Broadcasts::new(control, mounting.settler()));
        let registrations = Arc::new(Registrations::new(&core, &watches, &mounts, control));
        // In front of the watch service: a watch that is registered hears the event.
        core.subscribe_events(registrations.clone())
            .map_err(disabled)?;
        core.subscribe_events(watches.clone()).map_err(disabled)?;
        core.subscribe_events(broadcasts.clone())
            .map_err(disabled)?;
        let resync = {
            let (mounting, watches) = (Arc::clone(&mounting), Arc::clone(&watches));
            let broadcasts = Arc::clone(&broadcasts);
            move || {
                mounting.forget_all();
                watches.overflow_all();
                broadcasts.overflow_all();
            }
        };
        let lower_watch = lower
            .as_deref()
            .filter(|_| config.watch_lower)
            .map(|root| LowerWatch::start(&core, root, Box::new(resync)))
            .transpose()
            .map_err(StartError::Io)?;
        Ok(Self {
            lower_watch,
            echoing,
            exporter,
            stops: Stops::default(),
            core,
            jobs: Jobs::new(control),
            watches,
            broadcasts,
            registrations,
            mounts,
            mounting,
            refills: Refills::new(registry),
            holds: Holds::default(),
            limits: config.limits,
            counters: Counters::default(),
            tokens: Arc::default(),
            sessions,
            // Its keys are the system's random numbers.
            instance: RandomState::new().hash_one(std::process::id()),
            started: Instant::now(),
            end: Arc::default(),
            saves_changes: config.saves_changes,
            page: OnceLock::new(),
            page_wanted: AtomicBool::new(false),
        })
    }

    pub(crate) fn core(&self) -> &FsCore {
        &self.core
    }

    pub(crate) fn origins(&self) -> &Arc<Origins> {
        &self.exporter.origins
    }

    /// What exports branches.
    pub(crate) fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// The exports that sessions wait for.
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

    /// Branches that are to go when they are no longer used.
    pub(crate) fn retired(&self) -> &Retired {
        &self.exporter.retired
    }

    /// Which branches runs have.
    pub(crate) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// The directory below the branches; empty without one.
    pub(crate) fn lower(&self) -> &Bytes {
        &self.exporter.lower
    }

    /// Deletes a branch, unless it is in use.
    pub(crate) fn delete_branch(&self, branch: BranchId) -> Result<(), Refusal> {
        branches::delete(&self.core, self.origins(), &self.mounts, branch)?;
        self.tokens.forget(branch);
        self.holds.forget(branch);
        Ok(())
    }

    /// Deletes what was retired and is not used any more.
    pub(crate) fn tidy(&self) {
        for branch in self.retired().due(self) {
            if let Err(refusal) = self.delete_branch(branch) {
                tracing::debug!(%branch, reason = refusal.0.message, "a retired branch stays");
            }
        }
    }

    /// Whether nothing would be lost with this daemon: nothing is mounted, and no branch differs from
    /// what it was made from.
    pub(crate) fn is_idle(&self) -> bool {
        let is_as_made = |branch| self.exporter.is_as_made(branch);
        !self.mounts.shows(None) && self.core.branches().iter().all(|it| is_as_made(it.id))
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The open sessions, for the status.
    pub(crate) fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<PublicSession>>> {
        lock(&self.sessions)
    }

    /// The end that was asked for by a request.
    pub(crate) fn end(&self) -> &Arc<End> {
        &self.end
    }

    /// Whether what the branches changed is exported before the daemon ends.
    pub(crate) fn saves_changes(&self) -> bool {
        self.saves_changes
    }

    /// Exports what would be lost, because the daemon ends; not, when it was exported or is to be
    /// lost because somebody asked for that.
    pub(crate) fn save_changes(&self) {
        if self.saves_changes && !self.end.is_settled() {
            self.exporter.save_and_end();
            self.end.settle();
        }
    }

    /// The name of the page of counters; empty when there is none.
    pub(crate) fn counters_name(&self) -> String {
        self.page.get().cloned().unwrap_or_default()
    }

    /// What tells this start of the daemon from all others.
    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }

    /// There is a page of counters now.
    pub(crate) fn name_page(&self, name: &str) {
        self.page.get_or_init(|| name.to_owned());
    }

    /// Whether somebody asked for counters since the last call.
    pub(crate) fn take_page_wanted(&self) -> bool {
        self.page_wanted.swap(false, Ordering::Relaxed)
    }

    /// The branch that a greeting asks for.
    pub(crate) fn branch_of_session(&self, hello: &Hello) -> Result<(BranchId, String), Refusal> {
        let id = match &hello.token {
            Some(token) => lock(&self.tokens.0).get(token).copied().ok_or_else(|| {
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

    /// Makes a token that binds sessions to a branch.
    pub(crate) fn make_token(&self, branch: BranchId) -> io::Result<Token> {
        let mut token = Token([0; 16]);
        // The kernel's random numbers, on every system.
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut token.0)?;
        lock(&self.tokens.0).insert(token, branch);
        Ok(token)
    }

    pub(crate) fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// What is counted, here and in the watch service.
    pub(crate) fn all_counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.counters.values();
        let (nodes, trees) = self.watches.watches();
        let counts = self.watches.counts();
        counters.extend([
            ("records_published", counts.published),
            ("records_coalesced", counts.coalesced),
            ("records_spilled", counts.spilled),
            ("differences_told", counts.healed),
            ("overflows_told", counts.overflowed),
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
        let (echoes, failed) = self.echoing.counts();
        counters.extend([("echoes", echoes), ("echoes_failed", failed)]);
        match &self.lower_watch {
            Some(lower) => counters.extend(lower.counts().values()),
            None if self.core.announced().is_some() => counters.push(("lower_watch_off", 1)),
            None => {}
        }
        counters
    }

    /// One page of the status. A bound session sees itself.
    pub(crate) fn report(&self, request: &Status, of: &PublicSession) -> StatusReport {
        self.page_wanted.store(true, Ordering::Relaxed);
        let first = SessionId(request.after.saturating_add(1));
        let mut shown: Vec<Arc<PublicSession>> = self
            .sessions()
            .range(first..)
            .filter(|(id, _)| !of.is_bound() || **id == of.id())
            .map(|(_, it)| Arc::clone(it))
            .take(SESSIONS_PER_PAGE + 1)
            .collect();
        let more = shown.len() > SESSIONS_PER_PAGE;
        shown.truncate(SESSIONS_PER_PAGE);
        let status = |it: &Arc<PublicSession>| {
            // What it has registered and no event has made anybody look for.
            self.registrations.look(it.id());
            it.status()
        };
        let sessions: Vec<SessionStatus> = shown.iter().map(status).collect();
        let counters = self.all_counters();
        StatusReport {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lower: self.lower().clone(),
            uptime_s: self.started.elapsed().as_secs(),
            counters: counters
                .into_iter()
                .map(|(name, value)| Counter {
                    name: name.to_owned(),
                    value,
                })
                .collect(),
            sessions,
            more,
        }
    }
}

/// The end of the daemon, as a request asked for it.
#[derive(Debug, Default)]
pub(crate) struct End {
    is_settled: AtomicBool,
    is_wanted: AtomicBool,
}

impl End {
    /// Nothing is left to be exported.
    pub(crate) fn settle(&self) {
        // Release here and below: pairs with the Acquire of the same flag.
        self.is_settled.store(true, Ordering::Release);
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    /// Asks the event loop to end after this turn.
    pub(crate) fn want(&self) {
        self.is_wanted.store(true, Ordering::Release);
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire)
    }
}

/// As [`lock`].
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`].
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// A panic while the lock was held leaves data that is valid by itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
