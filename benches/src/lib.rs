//! Benchmarks of every stage of the flow, and of all of it between processes.
//!
//! **actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook**
//!
//! Every command of the program `agentfs-bench` compares with peers in one run; `benches/` holds the
//! criterion benchmarks of single functions, which share [`engine`] with it.
//! A number is only ever compared with another one of the same run, taken in turns, because the
//! machine's speed drifts; `placement` knows what disturbs two virtual cores most.
#![cfg(target_os = "linux")]

pub mod counting_allocator;
pub mod engine;

mod backend;
mod burst;
mod child;
mod cli;
mod fscore;
mod goal;
mod hook;
mod kqueue;
mod latency;
mod mount;
mod placement;
mod process_pair;
mod report;
mod ring;
mod route;
mod scale;
mod soak;
mod statistics;
mod usage;
mod watcher;

pub use cli::run;

/// Why a benchmark failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

// The soak moves to the test kit: until then these are the names by which it knows its neighbours.
extern crate self as agentfs_benches;
use statistics::Spread;
mod model {
    pub(crate) use crate::Failure;
    pub(crate) use crate::report::{Grid, Part};
    pub(crate) use crate::statistics::float;
}
mod program {
    pub(crate) use crate::child::{Process, library};
}
mod stage {
    pub(crate) use crate::backend::private_directory;
}
