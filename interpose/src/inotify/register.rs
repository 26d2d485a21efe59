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
    instance_of(fd);
}

fn instance_of(fd: BorrowedFd<'_>) -> Option<Instance> {
    use std::os::fd::AsRawFd as _;
    fork::own_state();
    Instance::of(fd.as_raw_fd()).or_else(|| MAKING.with(|()| make(fd))?)
}

/// Registers a watch on AgentFS that the kernel has made or changed.
pub(crate) fn watched(fd: BorrowedFd<'_>, object: Object, mask: u32, wd: i32) {
    let instance = instance_of(fd);
    let (Some(instance), Ok(wd)) = (instance, u32::try_from(wd)) else {
        return;
    };
    let state = instance.state();
    state.shared.release_directory(wd.cast_signed());
    let wanted = Watch {
        wd,
        mask,
        st_dev: object.st_dev,
        st_ino: object.st_ino,
    };
    // Under one lock, so that the daemon gets the registrations of two threads in the order of the table.
    state.shared.locked(|table| {
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

/// Makes the state and the queue of one of the program's instances, unless it has them.
fn make(fd: BorrowedFd<'_>) -> Option<Instance> {
    use std::os::fd::AsRawFd as _;
    if let Some(instance) = Instance::of(fd.as_raw_fd()) {
        return Some(instance);
    }
    let shared = Shared::new()?;
    let queue = new_queue(fd, &shared)?;
    if let Some(directory) = connection::socket_directory() {
        let mask =
            WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB | WatchFlags::ONLYDIR;
        if let Some(wd) = hidden_watch::add(fd, &directory, mask) {
            shared.set_directory(wd);
        }
    }
    let instance = Instance::new(fd.as_raw_fd(), shared)?;
    instance.state().set_queue(queue);
    Some(instance)
}

/// Opens a queue, puts its bell into the instance, and arms its ring.
fn new_queue(fd: BorrowedFd<'_>, shared: &Shared) -> Option<Queue> {
    let new = connection::open_inotify_queue()?;
    let queue = Queue::new(new, shared.renew())?;
    let path = format!("/proc/self/fd/{}", queue.bell_file().number());
    let path = CString::new(path).ok()?;
    queue.bell_file().get()?;
    let bell = hidden_watch::add(fd, &path, WatchFlags::ACCESS)?;
    let old = shared.bell();
    shared.set_bell(bell);
    if old > 0 {
        let _ = inotify::remove_watch(fd, old);
    }
    // The ring is empty and armed, so the first record rings.
    let mut claim = queue.claim()?;
    let armed = claim.arm().is_ok();
    drop(claim);
    armed.then_some(queue)
}

/// Unregisters a watch that the program is about to remove: the daemon sends no event for it from now on.
/// What is in the ring already is delivered, and the kernel's `IN_IGNORED` comes behind it.
pub(crate) fn unwatching(instance: &Instance, wd: i32) {
    if let (Some(queue), Ok(wd)) = (instance.state().queue(), u32::try_from(wd)) {
        queue.register(|queue| Registration::Remove { queue, wd });
    }
}

/// Looks for a new daemon, because something happened where it makes its socket. If there is one, the
/// instance gets a queue of it, the watches on its mounts are registered anew, and the program gets an
/// overflow: it may have missed something.
pub(crate) fn reconnect(fd: BorrowedFd<'_>, state: &State) {
    MAKING.with(|()| {
        let old = state.queue();
        if old.is_some_and(|it| !connection::is_lost(it.session)) {
            return;
        }
        connection::end_back_off();
        let Some(mounts) = connection::mounts() else {
            return;
        };
        let Some(queue) = new_queue(fd, &state.shared) else {
            return;
        };
        let resumes = resume(old, &queue);
        let is_new_daemon = old.is_some_and(|it| it.instance != queue.instance);
        // A watch on no mount of the new daemon is then on a mount that no daemon serves any more, though
        // another process may keep that mount from ending.
        let are_others_dead = is_new_daemon && !config().any_filesystem();
        // This comes after the request for the mounts: see `hidden_watch::alive`.
        let alive = hidden_watch::alive(fd);
        for watch in state.shared.watches() {
            if !alive.contains(&watch.wd) {
                // The kernel has reported the end to the program, or is about to.
            } else if mounts.contains(&watch.st_dev) {
                set(&queue, watch);
            } else if are_others_dead {
                // The kernel reports the end to the program.
                let _ = inotify::remove_watch(fd, watch.wd.cast_signed());
            }
        }
        // The watches are registered before the daemon delivers what the program has missed, or the
        // overflow makes the program look around.
        if resumes && connection::flush_requests() {
            queue.ask_for_more();
        } else {
            state.shared.set_overflow(true);
        }
        state.set_queue(queue);
    });
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
