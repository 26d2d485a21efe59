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
mod stage;
mod statistics;
mod usage;
mod watcher;

pub use cli::run;

/// Why a benchmark failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
