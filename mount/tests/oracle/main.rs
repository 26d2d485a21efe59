//! The kernel-oracle property of FsCore, through a mount: random sequences of system calls on a
//! mounted branch and on a private tmpfs. Every answer and the whole tree at the end must be the
//! same.
//!
//! It is checked in both modes: in memory, and in a store on disk, which is opened again at the end and
//! must show the same tree.
//!
//! Generator and executor are those of FsCore's own test. `AGENTFS_ORACLE_SEQUENCES` sets how many
//! sequences run, `AGENTFS_ORACLE_SEED` runs the one that a failure names.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each function answers some operations"
)]

mod contents;
mod run;

use crate::run::Mode;

#[test]
fn random_sequences_on_a_mount_give_what_tmpfs_gives() {
    run::check_many(Mode::Memory, 700);
}

#[test]
fn random_sequences_on_a_mount_of_a_store_give_what_tmpfs_gives() {
    run::check_many(Mode::Store, 300);
}

#[test]
fn eight_processes_on_a_mount_each_get_what_tmpfs_gives() {
    let test = "eight_processes_on_a_mount_each_get_what_tmpfs_gives";
    run::check_in_processes(test, Mode::Memory, 1_100, 8);
}

#[test]
fn eight_processes_on_a_mount_of_a_store_each_get_what_tmpfs_gives() {
    let test = "eight_processes_on_a_mount_of_a_store_each_get_what_tmpfs_gives";
    run::check_in_processes(test, Mode::Store, 500, 8);
}
