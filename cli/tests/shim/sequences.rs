//! The kernel is the oracle: the same changes on a tmpfs, read by the same program.

use std::path::Path;

use agentfs_testkit::random::Random;
use agentfs_testkit::shim::{Script, scratch};
use agentfs_testkit::shrink::shrink;

use crate::mounted::{Change, Mounted};

const NONBLOCK: i32 = 0o4000;

/// The objects that exist before anybody watches.
const BEFORE: [Change; 5] = [
    Change::Mkdir("d"),
    Change::Mkdir("e"),
    Change::Write("d/f"),
    Change::Write("d/t"),
    Change::Mkdir("d/sub"),
];

/// The watches, in the order of their wd: 1, 2 and so on.
const WATCHED: [&str; 5] = ["d", "d/f", "e", "d/t", "d/sub"];

/// Starts a program that watches everything in `root`.
fn watcher(mut script: Script, root: &Path) -> (Script, i32) {
    let fd = script.init(NONBLOCK);
    for (expected, name) in (1..).zip(WATCHED) {
        assert_eq!(script.add(fd, 0xfff, &root.join(name)), expected);
    }
    (script, fd)
}

/// Returns everything that can be read now, with cookies numbered in the order they come.
fn heard(script: &mut Script, fd: i32, cookies: &mut Vec<String>) -> Vec<String> {
    let mut events = Vec::new();
    loop {
        match read(script, fd, 65_536, cookies).as_slice() {
            [nothing] if nothing == "EAGAIN" => return events,
            more => events.extend_from_slice(more),
        }
    }
}

/// Returns what one read gets.
fn read(script: &mut Script, fd: i32, room: usize, cookies: &mut Vec<String>) -> Vec<String> {
    let answer = script.ask(format!("read {fd} {room}"));
    let numbered = |event: &str| {
        let mut parts: Vec<&str> = event.splitn(4, ':').collect();
        let number;
        if let Some(cookie) = parts.get_mut(2).filter(|it| **it != "0") {
            let known = cookies.iter().position(|it| it == cookie);
            let index = known.unwrap_or_else(|| {
                cookies.push((*cookie).to_owned());
                cookies.len() - 1
            });
            number = format!("c{index}");
            *cookie = &number;
        }
        parts.join(":")
    };
    answer.split(' ').map(numbered).collect()
}

#[test]
fn changes_from_outside_are_heard_as_the_kernel_would_tell_them() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let native = scratch();
    for change in &BEFORE {
        change.apply_below(native.path());
        mounted.apply(change);
    }
    let (mut oracle, oracle_fd) = watcher(Script::start(Path::new("/nowhere")), native.path());
    let point = mounted.point().to_owned();
    let (mut script, fd) = watcher(Script::start(&mounted.socket()), &point);
    let changes = [
        Change::Write("d/f"),
        Change::Truncate("d/f"),
        Change::Chmod("d/f"),
        Change::Chmod("d/sub"),
        Change::Write("d/new"),
        Change::Symlink("d/s"),
        Change::Mkdir("d/n"),
        Change::Link("d/f", "e/g"),
        Change::Rename("d/new", "d/renamed"),
        Change::Rename("d/renamed", "e/moved"),
        Change::Rename("d/f", "e/f"),
        Change::Write("e/f"),
        Change::Rename("e/f", "d/t"),
        Change::Unlink("e/g"),
        Change::Unlink("d/t"),
        Change::Rename("d/n", "d/sub"),
        Change::Rmdir("d/sub"),
        Change::Unlink("d/s"),
        Change::Unlink("e/moved"),
        Change::Rmdir("e"),
    ];
    let (mut oracle_cookies, mut cookies) = (Vec::new(), Vec::new());
    for change in &changes {
        change.apply_below(native.path());
        mounted.apply(change);
        let expected = heard(&mut oracle, oracle_fd, &mut oracle_cookies);
        let found = heard(&mut script, fd, &mut cookies);
        assert_eq!(found, expected, "{change:?}");
        assert!(!expected.is_empty(), "{change:?} is heard at all");
        assert_eq!(script.ask(format!("poll {fd} 0")), "0", "{change:?}");
    }
    drop(script);
    mounted.end();
}

/// The places of objects. There are few names, so that most changes meet something.
const PATHS: [&str; 12] = [
    "a", "b", "d", "e", "d/a", "d/b", "d/s", "e/a", "e/b", "e/s", "d/s/a", "e/s/a",
];

/// The objects that a random sequence begins with.
const RANDOM_BEFORE: [Change; 6] = [
    Change::Mkdir("d"),
    Change::Mkdir("e"),
    Change::Mkdir("d/s"),
    Change::Write("a"),
    Change::Write("d/a"),
    Change::Write("d/s/a"),
];

const IN_EXCL_UNLINK: u32 = 0x0400_0000;
const IN_MASK_ADD: u32 = 0x2000_0000;
const IN_ONESHOT: u32 = 0x8000_0000;

#[derive(Clone, Copy, Debug)]
enum Step {
    Make(Change),
    Watch(&'static str, u32),
    /// The wd of a watch.
    Unwatch(i32),
    /// Reads into a buffer of this length.
    Read(usize),
    ReadAll,
}

fn random_change(rng: &mut Random) -> Change {
    let (path, other) = (rng.pick(&PATHS), rng.pick(&PATHS));
    match rng.below(14) {
        0..=2 => Change::Write(path),
        3..=4 => Change::Mkdir(path),
        5 => Change::Rmdir(path),
        6..=7 => Change::Unlink(path),
        8..=10 => Change::Rename(path, other),
        11 => Change::Link(path, other),
        12 => Change::Chmod(path),
        _ => Change::Truncate(path),
    }
}

fn random_step(rng: &mut Random) -> Step {
    match rng.below(20) {
        0..=3 => {
            let events = rng.pick(&[0xfff, 0xfff, 0x2, 0x300, 0xc0, 0xc00, 0x3c8]);
            let flags = rng.pick(&[0, 0, 0, 0, IN_ONESHOT, IN_EXCL_UNLINK, IN_MASK_ADD]);
            Step::Watch(rng.pick(&PATHS), events | flags)
        }
        4 => Step::Unwatch(i32::try_from(1 + rng.below(8)).unwrap()),
        5..=6 => Step::Read(rng.pick(&[16, 40, 100, 65_536])),
        7 => Step::ReadAll,
        _ => Step::Make(random_change(rng)),
    }
}

/// A program, the directory it watches, and its inotify instance.
struct Side {
    script: Script,
    root: std::path::PathBuf,
    fd: i32,
    cookies: Vec<String>,
}

impl Side {
    /// Carries out a step, and returns what the program gets, if the step is one of the program's.
    fn step(&mut self, step: Step) -> Vec<String> {
        let Self {
            script,
            root,
            fd,
            cookies,
        } = self;
        match step {
            Step::Make(_) => Vec::new(),
            // A watch that has fired its one shot ends when that event is read.
            Step::Watch(path, mask) => {
                let path = root.join(path);
                let mut events = heard(script, *fd, cookies);
                events.push(script.ask(format!("add {fd} {mask:x} {}", path.display())));
                events
            }
            // The kernel reports the end at once, and the order between kernel and ring is a guess.
            Step::Unwatch(wd) => {
                let mut events = heard(script, *fd, cookies);
                events.push(script.ask(format!("rm {fd} {wd}")));
                events.extend(heard(script, *fd, cookies));
                events
            }
            Step::Read(room) => read(script, *fd, room, cookies),
            Step::ReadAll => heard(script, *fd, cookies),
        }
    }
}

/// A step, what the kernel's program gets, and what ours gets.
type Difference = (Step, Vec<String>, Vec<String>);

/// The kernel's side and ours.
struct Pair {
    oracle: Side,
    ours: Side,
    mounted: Mounted,
    native: tempfile::TempDir,
    sequences: u64,
}

impl Pair {
    fn new() -> Option<Self> {
        let mounted = Mounted::new()?;
        let native = scratch();
        let side = |script: Script, root: &Path| Side {
            script,
            root: root.to_owned(),
            fd: 0,
            cookies: Vec::new(),
        };
        Some(Self {
            oracle: side(Script::start(Path::new("/nowhere")), native.path()),
            ours: side(Script::start(&mounted.socket()), mounted.point()),
            mounted,
            native,
            sequences: 0,
        })
    }

    /// Returns how many answers there were, or the first difference.
    fn run(&mut self, steps: &[Step]) -> Result<usize, Box<Difference>> {
        self.sequences += 1;
        let top = format!("{}/", self.sequences);
        let roots = [self.native.path(), self.mounted.point()];
        for (side, root) in [&mut self.oracle, &mut self.ours].into_iter().zip(roots) {
            side.root = root.join(&top);
            std::fs::create_dir(&side.root).unwrap();
            side.fd = side.script.init(NONBLOCK);
            side.cookies.clear();
        }
        let before = RANDOM_BEFORE.map(Step::Make);
        let mut answers = 0;
        let mut result = Ok(());
        for step in before.iter().chain(steps).chain(&[Step::ReadAll]) {
            let (expected, found) = if let Step::Make(change) = step {
                let expected = change.try_below(&self.oracle.root).is_ok();
                let found = self.mounted.try_apply(&top, change);
                (vec![expected.to_string()], vec![found.to_string()])
            } else {
                (self.oracle.step(*step), self.ours.step(*step))
            };
            answers += expected.len();
            if expected != found {
                result = Err(Box::new((*step, expected, found)));
                break;
            }
        }
        for side in [&mut self.oracle, &mut self.ours] {
            let fd = side.fd;
            assert_eq!(side.script.ask(format!("close {fd}")), "0");
        }
        result.map(|()| answers)
    }
}

#[test]
fn random_changes_from_outside_are_heard_as_the_kernel_would_tell_them() {
    const SEQUENCES: u64 = 100;
    const STEPS: usize = 60;
    let Some(mut pair) = Pair::new() else {
        return;
    };
    let first = std::env::var("AGENTFS_ORACLE_SEED").map_or(1, |it| it.parse().unwrap());
    let mut answers = 0;
    for seed in first..first + SEQUENCES {
        let rng = &mut Random::new(seed);
        let steps: Vec<Step> = (0..STEPS).map(|_| random_step(rng)).collect();
        match pair.run(&steps) {
            Ok(more) => answers += more,
            Err(_) => {
                let small = shrink(steps, |steps| pair.run(steps).is_err());
                let difference = pair.run(&small);
                panic!("seed {seed}\n{small:?}\n{difference:#?}");
            }
        }
    }
    assert!(answers > 3000, "{answers} answers say too little");
    let Pair { mounted, ours, .. } = pair;
    drop(ours);
    mounted.end();
}
