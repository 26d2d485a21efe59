//! The kernel as oracle of a watcher: operations on files, and the events that inotify instances
//! deliver for them.
//!
//! A sequence is a list of [`op::Op`]s. [`generate`] makes one, [`kernel`] carries it out in a
//! directory and reads real instances. [`dcache`] knows the states in which the kernel's cache of
//! names shows through.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "operations are handed on from function to function, each of which carries out some"
)]

pub mod dcache;
pub mod generate;
pub mod kernel;
pub mod op;
