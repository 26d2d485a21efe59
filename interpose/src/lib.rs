//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> **Hook**
//!
//! The library that is preloaded into unmodified programs, so that they get the changes in AgentFS
//! through the calls they already make.
//!
//! ```text
//! LD_PRELOAD=/path/to/libagentfs_interpose_shim.so inotifywait -m -r project
//! ```
//!
//! A program's own calls come here first (`hooks`), and jump to the originals (`real`) at once unless
//! the table (`fd_table`) has the descriptor: an inotify instance with a watch on AgentFS. `inotify` holds
//! what such an instance needs, [`kqueue`] the same for kqueues, and `connection` the session with the
//! daemon. ARCHITECTURE.md follows a call through the files.
//!
//! The library deliberately starts no thread, prints nothing, writes to no filesystem, and touches no call
//! but those that wait for events and those that make, copy and close descriptors. It does not open, read
//! or change files for the program; that is what the mount is for. Without a daemon every call does what
//! it does without the library.
//!
//! On Linux the kqueue side is a feature, `kqueue-on-linux`: only tests have a kqueue there.

// Everything is in use only where both sides are compiled in.
#![cfg_attr(
    not(all(target_os = "linux", feature = "kqueue-on-linux")),
    expect(
        dead_code,
        reason = "some of it serves only the side that is not in this library"
    )
)]

#[cfg(any(target_os = "linux", target_os = "macos"))]
mod config;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod connection;
mod fd_table;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod fork;
mod guard;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod hidden_fd;
#[cfg(target_os = "linux")]
mod hooks;
#[cfg(target_os = "linux")]
mod inotify;
#[cfg(any(not(target_os = "linux"), feature = "kqueue-on-linux"))]
pub mod kqueue;
mod lock;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod mounts;
#[cfg(all(target_os = "linux", not(feature = "kqueue-on-linux")))]
mod no_kqueue;
mod platform;
mod process;
#[cfg(target_os = "linux")]
mod real;

#[cfg(all(target_os = "linux", not(feature = "kqueue-on-linux")))]
use no_kqueue as kqueue;
