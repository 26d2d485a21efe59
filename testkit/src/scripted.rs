//! A daemon that does what a test says: ring and protocol without filesystem or router.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use agentfs_proto::descriptor;
use agentfs_proto::frame::{self, LENGTH_WORD};
use agentfs_proto::message::{
    Done, FromDaemon, MountInfo, Mounts, QueueKind, QueueOpened, Reply, Request,
    RequestChannelOpened, Target, ToDaemon, WatchBatched, WatchItem, WatchOutcome, Welcome,
};
use agentfs_proto::record::{AgentFsEvent, Kind, encode, encoded_len};
use agentfs_proto::registration::Registration;
use agentfs_proto::ssz::Ssz as _;
use agentfs_ring::doorbell::{Ringer, Waiter, eventfd, pipe};
use agentfs_ring::requests::{self, RequestReader};
use agentfs_ring::{Bell, Capacity, Producer, Reserve, create};
use tempfile::TempDir;

/// How a queue is woken.
enum QueueBell {
    /// inotify: the bell is a file with a hidden watch on it.
    File(File),
    /// kqueue: the bell is a pipe.
    Pipe(Ringer),
}

/// One queue.
pub struct Queue {
    pub producer: Producer,
    bell: QueueBell,
    pub refill: Waiter,
    /// How often the queue's bell was rung.
    pub rings: u32,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<u32, Queue>,
    channels: Vec<RequestReader>,
    registrations: Vec<Registration>,
    /// The knotes: queue and watch, inode and `NOTE_*` bits.
    knotes: BTreeMap<(u32, u64), (u64, u32)>,
    mounts: Vec<(u64, String)>,
    /// All connections, which are kept so that they can be cut off.
    streams: Vec<UnixStream>,
    sessions: u64,
    /// The instance that `Welcome::instance` reports.
    instance: u64,
    is_gone: bool,
    /// Set when the daemon takes connections and requests, and answers none.
    is_silent: bool,
}

impl State {
    fn look(&mut self) {
        for channel in &mut self.channels {
            while let Some(words) = channel.next().unwrap() {
                self.registrations.extend(Registration::from_words(words));
            }
        }
    }
}

/// An event to be injected.
#[derive(Clone, Debug)]
pub struct Event {
    pub wd: i32,
    pub mask: u32,
    pub cookie: u32,
    pub name: String,
}

/// Returns an event of an entry, or of the object itself when the name is empty.
pub fn event(wd: i32, mask: u32, name: impl Into<String>) -> Event {
    Event {
        wd,
        mask,
        cookie: 0,
        name: name.into(),
    }
}

/// The instance of the next daemon.
static INSTANCES: AtomicU64 = AtomicU64::new(1);

/// A daemon that does what a test says.
pub struct Scripted {
    directory: Arc<TempDir>,
    state: Shared,
    capacity: Arc<Mutex<Capacity>>,
}

impl Scripted {
    /// Listens in a new directory, and says that the filesystem of `tree` is a mount.
    pub fn start(tree: &Path) -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), tree)
    }

    /// Starts another daemon at the same place.
    pub fn start_in(directory: Arc<TempDir>, tree: &Path) -> Self {
        let state = State {
            mounts: vec![(device(tree), "main".to_owned())],
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
            ..State::default()
        };
        let daemon = Self {
            directory,
            state: Arc::new(Mutex::new(state)),
            capacity: Arc::new(Mutex::new(Capacity::DEFAULT)),
        };
        // As with the real daemon, the socket listens before its name is there.
        let temporary = daemon.directory.path().join("new.sock");
        let listener = UnixListener::bind(&temporary).unwrap();
        std::fs::rename(&temporary, daemon.socket()).unwrap();
        // This is what wakes the programs of an earlier daemon.
        let lock = daemon.socket().with_extension("sock.lock");
        std::fs::write(lock, "!").unwrap();
        let (state, capacity) = (Arc::clone(&daemon.state), Arc::clone(&daemon.capacity));
        std::thread::spawn(move || accept(&listener, &state, &capacity));
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    pub fn directory(&self) -> Arc<TempDir> {
        Arc::clone(&self.directory)
    }

    /// Sets the size of the rings of queues to come.
    pub fn set_capacity(&self, bytes: usize) {
        *self.capacity.lock().unwrap() = Capacity::new(bytes).unwrap();
    }

    /// Ends the daemon: every connection ends and nothing more is accepted.
    pub fn die(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_gone = true;
        for stream in &state.streams {
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
        drop(state);
        drop(UnixStream::connect(self.socket()));
        std::fs::remove_file(self.socket()).unwrap();
    }

    /// Lets the daemon answer nothing from now on, as a stopped daemon does.
    pub fn fall_silent(&self) {
        self.state.lock().unwrap().is_silent = true;
    }

    /// Calls a function with a queue.
    pub fn queue<R>(&self, number: u32, work: impl FnOnce(&mut Queue) -> R) -> R {
        let mut state = self.state.lock().unwrap();
        work(state.queues.get_mut(&number).expect("the queue is open"))
    }

    /// Publishes events, all at once, and rings if the program sleeps.
    pub fn inject(&self, number: u32, events: &[Event]) {
        self.queue(number, |queue| {
            for event in events {
                assert!(queue.write(event), "the ring has room");
            }
            queue.publish();
        });
    }

    /// Posts to the knotes of a file; returns how many there are.
    pub fn post(&self, file: &Path, hint: u32) -> usize {
        use std::os::unix::fs::MetadataExt as _;
        let inode = std::fs::metadata(file).unwrap().ino();
        let mut state = self.state.lock().unwrap();
        let hearing: Vec<(u32, u64)> = state
            .knotes
            .iter()
            .filter(|(_, (ino, fflags))| *ino == inode && fflags & hint != 0)
            .map(|(knote, _)| *knote)
            .collect();
        for (number, watch) in &hearing {
            let queue = state.queues.get_mut(number).expect("the queue is open");
            let head = AgentFsEvent {
                kind: Kind::MODIFIED,
                watch: *watch,
                mask: hint,
                ..AgentFsEvent::default()
            };
            assert!(queue.write_record(&head, b""), "the ring has room");
            queue.publish();
        }
        hearing.len()
    }

    /// Returns how many queues were opened.
    pub fn queues(&self) -> usize {
        self.state.lock().unwrap().queues.len()
    }

    /// Returns what was registered so far.
    pub fn registrations(&self) -> Vec<Registration> {
        let mut state = self.state.lock().unwrap();
        state.look();
        state.registrations.clone()
    }
}

impl Queue {
    /// Writes a record; returns false when the ring is full.
    pub fn write(&mut self, event: &Event) -> bool {
        let name = event.name.as_bytes();
        let head = AgentFsEvent {
            kind: match event.mask & 0x8000 {
                0 => Kind::MODIFIED,
                _ => Kind::IGNORED,
            },
            watch: event.wd.cast_unsigned().into(),
            mask: event.mask,
            cookie: event.cookie,
            ..AgentFsEvent::default()
        };
        self.write_record(&head, name)
    }

    pub fn write_record(&mut self, head: &AgentFsEvent, name: &[u8]) -> bool {
        let len = encoded_len(name, b"").unwrap();
        match self.producer.reserve(len).unwrap() {
            Reserve::Slot(mut slot) => {
                encode(head, name, b"", |part| slot.put(part)).unwrap();
                slot.commit();
                true
            }
            Reserve::Full => false,
            Reserve::TooLong => panic!("no name is so long"),
        }
    }

    pub fn publish(&mut self) {
        if self.producer.publish().unwrap() == Bell::Ring {
            self.rings += 1;
            match &self.bell {
                QueueBell::File(file) => drop(file.read_at(&mut [0], 0).unwrap()),
                QueueBell::Pipe(ringer) => ringer.ring().unwrap(),
            }
            self.producer.note_ring();
        }
    }
}

/// Returns `st_dev` of the filesystem of a path.
pub fn device(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).unwrap().dev()
}

type Shared = Arc<Mutex<State>>;

fn accept(listener: &UnixListener, state: &Shared, capacity: &Arc<Mutex<Capacity>>) {
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        {
            let mut locked = state.lock().unwrap();
            if locked.is_gone {
                return;
            }
            locked.streams.push(stream.try_clone().unwrap());
        }
        let (state, capacity) = (Arc::clone(state), Arc::clone(capacity));
        std::thread::spawn(move || while serve(&stream, &state, &capacity).is_some() {});
    }
}

/// Serves one request; returns `None` at the end of the connection.
fn serve(stream: &UnixStream, state: &Shared, capacity: &Mutex<Capacity>) -> Option<()> {
    let mut bytes = vec![0; LENGTH_WORD];
    fill(stream, &mut bytes, 0)?;
    let len = frame::frame_len(*bytes.first_chunk()?).ok()?;
    bytes.resize(len, 0);
    fill(stream, &mut bytes, LENGTH_WORD)?;
    if state.lock().unwrap().is_silent {
        // The connection stays open, because the state has a copy.
        return None;
    }
    let message = ToDaemon::from_ssz(bytes.get(LENGTH_WORD..)?).ok()?;
    let (reply, descriptors) = answer(message.body, state, *capacity.lock().unwrap());
    let mut out = Vec::new();
    let frame = FromDaemon {
        request: message.request,
        descriptors: u8::try_from(descriptors.len()).unwrap(),
        body: reply,
    };
    frame::append(&frame, &mut out).unwrap();
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(OwnedFd::as_fd).collect();
    let sent = descriptor::send(stream, &out, &borrowed).ok()?;
    (sent == out.len()).then_some(())
}

fn fill(mut stream: &UnixStream, bytes: &mut [u8], from: usize) -> Option<()> {
    use std::io::Read as _;
    stream.read_exact(bytes.get_mut(from..)?).ok()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "nothing else needs an answer of its own"
)]
fn answer(request: Request, shared: &Shared, capacity: Capacity) -> (Reply, Vec<OwnedFd>) {
    let mut state = shared.lock().unwrap();
    state.look();
    match request {
        Request::Hello(_) => {
            state.sessions += 1;
            let welcome = Welcome {
                version: agentfs_proto::message::VERSION_MAX,
                session: state.sessions,
                branch: 1,
                branch_name: "main".to_owned(),
                daemon_pid: std::process::id(),
                instance: state.instance,
                max_queues: 1000,
                max_watches: 1_000_000,
            };
            (welcome.into(), Vec::new())
        }
        Request::MountList(_) => {
            let mounts = (1..)
                .zip(&state.mounts)
                .map(|(id, (st_dev, name))| MountInfo {
                    id,
                    branch: id,
                    branch_name: name.clone(),
                    st_dev: *st_dev,
                    path: "".into(),
                });
            let mounts = Mounts {
                mounts: mounts.collect(),
                more: false,
            };
            (mounts.into(), Vec::new())
        }
        Request::RequestChannelOpen(_) => {
            let (reader, fd) = requests::create().unwrap();
            state.channels.push(reader);
            let opened = RequestChannelOpened {
                slots: requests::SLOTS,
            };
            (opened.into(), vec![fd])
        }
        Request::QueueOpen(open) => open_queue(&mut state, open.kind, capacity),
        Request::WatchBatch(batch) => {
            let outcomes = batch.items.iter().map(|item| register(&mut state, item));
            let outcomes = outcomes.collect();
            (WatchBatched { outcomes }.into(), Vec::new())
        }
        _ => (Done { value: 0 }.into(), Vec::new()),
    }
}

fn register(state: &mut State, item: &WatchItem) -> WatchOutcome {
    match item {
        WatchItem::Kqueue(watch) => {
            let Target::Inode(target) = &watch.target else {
                panic!("the shim names knotes by inode");
            };
            let knote = (watch.queue, watch.watch);
            state.knotes.insert(knote, (target.st_ino, watch.fflags));
        }
        WatchItem::Unregister(watch) => {
            state.knotes.remove(&(watch.queue, watch.watch));
        }
        WatchItem::Inotify(_) => panic!("inotify watches come through the request channel"),
    }
    WatchOutcome {
        code: 0,
        errno: 0,
        node: 0,
    }
}

/// Makes the bell that the daemon rings, and the end that the program gets.
fn new_bell(kind: QueueKind) -> (QueueBell, OwnedFd) {
    if kind == QueueKind::Inotify {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.write_at(&[1], 0).unwrap();
        let handed_out = file.try_clone().unwrap().into();
        return (QueueBell::File(file), handed_out);
    }
    let (ringer, waiter) = pipe().unwrap();
    (QueueBell::Pipe(ringer), waiter.into())
}

fn open_queue(state: &mut State, kind: QueueKind, capacity: Capacity) -> (Reply, Vec<OwnedFd>) {
    let (producer, ring) = create(capacity).unwrap();
    let (ringer, refill) = eventfd().unwrap();
    let (bell, handed_out) = new_bell(kind);
    let number = u32::try_from(state.queues.len()).unwrap() + 1;
    let descriptors = vec![ring, ringer.into(), handed_out];
    let queue = Queue {
        producer,
        bell,
        refill,
        rings: 0,
    };
    state.queues.insert(number, queue);
    let opened = QueueOpened {
        queue: number,
        capacity: u32::try_from(capacity.bytes()).unwrap(),
    };
    (opened.into(), descriptors)
}
