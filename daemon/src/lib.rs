//! actor -> FsCore operation -> Event -> **Router** -> **Synthesizer** -> Ring -> Doorbell -> Hook
//!
//! The watch service, the control server and the `agentfs` program.

mod channel;
mod counters;
mod doorbell;
mod heal;
mod queue;
mod route;
pub mod service;
mod spill;
pub mod synth;
mod tell;
mod watch;

pub use counters::Counts;
pub use queue::{Queue, QueueId, QueueReport, WatchId};
pub use watch::Api;
