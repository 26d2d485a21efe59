//! Tests many long requests at once: they wait for their turn, and none is refused.

use std::sync::{Arc, Condvar, Mutex};

use agentfs_client::{Client, Deadline, Progress};
use agentfs_core::event::{Envelope, EventKind, EventSink, Origin};
use agentfs_core::id::SnapshotId;
use agentfs_core::{Caller, FsCore};
use agentfs_daemon::{Daemon, SessionLimits};
use agentfs_proto::message::{Done, MountWait, Reply, SnapshotDelete, SnapshotRestore, Status};

use crate::support::daemon_with;
use agentfs_testkit::child::{PATIENCE, soon};
use agentfs_testkit::daemon::{assert_answers, connect};

/// How many of the requests that may take long run at once.
const AT_ONCE: usize = 12;

/// Holds up every restore until it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_open: bool,
    arrived: usize,
}

impl Gate {
    fn open(&self) {
        self.state.lock().unwrap().is_open = true;
        self.changed.notify_all();
    }

    fn wait_for(&self, is_so: impl Fn(&State) -> bool) {
        let state = self.state.lock().unwrap();
        let waited = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !is_so(state));
        assert!(!waited.unwrap().1.timed_out(), "nothing comes");
    }
}

impl EventSink for Gate {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        if envelope.origin == Origin::Restore {
            self.state.lock().unwrap().arrived += 1;
            self.changed.notify_all();
            self.wait_for(|state| state.is_open);
        }
    }
}

struct Rig {
    daemon: Daemon,
    gate: Arc<Gate>,
    before: SnapshotId,
    _directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let (daemon, directory) = daemon_with(SessionLimits::default());
        let gate = Arc::new(Gate::default());
        let core = daemon.core();
        let before = core
            .snapshot_create(&Caller::root(), FsCore::MAIN, "before")
            .unwrap();
        core.subscribe_events(gate.clone()).unwrap();
        Self {
            daemon,
            gate,
            before,
            _directory: directory,
        }
    }

    /// Asks for a restore of a new branch that has something to restore, and does not wait for the
    /// reply.
    fn ask(&self, name: &str) -> Client {
        let (core, root) = (self.daemon.core(), Caller::root());
        let branch = core.branch_create_from_snapshot(&root, self.before, name);
        let branch = core.branch(branch.unwrap()).unwrap();
        branch.mkdir(&root, "/made", 0o755).unwrap();
        let mut client = connect(self.daemon.socket());
        let request = SnapshotRestore {
            snapshot: "before".to_owned(),
            branch: name.to_owned(),
        };
        client.send(request.into(), soon()).unwrap();
        client
    }

    fn fill(&self) -> Vec<Client> {
        let clients: Vec<Client> = (0..AT_ONCE)
            .map(|number| self.ask(&format!("busy-{number}")))
            .collect();
        self.gate.wait_for(|state| state.arrived == AT_ONCE);
        clients
    }

    fn has(&self, branch: &str, path: &str) -> bool {
        let core = self.daemon.core();
        let all = core.branches();
        let id = all.iter().find(|it| it.name == branch).unwrap().id;
        let branch = core.branch(id).unwrap();
        branch.lstat(&Caller::root(), path).is_ok()
    }
}

fn ahead(client: &mut Client) -> u64 {
    let reply = client.receive(soon()).unwrap().reply;
    let Reply::Waiting(waiting) = reply else {
        panic!("{reply:?}");
    };
    waiting.ahead
}

fn is_done(client: &mut Client) -> bool {
    matches!(client.receive(soon()).unwrap().reply, Reply::Done(_))
}

#[test]
fn what_finds_no_room_waits_for_its_turn_and_is_done() {
    let rig = Rig::new();
    let mut busy = rig.fill();
    let mut waiting: Vec<Client> = (0..28)
        .map(|number| rig.ask(&format!("waiting-{number}")))
        .collect();
    for (number, client) in (1..).zip(&mut waiting) {
        assert_eq!(ahead(client), number);
    }
    assert!(rig.has("waiting-0", "/made"));
    rig.gate.open();
    assert!(busy.iter_mut().chain(&mut waiting).all(is_done));
    assert!(!rig.has("waiting-0", "/made"));
    assert!(!rig.has("waiting-27", "/made"));
}

#[test]
fn what_is_short_is_done_while_what_is_long_waits() {
    let rig = Rig::new();
    let mut busy = rig.fill();
    let mut waiting = rig.ask("waiting");
    assert_eq!(ahead(&mut waiting), 1);
    let root = Caller::root();
    rig.daemon
        .core()
        .snapshot_create(&root, FsCore::MAIN, "short")
        .unwrap();
    let mut client = connect(rig.daemon.socket());
    let request = SnapshotDelete {
        snapshot: "short".to_owned(),
    };
    client.call(request, soon()).unwrap();
    rig.gate.open();
    assert!(busy.iter_mut().all(is_done) && is_done(&mut waiting));
}

#[test]
fn a_branch_goes_on_while_a_request_for_it_waits() {
    let rig = Rig::new();
    let mut busy = rig.fill();
    let mut waiting = rig.ask("waiting");
    assert_eq!(ahead(&mut waiting), 1);
    let mut client = connect(rig.daemon.socket());
    let op = agentfs_proto::message::FsMkdir {
        path: b"/later".as_slice().into(),
        mode: 0o755,
    };
    client.fs("waiting", op, soon()).unwrap();
    rig.gate.open();
    assert!(busy.iter_mut().all(is_done) && is_done(&mut waiting));
    assert!(!rig.has("waiting", "/later"));
}

#[test]
fn a_request_whose_program_has_gone_is_not_carried_out() {
    let rig = Rig::new();
    let mut busy = rig.fill();
    let mut gone = rig.ask("gone");
    assert_eq!(ahead(&mut gone), 1);
    drop(gone);
    // The request takes no place any more as soon as the daemon has noticed that its program has
    // gone.
    let mut client = connect(rig.daemon.socket());
    while sessions(&mut client) > AT_ONCE + 1 {
        assert_answers(&mut client);
    }
    let mut next = rig.ask("next");
    assert_eq!(ahead(&mut next), 1);
    rig.gate.open();
    assert!(busy.iter_mut().all(is_done) && is_done(&mut next));
    assert!(rig.has("gone", "/made"));
}

fn sessions(client: &mut Client) -> usize {
    let (mut all, mut after) = (0, 0);
    loop {
        let report = client.call(Status { after }, soon()).unwrap();
        all += report.sessions.len();
        after = report.sessions.last().map_or(after, |it| it.session);
        if !report.more {
            return all;
        }
    }
}

#[test]
fn waiting_for_mounts_takes_no_turn() {
    let rig = Rig::new();
    let id = rig.daemon.mounts().reserve();
    let path = std::path::Path::new("/mnt");
    rig.daemon.mounts().insert(id, FsCore::MAIN, 4242, path);
    let waits: Vec<Client> = (0..40)
        .map(|_| {
            let mut client = connect(rig.daemon.socket());
            let request = MountWait {
                id: id.0,
                timeout_ms: u32::MAX,
            };
            client.send(request.into(), soon()).unwrap();
            client
        })
        .collect();
    let mut one = rig.ask("one");
    rig.gate.open();
    assert!(is_done(&mut one));
    rig.daemon.mounts().remove(id);
    for mut client in waits {
        assert!(is_done(&mut client));
    }
}

#[test]
fn a_program_is_told_when_it_waits_long_for_its_turn() {
    let rig = Rig::new();
    let mut busy = rig.fill();
    let (core, root) = (rig.daemon.core(), Caller::root());
    core.branch_create_from_snapshot(&root, rig.before, "patient")
        .unwrap();
    let mut client = connect(rig.daemon.socket());
    let request = SnapshotRestore {
        snapshot: "before".to_owned(),
        branch: "patient".to_owned(),
    };
    let mut announced = None;
    let announce = |ahead| {
        announced = Some(ahead);
        rig.gate.open();
    };
    let moment = std::time::Duration::from_millis(10);
    // The deadline is over long before the turn comes.
    let deadline = Deadline::after(PATIENCE);
    client
        .call_in_turn(request, deadline, moment, announce)
        .unwrap();
    assert_eq!(announced, Some(1));
    assert!(busy.iter_mut().all(is_done));
}

#[test]
fn a_program_can_look_how_far_its_request_is_without_waiting() {
    let rig = Rig::new();
    let mut busy = rig.fill();
    let mut client = connect(rig.daemon.socket());
    let (core, root) = (rig.daemon.core(), Caller::root());
    core.branch_create_from_snapshot(&root, rig.before, "looked-at")
        .unwrap();
    let request = SnapshotRestore {
        snapshot: "before".to_owned(),
        branch: "looked-at".to_owned(),
    };
    let number = client.send(request.into(), soon()).unwrap();
    let waiting: Progress<Done> = client.progress(number, soon()).unwrap();
    assert_eq!(waiting, Progress::Waiting(1));
    let over = Deadline::after(std::time::Duration::ZERO);
    let so_far: Progress<Done> = client.progress(number, over).unwrap();
    assert_eq!(so_far, Progress::Pending);
    rig.gate.open();
    let answer: Progress<Done> = client.progress(number, soon()).unwrap();
    assert!(matches!(answer, Progress::Answered(_)), "{answer:?}");
    assert!(busy.iter_mut().all(is_done));
}
