//! The kernel is the oracle: the same operations run on a tmpfs directory with real inotify
//! instances, and on FsCore with the same watches through the router, the synthesizer and a ring.
//! Both readers must get the same records, in the same order, merged alike. FsCore does so in both
//! modes: in memory, and in a store on disk.
//!
//! `AGENTFS_ORACLE_SEQUENCES` and `AGENTFS_ORACLE_SEED` choose how many sequences run and from which
//! seed; a failure prints the seed of its sequence and the smallest sequence that still fails.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking; operations are handed on from function to function"
)]

mod core;
mod run;
