//! Changes from elsewhere for programs that no library is preloaded into: the kernel tells them, on
//! every mount where such a program watches something concerned.
//!
//! Whoever watches the same through the library hears the kernel too and is not told by a record, unless
//! the kernel could not be made to tell: then the record follows.
//! So a change is told in one way only, and that is decided before anybody is told. It is decided by
//! what was watched when `/proc` was last looked at; a change that is newer than that is looked at
//! once more, and told late if a program has begun to watch meanwhile.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentfs_core::event::{Change, Envelope, Origin};
use agentfs_core::id::{BranchId, MountId};
use agentfs_engine::service::WatchService;
use agentfs_engine::synth;
use agentfs_mount::Echoes;

use super::echo_mode::EchoMode;
use super::mounts::MountTable;
use super::services::{Sessions, lock, read, write};
use crate::listeners;

/// Changes that wait to be told. Beyond, they are not told, and counted.
const WAITING: usize = 1 << 16;

/// At most this part of the time is spent looking at `/proc`.
const SHARE: u32 = 20;

/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Tells the kernel's watchers.
pub(crate) struct Echoing {
    shared: Arc<Shared>,
    jobs: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    mode: EchoMode,
    mounts: MountTable,
    echoes: Echoes,
    /// What is to be told on each mount.
    watched: RwLock<HashMap<MountId, Watched>>,
    /// The branches of the mounts where something is to be told.
    branches: RwLock<HashSet<BranchId>>,
    is_watched: AtomicBool,
    /// What tells those with the library, and who they are.
    library: OnceLock<(Weak<WatchService>, Arc<Sessions>)>,
    told: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Watched {
    /// Everything is told, whoever watches.
    always: bool,
    /// Programs without the library watch all of it.
    all: bool,
    /// What programs without the library watch.
    nodes: HashSet<u64>,
    /// Who watches, by whatever means. They see the mount, wherever it is.
    processes: Vec<u32>,
}

struct Job {
    mount: MountId,
    envelope: Envelope,
    /// Nobody was told by a record; otherwise it depends on whether somebody watches by now.
    is_certain: bool,
    /// Whether new content comes with it, and a close after that.
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

    /// Whether there is anything to tell.
    fn is_wanted(&self) -> bool {
        self.always || self.all || !self.nodes.is_empty()
    }

    /// Whether a program without the library watches what has changed.
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
            library: OnceLock::new(),
            told: AtomicU64::new(0),
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

    /// Has the service told what became of the changes that the kernel was to tell. It tells each
    /// session of its own branch.
    pub(crate) fn serve(&self, service: &Arc<WatchService>, sessions: &Arc<Sessions>) {
        let library = (Arc::downgrade(service), Arc::clone(sessions));
        // Called once, before anything is watched.
        drop(self.shared.library.set(library));
    }

    /// The mounts on which the kernel tells this change, or has told it: who watches there is told
    /// by no record.
    pub(crate) fn told_on(&self, envelope: &Envelope) -> Vec<MountId> {
        let own = match envelope.origin {
            Origin::Mount(mount) => Some(mount),
            Origin::Local | Origin::Session(_) | Origin::Lower | Origin::Restore => None,
        };
        let mut told: Vec<MountId> = own.into_iter().collect();
        if self.shared.mode == EchoMode::Never || self.shared.mounts.is_empty() {
            return told;
        }
        for mount in self.shared.mounts.of_branch(envelope.branch) {
            if Some(mount) == own {
                continue;
            }
            let change = &envelope.change;
            let is_certain = self
                .shared
                .finds(mount, |it| it.always || it.concerns(change));
            // Whoever begins to watch after a file was opened is told of the close with the write.
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
            let jobs = lock(&self.jobs);
            if jobs.as_ref().is_none_or(|it| it.try_send(job).is_err()) {
                // Told by records, then.
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
            } else if is_certain {
                told.push(mount);
            }
        }
        told
    }

    /// Whether the opening and closing of files in a branch has to be heard of.
    pub(crate) fn wants_activity(&self, branch: BranchId) -> bool {
        let shared = &self.shared;
        shared.is_watched.load(Ordering::Relaxed)
            && (shared.mode == EchoMode::Always || read(&shared.branches).contains(&branch))
            && !shared.mounts.is_empty()
    }

    /// Changes that the kernel told, and those that it could not be made to tell.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let count = |it: &AtomicU64| it.load(Ordering::Relaxed);
        (count(&self.shared.told), count(&self.shared.failed))
    }
}

impl Drop for Echoing {
    fn drop(&mut self) {
        drop(lock(&self.jobs).take());
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("telling by echo failed");
        }
    }
}

impl Shared {
    fn finds(&self, mount: MountId, is_so: impl FnOnce(&Watched) -> bool) -> bool {
        if !self.is_watched.load(Ordering::Relaxed) {
            return false;
        }
        read(&self.watched).get(&mount).is_some_and(is_so)
    }

    fn run(&self, jobs: &Receiver<Job>) {
        let mut looked = None;
        let mut took = Duration::ZERO;
        while let Ok(job) = jobs.recv() {
            let is_news = looked.is_none_or(|looked| looked < job.at);
            let may_look = looked.is_none_or(|looked: Instant| looked.elapsed() > took * SHARE);
            // What is told already is looked after when there is time.
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
            let change = &job.envelope.change;
            if job.is_certain {
                let is_told = self.tell(job.mount, change);
                self.report(&job, is_told);
            } else if self.finds(job.mount, |it| it.concerns(change)) {
                self.tell(job.mount, change);
                // Nobody asked for the closing of files yet.
                if let Some(close) = change.content_close().filter(|_| job.closes) {
                    self.tell(job.mount, &close);
                }
            }
        }
    }

    /// The branches of which the library tells each process that has it. On a mount of another branch
    /// such a process is as one without.
    fn sessions(&self) -> HashMap<u32, Vec<BranchId>> {
        let mut branches: HashMap<u32, Vec<BranchId>> = HashMap::new();
        if let Some((_, sessions)) = self.library.get() {
            for session in lock(sessions).values() {
                let (process, branch) = session.hears();
                branches.entry(process).or_default().push(branch);
            }
        }
        branches
    }

    /// Looks who watches what.
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
        // Who watches by the library only is kept: what is on its way is told through them, when those
        // it is told for have ended.
        watched
            .retain(|mount, it| !it.is_wanted() || self.echoes.can_replay(*mount, &it.processes));
        let is_watched = watched.values().any(Watched::is_wanted);
        let wanted = self.mounts.after(MountId(0)).into_iter();
        let wanted = wanted.filter(|(id, _)| watched.get(id).is_some_and(Watched::is_wanted));
        *write(&self.branches) = wanted.map(|(_, mount)| mount.branch).collect();
        *write(&self.watched) = watched;
        self.is_watched.store(is_watched, Ordering::Relaxed);
    }

    /// Those with the library were told of nothing yet.
    fn report(&self, job: &Job, is_told: bool) {
        // What the kernel tells ends watches only when an object goes.
        let ends = matches!(
            job.envelope.change,
            Change::Removed { .. } | Change::Renamed { .. }
        );
        if is_told && !ends {
            return;
        }
        // They have heard of the end of a mount.
        let branch = job.envelope.branch;
        let is_mounted = self.mounts.of_branch(branch).contains(&job.mount);
        if let Some((service, _)) = self.library.get()
            && let Some(service) = service.upgrade()
            && is_mounted
        {
            service.deliver_after_echo(&job.envelope, job.mount, is_told);
        }
    }

    /// Whether the kernel has told.
    fn tell(&self, mount: MountId, change: &Change) -> bool {
        let mut told = self.try_tell(mount, change);
        // All of those who watched may have ended, and others begun.
        if told
            .as_ref()
            .is_err_and(|it| it.kind() == io::ErrorKind::Unsupported)
        {
            self.look();
            told = self.try_tell(mount, change);
        }
        match &told {
            Ok(()) => {
                self.told.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%mount, ?change, %error, "the kernel does not tell of a change");
            }
        }
        told.is_ok()
    }

    fn try_tell(&self, mount: MountId, change: &Change) -> io::Result<()> {
        let processes = read(&self.watched)
            .get(&mount)
            .map(|it| it.processes.clone());
        self.echoes
            .replay(mount, &processes.unwrap_or_default(), change)
    }
}
