//! The kernel-oracle property of FsCore, through a mount: random sequences of system calls on a
//! mounted branch and on a private tmpfs. Every answer and the whole tree at the end must be the
//! same.
//!
//! Generator and executor are those of FsCore's own test. `AGENTFS_ORACLE_SEQUENCES` sets how many
//! sequences run, `AGENTFS_ORACLE_SEED` runs the one that a failure names.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each function answers some operations"
)]

mod run;

#[test]
fn random_sequences_on_a_mount_give_what_tmpfs_gives() {
    run::check_many(1_000);
}

#[test]
fn eight_processes_on_a_mount_each_get_what_tmpfs_gives() {
    run::check_in_processes(
        "eight_processes_on_a_mount_each_get_what_tmpfs_gives",
        1_600,
        8,
    );
}
