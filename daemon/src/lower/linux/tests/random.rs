//! Random changes, looked at in random steps.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::Caller;
use agentfs_testkit::environment::number;
use agentfs_testkit::random::Random;
use agentfs_testkit::shrink::shrink;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::World;

#[derive(Clone, Debug)]
enum Op {
    File(String),
    Dir(String),
    Link(String, String),
    Rename(String, String),
    Exchange(String, String),
    Unlink(String),
    RemoveDir(String),
    RemoveAll(String),
    Out(String, u8),
    In(u8, String),
    /// A tree is made elsewhere and takes the place of another one.
    Switch(String),
    /// A program looks through the branch.
    Look(String),
    Steps(usize),
    CatchUp,
}

fn path(random: &mut Random) -> String {
    let depth = 1 + random.below(3);
    let names: Vec<&str> = (0..depth).map(|_| random.pick(&["a", "b", "c"])).collect();
    names.join("/")
}

fn ops(random: &mut Random, count: usize) -> Vec<Op> {
    let each = |random: &mut Random| match random.below(26) {
        0..3 => Op::File(path(random)),
        3..7 => Op::Dir(path(random)),
        7 => Op::Link(path(random), path(random)),
        8..14 => Op::Rename(path(random), path(random)),
        14..16 => Op::Exchange(path(random), path(random)),
        16 => Op::Unlink(path(random)),
        17 => Op::RemoveDir(path(random)),
        18 => Op::RemoveAll(path(random)),
        19 => Op::Out(path(random), 0),
        20 => Op::In(0, path(random)),
        21 => Op::Switch(path(random)),
        22 => Op::Look(path(random)),
        23 | 24 => Op::Steps(1 + random.below(8)),
        _ => Op::CatchUp,
    };
    (0..count).map(|_| each(random)).collect()
}

/// Changes the host; what cannot be done is left out.
fn change(root: &Path, outside: &Path, op: &Op) {
    let at = |path: &str| root.join(path);
    let out = |slot: &u8| outside.join(slot.to_string());
    match op {
        Op::File(path) => drop(fs::write(at(path), path)),
        Op::Dir(path) => drop(fs::create_dir_all(at(path))),
        Op::Link(from, to) => drop(fs::hard_link(at(from), at(to))),
        Op::Rename(from, to) => drop(fs::rename(at(from), at(to))),
        Op::Exchange(one, other) => {
            let flags = RenameFlags::EXCHANGE;
            let _ = renameat_with(CWD, at(one), CWD, at(other), flags);
        }
        Op::Unlink(path) => drop(fs::remove_file(at(path))),
        Op::RemoveDir(path) => drop(fs::remove_dir(at(path))),
        Op::RemoveAll(path) => drop(fs::remove_dir_all(at(path))),
        Op::Out(path, slot) => drop(fs::rename(at(path), out(slot))),
        Op::In(slot, path) => drop(fs::rename(out(slot), at(path))),
        Op::Switch(path) => {
            let (new, old) = (at(&format!("{path}.new")), at(&format!("{path}.old")));
            drop(fs::create_dir_all(new.join("a")));
            drop(fs::write(new.join("f"), "new"));
            drop(fs::rename(at(path), &old));
            drop(fs::rename(new, at(path)));
            drop(fs::remove_dir_all(old));
        }
        Op::Look(_) | Op::Steps(_) | Op::CatchUp => {}
    }
}

fn run(ops: &[Op]) -> Result<(), String> {
    let mut world = World::new(|root| {
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("b/a")).unwrap();
        fs::write(root.join("a/b/a"), "").unwrap();
        fs::write(root.join("c"), "").unwrap();
    });
    for op in ops {
        change(world.lower.path(), world.outside.path(), op);
        if let Op::Look(path) = op {
            let (path, root) = (format!("/{path}"), Caller::root());
            let _ = world.main.stat(&root, &path);
            drop(world.main.list(&root, &path));
        } else if let Op::Steps(count) = op {
            for _ in 0..*count {
                world.task.step();
            }
        } else if matches!(op, Op::CatchUp)
            && let Some(difference) = world.difference()
        {
            return Err(format!("{difference}: {:#?}", world.heard()));
        }
    }
    match world.difference() {
        Some(difference) => Err(format!("{difference}: {:#?}", world.heard())),
        None => Ok(()),
    }
}

#[test]
fn a_replay_is_exact_however_late_the_events_are_looked_at() {
    let first = number("SEED").unwrap_or(1);
    for seed in first..first + 300 {
        let mut random = Random::new(seed);
        let count = 5 + random.below(70);
        let ops = ops(&mut random, count);
        if run(&ops).is_err() {
            let few = shrink(ops, |ops| run(ops).is_err());
            panic!("seed {seed}: {few:?}: {}", run(&few).unwrap_err());
        }
    }
}

/// The host changes while the events are looked at, also in the middle of a step.
#[test]
fn a_replay_is_exact_while_the_host_goes_on() {
    let seed = number("SEED").unwrap_or(1);
    for seed in seed..seed + 20 {
        let mut world = World::new(|root| fs::create_dir_all(root.join("a/b/c")).unwrap());
        let mut random = Random::new(seed);
        let ops = ops(&mut random, 1_000);
        let (lower, outside) = (
            world.lower.path().to_owned(),
            world.outside.path().to_owned(),
        );
        let is_done = Arc::<AtomicBool>::default();
        let done = Arc::clone(&is_done);
        let host = std::thread::spawn(move || {
            for op in &ops {
                change(&lower, &outside, op);
            }
            done.store(true, Ordering::Release);
        });
        while !is_done.load(Ordering::Acquire) {
            world.task.step();
        }
        host.join().unwrap();
        let difference = world.difference();
        assert_eq!(difference, None, "seed {seed}: {:#?}", world.heard());
    }
}
