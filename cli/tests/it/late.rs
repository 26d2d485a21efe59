//! Checks that a program which replays events knows the tree of the host, although the daemon was
//! stopped while the host changed it.

use std::fs;
use std::path::Path;

use agentfs_client::{Event, EventKind, Subscription, SubscriptionOptions};
use rustix::process::Signal;
use tempfile::TempDir;

use agentfs_testkit::child::soon;
use agentfs_testkit::churn::{Op, Paths};
use agentfs_testkit::daemon::{DaemonProcess, private_directory};
use agentfs_testkit::environment::number;
use agentfs_testkit::random::Random;

/// A daemon over a directory, and a program that replays what is emitted.
struct World {
    lower: TempDir,
    outside: TempDir,
    daemon: DaemonProcess,
    subscription: Subscription,
    paths: Paths,
    /// Whether the last event was the first half of an exchange.
    is_half: bool,
    overflows: usize,
}

impl World {
    fn new() -> Self {
        let lower = tempfile::tempdir().unwrap();
        let arguments = ["--lower", lower.path().to_str().unwrap()];
        let daemon = DaemonProcess::start_in(private_directory(), &arguments);
        let options = SubscriptionOptions::new().path("/");
        let subscription = Subscription::over(daemon.client(), options).unwrap();
        Self {
            paths: Paths::of(lower.path()),
            outside: tempfile::tempdir().unwrap(),
            lower,
            daemon,
            subscription,
            is_half: false,
            overflows: 0,
        }
    }

    /// Changes the host while the daemon is stopped.
    fn behind(&self, change: impl FnOnce(&Path)) {
        self.daemon.signal(Signal::STOP);
        change(self.lower.path());
        self.daemon.signal(Signal::CONT);
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
            EventKind::Modified => {}
            EventKind::BranchCreated
            | EventKind::SnapshotCreated
            | EventKind::Opened
            | EventKind::Read
            | EventKind::Closed
            | EventKind::Resumed => panic!("{event:?} was not asked for"),
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

#[test]
fn a_replay_is_exact_although_the_daemon_was_stopped() {
    let first = number("SEED").unwrap_or(1);
    let mut world = World::new();
    for seed in first..first + 40 {
        let mut random = Random::new(seed);
        let outside = world.outside.path().to_owned();
        let count = 20 + random.below(400);
        let mut churn = |root: &Path| {
            for _ in 0..count {
                Op::any(&mut random).make(root, &outside);
            }
        };
        world.behind(&mut churn);
        // The daemon looks while the host goes on.
        churn(world.lower.path());
        world.arrives(&format!("seed {seed}"));
    }
    assert_eq!(world.overflows, 0);
}

#[test]
fn names_and_directories_that_moved_behind_the_daemon_are_where_they_went() {
    let mut world = World::new();
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
    let mut world = World::new();
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
