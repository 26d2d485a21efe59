//! Branches as mounts, and how programs on them hear of changes from elsewhere.

pub(crate) mod echo;
#[cfg(target_os = "linux")]
pub mod listeners;
pub(crate) mod mounting;
pub(crate) mod table;
