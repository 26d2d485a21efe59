//! Processor time and context switches of a process.

use nix::sys::resource::{Usage as Sample, UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

/// Processor time and context switches.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Microseconds in user and kernel mode.
    pub(crate) cpu_us: i64,
    /// Context switches because the process slept.
    pub(crate) slept: i64,
    /// Context switches because another process was to run.
    pub(crate) preempted: i64,
}

impl Usage {
    /// Returns what this process has used so far.
    pub(crate) fn of_process() -> Self {
        getrusage(UsageWho::RUSAGE_SELF).map_or_else(|_| Self::default(), |it| Self::from(&it))
    }

    /// Returns what was used since an earlier sample.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_us: self.cpu_us - before.cpu_us,
            slept: self.slept - before.slept,
            preempted: self.preempted - before.preempted,
        }
    }
}

impl From<&Sample> for Usage {
    fn from(sample: &Sample) -> Self {
        let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
        Self {
            cpu_us: micros(sample.user_time()) + micros(sample.system_time()),
            slept: sample.voluntary_context_switches(),
            preempted: sample.involuntary_context_switches(),
        }
    }
}
