//! Runs sequences on both filesystems and compares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use agentfs_core::{BackstoreMode, FsConfig, FsCore};
use agentfs_mount::{MountOptions, Mounts};
use agentfs_testkit::child::ended_within;
use agentfs_testkit::environment::{can_mount, number};
use agentfs_testkit::fs_oracle::generate;
use agentfs_testkit::fs_oracle::kernel::Kernel;
use agentfs_testkit::fs_oracle::op::{Answer, Op, SLOTS, Step, Whence};
use agentfs_testkit::fs_oracle::sandbox::Sandbox;
use agentfs_testkit::fs_oracle::seeds;
use agentfs_testkit::fs_oracle::shrink::shrink_steps;
use agentfs_testkit::fs_oracle::walk::{Seen, everything};
use rustix::fs::OFlags;
use rustix::process::{chroot, fchdir};

use crate::contents;

/// The variables by which a process finds the mount, and learns its own number.
const POINT: &str = "AGENTFS_ORACLE_POINT";
const WORKER: &str = "AGENTFS_ORACLE_WORKER";
/// How long a process may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// Where the mounted filesystem keeps what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Memory,
    /// In a store, which is opened again at the end and must show the same.
    Store,
}

/// What a filesystem answers to a sequence, and how it looks afterwards.
#[derive(PartialEq, Debug)]
struct Outcome {
    answers: Vec<Answer>,
    seen: Vec<Seen>,
}

/// A thread whose root directory is in one of the filesystems.
struct Side {
    asks: Sender<Vec<Step>>,
    outcomes: Receiver<Outcome>,
}

impl Side {
    /// Starts a thread on a directory of some filesystem, or on a private tmpfs.
    fn start(directory: Option<OwnedFd>, name: String) -> Self {
        let (asks, asked) = channel::<Vec<Step>>();
        let (gives, outcomes) = channel();
        std::thread::spawn(move || {
            let sandbox = Sandbox::enter().expect("a private tmpfs (needs root)");
            for (number, steps) in asked.iter().enumerate() {
                let mut kernel = sandbox.fresh("run").unwrap();
                if let Some(directory) = &directory {
                    enter(directory, &format!("{name}-{number}"));
                }
                let outcome = carry_out(&mut kernel, &steps);
                kernel.restart();
                drop(kernel);
                sandbox.clear().unwrap();
                if gives.send(outcome).is_err() {
                    return;
                }
            }
        });
        Self { asks, outcomes }
    }

    fn run(&self, steps: &[Step]) -> Outcome {
        self.asks.send(steps.to_vec()).unwrap();
        self.outcomes.recv().expect("a side panicked")
    }
}

/// Makes a new directory the calling thread's root.
fn enter(directory: &OwnedFd, name: &str) {
    fchdir(directory).unwrap();
    rustix::fs::mkdirat(directory, name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let root = rustix::fs::openat(
        directory,
        name,
        OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    fchdir(&root).unwrap();
    chroot(".").unwrap();
}

fn carry_out(kernel: &mut Kernel, steps: &[Step]) -> Outcome {
    Outcome {
        answers: steps.iter().map(|step| kernel.run(*step)).collect(),
        seen: everything(|step| kernel.run(step)),
    }
}

/// Calls `work` with a mount over nothing.
fn mounted(mode: Mode, work: impl FnOnce(&Path)) {
    if !can_mount() {
        return;
    }
    let (directory, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = || FsConfig {
        backstore: match mode {
            Mode::Memory => BackstoreMode::Memory,
            Mode::Store => BackstoreMode::Disk(store.path().join("store")),
        },
        ..FsConfig::default()
    };
    let shows = |config: FsConfig, work: &mut dyn FnMut(&Path)| {
        let fs = FsCore::new(config).unwrap();
        let mounts = Mounts::new(&fs).unwrap();
        let point = directory.path();
        let options = MountOptions::default();
        let _mount = mounts.mount(FsCore::MAIN, point, &options).unwrap();
        work(point);
    };
    let (mut work, mut expected) = (Some(work), BTreeMap::new());
    shows(config(), &mut |point| {
        work.take().expect("it is called once")(point);
        expected = contents::of(point);
    });
    if mode == Mode::Store {
        let path = store.path().join("store");
        let checked = FsCore::check_store(&path, config()).unwrap();
        assert!(checked.defects.is_empty(), "{checked:?}");
        shows(config(), &mut |point| {
            contents::assert_same(&expected, &contents::of(point));
        });
    }
}

/// Runs `default` sequences.
pub(crate) fn check_many(mode: Mode, default: u64) {
    mounted(mode, |point| check(seeds(default), point, 0));
}

/// Runs `default` sequences in as many processes at once, each in directories of its own. They are
/// runs of the same `test`, whose environment says where to work.
pub(crate) fn check_in_processes(test: &str, mode: Mode, default: u64, workers: u64) {
    if let Some(point) = std::env::var_os(POINT) {
        let worker = number(WORKER).expect("the variable says which process this is");
        let seeds = seeds(default).filter(|seed| seed % workers == worker);
        return check(seeds, Path::new(&point), worker);
    }
    mounted(mode, |point| {
        let start = |worker: u64| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([test, "--exact", "--nocapture"]);
            command.env(POINT, point).env(WORKER, worker.to_string());
            // A process that fails writes the reason to the standard error.
            command.stdout(Stdio::null()).spawn().unwrap()
        };
        let mut processes: Vec<_> = (0..workers).map(start).collect();
        for (worker, process) in processes.iter_mut().enumerate() {
            let ended = ended_within(process, DEADLINE).expect("a process takes too long");
            assert!(ended.success(), "process {worker} failed, see above");
        }
    });
}

fn check(seeds: impl Iterator<Item = u64>, point: &Path, worker: u64) {
    let mounted = rustix::fs::open(point, OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    let name = format!("worker-{worker}");
    let (tmpfs, mounted) = (
        Side::start(None, name.clone()),
        Side::start(Some(mounted), name),
    );
    for seed in seeds {
        let steps = generated(seed);
        if differs(&tmpfs.run(&steps), &mounted.run(&steps), &steps).is_some() {
            let fails =
                |steps: &[Step]| differs(&tmpfs.run(steps), &mounted.run(steps), steps).is_some();
            let small = shrink_steps(steps, fails);
            let why = differs(&tmpfs.run(&small), &mounted.run(&small), &small);
            let mut text = String::new();
            for Step { by, op } in &small {
                writeln!(text, "{by:?}.does(Op::{op:?}),").unwrap();
            }
            panic!(
                "run it again with AGENTFS_ORACLE_SEED={seed}\n{text}{}",
                why.unwrap_or_else(|| "it does not fail every time".into())
            );
        }
    }
}

/// Returns a sequence: each step depends on what a tmpfs answered to those before.
fn generated(seed: u64) -> Vec<Step> {
    let maker = std::thread::spawn(move || {
        let sandbox = Sandbox::enter().expect("a private tmpfs (needs root)");
        let case = generate::empty(seed).carry_out(&mut sandbox.fresh("run").unwrap());
        sandbox.clear().unwrap();
        assert!(case.lower.is_none());
        without_what_the_kernel_answers(case.steps)
    });
    maker.join().unwrap()
}

/// Leaves out what the kernel answers for every FUSE filesystem by itself, and other than tmpfs:
///
/// * chown(2) that changes nothing takes the set-id bits away, and is refused to users that do not own
///   the file. With `FUSE_HANDLE_KILLPRIV_V2` it succeeds (`fs/fuse/dir.c: fuse_setattr`).
/// * lseek(2) from the end of a directory, or for data in one: tmpfs refuses it. So lseek is tried
///   only on what is certainly a file: opened for writing.
fn without_what_the_kernel_answers(steps: Vec<Step>) -> Vec<Step> {
    let mut files = [None; SLOTS];
    let mut is_asked = |step: &Step| match step.op {
        Op::Chown { uid, gid, .. } | Op::Fchown { uid, gid, .. } => uid.is_some() || gid.is_some(),
        Op::Open { slot, flags, .. } => {
            // When the open fails, the slot keeps what it held before.
            let is_file = flags & libc::O_ACCMODE != libc::O_RDONLY;
            files[slot] = Some(is_file && files[slot].unwrap_or(true));
            true
        }
        Op::Close { slot } => {
            files[slot] = None;
            true
        }
        Op::Seek {
            whence: Whence::End | Whence::Data | Whence::Hole,
            slot,
            ..
        } => files[slot] == Some(true),
        _ => true,
    };
    steps.into_iter().filter(|step| is_asked(step)).collect()
}

/// Returns an answer without what a mount cannot know: whether the caller is in the group of a file
/// that it writes to, if that is one of the caller's further groups. Then the mount takes a
/// set-group-id bit that means nothing (the group may not execute) away rather than leave it.
fn known(answer: &Answer) -> Answer {
    let mut answer = answer.clone();
    if let Answer::Attr(attr) = &mut answer
        && attr.mode & libc::S_IFMT == libc::S_IFREG
        && attr.mode & libc::S_IXGRP == 0
    {
        attr.mode &= !libc::S_ISGID;
    }
    answer
}

fn differs(expected: &Outcome, got: &Outcome, steps: &[Step]) -> Option<String> {
    for (at, (expected, got)) in expected.answers.iter().zip(&got.answers).enumerate() {
        if known(expected) != known(got) {
            let step = &steps[at];
            return Some(format!(
                "step {at}, {step:?}\n  tmpfs: {expected:?}\n  mount: {got:?}"
            ));
        }
    }
    for (expected, got) in expected.seen.iter().zip(&got.seen) {
        let same_question = expected.path == got.path && expected.question == got.question;
        if !same_question || known(&expected.answer) != known(&got.answer) {
            return Some(format!(
                "afterwards, {}\n  tmpfs: {expected:?}\n  mount: {got:?}",
                expected.path
            ));
        }
    }
    (expected.seen.len() != got.seen.len()).then(|| "more is seen on one side".into())
}
