//! Checks that a program which replays events knows the tree of the host, although the daemon was
//! stopped while the host changed it, or killed.

use std::fs;
use std::path::Path;

use agentfs_client::{
    Client, Event, EventKind, Subscription, SubscriptionError, SubscriptionOptions,
};
use agentfs_proto::message::FsReadDir;
use rustix::process::Signal;
use tempfile::TempDir;

use agentfs_testkit::child::soon;
use agentfs_testkit::churn::{Op, Paths};
use agentfs_testkit::daemon::{DaemonProcess, private_directory};
use agentfs_testkit::environment::number;
use agentfs_testkit::random::Random;

/// Where the daemon keeps its branches.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Memory,
    Store,
}

/// A daemon over a directory, and a program that replays what is emitted.
struct World {
    lower: TempDir,
    outside: TempDir,
    _store: TempDir,
    arguments: Vec<String>,
    /// It is there but between a kill and the start of the next one.
    daemon: Option<DaemonProcess>,
    subscription: Subscription,
    paths: Paths,
    /// Whether the last event was the first half of an exchange.
    is_half: bool,
    overflows: usize,
    /// How often the subscription went on with another daemon.
    resumed: usize,
}

impl World {
    fn new(mode: Mode) -> Self {
        let (lower, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut arguments = vec!["--lower".to_owned(), text(lower.path())];
        match mode {
            Mode::Memory => arguments.push("--in-memory".to_owned()),
            Mode::Store => arguments.extend(["--store".to_owned(), text(&store.path().join("s"))]),
        }
        let daemon = start(private_directory(), &arguments);
        let options = SubscriptionOptions::new().path("/").socket(daemon.socket());
        let subscription = Subscription::over(daemon.client(), options).unwrap();
        Self {
            paths: Paths::of(lower.path()),
            outside: tempfile::tempdir().unwrap(),
            lower,
            _store: store,
            arguments,
            daemon: Some(daemon),
            subscription,
            is_half: false,
            overflows: 0,
            resumed: 0,
        }
    }

    fn daemon(&self) -> &DaemonProcess {
        self.daemon.as_ref().unwrap()
    }

    /// Changes the host while the daemon is stopped.
    fn behind(&self, change: impl FnOnce(&Path)) {
        self.daemon().signal(Signal::STOP);
        change(self.lower.path());
        self.daemon().signal(Signal::CONT);
    }

    /// Kills the daemon and starts the next one, while the host goes on to change.
    fn restart(&mut self, mut change: impl FnMut(&Path) + Send) {
        let root = self.lower.path();
        self.daemon().signal(Signal::STOP);
        change(root);
        let directory = self.daemon.take().unwrap().kill();
        change(root);
        std::thread::scope(|scope| {
            scope.spawn(|| change(root));
            self.daemon = Some(start(directory, &self.arguments));
            loop {
                match self.subscription.next_within(soon()) {
                    // What the killed daemon had reported is known, or looked for again below.
                    Ok(Some(_)) => {}
                    Err(SubscriptionError::DaemonGone) => break,
                    other => panic!("{other:?} of a daemon that was killed"),
                }
            }
            self.subscription.resume(soon()).unwrap();
        });
    }

    /// Replays the events up to that of a file which the host makes now.
    #[track_caller]
    fn reads_until(&mut self, name: &str) {
        fs::write(self.lower.path().join(name), "").unwrap();
        loop {
            let event = self.subscription.next_within(soon()).unwrap();
            let event = event.expect("the event of the last change");
            self.replay(&event);
            if event.kind == EventKind::Created && event.path == Path::new("/").join(name) {
                return;
            }
        }
    }

    fn replay(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Created => self.paths.created(&event.path, event.is_directory),
            EventKind::Removed => self.paths.removed(&event.path),
            EventKind::Renamed { to } if event.is_exchange => {
                self.is_half = !self.is_half;
                if self.is_half {
                    self.paths.exchanged(&event.path, to);
                }
            }
            EventKind::Renamed { to } => self.paths.renamed(&event.path, to),
            EventKind::Overflow => {
                self.overflows += 1;
                self.paths = Paths::of(self.lower.path());
            }
            EventKind::Resumed => {
                self.resumed += 1;
                // The second half of an exchange may be lost.
                self.is_half = false;
            }
            EventKind::Modified => {}
            EventKind::BranchCreated
            | EventKind::SnapshotCreated
            | EventKind::Opened
            | EventKind::Read
            | EventKind::Closed => panic!("{event:?} was not asked for"),
            _ => panic!("{event:?} is not known here"),
        }
    }

    /// Waits until the replay leads to the tree that the host has.
    #[track_caller]
    fn arrives(&mut self, context: &str) {
        let truth = Paths::of(self.lower.path());
        while let Some(difference) = self.paths.difference(&truth) {
            let next = self.subscription.next_within(soon()).unwrap();
            let Some(event) = next else {
                panic!("{context}: {difference}");
            };
            self.replay(&event);
            // Most differences take more than the next event.
            while let Some(event) = self.subscription.try_next().unwrap() {
                self.replay(&event);
            }
        }
    }
}

fn start(directory: TempDir, arguments: &[String]) -> DaemonProcess {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    DaemonProcess::start_in(directory, &arguments)
}

/// Returns the paths of the branch main.
fn shown(client: &mut Client) -> Paths {
    let (mut paths, mut open) = (Paths::default(), vec![String::from("/")]);
    while let Some(dir) = open.pop() {
        let mut after = 0;
        loop {
            let path = dir.as_str().into();
            let page = client.fs("", FsReadDir { path, after }, soon()).unwrap();
            for entry in &page.entries {
                let name = std::str::from_utf8(&entry.name.0).unwrap();
                let path = format!("{}/{name}", dir.trim_end_matches('/'));
                let is_dir = entry.attr.mode & 0o170_000 == 0o040_000;
                paths.created(Path::new(&path), is_dir);
                if is_dir {
                    open.push(path);
                }
                after = entry.cookie;
            }
            if !page.more {
                break;
            }
        }
    }
    paths
}

/// Returns a number of random changes of the host.
fn churn(random: &mut Random, outside: &Path) -> impl FnMut(&Path) + Send {
    let count = 20 + random.below(400);
    move |root| {
        for _ in 0..count {
            Op::any(random).make(root, outside);
        }
    }
}

/// Lets the host change while the daemon is stopped, and while it looks.
fn checks_bursts(mode: Mode, seeds: u64) {
    let first = number("SEED").unwrap_or(1);
    let mut world = World::new(mode);
    let outside = world.outside.path().to_owned();
    for seed in first..first + seeds {
        let mut random = Random::new(seed);
        let mut churn = churn(&mut random, &outside);
        world.behind(&mut churn);
        churn(world.lower.path());
        world.arrives(&format!("seed {seed}"));
    }
    assert_eq!(world.overflows, 0);
}

#[test]
fn a_replay_is_exact_although_the_daemon_was_stopped() {
    checks_bursts(Mode::Memory, 20);
}

#[test]
fn a_replay_is_exact_although_the_daemon_of_a_store_was_stopped() {
    checks_bursts(Mode::Store, 20);
}

/// The program is told that it may have missed something, once for each kill. When it has looked, its
/// replay is exact again, and the branch of the store shows what the host has.
#[test]
fn a_replay_is_exact_again_after_the_daemon_was_killed_and_started() {
    let first = number("SEED").unwrap_or(1);
    let mut world = World::new(Mode::Store);
    let outside = world.outside.path().to_owned();
    for (kills, seed) in (1..).zip(first..first + 10) {
        let mut random = Random::new(seed);
        let mut churn = churn(&mut random, &outside);
        world.restart(&mut churn);
        world.reads_until(&format!("seed-{seed}"));
        world.paths = Paths::of(world.lower.path());
        assert_eq!((world.resumed, world.overflows), (kills, 0), "seed {seed}");
        let truth = Paths::of(world.lower.path());
        let shown = shown(&mut world.daemon().client());
        assert_eq!(shown.difference(&truth), None, "seed {seed}");
        world.behind(&mut churn);
        churn(world.lower.path());
        world.arrives(&format!("seed {seed}"));
    }
    assert_eq!(world.overflows, 0);
}

#[test]
fn names_and_directories_that_moved_behind_the_daemon_are_where_they_went() {
    let mut world = World::new(Mode::Store);
    let root = world.lower.path().to_owned();
    for dir in ["cur", "new", "chain/deep"] {
        fs::create_dir_all(root.join(dir)).unwrap();
        fs::write(root.join(dir).join(dir.replace('/', "-")), "").unwrap();
    }
    fs::write(root.join("a"), "").unwrap();
    world.arrives("before");
    world.behind(|root| {
        let mv = |from: &str, to: &str| fs::rename(root.join(from), root.join(to)).unwrap();
        mv("a", "b");
        mv("b", "c");
        mv("cur", "old");
        mv("new", "cur");
        fs::remove_dir_all(root.join("old")).unwrap();
        mv("chain", "link");
        fs::create_dir(root.join("chain")).unwrap();
        mv("link", "chain/in");
        mv("chain", "chained");
        fs::write(root.join("chained/in/deep/late"), "").unwrap();
    });
    world.arrives("after");
    assert_eq!(world.overflows, 0);
}

#[test]
fn more_than_the_kernel_holds_is_told_as_an_overflow() {
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let mut world = World::new(Mode::Store);
    fs::write(world.lower.path().join("a"), "").unwrap();
    world.arrives("before");
    world.behind(|root| {
        for _ in 0..=most / 2 {
            fs::rename(root.join("a"), root.join("b")).unwrap();
            fs::rename(root.join("b"), root.join("a")).unwrap();
        }
        fs::rename(root.join("a"), root.join("c")).unwrap();
    });
    while world.overflows == 0 {
        let event = world.subscription.next_within(soon()).unwrap();
        world.replay(&event.expect("an overflow"));
    }
    world.arrives("after the overflow");
    // What comes afterwards is heard.
    fs::rename(world.lower.path().join("c"), world.lower.path().join("d")).unwrap();
    world.arrives("later");
    assert_eq!(world.overflows, 1);
}
