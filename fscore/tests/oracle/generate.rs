//! Random sequences of operations, weighted so that most of them succeed.

use libc::{
    O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY,
};

use crate::kernel::{Kernel, guards_sticky_dirs};
use crate::op::{Answer, Op, RenameFlags, SLOTS, Special, Stamp, Step, Whence, Who};
use crate::rng::Rng;
use crate::run::{Case, has_users};
use crate::world::{Kind, World, intern, spelled};

/// A generator for a case without a lower layer.
pub(crate) fn empty(seed: u64) -> Plan {
    let mut rng = Rng::new(seed);
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

/// A generator for a case over a lower layer.
pub(crate) fn overlay(seed: u64) -> Plan {
    let mut rng = Rng::new(seed);
    let (lower, length) = (Some(20 + rng.below(50)), 20 + rng.below(30));
    Plan {
        generator: Generator::new(rng, World::new(8)),
        lower,
        length,
    }
}

/// Who carries a step out.
type Run<'r> = &'r mut dyn FnMut(Step) -> Answer;

/// What will be generated.
#[derive(Debug)]
pub(crate) struct Plan {
    generator: Generator,
    /// How many steps build the lower layer.
    lower: Option<usize>,
    length: usize,
}

impl Plan {
    /// Generates the case. Each step depends on what the oracle answers to those before.
    pub(crate) fn carry_out(mut self, kernel: &mut Kernel) -> Case {
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

/// Goes on for ever in a tree, one step at a time.
#[derive(Clone, Debug)]
pub(crate) struct Actor(Generator);

impl Actor {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Generator::new(Rng::new(seed), World::new(12)))
    }

    /// Does so many steps and gives them.
    pub(crate) fn act(&mut self, count: usize, run: Run<'_>) -> Vec<Step> {
        self.0.grow(run, count);
        std::mem::take(&mut self.0.steps)
    }

    /// Nothing is open any more.
    pub(crate) fn closed_all(&mut self) {
        self.0.world.slots = Default::default();
    }

    /// Goes on differently from what it was cloned of.
    pub(crate) fn reseed(&mut self, seed: u64) {
        self.0.rng = Rng::new(seed);
    }
}

/// An operation, and what is true if it succeeds.
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
    /// And the name is new, or may be.
    Creates(usize, String),
    Closes(usize),
    /// With an extended attribute.
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
    rng: Rng,
    world: World,
    /// Whether there are other users than root.
    users: bool,
    /// Whether they call too.
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
    fn new(mut rng: Rng, world: World) -> Self {
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

    /// A few directories and files to begin with.
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

    /// Of some content: mostly small, now and then over several pages or chunks.
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
            6..=11 => self.rng.range(0, 300),
            12..=16 => self.rng.range(0, 20_000),
            17 => self.rng.range(0, 64) * 4096,
            18 => self.rng.range(0, 2_000_000),
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

    fn open(&mut self) -> Try {
        let slot = self.rng.below(SLOTS);
        let access = self.rng.pick(&[O_RDONLY, O_WRONLY, O_RDWR, O_RDWR, O_RDWR]);
        let (path, flags, kind) = match self.rng.below(20) {
            0..=6 => (
                self.world.fresh(&mut self.rng),
                access | O_CREAT,
                Kind::File,
            ),
            7 | 8 => (
                self.world.fresh(&mut self.rng),
                access | O_CREAT | O_EXCL,
                Kind::File,
            ),
            9 => (
                self.world.any(&mut self.rng),
                access | O_CREAT | O_EXCL,
                Kind::File,
            ),
            10..=12 => (
                self.world.existing(&mut self.rng, Some(Kind::File)),
                access,
                Kind::File,
            ),
            13 => (self.world.any(&mut self.rng), access | O_TRUNC, Kind::File),
            14 => (
                self.world.any(&mut self.rng),
                access | O_CREAT | O_TRUNC,
                Kind::File,
            ),
            15 => (
                self.world.existing(&mut self.rng, Some(Kind::Dir)),
                O_DIRECTORY,
                Kind::Dir,
            ),
            16 => (
                self.world.existing(&mut self.rng, Some(Kind::Link)),
                access | O_CREAT,
                Kind::File,
            ),
            17 => (
                self.world.any(&mut self.rng),
                access | O_NOFOLLOW,
                Kind::File,
            ),
            18 => (
                self.world.any(&mut self.rng),
                access | O_DIRECTORY,
                Kind::Dir,
            ),
            _ => (
                self.world.any(&mut self.rng),
                access | O_CREAT | O_NOFOLLOW,
                Kind::File,
            ),
        };
        let flags = if self.rng.chance(15) {
            flags | O_APPEND
        } else {
            flags
        };
        // Directories are opened to read.
        let kind = if self.world.kind(&path) == Some(Kind::Dir) {
            Kind::Dir
        } else {
            kind
        };
        let mode = self.rng.pick(&FILE_MODES);
        let op = Op::Open {
            slot,
            path: spelled(&mut self.rng, &path),
            flags,
            mode,
        };
        let creates = flags & O_CREAT != 0 && kind == Kind::File;
        let then = if creates {
            Effect::Creates(slot, path)
        } else {
            Effect::Opens(slot, kind)
        };
        Try { op, then }
    }

    fn descriptor(&mut self) -> Try {
        let slot = self.file_slot();
        let (seed, len, at) = (self.seed(), self.length(), self.offset());
        let op = match self.rng.below(40) {
            0..=7 => Op::Write { slot, seed, len },
            8..=12 => Op::Pwrite {
                slot,
                at,
                seed,
                len,
            },
            13..=17 => Op::Pread { slot, at, len },
            18..=21 => Op::Read { slot, len },
            22..=24 => Op::Ftruncate { slot, len: at },
            25..=27 => {
                // Only modes that every version of tmpfs knows, and one that none does.
                let mode = self.rng.pick(&[0, 0, 1, 3, 3, 2, 0x10]);
                let len = if self.rng.chance(95) {
                    self.rng.range(1, 200_000)
                } else {
                    0
                };
                // Not so much that the machine's memory decides.
                let at = if !(4_000_000..=1 << 61).contains(&at) {
                    at
                } else {
                    0
                };
                Op::Fallocate {
                    slot,
                    mode,
                    at,
                    len,
                }
            }
            28..=31 => self.seek(slot, at),
            32..=34 => {
                let to = self.file_slot();
                let to_at = self.offset();
                Op::CopyRange {
                    from: slot,
                    from_at: at,
                    to,
                    to_at,
                    len,
                }
            }
            35 | 36 => Op::Fstat { slot },
            37 => Op::Fsync { slot },
            _ => {
                return Try {
                    op: Op::Close { slot },
                    then: Effect::Closes(slot),
                };
            }
        };
        op.into()
    }

    fn seek(&mut self, slot: usize, at: u64) -> Op {
        let whence = self.rng.pick(&[
            Whence::Set,
            Whence::Cur,
            Whence::End,
            Whence::Data,
            Whence::Hole,
        ]);
        let whence = match whence {
            // Where a lower file has holes is not known.
            Whence::Data | Whence::Hole if !self.seeks_holes => Whence::Set,
            other => other,
        };
        let to = at.cast_signed();
        let to = if self.rng.chance(15) {
            to.wrapping_neg()
        } else {
            to
        };
        Op::Seek { slot, whence, to }
    }

    fn names(&mut self) -> Try {
        match self.rng.below(22) {
            0..=4 => self.mkdir(),
            5 => {
                let mode = self.dir_mode();
                Op::Mkdir {
                    path: self.any(),
                    mode,
                }
                .into()
            }
            6..=9 => self.symlink(),
            10..=12 => {
                let kind = self.rng.pick(&[Some(Kind::File), Some(Kind::File), None]);
                let from = self.world.existing(&mut self.rng, kind);
                let to = self.world.fresh(&mut self.rng);
                let known = self.world.kind(&from).unwrap_or(Kind::File);
                let then = Effect::Adds(to.clone(), known);
                let (from, to) = (spelled(&mut self.rng, &from), spelled(&mut self.rng, &to));
                Try {
                    op: Op::Link { from, to },
                    then,
                }
            }
            13 => {
                let path = self.world.fresh(&mut self.rng);
                let special = self.rng.pick(&[
                    Special::Regular,
                    Special::Fifo,
                    Special::Socket,
                    Special::Char(5, 1),
                    Special::Block(7, 300),
                ]);
                let is_device = matches!(special, Special::Char(..) | Special::Block(..));
                let special = if is_device && !self.users {
                    Special::Fifo
                } else {
                    special
                };
                let is_file = special == Special::Regular;
                let kind = if is_file { Kind::File } else { Kind::Special };
                let mode = self.rng.pick(&FILE_MODES);
                let op = Op::Mknod {
                    path: spelled(&mut self.rng, &path),
                    special,
                    mode,
                };
                Try {
                    op,
                    then: Effect::Adds(path, kind),
                }
            }
            _ => self.rename(),
        }
    }

    fn symlink(&mut self) -> Try {
        let path = self.world.fresh(&mut self.rng);
        let target = match self.rng.below(10) {
            0..=3 => self.world.existing(&mut self.rng, None),
            4 => path.clone(),
            5 => self.world.fresh(&mut self.rng),
            6 => format!("{}/", self.world.existing(&mut self.rng, Some(Kind::Dir))),
            7 => ["", ".", "..", "/", "../..", "a1/../b1"][self.rng.below(6)].to_owned(),
            8 => "t".repeat(self.rng.pick(&[255, 4094, 4095, 4096])),
            // Relative to the link's own directory.
            _ => {
                let to = self.world.existing(&mut self.rng, None);
                let up = path.matches('/').count() - 1;
                format!("{}{}", "../".repeat(up), to.trim_start_matches('/'))
            }
        };
        let op = Op::Symlink {
            target: intern(target),
            path: spelled(&mut self.rng, &path),
        };
        Try {
            op,
            then: Effect::Adds(path, Kind::Link),
        }
    }

    fn rename(&mut self) -> Try {
        let kind = self.rng.pick(&[None, Some(Kind::File), Some(Kind::Dir)]);
        let from = self.world.existing(&mut self.rng, kind);
        let known = self.world.kind(&from);
        let to = match self.rng.below(20) {
            0..=7 => self.world.fresh(&mut self.rng),
            8..=14 => self.world.existing(&mut self.rng, known),
            15 | 16 => self.world.any(&mut self.rng),
            17 => from.clone(),
            // Into itself, or over a parent.
            18 => format!("{from}/c1"),
            _ => from.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned(),
        };
        let flags = match self.rng.below(20) {
            0..=12 => RenameFlags::None,
            13..=15 => RenameFlags::NoReplace,
            16..=18 => RenameFlags::Exchange,
            _ => RenameFlags::Both,
        };
        let then = match flags {
            _ if from == to || known.is_none() => Effect::None,
            RenameFlags::None | RenameFlags::NoReplace => Effect::Renames(from.clone(), to.clone()),
            RenameFlags::Exchange => Effect::Exchanges(from.clone(), to.clone()),
            RenameFlags::Both => Effect::None,
        };
        let (from, to) = (spelled(&mut self.rng, &from), spelled(&mut self.rng, &to));
        Try {
            op: Op::Rename { from, to, flags },
            then,
        }
    }

    fn removal(&mut self) -> Try {
        let kind = self
            .rng
            .pick(&[Some(Kind::File), Some(Kind::File), Some(Kind::Dir), None]);
        let path = match kind {
            Some(Kind::Dir) => self.world.leaf_dir(&mut self.rng),
            _ => self.world.existing(&mut self.rng, kind),
        };
        let is_dir = self.world.kind(&path) == Some(Kind::Dir);
        let rmdir = is_dir != self.rng.chance(4);
        let then = Effect::Removes(path.clone());
        let path = spelled(&mut self.rng, &path);
        let op = if rmdir {
            Op::Rmdir { path }
        } else {
            Op::Unlink { path }
        };
        Try { op, then }
    }

    fn attributes(&mut self) -> Try {
        let path = self.any();
        let follow = self.rng.chance(75);
        let slot = self.world.open_slot(&mut self.rng, None);
        let (uid, gid) = (self.id(), self.id());
        let (atime, mtime) = (self.stamp(), self.stamp());
        let op = match self.rng.below(30) {
            0..=4 => Op::Chmod {
                path,
                mode: self.mode(),
            },
            5 => Op::Fchmod {
                slot,
                mode: self.mode(),
            },
            6..=9 => Op::Chown {
                path,
                uid,
                gid,
                follow,
            },
            // A setattr that sets nothing is no call: one id is given.
            10 => Op::Fchown {
                slot,
                uid: uid.or(Some(1000)),
                gid,
            },
            11..=14 => Op::Utimens {
                path,
                atime,
                mtime,
                follow,
            },
            15 => Op::Futimens { slot, atime, mtime },
            16..=18 => {
                let len = self.offset();
                Op::Truncate {
                    path: self.path(Some(Kind::File)),
                    len,
                }
            }
            19..=22 => {
                let len = self.rng.pick(&[0, 1, 30, 30, 2000]);
                let flags = self.rng.pick(&[0, 0, 0, 0, 0, 1, 1, 2, 3, 8]);
                let seed = self.seed();
                let path = self.marked(path);
                let name = self.xattr();
                let op = Op::SetXattr {
                    path,
                    name,
                    seed,
                    len,
                    flags,
                    follow,
                };
                return Try {
                    op,
                    then: Effect::Marks(path),
                };
            }
            23 | 24 => Op::GetXattr {
                path: self.marked(path),
                name: self.xattr(),
                follow,
            },
            25 => Op::ListXattr {
                path: self.marked(path),
                follow,
            },
            26 | 27 => Op::RemoveXattr {
                path: self.marked(path),
                name: self.xattr(),
                follow,
            },
            _ => Op::Access {
                path,
                mask: self.rng.pick(&[0, 1, 2, 4, 6, 7, 8]),
            },
        };
        op.into()
    }

    fn dir_mode(&mut self) -> u32 {
        let mode = self.rng.pick(&DIR_MODES);
        // Where this machine guards sticky directories that others can write to
        // (`fs.protected_symlinks` and its kin), there shall be none.
        if mode & 0o1000 != 0 && guards_sticky_dirs() {
            mode & !0o022
        } else {
            mode
        }
    }

    /// Mostly the path that got an extended attribute last.
    fn marked(&mut self, other: &'static str) -> &'static str {
        match self.world.marked {
            Some(path) if self.rng.chance(70) => path,
            _ => other,
        }
    }

    fn xattr(&mut self) -> &'static str {
        match self.rng.below(60) {
            0 => intern(format!("user.{}", "x".repeat(250))),
            1 => intern(format!("user.{}", "x".repeat(251))),
            2 => "",
            _ => self.rng.pick(&XATTRS),
        }
    }

    fn mode(&mut self) -> u32 {
        if self.rng.chance(50) {
            self.rng.pick(&FILE_MODES)
        } else {
            self.dir_mode()
        }
    }

    fn id(&mut self) -> Option<u32> {
        if !self.users {
            return self.rng.pick(&[None, Some(0)]);
        }
        self.rng.pick(&[
            None,
            None,
            Some(0),
            Some(1000),
            Some(1000),
            Some(1001),
            Some(3000),
        ])
    }

    fn stamp(&mut self) -> Stamp {
        match self.rng.below(6) {
            0 => Stamp::Omit,
            1 => Stamp::Now,
            2 => Stamp::At(-5, 7),
            _ => Stamp::At(
                i64::try_from(self.rng.range(0, 1_400_000_000)).unwrap(),
                u32::try_from(self.rng.range(0, 1_000_000_000)).unwrap(),
            ),
        }
    }

    fn look(&mut self) -> Try {
        let op = match self.rng.below(20) {
            0..=8 => {
                let follow = self.rng.chance(60);
                Op::Stat {
                    path: self.any(),
                    follow,
                }
            }
            9..=12 => Op::Readdir {
                path: self.path(Some(Kind::Dir)),
            },
            13 => Op::Readdir { path: self.any() },
            14..=16 => Op::Readlink {
                path: self.path(Some(Kind::Link)),
            },
            17 => Op::Readlink { path: self.any() },
            _ => Op::Statfs { path: self.any() },
        };
        op.into()
    }
}
