//! Changes from elsewhere for programs that no library is preloaded into: the kernel tells them, on
//! every mount where such a program watches something concerned.
//!
//! Whoever watches the same through the library hears the kernel too and is not told by a record.
//! So a change is told in one way only, and that is decided before anybody is told. It is decided by
//! what was watched when `/proc` was last looked at; a change that is newer than that is looked at
//! once more, and told late if a program has begun to watch meanwhile.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentfs_core::event::{Change, Envelope, Origin};
use agentfs_core::id::MountId;
use agentfs_mount::Echoes;

use super::mounts::MountTable;
use super::services::{lock, read, write};
use crate::heal::closing;
use crate::listeners;
use crate::synth;

/// When changes are told by the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum EchoMode {
    /// Where a program without the preloaded library watches.
    #[default]
    Auto,
    /// On every mount.
    Always,
    /// Nowhere.
    Never,
}

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
    /// What is watched on each mount by whom nobody else tells.
    watched: RwLock<HashMap<MountId, Watched>>,
    is_watched: AtomicBool,
    told: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Watched {
    all: bool,
    nodes: HashSet<u64>,
    /// Who watches. They see the mount, wherever it is.
    processes: Vec<u32>,
}

struct Job {
    mount: MountId,
    change: Change,
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
            is_watched: AtomicBool::new(mode == EchoMode::Always),
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
            let is_certain = self.shared.is_loud(mount, &envelope.change);
            // Whoever begins to watch after a file was opened is told of the close with the write.
            if !is_certain && matches!(envelope.change, Change::Closed { .. }) {
                continue;
            }
            let job = Job {
                mount,
                change: envelope.change.clone(),
                is_certain,
                closes: matches!(envelope.origin, Origin::Lower | Origin::Restore)
                    || !matches!(envelope.change, Change::Created { .. }),
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

    /// Whether the opening and closing of files has to be heard of.
    pub(crate) fn wants_activity(&self) -> bool {
        self.shared.is_watched.load(Ordering::Relaxed) && !self.shared.mounts.is_empty()
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
    fn is_loud(&self, mount: MountId, change: &Change) -> bool {
        if !self.is_watched.load(Ordering::Relaxed) {
            return false;
        }
        let watched = read(&self.watched);
        watched.get(&mount).is_some_and(|it| it.concerns(change))
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
            if job.is_certain {
                self.tell(&job, &job.change);
            } else if self.is_loud(job.mount, &job.change) {
                self.tell(&job, &job.change);
                // Nobody asked for the closing of files yet.
                if let Some(close) = closing(&job.change).filter(|_| job.closes) {
                    self.tell(&job, &close);
                }
            }
        }
    }

    /// Looks who watches what.
    fn look(&self) {
        let mounts = self.mounts.devices();
        let mut watched: HashMap<MountId, Watched> = HashMap::new();
        if self.mode == EchoMode::Always {
            let all = Watched {
                all: true,
                ..Watched::default()
            };
            watched.extend(mounts.values().map(|mount| (*mount, all.clone())));
        } else {
            for instance in listeners::all().iter().filter(|it| !it.is_hooked) {
                for (device, inode) in &instance.marks {
                    if let Some(mount) = mounts.get(device) {
                        let watched = watched.entry(*mount).or_default();
                        watched.nodes.insert(*inode);
                        watched.seen_by(instance.pid);
                    }
                }
                for mount in instance.devices.iter().filter_map(|it| mounts.get(it)) {
                    let watched = watched.entry(*mount).or_default();
                    watched.all = true;
                    watched.seen_by(instance.pid);
                }
            }
        }
        watched.retain(|mount, it| self.echoes.can_tell(*mount, &it.processes));
        let is_watched = !watched.is_empty();
        *write(&self.watched) = watched;
        self.is_watched.store(is_watched, Ordering::Relaxed);
    }

    fn tell(&self, job: &Job, change: &Change) {
        let processes = read(&self.watched)
            .get(&job.mount)
            .map(|it| it.processes.clone());
        let processes = processes.unwrap_or_default();
        match self.echoes.tell(job.mount, &processes, change) {
            Ok(()) => {
                self.told.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(mount = %job.mount, ?change, %error, "the kernel does not tell of a change");
            }
        }
    }
}
