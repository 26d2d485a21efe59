//! Delivers the changes of a filesystem to the queues of the programs that watch it, for the daemon.
//!
//! actor -> FsCore operation -> Event -> **Router** -> **Synthesizer** -> **Ring** -> **Doorbell** -> Hook
//!
//! [`service::WatchService`] is the sink that FsCore calls with every change. It looks up who watches
//! what the change touches, asks the tables of [`synth`] what each of them hears, writes the records
//! into the rings of their queues, and rings the doorbells of those that sleep.

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
pub use heal::closing;
pub use queue::{Queue, QueueId, QueueReport, WatchId, WatchReport, WatchTarget};
pub use watch::Api;
