//! The echo: changes from elsewhere are repeated for the kernel, on every mount where a program
//! without the preloaded library watches an object that the change concerns.
//!
//! A program with the library that watches the same object gets the kernel's event too, and no
//! record, unless the echo fails: then the record follows. So a change is delivered in one way only,
//! and that is decided before it is delivered at all. The decision rests on what was watched when
//! the thread last looked into `/proc`. For a change that is newer, the thread looks once more, and
//! echoes the change late if a program has begun to watch meanwhile.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentfs_core::event::{Change, Envelope, Origin};
use agentfs_core::id::{BranchId, MountId};
use agentfs_engine::service::WatchService;
use agentfs_engine::synth;
use agentfs_mount::Echoes;
use parking_lot::{Mutex, RwLock};

use crate::base::echo_mode::EchoMode;
use crate::base::public_session::Sessions;
use crate::mounts::listeners;
use crate::mounts::table::MountTable;

/// Changes that wait for an echo. Those beyond get none, and are counted.
const WAITING: usize = 1 << 16;

/// At most this part of the time is spent looking at `/proc`.
const SHARE: u32 = 20;

/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Repeats changes for the kernel.
pub(crate) struct Echoing {
    shared: Arc<Shared>,
    jobs: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    mode: EchoMode,
    mounts: MountTable,
    echoes: Echoes,
    /// What is to be echoed on each mount.
    watched: RwLock<HashMap<MountId, Watched>>,
    /// The branches of the mounts where something is to be echoed.
    branches: RwLock<HashSet<BranchId>>,
    is_watched: AtomicBool,
    /// How many changes wait for an echo that is certain. Raised only under the lock of `watched`.
    certain: AtomicUsize,
    /// What delivers to programs with the library, and their sessions.
    library: OnceLock<(Weak<WatchService>, Arc<Sessions>)>,
    echoed: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Watched {
    /// Everything is echoed, even if no program watches.
    always: bool,
    /// Programs without the library watch the whole mount.
    all: bool,
    /// The nodes that programs without the library watch.
    nodes: HashSet<u64>,
    /// The processes that watch, with or without the library. They see the mount in their namespace.
    processes: Vec<u32>,
}

struct Job {
    mount: MountId,
    envelope: Envelope,
    /// The change was delivered by no record. Otherwise the echo depends on whether a program
    /// watches by now.
    is_certain: bool,
    /// Whether the change brings new content, and a close after that.
    closes: bool,
    at: Instant,
}

impl fmt::Debug for Echoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Echoing")
            .field("mode", &self.shared.mode)
            .finish_non_exhaustive()
    }
}

impl Watched {
    fn seen_by(&mut self, process: u32) {
        if self.processes.last() != Some(&process) {
            self.processes.push(process);
        }
    }

    /// Goes on with what was to be echoed before.
    fn keep(&mut self, before: &Self) {
        self.all |= before.all;
        self.nodes.extend(&before.nodes);
        if self.processes.is_empty() {
            self.processes.clone_from(&before.processes);
        }
    }

    /// Returns whether there is anything to echo.
    fn is_wanted(&self) -> bool {
        self.always || self.all || !self.nodes.is_empty()
    }

    /// Returns whether a program without the library watches what has changed.
    fn concerns(&self, change: &Change) -> bool {
        let nodes = synth::nodes(change);
        self.all || nodes.iter().flatten().any(|it| self.nodes.contains(&it.0))
    }
}

impl Echoing {
    pub(crate) fn start(mode: EchoMode, mounts: &MountTable, echoes: Echoes) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            mode,
            mounts: mounts.clone(),
            echoes,
            watched: RwLock::default(),
            branches: RwLock::default(),
            is_watched: AtomicBool::new(mode == EchoMode::Always),
            certain: AtomicUsize::new(0),
            library: OnceLock::new(),
            echoed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        if mode == EchoMode::Never {
            let (jobs, thread) = (Mutex::default(), Mutex::default());
            return Ok(Self {
                shared,
                jobs,
                thread,
            });
        }
        let (jobs, received) = sync_channel(WAITING);
        let task = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("agentfs-echo".to_owned())
            .spawn(move || task.run(&received))?;
        Ok(Self {
            shared,
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Sets the service that delivers changes whose echo failed, and the sessions, each with its
    /// branch.
    pub(crate) fn serve(&self, service: &Arc<WatchService>, sessions: &Arc<Sessions>) {
        let library = (Arc::downgrade(service), Arc::clone(sessions));
        // Called once, before anything is watched.
        drop(self.shared.library.set(library));
    }

    /// Returns the mounts on which the kernel announces this change, or has announced it: programs
    /// that watch there get no record.
    pub(crate) fn announced_on(&self, envelope: &Envelope) -> Vec<MountId> {
        let own = match envelope.origin {
            Origin::Mount(mount) => Some(mount),
            Origin::Local | Origin::Session(_) | Origin::Lower | Origin::Restore => None,
        };
        let mut announced: Vec<MountId> = own.into_iter().collect();
        if self.shared.mode == EchoMode::Never || self.shared.mounts.is_empty() {
            return announced;
        }
        for mount in self.shared.mounts.of_branch(envelope.branch) {
            if Some(mount) == own {
                continue;
            }
            let change = &envelope.change;
            let is_certain = self.shared.will_echo(mount, change);
            // A program that begins to watch after a file was opened gets the close with the write.
            if !is_certain && matches!(change, Change::Closed { .. }) {
                continue;
            }
            let job = Job {
                mount,
                envelope: envelope.clone(),
                is_certain,
                closes: matches!(envelope.origin, Origin::Lower | Origin::Restore)
                    || !matches!(change, Change::Created { .. }),
                at: Instant::now(),
            };
            let jobs = self.jobs.lock();
            if jobs.as_ref().is_none_or(|it| it.try_send(job).is_err()) {
                // Records deliver the change, then.
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
                if is_certain {
                    self.shared.certain.fetch_sub(1, Ordering::Relaxed);
                }
            } else if is_certain {
                announced.push(mount);
            }
        }
        announced
    }

    /// Returns whether the opening and closing of files in a branch is wanted.
    pub(crate) fn wants_activity(&self, branch: BranchId) -> bool {
        let shared = &self.shared;
        shared.is_watched.load(Ordering::Relaxed)
            && (shared.mode == EchoMode::Always || shared.branches.read().contains(&branch))
            && !shared.mounts.is_empty()
    }

    /// Returns how many changes were echoed, and how many could not be.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let count = |it: &AtomicU64| it.load(Ordering::Relaxed);
        (count(&self.shared.echoed), count(&self.shared.failed))
    }
}

impl Drop for Echoing {
    fn drop(&mut self) {
        drop(self.jobs.lock().take());
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the echo thread failed");
        }
    }
}

impl Shared {
    fn finds(&self, mount: MountId, is_so: impl FnOnce(&Watched) -> bool) -> bool {
        if !self.is_watched.load(Ordering::Relaxed) {
            return false;
        }
        self.watched.read().get(&mount).is_some_and(is_so)
    }

    /// Returns whether a change is to be echoed on a mount, and counts it if so.
    fn will_echo(&self, mount: MountId, change: &Change) -> bool {
        self.finds(mount, |it| {
            let is_wanted = it.always || it.concerns(change);
            if is_wanted {
                self.certain.fetch_add(1, Ordering::Relaxed);
            }
            is_wanted
        })
    }

    fn run(&self, jobs: &Receiver<Job>) {
        let mut looked = None;
        let mut took = Duration::ZERO;
        while let Ok(job) = jobs.recv() {
            let change = &job.envelope.change;
            if job.is_certain {
                let is_echoed = self.echo(job.mount, change);
                self.report(&job, is_echoed);
                self.certain.fetch_sub(1, Ordering::Relaxed);
            }
            let is_news = looked.is_none_or(|looked| looked < job.at);
            let may_look = looked.is_none_or(|looked: Instant| looked.elapsed() > took * SHARE);
            // A certain echo needs no new look, so that comes when there is time.
            if is_news && (may_look || !job.is_certain) {
                if let Some(looked) = looked {
                    let pause = PAUSE.max(took * SHARE);
                    std::thread::sleep(pause.saturating_sub(looked.elapsed()));
                }
                let begun = Instant::now();
                self.look();
                took = begun.elapsed();
                looked = Some(begun);
            }
            if !job.is_certain && self.finds(job.mount, |it| it.concerns(change)) {
                self.echo(job.mount, change);
                // No program asked for the closing of files yet.
                if let Some(close) = change.content_close().filter(|_| job.closes) {
                    self.echo(job.mount, &close);
                }
            }
        }
    }

    /// Returns the branches of each process with the library. On a mount of another branch such a
    /// process counts as one without.
    fn sessions(&self) -> HashMap<u32, Vec<BranchId>> {
        let mut branches: HashMap<u32, Vec<BranchId>> = HashMap::new();
        if let Some((_, sessions)) = self.library.get() {
            for session in sessions.lock().values() {
                branches
                    .entry(session.pid())
                    .or_default()
                    .push(session.branch());
            }
        }
        branches
    }

    /// Reads from `/proc` which processes watch what.
    fn look(&self) {
        let mounts = self.mounts.devices();
        let mut watched: HashMap<MountId, Watched> = HashMap::new();
        if self.mode == EchoMode::Always {
            for (mount, _) in mounts.values() {
                watched.entry(*mount).or_default().always = true;
            }
        }
        let sessions = self.sessions();
        for instance in listeners::all() {
            let is_served = |branch| {
                let of = sessions.get(&instance.pid);
                instance.is_hooked && of.is_none_or(|branches| branches.contains(branch))
            };
            for (device, inode) in &instance.marks {
                if let Some((mount, branch)) = mounts.get(device) {
                    let watched = watched.entry(*mount).or_default();
                    watched.seen_by(instance.pid);
                    if !is_served(branch) {
                        watched.nodes.insert(*inode);
                    }
                }
            }
            for (mount, branch) in instance.devices.iter().filter_map(|it| mounts.get(it)) {
                let watched = watched.entry(*mount).or_default();
                watched.seen_by(instance.pid);
                watched.all |= !is_served(branch);
            }
        }
        // Mounts that are watched by the library only are kept: their processes serve to reach the
        // mount for echoes under way, when the processes those are meant for have ended.
        watched
            .retain(|mount, it| !it.is_wanted() || self.echoes.can_replay(*mount, &it.processes));
        let mounts = self.mounts.after(MountId(0));
        let mut current = self.watched.write();
        // A record of a change must not overtake the echoes of those before it. So where a program has
        // ended, echoes go on until none waits.
        if self.certain.load(Ordering::Relaxed) > 0 {
            for (mount, before) in current.iter() {
                watched.entry(*mount).or_default().keep(before);
            }
        }
        let is_watched = watched.values().any(Watched::is_wanted);
        let wanted = mounts.into_iter();
        let wanted = wanted.filter(|(id, _)| watched.get(id).is_some_and(Watched::is_wanted));
        *self.branches.write() = wanted.map(|(_, mount)| mount.branch).collect();
        *current = watched;
        self.is_watched.store(is_watched, Ordering::Relaxed);
    }

    /// Reports the outcome of an echo to the watch service, which has delivered nothing of the
    /// change to programs with the library yet.
    fn report(&self, job: &Job, is_echoed: bool) {
        // An event of the kernel ends watches only when an object goes.
        let ends = matches!(
            job.envelope.change,
            Change::Removed { .. } | Change::Renamed { .. }
        );
        if is_echoed && !ends {
            return;
        }
        // Their watches have ended with a mount that is gone.
        let branch = job.envelope.branch;
        let is_mounted = self.mounts.of_branch(branch).contains(&job.mount);
        if let Some((service, _)) = self.library.get()
            && let Some(service) = service.upgrade()
            && is_mounted
        {
            service.deliver_after_echo(&job.envelope, job.mount, is_echoed);
        }
    }

    /// Echoes a change, and returns whether the kernel has announced it.
    fn echo(&self, mount: MountId, change: &Change) -> bool {
        let mut echoed = self.try_echo(mount, change);
        // All processes that watched may have ended, and others begun.
        if echoed
            .as_ref()
            .is_err_and(|it| it.kind() == io::ErrorKind::Unsupported)
        {
            self.look();
            echoed = self.try_echo(mount, change);
        }
        match &echoed {
            Ok(()) => {
                self.echoed.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%mount, ?change, %error, "a change cannot be echoed");
            }
        }
        echoed.is_ok()
    }

    fn try_echo(&self, mount: MountId, change: &Change) -> io::Result<()> {
        let processes = self
            .watched
            .read()
            .get(&mount)
            .map(|it| it.processes.clone());
        self.echoes
            .replay(mount, &processes.unwrap_or_default(), change)
    }
}
