//! A program with a hooked kqueue, and a daemon that posts what a test says.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::io::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use agentfs_interpose_shim::kqueue::abi::{self, Event, Kevent, Layout};
use agentfs_interpose_shim::kqueue::{
    Call, CallOptions, Channel, Daemon, Engine, Node, Originals, QueueId, Real, WatchId, WatchOp,
};
use agentfs_proto::record::{self, AgentFsEvent, Kind};
use agentfs_ring::doorbell::{Ringer, pipe};
use agentfs_ring::{Bell, Capacity, Producer, Reserve};

use super::gate;

pub(crate) const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

/// Returns the functions of the user-space kqueue. Its structures are the same as the shim's, but
/// not the same types.
pub(crate) fn originals() -> Originals {
    use std::mem::transmute;
    #[expect(
        unsafe_code,
        clippy::missing_transmute_annotations,
        reason = "two crates define the C structures of <sys/event.h>"
    )]
    // SAFETY: an address of a function; its structure has the same fields at the same places in both
    // crates, which assert that, and the other arguments have the same types.
    let kevent = unsafe { transmute(agentfs_testkq::kevent as *const ()) };
    #[expect(
        unsafe_code,
        clippy::missing_transmute_annotations,
        reason = "two crates define the C structures of <sys/event.h>"
    )]
    // SAFETY: as for `kevent`: the same fields at the same places.
    let kevent64 = unsafe { transmute(agentfs_testkq::kevent64 as *const ()) };
    #[expect(
        unsafe_code,
        clippy::missing_transmute_annotations,
        reason = "two crates define the C structures of <sys/event.h>"
    )]
    // SAFETY: as for `kevent`: the same fields at the same places.
    let kevent_qos = unsafe { transmute(agentfs_testkq::kevent_qos as *const ()) };
    Originals {
        kevent,
        kevent64,
        kevent_qos,
    }
}

#[derive(Debug)]
struct OpenQueue {
    producer: Producer,
    doorbell: Ringer,
    watches: BTreeMap<u64, (Node, u32)>,
}

/// A daemon on whose mount every file lies, unless `refuses` is set.
#[derive(Debug, Default)]
pub(crate) struct TestDaemon {
    /// Set when the daemon says that it serves no mount.
    pub(crate) refuses: AtomicBool,
    gone: AtomicBool,
    next: AtomicU32,
    queues: Mutex<BTreeMap<u32, OpenQueue>>,
    pub(crate) idents: Mutex<Vec<u64>>,
    pub(crate) lost: Mutex<Vec<QueueId>>,
    pub(crate) batches: AtomicU32,
    /// The directory of the control socket.
    pub(crate) restart_directory: Mutex<Option<std::fs::File>>,
}

impl TestDaemon {
    fn queues(&self) -> MutexGuard<'_, BTreeMap<u32, OpenQueue>> {
        self.queues.lock().unwrap()
    }

    /// Posts `hint` to every knote of the file that asked for any of it, as the synthesizer does.
    pub(crate) fn post(&self, fd: RawFd, hint: u32) {
        let node = node_of(fd);
        for queue in self.queues().values_mut() {
            let hearing: Vec<u64> = queue
                .watches
                .iter()
                .filter(|(_, (watched, fflags))| *watched == node && fflags & hint != 0)
                .map(|(watch, _)| *watch)
                .collect();
            for watch in hearing {
                queue.push(Kind::MODIFIED, watch, hint);
            }
        }
    }

    /// Pushes a record for a watch, whether there is one or not.
    pub(crate) fn push(&self, kind: Kind, watch: u64, hint: u32) {
        for queue in self.queues().values_mut() {
            queue.push(kind, watch, hint);
        }
    }

    /// Lets the daemon die: channels break, and it knows nothing any more.
    pub(crate) fn die(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.queues().clear();
    }

    /// Starts a new daemon.
    pub(crate) fn come_back(&self) {
        self.gone.store(false, Ordering::Relaxed);
    }

    pub(crate) fn open_queues(&self) -> usize {
        self.queues().len()
    }

    /// Returns id and bits of every watch of every queue.
    pub(crate) fn watches(&self) -> Vec<(u64, u32)> {
        let queues = self.queues();
        let watches = queues.values().flat_map(|queue| &queue.watches);
        watches
            .map(|(watch, (_, fflags))| (*watch, *fflags))
            .collect()
    }
}

impl OpenQueue {
    fn push(&mut self, kind: Kind, watch: u64, mask: u32) {
        let event = AgentFsEvent {
            watch,
            kind,
            mask,
            ..AgentFsEvent::default()
        };
        let Reserve::Slot(mut slot) = self.producer.reserve(record::HEAD_LEN).unwrap() else {
            panic!("the ring of the test is full");
        };
        record::encode(&event, b"", b"", |part| slot.put(part)).unwrap();
        slot.commit();
        if self.producer.publish().unwrap() == Bell::Ring {
            self.doorbell.ring().unwrap();
        }
    }
}

impl Daemon for TestDaemon {
    fn covers(&self, _file: BorrowedFd<'_>, _node: Node) -> bool {
        !self.refuses.load(Ordering::Relaxed)
    }

    fn open_queue(&self) -> Option<(QueueId, Channel)> {
        if self.refuses.load(Ordering::Relaxed) || self.gone.load(Ordering::Relaxed) {
            return None;
        }
        let (producer, ring) = agentfs_ring::heap(Capacity::DEFAULT).unwrap();
        let (ringer, waiter) = pipe().unwrap();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let queue = OpenQueue {
            producer,
            doorbell: ringer,
            watches: BTreeMap::new(),
        };
        self.queues().insert(id, queue);
        let channel = Channel {
            ring,
            doorbell: waiter,
            refill: None,
        };
        Some((
            QueueId {
                session: 1,
                queue: id,
            },
            channel,
        ))
    }

    fn apply(&self, queue: QueueId, ops: &[WatchOp]) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(&queue.queue) else {
            return;
        };
        for op in ops {
            match *op {
                WatchOp::Set {
                    watch,
                    node,
                    fflags,
                    ..
                } => {
                    queue.watches.insert(watch.0, (node, fflags));
                }
                WatchOp::Remove {
                    watch: WatchId(watch),
                } => {
                    queue.watches.remove(&watch);
                }
            }
        }
    }

    fn close_queue(&self, queue: QueueId) {
        self.queues().remove(&queue.queue);
    }

    fn reserved_ident(&self, _queue: QueueId, ident: u64) {
        self.idents.lock().unwrap().push(ident);
    }

    fn restart_directory(&self) -> Option<OwnedFd> {
        let directory = self.restart_directory.lock().unwrap();
        directory
            .as_ref()
            .map(|directory| directory.try_clone().unwrap().into())
    }

    fn lost(&self, queue: QueueId) {
        self.lost.lock().unwrap().push(queue);
    }
}

fn node_of(fd: RawFd) -> Node {
    #[expect(unsafe_code, reason = "the number of a file that the test holds")]
    // SAFETY: the test holds the descriptor.
    let stat = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) }).unwrap();
    Node {
        dev: stat.st_dev,
        ino: stat.st_ino,
    }
}

/// A process with the shim in it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) engine: Engine<TestDaemon>,
}

impl Process {
    pub(crate) fn new() -> Self {
        let originals = Originals {
            kevent: gate::gated,
            ..originals()
        };
        Self {
            engine: Engine::new(originals, TestDaemon::default()),
        }
    }

    pub(crate) fn daemon(&self) -> &TestDaemon {
        self.engine.daemon()
    }

    /// Calls the hooked kqueue(2).
    pub(crate) fn kqueue(&self) -> Kq<'_> {
        let fd = agentfs_testkq::kqueue();
        assert!(fd >= 0);
        self.engine.opened(fd);
        Kq { process: self, fd }
    }

    /// Calls the hooked close(2).
    pub(crate) fn close(&self, fd: RawFd) {
        self.engine.closing(fd);
        assert_eq!(agentfs_testkq::close(fd), 0);
    }

    /// Calls the hooked dup2(2).
    pub(crate) fn dup2(&self, old: RawFd, new: RawFd) {
        self.engine.vacate(new);
        self.engine.closing(new);
        assert_eq!(agentfs_testkq::dup2(old, new), new);
        self.engine.duplicated(old, new);
    }

    pub(crate) fn post(&self, source: Source, file: &impl AsRawFd, hint: u32) {
        let fd = file.as_raw_fd();
        if source != Source::Daemon {
            assert_eq!(agentfs_testkq::testkq_post_vnode(fd, hint), 0);
        }
        if source != Source::Kernel {
            self.daemon().post(fd, hint);
        }
    }
}

/// Which side notices a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    Kernel,
    Daemon,
    Both,
}

pub(crate) const SOURCES: [Source; 3] = [Source::Kernel, Source::Daemon, Source::Both];

/// Runs a test with changes that the kernel, the daemon, or both notice.
pub(crate) fn from_every_source(test: impl Fn(&Process, &Kq<'_>, &dyn Fn(&std::fs::File, u32))) {
    for source in SOURCES {
        let process = Process::new();
        let kq = process.kqueue();
        test(&process, &kq, &|file, hint| {
            process.post(source, file, hint);
        });
    }
}

/// A hooked queue.
#[derive(Debug)]
pub(crate) struct Kq<'a> {
    pub(crate) process: &'a Process,
    pub(crate) fd: RawFd,
}

impl Kq<'_> {
    /// Makes one hooked call; `Err` is errno.
    pub(crate) fn call_as<L: Layout + Real>(
        &self,
        changes: &[Event],
        room: usize,
        timeout: Option<Duration>,
    ) -> Result<Vec<Event>, c_int> {
        let changes: Vec<L> = changes.iter().map(L::from_event).collect();
        let mut events = vec![L::default(); room];
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        #[expect(unsafe_code, reason = "the call under test takes pointers")]
        // SAFETY: the lengths are those of the vectors; all live until after the call.
        let call = unsafe {
            Call::new(
                self.fd,
                (changes.as_ptr(), changes.len().try_into().unwrap()),
                (events.as_mut_ptr(), room.try_into().unwrap()),
                CallOptions::waiting(timeout),
            )
        };
        match usize::try_from(self.process.engine.call(call)) {
            Ok(count) => Ok(events[..count].iter().map(Layout::event).collect()),
            Err(_) => Err(errno()),
        }
    }

    pub(crate) fn call(
        &self,
        changes: &[Event],
        room: usize,
        timeout: Option<Duration>,
    ) -> Result<Vec<Event>, c_int> {
        self.call_as::<Kevent>(changes, room, timeout)
    }

    pub(crate) fn change(&self, change: Event) -> Result<(), c_int> {
        self.call(&[change], 0, AT_ONCE).map(drop)
    }

    pub(crate) fn ready(&self) -> Vec<Event> {
        self.call(&[], 64, AT_ONCE).unwrap()
    }

    /// Returns `(ident, flags, fflags)` of what is ready now.
    pub(crate) fn brief(&self) -> Vec<(u64, u16, u32)> {
        brief(&self.ready())
    }

    pub(crate) fn is_readable(&self) -> bool {
        is_readable(self.fd)
    }
}

impl Drop for Kq<'_> {
    fn drop(&mut self) {
        self.process.engine.closing(self.fd);
        agentfs_testkq::close(self.fd);
    }
}

/// Returns what a thread that has to wake returns. When it does not wake, the test program ends: a panic
/// would wait for the thread.
pub(crate) fn woken<T>(sleeper: std::thread::ScopedJoinHandle<'_, T>) -> T {
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while !sleeper.is_finished() {
        if std::time::Instant::now() > until {
            let test = std::thread::current();
            drop(writeln!(
                std::io::stderr(),
                "{:?}: a sleeper was not woken",
                test.name()
            ));
            std::process::abort();
        }
        std::thread::yield_now();
    }
    sleeper.join().unwrap()
}

pub(crate) fn brief(events: &[Event]) -> Vec<(u64, u16, u32)> {
    events
        .iter()
        .map(|e| (e.ident, e.flags, e.fflags))
        .collect()
}

pub(crate) fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

pub(crate) fn is_readable(fd: RawFd) -> bool {
    let mut fd = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    #[expect(unsafe_code, reason = "poll(2) on the raw descriptor")]
    // SAFETY: one live pollfd.
    let count = unsafe { libc::poll(&raw mut fd, 1, 0) };
    count == 1
}

pub(crate) fn number(fd: &impl AsRawFd) -> u64 {
    u64::try_from(fd.as_raw_fd()).unwrap()
}

pub(crate) fn vnode(file: &impl AsRawFd, flags: u16, fflags: u32) -> Event {
    Event {
        ident: number(file),
        filter: abi::EVFILT_VNODE,
        flags,
        fflags,
        ..Event::default()
    }
}

pub(crate) fn user(ident: u64, flags: u16, fflags: u32) -> Event {
    Event {
        ident,
        filter: abi::EVFILT_USER,
        flags,
        fflags,
        ..Event::default()
    }
}

pub(crate) fn read(ident: u64, flags: u16) -> Event {
    Event {
        ident,
        filter: abi::EVFILT_READ,
        flags,
        ..Event::default()
    }
}

pub(crate) fn file() -> std::fs::File {
    tempfile::tempfile().unwrap()
}
