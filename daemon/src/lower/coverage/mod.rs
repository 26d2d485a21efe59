//! Which directories of the host are watched. Each system has the watches that its kernel has.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod platform;

pub(super) use self::platform::Coverage;
