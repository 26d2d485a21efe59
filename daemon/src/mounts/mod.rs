//! Branches as mounts, and the echo of changes from elsewhere on them.

pub(crate) mod echo;
#[cfg(target_os = "linux")]
pub mod listeners;
pub(crate) mod mounting;
pub(crate) mod table;
