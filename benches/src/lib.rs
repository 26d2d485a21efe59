//! Benchmarks of every stage of the flow.
//!
//! **actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook**
//!
//! Every folder or file in `src/bin` is a benchmark that compares with its peers in one run, started
//! with `cargo xtask bench NAME`; `benches/` holds the criterion benchmarks of single functions.
