//! What a daemon does first that goes on with the programs of one that was killed: it finds what the host
//! changed meanwhile, and each reader gets what it has missed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentfs_core::FsCore;
use agentfs_core::event::Origin;
use agentfs_engine::Queue;
use agentfs_engine::service::WatchService;
use parking_lot::Mutex;

use crate::base::config::Config;
use crate::lower::missed::emit_written;
use crate::lower::seen::Seen;
use crate::mounts::table::MountTable;
use crate::shared::registrations::Registrations;
use crate::shared::session_list::SessionList;

/// How long programs of the daemon before are expected. Those that come later look around by themselves.
pub(crate) const EXPECTED: Duration = Duration::from_secs(60);

/// The name of the list in a store that has the instance of the daemon.
const LIST: &str = "instance";

/// Writes the instance of this daemon into a store, and returns that of the daemon before.
pub(crate) fn succeed(store: &Path, instance: u64) -> Option<u64> {
    let list = SessionList::new(store, LIST);
    let former = list.read().trim_end().parse().ok();
    list.write(&format!("{instance}\n"));
    former
}

/// The directory below the branches, and up to when its changes were emitted.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) root: PathBuf,
    pub(crate) seen: Arc<Seen>,
    /// From when on changes may be missing; `None` if that is not known.
    pub(crate) missed_since: Option<SystemTime>,
}

impl Host {
    /// Opens what is known of the directory below, if the next daemon may have to know it.
    pub(crate) fn open(config: &Config, lower: Option<&Path>) -> Option<Self> {
        let store = config.store.as_deref().filter(|_| config.keeping.is_some());
        let (store, root) = (store?, lower.filter(|_| config.watch_lower)?);
        match Seen::open(store) {
            Ok(seen) => Some(Self {
                root: root.to_owned(),
                missed_since: seen.missed_since(),
                seen: Arc::new(seen),
            }),
            Err(error) => {
                tracing::warn!(%error, "the next daemon will not know what the host changes meanwhile");
                None
            }
        }
    }
}

/// Queues that wait until it is known what the host changed.
#[derive(Debug, Default)]
pub(crate) struct CatchUp(Mutex<Option<Vec<Arc<Queue>>>>);

impl CatchUp {
    /// Makes queues wait from now on, and keeps the changes for their readers.
    pub(crate) fn begin(&self, watches: &WatchService, mounts: &MountTable) {
        self.0.lock().get_or_insert_default();
        let mounts = mounts.clone();
        watches.keep_changes(move |it| match it.origin {
            // The kernel notifies the programs on the mount through which a change was made.
            Origin::Mount(own) => mounts.of_branch(it.branch) != [own],
            Origin::Local | Origin::Session(_) | Origin::Lower | Origin::Restore => true,
        });
    }

    /// Makes a queue wait. Returns false when it is known by now.
    pub(crate) fn postpone(&self, queue: &Arc<Queue>) -> bool {
        let mut waiting = self.0.lock();
        if let Some(waiting) = waiting.as_mut() {
            waiting.push(Arc::clone(queue));
        }
        waiting.is_some()
    }

    /// Has the queues go on that wait.
    pub(crate) fn end(&self, go_on: impl Fn(&Arc<Queue>)) {
        let waiting = self.0.lock().take();
        waiting.iter().flatten().for_each(go_on);
    }
}

/// What finding the changes of the host needs.
pub(crate) struct Finder {
    pub(crate) core: FsCore,
    pub(crate) watches: Arc<WatchService>,
    pub(crate) registrations: Arc<Registrations>,
    pub(crate) state: Arc<CatchUp>,
}

impl Finder {
    /// Emits what the host has changed, and has the queues go on that wait for it. The `first` daemon of a
    /// project has nothing to find.
    pub(crate) fn run(&self, host: Option<&Host>, is_first: bool) {
        match host {
            Some(host) if is_first => host.seen.begin(SystemTime::now()),
            Some(host) => self.find(host),
            None => {}
        }
        self.state.end(|queue| {
            self.watches.refill(queue);
            note_missed(&self.watches, &self.registrations, queue);
        });
    }

    fn find(&self, host: &Host) {
        let begun = SystemTime::now();
        let since = host.missed_since.unwrap_or(SystemTime::UNIX_EPOCH);
        let has_names = emit_written(&self.core, &host.root, since);
        if let Err(error) = &has_names {
            tracing::warn!(%error, "it is not known what the host has changed meanwhile");
        }
        if !has_names.unwrap_or(false) {
            let branches = self.core.branches().into_iter();
            let branches = branches.filter_map(|it| self.core.branch(it.id).ok());
            for branch in branches.filter(|it| !it.is_frozen()) {
                self.watches.lose_changes(branch.id());
            }
        }
        host.seen.begin(begun);
    }
}

/// Returns what forgets the changes that were kept for readers.
pub(crate) fn forget(core: &FsCore, watches: &Arc<WatchService>) -> Box<dyn FnOnce() + Send> {
    let (core, watches) = (core.clone(), Arc::clone(watches));
    Box::new(move || {
        watches.forget_changes();
        core.forget_changes_before_opening();
    })
}

/// Notes what the reader of an earlier daemon has got, once it has all that it had missed.
pub(crate) fn note_missed(watches: &WatchService, registrations: &Registrations, queue: &Queue) {
    if let Some(through) = watches.missed_through(queue) {
        registrations.note_delivered(queue.session, through);
    }
}
