//! From `inotify_add_watch` to the daemon, and what a new daemon is told.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use agentfs_proto::registration::Registration;
use rustix::fs::inotify::{self, WatchFlags};

use crate::connection::{self, Mount};
use crate::context;
use crate::inotify::hidden_watch;
use crate::inotify::instance::{Instance, State};
use crate::inotify::queue::Queue;
use crate::inotify::shared::{Shared, Watch};
use crate::lock::Lock;
use crate::mounts;

const IN_DONT_FOLLOW: u32 = 0x0200_0000;

/// Held while a state is made or gets a new queue.
static MAKING: Lock<()> = Lock::new(());

/// The branch of every device that a watch was registered for: what a mount was is not known any
/// more when a new daemon has mounted the branch anew.
static BRANCHES: Lock<Vec<Mount>> = Lock::new(Vec::new());

/// The kernel has made or changed a watch: so do we, if it is on AgentFS.
pub(crate) fn watched(fd: BorrowedFd<'_>, path: &CStr, mask: u32, wd: i32) {
    use std::os::fd::AsRawFd as _;
    let number = fd.as_raw_fd();
    hidden_watch::wd_given(number, wd);
    let Some(object) = mounts::object(path, mask & IN_DONT_FOLLOW == 0) else {
        return;
    };
    if !mounts::is_agentfs(object, path) {
        return;
    }
    context::settle();
    let instance = Instance::of(number).or_else(|| MAKING.with(|()| make(fd))?);
    let (Some(instance), Ok(wd)) = (instance, u32::try_from(wd)) else {
        return;
    };
    let state = instance.state();
    state.shared.give_up(wd.cast_signed());
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
    remember_branches();
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
    let bell = hidden_watch::add(fd, &path, WatchFlags::MODIFY)?;
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

fn remember_branches() {
    let mounts = connection::mounts().unwrap_or_default();
    BRANCHES.with(|known| {
        for mount in mounts {
            known.retain(|it| it.st_dev != mount.st_dev);
            known.push(mount);
        }
    });
}

/// The program is about to remove a watch: no event is sent for it from now on. What is in the ring
/// already is delivered, and the kernel's `IN_IGNORED` comes behind it.
pub(crate) fn unwatching(instance: &Instance, wd: i32) {
    if let (Some(queue), Ok(wd)) = (instance.state().queue(), u32::try_from(wd)) {
        queue.register(|queue| Registration::Remove { queue, wd });
    }
}

/// Something happened where a new daemon makes its socket. If there is one, the instance gets a queue
/// of it, every watch is registered anew, and the program is to be told that it may have missed
/// something.
pub(crate) fn reconnect(fd: BorrowedFd<'_>, state: &State) {
    MAKING.with(|()| {
        let is_served = state
            .queue()
            .is_some_and(|it| !connection::is_lost(it.session));
        if is_served {
            return;
        }
        let Some(mounts) = connection::mounts() else {
            return;
        };
        let Some(queue) = new_queue(fd, &state.shared) else {
            return;
        };
        for watch in state.shared.watches() {
            let st_dev = device_now(watch.st_dev, &mounts);
            set(&queue, Watch { st_dev, ..watch });
        }
        // Registered before the program looks around because of this.
        state.shared.set_overflow(true);
        state.set_queue(queue);
        remember_branches();
    });
}

/// The device on which the daemon has the branch that once was on `st_dev`.
fn device_now(st_dev: u64, mounts: &[Mount]) -> u64 {
    if mounts.iter().any(|it| it.st_dev == st_dev) {
        return st_dev;
    }
    let branch = BRANCHES
        .with(|known| {
            let mount = known.iter().find(|it| it.st_dev == st_dev)?;
            Some(mount.branch.clone())
        })
        .flatten();
    let now = mounts.iter().find(|it| Some(&it.branch) == branch.as_ref());
    now.map_or(st_dev, |it| it.st_dev)
}

/// In a child of fork: whoever held the locks is not here.
pub(crate) fn in_forked_child() {
    MAKING.break_open();
    BRANCHES.break_open();
}
