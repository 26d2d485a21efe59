//! Benchmarks of every stage of the flow.
//!
//! **actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook**
//!
//! Every folder or file in `src/bin` is a benchmark that compares with its peers in one run, started
//! with `cargo xtask bench NAME`; `benches/` holds the criterion benchmarks of single functions.
//!
//! This library is what they share: rounds in turns, medians with their spread, one table.
//! A number is only ever compared with another one taken in the same run, in turns, because the
//! machine's speed drifts; see [`placement`] for what disturbs two virtual cores most.

pub mod goal;
#[cfg(target_os = "linux")]
pub mod kqueue;
pub mod placement;
pub mod spread;
pub mod table;
pub mod two;

pub use spread::Spread;
