//! Tests inotify watches that are registered through shared memory, without a request on the
//! socket.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_client::{CallError, Client, OpenQueue};
use agentfs_core::{Branch, Caller, FsCore, OpenFlags};
use agentfs_daemon::{Daemon, SessionLimits};
use agentfs_proto::message::{
    BranchToken, EventsSubscribe, Hello, Ping, QueueKind, QueueOpen, RequestChannelOpen, Status,
};
use agentfs_proto::record::EventRef;
use agentfs_proto::registration::Registration;
use agentfs_ring::requests::{RequestWriter, Sent};
use agentfs_ring::{Consumer, OwnerId};

use crate::support::daemon_with;
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{assert_answers, connect};

const DEVICE: u64 = 4242;
const IN_OPEN: u32 = 0x20;
const IN_CREATE: u32 = 0x100;
pub(crate) const ROOT: u64 = 1;

/// A program with one inotify queue and a request channel.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) client: Client,
    consumer: Consumer,
    pub(crate) queue: u32,
    requests: RequestWriter,
    device: u64,
}

impl Program {
    pub(crate) fn new(daemon: &Daemon) -> Self {
        Self::with(connect(daemon.socket()), DEVICE)
    }

    /// Starts a program whose session is bound to a branch by a token.
    fn bound(daemon: &Daemon, branch: &str, device: u64) -> Self {
        let name = branch.to_owned();
        let mut owner = connect(daemon.socket());
        let token = owner.call(BranchToken { name }, soon()).unwrap().token;
        let hello = Hello {
            token: Some(token),
            ..Hello::new("test")
        };
        let (client, _) = Client::connect(daemon.socket(), hello, soon()).unwrap();
        Self::with(client, device)
    }

    fn with(mut client: Client, device: u64) -> Self {
        let open = QueueOpen {
            kind: QueueKind::Inotify,
            capacity: 0,
        };
        let OpenQueue { opened, ring, .. } = client.open_queue(open, soon()).unwrap();
        let (_, channel) = client
            .call_for_descriptors(RequestChannelOpen { flags: 0 }, soon())
            .unwrap();
        let [channel] = <[OwnedFd; 1]>::try_from(channel).unwrap();
        Self {
            client,
            consumer: Consumer::open(ring).unwrap(),
            queue: opened.queue,
            requests: RequestWriter::open(channel).unwrap(),
            device,
        }
    }

    /// Writes requests that mean nothing until the channel is full.
    fn fill(&self) {
        let me = OwnerId::this_process();
        while self.requests.send([u64::MAX; 4], me, |_| true) == Sent::Sent {}
    }

    pub(crate) fn send(&self, request: Registration) -> Sent {
        self.requests
            .send(request.to_words(), OwnerId::this_process(), |_| true)
    }

    pub(crate) fn watch(&self, wd: u32, mask: u32, st_ino: u64) -> Sent {
        self.send(Registration::Set {
            queue: self.queue,
            wd,
            mask,
            st_dev: self.device,
            st_ino,
        })
    }

    /// Returns `wd mask name` of the records in the ring.
    pub(crate) fn heard(&self) -> Vec<(u64, u32, String)> {
        let mut claim = self
            .consumer
            .claim(OwnerId::this_process(), |_| true)
            .unwrap();
        let mut heard = Vec::new();
        while let Some(record) = claim.next().unwrap() {
            let record = record.to_vec();
            let event = EventRef::parse(&record).unwrap();
            let name = String::from_utf8(event.path().to_vec()).unwrap();
            heard.push((event.head().watch, event.head().mask, name));
        }
        let _ = claim.release();
        heard
    }
}

pub(crate) fn daemon_with_a_mount() -> (Daemon, tempfile::TempDir) {
    let (daemon, directory) = daemon_with(SessionLimits::default());
    let id = daemon.mounts().reserve();
    daemon
        .mounts()
        .insert(id, FsCore::MAIN, DEVICE, Path::new("/mnt"));
    (daemon, directory)
}

#[test]
fn a_watch_hears_the_very_next_change() {
    let (daemon, _directory) = daemon_with_a_mount();
    let program = Program::new(&daemon);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    let root = Caller::root();
    for wd in 1..=50 {
        assert_eq!(program.watch(wd, IN_CREATE, ROOT), Sent::Sent);
        main.mknod(&root, format!("/f{wd}"), 0o100_644, 0).unwrap();
        let heard = program.heard();
        assert_eq!(heard.len(), usize::try_from(wd).unwrap(), "{heard:?}");
        assert!(heard.contains(&(u64::from(wd), IN_CREATE, format!("f{wd}"))));
    }
}

#[test]
fn a_watch_for_activity_hears_the_very_next_open() {
    let (daemon, _directory) = daemon_with_a_mount();
    let program = Program::new(&daemon);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    let root = Caller::root();
    main.mknod(&root, "/f", 0o100_644, 0).unwrap();
    assert_eq!(program.watch(1, IN_OPEN, ROOT), Sent::Sent);
    main.open(&root, "/f", OpenFlags::READ, 0).unwrap();
    assert_eq!(program.heard(), [(1, IN_OPEN, "f".to_owned())]);
}

#[test]
fn a_watch_is_shown_before_anybody_looked_for_it() {
    let (daemon, _directory) = daemon_with_a_mount();
    let program = Program::new(&daemon);
    assert_eq!(program.watch(1, IN_CREATE, ROOT), Sent::Sent);
    let mut other = connect(daemon.socket());
    let report = other.call(Status { after: 0 }, soon()).unwrap();
    let queues = report.sessions.iter().flat_map(|it| &it.queues);
    let watches: Vec<u32> = queues.map(|it| it.watches).collect();
    assert_eq!(watches, [1]);
}

#[test]
fn a_watch_that_was_taken_back_hears_nothing() {
    let (daemon, _directory) = daemon_with_a_mount();
    let program = Program::new(&daemon);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    assert_eq!(program.watch(1, IN_CREATE, ROOT), Sent::Sent);
    let remove = Registration::Remove {
        queue: program.queue,
        wd: 1,
    };
    assert_eq!(program.send(remove), Sent::Sent);
    main.mknod(&Caller::root(), "/f", 0o100_644, 0).unwrap();
    assert_eq!(program.heard(), []);
}

#[test]
fn nonsense_is_passed_over_and_a_full_channel_is_emptied_by_a_ping() {
    let (daemon, _directory) = daemon_with_a_mount();
    let mut program = Program::new(&daemon);
    let me = OwnerId::this_process();
    let mut sent = 0_u64;
    while program
        .requests
        .send([sent, u64::MAX, sent, sent], me, |_| true)
        == Sent::Sent
    {
        sent += 1;
    }
    assert!(sent >= 4096);
    assert_answers(&mut program.client);
    assert_eq!(program.watch(1, IN_CREATE, ROOT), Sent::Sent);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    main.mknod(&Caller::root(), "/f", 0o100_644, 0).unwrap();
    assert_eq!(program.heard().len(), 1);
}

#[test]
fn a_queue_that_is_not_of_inotify_and_a_wd_that_is_none_are_passed_over() {
    let (daemon, _directory) = daemon_with_a_mount();
    let mut program = Program::new(&daemon);
    for wd in [0, 1 << 31, u32::MAX] {
        assert_eq!(program.watch(wd, IN_CREATE, ROOT), Sent::Sent);
    }
    let open = QueueOpen {
        kind: QueueKind::KqueueXnu,
        capacity: 0,
    };
    let kqueue = program.client.open_queue(open, soon()).unwrap();
    program.queue = kqueue.opened.queue;
    assert_eq!(program.watch(1, IN_CREATE, ROOT), Sent::Sent);
    let report = program.client.call(Status { after: 0 }, soon()).unwrap();
    let queues = &report.sessions[0].queues;
    let watches: Vec<u32> = queues.iter().map(|it| it.watches).collect();
    assert_eq!(watches, [0, 0]);
}

#[test]
fn another_branch_or_device_is_not_watched() {
    let (daemon, _directory) = daemon_with_a_mount();
    let program = Program::new(&daemon);
    let elsewhere = Registration::Set {
        queue: program.queue,
        wd: 1,
        mask: IN_CREATE,
        st_dev: DEVICE + 1,
        st_ino: ROOT,
    };
    assert_eq!(program.send(elsewhere), Sent::Sent);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    main.mknod(&Caller::root(), "/f", 0o100_644, 0).unwrap();
    assert_eq!(program.heard(), []);
}

#[test]
fn a_second_channel_replaces_the_first() {
    let (daemon, _directory) = daemon_with_a_mount();
    let mut program = Program::new(&daemon);
    assert_eq!(program.watch(1, IN_CREATE, ROOT), Sent::Sent);
    let again = program
        .client
        .call_for_descriptors(RequestChannelOpen { flags: 0 }, soon());
    let [channel] = <[OwnedFd; 1]>::try_from(again.unwrap().1).unwrap();
    let first = std::mem::replace(&mut program.requests, RequestWriter::open(channel).unwrap());
    assert_eq!(program.watch(2, IN_CREATE, ROOT), Sent::Sent);
    drop(first);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    main.mknod(&Caller::root(), "/f", 0o100_644, 0).unwrap();
    assert_eq!(program.heard().len(), 2);
    let pong = program.client.call(Ping { nonce: 1 }, soon());
    assert!(!matches!(pong, Err(CallError::Closed)));
}

#[test]
fn a_watch_on_what_is_gone_by_the_time_it_is_registered_is_ended() {
    const IN_DELETE_SELF: u32 = 0x400;
    const IN_IGNORED: u32 = 0x8000;
    let (daemon, _directory) = daemon_with_a_mount();
    let mut program = Program::new(&daemon);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    let root = Caller::root();
    let node = main.mknod(&root, "/f", 0o100_644, 0).unwrap().node;
    main.unlink(&root, "/f").unwrap();
    assert_eq!(program.watch(1, IN_DELETE_SELF, node.0), Sent::Sent);
    assert_eq!(program.watch(2, IN_CREATE, node.0), Sent::Sent);
    assert_answers(&mut program.client);
    let none = String::new;
    let expected = [
        (1, IN_DELETE_SELF, none()),
        (1, IN_IGNORED, none()),
        (2, IN_IGNORED, none()),
    ];
    assert_eq!(program.heard(), expected);
}

const OTHER_DEVICE: u64 = 4243;

/// Makes a second branch, with a mount of its own.
fn add_other(daemon: &Daemon) -> Branch {
    let (core, root) = (daemon.core(), Caller::root());
    let main = core.branch(FsCore::MAIN).unwrap();
    main.mknod(&root, "/f", 0o100_644, 0).unwrap();
    let other = core.branch_create_from_current(&root, FsCore::MAIN, "other");
    let (other, id) = (other.unwrap(), daemon.mounts().reserve());
    let path = Path::new("/other");
    daemon.mounts().insert(id, other, OTHER_DEVICE, path);
    core.branch(other).unwrap()
}

/// Opens, reads and closes a file. Returns how many changes that was for the branch.
fn use_file(branch: &Branch) -> u64 {
    let (root, before) = (Caller::root(), branch.last_seq().0);
    let handle = branch.open(&root, "/f", OpenFlags::READ, 0).unwrap();
    branch.read(&root, handle, &mut [0; 8]).unwrap();
    branch.close(&root, handle).unwrap();
    branch.last_seq().0 - before
}

#[test]
fn what_a_session_of_another_branch_wants_to_hear_makes_no_work() {
    let (daemon, _directory) = daemon_with_a_mount();
    let other = add_other(&daemon);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    let mut program = Program::bound(&daemon, "other", OTHER_DEVICE);
    assert_eq!(program.watch(1, IN_OPEN, ROOT), Sent::Sent);
    assert_eq!(use_file(&main), 0, "while the request waits");
    assert!(use_file(&other) > 0);
    assert_eq!(program.heard(), [(1, IN_OPEN, "f".to_owned())]);
    assert_eq!(use_file(&main), 0, "when it is carried out");
    let subscribe = EventsSubscribe {
        path: b"/".as_slice().into(),
        activity: true,
    };
    program.client.call(subscribe, soon()).unwrap();
    assert_eq!(use_file(&main), 0, "for a subscription");
    assert!(use_file(&other) > 0);
}

fn counter(client: &mut Client, wanted: &str) -> u64 {
    let report = client.call(Status { after: 0 }, soon()).unwrap();
    let mut counters = report.counters.iter();
    counters.find(|it| it.name == wanted).unwrap().value
}

/// Sets a flag when it is dropped, also when a test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_session_that_floods_its_channel_costs_other_branches_nothing() {
    let (daemon, _directory) = daemon_with_a_mount();
    let other = add_other(&daemon);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    let program = Program::bound(&daemon, "other", OTHER_DEVICE);
    let mut client = connect(daemon.socket());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                program.fill();
                std::thread::yield_now();
            }
        });
        let _ending = Ending(&is_over);
        let mut looks = || counter(&mut client, "registration_looks");
        // A request for the status examines the watches that it shows.
        let (first, second) = (looks(), looks());
        let changes: u64 = (0..2000).map(|_| use_file(&main)).sum();
        main.mkdir(&Caller::root(), "/made", 0o755).unwrap();
        let third = looks();
        assert_eq!((changes, third - second), (0, second - first));
        use_file(&other);
        assert!(looks() - third > second - first, "its own branch looks");
    });
}

#[test]
fn a_watch_at_the_end_of_a_full_channel_hears_the_very_next_open() {
    let (daemon, _directory) = daemon_with_a_mount();
    let program = Program::new(&daemon);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    let root = Caller::root();
    main.mknod(&root, "/f", 0o100_644, 0).unwrap();
    for _ in 1..4096 {
        assert_eq!(program.watch(2, 0, ROOT), Sent::Sent);
    }
    assert_eq!(program.watch(1, IN_OPEN, ROOT), Sent::Sent);
    assert_eq!(program.watch(3, IN_OPEN, ROOT), Sent::Full);
    main.open(&root, "/f", OpenFlags::READ, 0).unwrap();
    assert_eq!(program.heard(), [(1, IN_OPEN, "f".to_owned())]);
}

#[test]
fn what_a_session_writes_into_its_channel_counts_against_its_frames() {
    let (daemon, _directory) = daemon_with(SessionLimits {
        frame_rate: 100,
        frame_burst: 1000,
        ..SessionLimits::default()
    });
    let mut program = Program::new(&daemon);
    let mut client = connect(daemon.socket());
    for _ in 0..3 {
        program.fill();
        assert_answers(&mut program.client);
    }
    assert!(counter(&mut client, "throttled") > 0);
    // The program gets its answer later.
    assert_answers(&mut program.client);
}
