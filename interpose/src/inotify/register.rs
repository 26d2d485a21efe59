//! The way of a watch from `inotify_add_watch` to the daemon, and what is registered with a new daemon.

use std::ffi::CString;
use std::os::fd::BorrowedFd;

use agentfs_proto::registration::{NOT_DELIVERED, Registration};
use rustix::fs::inotify::{self, WatchFlags};

use crate::config::config;
use crate::connection;
use crate::fork;
use crate::inotify::hidden_watch;
use crate::inotify::instance::{Instance, State};
use crate::inotify::orphans;
use crate::inotify::queue::Queue;
use crate::inotify::shared::Shared;
use crate::inotify::watch_table::Watch;
use crate::lock::Lock;
use crate::mounts::Object;

/// Held while a state is made or gets a new queue.
static MAKING: Lock<()> = Lock::new(());

/// Prepares the instance of a program that is about to watch something on AgentFS.
///
/// The instance has our hidden watch before it has one on a mount. By that the daemon distinguishes it, in
/// `/proc/PID/fdinfo`, from an instance that only the kernel can notify.
pub(crate) fn watching(fd: BorrowedFd<'_>) {
    if let Some(instance) = instance_of(fd)
        && let Some(state) = instance.state()
    {
        if !state.has_had_queue() && serve(fd, state, Reason::NotServed) == Served::Late {
            ring(state);
        }
        if !state.shared().has_restart() {
            watch_for_restart(fd, state.shared());
        }
    }
}

/// Gives an instance a queue that has none: because the daemon did not answer in time, once that is long
/// enough ago, or because the queue is one of a process that has ended.
pub(crate) fn serve_late(fd: BorrowedFd<'_>, state: &State) {
    let is_due = if state.has_had_queue() {
        state.shared().is_forsaken()
    } else {
        connection::back_off_is_over()
    };
    if is_due && serve(fd, state, Reason::NotServed) == Served::Late {
        ring(state);
    }
}

/// Makes the program read, though nothing is in the ring.
fn ring(state: &State) {
    if let Some(queue) = state.queue() {
        queue.ring();
    }
}

/// Returns the instance with a state, which is made here if there is none.
fn instance_of(fd: BorrowedFd<'_>) -> Option<Instance> {
    use std::os::fd::AsRawFd as _;
    fork::own_state();
    let fd = fd.as_raw_fd();
    // An instance that no hook saw being made is one from here on.
    let instance = Instance::of(fd).or_else(|| Instance::new(fd))?;
    if instance.state().is_none() {
        MAKING.with(|()| {
            let shared = Shared::new()?;
            instance.set_state(shared);
            Some(())
        })??;
    }
    Some(instance)
}

/// Registers a watch on AgentFS that the kernel has made or changed. Without a daemon the watch is only
/// noted, and registered when there is one.
pub(crate) fn watched(fd: BorrowedFd<'_>, object: Object, mask: u32, wd: i32) {
    let instance = instance_of(fd);
    let (Some(instance), Ok(wd)) = (instance, u32::try_from(wd)) else {
        return;
    };
    let Some(state) = instance.state() else {
        return;
    };
    state.shared().release_restart(wd.cast_signed());
    let wanted = Watch {
        wd,
        mask,
        st_dev: object.st_dev,
        st_ino: object.st_ino,
    };
    // Under one lock, so that the daemon gets the registrations of two threads in the order of the table.
    state.shared().locked(|table| {
        if let (Some(watch), Some(queue)) = (table.set(wanted), state.queue()) {
            set(queue, watch);
        }
    });
}

fn set(queue: &Queue, watch: Watch) {
    queue.register(|queue| Registration::Set {
        queue,
        wd: watch.wd,
        mask: watch.mask,
        st_dev: watch.st_dev,
        st_ino: watch.st_ino,
    });
}

/// Puts a hidden watch on the file into which a daemon writes when it listens.
fn watch_for_restart(fd: BorrowedFd<'_>, shared: &Shared) {
    let file = connection::restart_file();
    if let Some(wd) = file.and_then(|it| hidden_watch::add(fd, shared, &it, WatchFlags::MODIFY)) {
        shared.set_restart(wd);
    }
}

/// Opens a queue, puts its bell into the instance, and arms its ring.
fn new_queue(fd: BorrowedFd<'_>, shared: &Shared) -> Option<Queue> {
    let new = connection::open_inotify_queue()?;
    let queue = Queue::new(new, shared.renew())?;
    let path = format!("/proc/self/fd/{}", queue.bell_file().number());
    let path = CString::new(path).ok()?;
    queue.bell_file().get()?;
    let bell = hidden_watch::add(fd, shared, &path, WatchFlags::ACCESS)?;
    let old = shared.bell();
    shared.set_bell(bell);
    if old > 0 {
        let _ = inotify::remove_watch(fd, old);
    }
    // The ring is empty and armed, so the first record rings.
    queue.arm().then_some(queue)
}

/// Unregisters a watch that the program is about to remove: the daemon sends no event for it from now on.
/// What is in the ring already is delivered, and the kernel's `IN_IGNORED` comes behind it.
pub(crate) fn unwatching(instance: &Instance, wd: i32) {
    let queue = instance.state().and_then(State::queue);
    if let (Some(queue), Ok(wd)) = (queue, u32::try_from(wd)) {
        queue.register(|queue| Registration::Remove { queue, wd });
    }
}

/// Why an instance may need a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// A daemon listens since a moment ago.
    Restart,
    /// The bell was rung for a queue that another process has, but this one reads; or the daemon did not
    /// answer when the first watch was made.
    NotServed,
}

impl Reason {
    pub(crate) fn of(is_restart: bool) -> Self {
        if is_restart {
            Self::Restart
        } else {
            Self::NotServed
        }
    }
}

/// What [`serve`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Served {
    /// The instance has the queue that it had, or none.
    AsBefore,
    /// It has a new queue, before it watches anything.
    InTime,
    /// It has a new queue, and the program is to get what it missed, or an overflow.
    Late,
}

/// Gives an instance a queue if it has none that works, and registers its watches on the mounts of the
/// daemon.
pub(crate) fn serve(fd: BorrowedFd<'_>, state: &State, reason: Reason) -> Served {
    let served = MAKING.with(|()| {
        let shared = state.shared();
        if reason == Reason::Restart && !shared.has_restart() {
            watch_for_restart(fd, shared);
        }
        let old = state.queue();
        if old.is_some_and(|it| !connection::is_lost(it.session)) {
            return None;
        }
        if reason == Reason::Restart {
            connection::end_back_off();
        }
        let has_watches = shared.has_had_watches();
        let mounts = if has_watches {
            connection::mounts()?
        } else {
            Vec::new()
        };
        let queue = new_queue(fd, shared)?;
        orphans::close_abandoned();
        if !has_watches {
            state.set_queue(queue);
            return Some(Served::InTime);
        }
        let resumes = resume(old, &queue);
        let is_new_daemon = old.is_some_and(|it| it.instance != queue.instance);
        register_anew(fd, shared, &queue, &mounts, is_new_daemon);
        // The watches are registered before the daemon delivers what the program has missed, or the
        // overflow makes the program look around.
        if resumes && connection::flush_requests() {
            queue.ask_for_more();
        } else {
            shared.set_overflow(true);
        }
        state.set_queue(queue);
        Some(Served::Late)
    });
    served.flatten().unwrap_or(Served::AsBefore)
}

/// Registers the watches that the instance has with a queue that is new to it.
fn register_anew(
    fd: BorrowedFd<'_>,
    shared: &Shared,
    queue: &Queue,
    mounts: &[u64],
    is_new_daemon: bool,
) {
    // A watch on no mount of the new daemon is then on a mount that no daemon serves any more, though
    // another process may keep that mount from ending.
    let are_others_dead = is_new_daemon && !config().any_filesystem();
    // This comes after the request for the mounts: see `hidden_watch::alive`.
    let alive = hidden_watch::alive(fd);
    for watch in shared.watches() {
        if !alive.contains(&watch.wd) {
            // The kernel has reported the end to the program, or is about to.
        } else if mounts.contains(&watch.st_dev) {
            set(queue, watch);
        } else if are_others_dead {
            // The kernel reports the end to the program.
            let _ = inotify::remove_watch(fd, watch.wd.cast_signed());
        }
    }
}

/// Asks the new daemon for what the program has missed since the one before was killed. Returns whether
/// both of them can do that; the daemon delivers an overflow if it does not know.
fn resume(old: Option<&Queue>, queue: &Queue) -> bool {
    let Some(old) = old.filter(|it| it.delivered() > NOT_DELIVERED && queue.delivered() > 0) else {
        return false;
    };
    let (instance, after) = (old.instance, old.delivered());
    queue.register(|queue| Registration::Resume {
        queue,
        instance,
        after,
    });
    true
}

/// Returns whether something is unread that a daemon has delivered which is gone.
pub(crate) fn has_unread_of_lost(state: &State) -> bool {
    let queue = state.queue();
    queue.is_some_and(|it| connection::is_lost(it.session) && !it.is_read())
}

/// Frees the lock in a child of fork, where the thread that held it does not exist.
pub(crate) fn in_forked_child() {
    MAKING.break_open();
}
