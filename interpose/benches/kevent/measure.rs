//! The measurements.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::time::Instant;

use agentfs_interpose_shim::kqueue::abi::{self, Event, Kevent, Layout};
use agentfs_interpose_shim::kqueue::{
    Call, CallOptions, Channel, Daemon, Engine, Node, Originals, QueueId, WatchOp,
};
use agentfs_proto::record::{self, AgentFsEvent, Kind};
use agentfs_ring::doorbell::{Ringer, pipe};
use agentfs_ring::{Bell, Capacity, Producer, Reserve, heap};

/// A daemon that answers at once and posts to the last watch.
#[derive(Default)]
struct LocalDaemon {
    covers: bool,
    queue: Mutex<Option<(Producer, Ringer)>>,
    watch: Mutex<u64>,
}

impl LocalDaemon {
    fn post(&self) {
        let mut queue = self.queue.lock().unwrap();
        let (producer, ringer) = queue.as_mut().unwrap();
        let event = AgentFsEvent {
            kind: Kind::MODIFIED,
            watch: *self.watch.lock().unwrap(),
            mask: abi::NOTE_WRITE,
            ..AgentFsEvent::default()
        };
        let Reserve::Slot(mut slot) = producer.reserve(record::HEAD_LEN).unwrap() else {
            return;
        };
        record::encode(&event, b"", b"", |part| slot.put(part)).unwrap();
        slot.commit();
        if producer.publish().unwrap() == Bell::Ring {
            ringer.ring().unwrap();
        }
    }
}

impl Daemon for LocalDaemon {
    fn covers(&self, _file: BorrowedFd<'_>, _node: Node) -> bool {
        self.covers
    }

    fn open_queue(&self) -> Option<(QueueId, Channel)> {
        let (producer, ring) = heap(Capacity::DEFAULT).ok()?;
        let (ringer, doorbell) = pipe().ok()?;
        *self.queue.lock().unwrap() = Some((producer, ringer));
        let id = QueueId {
            session: 1,
            queue: 1,
        };
        let channel = Channel {
            ring,
            doorbell,
            refill: None,
        };
        Some((id, channel))
    }

    fn apply(&self, _queue: QueueId, ops: &[WatchOp]) {
        for op in ops {
            if let WatchOp::Set { watch, .. } = op {
                *self.watch.lock().unwrap() = watch.0;
            }
        }
    }

    fn close_queue(&self, _queue: QueueId) {}

    fn reserved_ident(&self, _queue: QueueId, _ident: u64) {}

    fn restart_directory(&self) -> Option<OwnedFd> {
        None
    }

    fn lost(&self, _queue: QueueId) {}
}

fn originals() -> Originals {
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

static NOW: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Makes a hooked kevent() with a change or none, and room for 16 events.
fn hooked(engine: &Engine<LocalDaemon>, kq: RawFd, change: Option<&Kevent>) -> i32 {
    let mut events = [Kevent::default(); 16];
    let changes = change.map_or((std::ptr::null(), 0), |change| {
        (std::ptr::from_ref(change), 1)
    });
    #[expect(unsafe_code, reason = "the call takes pointers")]
    // SAFETY: one change or none, room for 16.
    let call = unsafe {
        let options = CallOptions::waiting(&raw const NOW);
        Call::new(kq, changes, (events.as_mut_ptr(), 16), options)
    };
    black_box(engine.call(call))
}

/// Makes the same call without the hook.
fn bare(originals: &Originals, kq: RawFd, change: Option<&Kevent>) -> i32 {
    let mut events = [Kevent::default(); 16];
    let (changes, count) = change.map_or((std::ptr::null(), 0), |change| {
        (std::ptr::from_ref(change), 1)
    });
    #[expect(unsafe_code, reason = "the call takes pointers")]
    // SAFETY: one change or none, room for 16.
    let count =
        unsafe { (originals.kevent)(kq, changes, count, events.as_mut_ptr(), 16, &raw const NOW) };
    black_box(count)
}

/// Measures two things in turns. Returns the nanoseconds of each in every one of many short rounds.
fn beside(rounds: usize, mut a: impl FnMut(), mut b: impl FnMut()) -> Vec<(f64, f64)> {
    const CALLS: u32 = 200;
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..CALLS {
            work();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..rounds).map(|_| (time(&mut a), time(&mut b))).collect()
}

fn vnode(file: &File) -> Kevent {
    Kevent::from_event(&Event {
        ident: u64::try_from(file.as_raw_fd()).unwrap(),
        filter: abi::EVFILT_VNODE,
        flags: abi::EV_ADD | abi::EV_CLEAR,
        fflags: abi::NOTE_WRITE,
        ..Event::default()
    })
}

/// Makes a queue with `count` knotes on AgentFS.
fn watching(count: usize) -> (Engine<LocalDaemon>, RawFd, Vec<File>) {
    let daemon = LocalDaemon {
        covers: true,
        ..LocalDaemon::default()
    };
    let engine = Engine::new(originals(), daemon);
    let kq = agentfs_testkq::kqueue();
    let file = tempfile::tempfile().unwrap();
    let files: Vec<File> = (0..count).map(|_| file.try_clone().unwrap()).collect();
    for file in &files {
        assert_eq!(hooked(&engine, kq, Some(&vnode(file))), 0);
    }
    (engine, kq, files)
}

/// What is compared: its name, the two sides, and their times.
struct Case {
    what: &'static str,
    sides: [String; 2],
    times: Vec<(f64, f64)>,
}

pub(crate) fn run() {
    let has = |flag: &str| std::env::args().any(|arg| arg == flag);
    // `cargo test --benches` only wants to know that it runs.
    let (rounds, many) = match (has("--bench"), has("--quick")) {
        (true, false) => (300, 10_000),
        (true, true) => (11, 1000),
        (false, _) => (3, 100),
    };
    raise_descriptor_limit();
    let mut cases = Vec::from(without_watches(rounds));
    cases.extend(with_watches(rounds, many));
    if has("--raw") {
        for case in &cases {
            let [a, b] = &case.sides;
            for (first, second) in &case.times {
                println!("{}\t{a}\t{b}\t{first}\t{second}", case.what);
            }
        }
        return;
    }
    println!("| kevent() on a user-space kqueue | | ns | | ns | ratio |");
    println!("|---|---|---|---|---|---|");
    for case in cases {
        let [a, b] = &case.sides;
        let (first, second): (Vec<f64>, Vec<f64>) = case.times.into_iter().unzip();
        let (first, second) = (median(first), median(second));
        let ratio = second / first;
        println!(
            "| {} | {a} | {first:.0} | {b} | {second:.0} | {ratio:.2} |",
            case.what
        );
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn without_watches(rounds: usize) -> [Case; 2] {
    let originals = originals();
    let engine = Engine::new(originals, LocalDaemon::default());
    let kq = agentfs_testkq::kqueue();
    let user = |flags: u16| {
        Kevent::from_event(&Event {
            ident: 1,
            filter: abi::EVFILT_USER,
            flags,
            ..Event::default()
        })
    };
    assert_eq!(bare(&originals, kq, Some(&user(abi::EV_ADD))), 0);
    let touch = user(0);
    [
        ("no watch, nothing ready", None),
        ("no watch, one change", Some(&touch)),
    ]
    .map(|(what, change)| Case {
        what,
        sides: ["bare", "hooked"].map(str::to_owned),
        times: beside(
            rounds,
            || {
                bare(&originals, kq, change);
            },
            || {
                hooked(&engine, kq, change);
            },
        ),
    })
}

fn with_watches(rounds: usize, many: usize) -> [Case; 2] {
    let originals = originals();
    let (few, few_kq, few_files) = watching(10);
    let (lots, lots_kq, lots_files) = watching(many);
    let idle = beside(
        rounds,
        || {
            bare(&originals, few_kq, None);
        },
        || {
            hooked(&few, few_kq, None);
        },
    );
    let deliver = |engine: &Engine<LocalDaemon>, kq: RawFd| {
        engine.daemon().post();
        assert_eq!(hooked(engine, kq, None), 1);
    };
    let times = beside(rounds, || deliver(&few, few_kq), || deliver(&lots, lots_kq));
    drop((few_files, lots_files));
    [
        Case {
            what: "10 watches, nothing ready",
            sides: ["bare", "hooked"].map(str::to_owned),
            times: idle,
        },
        Case {
            what: "a posted event",
            sides: ["10 knotes".to_owned(), format!("{many} knotes")],
            times,
        },
    ]
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Without it, the large queue fails with an error that says so.
    let _raised = setrlimit(Resource::Nofile, all);
}
