//! From `inotify_add_watch` to the daemon, and what a new daemon is told.

use std::ffi::CString;
use std::os::fd::BorrowedFd;

use agentfs_proto::registration::Registration;
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

/// The program is about to watch something on AgentFS.
///
/// Its instance has our hidden watch before it has one on a mount: by that the daemon knows it from one
/// which only the kernel can tell anything (`/proc/PID/fdinfo`).
pub(crate) fn watching(fd: BorrowedFd<'_>) {
    instance_of(fd);
}

fn instance_of(fd: BorrowedFd<'_>) -> Option<Instance> {
    use std::os::fd::AsRawFd as _;
    fork::own_state();
    Instance::of(fd.as_raw_fd()).or_else(|| MAKING.with(|()| make(fd))?)
}

/// The kernel has made or changed a watch on AgentFS: so do we.
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
    // Under one lock, so that the daemon hears of two threads in the order that the table has.
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

/// Gives an instance of the program a state and a queue.
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
    // An empty ring that is armed: the first record rings.
    let mut claim = queue.claim()?;
    let armed = claim.arm().is_ok();
    drop(claim);
    armed.then_some(queue)
}

/// The program is about to remove a watch: no event is sent for it from now on. What is in the ring
/// already is delivered, and the kernel's `IN_IGNORED` comes behind it.
pub(crate) fn unwatching(instance: &Instance, wd: i32) {
    if let (Some(queue), Ok(wd)) = (instance.state().queue(), u32::try_from(wd)) {
        queue.register(|queue| Registration::Remove { queue, wd });
    }
}

/// Something happened where a new daemon makes its socket. If there is one, the instance gets a queue
/// of it, the watches on its mounts are registered anew, and the program is to be told that it may have
/// missed something.
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
        let is_new_daemon = old.is_some_and(|it| it.instance != queue.instance);
        // What lies on no mount of its then lies on a mount that nobody serves any more, though
        // somebody may keep it from ending.
        let are_others_dead = is_new_daemon && !config().any_filesystem();
        // After the mounts were asked for: see `hidden_watch::alive`.
        let alive = hidden_watch::alive(fd);
        for watch in state.shared.watches() {
            if !alive.contains(&watch.wd) {
                // The kernel has told the program, or is about to.
            } else if mounts.contains(&watch.st_dev) {
                set(&queue, watch);
            } else if are_others_dead {
                // The kernel tells of the end.
                let _ = inotify::remove_watch(fd, watch.wd.cast_signed());
            }
        }
        // Registered before the program looks around because of this.
        state.shared.set_overflow(true);
        state.set_queue(queue);
    });
}

/// In a child of fork: whoever held the lock is not here.
pub(crate) fn in_forked_child() {
    MAKING.break_open();
}
