//! The kind of filesystem that a directory is on.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod platform;

pub use self::platform::{Filesystem, of};
