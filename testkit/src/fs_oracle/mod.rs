//! The kernel as oracle of a filesystem: operations as real system calls on a private tmpfs.
//!
//! A sequence is a list of [`op::Step`]s. [`generate`] makes one, with [`world`] as what it believes
//! to exist; [`kernel`] carries it out in a [`sandbox`]; [`walk`] asks for everything that can be
//! seen afterwards; [`shrink`] makes a failing sequence small.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "operations are handed on from function to function, each of which carries out some"
)]

pub mod generate;
pub mod kernel;
pub mod op;
pub mod sandbox;
pub mod shrink;
pub mod walk;
pub mod world;

use std::ops::Range;

use crate::environment::number;

/// Returns the seeds that the environment asks for, or the first `default` ones.
///
/// `AGENTFS_ORACLE_SEQUENCES` sets how many there are, `AGENTFS_ORACLE_BASE` the first one, and
/// `AGENTFS_ORACLE_SEED` the only one.
pub fn seeds(default: u64) -> Range<u64> {
    let base = number("AGENTFS_ORACLE_BASE").unwrap_or(0);
    let count = number("AGENTFS_ORACLE_SEQUENCES").unwrap_or(default);
    match number("AGENTFS_ORACLE_SEED") {
        Some(seed) => seed..seed + 1,
        None => base..base + count,
    }
}
