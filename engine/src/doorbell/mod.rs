//! What the engine rings to wake the reader of a queue.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod pipes;

use std::os::fd::OwnedFd;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{Doorbell, now_ms, refill_ends};
#[cfg(not(target_os = "linux"))]
pub(crate) use self::pipes::{Doorbell, now_ms, refill_ends};

/// The two ends of a doorbell: ours, and the one for the program.
pub(crate) type Ends = (Doorbell, OwnedFd);
