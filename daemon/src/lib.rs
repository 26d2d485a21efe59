//! actor -> FsCore operation -> Event -> **Router** -> **Synthesizer** -> Ring -> Doorbell -> Hook
//!
//! The watch service, the control server and the `agentfs` program.
//!
//! [`service`] is the watch service: what it hears of FsCore goes past the indexes of the watches,
//! through the tables of [`synth`], into the rings of the queues. [`server`] joins them: it takes
//! connections, carries out what they ask, and gives back what they had. [`cli`] is the program.

mod branch_counts;
mod channel;
pub mod cli;
mod counters;
mod doorbell;
mod export;
mod heal;
pub mod heap;
#[cfg(target_os = "linux")]
mod listeners;
mod queue;
mod route;
pub mod server;
pub mod service;
mod shim;
mod spill;
pub mod synth;
mod tell;
mod watch;

pub use counters::Counts;
pub use queue::{Queue, QueueId, QueueReport, WatchId};
pub use watch::Api;
