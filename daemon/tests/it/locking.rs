//! Tests registering, closing and changing at once: no two locks are taken in both orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use agentfs_core::event::{EventKind, EventSink};
use agentfs_core::id::NodeId;
use agentfs_core::{Branch, Caller, FsCore, OpenFlags, RenameFlags};
use agentfs_daemon::Daemon;
use agentfs_proto::message::{QueueClose, QueueKind, QueueOpen};
use agentfs_proto::registration::Registration;
use agentfs_ring::requests::Sent;

use crate::registering::{Program, ROOT, daemon_with_a_mount};
use agentfs_testkit::child::{PATIENCE, soon};
use agentfs_testkit::daemon::assert_answers;

const IN_OPEN: u32 = 0x20;
const IN_CREATE: u32 = 0x100;

/// What a thread says of its work.
enum Progress {
    /// A thread with an end has done one more round.
    Round,
    Ended(&'static str),
}

/// The threads by name, which are waited for as long as there is progress.
struct Crew {
    progress: Sender<Progress>,
    heard: Receiver<Progress>,
    /// Set when the threads that have an end have reached it: the others go on until then.
    is_over: Arc<AtomicBool>,
    working: Vec<&'static str>,
}

impl Crew {
    fn new() -> Self {
        let (progress, heard) = channel();
        Self {
            progress,
            heard,
            is_over: Arc::default(),
            working: Vec::new(),
        }
    }

    fn spawn(&mut self, name: &'static str, work: impl FnOnce(&Sender<Progress>) + Send + 'static) {
        self.working.push(name);
        let progress = self.progress.clone();
        std::thread::spawn(move || {
            work(&progress);
            progress.send(Progress::Ended(name)).unwrap();
        });
    }

    /// Does some work so many times.
    fn rounds(&mut self, name: &'static str, count: usize, work: impl Fn() + Send + 'static) {
        self.spawn(name, move |progress| {
            for _ in 0..count {
                work();
                progress.send(Progress::Round).unwrap();
            }
        });
    }

    /// Does some work again and again while others work.
    fn repeat(&mut self, name: &'static str, mut work: impl FnMut(u64) + Send + 'static) {
        let is_over = Arc::clone(&self.is_over);
        self.spawn(name, move |_| {
            let mut round = 0;
            while !is_over.load(Ordering::Relaxed) {
                work(round);
                round += 1;
            }
        });
    }

    /// Waits for so many threads to end. Returns those still at work when there has been no progress
    /// for a minute.
    fn wait(&mut self, count: usize) -> Result<(), Vec<&'static str>> {
        let mut left = count;
        while left > 0 {
            // A thread that panics sends nothing, so it is missed here as well.
            match self.heard.recv_timeout(PATIENCE) {
                Ok(Progress::Round) => {}
                Ok(Progress::Ended(name)) => {
                    let at = self.working.iter().position(|it| *it == name).unwrap();
                    self.working.swap_remove(at);
                    left -= 1;
                }
                Err(_) => return Err(std::mem::take(&mut self.working)),
            }
        }
        Ok(())
    }

    /// Waits for the threads that have an end, then for the others.
    fn finish(mut self, with_end: usize) -> Result<(), Vec<&'static str>> {
        self.wait(with_end)?;
        self.is_over.store(true, Ordering::Relaxed);
        self.wait(self.working.len())
    }
}

/// A sink that asks the branch, which it may do because no lock of the filesystem is held.
struct Curious(Branch);

impl EventSink for Curious {
    fn on_event(&self, _: &EventKind) {
        let _seq = self.0.last_seq();
        assert!(self.0.has_node(NodeId(ROOT)));
    }

    fn wants_activity(&self) -> bool {
        true
    }
}

fn open_and_close(main: &Branch, root: &Caller) {
    let handle = main.open(root, "/f", OpenFlags::READ, 0).unwrap();
    main.close(root, handle).unwrap();
}

fn change_everything(main: &Branch, round: u64) {
    let root = Caller::root();
    let (from, to) = (format!("/from{round}"), format!("/to{round}"));
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let handle = main.open(&root, &from, flags, 0o644).unwrap();
    main.write_at(&root, handle, 0, b"x").unwrap();
    main.rename(&root, &from, &to, RenameFlags::REPLACE)
        .unwrap();
    main.unlink(&root, &to).unwrap();
    main.close(&root, handle).unwrap();
}

/// Registers by shared memory and by request, and removes watches and closes queues both ways.
fn come_and_go(daemon: &Daemon, file: NodeId) {
    let mut program = Program::new(daemon);
    for wd in 1..=20 {
        let node = if wd % 2 == 0 { ROOT } else { file.0 };
        let _full = program.watch(wd, IN_OPEN | IN_CREATE, node);
        if wd % 3 == 0 {
            let queue = program.queue;
            let _full = program.send(Registration::Remove { queue, wd });
        }
    }
    assert_answers(&mut program.client);
    let _some = program.heard();
    let queue = program.queue;
    let _full = program.send(Registration::Close { queue });
    let open = QueueOpen {
        kind: QueueKind::Inotify,
        capacity: 4096,
    };
    let second = program.client.open_queue(open, soon()).unwrap();
    let queue = second.opened.queue;
    program.client.call(QueueClose { queue }, soon()).unwrap();
}

/// Ends the threads, or leaves them to the end of the process: ending a daemon that is stuck would
/// wait for ever, too.
fn finish(crew: Crew, with_end: usize, daemon: Arc<Daemon>) {
    if let Err(working) = crew.finish(with_end) {
        #[expect(clippy::mem_forget, reason = "ending it would wait for ever, too")]
        std::mem::forget(daemon);
        panic!("there was no progress for {PATIENCE:?}; at work are {working:?}");
    }
}

/// Returns how often to do what is done `usual` times: `cargo xtask tsan` asks for a part, because each
/// time takes some ten times longer under ThreadSanitizer.
fn times(usual: usize) -> usize {
    let part = std::env::var("AGENTFS_LOCKING_PART").ok();
    let part: usize = part.map_or(1, |it| it.parse().expect("a number"));
    usual / part
}

#[test]
fn opening_files_while_sessions_register_and_end_keeps_nobody_waiting() {
    const SESSIONS: usize = 500;
    let (daemon, _directory) = daemon_with_a_mount();
    let daemon = Arc::new(daemon);
    let main = daemon.core().branch(FsCore::MAIN).unwrap();
    let root = Caller::root();
    main.mknod(&root, "/f", 0o100_644, 0).unwrap();
    let mut crew = Crew::new();
    for name in ["opener one", "opener two"] {
        let (main, root) = (main.clone(), root.clone());
        crew.repeat(name, move |_| open_and_close(&main, &root));
    }
    for name in ["sessions one", "sessions two"] {
        let daemon = Arc::clone(&daemon);
        crew.rounds(name, times(SESSIONS), move || {
            let program = Program::new(&daemon);
            for wd in 1..=20 {
                assert_eq!(program.watch(wd, IN_OPEN, ROOT), Sent::Sent);
            }
        });
    }
    finish(crew, 2, daemon);
}

#[test]
fn registering_closing_and_committing_at_once_keeps_nobody_waiting() {
    const ROUNDS: usize = 150;
    let (daemon, _directory) = daemon_with_a_mount();
    let daemon = Arc::new(daemon);
    let core = daemon.core().clone();
    let main = core.branch(FsCore::MAIN).unwrap();
    let root = Caller::root();
    let file = main.mknod(&root, "/f", 0o100_644, 0).unwrap().node;
    let mut crew = Crew::new();
    for name in ["program one", "program two", "program three"] {
        let daemon = Arc::clone(&daemon);
        crew.rounds(name, times(ROUNDS), move || come_and_go(&daemon, file));
    }
    for name in ["opener one", "opener two"] {
        let (main, root) = (main.clone(), root.clone());
        crew.repeat(name, move |_| open_and_close(&main, &root));
    }
    let changed = main.clone();
    crew.repeat("committer", move |round| change_everything(&changed, round));
    let subscribed = core.clone();
    crew.repeat("subscriber", move |_| {
        let sink = Arc::new(Curious(main.clone()));
        let id = subscribed.subscribe_events(sink).unwrap();
        assert!(subscribed.unsubscribe_events(id).unwrap());
    });
    let forked = core.clone();
    crew.repeat("brancher", move |round| {
        let name = format!("b{round}");
        let branch = forked.branch_create_from_current(&root, FsCore::MAIN, &name);
        forked.branch_delete(branch.unwrap()).unwrap();
    });
    finish(crew, 3, daemon);
    assert_eq!(core.branches().len(), 1);
}
