//! Changes from elsewhere for programs that no library is preloaded into.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod platform;

pub(crate) use self::platform::Echoing;
