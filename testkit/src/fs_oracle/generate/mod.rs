//! Generates random sequences of operations, weighted so that most of them succeed.

mod attributes;
mod files;
mod names;

use libc::{
    O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY,
};

use super::kernel::Kernel;
use super::op::{Answer, Op, RenameFlags, SLOTS, Special, Stamp, Step, Whence, Who};
use super::sandbox::{guards_sticky_dirs, has_users};
use super::world::{Kind, World, intern, spelled};
use crate::random::Random;

/// Returns the plan of a case without a lower layer.
pub fn empty(seed: u64) -> Plan {
    let mut rng = Random::new(seed);
    let (length, spread) = match rng.below(100) {
        0 => (600, 300),
        1..=10 => (120, 60),
        _ => (40 + rng.below(30), 8),
    };
    Plan {
        generator: Generator::new(rng, World::new(spread)),
        lower: None,
        length,
    }
}

/// Returns the plan of a case over a lower layer.
pub fn overlay(seed: u64) -> Plan {
    let mut rng = Random::new(seed);
    let (lower, length) = (Some(20 + rng.below(50)), 20 + rng.below(30));
    Plan {
        generator: Generator::new(rng, World::new(8)),
        lower,
        length,
    }
}

/// Carries a step out.
type Run<'r> = &'r mut dyn FnMut(Step) -> Answer;

/// A test case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The steps that build FsCore's lower directory; `None` without such a layer.
    pub lower: Option<Vec<Step>>,
    /// The steps that both sides carry out.
    pub steps: Vec<Step>,
}

/// A case that is not generated yet.
#[derive(Debug)]
pub struct Plan {
    generator: Generator,
    /// How many steps build the lower layer.
    lower: Option<usize>,
    length: usize,
}

impl Plan {
    /// Generates the case. Each step depends on what the oracle answers to those before.
    pub fn carry_out(mut self, kernel: &mut Kernel) -> Case {
        let generator = &mut self.generator;
        let run = &mut |step| kernel.run(step);
        let lower = self.lower.map(|length| {
            let mixed = std::mem::replace(&mut generator.mixed, false);
            generator.seeks_holes = false;
            generator.plant(run);
            for _ in 0..length {
                let op = match generator.rng.below(12) {
                    0..=4 => generator.names(),
                    5..=8 => generator.attributes(),
                    9 => generator.open(),
                    _ => generator.descriptor(),
                };
                generator.push(run, op);
            }
            generator.push(
                run,
                Op::Chmod {
                    path: "/",
                    mode: 0o777,
                }
                .into(),
            );
            generator.mixed = mixed;
            generator.world.slots = Default::default();
            std::mem::take(&mut generator.steps)
        });
        kernel.restart();
        let run = &mut |step| kernel.run(step);
        if lower.is_none() {
            generator.plant(run);
        }
        generator.grow(run, self.length);
        Case {
            lower,
            steps: std::mem::take(&mut generator.steps),
        }
    }
}

/// Generates steps in a tree without end, some at a time.
#[derive(Clone, Debug)]
pub struct Actor(Generator);

impl Actor {
    pub fn new(seed: u64) -> Self {
        Self(Generator::new(Random::new(seed), World::new(12)))
    }

    /// Carries out so many steps and returns them.
    pub fn act(&mut self, count: usize, run: Run<'_>) -> Vec<Step> {
        self.0.grow(run, count);
        std::mem::take(&mut self.0.steps)
    }

    /// Notes that nothing is open any more.
    pub fn closed_all(&mut self) {
        self.0.world.slots = Default::default();
    }

    /// Lets the actor go on differently from the one it was cloned from.
    pub fn reseed(&mut self, seed: u64) {
        self.0.rng = Random::new(seed);
    }
}

/// An operation, and its effect if it succeeds.
struct Try {
    op: Op,
    then: Effect,
}

enum Effect {
    None,
    Adds(String, Kind),
    Removes(String),
    Renames(String, String),
    Exchanges(String, String),
    Opens(usize, Kind),
    /// Opens the slot as `Opens` does; the name is new, or may be.
    Creates(usize, String),
    Closes(usize),
    /// The path gets an extended attribute.
    Marks(&'static str),
}

impl From<Op> for Try {
    fn from(op: Op) -> Self {
        Self {
            op,
            then: Effect::None,
        }
    }
}

#[derive(Clone, Debug)]
struct Generator {
    rng: Random,
    world: World,
    /// Whether there are users other than root.
    users: bool,
    /// Whether those users call, too.
    mixed: bool,
    seeks_holes: bool,
    steps: Vec<Step>,
}

const DIR_MODES: [u32; 12] = [
    0o777, 0o777, 0o777, 0o777, 0o777, 0o777, 0o755, 0o1777, 0o2777, 0o2775, 0o700, 0o3771,
];
const FILE_MODES: [u32; 12] = [
    0o644, 0o666, 0o666, 0o666, 0o666, 0o755, 0o777, 0o4757, 0o2777, 0o2646, 0o444, 0o600,
];
const XATTRS: [&str; 12] = [
    "user.a",
    "user.a",
    "user.a",
    "user.a",
    "user.a",
    "user.b",
    "user.b",
    "user.b",
    "user.b",
    "user.long-name",
    "user.",
    "nonsense",
];

impl Generator {
    fn new(mut rng: Random, world: World) -> Self {
        let users = has_users();
        let mixed = rng.chance(66) && users;
        Self {
            rng,
            world,
            users,
            mixed,
            seeks_holes: true,
            steps: Vec::new(),
        }
    }

    /// Makes a few directories and files to begin with.
    fn plant(&mut self, run: Run<'_>) {
        if self.mixed {
            self.push(
                run,
                Op::Chmod {
                    path: "/",
                    mode: 0o777,
                }
                .into(),
            );
        }
        for _ in 0..4 {
            let mkdir = self.mkdir();
            self.push(run, mkdir);
        }
        for slot in 0..4 {
            let path = self.world.fresh(&mut self.rng);
            let mode = self.rng.pick(&FILE_MODES);
            let op = Op::Open {
                slot,
                path: intern(path.clone()),
                flags: O_CREAT | O_RDWR,
                mode,
            };
            self.push(
                run,
                Try {
                    op,
                    then: Effect::Creates(slot, path),
                },
            );
            let (seed, len) = (self.seed(), self.length());
            self.push(run, Op::Write { slot, seed, len }.into());
        }
    }

    fn grow(&mut self, run: Run<'_>, length: usize) {
        while self.steps.len() < length {
            let op = match self.rng.below(100) {
                0..=29 if self.world.slots.iter().any(Option::is_some) => self.descriptor(),
                0..=42 => self.open(),
                43..=64 => self.names(),
                65..=74 => self.removal(),
                75..=89 => self.attributes(),
                _ => self.look(),
            };
            self.push(run, op);
        }
    }

    fn push(&mut self, run: Run<'_>, Try { op, then }: Try) {
        let by = match self.rng.below(8) {
            0..=2 if self.mixed => Who::Alice,
            3 if self.mixed => Who::Bob,
            _ => Who::Root,
        };
        let step = Step { by, op };
        self.steps.push(step);
        if matches!(run(step), Answer::Errno(_) | Answer::Skipped) {
            return;
        }
        match then {
            Effect::None => {}
            Effect::Adds(path, kind) => self.world.add(&path, kind),
            Effect::Removes(path) => self.world.remove(&path),
            Effect::Renames(from, to) => self.world.rename(&from, &to),
            Effect::Exchanges(from, to) => self.world.exchange(&from, &to),
            Effect::Opens(slot, kind) => self.world.slots[slot] = Some(kind),
            Effect::Creates(slot, path) => {
                self.world.slots[slot] = Some(Kind::File);
                self.world.add(&path, Kind::File);
            }
            Effect::Closes(slot) => self.world.slots[slot] = None,
            Effect::Marks(path) => self.world.marked = Some(path),
        }
    }

    fn mkdir(&mut self) -> Try {
        let path = self.world.fresh(&mut self.rng);
        let mode = self.dir_mode();
        let op = Op::Mkdir {
            path: spelled(&mut self.rng, &path),
            mode,
        };
        Try {
            op,
            then: Effect::Adds(path, Kind::Dir),
        }
    }

    fn seed(&mut self) -> u8 {
        u8::try_from(self.rng.below(256)).unwrap()
    }

    /// Returns the length of some content: mostly small, now and then over several pages or chunks.
    fn length(&mut self) -> usize {
        match self.rng.below(10) {
            0 => 0,
            1..=6 => self.rng.below(200),
            7 | 8 => self.rng.below(9000),
            _ => self.rng.below(150_000),
        }
    }

    fn offset(&mut self) -> u64 {
        match self.rng.below(20) {
            0..=5 => 0,
            6..=11 => self.rng.range(0..300),
            12..=16 => self.rng.range(0..20_000),
            17 => self.rng.range(0..64) * 4096,
            18 => self.rng.range(0..2_000_000),
            _ => self
                .rng
                .pick(&[i64::MAX.cast_unsigned(), 1 << 40, u64::MAX, 1 << 62]),
        }
    }

    fn path(&mut self, kind: Option<Kind>) -> &'static str {
        let path = self.world.existing(&mut self.rng, kind);
        spelled(&mut self.rng, &path)
    }

    fn any(&mut self) -> &'static str {
        let path = self.world.any(&mut self.rng);
        spelled(&mut self.rng, &path)
    }

    fn file_slot(&mut self) -> usize {
        let kind = if self.rng.chance(92) {
            Some(Kind::File)
        } else {
            None
        };
        self.world.open_slot(&mut self.rng, kind)
    }
}
