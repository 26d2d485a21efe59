//! Models of the ring and its doorbell.
//!
//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> **Ring** -> **Doorbell** -> Hook
//!
//! Every model is two small programs, one for each end, in [`bodies`]. The same bodies run
//!
//! - under loom (`cargo xtask loom`): a few records, every interleaving with as many
//!   preemptions as the model says, every value that the
//!   memory model allows a load to return; a lost wake-up is a deadlock that loom reports;
//! - natively (`cargo test`): thousands of records between two or three real processes over real
//!   shared memory and real doorbells; a lost wake-up runs into a deadline.
//!
//! The bell of an inotify queue has models of its own (`tests/bell.rs`), because what it wakes is more
//! than one reader, and some of them read past the library; [`descriptor`] is what they read.
//!
//! [`Side`] is what differs: how an end rings, sleeps, and looks at the world outside the ring.

pub mod bodies;
pub mod descriptor;
mod side;

pub use bodies::{MODELS, Model};
#[cfg(not(loom))]
pub use side::{FD_COUNT, World};
pub use side::{Side, Tally, Woken};
#[cfg(loom)]
pub use side::{World, run_model};
