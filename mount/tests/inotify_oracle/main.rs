//! The kernel on both sides: what a program hears on a mount is what it hears on a tmpfs.
//!
//! The operations, their generator and the tmpfs are those of the engine's oracle, whose variables
//! `AGENTFS_ORACLE_SEQUENCES` and `AGENTFS_ORACLE_SEED` count here too.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking; operations are handed on from function to function"
)]

mod mounted;
