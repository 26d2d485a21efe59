//! Runs sequences on both sides and compares.

use std::fmt::Write as _;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use agentfs_core::{BackstoreMode, FsCore};
use agentfs_testkit::fs_oracle::generate::{Case, Plan};
use agentfs_testkit::fs_oracle::kernel::Kernel;
use agentfs_testkit::fs_oracle::op::{Answer, Step, Who};
use agentfs_testkit::fs_oracle::sandbox::{Sandbox, run_again_as_root_of_a_namespace};
use agentfs_testkit::fs_oracle::seeds;
use agentfs_testkit::fs_oracle::shrink::shrink_steps;
use agentfs_testkit::fs_oracle::walk::{Seen, everything, tree};

use crate::fscore::{Core, filesystem_in};

/// Describes where the two sides differ.
type Difference = String;

/// Where the filesystem under test keeps what it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    Memory,
    /// In a store beside the private tmpfs's other directories.
    Store,
}

impl Mode {
    fn backstore(self) -> BackstoreMode {
        match self {
            Self::Memory => BackstoreMode::Memory,
            Self::Store => BackstoreMode::Disk("/store".into()),
        }
    }
}

/// Runs the cases of the seeds that the environment asks for, on all processors. `test` is the
/// calling test's name.
pub(crate) fn check_many(test: &str, default: u64, mode: Mode, plan: fn(u64) -> Plan) {
    if !is_root() {
        return run_again_as_root_of_a_namespace(test);
    }
    each_seed_with(default, || {
        let sandbox = Sandbox::enter().expect("a private tmpfs (needs root)");
        move |seed| {
            let case = plan(seed).carry_out(&mut sandbox.fresh("run").unwrap());
            sandbox.clear().unwrap();
            compare(&sandbox, mode, &case).map_err(|_| report(&sandbox, mode, case))
        }
    });
}

/// Runs a property for the seeds that the environment asks for, on all processors.
pub(crate) fn each_seed(default: u64, property: impl Fn(u64) -> Result<(), Difference> + Sync) {
    each_seed_with(default, || |seed| caught(|| property(seed)));
}

/// Runs a property as `each_seed` does, with a value that each thread creates for itself.
fn each_seed_with<W>(default: u64, worker: impl Fn() -> W + Sync)
where
    W: FnMut(u64) -> Result<(), Difference>,
{
    let seeds = seeds(default);
    let next = AtomicU64::new(seeds.start);
    let failure: Mutex<Option<(u64, Difference)>> = Mutex::new(None);
    let work = || {
        let mut run = worker();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failure.lock().unwrap().is_some() {
                break;
            }
            if let Err(difference) = run(seed) {
                failure.lock().unwrap().get_or_insert((seed, difference));
            }
        }
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(work);
        }
    });
    if let Some((seed, difference)) = failure.into_inner().unwrap() {
        panic!("run it again with AGENTFS_ORACLE_SEED={seed}\n{difference}");
    }
}

/// Reports a panic as a difference, too.
fn caught(run: impl FnOnce() -> Result<(), Difference>) -> Result<(), Difference> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs one fixed case in both modes. Those that need several users run only as root.
#[track_caller]
pub(crate) fn check(case: &Case) {
    if !is_root() {
        return;
    }
    let result = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let sandbox = Sandbox::enter().expect("a private tmpfs (needs root)");
            compare(&sandbox, Mode::Memory, case)?;
            compare(&sandbox, Mode::Store, case)
        });
        worker.join().unwrap()
    });
    if let Err(difference) = result {
        panic!("{difference}");
    }
}

/// Returns the smallest case that still differs, as Rust, and how it differs.
fn report(sandbox: &Sandbox, mode: Mode, case: Case) -> String {
    let Case { lower, steps } = case;
    let with = |lower: Option<&[Step]>, steps: &[Step]| Case {
        lower: lower.map(<[Step]>::to_vec),
        steps: steps.to_vec(),
    };
    let fails = |case: &Case| compare(sandbox, mode, case).is_err();
    let steps = shrink_steps(steps, |steps| fails(&with(lower.as_deref(), steps)));
    let lower = lower.map(|lower| shrink_steps(lower, |lower| fails(&with(Some(lower), &steps))));
    let small = Case { lower, steps };
    let difference = compare(sandbox, mode, &small).expect_err("shrinking keeps the failure");
    let mut text = String::new();
    for Step { by, op } in small.lower.iter().flatten() {
        writeln!(text, "below: {by:?}.does(Op::{op:?}),").unwrap();
    }
    for Step { by, op } in &small.steps {
        writeln!(text, "       {by:?}.does(Op::{op:?}),").unwrap();
    }
    format!("{text}{difference}")
}

fn compare(sandbox: &Sandbox, mode: Mode, case: &Case) -> Result<(), Difference> {
    let result = caught(|| {
        if let Some(lower) = &case.lower {
            build(&mut sandbox.fresh("lower").unwrap(), lower);
        }
        sandbox.leave().unwrap();
        let open = || filesystem_in(mode.backstore(), case.lower.is_some().then_some("/lower"));
        let fs = open();
        let branch = fs.branch(FsCore::MAIN).unwrap();
        let mut core = Core::new(branch, sandbox.fine_ctime);
        let mut kernel = sandbox.fresh("run").unwrap();
        if let Some(lower) = &case.lower {
            build(&mut kernel, lower);
        }
        let lens = Lens {
            over_lower: case.lower.is_some(),
        };
        compare_all(&mut kernel, &mut core, &case.steps, lens)?;
        match mode {
            Mode::Memory => Ok(()),
            Mode::Store => {
                core.restart();
                // The private root shows no boot_id, so only what was synced counts.
                fs.sync().unwrap();
                drop((core, fs));
                kernel.restart();
                let expected = tree(|step| lens.see(kernel.run(step)));
                sandbox.leave().unwrap();
                let branch = open().branch(FsCore::MAIN).unwrap();
                let mut again = Core::new(branch, sandbox.fine_ctime);
                let got = tree(|step| lens.see(again.run(step)));
                same_tree(&expected, &got, "opened again")
            }
        }
    });
    sandbox.clear().unwrap();
    result
}

/// Runs `steps` and closes everything again.
fn build(kernel: &mut Kernel, steps: &[Step]) {
    for step in steps {
        let _answer = kernel.run(*step);
    }
    kernel.restart();
}

/// The operations that cannot give the same result over a lower directory.
#[derive(Clone, Copy, Debug)]
struct Lens {
    over_lower: bool,
}

impl Lens {
    fn see(self, answer: Answer) -> Answer {
        match answer {
            Answer::Attr(mut attr) if self.over_lower => {
                // A merged directory is not counted through to report its size.
                if attr.mode & libc::S_IFMT == libc::S_IFDIR {
                    attr.size = 0;
                }
                // A lower file is not asked where its holes are, either.
                attr.blocks = 0;
                Answer::Attr(attr)
            }
            other => other,
        }
    }
}

fn compare_all(
    kernel: &mut Kernel,
    core: &mut Core,
    steps: &[Step],
    lens: Lens,
) -> Result<(), Difference> {
    for (at, step) in steps.iter().enumerate() {
        let expected = lens.see(kernel.run(*step));
        kernel.become_caller(Who::Root).unwrap();
        if expected == Answer::Skipped {
            continue;
        }
        let got = lens.see(core.run(*step));
        differs(&expected, &got, || format!("step {at}, {step:?}"))?;
    }
    let expected = everything(|step| lens.see(kernel.run(step)));
    let got = everything(|step| lens.see(core.run(step)));
    same_tree(&expected, &got, "afterwards")
}

fn same_tree(expected: &[Seen], got: &[Seen], when: &str) -> Result<(), Difference> {
    for (expected, got) in expected.iter().zip(got) {
        differs(&expected, &got, || format!("{when}, {}", expected.path))?;
    }
    if expected.len() == got.len() {
        Ok(())
    } else {
        Err(format!(
            "{when}, {} things are seen, not {}",
            got.len(),
            expected.len()
        ))
    }
}

fn differs<T: PartialEq + std::fmt::Debug>(
    expected: &T,
    got: &T,
    place: impl FnOnce() -> String,
) -> Result<(), Difference> {
    if expected == got {
        return Ok(());
    }
    let short = |value: &T| {
        let text = format!("{value:?}");
        let end = text
            .char_indices()
            .nth(1500)
            .map_or(text.len(), |(at, _)| at);
        text[..end].to_owned()
    };
    Err(format!(
        "{}\n  kernel: {}\n  fscore: {}",
        place(),
        short(expected),
        short(got)
    ))
}
