//! The words of the filesystem: numbers, errors, flags, attributes, events, and the configuration.

pub(crate) mod attr;
pub(crate) mod caller;
pub(crate) mod config;
pub(crate) mod errno;
pub mod event;
pub(crate) mod flags;
pub(crate) mod globs;
pub mod id;
pub(crate) mod names;
pub(crate) mod stamp;
pub(crate) mod store_error;
pub(crate) mod trie;
