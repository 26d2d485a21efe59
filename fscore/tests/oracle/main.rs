//! The kernel as oracle: random sequences of operations run on FsCore and, as real system calls, on
//! a private tmpfs. Every answer and the whole tree at the end must be the same.
//!
//! `AGENTFS_ORACLE_SEQUENCES` sets how many sequences run (10,000), `AGENTFS_ORACLE_BASE` from which
//! number on the seeds count, and `AGENTFS_ORACLE_SEED` runs one sequence alone: the one that a
//! failure names.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each function answers some operations"
)]

mod branches;
mod difference;
mod fscore;
#[path = "../../../testkit/src/fs_oracle/generate/mod.rs"]
mod generate;
#[path = "../../../testkit/src/fs_oracle/kernel.rs"]
mod kernel;
#[path = "../../../testkit/src/fs_oracle/op.rs"]
mod op;
mod regressions;
mod replica;
mod rng;
mod run;
#[path = "../../../testkit/src/fs_oracle/sandbox.rs"]
mod sandbox;
#[path = "../../../testkit/src/fs_oracle/shrink.rs"]
mod shrink;
mod stress;
#[path = "../../../testkit/src/fs_oracle/walk.rs"]
mod walk;
#[path = "../../../testkit/src/fs_oracle/world.rs"]
mod world;

#[test]
fn random_sequences_give_what_the_kernel_gives() {
    let test = "random_sequences_give_what_the_kernel_gives";
    run::check_many(test, 10_000, generate::empty);
}

#[test]
fn random_sequences_over_a_lower_directory_give_what_a_plain_copy_gives() {
    let test = "random_sequences_over_a_lower_directory_give_what_a_plain_copy_gives";
    run::check_many(test, 1_500, generate::overlay);
}
