//! The kernel as oracle: random sequences of operations run on FsCore and, as real system calls, on
//! a private tmpfs. Every answer and the whole tree at the end must be the same.
//!
//! `AGENTFS_ORACLE_SEQUENCES` sets how many sequences run (10,000), `AGENTFS_ORACLE_BASE` from which
//! number on the seeds count, and `AGENTFS_ORACLE_SEED` runs one sequence alone: the one that a
//! failure names.
//!
//! Each property is checked in both modes: in memory, and in a store on disk. In a store the
//! filesystem is opened again after each sequence, and must show the same tree.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each function answers some operations"
)]

mod branches;
mod difference;
mod fscore;
mod regressions;
mod replica;
mod run;
mod stress;

use agentfs_testkit::fs_oracle::generate;

use crate::run::Mode;

#[test]
fn random_sequences_give_what_the_kernel_gives() {
    let test = "random_sequences_give_what_the_kernel_gives";
    run::check_many(test, 9_000, Mode::Memory, generate::empty);
}

#[test]
fn random_sequences_in_a_store_give_what_the_kernel_gives() {
    let test = "random_sequences_in_a_store_give_what_the_kernel_gives";
    run::check_many(test, 1_000, Mode::Store, generate::empty);
}

#[test]
fn random_sequences_over_a_lower_directory_give_what_a_plain_copy_gives() {
    let test = "random_sequences_over_a_lower_directory_give_what_a_plain_copy_gives";
    run::check_many(test, 1_100, Mode::Memory, generate::overlay);
}

#[test]
fn random_sequences_in_a_store_over_a_lower_directory_give_what_a_plain_copy_gives() {
    let test = "random_sequences_in_a_store_over_a_lower_directory_give_what_a_plain_copy_gives";
    run::check_many(test, 400, Mode::Store, generate::overlay);
}
