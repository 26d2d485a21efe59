//! Where the host has put our two virtual cores.
//!
//! A virtual machine's cores move between the threads of one core, the cores of one complex, and
//! different complexes. That changes the cost of a cache line by a factor of ten, and with it the cost
//! of the ring. So a run counts only if a probe before and one after it find the cores where most probes
//! find them, and if little else ran meanwhile.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Binds this thread to one core. Where that is not allowed it stays free, which is noisier.
pub(crate) fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// How far apart two cores are, by the round trip of a cache line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Distance {
    /// Two threads of one core: under 70 ns.
    Siblings,
    /// Two cores that share a cache: under 250 ns.
    OneComplex,
    /// Two cores that share no cache.
    Apart,
}

impl Distance {
    fn of(nanos: f64) -> Self {
        match nanos {
            n if n < 70.0 => Self::Siblings,
            n if n < 250.0 => Self::OneComplex,
            _ => Self::Apart,
        }
    }
}

/// Passes a cache line to and fro between the two cores for a millisecond.
#[must_use]
pub(crate) fn probe() -> Distance {
    const LINE: Duration = Duration::from_millis(1);
    let line = AtomicU64::new(0);
    let nanos = std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(0);
            let mut turn = 1;
            loop {
                let seen = line.load(Ordering::Acquire);
                if seen == u64::MAX {
                    return;
                }
                if seen == turn {
                    line.store(turn + 1, Ordering::Release);
                    turn += 2;
                }
            }
        });
        let asked = scope.spawn(|| {
            pin(1);
            let start = Instant::now();
            let mut turn = 0_u64;
            while start.elapsed() < LINE {
                for _ in 0..64 {
                    line.store(turn + 1, Ordering::Release);
                    while line.load(Ordering::Acquire) != turn + 2 {
                        spin_loop();
                    }
                    turn += 2;
                }
            }
            let nanos = start.elapsed().as_secs_f64() * 1e9;
            line.store(u64::MAX, Ordering::Release);
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            let round_trips = (turn / 2) as f64;
            nanos / round_trips
        });
        asked.join().unwrap_or(f64::MAX)
    });
    Distance::of(nanos)
}

/// Decides which runs count.
#[derive(Debug)]
pub(crate) struct Judge {
    usual: Distance,
    strict: bool,
    /// Runs that counted.
    pub(crate) kept: usize,
    /// Runs that did not.
    pub(crate) dropped: usize,
    /// Runs that counted because nothing better came.
    pub(crate) disturbed: usize,
}

impl Judge {
    /// Finds out where the cores usually are. Without `strict` every run counts.
    #[must_use]
    pub(crate) fn new(strict: bool) -> Self {
        let mut probes: Vec<Distance> =
            (0..if strict { 101 } else { 1 }).map(|_| probe()).collect();
        probes.sort_unstable();
        Self {
            usual: probes[probes.len() / 2],
            strict,
            kept: 0,
            dropped: 0,
            disturbed: 0,
        }
    }

    /// Returns where most probes found the cores.
    #[must_use]
    pub(crate) fn usual(&self) -> Distance {
        self.usual
    }

    /// Runs until a run counts, at most four times; then it counts as disturbed.
    pub(crate) fn fair<T>(&mut self, mut run: impl FnMut() -> T) -> T {
        for _ in 0..4 {
            let before = probe();
            let (stolen, start) = (foreign(), Instant::now());
            let result = run();
            let foreign = foreign().saturating_sub(stolen);
            // The clock of /proc/stat ticks every ten milliseconds on each core.
            let little = start.elapsed() / 10 + Duration::from_millis(20);
            if !self.strict || (before == self.usual && probe() == self.usual && foreign < little) {
                self.kept += 1;
                return result;
            }
            self.dropped += 1;
        }
        self.kept += 1;
        self.disturbed += 1;
        run()
    }
}

/// Returns the time that the cores spent on anything but this process and its ended children: on other
/// programs, and on the host. `/proc/stat` counts in hundredths of a second.
fn foreign() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: u64 = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .enumerate()
        // All but idle and waiting for I/O; guest time is counted in user time already.
        .filter(|(column, _)| ![3, 4, 8, 9].contains(column))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum();
    let ours = |processes| {
        getrusage(processes).map_or(0, |usage| {
            let (user, system) = (usage.user_time(), usage.system_time());
            (user.tv_sec() + system.tv_sec()) * 1000 + (user.tv_usec() + system.tv_usec()) / 1000
        })
    };
    let ours = ours(UsageWho::RUSAGE_SELF) + ours(UsageWho::RUSAGE_CHILDREN);
    Duration::from_millis((ticks * 10).saturating_sub(u64::try_from(ours).unwrap_or(0)))
}
