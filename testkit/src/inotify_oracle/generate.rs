//! Random sequences. Names are few, so that most operations meet something.

use libc::{
    IN_ALL_EVENTS, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_EXCL_UNLINK, IN_MASK_ADD, IN_MODIFY,
    IN_MOVE_SELF, IN_MOVED_FROM, IN_MOVED_TO, IN_ONESHOT,
};

use super::op::{How, INSTANCES, Op, Path, SLOTS};
use crate::random::Random;

/// Directories that a sequence starts with.
pub const DIRECTORIES: [Path; 3] = ["d", "e", "d/s"];

/// Files that a sequence starts with.
pub const FILES: [Path; 3] = ["a", "d/a", "d/s/a"];

const PATHS: [Path; 14] = [
    "a", "b", "d", "e", "s", "d/a", "d/b", "d/s", "e/a", "e/b", "e/s", "d/s/a", "d/s/b", "e/s/a",
];

fn path(rng: &mut Random) -> Path {
    rng.pick(&PATHS)
}

fn mask(rng: &mut Random) -> u32 {
    let events = match rng.below(6) {
        0..=2 => IN_ALL_EVENTS,
        3 => IN_MODIFY,
        4 => rng.pick(&[
            IN_CREATE | IN_DELETE,
            IN_MOVED_FROM,
            IN_MOVED_FROM | IN_MOVED_TO,
            IN_DELETE_SELF | IN_MOVE_SELF,
        ]),
        _ => (u32::try_from(rng.below(0xFFF)).unwrap() & IN_ALL_EVENTS) | 1 << rng.below(12),
    };
    let flags = match rng.below(10) {
        0 => IN_ONESHOT,
        1 => IN_EXCL_UNLINK,
        2 => IN_MASK_ADD,
        _ => 0,
    };
    events | flags
}

fn watching(rng: &mut Random) -> Op {
    let instance = rng.below(INSTANCES);
    let path = match rng.below(10) {
        0..=1 => "",
        2..=5 => rng.pick(&DIRECTORIES),
        _ => path(rng),
    };
    match rng.below(12) {
        0..=1 => Op::Unwatch { instance, path },
        2 => Op::Drain {
            instance,
            room: rng.pick(&[32, 32, 100, 65_536]),
        },
        _ => Op::Watch {
            instance,
            path,
            mask: mask(rng),
        },
    }
}

fn handle(rng: &mut Random) -> Op {
    let slot = rng.below(SLOTS);
    match rng.below(10) {
        0..=1 => Op::Close { slot },
        2 => Op::Read { slot },
        3 => Op::Ftruncate {
            slot,
            len: rng.pick(&[0, 3, 10]),
        },
        4 => Op::Fchmod { slot },
        5..=6 => Op::Write {
            slot,
            append: rng.chance(50),
            len: rng.pick(&[0, 1, 5]),
        },
        _ => Op::Open {
            slot,
            path: if rng.chance(50) {
                rng.pick(&FILES)
            } else {
                path(rng)
            },
            how: rng.pick(&[
                How::Read,
                How::Write,
                How::Create,
                How::CreateTruncate,
                How::Truncate,
                How::Directory,
            ]),
        },
    }
}

fn tree(rng: &mut Random) -> Op {
    let path = path(rng);
    let to = self::path(rng);
    match rng.below(16) {
        0 => Op::Mkdir { path },
        1 => Op::Rmdir { path },
        2..=3 => Op::Unlink { path },
        4 => Op::Symlink { path },
        5 => Op::Mkfifo { path },
        6 => Op::Link { from: path, to },
        7..=9 => Op::Rename { from: path, to },
        10 => Op::Exchange { from: path, to },
        11 => Op::Chmod { path },
        12 => {
            let (atime, mtime) = rng.pick(&[(true, true), (true, false), (false, true)]);
            Op::Utimens { path, atime, mtime }
        }
        13 => Op::SetXattr { path },
        14 => Op::RemoveXattr { path },
        _ => Op::Truncate {
            path,
            len: rng.pick(&[0, 3, 10]),
        },
    }
}

/// Returns a sequence: a few watches, then everything mixed.
pub fn sequence(seed: u64) -> Vec<Op> {
    let mut rng = Random::new(seed);
    let watches = 3 + rng.below(12);
    let rest = 20 + rng.below(180);
    let mut ops: Vec<Op> = (0..watches).map(|_| watching(&mut rng)).collect();
    for _ in 0..rest {
        ops.push(match rng.below(20) {
            0 => watching(&mut rng),
            1..=11 => handle(&mut rng),
            _ => tree(&mut rng),
        });
    }
    ops
}
