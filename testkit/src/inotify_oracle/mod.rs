//! The kernel as oracle of a watcher: operations on files, and what inotify instances give for them.
//!
//! A sequence is a list of [`op::Op`]s. [`generate`] makes one, [`kernel`] carries it out in a
//! directory and reads real instances. [`dcache`] knows the states in which the kernel's cache of
//! names shows through.

pub mod dcache;
pub mod generate;
pub mod kernel;
pub mod op;
