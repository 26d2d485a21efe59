//! Random changes, looked at in random steps.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::Caller;
use agentfs_testkit::churn::{self, Op};
use agentfs_testkit::environment::number;
use agentfs_testkit::random::Random;
use agentfs_testkit::shrink::shrink;

use super::World;

#[derive(Clone, Debug)]
enum Step {
    Change(Op),
    /// A program looks through the branch.
    Look(String),
    /// The watcher takes so many steps.
    Steps(usize),
    CatchUp,
}

fn steps(random: &mut Random, count: usize) -> Vec<Step> {
    let each = |random: &mut Random| match random.below(25) {
        0 => Step::Look(churn::path(random)),
        1 | 2 => Step::Steps(1 + random.below(8)),
        3 => Step::CatchUp,
        _ => Step::Change(Op::any(random)),
    };
    (0..count).map(|_| each(random)).collect()
}

fn run(steps: &[Step]) -> Result<(), String> {
    let mut world = World::new(|root| {
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("b/a")).unwrap();
        fs::write(root.join("a/b/a"), "").unwrap();
        fs::write(root.join("c"), "").unwrap();
    });
    for step in steps {
        match step {
            Step::Change(op) => op.make(world.lower.path(), world.outside.path()),
            Step::Look(path) => {
                let (path, root) = (format!("/{path}"), Caller::root());
                let _ = world.main.stat(&root, &path);
                drop(world.main.list(&root, &path));
            }
            Step::Steps(count) => {
                for _ in 0..*count {
                    world.task.step();
                }
            }
            Step::CatchUp => world.check()?,
        }
    }
    world.check()
}

#[test]
fn a_replay_is_exact_however_late_the_events_are_looked_at() {
    let first = number("SEED").unwrap_or(1);
    for seed in first..first + 300 {
        let mut random = Random::new(seed);
        let count = 5 + random.below(70);
        let steps = steps(&mut random, count);
        if run(&steps).is_err() {
            let few = shrink(steps, |steps| run(steps).is_err());
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
        let ops: Vec<Op> = (0..1_000).map(|_| Op::any(&mut random)).collect();
        let (lower, outside) = (
            world.lower.path().to_owned(),
            world.outside.path().to_owned(),
        );
        let is_done = Arc::<AtomicBool>::default();
        let done = Arc::clone(&is_done);
        let host = std::thread::spawn(move || {
            for op in &ops {
                op.make(&lower, &outside);
            }
            done.store(true, Ordering::Release);
        });
        while !is_done.load(Ordering::Acquire) {
            world.task.step();
        }
        host.join().unwrap();
        assert_eq!(world.check(), Ok(()), "seed {seed}");
    }
}
